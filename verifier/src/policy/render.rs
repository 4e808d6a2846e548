//! Writing a first policy: strict, commented, and complete as far as the Reference Values and the caller allow.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::instance::KeyOrigin;
use provenance::key::PublicKey;
use provenance::materials::MaterialClass;
use provenance::project::ProjectId;

use super::azure_values::ParavisorKeys;
use super::{POLICY_FORMAT, ParavisorValues, ReferenceValues, Requirement, TdxRegister};
use crate::snp::{Product, Tcb};

/// What a policy needs beside the Reference Values. Lists here are added to those of the Reference Values.
#[derive(Debug, Clone, Default)]
pub struct PolicyTemplate {
    /// Callers by name.
    pub callers: Vec<(String, PublicKey)>,
    /// Projects.
    pub projects: Vec<ProjectId>,
    /// Builder ids.
    pub builder_ids: Vec<String>,
    /// Trust configurations by digest.
    pub trust_configurations: Vec<Sha256Digest>,
    /// Build policies by digest.
    pub build_policies: Vec<Sha256Digest>,
    /// Roots that are no vendor's. If there are any, the policy names no vendor root and says what that means.
    pub dangerous_roots: Vec<Sha256Digest>,
    /// Requirements on materials that differ from [`usual_requirement`].
    pub materials: BTreeMap<MaterialClass, Requirement>,
}

/// The requirement that a new policy writes for a class.
#[must_use]
pub const fn usual_requirement(class: MaterialClass) -> Requirement {
    match class {
        MaterialClass::Secrets => Requirement::Committed,
        // What steps fetch themselves, cache mounts and forwarded agents cannot be listed by digest yet.
        MaterialClass::Network | MaterialClass::Cache | MaterialClass::Ssh => Requirement::IncompleteOk,
        _ => Requirement::Observed,
    }
}

/// Lowest TCB that a new policy writes: the firmware that AMD-SB-3019 (microcode signature verification) and its
/// successors ask for.
const fn usual_minimum(product: Product) -> Tcb {
    match product {
        Product::Milan => Tcb { fmc: 0, bootloader: 4, tee: 0, snp: 24, microcode: 219 },
        Product::Genoa => Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
        Product::Turin => Tcb { fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 81 },
    }
}

/// tcbEvaluationDataNumber that a new policy demands: the one that Intel served in February 2026, whose current levels
/// are dated 2024-11-13.
const USUAL_EVALUATION_DATA_NUMBER: u32 = 18;
/// XFAM that a new policy allows: bits 0 to 2 (x87, SSE, AVX), 5 to 7 (AVX-512), 9 (PKU), 17 and 18 (AMX).
const USUAL_XFAM: u64 = 0x602e7;

/// Text in TOML quotes. JSON escapes of a string without control characters are TOML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("strings always serialise")
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

fn union<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Vec<T> {
    let mut all = a.to_vec();
    all.extend(b.iter().filter(|item| !a.contains(item)).cloned());
    all
}

fn tcb(product: Product, tcb: &Tcb) -> String {
    let fmc = if product == Product::Turin { format!("fmc = {}, ", tcb.fmc) } else { String::new() };
    format!(
        "{{ {fmc}bootloader = {}, tee = {}, snp = {}, microcode = {} }}",
        tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode
    )
}

/// A commented TOML policy from Reference Values whose signature has been checked.
///
/// A list that neither argument fills is written empty, and the policy is refused until it is filled: what is
/// unknown is never accepted.
#[must_use]
pub fn policy_from_reference_values(values: &ReferenceValues, template: &PolicyTemplate) -> String {
    let mut out = String::new();
    let dangerous = union(&values.dangerous_roots, &template.dangerous_roots);
    // Writing to a String cannot fail.
    let _ = write_policy(&mut out, values, template, &dangerous);
    out
}

