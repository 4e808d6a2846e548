//! Text of a complete policy around the rules of one platform. Who asked for what is not judged in vectors.

#[path = "../policy_text.rs"]
mod policy_text;

use policy_text::PolicyText;
use verifier::Policy;

/// A policy from the `[hardware]` lines, the platform's tables and one reference value.
pub(super) fn policy(hardware: &str, tables: &str, reference: &str) -> Result<Policy, String> {
    let platform = format!(
        r#"[hardware]
evidence = ["hardware"]
{hardware}

{tables}

[[reference_values]]
name = "recorded guest"
guest_version = 1
{reference}
"#
    );
    let text = PolicyText::of_nobody(&platform).0;
    Policy::parse(&text, "strict default of the vectors").map_err(|error| error.to_string())
}
