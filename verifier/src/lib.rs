//! Pure appraisal for Relying Parties (RATS Verifier, RFC 9334): is this image what an accepted caller asked an
//! accepted guest for, on accepted hardware? Outside the TCB.
//!
//! Bytes, endorsements, policy and `now` in, result out. There is no I/O, no clock, no network, no private key and
//! no state here, and nothing trusts what it has not checked: each step consumes the former step's type, which has
//! private fields and no other constructor, so that a step cannot be left out.
//!
//! [`verify_image`] is the table of contents; it mirrors the guest's pipeline in reverse:
//!
//! 1. the policy is complete: [`policy::Policy::parse`]
//! 2. the target digest is fixed: [`ImageInput::target`]
//! 3. one whole bundle: [`provenance::evidence::EvidenceBundle::parse`]
//!    and its timestamp, if it has one: [`time::examine`] → [`time::Examined`]
//! 4. Evidence authenticated to a pinned root: [`time::Examined::authenticate`] → [`evidence::AuthenticEvidence`]
//! 5. appraised: [`evidence::appraise`] → [`evidence::AttestationResult`]
//! 6. instance, leaf, proof, report data: [`bound::bind`] → [`bound::BoundLeaf`]
//! 7. statement and its signature → [`built::BoundStatement`]
//! 8. caller, request, project → [`built::RequestedStatement`]; materials; the guest's configuration
//! 9. subject, repository, manifests, signatures → [`image::BlobChecks`]
//! 10. every blob → [`image::TrustedImage`]
//!
//! [`appraise_session`] does steps 1 to 6 for the other end of a TLS connection, [`appraise_certificates`] for the keys
//! that other tools are told to trust.
#![forbid(unsafe_code)]

pub mod appraisal;
pub mod attached;
pub mod azure;
pub mod bound;
pub mod built;
pub mod certified;
pub mod ear;
pub mod endorsements;
pub mod event_log;
pub mod evidence;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod given;
pub mod image;
mod links;
pub mod policy;
pub mod rejection;
pub mod reliance;
pub mod roots;
pub mod secure_execution;
pub mod session;
pub mod snp;
pub mod tdx;
pub mod time;
pub mod verdict;
pub mod x509;

pub use appraisal::{EvidenceReport, appraise_evidence};
pub use certified::{CertifiedKey, ProjectCertificates, appraise_certificates};
pub use evidence::{Endorsements, appraise, authenticate};
pub use image::{ImageInput, Verdict, verify_image, verify_image_with_own_requests};
pub use policy::Policy;
pub use rejection::{Class, Reason, Rejection};
pub use session::{SessionGrounds, SessionResult, appraise_session, appraise_session_with};