fn write_policy(
    out: &mut String,
    values: &ReferenceValues,
    template: &PolicyTemplate,
    dangerous: &[Sha256Digest],
) -> std::fmt::Result {
    writeln!(out, "# Appraisal policy for sealwright verify. Every key is explained in docs/policy.md.")?;
    writeln!(out, "# Nothing here is optional: a key that is missing or unknown is an error.")?;
    writeln!(out, "format = {}\n", quoted(POLICY_FORMAT))?;
    writeln!(
        out,
        "# As of when certificates are judged: \"today\", the day of the verification; or \"signing\", with a proof."
    )?;
    writeln!(out, "judged_at = \"today\"\n")?;
    writeln!(
        out,
        "# How the time of signing is to be proven: \"none\", or \"rfc3161\" by a timestamp of these authorities"
    )?;
    writeln!(out, "# (name, certificate of their CA). A build without the proof demanded is refused.")?;
    writeln!(out, "[time]")?;
    writeln!(out, "proof = \"none\"")?;
    writeln!(out, "authorities = []\n")?;
    writeln!(out, "[hardware]")?;
    let (snp, tdx) = (values.platforms.sev_snp.as_ref(), values.platforms.tdx.as_ref());
    let se = values.platforms.secure_execution.as_ref();
    let (az_snp, az_tdx) = (values.platforms.az_snp.as_ref(), values.platforms.az_tdx.as_ref());
    let platforms = [
        snp.map(|_| Platform::SevSnp),
        tdx.map(|_| Platform::Tdx),
        se.map(|_| Platform::SecureExecution),
        az_snp.map(|_| Platform::AzSnp),
        az_tdx.map(|_| Platform::AzTdx),
    ];
    writeln!(out, "platforms = {}", list(platforms.into_iter().flatten().map(Platform::name)))?;
    writeln!(out, "# Kinds of Evidence: \"hardware\" is a report signed by the platform itself.")?;
    let (on_amd, on_intel) = (snp.is_some() || az_snp.is_some(), tdx.is_some() || az_tdx.is_some());
    let signed = (on_amd || on_intel).then_some("hardware");
    if se.is_some() {
        writeln!(
            out,
            "# \"own-request\": an answer to your own attestation request, which convinces nobody else."
        )?;
        writeln!(out, "# \"attestation-result\" can be added: the word of a Verifier that you name.")?;
    }
    let kinds = signed.into_iter().chain(se.map(|_| "own-request"));
    writeln!(out, "evidence = {}", list(kinds))?;
    if dangerous.is_empty() {
        if on_amd {
            writeln!(
                out,
                "# Not \"amd-milan\": seeds of EPYC Milan chips can be read out in software, and whoever"
            )?;
            writeln!(
                out,
                "# has one signs any report as that chip (docs/trust.md, Past attacks). Add it only"
            )?;
            writeln!(out, "# for machines of a host that you trust not to.")?;
        }
        let amd = if on_amd { &["amd-genoa", "amd-turin"][..] } else { &[] };
        let intel = on_intel.then_some("intel-sgx");
        writeln!(
            out,
            "roots = {}",
            list(amd.iter().copied().chain(intel).chain(se.map(|_| "ibm-host-keys")))
        )?;
    } else {
        writeln!(out, "roots = []")?;
        writeln!(
            out,
            "# DANGEROUS: these root keys are no vendor's. Whoever holds one can forge any Evidence, so what"
        )?;
        writeln!(
            out,
            "# this policy accepts is NOT HARDWARE, and every output says so. For development only."
        )?;
        writeln!(out, "dangerous_roots = {}", list(dangerous))?;
    }
    writeln!(out, "# \"crl-required\" demands a fresh revocation list of the root with the Evidence.")?;
    writeln!(out, "revocation = \"crl-if-present\"\n")?;
    let vendor = dangerous.is_empty();
    if snp.is_some() {
        write_snp(out, "sev-snp", vendor)?;
    }
    if tdx.is_some() {
        write_tdx(out, "tdx", vendor)?;
    }
    if let Some(values) = az_snp {
        write_azure(out, "az-snp", &values.paravisors)?;
        write_snp(out, "az-snp.hardware", vendor)?;
    }
    if let Some(values) = az_tdx {
        write_azure(out, "az-tdx", &values.paravisors)?;
        write_tdx(out, "az-tdx.hardware", vendor)?;
    }

    if let Some(values) = se {
        write_se(out, &values.host_keys)?;
    }

    writeln!(out, "# Launch measurements of guests that you trust.")?;
    write_references(out, values)?;
    writeln!(out, "[guest]")?;
    writeln!(out, "builder_ids = {}", list(union(&values.builder_ids, &template.builder_ids)))?;
    writeln!(out, "# Where the keys that sign may come from, which tells who else could know them.")?;
    if se.is_some() {
        writeln!(
            out,
            "# Not from a secret of a Secure Execution guest, which its owner knows: add such an origin"
        )?;
        writeln!(
            out,
            "# (docs/formats.md, Instance document) if the owner is somebody whom you trust with them."
        )?;
    }
    let origins = [
        Some(KeyOrigin::BootEphemeral),
        snp.map(|_| KeyOrigin::SnpDerivedKey),
        (!vendor).then_some(KeyOrigin::DangerousSoftware),
    ];
    writeln!(out, "key_origins = {}", list(origins.into_iter().flatten().map(KeyOrigin::name)))?;
    writeln!(
        out,
        "# SHA-256 of the trust configurations (projects, registries, egress) a guest may run under."
    )?;
    writeln!(
        out,
        "trust_configurations = {}",
        list(union(&values.trust_configurations, &template.trust_configurations))
    )?;
    writeln!(out, "build_policies = {}\n", list(union(&values.build_policies, &template.build_policies)))?;

    writeln!(out, "# Who may have asked for a build. With `projects` too, both must hold.")?;
    writeln!(out, "[request]")?;
    if !template.projects.is_empty() {
        writeln!(out, "projects = {}", list(&template.projects))?;
    }
    if !template.callers.is_empty() || template.projects.is_empty() {
        writeln!(out, "callers = [")?;
        for (name, key) in &template.callers {
            writeln!(out, "  {{ name = {}, spki_sha256 = \"{}\",", quoted(name), key.spki_sha256())?;
            writeln!(out, "    public_key = \"{}\" }},", STANDARD.encode(key.spki_der()))?;
        }
        writeln!(out, "]")?;
    }

    writeln!(out, "\n# The weakest statement about each class of materials that you accept:")?;
    writeln!(out, "#   none           the build had nothing of this class")?;
    writeln!(out, "#   observed       or: the guest saw every byte and lists it by digest")?;
    writeln!(out, "#   committed      or: the signed request commits to the values")?;
    writeln!(
        out,
        "#   incomplete-ok  or: something may have gone in that is not listed (the verdict names it)"
    )?;
    writeln!(out, "[materials]")?;
    for class in MaterialClass::ALL {
        let requirement = template.materials.get(&class).copied().unwrap_or(usual_requirement(class));
        writeln!(out, "{} = \"{}\"", class.name(), requirement.name())?;
    }
    Ok(())
}

