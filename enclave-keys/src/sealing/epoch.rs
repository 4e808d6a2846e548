//! Which epoch a boot is in: the one that is sealed here, or a new one.

use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::instance::KeyOrigin;
use provenance::timestamp::Timestamp;

use super::format::{MAX_EPOCH, SealedFile, SealedFileError, SealedHeader, root_id, seal};
use super::root::{RootKind, RootMeasurement, SealedUnder, SealingRoot};
use super::store::{Store, StoreError, sealed_file_in};
use crate::attester::{Attester, AttesterError};
use crate::secret::{EpochSecret, NoRandom, random};

/// Number of the first epoch, and of one that is not kept.
const FIRST_EPOCH: u64 = 1;

/// Why there is no epoch. What was sealed on the disk is still there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EpochError {
    /// The device gave no sealing root.
    #[error("sealing root: {0}")]
    Attester(#[from] AttesterError),
    /// The sealing root is of another platform than the Attester.
    #[error("sealing root is of {got}, this guest runs on {expected}")]
    Platform {
        /// The Attester's platform.
        expected: Platform,
        /// The root's platform.
        got: Platform,
    },
    /// The directory or the file cannot be used.
    #[error("sealed epoch: {0}")]
    Store(#[from] StoreError),
    /// There is a sealed file, and it is not whole or not ours. A new epoch would lose its keys for good.
    #[error(
        "sealed epoch {}: {problem}\nnothing was changed; put the file back from a copy, or move it away to begin a new \
         epoch with new keys", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: SealedFileError,
    },
    /// There is a sealed file, and the platform gives nothing to open it with.
    #[error(
        "sealed epoch {}: this platform gives no sealing root to open it with\nnothing was changed; bring the device \
         back (on SEV-SNP /dev/sev-guest), or move the file away to have an epoch for each boot", path.display()
    )]
    NoSealingRoot {
        /// The file.
        path: PathBuf,
    },
    /// No number is left for a new epoch.
    #[error("sealed epoch {}: it is epoch {MAX_EPOCH}, the last one; move it away to begin anew", path.display())]
    LastEpoch {
        /// The file.
        path: PathBuf,
    },
    /// No random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// How the epoch of this boot began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EpochStart {
    /// With this boot, and it ends with it: there is nowhere to keep it.
    NotKept,
    /// With this boot, and it ends with it: the platform has no sealing root.
    NoSealingRoot,
    /// With this boot: nothing was sealed here.
    First,
    /// Earlier, and it goes on.
    Resumed {
        /// The guest's clock when it began: unproven.
        created_at: Timestamp,
    },
    /// With this boot: what is sealed here is sealed under another root.
    Next {
        /// What the earlier file says about itself, unauthenticated: only its own root could.
        earlier: Box<SealedHeader>,
        /// What is another, at least one.
        changes: Vec<RootChange>,
        /// Where the earlier file is kept.
        kept: PathBuf,
    },
}

/// What of a sealing root is another than before.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RootChange {
    /// The platform.
    Platform {
        /// When the file was sealed.
        was: Platform,
        /// Now.
        is: Platform,
    },
    /// The kind of root.
    Kind {
        /// When the file was sealed.
        was: RootKind,
        /// Now.
        is: RootKind,
    },
    /// The guest.
    Measurement {
        /// When the file was sealed.
        was: RootMeasurement,
        /// Now.
        is: RootMeasurement,
    },
    /// The security versions of the firmware.
    Tcb {
        /// When the file was sealed.
        was: Option<[u8; 8]>,
        /// Now.
        is: Option<[u8; 8]>,
    },
    /// The guest policy.
    GuestPolicy {
        /// When the file was sealed.
        was: Option<u64>,
        /// Now.
        is: Option<u64>,
    },
    /// None of these, and the root is another all the same: another chip, guest SVN, or secret of the owner.
    Root {
        /// Identity of the root when the file was sealed.
        was: Sha256Digest,
        /// Now.
        is: Sha256Digest,
    },
}

impl std::fmt::Display for RootChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tcb = |tcb: &Option<[u8; 8]>| tcb.map_or_else(|| "none".to_owned(), hex::encode);
        let policy = |policy: &Option<u64>| policy.map_or_else(|| "none".to_owned(), |p| format!("{p:#x}"));
        match self {
            Self::Platform { was, is } => write!(f, "platform was {was}, is {is}"),
            Self::Kind { was, is } => write!(f, "kind of root was {was}, is {is}"),
            Self::Measurement { was, is } => write!(f, "measurement was {was}, is {is}"),
            Self::Tcb { was, is } => write!(f, "TCB was {}, is {}", tcb(was), tcb(is)),
            Self::GuestPolicy { was, is } => write!(f, "guest policy was {}, is {}", policy(was), policy(is)),
            Self::Root { was, is } => {
                write!(f, "root was {}, is {}: another chip, guest SVN or secret", was.short(), is.short())
            }
        }
    }
}

