//! The `[sev-snp]` table of a policy.

use std::collections::BTreeMap;

use super::read::{Field, Placed, Section};
use super::secure_execution::parse_hex;
use super::{PolicyError, one_of, values};
use crate::roots::Anchors;
use crate::snp::{Product, Tcb};

/// Rules for SEV-SNP reports. DEBUG and MIGRATE_MA have no rule: they are always refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpPolicy {
    /// Lowest report version accepted, 2 to 5.
    pub minimum_report_version: Placed<u32>,
    /// VMPLs accepted.
    pub vmpl: Placed<Vec<u32>>,
    /// Whether reports signed by a cloud provider's VLEK are accepted beside those of the chip's VCEK.
    pub allow_vlek: Placed<bool>,
    /// Whether firmware that is not committed yet (it could be rolled back) is accepted.
    pub allow_provisional_firmware: Placed<bool>,
    /// Whose signature on the ID block is accepted. Without one, GUEST_SVN is what the host says.
    pub id_keys: Placed<BlockKeys>,
    /// Whose signature on the ID key is accepted.
    pub author_keys: Placed<BlockKeys>,
    /// Lowest GUEST_SVN accepted.
    pub minimum_guest_svn: Placed<u32>,
    /// Mitigations demanded.
    pub required_mitigations: MitigationRule,
    /// Lowest TCBs accepted, per product.
    pub minimum_tcb: BTreeMap<Product, MinimumTcb>,
    /// Line of `minimum_tcb`.
    pub minimum_tcb_line: usize,
    /// Rules on the guest policy.
    pub guest_policy: GuestPolicyRule,
    /// Rules on PLATFORM_INFO.
    pub platform: PlatformRule,
}

/// Keys accepted for signatures that the host hands over at launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockKeys {
    /// Any, and none.
    Any,
    /// These SHA-384 digests; 48 zeros stand for no signature.
    OneOf(Vec<[u8; 48]>),
}

impl BlockKeys {
    fn read(field: &Field<'_>) -> Result<Placed<Self>, PolicyError> {
        Ok(match field.text() {
            Ok(_) => field.placed(one_of(field, &[("any", ())]).map(|()| Self::Any)?),
            Err(_) => field.placed(Self::OneOf(values(field, parse_hex)?.value)),
        })
    }
}

/// Bits that the mitigation vectors of a report (version 5) must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MitigationRule {
    /// Of LAUNCH_MIT_VECTOR.
    pub launch: Placed<u64>,
    /// Of CURRENT_MIT_VECTOR.
    pub current: Placed<u64>,
}

/// Lowest TCBs accepted of one product. Each component must reach its minimum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinimumTcb {
    /// Of REPORTED_TCB.
    pub reported: Placed<Tcb>,
    /// Of COMMITTED_TCB.
    pub committed: Placed<Tcb>,
    /// Of LAUNCH_TCB.
    pub launch: Placed<Tcb>,
}

/// Rules on the guest policy bits that a guest may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPolicyRule {
    /// SMT may be on.
    pub allow_smt: Placed<bool>,
    /// CXL may be populated.
    pub allow_cxl: Placed<bool>,
    /// SINGLE_SOCKET must be set.
    pub require_single_socket: Placed<bool>,
    /// MEM_AES_256_XTS must be set.
    pub require_aes_256_xts: Placed<bool>,
    /// RAPL_DIS must be set.
    pub require_rapl_disabled: Placed<bool>,
    /// CIPHERTEXT_HIDING must be set.
    pub require_ciphertext_hiding: Placed<bool>,
    /// PAGE_SWAP_DISABLE must be set.
    pub require_page_swap_disabled: Placed<bool>,
}

/// Rules on the platform's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformRule {
    /// ECC memory must be in use.
    pub require_ecc: Placed<bool>,
    /// The alias check must have completed (CVE-2024-21944, "BadRAM").
    pub require_alias_check: Placed<bool>,
    /// SMT must be off.
    pub require_smt_disabled: Placed<bool>,
    /// Transparent SME must be on.
    pub require_tsme: Placed<bool>,
    /// RAPL must be off.
    pub require_rapl_disabled: Placed<bool>,
    /// Ciphertext hiding must be on.
    pub require_ciphertext_hiding: Placed<bool>,
    /// Trusted I/O must be off.
    pub require_tio_disabled: Placed<bool>,
}

fn flag(section: &mut Section<'_>, key: &str) -> Result<Placed<bool>, PolicyError> {
    let field = section.required(key)?;
    Ok(field.placed(field.boolean()?))
}

fn mitigations(field: &Field<'_>) -> Result<MitigationRule, PolicyError> {
    let mut section = field.table()?;
    let mut bits = |key| {
        let field = section.required(key)?;
        Ok::<_, PolicyError>(field.placed(field.number(u64::MAX)?))
    };
    let rule = MitigationRule { launch: bits("launch")?, current: bits("current")? };
    section.finish()?;
    Ok(rule)
}