/// `[[reference_values]]` tables of all that a release measures to.
pub(super) fn reference_tables(values: &ReferenceValues) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_references(&mut out, values);
    out
}

fn write_references(out: &mut String, values: &ReferenceValues) -> std::fmt::Result {
    let platforms = &values.platforms;
    let (snp, tdx) = (platforms.sev_snp.as_ref(), platforms.tdx.as_ref());
    let se = platforms.secure_execution.as_ref();
    let (az_snp, az_tdx) = (platforms.az_snp.as_ref(), platforms.az_tdx.as_ref());
    for measurement in snp.iter().flat_map(|values| &values.measurements) {
        write_reference(out, values, "sev-snp")?;
        writeln!(out, "measurement = \"{}\"\n", hex::encode(measurement.as_bytes()))?;
    }
    for measurements in tdx.iter().flat_map(|values| &values.measurements) {
        write_reference(out, values, "tdx")?;
        for register in TdxRegister::ALL {
            let value = hex::encode(measurements.register(register).as_bytes());
            writeln!(out, "{} = \"{value}\"", register.name())?;
        }
        writeln!(out)?;
    }

    for image in se.iter().flat_map(|values| &values.images) {
        write_reference(out, values, "secure-execution")?;
        for (key, digits) in [
            ("page_list_digest", &image.page_list_digest),
            ("address_list_digest", &image.address_list_digest),
            ("tweak_list_digest", &image.tweak_list_digest),
            ("tag", &image.tag),
        ] {
            writeln!(out, "{key} = \"{}\"", digits.as_str())?;
        }
        writeln!(out)?;
    }

    for (platform, pcrs) in az_snp
        .iter()
        .flat_map(|values| values.measurements.iter().map(|pcrs| ("az-snp", pcrs)))
        .chain(az_tdx.iter().flat_map(|values| values.measurements.iter().map(|pcrs| ("az-tdx", pcrs))))
    {
        write_reference(out, values, platform)?;
        pcrs.write(out)?;
        writeln!(out)?;
    }
    Ok(())
}

fn write_reference(out: &mut String, values: &ReferenceValues, platform: &str) -> std::fmt::Result {
    writeln!(out, "[[reference_values]]")?;
    writeln!(out, "name = {}", quoted(&values.name))?;
    writeln!(out, "guest_version = {}", values.guest_version)?;
    writeln!(out, "platform = \"{platform}\"")
}

fn write_se(out: &mut String, host_keys: &[Sha256Digest]) -> std::fmt::Result {
    writeln!(out, "[secure-execution]")?;
    writeln!(
        out,
        "# Machines that may unpack the image, and that may answer, by the hash of their host key."
    )?;
    writeln!(out, "image_host_keys = {}", list(host_keys))?;
    writeln!(out, "attestation_host_keys = {}", list(host_keys))?;
    writeln!(out, "# \"any-run\", or a list of configuration unique ids.")?;
    writeln!(out, "config_uids = \"any-run\"")?;
    writeln!(out, "# Verifiers whose Attestation Results you rely on: name, public_key, policies.")?;
    writeln!(out, "verifiers = []")?;
    writeln!(out, "# A Result about the signing key alone says nothing about a single build.")?;
    writeln!(out, "allow_key_only = false\n")
}

