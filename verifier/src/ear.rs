//! Verdicts in the shape of an EAT Attestation Result (EAR, draft-ietf-rats-ear; labels and profile as the programs in use
//! read them, of which later revisions of the draft spell the labels with underscores), with a trustworthiness vector
//! (draft-ietf-rats-ar4si, §2.3).
//!
//! A claims-set, not signed: it says to other programs of the same Relying Party what the verdict says, and no more than
//! was verified. A claim that nothing was found out about is left out.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::appraisal::EvidenceReport;
use crate::rejection::Class;
use crate::verdict::{Link, Outcome, Report, State};

/// `eat_profile`.
pub const EAR_PROFILE: &str = "tag:github.com,2023:veraison/ear";
/// Name of the only submodule: the guest.
pub const EAR_SUBMODULE: &str = "sealwright-guest";

/// Values of trustworthiness claims (draft-ietf-rats-ar4si, §2.3.4).
mod claim {
    /// Genuine and supported; approved configuration; encrypted memory.
    pub(super) const AFFIRMING: i8 = 2;
    /// Only approved executables were loaded during boot.
    pub(super) const APPROVED_BOOT: i8 = 3;
    /// Genuine, with known vulnerabilities.
    pub(super) const KNOWN_FLAWS: i8 = 32;
    /// What runs is not recognised.
    pub(super) const UNRECOGNISED_EXECUTABLES: i8 = 33;
    /// Recognised and not acceptable.
    pub(super) const CONTRAINDICATED: i8 = 96;
    /// Hardware that is not recognised.
    pub(super) const UNRECOGNISED_HARDWARE: i8 = 97;
    /// Cryptographic validation failed.
    pub(super) const NOT_AUTHENTIC: i8 = 99;
}

impl Report {
    /// The verdict about an image as EAR claims.
    #[must_use]
    pub fn to_ear(&self) -> Value {
        let about = json!({"image": self.target(), "repository": self.repository()});
        ear(self, about, None)
    }
}

impl EvidenceReport {
    /// The verdict about Evidence as EAR claims, with the nonce where the Evidence answered one.
    #[must_use]
    pub fn to_ear(&self) -> Value {
        let nonce = self.connection().map(|connection| URL_SAFE_NO_PAD.encode(connection.nonce.0));
        ear(self.report(), json!({"evidence": self.evidence()}), nonce)
    }
}

fn ear(report: &Report, about: Value, nonce: Option<String>) -> Value {
    let vector = vector(report);
    let mut verdict = json!({
        "outcome": report.outcome(),
        "notHardware": report.is_not_hardware(),
        "refusal": report.refusal(),
        "facts": report.facts(),
    });
    if let (Some(verdict), Value::Object(about)) = (verdict.as_object_mut(), about) {
        verdict.extend(about);
    }
    let mut ear = json!({
        "eat_profile": EAR_PROFILE,
        "iat": report.judged_at().unix(),
        "ear.verifier-id": {
            "developer": "https://sealwright.dev",
            "build": concat!("sealwright-verifier ", env!("CARGO_PKG_VERSION")),
        },
        "submods": {
            EAR_SUBMODULE: {
                "ear.status": status(report, &vector),
                "ear.trustworthiness-vector": vector,
                "ear.appraisal-policy-id": report.policy().sha256,
                // What a verifier adds to Evidence, under a label that EAR libraries know.
                "ear.veraison.annotated-evidence": { "sealwright-verdict": verdict },
            },
        },
    });
    if let (Some(nonce), Some(ear)) = (nonce, ear.as_object_mut()) {
        ear.insert("eat_nonce".to_owned(), nonce.into());
    }
    ear
}

fn state(report: &Report, link: Link) -> State {
    report.links().iter().find(|entry| entry.link == link).map_or(State::NotJudged, |entry| entry.state)
}

