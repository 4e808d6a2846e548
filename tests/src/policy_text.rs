//! Text of a complete policy, of which a test changes one line: what is about one platform stands between what is the same
//! for all.

#![allow(dead_code, unreachable_pub, reason = "each test that includes it uses its own part")]

use provenance::digest::Sha256Digest;
use verifier::Policy;

/// The digest of nothing in particular.
const NOBODY: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

const HEAD: &str = r#"format = "sealwright-policy/1"
judged_at = "today"

[time]
proof = "none"
authorities = []

"#;

const REST: &str = r#"
[guest]
builder_ids = ["BUILDER"]
key_origins = ["boot-ephemeral", "dangerous-software"]
trust_configurations = ["TRUST"]
build_policies = ["RULES"]

[request]
callers = [{ name = "ci", spki_sha256 = "CALLER" }]

[materials]
context = "observed"
named-contexts = "observed"
base-images = "observed"
sources = "observed"
network = "observed"
cache = "observed"
parameters = "observed"
secrets = "committed"
ssh = "none"
engine = "observed"
"#;

const OWN_REQUESTS: &str = r#"[hardware]
platforms = ["secure-execution"]
evidence = ["own-request"]
roots = []
dangerous_roots = ["ROOT"]
revocation = "crl-if-present"

[secure-execution]
image_host_keys = ["HOST-KEY"]
attestation_host_keys = ["ACCEPTED"]
config_uids = "any-run"
verifiers = []
allow_key_only = false

[[reference_values]]
name = "image"
guest_version = 1
platform = "secure-execution"
page_list_digest = "DIGEST"
address_list_digest = "DIGEST"
tweak_list_digest = "DIGEST"
tag = "TAG"
"#;

/// The text of a complete policy that a test may change.
#[derive(Clone)]
pub struct PolicyText(pub String);

impl PolicyText {
    /// From `[hardware]` to the reference values, with `BUILDER`, `TRUST`, `RULES` and `CALLER` in what follows.
    #[must_use]
    pub fn open(platform: &str) -> Self {
        Self(format!("{HEAD}{platform}{REST}"))
    }

    /// With nobody as caller, of a guest that is not judged.
    #[must_use]
    pub fn of_nobody(platform: &str) -> Self {
        Self::open(platform)
            .with("BUILDER", "https://builder.example")
            .with("TRUST", NOBODY)
            .with("RULES", NOBODY)
            .with("CALLER", NOBODY)
    }

    /// For answers to own Secure Execution requests: the root that signs host key documents, the host keys of image and
    /// answer, and the byte in hex of which the digests and the tag of the image consist.
    #[must_use]
    pub fn of_own_requests(
        root: &Sha256Digest,
        image: &Sha256Digest,
        answer: &Sha256Digest,
        byte: &str,
    ) -> Self {
        let platform = OWN_REQUESTS
            .replace("ROOT", &root.to_string())
            .replace("HOST-KEY", &image.to_string())
            .replace("ACCEPTED", &answer.to_string())
            .replace("DIGEST", &byte.repeat(64))
            .replace("TAG", &byte.repeat(16));
        Self::of_nobody(&platform)
    }

    /// Replaces the one place where `from` stands.
    ///
    /// # Panics
    ///
    /// When it does not stand there exactly once.
    #[must_use]
    pub fn with(self, from: &str, to: &str) -> Self {
        assert_eq!(self.0.matches(from).count(), 1, "`{from}` must stand in the policy exactly once");
        Self(self.0.replacen(from, to, 1))
    }

    /// Line on which `text` first stands, counted from 1.
    ///
    /// # Panics
    ///
    /// When it does not stand there.
    #[must_use]
    pub fn line_of(&self, text: &str) -> usize {
        1 + self.0.lines().position(|line| line.contains(text)).expect("the text stands in the policy")
    }

    /// The policy.
    ///
    /// # Panics
    ///
    /// When it is none.
    pub fn parse(&self) -> Policy {
        Policy::parse(&self.0, "test.toml").unwrap_or_else(|error| panic!("{error}"))
    }
}
