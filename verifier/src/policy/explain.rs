//! A policy in plain words: what is accepted, and which checks it is written not to make.

use serde::Serialize;

use provenance::digest::Sha256Digest;

use super::{
    AcceptedModules, AttestationKeys, AzurePolicy, BlockKeys, ConfigUids, GuestPolicyRule, JudgedAt,
    Measurements, MinimumTcb, MitigationRule, PcrRule, PcrRules, Placed, PlatformRule, Policy, Requirement,
    SePolicy, SnpPolicy, TdAttribute, TdxPolicy, TimePolicy, TimeProof,
};
use crate::evidence::short_hex;
use crate::roots::Revocation;
use crate::snp::{Product, Tcb};
use crate::tdx::TcbStatus;

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Name of the file.
    pub file: String,
    /// SHA-256 of its text.
    pub sha256: Sha256Digest,
    /// Whether it names a root that is no vendor's.
    pub not_hardware: bool,
    /// What is accepted, by subject.
    pub accepts: Vec<Section>,
    /// Checks that it is written not to make.
    pub skips: Vec<Skip>,
}

/// What is accepted about one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Section {
    /// `hardware`, `time`, a platform, `guest`, `request`, `materials` or `rules`.
    pub about: String,
    /// A sentence each.
    pub lines: Vec<String>,
}

/// A check that the policy is written not to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skip {
    /// Path of the key that says so.
    pub key: String,
    /// Its line.
    pub line: usize,
    /// What is not checked, or what an attacker gains.
    pub what: String,
}

#[derive(Default)]
struct Words {
    accepts: Vec<Section>,
    skips: Vec<Skip>,
}

impl Words {
    fn accept(&mut self, about: &str, lines: Vec<String>) {
        self.accepts.push(Section { about: about.to_owned(), lines });
    }

    fn skip(&mut self, key: impl Into<String>, line: usize, what: impl Into<String>) {
        self.skips.push(Skip { key: key.into(), line, what: what.into() });
    }

    /// A switch that, where it is on, leaves a check out.
    fn skip_if(&mut self, key: String, switch: &Placed<bool>, what: &str) {
        if switch.value {
            self.skip(key, switch.line, what);
        }
    }
}

impl Policy {
    /// Says in plain words what is accepted, and what is written not to be checked.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let mut words = Words::default();
        hardware(self, &mut words);
        time(self.time(), &mut words);
        if let Some(rules) = self.snp() {
            let lines = snp(rules, "sev-snp", &mut words);
            words.accept("SEV-SNP", lines);
        }
        if let Some(rules) = self.tdx() {
            let lines = tdx(rules, "tdx", &mut words);
            words.accept("TDX", lines);
        }
        if let Some(rules) = self.secure_execution() {
            let lines = secure_execution(rules, &mut words);
            words.accept("Secure Execution", lines);
        }
        if let Some(rules) = self.az_snp() {
            let mut lines = paravisors(rules, "az-snp", &mut words);
            lines.extend(snp(&rules.hardware, "az-snp.hardware", &mut words));
            words.accept("Azure SEV-SNP", lines);
        }
        if let Some(rules) = self.az_tdx() {
            let mut lines = paravisors(rules, "az-tdx", &mut words);
            lines.extend(tdx(&rules.hardware, "az-tdx.hardware", &mut words));
            words.accept("Azure TDX", lines);
        }
        let references = self.reference_values().iter().map(|value| {
            let measured = measured(&value.measurements);
            format!("{} (guest version {}): {measured}, line {}", value.name, value.guest_version, value.line)
        });
        words.accept("guest", references.collect());
        for (index, value) in self.reference_values().iter().enumerate() {
            if let Measurements::AzSnp(rules) | Measurements::AzTdx(rules) = &value.measurements {
                left_pcrs(index, rules, &mut words);
            }
        }
        request(self, &mut words);
        materials(self, &mut words);
        words.accept("rules", rules(self));
        Explanation {
            file: self.file().to_owned(),
            sha256: self.sha256(),
            not_hardware: self.is_dangerous(),
            accepts: words.accepts,
            skips: words.skips,
        }
    }
}

