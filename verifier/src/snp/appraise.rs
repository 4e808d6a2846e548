//! Comparing an authentic SEV-SNP report with a policy.

use super::AuthenticReport;
use super::report::{Report, SigningKey, guest_policy, offset, platform_info};
use super::tcb::{Product, Tcb};
use crate::policy::{BlockKeys, Measurements, Placed, Policy, ReferenceValue, SnpPolicy};

/// Why an authentic report is refused. `line` is the line of the policy that refuses it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnpRefusal {
    /// The host can read the guest's memory.
    #[error(
        "guest policy {guest_policy:#x} allows debugging (bit 19, report offset 0x8): the host can read the guest's memory; no policy can accept that"
    )]
    Debug {
        /// The guest policy.
        guest_policy: u64,
    },
    /// The guest can be moved to another host by a migration agent.
    #[error(
        "guest policy {guest_policy:#x} allows a migration agent (bit 18, report offset 0x8); no policy can accept that"
    )]
    MigrationAgent {
        /// The guest policy.
        guest_policy: u64,
    },
    /// The report's version is too low.
    #[error("report version is {got}, policy wants at least {wanted} (report offset 0x0)")]
    ReportVersion {
        /// Version seen.
        got: u32,
        /// Lowest version accepted.
        wanted: u32,
        /// Line of the policy.
        line: usize,
    },
    /// Signed by a VLEK, which the policy does not accept.
    #[error(
        "report is signed by the VLEK of a cloud provider, policy accepts the chip's VCEK only (report offset 0x48)"
    )]
    VlekNotAllowed {
        /// Line of the policy.
        line: usize,
    },
    /// Another VMPL.
    #[error("VMPL is {got}, policy accepts {wanted:?} (report offset 0x30)")]
    Vmpl {
        /// VMPL seen.
        got: u32,
        /// VMPLs accepted.
        wanted: Vec<u32>,
        /// Line of the policy.
        line: usize,
    },
    /// No minimum TCB is named for the product.
    #[error("policy names no minimum TCB for {product}")]
    NoMinimumTcb {
        /// The product.
        product: Product,
        /// Line of the policy.
        line: usize,
    },
    /// A TCB component is too low.
    #[error(
        "{field} is {tcb}: {component} is {got:#04x}, policy wants at least {wanted:#04x} (report offset {offset:#x})"
    )]
    TcbTooLow {
        /// `REPORTED_TCB`, `COMMITTED_TCB` or `LAUNCH_TCB`.
        field: &'static str,
        /// The whole TCB.
        tcb: Tcb,
        /// Component below its minimum.
        component: &'static str,
        /// Its level.
        got: u8,
        /// Lowest level accepted.
        wanted: u8,
        /// Offset of the field in the report.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// The running firmware is not committed.
    #[error(
        "firmware is provisional: current TCB {current}, committed {committed}; it could be rolled back (report offsets 0x38, 0x1e0)"
    )]
    ProvisionalFirmware {
        /// CURRENT_TCB.
        current: Tcb,
        /// COMMITTED_TCB.
        committed: Tcb,
        /// Line of the policy.
        line: usize,
    },
    /// ID block or ID key are not signed by a key of the policy.
    #[error("{field} is {got}, policy accepts {} (report offset {offset:#x}); zeros are no signature", .wanted.join(", "))]
    BlockKey {
        /// `ID_KEY_DIGEST` or `AUTHOR_KEY_DIGEST`.
        field: &'static str,
        /// Digest seen, hex.
        got: String,
        /// Digests accepted, hex.
        wanted: Vec<String>,
        /// Offset of the field in the report.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// A mitigation is missing.
    #[error(
        "{field} is {got:#x}, policy wants all bits of {wanted:#x} (report offset {offset:#x}; zero before report version 5)"
    )]
    Mitigations {
        /// `LAUNCH_MIT_VECTOR` or `CURRENT_MIT_VECTOR`.
        field: &'static str,
        /// Vector seen.
        got: u64,
        /// Bits demanded.
        wanted: u64,
        /// Offset of the field in the report.
        offset: usize,
        /// Line of the policy.
        line: usize,
    },
    /// GUEST_SVN is too low.
    #[error("guest SVN is {got}, policy wants at least {wanted} (report offset 0x4)")]
    GuestSvn {
        /// SVN seen.
        got: u32,
        /// Lowest SVN accepted.
        wanted: u32,
        /// Line of the policy.
        line: usize,
    },
    /// A bit of the guest policy is not as demanded.
    #[error("guest policy {guest_policy:#x}: {bit}, policy says {rule} (report offset 0x8)")]
    GuestPolicy {
        /// The guest policy.
        guest_policy: u64,
        /// What the bit says.
        bit: &'static str,
        /// The rule broken.
        rule: &'static str,
        /// Line of the policy.
        line: usize,
    },
    /// A bit of PLATFORM_INFO is not as demanded.
    #[error("platform info {platform_info:#x}: {bit}, policy says {rule} (report offset 0x40)")]
    PlatformInfo {
        /// PLATFORM_INFO.
        platform_info: u64,
        /// What the bit says.
        bit: &'static str,
        /// The rule broken.
        rule: &'static str,
        /// Line of the policy.
        line: usize,
    },
    /// The launch measurement is none of the Reference Values.
    #[error("launch measurement is {got}, policy accepts {} (report offset 0x90)", .wanted.join(", "))]
    Measurement {
        /// Measurement seen, hex.
        got: String,
        /// Measurements accepted, hex.
        wanted: Vec<String>,
        /// Line of the policy.
        line: usize,
    },
}

