//! Policies for the verifier's tests: one complete text, of which a test changes one line.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use verifier::Policy;

/// A complete policy for vendor roots. `MEASUREMENT`, `CALLER` and digests are placeholders.
const COMPLETE: &str = r#"format = "sealwright-policy/1"
judged_at = "today"

[hardware]
platforms = ["sev-snp"]
evidence = ["hardware"]
roots = ["amd-milan", "amd-genoa", "amd-turin"]
revocation = "crl-if-present"

[sev-snp]
minimum_report_version = 3
vmpl = [0]
allow_vlek = false
allow_provisional_firmware = false
minimum_guest_svn = 0

[sev-snp.minimum_tcb.milan]
reported = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
committed = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
launch = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }

[sev-snp.minimum_tcb.genoa]
reported = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
committed = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }
launch = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }

[sev-snp.minimum_tcb.turin]
reported = { fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }
committed = { fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }
launch = { fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }

[sev-snp.guest_policy]
allow_smt = true
allow_cxl = false
require_single_socket = false
require_aes_256_xts = false
require_rapl_disabled = false
require_ciphertext_hiding = false
require_page_swap_disabled = false

[sev-snp.platform]
require_ecc = false
require_alias_check = false

[[reference_values]]
name = "sealwright test guest"
guest_version = 1
platform = "sev-snp"
measurement = "MEASUREMENT"

[guest]
builder_ids = ["BUILDER"]
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

const NOBODY: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The text of a complete policy that a test may change.
#[derive(Clone)]
pub struct PolicyText(pub String);

impl PolicyText {
    /// For vendor roots, with nobody as caller.
    pub fn vendor(measurement: &str) -> Self {
        Self(COMPLETE.replace("MEASUREMENT", measurement))
            .with("BUILDER", "https://builder.example")
            .with("TRUST", NOBODY)
            .with("RULES", NOBODY)
            .with("CALLER", NOBODY)
    }

    /// The bare text with its placeholders.
    pub fn template() -> Self {
        Self(COMPLETE.to_owned())
    }

    /// Replaces the one place where `from` stands.
    #[must_use]
    pub fn with(self, from: &str, to: &str) -> Self {
        assert_eq!(self.0.matches(from).count(), 1, "`{from}` must stand in the policy exactly once");
        Self(self.0.replacen(from, to, 1))
    }

    /// Line on which `text` first stands, counted from 1.
    pub fn line_of(&self, text: &str) -> usize {
        1 + self.0.lines().position(|line| line.contains(text)).expect("the text stands in the policy")
    }

    /// The policy.
    pub fn parse(&self) -> Policy {
        Policy::parse(&self.0, "test.toml").unwrap_or_else(|error| panic!("{error}"))
    }
}
