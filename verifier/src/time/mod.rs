//! When a build was signed. The guest's clock is the host's, so the time in a statement is a claim. What proves one is a
//! timestamp of an authority that the policy names (RFC 3161), over Evidence, leaf and signed statement together.
//!
//! Steps of [`examine`], each with its own error:
//! 1. response, SignedData and TSTInfo have their form; nothing unsigned or unread is in them;
//! 2. the signer's certificate is the one that ESSCertIDv2 and signer identifier name, and is for time stamping alone;
//! 3. its key signs the attributes, and these have the contents' type and digest;
//! 4. the imprint is over this Evidence and leaf with one of the statements attached;
//! 5. it was not made in the future;
//! 6. the chain leads to an authority of the policy, and every certificate of it was valid then and is today.
//!
//! Later [`Examined::signing_time`] sees to it that the stamped statement and signature are the accepted ones. A time
//! that nothing proves is [`SigningTime::Unproven`], and only a proof makes a [`Moment`] of the past.

mod chain;
mod error;
mod info;
mod token;

use provenance::binding::{Leaf, LeafBody};
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE};
use provenance::evidence::EvidenceBundle;
use provenance::statement::Statement;
use provenance::timestamp::Timestamp;
use serde::Serialize;

pub use self::error::TimeError;
pub use self::token::MAX_TIMESTAMP;
use self::token::Token;
use crate::attached::HashedEnvelope;
use crate::built::BoundStatement;
use crate::evidence::{self, AuthenticEvidence, AuthenticationError, Endorsements};
use crate::policy::{JudgedAt, Placed, Policy, TimePolicy, TimeProof};
use crate::reliance::Grounds;
use crate::roots::Anchors;
use crate::secure_execution::OwnRequest;

/// When a build was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SigningTime {
    /// Nothing but the guest says so, and its clock is the host's.
    Unproven {
        /// When the build ended, as the statement says.
        claimed: Timestamp,
    },
    /// Evidence, leaf and signature existed before this time.
    ExistedBefore {
        /// The latest that the authority's clock and accuracy allow.
        time: Timestamp,
        /// Its name in the policy.
        authority: String,
    },
}

/// The time to judge at: today, or a proven time of the past, which [`Examined::authenticate`] alone uses, and only with the
/// Evidence that it is proven for. What is revoked is asked as of today in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    at: Timestamp,
    today: Timestamp,
}

impl From<Timestamp> for Moment {
    fn from(today: Timestamp) -> Self {
        Self { at: today, today }
    }
}

impl Moment {
    /// When certificates must have been valid, and what is said about platforms current.
    #[must_use]
    pub fn at(self) -> Timestamp {
        self.at
    }

    /// When revocation lists must be current.
    #[must_use]
    pub fn today(self) -> Timestamp {
        self.today
    }

    /// Whether it lies in the past.
    #[must_use]
    pub fn is_past(self) -> bool {
        self.at < self.today
    }
}

/// A timestamp that holds under an authority of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Proof {
    time: Timestamp,
    authority: String,
}

/// A collection, and what was found about its timestamp. Made only by [`examine`].
#[derive(Debug, Clone)]
pub struct Examined<'a> {
    bundle: &'a EvidenceBundle,
    proof: Option<Proof>,
    /// The time of a timestamp that holds in itself, which the policy believes nobody about.
    not_believed: Option<Timestamp>,
    /// The stamped envelope.
    stamped: Option<&'a HashedEnvelope>,
    judged_at: JudgedAt,
    line: usize,
    today: Timestamp,
}

/// Examines the timestamp of a collection, if it has one, against the statements attached to the image.
pub fn examine<'a>(
    bundle: &'a EvidenceBundle,
    envelopes: &[&'a HashedEnvelope],
    policy: &Policy,
    now: Timestamp,
) -> Result<Examined<'a>, TimeError> {
    examine_by(bundle, envelopes, policy.time(), now)
}

fn examine_by<'a>(
    bundle: &'a EvidenceBundle,
    envelopes: &[&'a HashedEnvelope],
    rules: &Placed<TimePolicy>,
    now: Timestamp,
) -> Result<Examined<'a>, TimeError> {
    let mut examined = Examined {
        bundle,
        proof: None,
        not_believed: None,
        stamped: None,
        judged_at: rules.value.judged_at,
        line: rules.line,
        today: now,
    };
    let Some(bytes) = &bundle.timestamp else {
        return match rules.value.proof.value {
            TimeProof::None => Ok(examined),
            TimeProof::Rfc3161 => Err(TimeError::Missing { line: rules.value.proof.line }),
        };
    };
    // Steps 1 to 3.
    let token = Token::parse(bytes)?;
    let signer = chain::signer(&token)?;

    // Step 4.
    let over = bundle.stamped();
    let of = |envelope: &HashedEnvelope| {
        let message = over.message(&envelope.payload_sha256(), &envelope.envelope().signature);
        token.info.hash.of(&message) == token.info.imprint
    };
    let stamped = envelopes.iter().copied().find(|envelope| of(envelope));
    examined.stamped = Some(stamped.ok_or_else(|| TimeError::Imprint {
        got: hex::encode(token.info.imprint),
        looked_at: envelopes.len(),
    })?);

    // Step 5.
    if token.info.made > now {
        return Err(TimeError::Future { time: token.info.made, now });
    }

    // Step 6.
    match rules.value.proof.value {
        TimeProof::None => examined.not_believed = Some(token.info.latest),
        TimeProof::Rfc3161 => {
            let authority = chain::authority(&signer, &token, &rules.value.authorities, now)?;
            examined.proof = Some(Proof { time: token.info.latest, authority: authority.name.clone() });
        }
    }
    Ok(examined)
}

