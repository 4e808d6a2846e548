//! Every way to be refused, with its link of the chain, its class (which is the exit code), where it was seen and
//! what to do.

use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceError;
use serde::Serialize;

use crate::attached::MAX_WORK;
use crate::azure::{AzureError, AzureRefusal};
use crate::bound::{BindingError, RulesRefusal};
use crate::built::{MaterialsRefusal, RequestRefusal, StatementError};
use crate::certified::CertificateRefusal;
use crate::evidence::{AppraisalError, AuthenticationError};
use crate::image::{BlobError, ImageRefusal};
use crate::policy::{Place, Policy};
use crate::secure_execution::{HostKeyError, ResultError, SeError};
use crate::session::SessionError;
use crate::snp::{SnpError, SnpRefusal};
use crate::tdx::{TdxError, TdxRefusal};
use crate::time::TimeError;
use crate::verdict::Link;

const FIRMWARE_ADVICE: &str =
    "the platform's firmware must be updated and committed by its operator; then build again";

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Authentic, but the policy does not accept it.
    RefusedByPolicy,
    /// Not what it claims to be: a signature, digest or binding does not hold, or something is missing.
    NotAuthentic,
    /// Endorsements are missing or out of date, so authenticity cannot be decided.
    Endorsements,
}

impl Class {
    /// Exit code of commands that verify.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::RefusedByPolicy => 3,
            Self::NotAuthentic => 4,
            Self::Endorsements => 8,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RefusedByPolicy => "refused by policy",
            Self::NotAuthentic => "not authentic",
            Self::Endorsements => "endorsements missing or out of date",
        })
    }
}

