//! Keeping the epoch secret: what the hardware gives to seal it under.

mod root;

pub use root::{InvalidRootMeasurement, RootKind, RootMeasurement, SealedUnder, SealingRoot};
