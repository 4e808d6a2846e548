//! Links of the chain that verdicts about images and about Evidence alone have in common: what they say once they hold.

use crate::bound::BoundLeaf;
use crate::evidence::{AppraisedHardware, AttestationResult, short_hex};
use crate::policy::Policy;
use crate::verdict::{Link, Report};

/// Hardware and firmware are accepted.
pub(crate) fn accept_hardware(report: &mut Report, hardware: &AppraisedHardware, as_of: String) {
    let mut lines = hardware.lines();
    lines.push(as_of);
    report.accept(Link::Hardware, lines);
    report.facts_mut().known_flaws = hardware.known_flaws();
}

/// The guest is a Reference Value.
pub(crate) fn accept_guest(report: &mut Report, result: &AttestationResult, policy: &Policy) {
    let reference = result.reference();
    let what = if result.paravisor().is_some() { "PCRs" } else { "launch measurement" };
    let line = format!(
        "{what} {} = {} ({} line {})",
        short_hex(&result.measurement()),
        reference.name,
        policy.file(),
        reference.line
    );
    let registers = result.facts().registers();
    let mut lines = vec![line];
    if !registers.is_empty() {
        let shown =
            registers.iter().map(|(name, value)| format!("{} {}", name.to_uppercase(), short_hex(value)));
        lines.push(shown.collect::<Vec<_>>().join(", "));
    }
    report.accept(Link::Guest, lines);
    let facts = report.facts_mut();
    let reliance = result.reliance();
    facts.reliance = Some(reliance.kind().name());
    facts.relied_verifier = reliance.statement().map(|statement| statement.verifier.clone());
    facts.hardware = Some(result.hardware_name());
    facts.paravisor = result.paravisor().map(str::to_owned);
    facts.chip_id = result.chip_id();
    facts.tcb = Some(result.tcb());
    facts.measurement = Some(result.measurement());
    facts.registers = registers.into_iter().collect();
    facts.guest = Some(reference.name.clone());
    facts.guest_version = Some(reference.guest_version);
}

/// The guest's configuration is accepted.
pub(crate) fn accept_rules(report: &mut Report, bound: &BoundLeaf, policy: &Policy) {
    let instance = bound.instance();
    let trust = instance.trust_configuration_sha256();
    let line = format!(
        "trust configuration {} and build policy {} accepted ({} lines {} and {})",
        trust.short(),
        instance.build_policy_sha256.short(),
        policy.file(),
        policy.trust_configurations().line,
        policy.build_policies().line
    );
    let builder = format!(
        "builder {}, keys from {} (line {})",
        instance.builder_id,
        instance.key_origin.name(),
        policy.key_origins().line
    );
    report.accept(Link::Rules, vec![line, builder]);
    let facts = report.facts_mut();
    facts.builder_id = Some(instance.builder_id.clone());
    facts.key_origin = Some(instance.key_origin);
    facts.trust_configuration = Some(trust);
    facts.build_policy = Some(instance.build_policy_sha256);
}
