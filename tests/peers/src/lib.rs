//! Recorded Evidence as other verifiers take it.

#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "the same file belongs to the tests of the workspace"
)]
#[path = "../../src/vectors/mod.rs"]
pub mod vectors;

pub mod dcap;
pub mod go;
pub mod snp;

/// What another verifier says.
pub type Verdict = Result<(), String>;
