//! Finds the TEE this guest runs in. The paths are the kernel's and nothing configures them.

use std::fs;
use std::path::PathBuf;

use crate::attester::{Attester, AttesterError};
use crate::configfs_tsm::{ConfigfsTsm, Provider, ReportEntry};
use crate::devices::sev_guest::SevGuest;
use crate::devices::uv::Ultravisor;
use crate::secure_execution::SecureExecution;
use crate::snp::SnpAttester;

/// Where the kernel shows its TEEs. Other values occur in tests of this module only.
struct Paths {
    /// configfs-tsm (v6.7).
    tsm: PathBuf,
    /// SEV-SNP guest device (v5.19).
    sev_guest: PathBuf,
    /// Privilege level of a SEV-SNP guest (v6.11).
    vmpl: PathBuf,
    /// TDX guest device (v6.2).
    tdx_guest: PathBuf,
    /// `1` in a Secure Execution guest.
    prot_virt_guest: PathBuf,
    /// Ultravisor device (v5.17; the calls for secrets are newer).
    uv: PathBuf,
    /// Secret that the maker of a Secure Execution image may put there. The file system that holds it is of the
    /// encrypted image.
    image_secret: PathBuf,
}

impl Paths {
    fn of_the_kernel() -> Self {
        Self {
            tsm: PathBuf::from("/sys/kernel/config/tsm"),
            sev_guest: PathBuf::from("/dev/sev-guest"),
            vmpl: PathBuf::from("/sys/devices/system/cpu/sev/vmpl"),
            tdx_guest: PathBuf::from("/dev/tdx_guest"),
            prot_virt_guest: PathBuf::from("/sys/firmware/uv/prot_virt_guest"),
            uv: PathBuf::from("/dev/uv"),
            image_secret: PathBuf::from("/etc/sealwright/image-secret"),
        }
    }
}

/// What only the key process may open: devices that attest, the place where configfs-tsm makes reports, and the secret of
/// a Secure Execution image.
#[must_use]
pub fn device_paths() -> Vec<PathBuf> {
    let Paths { tsm, sev_guest, tdx_guest, uv, image_secret, .. } = Paths::of_the_kernel();
    vec![tsm.join("report"), sev_guest, tdx_guest, uv, image_secret]
}

/// Why there is no Attester. `build-server` refuses to start with this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTee {
    /// Nothing that looks like a TEE.
    #[error(
        "no TEE found (looked for: {looked_for})\nthis program signs only inside a confidential guest; to try it \
         without one, use the development server: make serve"
    )]
    NotFound {
        /// The paths, separated by comma and space.
        looked_for: String,
    },
    /// More than one platform shows itself, which no real machine does.
    #[error("found {}; a guest runs on one platform, so at least one of these is not real", found.join(" and "))]
    Ambiguous {
        /// What was found, with the path it was found at.
        found: Vec<String>,
    },
    /// Secure Execution, but no Ultravisor device that attests.
    #[error(
        "found {found}, but {} does not attest: {why}\nwanted: Linux 5.17 or newer with CONFIG_S390_UV_UAPI, and a \
         machine with the attestation feature (IBM z16)",
        path.display()
    )]
    NoUltravisor {
        /// What was found, with the path it was found at.
        found: String,
        /// The device.
        path: PathBuf,
        /// Why it does not attest.
        why: AttesterError,
    },
    /// SEV-SNP or TDX, but no interface that gives reports.
    #[error(
        "found {found}, but {} gives no reports: {why}\nwanted: Linux 6.7 or newer with CONFIG_TSM_REPORTS, and \
         configfs mounted (mount -t configfs configfs /sys/kernel/config); on SEV-SNP /dev/sev-guest serves too",
        path.display()
    )]
    NoReports {
        /// What was found, with the path it was found at.
        found: String,
        /// Where reports were expected.
        path: PathBuf,
        /// Why there are none.
        why: String,
    },
}

/// The Attester of the TEE that this guest runs in.
pub fn detect() -> Result<Box<dyn Attester>, NoTee> {
    detect_at(&Paths::of_the_kernel())
}