/// The statement that a timestamp of this collection is to be over: the one that a build leaf names; under a leaf that
/// names a key, the one about `target`. Nothing about either is checked.
#[must_use]
pub fn statement_of<'a>(
    bundle: &EvidenceBundle,
    envelopes: &'a [Envelope],
    target: Sha256Digest,
) -> Option<&'a Envelope> {
    let leaf = Leaf::parse(&bundle.leaf).ok()?;
    envelopes.iter().find(|envelope| match leaf.body {
        LeafBody::Build { statement_sha256, .. } => Sha256Digest::of(&envelope.payload) == statement_sha256,
        LeafBody::Key { .. } => Statement::parse(&envelope.payload)
            .is_ok_and(|statement| statement.subject_digests().contains(&target)),
        LeafBody::Session { .. } => false,
    })
}

/// Examines a timestamp in itself, without asking whom to believe, and gives the time it states: for whoever adds one.
pub fn examine_in_itself(
    bundle: &EvidenceBundle,
    statement: &Envelope,
    now: Timestamp,
) -> Result<Timestamp, TimeError> {
    let rules = TimePolicy {
        proof: Placed { value: TimeProof::None, line: 0 },
        authorities: Placed { value: Vec::new(), line: 0 },
        judged_at: JudgedAt::Today,
    };
    let statement = HashedEnvelope::from(statement.clone());
    let examined = examine_by(bundle, &[&statement], &Placed { value: rules, line: 0 }, now)?;
    examined.not_believed.ok_or(TimeError::Missing { line: 0 })
}

/// Steps 1 to 3 of [`examine`], for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_timestamp(bytes: &[u8]) -> bool {
    Token::parse(bytes).is_ok_and(|token| chain::signer(&token).is_ok())
}

impl Examined<'_> {
    /// Authenticates the collection's Evidence as of today, or of a proven earlier time if the policy says so: the same as
    /// [`evidence::authenticate_with_grounds`] otherwise, with the Attestation Result in the collection.
    pub fn authenticate(
        &self,
        extra: &Endorsements,
        own_requests: &[OwnRequest],
        anchors: &Anchors,
    ) -> Result<AuthenticEvidence, AuthenticationError> {
        let EvidenceBundle { evidence, attestation_result, .. } = self.bundle;
        let grounds = Grounds { own_requests, attestation_result: attestation_result.as_deref() };
        evidence::authenticate_with_grounds(evidence, extra, grounds, anchors, self.moment())
    }

    /// The time of the past that it is judged as of; `None`: today.
    #[must_use]
    pub fn judged_as_of(&self) -> Option<Timestamp> {
        Some(self.moment()).filter(|moment| moment.is_past()).map(Moment::at)
    }

    /// The time to judge at: today, unless the policy says otherwise and an earlier time is proven.
    fn moment(&self) -> Moment {
        match &self.proof {
            // Its accuracy may put a proven time after today.
            Some(proof) if self.judged_at == JudgedAt::Signing => {
                Moment { at: proof.time.min(self.today), today: self.today }
            }
            _ => self.today.into(),
        }
    }

    /// Checks that the stamped statement and signature are the accepted ones, and says when that was.
    pub(crate) fn signing_time(&self, statement: &BoundStatement) -> Result<SigningTime, TimeError> {
        if let Some(stamped) = self.stamped {
            let same = stamped.payload_sha256() == statement.statement_sha256();
            let key = statement.signing_key();
            if !same || stamped.envelope().authenticate(IN_TOTO_PAYLOAD_TYPE, key).is_err() {
                return Err(TimeError::OtherStatement);
            }
        }
        let claimed = statement.statement().predicate.run_details.metadata.finished_on;
        Ok(match &self.proof {
            None => SigningTime::Unproven { claimed },
            Some(Proof { time, authority }) => {
                SigningTime::ExistedBefore { time: *time, authority: authority.clone() }
            }
        })
    }

    /// What a verdict says about the time judged at.
    pub(crate) fn line(&self, file: &str) -> String {
        match (&self.proof, self.not_believed) {
            (Some(Proof { time, authority }), _) => {
                let judged = if self.moment().is_past() {
                    "judged as of then, revocation as of today"
                } else {
                    "judged today"
                };
                format!("existed before {time}, says \"{authority}\" ({file} line {}); {judged}", self.line)
            }
            (None, Some(time)) => format!(
                "judged today; a timestamp of {time} is attached and not believed, because the policy names no authority ({file} line {})",
                self.line
            ),
            (None, None) => "judged today (no proof of the signing time attached)".to_owned(),
        }
    }
}
