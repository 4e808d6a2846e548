//! The SEV-SNP Attester: reports through configfs-tsm where the kernel offers them, else through `/dev/sev-guest`, and the
//! sealing root always through the device, which alone derives keys.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;

use crate::attester::{Attester, AttesterError};
use crate::configfs_tsm::ConfigfsTsm;
use crate::devices::sev_guest::{KeyRequest, SevGuest, field};
use crate::own_report;
use crate::sealing::{RootKind, RootMeasurement, SealedUnder, SealingRoot};
use crate::secret::random;

/// Offsets in a report (SEV-SNP ABI 56860, table 23).
const GUEST_SVN: usize = 0x04;
const POLICY: usize = 0x08;
const COMMITTED_TCB: usize = 0x1e0;
/// What a sealing root depends on, so that a changed image, a DEBUG launch and a changed TCB each get another one.
const SEALED_UNDER: u64 = field::POLICY | field::MEASUREMENT | field::GUEST_SVN | field::TCB_VERSION;

/// Reports and keys of a SEV-SNP guest.
pub(crate) enum SnpAttester {
    /// Reports through configfs-tsm.
    ConfigfsTsm {
        reports: ConfigfsTsm,
        /// `None` where the kernel has no device; an error where it has one that cannot be used.
        device: Result<Option<SevGuest>, AttesterError>,
    },
    /// Reports through the device.
    Device(SevGuest),
}

impl Attester for SnpAttester {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    /// Key derived from the VCEK for the launch measurement, policy, guest SVN and COMMITTED_TCB of an own report: the
    /// newest TCB version that the firmware takes.
    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        let device = match self {
            Self::ConfigfsTsm { device: Err(error), .. } => return Err(error.clone()),
            Self::ConfigfsTsm { device: Ok(None), .. } => return Ok(None),
            Self::ConfigfsTsm { device: Ok(Some(device)), .. } | Self::Device(device) => device,
        };
        let challenge = ReportData(*random().map_err(|error| AttesterError::Device(error.to_string()))?);
        let evidence = self.evidence(&challenge)?;
        let own = own_report::read(Platform::SevSnp, &evidence, &challenge)?;
        // Its length has been checked.
        let report = &evidence.report;
        let tcb_version = own_report::field(report, COMMITTED_TCB);
        let key = device.derived_key(&KeyRequest {
            fields: SEALED_UNDER,
            vmpl: own.vmpl.expect("a SEV-SNP report has a VMPL"),
            guest_svn: u32::from_le_bytes(own_report::field(report, GUEST_SVN)),
            tcb_version,
        })?;
        let under = SealedUnder {
            guest_policy: Some(u64::from_le_bytes(own_report::field(report, POLICY))),
            kind: RootKind::VcekDerivedKey,
            measurement: RootMeasurement::from_bytes(&own.measurement.0).expect("48 bytes"),
            platform: Platform::SevSnp,
            tcb: Some(tcb_version),
        };
        Ok(Some(SealingRoot::new(key.0, under)))
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        match self {
            Self::ConfigfsTsm { reports, .. } => reports.evidence(data),
            Self::Device(device) => device.evidence(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::attester::WipedBy;
    use crate::configfs_tsm::Provider;
    use crate::devices::Call;
    use crate::devices::sev_guest::layout;
    use crate::devices::tests::{Scripted, answer};
    use crate::own_report::OwnReportError;

    const PATH: &str = "/dev/sev-guest";

    fn put(call: &mut Call, block: usize, offset: usize, value: &[u8]) {
        call.block_mut(block)[offset..offset + value.len()].copy_from_slice(value);
    }

    /// A report of a guest with SVN 5, policy 0x3_0000 and VMPL 1; `alter` changes it.
    fn report(call: &mut Call, alter: impl Fn(&mut [u8])) {
        let request = call.target(0, layout::REQUEST_DATA).expect("an address");
        let response = call.target(0, layout::REQUEST_RESPONSE).expect("an address");
        let data = call.block(request)[..64].to_vec();
        put(call, response, 4, &1184_u32.to_le_bytes());
        let mut report = vec![0; 1184];
        report[0] = 3;
        report[0x04] = 5;
        report[0x0a] = 3;
        report[0x30] = 1;
        report[0x50..0x90].copy_from_slice(&data);
        report[0x90..0xc0].fill(0x77);
        report[0x180..0x188].fill(1);
        report[0x1e0..0x1e8].copy_from_slice(&[4, 0, 0, 0, 0, 0, 0x18, 0xdb]);
        alter(&mut report);
        put(call, response, 0x20, &report);
    }

    fn attester(
        alter: impl Fn(&mut [u8]) + Send + 'static,
        key: impl Fn(&mut Call) -> Result<(), i32> + Send + 'static,
    ) -> SnpAttester {
        let scripted = Scripted::new([answer(move |call| {
            if call.number() == layout::GET_DERIVED_KEY {
                return key(call);
            }
            report(call, &alter);
            Ok(())
        })]);
        SnpAttester::Device(SevGuest::new(Path::new(PATH), Box::new(scripted), 1))
    }

    #[test]
    fn the_sealing_root_is_derived_for_what_the_own_report_says() {
        let attester = attester(
            |_| (),
            |call| {
                let request = call.target(0, layout::REQUEST_DATA).expect("an address");
                let wanted = [
                    &[0; 8][..],
                    &0b11_1001_u64.to_ne_bytes(),
                    &1_u32.to_ne_bytes(),
                    &5_u32.to_ne_bytes(),
                    &[4, 0, 0, 0, 0, 0, 0x18, 0xdb],
                ];
                assert_eq!(call.block(request), wanted.concat());
                let response = call.target(0, layout::REQUEST_RESPONSE).expect("an address");
                put(call, response, 0x20, &[0xaa; 32]);
                Ok(())
            },
        );
        let root = attester.sealing_root().expect("asked").expect("a root");
        let under = SealedUnder {
            guest_policy: Some(0x3_0000),
            kind: RootKind::VcekDerivedKey,
            measurement: RootMeasurement::from_bytes(&[0x77; 48]).expect("48 bytes"),
            platform: Platform::SevSnp,
            tcb: Some([4, 0, 0, 0, 0, 0, 0x18, 0xdb]),
        };
        assert_eq!((root.under(), root.key()), (&under, &[0xaa; 32]));
    }

    #[test]
    fn a_report_over_other_data_gives_no_root() {
        let attester = attester(|report| report[0x50] ^= 1, |_| panic!("no key is derived"));
        let refused = attester.sealing_root().map(|_| ()).expect_err("refused");
        let wanted = matches!(refused, AttesterError::OwnReport(OwnReportError::ReportData { .. }));
        assert!(wanted, "{refused}");
    }

    #[test]
    fn a_failed_derivation_gives_no_root() {
        let attester = attester(|_| (), |_| Err(libc::EBADMSG));
        let refused = attester.sealing_root().map(|_| ()).expect_err("refused");
        let by = WipedBy::DamagedResponse;
        assert_eq!(refused, AttesterError::KeyWiped { path: PATH.into(), by });
    }

    #[test]
    fn without_a_device_there_is_no_root_and_with_a_broken_one_an_error() {
        let with = |device| SnpAttester::ConfigfsTsm {
            reports: ConfigfsTsm::new(Path::new("/nonexistent"), Provider::SevGuest),
            device,
        };
        let without = with(Ok(None));
        assert!(without.sealing_root().expect("asked").is_none());
        let broken = AttesterError::NoProvider { path: PATH.into() };
        assert_eq!(with(Err(broken.clone())).sealing_root().map(|_| ()), Err(broken));
    }
}
