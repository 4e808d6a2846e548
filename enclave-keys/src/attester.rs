//! What obtains Evidence, and why it may fail.

use std::path::PathBuf;

use provenance::binding::ReportData;
use provenance::challenge::AttestationRequest;
use provenance::evidence::certificate_table::InvalidTable;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;
use provenance::se_exchange::ExchangeError;

use crate::own_report::OwnReportError;
use crate::sealing::SealingRoot;

/// Obtains Evidence from the hardware (RATS role Attester).
///
/// Calls are serialised by [`crate::KeyService`]; an implementation need not queue.
pub trait Attester: Send + Sync + 'static {
    /// The platform whose Evidence this is.
    fn platform(&self) -> Platform;

    /// Where keys come from that are not sealed: `BootEphemeral`, or `DangerousSoftware` of a fixture. Keys that are
    /// sealed come from [`crate::RootKind::key_origin`] of their root.
    fn key_origin(&self) -> KeyOrigin;

    /// Key material that the hardware gives only to this guest: the same at each boot as long as measurement, policy
    /// and TCB are the same, another one otherwise. `None` where the platform has none (TDX 1.x). Asked for once, at
    /// start, before the first [`Self::evidence`].
    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        Ok(None)
    }

    /// Evidence over these 64 bytes. May block while the host throttles. Not asked for on Secure Execution.
    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError>;

    /// Evidence over these 64 bytes for whoever made `request`. Secure Execution only: there Evidence is nothing else.
    fn answer_request(
        &self,
        _request: &AttestationRequest,
        _data: &ReportData,
    ) -> Result<Evidence, AttesterError> {
        Err(AttesterError::Challenge { platform: self.platform(), wanted: ChallengeKind::Nonce })
    }
}

/// The kinds of a [`provenance::challenge::Challenge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeKind {
    /// A nonce in the leaf.
    #[error("a nonce alone, and no attestation request")]
    Nonce,
    /// An attestation request.
    #[error("an attestation request")]
    AttestationRequest,
}

impl ChallengeKind {
    /// What Evidence of a platform answers.
    #[must_use]
    pub fn of(platform: Platform) -> Self {
        if platform == Platform::SecureExecution { Self::AttestationRequest } else { Self::Nonce }
    }
}

