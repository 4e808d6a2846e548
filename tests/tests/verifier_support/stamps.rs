//! Timestamps of builds made by hand, by one authority that all tests of a file share.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::OnceLock;

use super::support::PolicyText;
use super::world::{Made, now};
use provenance::digest::Sha256Digest;
use provenance::dsse::Envelope;
use provenance::sigstore::parse_bundle;
use provenance::timestamp::Timestamp;
use sealwright_tests::timestamping::{KeyKind, Signer, TimestampAuthority};
use verifier::{Reason, Verdict, verify_image};

pub(crate) const DAY: i64 = 86_400;

/// One authority for all tests: openssl takes a while.
pub(crate) fn authority() -> &'static (TimestampAuthority, Signer) {
    static AUTHORITY: OnceLock<(TimestampAuthority, Signer)> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let authority = TimestampAuthority::new().expect("an authority");
        let signer = authority.signer(KeyKind::P256).expect("a signer");
        (authority, signer)
    })
}

pub(crate) fn later(days: i64) -> Timestamp {
    Timestamp::from_unix(now().unix() + days * DAY).expect("near now")
}

/// The envelope of the statement, which a timestamp covers.
pub(crate) fn provenance(made: &Made) -> Envelope {
    parse_bundle(&made.input.envelopes[0]).expect("a bundle").envelope
}

pub(crate) fn message(made: &Made) -> Vec<u8> {
    made.bundle.timestamp_message(&provenance(made))
}

pub(crate) fn imprint(made: &Made) -> Sha256Digest {
    Sha256Digest::of(&message(made))
}

/// A policy that demands a timestamp of the authority above `certificate`.
pub(crate) fn demanding(policy: PolicyText, certificate: &str, judged_at: &str) -> PolicyText {
    let pem = authority().0.pem(certificate).expect("PEM");
    policy
        .with("proof = \"none\"", "proof = \"rfc3161\"")
        .with(
            "authorities = []",
            &format!("authorities = [{{ name = \"clock tower\", certificate = \"\"\"\n{pem}\"\"\" }}]"),
        )
        .with("judged_at = \"today\"", &format!("judged_at = \"{judged_at}\""))
}

pub(crate) fn with_timestamp(made: Made, timestamp: Vec<u8>) -> Made {
    made.with_bundle(|bundle| bundle.timestamp = Some(timestamp))
}

pub(crate) fn verdict_at(made: &Made, now: Timestamp) -> Verdict {
    verify_image(&made.parsed_policy(), &made.input, now)
}

pub(crate) fn refused_at(made: &Made, now: Timestamp) -> Reason {
    let verdict = verdict_at(made, now);
    let report = verdict.report();
    report.rejection().unwrap_or_else(|| panic!("not refused:\n{report}")).reason().clone()
}
