//! Reports through configfs-tsm (Linux Documentation/ABI/testing/configfs-tsm, v6.7): a directory is made per
//! request, the report data is written to `inblob`, the report or quote is read from `outblob`. On SEV-SNP the
//! endorsements that the host sent along are read from `auxblob`; on TDX there is none, and a quote comes without.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;

use crate::attester::{Attester, AttesterError, WipedBy};
use crate::devices::{BUSY_ATTEMPTS, attempts};
use crate::own_report::{SNP_REPORT_LEN, TDX_MAX_QUOTE};
use crate::secret::random;

/// Provider name of the SEV-SNP guest driver.
const SEV_GUEST: &str = "sev_guest";
/// Provider name of the TDX guest driver.
const TDX_GUEST: &str = "tdx_guest";
/// Largest `auxblob` read: the GHCB certificate table is at most 16 KiB in the sev-guest driver; four times that.
const MAX_AUXBLOB: usize = 64 << 10;
/// Longest text attribute read.
const MAX_TEXT: usize = 64;
/// Attempts when another writer interferes.
const RACE_ATTEMPTS: u32 = 3;

/// One report entry; removed when dropped.
pub(crate) struct ReportEntry {
    path: PathBuf,
}

impl Drop for ReportEntry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "report entry stays behind");
        }
    }
}

fn failed(operation: &'static str, path: &Path, error: &io::Error) -> AttesterError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENXIO) => AttesterError::NoProvider { path },
        // The sev-guest driver has wiped its key to the firmware.
        Some(libc::ENOTTY) => AttesterError::KeyWiped { path, by: WipedBy::Before },
        _ => AttesterError::Io { operation, path, kind: error.kind(), detail: error.to_string() },
    }
}

/// Repeats what the kernel answers with EBUSY or EWOULDBLOCK (another request is under way).
fn while_busy<T>(
    operation: &'static str,
    path: &Path,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Result<T, AttesterError> {
    for () in attempts() {
        match attempt() {
            Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock) => {
            }
            Err(error) => return Err(failed(operation, path, &error)),
            Ok(value) => return Ok(value),
        }
    }
    Err(AttesterError::Busy { path: path.to_owned(), attempts: BUSY_ATTEMPTS })
}

impl ReportEntry {
    /// Makes an entry of its own below `root`, so that no other requester's writes mix with ours.
    pub(crate) fn create(root: &Path) -> Result<Self, AttesterError> {
        let name = random::<16>().map_err(|error| AttesterError::Device(error.to_string()))?;
        let path = root.join(format!("sealwright-{}", hex::encode(*name)));
        while_busy("create", &path, || fs::create_dir(&path))?;
        Ok(Self { path })
    }

    /// Name of the driver behind the interface.
    pub(crate) fn provider(&self) -> Result<String, AttesterError> {
        self.read_text("provider")
    }

    fn read(&self, attribute: &str, limit: usize) -> Result<Vec<u8>, AttesterError> {
        let path = self.path.join(attribute);
        let bytes = while_busy("read", &path, || {
            let mut bytes = Vec::new();
            fs::File::open(&path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        })?;
        if bytes.len() > limit { Err(AttesterError::TooLong { path, limit }) } else { Ok(bytes) }
    }

    fn read_text(&self, attribute: &str) -> Result<String, AttesterError> {
        let bytes = self.read(attribute, MAX_TEXT)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    }

    fn generation(&self) -> Result<u64, AttesterError> {
        let got = self.read_text("generation")?;
        got.parse().map_err(|_| AttesterError::Content {
            path: self.path.join("generation"),
            got,
            wanted: "a decimal number",
        })
    }

    fn write_inblob(&self, data: &ReportData) -> Result<(), AttesterError> {
        let path = self.path.join("inblob");
        while_busy("write", &path, || {
            // One write: configfs commits a binary attribute when the file is closed.
            fs::OpenOptions::new().write(true).open(&path)?.write_all(&data.0)
        })
    }
}

/// A provider behind configfs-tsm, one per platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// The SEV-SNP guest driver.
    SevGuest,
    /// The TDX guest driver.
    TdxGuest,
}

impl Provider {
    /// What its `provider` attribute says.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SevGuest => SEV_GUEST,
            Self::TdxGuest => TDX_GUEST,
        }
    }

    const fn platform(self) -> Platform {
        match self {
            Self::SevGuest => Platform::SevSnp,
            Self::TdxGuest => Platform::Tdx,
        }
    }

    /// Most bytes of `outblob`.
    const fn longest_report(self) -> usize {
        match self {
            Self::SevGuest => SNP_REPORT_LEN,
            Self::TdxGuest => TDX_MAX_QUOTE,
        }
    }

    /// What came along with the report just read.
    fn endorsements(self, entry: &ReportEntry) -> Result<Vec<u8>, AttesterError> {
        match self {
            Self::SevGuest => entry.read("auxblob", MAX_AUXBLOB),
            // The entry has no such attribute; the quote carries its PCK chain itself.
            Self::TdxGuest => Ok(Vec::new()),
        }
    }
}

/// Reports or quotes through configfs-tsm.
pub(crate) struct ConfigfsTsm {
    root: PathBuf,
    provider: Provider,
}

impl ConfigfsTsm {
    /// Reports of `provider` below this directory, which must be the kernel's.
    pub(crate) fn new(root: &Path, provider: Provider) -> Self {
        Self { root: root.to_owned(), provider }
    }
}

impl Attester for ConfigfsTsm {
    fn platform(&self) -> Platform {
        self.provider.platform()
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::BootEphemeral
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        let mut last = (0, 0);
        for _ in 0..RACE_ATTEMPTS {
            let entry = ReportEntry::create(&self.root)?;
            let before = entry.generation()?;
            entry.write_inblob(data)?;
            let report = entry.read("outblob", self.provider.longest_report())?;
            let endorsements = self.provider.endorsements(&entry)?;
            // Each write adds one; more means that the report may be over somebody else's data.
            last = (entry.generation()?, before.wrapping_add(1));
            if last.0 == last.1 {
                return Ok(Evidence { platform: self.platform(), report, endorsements });
            }
        }
        Err(AttesterError::Raced { attempts: RACE_ATTEMPTS, got: last.0, wanted: last.1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_is_tried_a_number_of_times() {
        let path = Path::new("/report/outblob");
        let mut tried = 0;
        let busy = while_busy("read", path, || {
            tried += 1;
            Err::<(), _>(io::Error::from_raw_os_error(libc::EBUSY))
        });
        assert_eq!(busy, Err(AttesterError::Busy { path: path.to_owned(), attempts: BUSY_ATTEMPTS }));
        assert_eq!(tried, BUSY_ATTEMPTS);
    }

    #[test]
    fn what_the_kernel_says_is_told_apart() {
        let path = Path::new("/report/outblob");
        let told = |code| failed("read", path, &io::Error::from_raw_os_error(code));
        assert_eq!(told(libc::ENXIO), AttesterError::NoProvider { path: path.to_owned() });
        let wiped = AttesterError::KeyWiped { path: path.to_owned(), by: WipedBy::Before };
        assert_eq!(told(libc::ENOTTY), wiped);
        assert!(matches!(told(libc::EIO), AttesterError::Io { operation: "read", .. }));
    }
}
