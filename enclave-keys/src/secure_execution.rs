//! The Attester of a Secure Execution guest. It differs from the others: Evidence is the answer to an attestation request,
//! made with a key inside it, so it convinces only the one who made the request. There is no Evidence without a request,
//! and a guest learns nothing about itself from an answer.

mod plain_text;
mod root;

use std::path::PathBuf;

use provenance::binding::ReportData;
use provenance::challenge::AttestationRequest;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;
use provenance::se_exchange::{ExchangeRequest, ExchangeResponse};
use provenance::secure_execution::SecureExecutionEvidence;
use serde::{Deserialize, Serialize};

use crate::attester::{Attester, AttesterError, ChallengeKind};
use crate::devices::uv::{Supported, Ultravisor, layout};
use crate::interface::bytes_base64;
use crate::sealing::SealingRoot;

/// Bit of the attest call in what device and Ultravisor support.
const ATTEST: u64 = 1 << (layout::ATTEST & 0xff);
/// Bits of the calls that read a secret back.
const SECRETS: u64 = 1 << (layout::LIST_SECRETS & 0xff) | 1 << (layout::RETRIEVE_SECRET & 0xff);

/// Longest header of an image in bytes.
const MAX_HEADER: usize = 0x2000;
/// First bytes of one.
const HEADER_MAGIC: &[u8] = b"IBMSecEx";

/// The Secure Execution header of an image: `IBMSecEx` and the rest, at most 8 KiB. Nothing else about it is checked. In JSON
/// base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecureExecutionHeader(#[serde(with = "bytes_base64")] Vec<u8>);

/// Bytes that are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{got} bytes are no Secure Execution header; wanted `IBMSecEx` at the start and at most {MAX_HEADER} bytes"
)]
pub struct NoHeader {
    /// How many there are.
    pub got: usize,
}

impl SecureExecutionHeader {
    /// Takes the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoHeader> {
        if bytes.len() > MAX_HEADER || !bytes.starts_with(HEADER_MAGIC) {
            return Err(NoHeader { got: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// An answer with this header.
    pub(crate) fn beside(&self, answer: SecureExecutionEvidence) -> SecureExecutionEvidence {
        SecureExecutionEvidence { header: self.0.clone(), ..answer }
    }
}

/// Answers attestation requests.
pub struct SecureExecution {
    ultravisor: Ultravisor,
    supported: Supported,
    /// File in the encrypted image with a secret that its owner put there, if any.
    image_secret: PathBuf,
}

impl SecureExecution {
    /// An Attester over this Ultravisor, which is asked whether it attests. `image_secret`: where the image holds a
    /// secret, if it holds one.
    pub fn new(ultravisor: Ultravisor, image_secret: PathBuf) -> Result<Self, AttesterError> {
        let supported = ultravisor.info()?;
        for (who, calls) in [("kernel's device", supported.device), ("Ultravisor", supported.ultravisor)] {
            if calls & ATTEST == 0 {
                let path = PathBuf::from(ultravisor.path());
                return Err(AttesterError::NotSupported { path, who, call: "attest" });
            }
        }
        Ok(Self { ultravisor, supported, image_secret })
    }

    /// Evidence over these 64 bytes as user data for whoever made `request`: an answer in the exchange format. The
    /// header of the image is left empty, because a guest cannot read its own.
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
        let evidence = SecureExecutionEvidence { response: response.encode(), header: Vec::new() };
        Ok(Evidence {
            platform: Platform::SecureExecution,
            report: evidence.encode(),
            endorsements: Vec::new(),
        })
    }
}

impl Attester for SecureExecution {
    fn platform(&self) -> Platform {
        Platform::SecureExecution
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        let Supported { device, ultravisor } = self.supported;
        let store = (device & ultravisor & SECRETS == SECRETS).then_some(&self.ultravisor);
        root::find(store, &self.image_secret)
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        let wanted = ChallengeKind::AttestationRequest;
        Err(AttesterError::Challenge { platform: self.platform(), wanted })
    }

    fn answer_request(
        &self,
        request: &AttestationRequest,
        data: &ReportData,
    ) -> Result<Evidence, AttesterError> {
        self.answer(&request.parts(), data)
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
        let ultravisor = Ultravisor::new(Path::new("/dev/uv"), Box::new(scripted));
        SecureExecution::new(ultravisor, "/nowhere".into())
    }

    /// A request in the exchange format that announces an answer of these lengths.
    fn request(measurement: u32, additional: u32) -> Vec<u8> {
        let numbers = [0x100, 0x47, 0, 0, 7, 0x40, measurement, 0, additional, 0, 0, 0, 0, 0];
        [b"pvattest".to_vec(), numbers.map(u32::to_be_bytes).concat(), b"request".to_vec()].concat()
    }

    #[test]
    fn the_store_is_asked_only_where_device_and_ultravisor_give_secrets_back() {
        for (device, ultravisor) in [(2, 2), (2 | SECRETS, 2), (2, 2 | SECRETS), (2 | 1 << 4, 2 | SECRETS)] {
            let root = attester(device, ultravisor).expect("attests").sealing_root();
            assert!(matches!(root, Ok(None)), "{device:#x} {ultravisor:#x}");
        }
    }

    #[test]
    fn evidence_is_the_answer_to_a_request_over_the_report_data() {
        for additional in [0, 32] {
            let bytes = request(64, additional);
            let request = ExchangeRequest::parse(&bytes).expect("a request");
            let evidence = attester(2, 2).expect("attests").answer(&request, &DATA).expect("Evidence");
            assert_eq!((evidence.platform, evidence.endorsements), (Platform::SecureExecution, vec![]));
            let evidence = SecureExecutionEvidence::parse(&evidence.report).expect("framed");
            assert!(evidence.header.is_empty(), "a guest cannot read it");
            let response = ExchangeResponse::parse(&evidence.response).expect("a response");
            assert_eq!((response.request(), response.user_data()), (&b"request"[..], &DATA.0[..]));
            assert_eq!((response.measurement(), response.config_uid()), (&[1; 64][..], &[3; 16]));
            assert_eq!(response.additional_data(), vec![2; additional as usize]);
        }
    }

    #[test]
    fn a_header_has_its_first_bytes_and_a_limit() {
        let whole = [HEADER_MAGIC, &[0; MAX_HEADER]].concat();
        assert!(SecureExecutionHeader::parse(&whole[..MAX_HEADER]).is_ok());
        for refused in [&whole[..MAX_HEADER + 1], b"IBMSecE", b"IBMSecXe", b""] {
            assert_eq!(SecureExecutionHeader::parse(refused), Err(NoHeader { got: refused.len() }));
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