/// Why the device gave no Evidence. All of these are faults of the environment: host, firmware or kernel; but
/// `Challenge` is one of whoever asks, and so may be what the Ultravisor says to an attestation request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttesterError {
    /// A file of the kernel interface could not be used.
    #[error("could not {operation} {}: {detail}", path.display())]
    Io {
        /// What was tried: `create`, `write`, `read`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Kind of the operating system's error.
        kind: std::io::ErrorKind,
        /// The operating system's words.
        detail: String,
    },
    /// No provider stands behind the kernel interface (ENXIO), or it went away.
    #[error("no provider of attestation reports behind {} (ENXIO); is the guest driver (sev-guest or tdx-guest) loaded?", path.display())]
    NoProvider {
        /// The file.
        path: PathBuf,
    },
    /// The kernel interface stayed busy.
    #[error("{} stayed busy for {attempts} attempts", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How often it was tried.
        attempts: u32,
    },
    /// Somebody else wrote to our entry each time.
    #[error(
        "report entry was changed by somebody else in each of {attempts} attempts (generation {got}, wanted {wanted})"
    )]
    Raced {
        /// How often it was tried.
        attempts: u32,
        /// Generation seen after the read.
        got: u64,
        /// Generation that our one write gives.
        wanted: u64,
    },
    /// A file holds more than its interface allows.
    #[error("{} holds more than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// A file holds something that is not of its interface.
    #[error("{} holds `{got}`, wanted {wanted}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What was seen, at most 64 characters.
        got: String,
        /// What was wanted.
        wanted: &'static str,
    },
    /// The key to the firmware is gone: no Evidence until the next boot, and nothing takes its place.
    #[error("{}: {by}; the kernel has wiped the key to the firmware, so this guest gives no Evidence until it is \
             started again", path.display())]
    KeyWiped {
        /// The device.
        path: PathBuf,
        /// The first error seen.
        by: WipedBy,
    },
    /// The firmware answered with an error of its own, for this request only.
    #[error("{}: the firmware answers with status {status:#x}, wanted 0", path.display())]
    FirmwareStatus {
        /// The device.
        path: PathBuf,
        /// STATUS of the response (SEV-SNP ABI tables 19 and 22): 0x16 invalid parameters, 0x27 invalid key selection.
        status: u32,
    },
    /// The firmware's response holds a report of another length.
    #[error("{}: the response holds a report of {got} bytes, wanted {wanted}", path.display())]
    ReportLength {
        /// The device.
        path: PathBuf,
        /// Length stated.
        got: u32,
        /// Length wanted.
        wanted: usize,
    },
    /// The host asks for a buffer for its certificates that is not given.
    #[error(
        "{}: the host wants {wanted} bytes for its certificates and was offered {offered}; at most {limit} in whole \
         pages are offered, in a second attempt", path.display()
    )]
    CertificateBuffer {
        /// The device.
        path: PathBuf,
        /// Bytes the host wants.
        wanted: usize,
        /// Bytes it was offered.
        offered: usize,
        /// Most bytes that are offered.
        limit: usize,
    },
    /// The host's certificates are no table.
    #[error(transparent)]
    Certificates(#[from] InvalidTable),
    /// The Ultravisor refused.
    #[error("{}: the Ultravisor answers `{call}` with code {code:#06x} (reason {reason:#06x}), wanted 0x0001", path.display())]
    Ultravisor {
        /// The device.
        path: PathBuf,
        /// What was asked.
        call: &'static str,
        /// Return code.
        code: u16,
        /// Return reason code.
        reason: u16,
    },
    /// A call that this machine does not offer.
    #[error("{}: the {who} does not offer `{call}`", path.display())]
    NotSupported {
        /// The device.
        path: PathBuf,
        /// `kernel's device` or `Ultravisor`.
        who: &'static str,
        /// The call.
        call: &'static str,
    },
    /// Evidence of this platform answers a challenge of another kind.
    #[error("Evidence of {platform} answers {wanted}")]
    Challenge {
        /// The Attester's platform.
        platform: Platform,
        /// What it answers.
        wanted: ChallengeKind,
    },
    /// An answer does not fit the exchange format.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The list of secrets is not whole.
    #[error("{}: {stored} of {total} secrets are listed, and at most {most} can be read", path.display())]
    SecretList {
        /// The device.
        path: PathBuf,
        /// Entries in the list.
        stored: usize,
        /// Secrets in the store.
        total: usize,
        /// Most entries that are read.
        most: usize,
    },
    /// A retrievable secret of plain text that s390-tools did not write.
    #[error(
        "{}: the {got} bytes of the secret `{name}` are not a length, that many bytes and zeros up to 16: add it with \
         `pvsecret create retrievable --type plain`", path.display()
    )]
    SecretForm {
        /// The device.
        path: PathBuf,
        /// Name of the secret.
        name: &'static str,
        /// Bytes retrieved.
        got: usize,
    },
    /// A length that the kernel's interface does not take or an answer that does not fit it.
    #[error("{}: {what} has {got} bytes, wanted {least} to {most}", path.display())]
    Length {
        /// The device.
        path: PathBuf,
        /// What it is about.
        what: &'static str,
        /// Length seen.
        got: usize,
        /// Shortest.
        least: usize,
        /// Longest.
        most: usize,
    },
    /// The report that a sealing root is asked for with is not about this guest.
    #[error(transparent)]
    OwnReport(#[from] OwnReportError),
    /// The device or firmware refused in its own words.
    #[error("device: {0}")]
    Device(String),
}

/// What made the kernel wipe the key to the firmware (VMPCK).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WipedBy {
    /// The firmware reported an error.
    #[error("the firmware reported error {code:#x}")]
    Firmware {
        /// `fw_error` (SEV-SNP ABI table 5).
        code: u32,
    },
    /// The host reported an error.
    #[error("the host reported error {code:#x}")]
    Host {
        /// `vmm_error` (GHCB specification, SNP Guest Request).
        code: u32,
    },
    /// The host refused for longer than the driver waits.
    #[error("the host throttled a request for longer than the driver waits")]
    Throttled,
    /// The firmware's response could not be decrypted: the host changed it.
    #[error("a response could not be decrypted")]
    DamagedResponse,
    /// Nobody knows: it was gone when it was first asked for here.
    #[error("an earlier request failed (ENOTTY)")]
    Before,
}