fn time(rules: &Placed<TimePolicy>, words: &mut Words) {
    let mut lines = match rules.value.proof.value {
        TimeProof::None => {
            let what = "when it was signed: times are the guest's claims, and its clock is the host's";
            words.skip("time.proof", rules.value.proof.line, what);
            Vec::new()
        }
        TimeProof::Rfc3161 => {
            let names = rules.value.authorities.value.iter().map(|authority| &authority.name);
            vec![format!("a timestamp of {} must prove when it was signed", join(names))]
        }
    };
    lines.push(match rules.value.judged_at {
        JudgedAt::Today => "certificates are judged as of the day of the verification".to_owned(),
        JudgedAt::Signing => {
            "certificates are judged as of the proven time, revocation as of the day of the verification"
                .to_owned()
        }
    });
    words.accept("time", lines);
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

fn hardware(policy: &Policy, words: &mut Words) {
    let anchors = policy.anchors();
    let platforms = join(policy.platforms().iter().map(|platform| platform.value));
    let mut lines = vec![format!("Evidence of {platforms}")];
    lines.push(format!("kinds of Evidence: {}", join(&policy.evidence_kinds().value)));
    let amd = anchors.amd().iter().map(|product| format!("AMD {product}"));
    let intel = anchors.accepts_intel().then(|| "Intel".to_owned());
    let ibm = anchors.accepts_ibm().then(|| "IBM's host keys".to_owned());
    let roots: Vec<_> = amd.chain(intel).chain(ibm).collect();
    if !roots.is_empty() {
        lines.push(format!("endorsed by the roots of {}", roots.join(", ")));
    }
    for root in anchors.dangerous() {
        lines.push(format!("NOT HARDWARE: endorsed by root {root}, which is no vendor's"));
    }
    if anchors.amd().contains(&Product::Milan) {
        words.skip(
            "hardware.roots",
            policy.roots_line(),
            "whether EPYC Milan is a chip: its seeds can be read out in software, and one signs any report",
        );
    }
    match anchors.revocation() {
        Revocation::CrlRequired => {
            lines.push("a fresh revocation list of the root must be at hand".to_owned());
        }
        Revocation::CrlIfPresent if policy.snp().is_none() && policy.az_snp().is_none() => {}
        Revocation::CrlIfPresent => words.skip(
            "hardware.revocation",
            policy.revocation_line(),
            "whether AMD revoked a certificate, where no revocation list is at hand",
        ),
    }
    if !anchors.dangerous().is_empty() {
        words.skip(
            "hardware.dangerous_roots",
            policy.roots_line(),
            "whether it is hardware at all: whoever holds such a root key can forge all Evidence",
        );
    }
    words.accept("hardware", lines);
}

fn snp(rules: &SnpPolicy, path: &str, words: &mut Words) -> Vec<String> {
    let key = |name: &str| format!("{path}.{name}");
    let keys = if rules.allow_vlek.value {
        "reports signed by a chip's VCEK or a cloud provider's VLEK"
    } else {
        "reports signed by a chip's VCEK"
    };
    let mut lines = vec![
        format!("{keys}, version {} or newer", rules.minimum_report_version.value),
        format!(
            "asked for at VMPL {}, guest SVN {} or higher",
            join(&rules.vmpl.value),
            rules.minimum_guest_svn.value
        ),
        "never with debugging or migration".to_owned(),
    ];
    words.skip_if(key("allow_vlek"), &rules.allow_vlek, "which chip it is, under a cloud provider's VLEK");
    words.skip_if(
        key("allow_provisional_firmware"),
        &rules.allow_provisional_firmware,
        "whether the firmware can be rolled back after the report",
    );
    if rules.minimum_report_version.value < 3 {
        let what = "the CPU against the certificate's product: reports of version 2 do not show it";
        words.skip(key("minimum_report_version"), rules.minimum_report_version.line, what);
    }
    for (name, what, keys) in [
        ("id_keys", "who signed the ID block: the guest's SVN is the host's word", &rules.id_keys),
        ("author_keys", "who signed the key of the ID block", &rules.author_keys),
    ] {
        match &keys.value {
            BlockKeys::Any => words.skip(key(name), keys.line, what),
            BlockKeys::OneOf(known) => {
                lines.push(format!("{name} {}", join(known.iter().map(|key| short_hex(&hex::encode(key))))));
            }
        }
    }
    let MitigationRule { launch, current } = &rules.required_mitigations;
    if (launch.value, current.value) != (0, 0) {
        lines.push(format!("mitigations {:#x} at launch, {:#x} now", launch.value, current.value));
    }
    if rules.vmpl.value.iter().any(|level| *level > 0) {
        let what = "what runs at VMPL 0: a guest at a higher one rests on it";
        words.skip(key("vmpl"), rules.vmpl.line, what);
    }
    for (product, minimum) in &rules.minimum_tcb {
        lines.push(minimum_words(*product, minimum, path, words));
    }
    guest_policy(&rules.guest_policy, path, &mut lines, words);
    platform_state(&rules.platform, path, &mut lines, words);
    lines
}

/// `Milan: TCB at least 04.00.18.db reported, …`
fn minimum_words(product: Product, minimum: &MinimumTcb, path: &str, words: &mut Words) -> String {
    let mut stated = Vec::new();
    let zero = Tcb { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0 };
    for (name, tcb) in
        [("reported", &minimum.reported), ("committed", &minimum.committed), ("launch", &minimum.launch)]
    {
        if tcb.value == zero {
            let key = format!("{path}.minimum_tcb.{}.{name}", product.name());
            words.skip(key, tcb.line, format!("the {name} TCB of {product}: any, known flaws included"));
        } else {
            stated.push(format!("{} {name}", tcb.value));
        }
    }
    let stated =
        if stated.is_empty() { "any TCB".to_owned() } else { format!("TCB at least {}", stated.join(", ")) };
    format!("{product}: {stated}")
}

/// Splits demands into those made and those not made.
fn demands(all: &[(&Placed<bool>, &str)], key: String, lines: &mut Vec<String>, words: &mut Words) {
    let (made, left): (Vec<_>, Vec<_>) = all.iter().partition(|(demand, _)| demand.value);
    if !made.is_empty() {
        lines.push(format!("demanded: {}", join(made.iter().map(|(_, what)| *what))));
    }
    if let Some((first, _)) = left.first() {
        words.skip(key, first.line, format!("not demanded: {}", join(left.iter().map(|(_, what)| *what))));
    }
}

fn guest_policy(rule: &GuestPolicyRule, path: &str, lines: &mut Vec<String>, words: &mut Words) {
    let allowed = |rule: &Placed<bool>| if rule.value { "allowed" } else { "not allowed" };
    lines.push(format!("SMT {}, CXL memory {}", allowed(&rule.allow_smt), allowed(&rule.allow_cxl)));
    let all = [
        (&rule.require_single_socket, "single socket"),
        (&rule.require_aes_256_xts, "AES-256-XTS"),
        (&rule.require_rapl_disabled, "RAPL off"),
        (&rule.require_ciphertext_hiding, "ciphertext hiding"),
        (&rule.require_page_swap_disabled, "page swap off"),
    ];
    demands(&all, format!("{path}.guest_policy"), lines, words);
}

fn platform_state(rule: &PlatformRule, path: &str, lines: &mut Vec<String>, words: &mut Words) {
    let all = [
        (&rule.require_ecc, "ECC memory"),
        (&rule.require_alias_check, "memory alias check (CVE-2024-21944)"),
        (&rule.require_smt_disabled, "SMT off"),
        (&rule.require_tsme, "TSME"),
        (&rule.require_rapl_disabled, "RAPL off"),
        (&rule.require_ciphertext_hiding, "ciphertext hiding"),
        (&rule.require_tio_disabled, "trusted I/O off"),
    ];
    demands(&all, format!("{path}.platform"), lines, words);
}

fn tdx(rules: &TdxPolicy, path: &str, words: &mut Words) -> Vec<String> {
    let key = |name: &str| format!("{path}.{name}");
    let modules = match &rules.modules.value {
        AcceptedModules::Endorsed => "every TDX module that Intel knows at an accepted status".to_owned(),
        AcceptedModules::Listed(all) => {
            format!("TDX modules {}", join(all.iter().map(|module| short_hex(&hex::encode(module)))))
        }
    };
    let attributes = match rules.attributes_allowed.value.as_slice() {
        [] => "no attribute beside SEPT_VE_DISABLE".to_owned(),
        some => format!("attributes {}", join(some.iter().map(|attribute: &TdAttribute| attribute.name()))),
    };
    let number = &rules.minimum_tcb_evaluation_data_number;
    if number.value == 0 {
        let what =
            "the age of Intel's documents: those from before a TCB recovery pass while they are current";
        words.skip(key("minimum_tcb_evaluation_data_number"), number.line, what);
    }
    let statuses = &rules.tcb_statuses;
    let weaker: Vec<_> = statuses
        .value
        .iter()
        .filter(|status| **status != TcbStatus::UpToDate)
        .map(|status| status.name())
        .collect();
    if !weaker.is_empty() {
        let what = format!("whether the platform is up to date: {} passes too", weaker.join(", "));
        words.skip(key("tcb_statuses"), statuses.line, what);
    }
    words.skip_if(
        key("allow_td_1_0"),
        &rules.allow_td_1_0,
        "whether a service TD is bound, in quotes with a TD 1.0 body",
    );
    vec![
        format!("TCB status {}", join(statuses.value.iter().map(|status| status.name()))),
        format!("Intel's documents of evaluation {} or newer", number.value),
        modules,
        format!("{attributes}; XFAM within {:#x}", rules.xfam_allowed.value),
        "never with debugging, migration, a service TD or SEPT_VE_DISABLE clear".to_owned(),
    ]
}

fn secure_execution(rules: &SePolicy, words: &mut Words) -> Vec<String> {
    let keys = |keys: &[Sha256Digest]| join(keys.iter().map(Sha256Digest::short));
    let mut lines = vec![
        format!("images unpacked under host keys {}", keys(&rules.image_host_keys.value)),
        format!("requests opened under host keys {}", keys(&rules.attestation_host_keys.value)),
    ];
    match &rules.config_uids.value {
        ConfigUids::AnyRun => words.skip(
            "secure-execution.config_uids",
            rules.config_uids.line,
            "which run of an accepted image it is",
        ),
        ConfigUids::OneOf(uids) => lines.push(format!("runs {}", join(uids.iter().map(hex::encode)))),
    }
    for rule in &rules.verifiers.value {
        lines.push(format!(
            "Attestation Results of \"{}\" under its policies {}",
            rule.verifier.name,
            keys(&rule.policies.value)
        ));
    }
    words.skip_if(
        "secure-execution.allow_key_only".to_owned(),
        &rules.allow_key_only,
        "whether the Evidence is of this build, where a Result covers the signing key alone",
    );
    lines
}

fn paravisors<H, M>(rules: &AzurePolicy<H, M>, path: &str, words: &mut Words) -> Vec<String> {
    let names =
        rules.paravisors.value.iter().map(|paravisor| format!("{}, line {}", paravisor.name, paravisor.line));
    let mut lines = vec![
        "behind Azure's paravisor, which is then part of what is trusted".to_owned(),
        format!("paravisors {}", join(names)),
    ];
    match &rules.attestation_keys.value {
        AttestationKeys::OneOf(keys) => {
            lines.push(format!("TPM attestation keys {}", join(keys.iter().map(Sha256Digest::short))));
        }
        AttestationKeys::AnyOfParavisor => words.skip(
            format!("{path}.attestation_keys"),
            rules.attestation_keys.line,
            "which machine it is: any with an accepted paravisor",
        ),
    }
    lines
}

/// PCRs of a reference value that may be anything.
fn left_pcrs(index: usize, rules: &PcrRules, words: &mut Words) {
    let left: Vec<usize> =
        (0..PcrRules::COUNT).filter(|pcr| rules.rule(*pcr).value == PcrRule::NotJudged).collect();
    if let Some(first) = left.first() {
        let key = format!("reference_values[{index}].pcr{first}");
        words.skip(key, rules.rule(*first).line, format!("what was measured into PCR {}", join(&left)));
    }
}

fn measured(measurements: &Measurements) -> String {
    match measurements {
        Measurements::SevSnp { measurement } => {
            format!("SEV-SNP launch measurement {}", short_hex(&hex::encode(measurement)))
        }
        Measurements::Tdx(registers) => {
            let mrtd = registers.register(super::TdxRegister::Mrtd);
            format!("TDX, all eight registers, MRTD {}", short_hex(&hex::encode(mrtd.value)))
        }
        Measurements::AzSnp(rules) | Measurements::AzTdx(rules) => {
            let judged = (0..PcrRules::COUNT).filter(|pcr| rules.rule(*pcr).value != PcrRule::NotJudged);
            format!("PCR {} of the TPM", join(judged))
        }
        Measurements::SecureExecution(tags) => {
            format!(
                "Secure Execution image, all four tags, {}",
                short_hex(&hex::encode(tags.value.as_bytes()))
            )
        }
    }
}

fn request(policy: &Policy, words: &mut Words) {
    let mut lines = Vec::new();
    for caller in policy.callers().iter().flat_map(|callers| &callers.value) {
        lines.push(format!("asked for by {} ({}), line {}", caller.name, caller.spki_sha256, caller.line));
    }
    match (policy.callers(), policy.projects()) {
        (callers, Some(projects)) => {
            let both = if callers.is_some() { "and of" } else { "asked for by any member of" };
            let ids = projects.value.iter().map(|project| format!("{both} project {project}"));
            lines.extend(ids);
        }
        (_, None) => lines.push("of any project".to_owned()),
    }
    words.accept("request", lines);
}

fn materials(policy: &Policy, words: &mut Words) {
    let mut lines = Vec::new();
    for requirement in Requirement::ALL {
        let classes = policy
            .materials()
            .iter()
            .filter(|(_, rule)| rule.value == requirement)
            .map(|(class, _)| class.name());
        let classes = join(classes);
        let what = match requirement {
            Requirement::None => "nothing of",
            Requirement::Observed => "every byte listed of",
            Requirement::Committed => "every byte listed, or committed to by the request, of",
            // These stand among what is not checked.
            Requirement::IncompleteOk => continue,
        };
        if !classes.is_empty() {
            lines.push(format!("{what} {classes}"));
        }
    }
    for (class, rule) in policy.materials() {
        if rule.value == Requirement::IncompleteOk {
            let key = format!("materials.{}", class.name());
            words.skip(key, rule.line, format!("whether all that went in of {} is listed", class.name()));
        }
    }
    words.accept("materials", lines);
}

fn rules(policy: &Policy) -> Vec<String> {
    vec![
        format!("builders {}", join(&policy.builder_ids().value)),
        format!(
            "keys from {}",
            join(policy.key_origins().value.iter().map(|origin| origin.name()).collect::<Vec<_>>())
        ),
        format!("trust configurations {}", join(&policy.trust_configurations().value)),
        format!("build policies {}", join(&policy.build_policies().value)),
    ]
}
