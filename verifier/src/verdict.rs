//! The verdict as a document: the chain hardware → guest → key → request → materials → rules → image, each link
//! accepted, refused or not judged, with reasons. Its JSON is described in `docs/policy.md`.

use std::collections::BTreeMap;
use std::fmt;

use provenance::digest::Sha256Digest;
use provenance::instance::KeyOrigin;
use provenance::timestamp::Timestamp;
use serde::Serialize;

use crate::image::Blob;
use crate::policy::Policy;
use crate::rejection::{Class, Rejection};
use crate::time::SigningTime;

/// `format` of a verdict.
pub const VERDICT_FORMAT: &str = "sealwright-verdict/1";
/// What every output under a root that is no vendor's says.
pub const NOT_HARDWARE: &str = "NOT HARDWARE";

/// A link of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Link {
    /// Evidence is authentic, platform and firmware are accepted.
    Hardware,
    /// The launch measurement is a Reference Value.
    Guest,
    /// The report covers signing key and statement.
    Key,
    /// An accepted caller signed the request that the statement answers.
    Request,
    /// The materials are as complete as demanded.
    Materials,
    /// Trust configuration, build policy, builder id and origin of the keys are accepted.
    Rules,
    /// Manifests, signatures and blobs are what the statement names.
    Image,
}

impl Link {
    /// All links, in order.
    pub const ALL: [Self; 7] =
        [Self::Hardware, Self::Guest, Self::Key, Self::Request, Self::Materials, Self::Rules, Self::Image];

    /// Its name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Guest => "guest",
            Self::Key => "key",
            Self::Request => "request",
            Self::Materials => "materials",
            Self::Rules => "rules",
            Self::Image => "image",
        }
    }
}

/// What was found about a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It holds.
    Accepted,
    /// It does not.
    Refused,
    /// It was not looked at, because an earlier link does not hold.
    NotJudged,
}

/// The outcome as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything holds.
    Trusted,
    /// Everything holds but the blobs, which nobody has read yet. Not a pass.
    BlobsNotChecked,
    /// Something does not hold.
    Refused,
}

/// One link of a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkReport {
    /// The link.
    pub link: Link,
    /// What was found.
    pub state: State,
    /// Facts for people, a line each; for a refused link first the reason, then where.
    pub lines: Vec<String>,
}

/// A refusal in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusalReport {
    /// The kind of refusal.
    pub class: Class,
    /// The link that is broken.
    pub link: Link,
    /// What was seen and what was wanted.
    pub message: String,
    /// Where in the policy the rule stands, `prod.toml line 12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// The policy a report was made under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Name of the file.
    pub file: String,
    /// SHA-256 of its text.
    pub sha256: Sha256Digest,
}

/// What was established about a build, for machines. Filled as far as the chain holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// `SEV-SNP Milan`.
    pub hardware: Option<String>,
    /// Name in the policy of Microsoft's paravisor, which is trusted too; on Azure only.
    pub paravisor: Option<String>,
    /// On whose word it rests: `hardware`, `own-request` or `attestation-result`.
    pub reliance: Option<&'static str>,
    /// The Verifier's name in the policy, under `attestation-result`.
    pub relied_verifier: Option<String>,
    /// What the Evidence covers: `build`, or `key` where it says nothing about this build.
    pub bound_to: Option<&'static str>,
    /// Chip id in hex.
    pub chip_id: Option<String>,
    /// TCB reported.
    pub tcb: Option<String>,
    /// Launch measurement in hex.
    pub measurement: Option<String>,
    /// Measurement registers beside it, in hex; TDX only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub registers: BTreeMap<&'static str, String>,
    /// What the vendor says is wrong with hardware and firmware, and the policy accepts: TCB status, advisories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub known_flaws: Vec<String>,
    /// Name of the Reference Value that it equals.
    pub guest: Option<String>,
    /// Number of that release.
    pub guest_version: Option<u64>,
    /// SHA-256 of the SPKI of the signing key.
    pub signing_key: Option<Sha256Digest>,
    /// SHA-256 of the statement.
    pub statement: Option<Sha256Digest>,
    /// When it was signed, and who says so.
    pub signing_time: Option<SigningTime>,
    /// The time that certificates were judged at, where it is a proven time of the past.
    pub judged_as_of: Option<Timestamp>,
    /// SHA-256 of the SPKI of the caller's key.
    pub caller: Option<Sha256Digest>,
    /// The caller's name in the policy.
    pub caller_name: Option<String>,
    /// SHA-256 of the signed request.
    pub request: Option<Sha256Digest>,
    /// Id of the project.
    pub project: Option<String>,
    /// Name of the project.
    pub project_name: Option<String>,
    /// Number of materials.
    pub materials: Option<usize>,
    /// Builder id.
    pub builder_id: Option<String>,
    /// Where the keys come from, so who else could know them.
    pub key_origin: Option<KeyOrigin>,
    /// SHA-256 of the trust configuration.
    pub trust_configuration: Option<Sha256Digest>,
    /// SHA-256 of the build policy.
    pub build_policy: Option<Sha256Digest>,
}

/// A verdict about an image. A report is for reading; what a program may act on is [`crate::image::TrustedImage`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    format: &'static str,
    target: Sha256Digest,
    repository: Option<String>,
    outcome: Outcome,
    exit_code: u8,
    not_hardware: bool,
    judged_at: Timestamp,
    policy: PolicyReport,
    links: Vec<LinkReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    advice: Vec<String>,
    facts: Facts,
    blobs: Vec<Blob>,
    #[serde(skip)]
    rejection: Option<Rejection>,
}

