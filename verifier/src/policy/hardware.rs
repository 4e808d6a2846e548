//! The `[hardware]` table of a policy: platforms, kinds of Evidence, roots.

use provenance::evidence::Platform;

use super::read::{Field, Placed};
use super::{PolicyError, digest, one_of};
use crate::reliance::EvidenceKind;
use crate::roots::{Anchors, Revocation};
use crate::snp::Product;

/// What the table says.
pub(super) struct Hardware {
    pub(super) platforms: Vec<Placed<Platform>>,
    pub(super) evidence_kinds: Placed<Vec<EvidenceKind>>,
    pub(super) anchors: Anchors,
    /// Line of the roots.
    pub(super) roots_line: usize,
    /// Line of the rule on revocation.
    pub(super) revocation_line: usize,
}

pub(super) fn hardware(field: &Field<'_>) -> Result<Hardware, PolicyError> {
    let mut section = field.table()?;
    let platforms = section.required("platforms")?.parsed_list(|text| {
        Platform::ALL.into_iter().find(|platform| platform.name() == text).ok_or_else(|| {
            let names: Vec<_> = Platform::ALL.map(|platform| format!("\"{}\"", platform.name())).to_vec();
            format!("is \"{text}\", wanted {}", names.join(", "))
        })
    })?;
    let evidence_kinds = evidence_kinds(&section.required("evidence")?, &platforms)?;
    let revocation_field = section.required("revocation")?;
    let revocation = one_of(
        &revocation_field,
        &[("crl-required", Revocation::CrlRequired), ("crl-if-present", Revocation::CrlIfPresent)],
    )?;
    let roots_field = section.required("roots")?;
    let mut amd = Vec::new();
    let (mut intel, mut ibm) = (false, false);
    for item in roots_field.array()? {
        match item.parsed(vendor_root)? {
            VendorRoot::Amd(product) => amd.push(product),
            VendorRoot::Intel => intel = true,
            VendorRoot::Ibm => ibm = true,
        }
    }
    let dangerous = match section.optional("dangerous_roots") {
        None => Vec::new(),
        Some(field) => field.parsed_list(digest)?.into_iter().map(|placed| placed.value).collect(),
    };
    if amd.is_empty() && !intel && !ibm && dangerous.is_empty() {
        return Err(roots_field.error("is empty; name at least one vendor root, such as \"amd-genoa\""));
    }
    section.finish()?;
    let anchors = Anchors::vendor(&amd, revocation).dangerous_with_roots(&dangerous);
    let anchors = if intel { anchors.with_intel() } else { anchors };
    let anchors = if ibm { anchors.with_ibm() } else { anchors };
    Ok(Hardware {
        platforms,
        evidence_kinds,
        anchors,
        roots_line: roots_field.place.line,
        revocation_line: revocation_field.place.line,
    })
}

/// Kinds of Evidence: "hardware" exactly when a platform signs by itself, the others only for Secure Execution.
fn evidence_kinds(
    field: &Field<'_>,
    platforms: &[Placed<Platform>],
) -> Result<Placed<Vec<EvidenceKind>>, PolicyError> {
    let names = EvidenceKind::ALL.map(|kind| (kind.name(), kind));
    let kinds: Vec<_> = field.array()?.iter().map(|item| one_of(item, &names)).collect::<Result<_, _>>()?;
    if kinds.is_empty() {
        return Err(field.error("is empty; at least one value is needed"));
    }
    let signs = platforms.iter().any(|platform| platform.value != Platform::SecureExecution);
    let answers = platforms.iter().any(|platform| platform.value == Platform::SecureExecution);
    let hardware = kinds.contains(&EvidenceKind::Hardware);
    let others = kinds.iter().any(|kind| *kind != EvidenceKind::Hardware);
    let problem = match (signs, hardware, answers, others) {
        (true, false, ..) => "has no \"hardware\", the kind of Evidence that SEV-SNP and TDX give",
        (false, true, ..) => {
            "has \"hardware\", which Secure Execution cannot give; name \"own-request\" or \"attestation-result\""
        }
        (_, _, true, false) => {
            "has neither \"own-request\" nor \"attestation-result\", the kinds of Evidence of Secure Execution"
        }
        (_, _, false, true) => "has a kind of Secure Execution, which `hardware.platforms` does not have",
        _ => return Ok(field.placed(kinds)),
    };
    Err(field.error(problem))
}

enum VendorRoot {
    Amd(Product),
    Intel,
    Ibm,
}

fn vendor_root(text: &str) -> Result<VendorRoot, String> {
    match text {
        "intel-sgx" => return Ok(VendorRoot::Intel),
        "ibm-host-keys" => return Ok(VendorRoot::Ibm),
        _ => {}
    }
    let amd = Product::ALL.into_iter().find(|product| text.strip_prefix("amd-") == Some(product.name()));
    amd.map(VendorRoot::Amd).ok_or_else(|| {
        format!(
            "is \"{text}\", wanted \"amd-milan\", \"amd-genoa\", \"amd-turin\", \"intel-sgx\" or \"ibm-host-keys\""
        )
    })
}