fn detect_at(paths: &Paths) -> Result<Box<dyn Attester>, NoTee> {
    let reports = paths.tsm.join("report");
    let provider = provider(&reports);
    let provider_is = |wanted: Provider| provider.as_ref().is_ok_and(|found| found == wanted.name());

    let signs = [
        (
            "SEV-SNP",
            [
                provider_is(Provider::SevGuest).then_some(&reports),
                paths.sev_guest.exists().then_some(&paths.sev_guest),
            ],
        ),
        (
            "Intel TDX",
            [
                provider_is(Provider::TdxGuest).then_some(&reports),
                paths.tdx_guest.exists().then_some(&paths.tdx_guest),
            ],
        ),
        ("IBM Secure Execution", [is_one(&paths.prot_virt_guest).then_some(&paths.prot_virt_guest), None]),
    ];
    let mut found: Vec<_> = signs
        .iter()
        .filter_map(|(platform, at)| {
            let at = at.iter().flatten().next()?;
            Some((*platform, format!("{platform} ({})", at.display())))
        })
        .collect();
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(NoTee::NotFound {
            looked_for: [&paths.tsm, &paths.sev_guest, &paths.tdx_guest, &paths.prot_virt_guest]
                .map(|path| path.display().to_string())
                .join(", "),
        }),
        (Some(("SEV-SNP", sign)), true) => match snp(paths, &reports, provider) {
            Ok(attester) => Ok(Box::new(attester)),
            Err(why) => Err(NoTee::NoReports { found: sign, path: reports, why }),
        },
        (Some(("Intel TDX", sign)), true) => match give_reports(Provider::TdxGuest, provider) {
            Ok(()) => Ok(Box::new(ConfigfsTsm::new(&reports, Provider::TdxGuest))),
            Err(why) => Err(NoTee::NoReports { found: sign, path: reports, why }),
        },
        (Some((_, sign)), true) => {
            let attester = Ultravisor::open(&paths.uv)
                .and_then(|device| SecureExecution::new(device, paths.image_secret.clone()));
            match attester {
                Ok(attester) => Ok(Box::new(attester)),
                Err(why) => Err(NoTee::NoUltravisor { found: sign, path: paths.uv.clone(), why }),
            }
        }
        (Some(last), false) => {
            Err(NoTee::Ambiguous { found: found.into_iter().chain([last]).map(|(_, sign)| sign).collect() })
        }
    }
}

/// Whether configfs-tsm gives reports of the provider that is wanted; if not, why.
fn give_reports(wanted: Provider, found: Result<String, AttesterError>) -> Result<(), String> {
    match found {
        Ok(name) if name == wanted.name() => Ok(()),
        Ok(name) => Err(format!("its provider is `{name}`")),
        Err(error) => Err(error.to_string()),
    }
}

/// configfs-tsm where it gives reports, else the device. On failure, why neither.
fn snp(
    paths: &Paths,
    reports: &std::path::Path,
    provider: Result<String, AttesterError>,
) -> Result<SnpAttester, String> {
    let device = || own_vmpl(&paths.vmpl).and_then(|vmpl| SevGuest::open(&paths.sev_guest, vmpl));
    let why_not = match give_reports(Provider::SevGuest, provider) {
        Ok(()) => {
            let device = if paths.sev_guest.exists() { device().map(Some) } else { Ok(None) };
            let reports = ConfigfsTsm::new(reports, Provider::SevGuest);
            return Ok(SnpAttester::ConfigfsTsm { reports, device });
        }
        Err(why_not) => why_not,
    };
    let device = device().map_err(|error| format!("{why_not}; and {error}"))?;
    tracing::info!(%why_not, "no reports through configfs-tsm; the device is asked");
    Ok(SnpAttester::Device(device))
}

