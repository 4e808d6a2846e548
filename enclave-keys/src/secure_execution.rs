//! The Attester of a Secure Execution guest. It differs from the others: Evidence is the answer to an attestation request,
//! made with a key inside it, so it convinces only the one who made the request. There is no Evidence without a request,
//! and a guest learns nothing about itself from an answer.

use std::path::PathBuf;

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::se_exchange::{ExchangeRequest, ExchangeResponse};

use crate::attester::AttesterError;
use crate::devices::uv::{Ultravisor, layout};

/// Bit of the attest call in what device and Ultravisor support.
const ATTEST: u64 = 1 << (layout::ATTEST & 0xff);

/// Answers attestation requests.
pub struct SecureExecution {
    ultravisor: Ultravisor,
}

impl SecureExecution {
    /// An Attester over this Ultravisor, which is asked whether it attests.
    pub fn new(ultravisor: Ultravisor) -> Result<Self, AttesterError> {
        let supported = ultravisor.info()?;
        for (who, calls) in [("kernel's device", supported.device), ("Ultravisor", supported.ultravisor)] {
            if calls & ATTEST == 0 {
                let path = PathBuf::from(ultravisor.path());
                return Err(AttesterError::NotSupported { path, who, call: "attest" });
            }
        }
        Ok(Self { ultravisor })
    }

    /// Evidence over these 64 bytes as user data for whoever made `request`: an answer in the exchange format.
    pub fn answer(
        &self,
        request: &ExchangeRequest<'_>,
        data: &ReportData,
    ) -> Result<Evidence, AttesterError> {
        let length = |stated: u32| usize::try_from(stated).unwrap_or(usize::MAX);
        let attested = self.ultravisor.attest(
            request.request(),
            &data.0,
            length(request.measurement_length()),
            length(request.additional_data_length()),
        )?;
        let response = ExchangeResponse::new(
            request.request(),
            &attested.measurement,
            &attested.additional_data,
            &data.0,
            &attested.config_uid,
        )?;
        Ok(Evidence {
            platform: Platform::SecureExecution,
            report: response.encode(),
            endorsements: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::devices::tests::{Scripted, answer};

    const DATA: ReportData = ReportData([7; 64]);

    fn put(call: &mut crate::devices::Call, block: usize, offset: usize, value: &[u8]) {
        call.block_mut(block)[offset..offset + value.len()].copy_from_slice(value);
    }

    /// An Ultravisor that supports `device` and `ultravisor` and answers with ones, twos and threes.
    fn attester(device: u64, ultravisor: u64) -> Result<SecureExecution, AttesterError> {
        let scripted = Scripted::new([answer(move |call| {
            put(call, 0, layout::CONTROL_CODE, &1_u16.to_ne_bytes());
            let argument = call.target(0, layout::CONTROL_ARGUMENT).expect("an address");
            if call.number() == layout::INFO {
                put(call, argument, 0, &device.to_ne_bytes());
                put(call, argument, 8, &ultravisor.to_ne_bytes());
                return Ok(());
            }
            assert_eq!(call.block(argument)[0x18..0x58], DATA.0, "user data");
            put(call, argument, layout::ATTEST_CONFIG_UID, &[3; 16]);
            for (offset, value) in [(layout::ATTEST_MEASUREMENT, 1), (layout::ATTEST_ADDITIONAL, 2)] {
                if let Some(block) = call.target(argument, offset) {
                    call.block_mut(block).fill(value);
                }
            }
            Ok(())
        })]);
        SecureExecution::new(Ultravisor::new(Path::new("/dev/uv"), Box::new(scripted)))
    }

    /// A request in the exchange format that announces an answer of these lengths.
    fn request(measurement: u32, additional: u32) -> Vec<u8> {
        let numbers = [0x100, 0x47, 0, 0, 7, 0x40, measurement, 0, additional, 0, 0, 0, 0, 0];
        [b"pvattest".to_vec(), numbers.map(u32::to_be_bytes).concat(), b"request".to_vec()].concat()
    }

    #[test]
    fn evidence_is_the_answer_to_a_request_over_the_report_data() {
        for additional in [0, 32] {
            let bytes = request(64, additional);
            let request = ExchangeRequest::parse(&bytes).expect("a request");
            let evidence = attester(2, 2).expect("attests").answer(&request, &DATA).expect("Evidence");
            assert_eq!((evidence.platform, evidence.endorsements), (Platform::SecureExecution, vec![]));
            let response = ExchangeResponse::parse(&evidence.report).expect("a response");
            assert_eq!((response.request(), response.user_data()), (&b"request"[..], &DATA.0[..]));
            assert_eq!((response.measurement(), response.config_uid()), (&[1; 64][..], &[3; 16]));
            assert_eq!(response.additional_data(), vec![2; additional as usize]);
        }
    }

    #[test]
    fn the_longest_answer_is_given() {
        let bytes = request(0x8000, 0x8000);
        let request = ExchangeRequest::parse(&bytes).expect("a request");
        attester(2, 2).expect("attests").answer(&request, &DATA).expect("the longest");
    }

    #[test]
    fn a_device_or_an_ultravisor_that_does_not_attest_is_refused_at_start() {
        for (device, ultravisor, who) in [(0x3d, 0x3f, "kernel's device"), (0x3f, 0x3d, "Ultravisor")] {
            let refused = attester(device, ultravisor).map(|_| ()).expect_err("refused");
            let wanted = AttesterError::NotSupported { path: "/dev/uv".into(), who, call: "attest" };
            assert_eq!(refused, wanted);
        }
    }
}
