//! Private keys and the TEE device (RATS role: Attester). Inside the TCB.
//!
//! [`KeyService`] holds this boot's keys: one P-256 signing key per project, derived from a random epoch secret that is
//! sealed to the hardware where the platform can, and the TLS key. It signs a statement only after the hardware has signed a leaf over key, nonce and statement,
//! and it builds label and leaf itself. [`detect`] finds the TEE at fixed paths; nothing configures it.
//!
//! This crate must never use the network, return private bytes, or appraise Evidence. It is the only crate that
//! opens TEE devices. Its interface is typed and serialisable ([`KeyRequest`]), because it becomes a process of
//! its own.

#![deny(unsafe_code)]

mod attester;
mod batch;
mod certificates;
mod configfs_tsm;
mod detect;
pub mod devices;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod interface;
mod own_report;
pub mod process;
mod release;
mod releases;
mod sealing;
mod secret;
mod secure_execution;
mod service;
mod snp;
mod tls;

pub use attester::{Attester, AttesterError, ChallengeKind, WipedBy};
pub use batch::{
    BUILD_REQUESTS_PER_SESSION, DEVICE_INTERVAL, EVIDENCE_DEADLINE, MAX_WAITING_BUILD_REQUESTS,
    MAX_WAITING_BUILDS, MAX_WAITING_SESSION_REQUESTS, MAX_WAITING_SESSIONS, SESSIONS_PER_BATCH,
};
pub use certificates::CertificateError;
pub use detect::{NoTee, detect, device_paths};
pub use error::{KeyError, StartError};
pub use interface::{
    Authority, Health, ImageName, KeyRequest, KeyResponse, ProjectKey, ReleaseRequest, Released, SignedImage,
};
pub use own_report::{
    MEASUREMENT_LEN, Measurement, OwnReportError, SNP_NEWEST_VERSION, SNP_OLDEST_VERSION, SNP_REPORT_LEN,
    TDX_MAX_QUOTE,
};
pub use releases::{MAX_AGE_AT_START, MAX_RELEASES};
pub use sealing::{
    EpochError, EpochStart, InvalidRootMeasurement, RootChange, RootKind, RootMeasurement, SealedFileError,
    SealedHeader, SealedUnder, SealingRoot, StoreError,
};
pub use secret::NoRandom;
pub use secure_execution::{NoHeader, SecureExecution, SecureExecutionHeader};
pub use service::{InstanceInputs, KeyService};
pub use tls::{NotCertificateVerify, TLS_SERVER_NAME};
