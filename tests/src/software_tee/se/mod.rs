//! The Secure Execution part of the software TEE: a machine, what IBM would say about it, and the guest that runs on it.
//! **NOT HARDWARE.**

pub mod fixture;
mod guest;
pub mod host_keys;
mod machine;

pub use guest::SoftwareSe;
pub use machine::{Attestation, P521, Requester, SoftwareUltravisor};