/// What was found about hardware, executables and configuration.
fn vector(report: &Report) -> Map<String, Value> {
    let mut vector = Map::new();
    let mut say = |name: &str, value: i8| vector.insert(name.to_owned(), value.into());
    let class = report.refusal().map(|refusal| refusal.class);
    match (state(report, Link::Hardware), class) {
        // Nobody but the policy's owner stands behind such a root.
        (State::Accepted, _) if report.is_not_hardware() => {
            say("hardware", claim::UNRECOGNISED_HARDWARE);
        }
        (State::Accepted, _) => {
            let flawed = !report.facts().known_flaws.is_empty();
            say("hardware", if flawed { claim::KNOWN_FLAWS } else { claim::AFFIRMING });
            // Every platform here encrypts a guest's memory, and debugging, which would show it, is always refused.
            say("runtime-opaque", claim::AFFIRMING);
        }
        (State::Refused, Some(Class::NotAuthentic)) => {
            say("hardware", claim::NOT_AUTHENTIC);
        }
        (State::Refused, Some(Class::RefusedByPolicy)) => {
            say("hardware", claim::CONTRAINDICATED);
        }
        // Endorsements are missing: nothing can be said.
        _ => {}
    }
    match state(report, Link::Guest) {
        State::Accepted => {
            say("executables", claim::APPROVED_BOOT);
        }
        State::Refused => {
            say("executables", claim::UNRECOGNISED_EXECUTABLES);
        }
        State::NotJudged => {}
    }
    match state(report, Link::Rules) {
        State::Accepted => {
            say("configuration", claim::AFFIRMING);
        }
        State::Refused => {
            say("configuration", claim::CONTRAINDICATED);
        }
        State::NotJudged => {}
    }
    vector
}

/// The tier of the whole: no better than the worst claim, and affirming only for a verdict that is a pass.
fn status(report: &Report, vector: &Map<String, Value>) -> &'static str {
    let worst = vector.values().filter_map(Value::as_i64).max().unwrap_or_default();
    match (report.outcome(), report.refusal().map(|refusal| refusal.class)) {
        (Outcome::Refused, Some(Class::Endorsements)) | (Outcome::BlobsNotChecked, _) => "none",
        (Outcome::Refused, _) => "contraindicated",
        (Outcome::Trusted, _) if worst >= i64::from(claim::CONTRAINDICATED) => "contraindicated",
        (Outcome::Trusted, _) if worst >= i64::from(claim::KNOWN_FLAWS) => "warning",
        (Outcome::Trusted, _) => "affirming",
    }
}

#[cfg(test)]
mod tests {
    use provenance::digest::Sha256Digest;
    use provenance::timestamp::Timestamp;

    use super::*;

    /// A verdict under a policy with vendor roots, which nothing that is made here passes.
    fn trusted(known_flaws: &[&str]) -> Report {
        let policy = crate::policy::fixture::vendor_policy();
        let digest = Sha256Digest::of(b"anything");
        let now = Timestamp::from_unix(0).expect("1970");
        let mut report = Report::new(&policy, digest, None, now);
        for link in Link::ALL {
            report.accept(link, Vec::new());
        }
        report.facts_mut().known_flaws = known_flaws.iter().map(|flaw| (*flaw).to_owned()).collect();
        report.with_outcome(Outcome::Trusted)
    }

    #[test]
    fn hardware_is_affirmed_unless_its_vendor_says_what_is_wrong_with_it() {
        for (flaws, status_wanted, hardware) in
            [(&[][..], "affirming", claim::AFFIRMING), (&["SA-1"], "warning", claim::KNOWN_FLAWS)]
        {
            let report = trusted(flaws);
            let said = vector(&report);
            assert_eq!((status(&report, &said), &said["hardware"]), (status_wanted, &json!(hardware)));
            assert_eq!(said["runtime-opaque"], json!(claim::AFFIRMING));
            let mut worse = said;
            worse.insert("executables".to_owned(), json!(claim::CONTRAINDICATED));
            assert_eq!(status(&report, &worse), "contraindicated");
        }
    }
}
