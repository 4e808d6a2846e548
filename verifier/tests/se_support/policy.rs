//! A policy for Secure Execution: one complete text, of which a test changes one line.
#![allow(dead_code, reason = "each test file uses a part")]

use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::key::PublicKey;
use provenance::secure_execution::{SecureExecutionEndorsements, SecureExecutionEvidence};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use verifier::evidence::{AuthenticEvidence, AuthenticationError, authenticate_with_grounds};
use verifier::reliance::Grounds;
use verifier::secure_execution::{ImageTags, OwnRequest};
use verifier::{Endorsements, Policy};

#[path = "../../../tests/src/policy_text.rs"]
mod policy_text;

pub(crate) use policy_text::PolicyText;

use super::{Answer, Machine, UID, judged_at, test_root};

/// SHA-256 of the policy that the made-up Verifier judges under.
pub(crate) const ITS_POLICY: [u8; 32] = [0x66; 32];

const COMPLETE: &str = r#"[hardware]
platforms = ["secure-execution"]
evidence = ["own-request", "attestation-result"]
roots = []
dangerous_roots = ["ROOT"]
revocation = "crl-required"

[secure-execution]
image_host_keys = ["HOSTKEY"]
attestation_host_keys = ["HOSTKEY"] # opens
config_uids = ["UID"]
allow_key_only = false
verifiers = [
  { name = "auditor", public_key = "KEY",
    policies = ["ITSPOLICY"] },
]

[[reference_values]]
name = "sealwright test guest"
guest_version = 1
platform = "secure-execution"
page_list_digest = "PAGES"
address_list_digest = "ADDRESSES"
tweak_list_digest = "TWEAKS"
tag = "TAG"
"#;

pub(crate) fn verifier_key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes")
}

pub(crate) fn public(key: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_ed25519(key.public_key().as_ref()).expect("a key")
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

impl PolicyText {
    pub(crate) fn of(machine: &Machine) -> Self {
        let tags = ImageTags::of_header(&machine.header).expect("a header");
        [
            ("ROOT", test_root().to_string()),
            ("[\"HOSTKEY\"]\na", format!("[\"{}\"]\na", machine.hash)),
            ("HOSTKEY", machine.hash.to_string()),
            ("UID", hex::encode(UID)),
            ("KEY", base64(public(&verifier_key(1)).spki_der())),
            ("ITSPOLICY", Sha256Digest::from_bytes(ITS_POLICY).to_string()),
            ("PAGES", hex::encode(tags.page_list_digest())),
            ("ADDRESSES", hex::encode(tags.address_list_digest())),
            ("TWEAKS", hex::encode(tags.tweak_list_digest())),
            ("TAG", hex::encode(tags.tag())),
        ]
        .into_iter()
        .fold(Self::of_nobody(COMPLETE), |text, (from, to)| text.with(from, &to))
    }

    pub(crate) fn error(&self) -> String {
        Policy::parse(&self.0, "test.toml").expect_err("refused").to_string()
    }
}

/// Evidence of a bundle.
pub(crate) fn evidence(machine: &Machine, answer: &Answer) -> Evidence {
    let sent = SecureExecutionEndorsements {
        host_keys: vec![machine.document.clone()],
        certificates: machine.extra.certificates.clone(),
        crls: machine.extra.crls.clone(),
    };
    let response = answer.response();
    Evidence {
        platform: Platform::SecureExecution,
        report: SecureExecutionEvidence { response, header: machine.header.clone() }.encode(),
        endorsements: sent.encode(),
    }
}

pub(crate) fn by_own_request(
    evidence: &Evidence,
    own: OwnRequest,
    policy: &Policy,
) -> Result<AuthenticEvidence, AuthenticationError> {
    let grounds = Grounds { own_requests: &[own], attestation_result: None };
    let none = Endorsements::default();
    authenticate_with_grounds(evidence, &none, grounds, policy.anchors(), judged_at())
}