fn write_azure<Measured: ParavisorKeys>(
    out: &mut String,
    table: &str,
    paravisors: &[ParavisorValues<Measured>],
) -> std::fmt::Result {
    writeln!(
        out,
        "# The guest runs behind Microsoft's paravisor, which is trusted too: only its TPM speaks of the guest."
    )?;
    writeln!(out, "[{table}]")?;
    writeln!(out, "# Paravisors that you trust, by what they measure to.")?;
    writeln!(out, "paravisors = [")?;
    for paravisor in paravisors {
        writeln!(out, "  {{ name = {}, {} }},", quoted(&paravisor.name), paravisor.measurement.keys())?;
    }
    writeln!(out, "]")?;
    writeln!(out, "# \"any-of-paravisor\", or a list of attestation keys of single machines.")?;
    writeln!(out, "attestation_keys = \"any-of-paravisor\"\n")
}

fn write_tdx(out: &mut String, table: &str, vendor: bool) -> std::fmt::Result {
    writeln!(out, "[{table}]")?;
    writeln!(
        out,
        "# Intel's word on the platform. \"OutOfDate\" and others can be added, \"Revoked\" cannot."
    )?;
    writeln!(out, "tcb_statuses = [\"UpToDate\"]")?;
    if vendor {
        writeln!(out, "# Raise it after each TCB recovery of Intel; the number stands in Intel's TCB info.")?;
    }
    let number = if vendor { USUAL_EVALUATION_DATA_NUMBER } else { 0 };
    writeln!(out, "minimum_tcb_evaluation_data_number = {number}")?;
    writeln!(
        out,
        "# \"endorsed\": every TDX module that Intel's TCB info knows; or a list of MRSEAM values."
    )?;
    writeln!(out, "modules = \"endorsed\"")?;
    writeln!(out, "# Attributes beside SEPT_VE_DISABLE, such as \"pks\" or \"perfmon\".")?;
    writeln!(out, "attributes_allowed = []")?;
    writeln!(out, "# x87, SSE, AVX, AVX-512, PKU, AMX.")?;
    writeln!(out, "xfam_allowed = {USUAL_XFAM:#x}")?;
    writeln!(out, "# TD 1.0 bodies do not show whether another TD is bound as a service.")?;
    writeln!(out, "allow_td_1_0 = true\n")
}

fn write_snp(out: &mut String, table: &str, vendor: bool) -> std::fmt::Result {
    writeln!(out, "[{table}]")?;
    writeln!(out, "minimum_report_version = 3")?;
    writeln!(out, "vmpl = [0]")?;
    writeln!(out, "# VLEK: a cloud provider's key, which says nothing about which chip.")?;
    writeln!(out, "allow_vlek = false")?;
    writeln!(out, "# Firmware that could still be rolled back.")?;
    writeln!(out, "allow_provisional_firmware = false")?;
    writeln!(
        out,
        "# Who may have signed the ID block and its key: \"any\", or SHA-384 digests of the keys. Under \"any\" the SVN"
    )?;
    writeln!(out, "# of the guest is what the host says, and no minimum can be demanded.")?;
    writeln!(out, "id_keys = \"any\"")?;
    writeln!(out, "author_keys = \"any\"")?;
    writeln!(out, "minimum_guest_svn = 0")?;
    writeln!(out, "# Bits of the mitigation vectors; reports have them from version 5 on.")?;
    writeln!(out, "required_mitigations = {{ launch = 0x0, current = 0x0 }}\n")?;
    if vendor {
        writeln!(out, "# Lowest security patch levels; raise them when AMD publishes a bulletin.")?;
    }
    for product in Product::ALL {
        let minimum = if vendor {
            usual_minimum(product)
        } else {
            Tcb { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0 }
        };
        writeln!(out, "[{table}.minimum_tcb.{}]", product.name())?;
        for field in ["reported", "committed", "launch"] {
            writeln!(out, "{field} = {}", tcb(product, &minimum))?;
        }
    }
    writeln!(out, "\n[{table}.guest_policy]")?;
    writeln!(out, "allow_smt = true")?;
    writeln!(out, "allow_cxl = false")?;
    for key in ["single_socket", "aes_256_xts", "rapl_disabled", "ciphertext_hiding", "page_swap_disabled"] {
        writeln!(out, "require_{key} = false")?;
    }
    writeln!(out, "\n[{table}.platform]")?;
    writeln!(out, "require_ecc = {vendor}")?;
    writeln!(out, "require_alias_check = {vendor}")?;
    for key in ["smt_disabled", "tsme", "rapl_disabled", "ciphertext_hiding", "tio_disabled"] {
        writeln!(out, "require_{key} = false")?;
    }
    writeln!(out)
}
