//! Text of a complete policy around the rules of one platform. Who asked for what is not judged in vectors.

use verifier::Policy;

const NOBODY: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A policy from the `[hardware]` lines, the platform's tables and one reference value.
pub(super) fn policy(hardware: &str, tables: &str, reference: &str) -> Result<Policy, String> {
    let text = format!(
        r#"format = "sealwright-policy/1"
judged_at = "today"

[hardware]
evidence = ["hardware"]
{hardware}

{tables}

[[reference_values]]
name = "recorded guest"
guest_version = 1
{reference}

[guest]
builder_ids = ["https://builder.example"]
trust_configurations = ["{NOBODY}"]
build_policies = ["{NOBODY}"]

[request]
callers = [{{ name = "nobody", spki_sha256 = "{NOBODY}" }}]

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
"#
    );
    Policy::parse(&text, "strict default of the vectors").map_err(|error| error.to_string())
}