impl std::fmt::Display for EpochStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotKept => f.write_str("new, for this boot: nowhere to keep it"),
            Self::NoSealingRoot => f.write_str("new, for this boot: the platform has no sealing root"),
            Self::First => f.write_str("new: nothing was sealed here"),
            Self::Resumed { created_at } => write!(f, "goes on, began {created_at}"),
            Self::Next { earlier, changes, kept } => {
                let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
                let changes = changes.join("; ");
                write!(
                    f,
                    "new, after epoch {} ({changes}); the old file is {}",
                    earlier.epoch,
                    kept.display()
                )
            }
        }
    }
}

/// The epoch of this boot.
pub(crate) struct Epoch {
    /// Its number.
    pub(crate) number: u64,
    /// Its secret.
    pub(crate) secret: EpochSecret,
    /// What the instance document says of its keys.
    pub(crate) origin: KeyOrigin,
    /// How it began.
    pub(crate) start: EpochStart,
    // Keeps other processes off while this one lives.
    _store: Option<Store>,
}

impl Epoch {
    /// The epoch that is sealed in `directory` when its root is this guest's, else a new one, sealed there. Without a
    /// directory or a root, a new one that ends with this boot.
    ///
    /// A file that is damaged or in another format is an error, never a new epoch. Nothing is ever sealed again under
    /// another root: a secret that could be had under an old TCB would live on under the new one.
    pub(crate) fn begin(
        attester: &dyn Attester,
        directory: Option<&Path>,
        now: Timestamp,
    ) -> Result<Self, EpochError> {
        let Some(directory) = directory else {
            return Self::of_this_boot(attester, EpochStart::NotKept);
        };
        let Some(root) = attester.sealing_root()? else {
            if let Some(path) = sealed_file_in(directory) {
                return Err(EpochError::NoSealingRoot { path });
            }
            return Self::of_this_boot(attester, EpochStart::NoSealingRoot);
        };
        if root.under().platform != attester.platform() {
            return Err(EpochError::Platform { expected: attester.platform(), got: root.under().platform });
        }
        let store = Store::open(directory)?;
        let Some(bytes) = store.read()? else {
            return Self::seal(&root, store, FIRST_EPOCH, EpochStart::First, now);
        };
        let damaged = |problem| EpochError::Damaged { path: store.path(), problem };
        let file = SealedFile::parse(&bytes).map_err(damaged)?;
        let earlier = file.header();
        let changes = changes(earlier, &root);
        if changes.is_empty() {
            let secret = file.open(&root).map_err(damaged)?;
            let start = EpochStart::Resumed { created_at: earlier.created_at };
            let (number, origin) = (earlier.epoch, root.under().kind.key_origin());
            return Ok(Self { number, secret, origin, start, _store: Some(store) });
        }
        if earlier.epoch == MAX_EPOCH {
            return Err(EpochError::LastEpoch { path: store.path() });
        }
        // Two files of one epoch number may meet here when somebody put an old one back.
        let digest = hex::encode(&Sha256Digest::of(&bytes).as_bytes()[..8]);
        let name = format!("epoch-{}-{digest}.sealed", earlier.epoch);
        store.keep(&name, &bytes)?;
        let kept = directory.join(name);
        let start = EpochStart::Next { earlier: Box::new(earlier.clone()), changes, kept };
        Self::seal(&root, store, earlier.epoch + 1, start, now)
    }

    fn of_this_boot(attester: &dyn Attester, start: EpochStart) -> Result<Self, EpochError> {
        let (secret, origin) = (EpochSecret::random()?, attester.key_origin());
        Ok(Self { number: FIRST_EPOCH, secret, origin, start, _store: None })
    }

    fn seal(
        root: &SealingRoot,
        store: Store,
        number: u64,
        start: EpochStart,
        now: Timestamp,
    ) -> Result<Self, EpochError> {
        let secret = EpochSecret::random()?;
        store.replace(&seal(root, number, now, *random()?, &secret))?;
        Ok(Self { number, secret, origin: root.under().kind.key_origin(), start, _store: Some(store) })
    }
}

fn changes(earlier: &SealedHeader, root: &SealingRoot) -> Vec<RootChange> {
    // Taken apart without `..`, so that a new field cannot be forgotten here.
    let SealedUnder { guest_policy, kind, measurement, platform, tcb } = &earlier.under;
    let now = root.under();
    let mut changes = Vec::new();
    if *platform != now.platform {
        changes.push(RootChange::Platform { was: *platform, is: now.platform });
    }
    if *kind != now.kind {
        changes.push(RootChange::Kind { was: *kind, is: now.kind });
    }
    if *measurement != now.measurement {
        changes.push(RootChange::Measurement { was: measurement.clone(), is: now.measurement.clone() });
    }
    if *tcb != now.tcb {
        changes.push(RootChange::Tcb { was: *tcb, is: now.tcb });
    }
    if *guest_policy != now.guest_policy {
        changes.push(RootChange::GuestPolicy { was: *guest_policy, is: now.guest_policy });
    }
    let is = root_id(root);
    if changes.is_empty() && earlier.root_id != is {
        changes.push(RootChange::Root { was: earlier.root_id, is });
    }
    changes
}

#[cfg(test)]
#[path = "epoch_tests.rs"]
mod tests;
