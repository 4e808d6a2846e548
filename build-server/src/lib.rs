//! The build service inside the guest (in the TCB): it takes signed requests over attested TLS, drives BuildKit,
//! accounts for the materials, has the result signed under Evidence, and publishes it.
//!
//! Start reading at [`pipeline`]. RATS role: it relies on the Attester in `enclave-keys`; it never appraises
//! Evidence, never holds a private key, and links no software TEE.
#![deny(unsafe_code)]

pub mod api;
pub mod assembly;
pub mod build_files;
pub mod buildkit;
pub mod clock;
pub mod compress;
pub mod config;
pub mod context_store;
pub mod endorsements;
pub mod engine;
pub mod failure;
pub mod jobs;
pub mod launcher;
pub mod materials;
mod memory;
pub mod pipeline;
pub mod policy;
pub mod privileges;
pub mod publish;
mod reserve;
pub mod result;
pub mod secrets;
pub mod service;
pub mod state_directory;
pub mod statement;