impl SnpPolicy {
    pub(super) fn read(field: &Field<'_>, anchors: &Anchors) -> Result<Self, PolicyError> {
        let mut section = field.table()?;
        let version = section.required("minimum_report_version")?;
        let minimum_report_version = match version.number(5)? {
            number @ 2..=5 => version.placed(u32::try_from(number).expect("at most 5")),
            other => return Err(version.error(format!("is {other}, wanted 2 to 5"))),
        };
        let vmpl = section.required("vmpl")?;
        let levels = vmpl
            .array()?
            .iter()
            .map(|item| item.number(3).map(|number| u32::try_from(number).expect("at most 3")))
            .collect::<Result<Vec<_>, _>>()?;
        if levels.is_empty() {
            return Err(vmpl.error("is empty; name at least one VMPL, usually 0"));
        }
        let id_keys = BlockKeys::read(&section.required("id_keys")?)?;
        let svn = section.required("minimum_guest_svn")?;
        let minimum_guest_svn =
            svn.placed(u32::try_from(svn.number(u64::from(u32::MAX))?).expect("limited above"));
        if minimum_guest_svn.value > 0 && id_keys.value == BlockKeys::Any {
            return Err(svn.error(
                "is above 0 while id_keys is \"any\": the host would sign any SVN with a key of its own; list the keys that you trust",
            ));
        }
        let minimum = section.required("minimum_tcb")?;
        let policy = Self {
            minimum_report_version,
            vmpl: vmpl.placed(levels),
            allow_vlek: flag(&mut section, "allow_vlek")?,
            allow_provisional_firmware: flag(&mut section, "allow_provisional_firmware")?,
            id_keys,
            author_keys: BlockKeys::read(&section.required("author_keys")?)?,
            minimum_guest_svn,
            required_mitigations: mitigations(&section.required("required_mitigations")?)?,
            minimum_tcb: minimum_tcbs(&minimum, anchors)?,
            minimum_tcb_line: minimum.place.line,
            guest_policy: guest_policy(&section.required("guest_policy")?)?,
            platform: platform(&section.required("platform")?)?,
        };
        section.finish()?;
        Ok(policy)
    }
}

fn minimum_tcbs(field: &Field<'_>, anchors: &Anchors) -> Result<BTreeMap<Product, MinimumTcb>, PolicyError> {
    let mut section = field.table()?;
    let mut found = BTreeMap::new();
    for product in Product::ALL {
        let entry = if anchors.amd().contains(&product) {
            Some(section.required(product.name())?)
        } else {
            section.optional(product.name())
        };
        let Some(entry) = entry else { continue };
        let mut table = entry.table()?;
        let mut tcb = |key| {
            let field = table.required(key)?;
            Ok::<_, PolicyError>(field.placed(minimum_tcb(&field, product)?))
        };
        let minimum =
            MinimumTcb { reported: tcb("reported")?, committed: tcb("committed")?, launch: tcb("launch")? };
        table.finish()?;
        found.insert(product, minimum);
    }
    section.finish()?;
    if found.is_empty() {
        return Err(field.error("names no product; give milan, genoa or turin"));
    }
    Ok(found)
}

fn minimum_tcb(field: &Field<'_>, product: Product) -> Result<Tcb, PolicyError> {
    let mut section = field.table()?;
    let mut level = |key| {
        let number = section.required(key)?.number(255)?;
        Ok::<_, PolicyError>(u8::try_from(number).expect("at most 255"))
    };
    let tcb = Tcb {
        fmc: if product == Product::Turin { level("fmc")? } else { 0 },
        bootloader: level("bootloader")?,
        tee: level("tee")?,
        snp: level("snp")?,
        microcode: level("microcode")?,
    };
    section.finish()?;
    Ok(tcb)
}

fn guest_policy(field: &Field<'_>) -> Result<GuestPolicyRule, PolicyError> {
    let mut section = field.table()?;
    let rule = GuestPolicyRule {
        allow_smt: flag(&mut section, "allow_smt")?,
        allow_cxl: flag(&mut section, "allow_cxl")?,
        require_single_socket: flag(&mut section, "require_single_socket")?,
        require_aes_256_xts: flag(&mut section, "require_aes_256_xts")?,
        require_rapl_disabled: flag(&mut section, "require_rapl_disabled")?,
        require_ciphertext_hiding: flag(&mut section, "require_ciphertext_hiding")?,
        require_page_swap_disabled: flag(&mut section, "require_page_swap_disabled")?,
    };
    section.finish()?;
    Ok(rule)
}

fn platform(field: &Field<'_>) -> Result<PlatformRule, PolicyError> {
    let mut section = field.table()?;
    let rule = PlatformRule {
        require_ecc: flag(&mut section, "require_ecc")?,
        require_alias_check: flag(&mut section, "require_alias_check")?,
        require_smt_disabled: flag(&mut section, "require_smt_disabled")?,
        require_tsme: flag(&mut section, "require_tsme")?,
        require_rapl_disabled: flag(&mut section, "require_rapl_disabled")?,
        require_ciphertext_hiding: flag(&mut section, "require_ciphertext_hiding")?,
        require_tio_disabled: flag(&mut section, "require_tio_disabled")?,
    };
    section.finish()?;
    Ok(rule)
}
