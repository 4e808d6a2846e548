//! Keeping the epoch secret over restarts: what the hardware gives to seal it under, the sealed file, where it lies, and
//! which epoch a boot is in.

mod epoch;
mod format;
#[cfg(any(test, fuzzing))]
mod fuzzing;
mod root;
mod store;

pub(crate) use epoch::Epoch;
pub use epoch::{EpochError, EpochStart, RootChange};
pub use format::{SealedFileError, SealedHeader};
pub use root::{InvalidRootMeasurement, RootKind, RootMeasurement, SealedUnder, SealingRoot};
pub use store::StoreError;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzzing::{read_sealed_file, sealed_files};