impl SnpRefusal {
    /// Line of the policy that refuses, when it is a rule of the policy and not of the verifier.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Debug { .. } | Self::MigrationAgent { .. } => None,
            Self::ReportVersion { line, .. }
            | Self::VlekNotAllowed { line }
            | Self::Vmpl { line, .. }
            | Self::NoMinimumTcb { line, .. }
            | Self::TcbTooLow { line, .. }
            | Self::ProvisionalFirmware { line, .. }
            | Self::BlockKey { line, .. }
            | Self::Mitigations { line, .. }
            | Self::GuestSvn { line, .. }
            | Self::GuestPolicy { line, .. }
            | Self::PlatformInfo { line, .. }
            | Self::Measurement { line, .. } => Some(*line),
        }
    }
}

/// What an accepted report says, with the Reference Value that it matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpAppraisal {
    report: AuthenticReport,
    reference: ReferenceValue,
}

impl SnpAppraisal {
    /// The report.
    #[must_use]
    pub fn authentic(&self) -> &AuthenticReport {
        &self.report
    }

    /// The Reference Value that the launch measurement equals.
    #[must_use]
    pub fn reference(&self) -> &ReferenceValue {
        &self.reference
    }
}

/// Compares hardware, firmware and launch options with the policy: everything but the launch measurement.
pub(crate) fn appraise_hardware(authentic: &AuthenticReport, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    let report = authentic.report();
    let bits = report.guest_policy();
    if bits & guest_policy::DEBUG != 0 {
        return Err(SnpRefusal::Debug { guest_policy: bits });
    }
    if bits & guest_policy::MIGRATE_MA != 0 {
        return Err(SnpRefusal::MigrationAgent { guest_policy: bits });
    }
    let version = &rules.minimum_report_version;
    if report.version() < version.value {
        return Err(SnpRefusal::ReportVersion {
            got: report.version(),
            wanted: version.value,
            line: version.line,
        });
    }
    if report.signing_key() == SigningKey::Vlek && !rules.allow_vlek.value {
        return Err(SnpRefusal::VlekNotAllowed { line: rules.allow_vlek.line });
    }
    if !rules.vmpl.value.contains(&report.vmpl()) {
        return Err(SnpRefusal::Vmpl {
            got: report.vmpl(),
            wanted: rules.vmpl.value.clone(),
            line: rules.vmpl.line,
        });
    }
    tcb(authentic, rules)?;
    mitigations(report, rules)?;
    block_keys(report, rules)?;
    let svn = &rules.minimum_guest_svn;
    if report.guest_svn() < svn.value {
        return Err(SnpRefusal::GuestSvn { got: report.guest_svn(), wanted: svn.value, line: svn.line });
    }
    guest_policy_bits(bits, rules)?;
    platform_bits(report.platform_info(), rules)
}

fn tcb(authentic: &AuthenticReport, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    let product = authentic.product();
    let minimum = rules
        .minimum_tcb
        .get(&product)
        .ok_or(SnpRefusal::NoMinimumTcb { product, line: rules.minimum_tcb_line })?;
    for (field, tcb, wanted, offset) in [
        ("REPORTED_TCB", authentic.reported_tcb(), &minimum.reported, offset::REPORTED_TCB),
        ("COMMITTED_TCB", authentic.committed_tcb(), &minimum.committed, offset::COMMITTED_TCB),
        ("LAUNCH_TCB", authentic.launch_tcb(), &minimum.launch, offset::LAUNCH_TCB),
    ] {
        if let Some((component, got, least)) = tcb.below(&wanted.value) {
            return Err(SnpRefusal::TcbTooLow {
                field,
                tcb,
                component,
                got,
                wanted: least,
                offset,
                line: wanted.line,
            });
        }
    }
    let (current, committed) = (authentic.current_tcb(), authentic.committed_tcb());
    let report = authentic.report();
    let provisional = current != committed || report.current_version() != report.committed_version();
    if provisional && !rules.allow_provisional_firmware.value {
        return Err(SnpRefusal::ProvisionalFirmware {
            current,
            committed,
            line: rules.allow_provisional_firmware.line,
        });
    }
    Ok(())
}

fn mitigations(report: &Report, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    let rule = &rules.required_mitigations;
    for (field, got, wanted, offset) in [
        ("LAUNCH_MIT_VECTOR", report.launch_mitigations(), &rule.launch, offset::LAUNCH_MITIGATIONS),
        ("CURRENT_MIT_VECTOR", report.current_mitigations(), &rule.current, offset::CURRENT_MITIGATIONS),
    ] {
        if got & wanted.value != wanted.value {
            let (wanted, line) = (wanted.value, wanted.line);
            return Err(SnpRefusal::Mitigations { field, got, wanted, offset, line });
        }
    }
    Ok(())
}