/// The privilege level that the kernel runs at. A report for a more privileged one is an error of the firmware, which
/// costs the device's key, so it is not guessed. Kernels that know no level but 0 have no such file.
fn own_vmpl(path: &std::path::Path) -> Result<u32, AttesterError> {
    match fs::read_to_string(path) {
        Ok(text) => match text.trim_ascii().parse() {
            Ok(vmpl @ 0..=3) => Ok(vmpl),
            _ => {
                let got = text.chars().take(64).collect();
                Err(AttesterError::Content { path: path.to_owned(), got, wanted: "a number from 0 to 3" })
            }
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(AttesterError::Io {
            operation: "read",
            path: path.to_owned(),
            kind: error.kind(),
            detail: error.to_string(),
        }),
    }
}

fn provider(reports: &std::path::Path) -> Result<String, AttesterError> {
    ReportEntry::create(reports)?.provider()
}

fn is_one(path: &std::path::Path) -> bool {
    fs::read(path).is_ok_and(|content| content.trim_ascii() == b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(root: &std::path::Path) -> Paths {
        Paths {
            tsm: root.join("tsm"),
            sev_guest: root.join("sev-guest"),
            vmpl: root.join("vmpl"),
            tdx_guest: root.join("tdx_guest"),
            prot_virt_guest: root.join("prot_virt_guest"),
            uv: root.join("uv"),
            image_secret: root.join("image-secret"),
        }
    }

    fn refusal(files: &[(&str, &str)]) -> (NoTee, tempfile::TempDir) {
        let root = tempfile::tempdir().expect("a directory");
        for (name, content) in files {
            fs::write(root.path().join(name), content).expect("written");
        }
        (detect_at(&paths(root.path())).map(|_| ()).expect_err("no TEE can be complete here"), root)
    }

    #[test]
    fn without_any_sign_all_paths_are_named() {
        let (refused, root) = refusal(&[]);
        let root = root.path().display();
        let looked_for = format!("{root}/tsm, {root}/sev-guest, {root}/tdx_guest, {root}/prot_virt_guest");
        assert_eq!(refused, NoTee::NotFound { looked_for });
    }

    #[test]
    fn the_shipped_paths_are_the_kernels() {
        let paths = Paths::of_the_kernel();
        let all = [
            &paths.tsm,
            &paths.sev_guest,
            &paths.vmpl,
            &paths.tdx_guest,
            &paths.prot_virt_guest,
            &paths.uv,
            &paths.image_secret,
        ];
        let wanted = [
            "/sys/kernel/config/tsm",
            "/dev/sev-guest",
            "/sys/devices/system/cpu/sev/vmpl",
            "/dev/tdx_guest",
            "/sys/firmware/uv/prot_virt_guest",
            "/dev/uv",
            "/etc/sealwright/image-secret",
        ];
        assert_eq!(all.map(|path| path.to_str().expect("text")), wanted);
    }

    #[test]
    fn what_only_the_key_process_opens_is_named() {
        let wanted = [
            "/sys/kernel/config/tsm/report",
            "/dev/sev-guest",
            "/dev/tdx_guest",
            "/dev/uv",
            "/etc/sealwright/image-secret",
        ];
        assert_eq!(device_paths(), wanted.map(PathBuf::from));
    }

    #[test]
    fn reports_of_another_provider_are_not_taken() {
        let give = |name: &str| give_reports(Provider::SevGuest, Ok(name.to_owned()));
        assert_eq!(give("sev_guest"), Ok(()));
        assert_eq!(give("tdx_guest"), Err("its provider is `tdx_guest`".to_owned()));
    }

    #[test]
    fn a_privilege_level_that_cannot_be_read_is_not_guessed() {
        let root = tempfile::tempdir().expect("a directory");
        assert_eq!(own_vmpl(&root.path().join("missing")), Ok(0));
        let error = own_vmpl(root.path()).expect_err("a directory");
        assert!(matches!(error, AttesterError::Io { operation: "read", .. }), "{error}");
    }

    #[test]
    fn without_configfs_the_sev_guest_device_serves() {
        for vmpl in [None, Some("0\n"), Some("3\n")] {
            let root = tempfile::tempdir().expect("a directory");
            fs::write(root.path().join("sev-guest"), "").expect("written");
            if let Some(vmpl) = vmpl {
                fs::write(root.path().join("vmpl"), vmpl).expect("written");
            }
            let attester = detect_at(&paths(root.path())).expect("found");
            assert_eq!(attester.platform(), provenance::evidence::Platform::SevSnp);
        }
    }

    #[test]
    fn a_privilege_level_that_is_none_is_refused() {
        for level in ["", "4", "-1", "0x1", "one"] {
            let (refused, root) = refusal(&[("sev-guest", ""), ("vmpl", level)]);
            let NoTee::NoReports { why, .. } = &refused else { panic!("{refused}") };
            let path = root.path().join("vmpl");
            let wanted = format!("{} holds `{level}`, wanted a number from 0 to 3", path.display());
            assert!(why.ends_with(&wanted), "{refused}");
        }
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_not_enough() {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("sev-guest")).expect("made");
        let refused = detect_at(&paths(root.path())).map(|_| ()).expect_err("refused");
        let NoTee::NoReports { why, .. } = &refused else { panic!("{refused}") };
        assert!(why.contains("could not create") && why.contains("could not open"), "{refused}");
    }

    #[test]
    fn a_td_without_a_report_interface_is_not_enough() {
        let (refused, _root) = refusal(&[("tdx_guest", "")]);
        let NoTee::NoReports { why, .. } = &refused else { panic!("{refused}") };
        assert!(why.contains("could not create"), "{refused}");
    }

    #[test]
    fn secure_execution_without_its_device_is_not_enough() {
        let (refused, root) = refusal(&[("prot_virt_guest", "1\n")]);
        let sign = format!("IBM Secure Execution ({})", root.path().join("prot_virt_guest").display());
        let NoTee::NoUltravisor { found, path, why } = &refused else { panic!("{refused}") };
        assert_eq!((found, path), (&sign, &root.path().join("uv")));
        assert!(matches!(why, AttesterError::Io { operation: "open", .. }), "{why}");
        let (refused, _root) = refusal(&[("prot_virt_guest", "0\n")]);
        assert!(
            matches!(refused, NoTee::NotFound { .. }),
            "0 marks a guest without Secure Execution: {refused}"
        );
    }

    #[test]
    fn two_platforms_at_once_are_refused() {
        let (refused, root) = refusal(&[("sev-guest", ""), ("tdx_guest", "")]);
        let root = root.path().display();
        let found = vec![format!("SEV-SNP ({root}/sev-guest)"), format!("Intel TDX ({root}/tdx_guest)")];
        assert_eq!(refused, NoTee::Ambiguous { found });
    }
}
