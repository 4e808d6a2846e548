//! The verdict about Evidence alone: which guest on which hardware, and what its report covers. Whether an image was built
//! there is [`crate::verify_image`]'s to say.

use std::fmt;

use provenance::binding::LeafBody;
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::timestamp::Timestamp;
use serde::Serialize;
use serde::ser::SerializeStruct as _;

use crate::bound::{self, BoundLeaf};
use crate::evidence::{self, Endorsements};
use crate::links::{accept_guest, accept_hardware, accept_rules};
use crate::policy::Policy;
use crate::rejection::{Reason, Rejection};
use crate::reliance::Grounds;
use crate::secure_execution::OwnRequest;
use crate::session::{self, Connection};
use crate::verdict::{Link, LinkReport, Outcome, Report};

/// `format` of a verdict about Evidence.
pub const APPRAISAL_FORMAT: &str = "sealwright-appraisal/1";
/// The links that Evidence alone can be judged by.
const LINKS: [Link; 4] = [Link::Hardware, Link::Guest, Link::Key, Link::Rules];

/// What is judged.
#[derive(Clone, Copy, Default)]
pub struct EvidenceInput<'a> {
    /// Evidence collection (CMW JSON).
    pub collection: &'a [u8],
    /// Own attestation requests of Secure Execution that it may answer.
    pub own_requests: &'a [OwnRequest],
    /// The connection that it must name, when it came over one just now.
    pub connection: Option<&'a Connection>,
}

/// A verdict about Evidence. It is for reading: a connection is acted on through [`crate::appraise_session`], an image
/// through [`crate::verify_image`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceReport {
    report: Report,
    connection: Option<Connection>,
}

impl EvidenceReport {
    /// SHA-256 of the collection that was judged.
    #[must_use]
    pub fn evidence(&self) -> Sha256Digest {
        self.report.target()
    }

    /// Whether the policy accepts the Evidence.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.report.outcome() == Outcome::Trusted
    }

    /// Exit code for commands: 0 accepted, 3 refused by policy, 4 not authentic, 8 endorsements missing or stale.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.report.exit_code()
    }

    /// The links hardware, guest, key and rules.
    #[must_use]
    pub fn links(&self) -> Vec<&LinkReport> {
        self.report.links().iter().filter(|entry| LINKS.contains(&entry.link)).collect()
    }

    /// The refusal with its typed reason.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        self.report.rejection()
    }

    /// The whole of it; links that Evidence alone has nothing to say about are not judged there.
    #[must_use]
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// The connection that the Evidence had to name.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }
}

/// Appraises Evidence as far as a Relying Party can without knowing what was built: authentic, of an accepted guest on
/// accepted hardware, with leaf and instance document covered by the report and the guest's configuration accepted.
#[must_use]
pub fn appraise_evidence(
    policy: &Policy,
    input: EvidenceInput<'_>,
    extra: &Endorsements,
    now: Timestamp,
) -> EvidenceReport {
    let mut report = Report::new(policy, Sha256Digest::of(input.collection), None, now);
    let report = match judge(policy, input, extra, now, &mut report) {
        Ok(()) => report.with_outcome(Outcome::Trusted),
        Err(reason) => report.refused(&Rejection::new(reason, policy)),
    };
    EvidenceReport { report, connection: input.connection.copied() }
}

fn judge(
    policy: &Policy,
    input: EvidenceInput<'_>,
    extra: &Endorsements,
    now: Timestamp,
    report: &mut Report,
) -> Result<(), Reason> {
    let bundle = EvidenceBundle::parse(input.collection)?;
    let grounds = Grounds {
        own_requests: input.own_requests,
        attestation_result: bundle.attestation_result.as_deref(),
    };
    let authentic =
        evidence::authenticate_with_grounds(&bundle.evidence, extra, grounds, policy.anchors(), now)?;

    let hardware = evidence::appraise_hardware(authentic, policy)?;
    let as_of = match &bundle.timestamp {
        None => "judged today (no proof of the signing time attached)",
        // It is over a statement as well, which is not here.
        Some(_) => "judged today; the timestamp attached is judged with the image",
    };
    accept_hardware(report, &hardware, as_of.to_owned());

    let result = hardware.appraise_guest(policy)?;
    accept_guest(report, &result, policy);

    let bound = bound::bind(result, &bundle)?;
    if let Some(connection) = input.connection {
        session::check_connection(&bound, connection)?;
    }
    accept_leaf(report, &bound, input.connection.is_some());

    bound::appraise_rules(bound.instance(), policy)?;
    accept_rules(report, &bound, policy);
    Ok(())
}

/// What the report covers, and what that does not say.
fn accept_leaf(report: &mut Report, bound: &BoundLeaf, is_this_connection: bool) {
    let what = match bound.leaf().body {
        LeafBody::Build { spki_sha256, statement_sha256, .. } => format!(
            "report covers key {} and statement {}, which were not looked at",
            spki_sha256.short(),
            statement_sha256.short()
        ),
        LeafBody::Key { spki_sha256, .. } => {
            format!("report covers key {} and no build", spki_sha256.short())
        }
        LeafBody::Session { tls_spki_sha256, .. } if is_this_connection => {
            format!(
                "report covers TLS key {}, exporter and nonce of this connection",
                tls_spki_sha256.short()
            )
        }
        LeafBody::Session { tls_spki_sha256, .. } => {
            format!(
                "report covers a connection with TLS key {}, which is not this one",
                tls_spki_sha256.short()
            )
        }
    };
    let instance = bound.instance();
    let epoch = format!("epoch {}: {}", instance.epoch, instance.key_origin.explanation());
    report.accept(Link::Key, vec![what, epoch]);
    let facts = report.facts_mut();
    match bound.leaf().body {
        LeafBody::Build { spki_sha256, statement_sha256, .. } => {
            facts.bound_to = Some("build");
            facts.signing_key = Some(spki_sha256);
            facts.statement = Some(statement_sha256);
        }
        LeafBody::Key { spki_sha256, .. } => {
            facts.bound_to = Some("key");
            facts.signing_key = Some(spki_sha256);
        }
        LeafBody::Session { .. } => facts.bound_to = Some("session"),
    }
}

impl Serialize for EvidenceReport {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let report = &self.report;
        let mut out = serializer.serialize_struct("EvidenceReport", 11)?;
        out.serialize_field("format", APPRAISAL_FORMAT)?;
        out.serialize_field("evidence", &self.evidence())?;
        out.serialize_field("outcome", if self.is_accepted() { "accepted" } else { "refused" })?;
        out.serialize_field("exit_code", &self.exit_code())?;
        out.serialize_field("not_hardware", &report.is_not_hardware())?;
        out.serialize_field("judged_at", &report.judged_at())?;
        out.serialize_field("policy", report.policy())?;
        out.serialize_field("links", &self.links())?;
        out.serialize_field("refusal", &report.refusal())?;
        out.serialize_field("advice", report.advice())?;
        out.serialize_field("facts", report.facts())?;
        out.end()
    }
}

impl fmt::Display for EvidenceReport {
    /// The verdict as a tree, without colours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.report.is_not_hardware() { " (NOT HARDWARE)" } else { "" };
        let outcome = if self.is_accepted() { "ACCEPTED" } else { "REFUSED" };
        writeln!(f, "Evidence {}  {outcome}{mark}", self.evidence())?;
        self.report.write_below(f, &LINKS)
    }
}
