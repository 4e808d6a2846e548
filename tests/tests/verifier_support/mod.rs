//! Policies for the verifier's tests: one complete text, of which a test changes one line.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

#[path = "../../src/policy_text.rs"]
mod policy_text;

pub use policy_text::PolicyText;

/// A complete policy for vendor roots. `MEASUREMENT`, `CALLER` and digests are placeholders.
const COMPLETE: &str = r#"[hardware]
platforms = ["sev-snp"]
evidence = ["hardware"]
roots = ["amd-milan", "amd-genoa", "amd-turin"]
revocation = "crl-if-present"

[sev-snp]
minimum_report_version = 3
vmpl = [0]
allow_vlek = false
allow_provisional_firmware = false
id_keys = "any"
author_keys = "any"
minimum_guest_svn = 0
required_mitigations = { launch = 0, current = 0 }

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
require_smt_disabled = false
require_tsme = false
require_rapl_disabled = false
require_ciphertext_hiding = false
require_tio_disabled = false

[[reference_values]]
name = "sealwright test guest"
guest_version = 1
platform = "sev-snp"
measurement = "MEASUREMENT"
"#;

impl PolicyText {
    /// For vendor roots, with nobody as caller.
    pub fn vendor(measurement: &str) -> Self {
        Self::of_nobody(COMPLETE).with("MEASUREMENT", measurement)
    }

    /// The bare text with its placeholders.
    pub fn template() -> Self {
        Self::open(COMPLETE)
    }
}