impl Report {
    pub(crate) fn new(
        policy: &Policy,
        target: Sha256Digest,
        repository: Option<String>,
        now: Timestamp,
    ) -> Self {
        let not_judged = |link| LinkReport { link, state: State::NotJudged, lines: Vec::new() };
        Self {
            format: VERDICT_FORMAT,
            target,
            repository,
            outcome: Outcome::Refused,
            exit_code: Class::NotAuthentic.exit_code(),
            not_hardware: policy.is_dangerous(),
            judged_at: now,
            policy: PolicyReport { file: policy.file().to_owned(), sha256: policy.sha256() },
            links: Link::ALL.map(not_judged).to_vec(),
            refusal: None,
            advice: Vec::new(),
            facts: Facts::default(),
            blobs: Vec::new(),
            rejection: None,
        }
    }

    pub(crate) fn accept(&mut self, link: Link, lines: Vec<String>) {
        if let Some(entry) = self.links.iter_mut().find(|entry| entry.link == link) {
            entry.state = State::Accepted;
            entry.lines = lines;
        }
    }

    pub(crate) fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    pub(crate) fn set_blobs(&mut self, blobs: Vec<Blob>) {
        self.blobs = blobs;
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self.exit_code = match outcome {
            Outcome::Trusted => 0,
            Outcome::BlobsNotChecked | Outcome::Refused => Class::NotAuthentic.exit_code(),
        };
        self
    }

    pub(crate) fn refused(self, rejection: &Rejection) -> Self {
        self.refused_at(rejection.link(), rejection)
    }

    pub(crate) fn refused_at(mut self, link: Link, rejection: &Rejection) -> Self {
        self.outcome = Outcome::Refused;
        self.exit_code = rejection.class().exit_code();
        let place = rejection.policy_place().map(ToString::to_string);
        if let Some(entry) = self.links.iter_mut().find(|entry| entry.link == link) {
            entry.state = State::Refused;
            entry.lines = vec![rejection.to_string()];
            entry.lines.extend(place.as_ref().map(|place| format!("policy: {place}")));
        }
        for entry in self.links.iter_mut().filter(|entry| entry.link > link) {
            entry.state = State::NotJudged;
            entry.lines.clear();
        }
        self.refusal = Some(RefusalReport {
            class: rejection.class(),
            link,
            message: rejection.to_string(),
            policy: place,
        });
        self.advice = rejection.advice();
        self.rejection = Some(rejection.clone());
        self
    }

    /// Digest of the image that was judged.
    #[must_use]
    pub fn target(&self) -> Sha256Digest {
        self.target
    }

    /// Repository that the image was asked for by.
    #[must_use]
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// The outcome.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Exit code for commands: 0 trusted, 3 refused by policy, 4 not authentic, 8 endorsements missing or stale.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// Whether the policy names a root that is no vendor's.
    #[must_use]
    pub fn is_not_hardware(&self) -> bool {
        self.not_hardware
    }

    /// The time judged at.
    #[must_use]
    pub fn judged_at(&self) -> Timestamp {
        self.judged_at
    }

    /// The policy judged under.
    #[must_use]
    pub fn policy(&self) -> &PolicyReport {
        &self.policy
    }

    /// The links, in order.
    #[must_use]
    pub fn links(&self) -> &[LinkReport] {
        &self.links
    }

    /// The refusal, if there is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&RefusalReport> {
        self.refusal.as_ref()
    }

    /// The refusal with its typed reason, for programs in this process.
    #[must_use]
    pub fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// What to do after a refusal.
    #[must_use]
    pub fn advice(&self) -> &[String] {
        &self.advice
    }

    /// What was established, for machines.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Blobs of the image.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    pub(crate) fn accepted_links(&self) -> usize {
        self.links.iter().filter(|entry| entry.state == State::Accepted).count()
    }
}

impl fmt::Display for Report {
    /// The verdict as a tree, without colours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .repository
            .as_ref()
            .map_or_else(|| self.target.to_string(), |name| format!("{name}@{}", self.target));
        let mark = if self.not_hardware { " (NOT HARDWARE)" } else { "" };
        let outcome = match self.outcome {
            Outcome::Trusted => "TRUSTED",
            Outcome::BlobsNotChecked => "BLOBS NOT CHECKED",
            Outcome::Refused => "REFUSED",
        };
        writeln!(f, "{name}  {outcome}{mark}")?;
        self.write_below(f, &Link::ALL)
    }
}

impl Report {
    /// The links of these kinds as a tree, then what to do.
    pub(crate) fn write_below(&self, f: &mut fmt::Formatter<'_>, shown: &[Link]) -> fmt::Result {
        let links: Vec<_> = self.links.iter().filter(|entry| shown.contains(&entry.link)).collect();
        for (index, entry) in links.iter().enumerate() {
            let last = index + 1 == links.len();
            let (branch, below) = if last { ("└─", "  ") } else { ("├─", "│ ") };
            let sign = match entry.state {
                State::Accepted => "✓",
                State::Refused => "✗",
                State::NotJudged => " ",
            };
            let not_judged = ["not judged".to_owned()];
            let lines = if entry.state == State::NotJudged { &not_judged[..] } else { &entry.lines };
            for (number, line) in lines.iter().enumerate() {
                // What an image says of itself stands in these lines: it must not draw lines of its own.
                let line = line.replace(char::is_control, "\u{fffd}");
                match number {
                    0 => writeln!(f, "{branch} {:<10} {sign} {line}", entry.link.name())?,
                    _ => writeln!(f, "{below} {:<10}   {line}", "")?,
                }
            }
        }
        for line in &self.advice {
            writeln!(f, "what to do: {line}")?;
        }
        if let Some(refusal) = &self.refusal {
            writeln!(f, "exit {}: {}", self.exit_code, refusal.class)?;
        }
        Ok(())
    }
}