/// Why something is refused: one variant per step, one variant of the inner error per check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No Evidence at all.
    #[error("no Evidence is attached to {target}")]
    NoEvidence {
        /// The image.
        target: Sha256Digest,
    },
    /// More collections, statements or signatures than are looked at.
    #[error("{got} {what} are attached, at most {limit} are looked at")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// What is attached takes too long to look at.
    #[error(
        "what is attached to the image takes the hashing of more than {MAX_WORK} bytes to judge; the rest was not looked at"
    )]
    TooMuchWork,
    /// The collection is malformed.
    #[error(transparent)]
    Bundle(#[from] EvidenceError),
    /// The timestamp does not hold, or the one demanded is missing.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// The Evidence is not authentic.
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    /// The policy does not accept hardware or guest.
    #[error(transparent)]
    Appraisal(#[from] AppraisalError),
    /// The report does not cover leaf and instance.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// Not about this connection.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Certificates are not what key Evidence says.
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
    /// The statement is not what the report covers.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The request is refused.
    #[error(transparent)]
    Request(#[from] RequestRefusal),
    /// The materials are refused.
    #[error(transparent)]
    Materials(#[from] MaterialsRefusal),
    /// The guest's configuration is refused.
    #[error(transparent)]
    Rules(#[from] RulesRefusal),
    /// The image is not what the statement names.
    #[error(transparent)]
    Image(#[from] ImageRefusal),
    /// A blob is not what the manifest names.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Reason {
    /// The kind of refusal.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Authentication(error) if error.concerns_endorsements() => Class::Endorsements,
            Self::Time(error) if error.concerns_endorsements() => Class::Endorsements,
            Self::Time(error) if error.line().is_some() => Class::RefusedByPolicy,
            Self::Authentication(error) if error.is_refusal() => Class::RefusedByPolicy,
            Self::Appraisal(_) | Self::Materials(_) | Self::Rules(_) => Class::RefusedByPolicy,
            Self::Request(refusal) if refusal.line().is_some() => Class::RefusedByPolicy,
            _ => Class::NotAuthentic,
        }
    }

    /// The link of the chain that it breaks.
    #[must_use]
    pub fn link(&self) -> Link {
        match self {
            Self::Appraisal(error) if error.concerns_guest() => Link::Guest,
            Self::Appraisal(error) if error.concerns_key() => Link::Key,
            Self::NoEvidence { .. }
            | Self::TooMany { .. }
            | Self::TooMuchWork
            | Self::Bundle(_)
            | Self::Time(_)
            | Self::Authentication(_)
            | Self::Appraisal(_) => Link::Hardware,
            Self::Binding(_) | Self::Session(_) | Self::Certificate(_) | Self::Statement(_) => Link::Key,
            Self::Request(_) => Link::Request,
            Self::Materials(_) => Link::Materials,
            Self::Rules(_) => Link::Rules,
            Self::Image(_) | Self::Blob(_) => Link::Image,
        }
    }

    fn policy_line(&self, policy: &Policy) -> Option<usize> {
        match self {
            Self::Authentication(error) if error.concerns_root() => Some(policy.roots_line()),
            Self::Appraisal(error) => error.line(),
            Self::Time(error) => error.line(),
            Self::Request(refusal) => refusal.line(),
            Self::Materials(refusal) => Some(refusal.line()),
            Self::Rules(refusal) => Some(refusal.line()),
            _ => None,
        }
    }

    /// What to do, one sentence each.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        let text = match self {
            Self::NoEvidence { .. } => {
                "the image was not built by Sealwright, or its Evidence is damaged or was not copied with it: copy the image again, referrers too"
            }
            Self::Authentication(error) if error.concerns_number_given() => {
                "give the endorsements of this platform alone, from a folder of their own"
            }
            Self::Authentication(
                AuthenticationError::Snp(error) | AuthenticationError::Azure(AzureError::Snp(error)),
            ) if error.concerns_endorsements() => {
                "fetch current certificates of the platform from AMD with `sealwright endorsements fetch`, and give them with --endorsements"
            }
            Self::Authentication(
                AuthenticationError::Tdx(error) | AuthenticationError::Azure(AzureError::Tdx(error)),
            ) if error.concerns_endorsements() => {
                "fetch current documents of the platform from Intel with `sealwright endorsements fetch`, and give them with --endorsements"
            }
            Self::Authentication(AuthenticationError::SecureExecution(SeError::Result(
                ResultError::Expired { .. },
            ))) => "ask the Verifier for a new Attestation Result about this Evidence",
            Self::Authentication(AuthenticationError::SecureExecution(error))
                if error.concerns_endorsements() =>
            {
                "give current host key documents of the machine, IBM's certificates and revocation lists (--endorsements FOLDER); see docs/policy.md, Endorsements"
            }
            Self::Authentication(AuthenticationError::SecureExecution(SeError::Unconvincing { .. })) => {
                "Secure Execution convinces only the one who made the attestation request: ask with a request of your own, or name a Verifier whose Attestation Result you rely on"
            }
            Self::Authentication(
                AuthenticationError::Tdx(error) | AuthenticationError::Azure(AzureError::Tdx(error)),
            ) if error.is_refusal() && *error != TdxError::RootNotAccepted => {
                "the platform or its TDX module is not one that Intel stands by; its operator must update it"
            }
            Self::Authentication(
                AuthenticationError::Snp(SnpError::UnknownRoot { .. })
                | AuthenticationError::Tdx(TdxError::UnknownRoot { .. })
                | AuthenticationError::Azure(
                    AzureError::Snp(SnpError::UnknownRoot { .. })
                    | AzureError::Tdx(TdxError::UnknownRoot { .. }),
                )
                | AuthenticationError::SecureExecution(SeError::HostKey(HostKeyError::UnknownRoot { .. })),
            ) => {
                "Evidence under such a root can be made by anybody who holds it; only a development policy names one, as dangerous_roots"
            }
            Self::Appraisal(error) if error.concerns_guest() => {
                "if this guest is a release you trust, add the reference values that its release key signed to the policy"
            }
            Self::Appraisal(AppraisalError::Azure(AzureRefusal::Paravisor { .. })) => {
                "if Microsoft vouches for this paravisor and you trust it, add what it measures to under `paravisors` of the policy"
            }
            Self::Appraisal(
                AppraisalError::Snp(refusal) | AppraisalError::Azure(AzureRefusal::Snp(refusal)),
            ) if matches!(refusal, SnpRefusal::TcbTooLow { .. } | SnpRefusal::ProvisionalFirmware { .. }) => {
                FIRMWARE_ADVICE
            }
            Self::Appraisal(
                AppraisalError::Tdx(TdxRefusal::TcbStatus { .. })
                | AppraisalError::Azure(AzureRefusal::Tdx(TdxRefusal::TcbStatus { .. })),
            ) => FIRMWARE_ADVICE,
            Self::Time(TimeError::Missing { .. }) => {
                "have the build time-stamped by an authority that the policy names (docs/cli.md, timestamp), or demand no proof under `time` of the policy"
            }
            Self::Time(TimeError::UnknownAuthority { .. }) => {
                "if you trust this authority's clock and care, add the certificate of its CA under `time.authorities` of the policy"
            }
            Self::Time(TimeError::NotValidToday { .. }) => {
                "have the build time-stamped again by an authority whose certificates are valid; the proof of the earlier time is lost"
            }
            Self::Session(_) => {
                "do not send anything over this connection; check the endpoint and what lies between"
            }
            Self::Request(RequestRefusal::CallerNotAccepted { .. }) => {
                "if you trust this caller, add its key under `request.callers` of the policy"
            }
            Self::Request(RequestRefusal::ProjectNotAccepted { .. }) => {
                "if you trust this project, add its id under `request.projects` of the policy"
            }
            Self::Materials(_) => {
                "build without what cannot be listed, or accept it in `materials` of the policy"
            }
            Self::Rules(RulesRefusal::KeyOrigin { .. }) => {
                "if you trust whoever else could know these keys, add their origin to `guest.key_origins` of the policy"
            }
            Self::Rules(_) => {
                "read the trust configuration and build policy (sealwright inspect); if you trust them, add their digests to `guest` of the policy"
            }
            Self::Image(ImageRefusal::Repository { .. }) => {
                "if this is a copy under another name, verify it by the name it was built for"
            }
            Self::Blob(BlobError::Missing { .. } | BlobError::Unchecked { .. }) => {
                "fetch the whole image and verify again"
            }
            _ if self.class() == Class::NotAuthentic => {
                "do not use it; fetch it again from its source, and report it if that does not help"
            }
            _ => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

/// A refusal with its place in the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejection {
    reason: Box<Reason>,
    policy: Option<Place>,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, policy: &Policy) -> Self {
        let policy = reason.policy_line(policy).map(|line| Place { file: policy.file().to_owned(), line });
        Self { reason: Box::new(reason), policy }
    }

    pub(crate) fn without_policy(reason: Reason) -> Self {
        Self { reason: Box::new(reason), policy: None }
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// The kind of refusal, which is the exit code.
    #[must_use]
    pub fn class(&self) -> Class {
        self.reason.class()
    }

    /// The link of the chain that is broken.
    #[must_use]
    pub fn link(&self) -> Link {
        self.reason.link()
    }

    /// Where in the policy the rule stands, if it is a rule of the policy.
    #[must_use]
    pub fn policy_place(&self) -> Option<&Place> {
        self.policy.as_ref()
    }

    /// What to do.
    #[must_use]
    pub fn advice(&self) -> Vec<String> {
        self.reason.advice()
    }
}

#[cfg(test)]
#[path = "rejection_tests.rs"]
mod tests;
