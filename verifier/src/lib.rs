//! Pure appraisal for Relying Parties.
#![forbid(unsafe_code)]

pub mod policy;
pub mod roots;
pub mod snp;
pub mod x509;
