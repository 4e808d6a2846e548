//! What obtains Evidence, and why it may fail.

use std::path::PathBuf;

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;

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

    /// Evidence over these 64 bytes. May block while the host throttles.
    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError>;
}

/// Why the device gave no Evidence. All of these are faults of the environment: host, firmware or kernel.
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
    #[error("no provider of attestation reports behind {} (ENXIO); is the guest driver (sev-guest) loaded?", path.display())]
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
    /// The device or firmware refused in its own words.
    #[error("device: {0}")]
    Device(String),
}