fn block_keys(report: &Report, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    for (field, got, accepted, offset) in [
        ("ID_KEY_DIGEST", report.id_key_digest(), &rules.id_keys, offset::ID_KEY_DIGEST),
        ("AUTHOR_KEY_DIGEST", report.author_key_digest(), &rules.author_keys, offset::AUTHOR_KEY_DIGEST),
    ] {
        if let BlockKeys::OneOf(known) = &accepted.value
            && !known.contains(got)
        {
            let (got, wanted) = (hex::encode(got), known.iter().map(hex::encode).collect());
            return Err(SnpRefusal::BlockKey { field, got, wanted, offset, line: accepted.line });
        }
    }
    Ok(())
}

fn guest_policy_bits(bits: u64, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    let rule = &rules.guest_policy;
    let refuse = |bit, name, placed: &Placed<bool>| {
        Err(SnpRefusal::GuestPolicy { guest_policy: bits, bit, rule: name, line: placed.line })
    };
    if bits & guest_policy::SMT != 0 && !rule.allow_smt.value {
        return refuse("SMT may be on (bit 16)", "allow_smt = false", &rule.allow_smt);
    }
    if bits & guest_policy::CXL_ALLOW != 0 && !rule.allow_cxl.value {
        return refuse("CXL may be populated (bit 21)", "allow_cxl = false", &rule.allow_cxl);
    }
    for (bit, what, name, placed) in [
        (
            guest_policy::SINGLE_SOCKET,
            "more than one socket is allowed (bit 20)",
            "require_single_socket = true",
            &rule.require_single_socket,
        ),
        (
            guest_policy::MEM_AES_256_XTS,
            "AES-256-XTS is not required (bit 22)",
            "require_aes_256_xts = true",
            &rule.require_aes_256_xts,
        ),
        (
            guest_policy::RAPL_DIS,
            "RAPL is not disabled (bit 23)",
            "require_rapl_disabled = true",
            &rule.require_rapl_disabled,
        ),
        (
            guest_policy::CIPHERTEXT_HIDING,
            "ciphertext hiding is not required (bit 24)",
            "require_ciphertext_hiding = true",
            &rule.require_ciphertext_hiding,
        ),
        (
            guest_policy::PAGE_SWAP_DISABLE,
            "page swap is not disabled (bit 25)",
            "require_page_swap_disabled = true",
            &rule.require_page_swap_disabled,
        ),
    ] {
        if placed.value && bits & bit == 0 {
            return refuse(what, name, placed);
        }
    }
    Ok(())
}

fn platform_bits(bits: u64, rules: &SnpPolicy) -> Result<(), SnpRefusal> {
    let rule = &rules.platform;
    // The bit, what it must be, and what it says otherwise.
    for (bit, wanted, what, name, placed) in [
        (platform_info::ECC_EN, true, "ECC memory is off (bit 2)", "require_ecc = true", &rule.require_ecc),
        (
            platform_info::ALIAS_CHECK_COMPLETE,
            true,
            "the memory alias check is not complete (bit 5)",
            "require_alias_check = true",
            &rule.require_alias_check,
        ),
        (
            platform_info::SMT_EN,
            false,
            "SMT is on (bit 0)",
            "require_smt_disabled = true",
            &rule.require_smt_disabled,
        ),
        (platform_info::TSME_EN, true, "TSME is off (bit 1)", "require_tsme = true", &rule.require_tsme),
        (
            platform_info::RAPL_DIS,
            true,
            "RAPL is on (bit 3)",
            "require_rapl_disabled = true",
            &rule.require_rapl_disabled,
        ),
        (
            platform_info::CIPHERTEXT_HIDING,
            true,
            "ciphertext hiding is off (bit 4)",
            "require_ciphertext_hiding = true",
            &rule.require_ciphertext_hiding,
        ),
        (
            platform_info::TIO_EN,
            false,
            "trusted I/O is on (bit 7)",
            "require_tio_disabled = true",
            &rule.require_tio_disabled,
        ),
    ] {
        if placed.value && (bits & bit != 0) != wanted {
            return Err(SnpRefusal::PlatformInfo {
                platform_info: bits,
                bit: what,
                rule: name,
                line: placed.line,
            });
        }
    }
    Ok(())
}

/// Compares the launch measurement with the policy's Reference Values.
pub(crate) fn appraise_guest(
    authentic: AuthenticReport,
    policy: &Policy,
) -> Result<SnpAppraisal, SnpRefusal> {
    let got = authentic.report().measurement();
    let mut wanted = Vec::new();
    for reference in policy.reference_values() {
        let Measurements::SevSnp { measurement } = &reference.measurements else { continue };
        if measurement == got {
            return Ok(SnpAppraisal { reference: reference.clone(), report: authentic });
        }
        wanted.push(hex::encode(measurement));
    }
    Err(SnpRefusal::Measurement { got: hex::encode(got), wanted, line: policy.reference_values_line() })
}
