//! The `[time]` table of a policy and `judged_at`: how the time of signing is to be proven, and as of when is judged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::read::{Field, Placed};
use super::{PolicyError, name, one_of};
use crate::x509::{Certificate, Profile};

/// Rules about time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimePolicy {
    /// What must prove the time of signing.
    pub proof: Placed<TimeProof>,
    /// Time-stamping authorities believed; empty exactly when no proof is demanded.
    pub authorities: Placed<Vec<TimeAuthority>>,
    /// As of when is judged.
    pub judged_at: JudgedAt,
}

/// What must prove the time of signing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeProof {
    /// Nothing; the time is unproven. A timestamp that is there must hold in itself, and is not believed.
    None,
    /// A timestamp of a named authority (RFC 3161).
    Rfc3161,
}

/// As of when certificates and documents about platforms are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedAt {
    /// The day of the verification.
    Today,
    /// The proven time of signing.
    Signing,
}

/// An authority whose timestamps are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeAuthority {
    /// Name for messages.
    pub name: String,
    /// Certificate of its CA, DER.
    pub certificate: Vec<u8>,
}

impl TimePolicy {
    pub(super) fn read(field: &Field<'_>, judged_at: &Field<'_>) -> Result<Placed<Self>, PolicyError> {
        let mut section = field.table()?;
        let proof_field = section.required("proof")?;
        let proof = one_of(&proof_field, &[("none", TimeProof::None), ("rfc3161", TimeProof::Rfc3161)])?;
        let list = section.required("authorities")?;
        let authorities = list.array()?.iter().map(authority).collect::<Result<Vec<_>, _>>()?;
        section.finish()?;
        match (proof, authorities.is_empty()) {
            (TimeProof::Rfc3161, true) => {
                return Err(
                    list.error("is empty, but `time.proof` is \"rfc3161\"; name at least one authority")
                );
            }
            (TimeProof::None, false) => {
                return Err(
                    list.error("names an authority, but `time.proof` is \"none\", so it is not believed")
                );
            }
            _ => {}
        }
        let judged = one_of(judged_at, &[("today", JudgedAt::Today), ("signing", JudgedAt::Signing)])?;
        if judged == JudgedAt::Signing && proof == TimeProof::None {
            return Err(judged_at.error(
                "is \"signing\", but `time.proof` is \"none\": what nothing proves is never judged as of then",
            ));
        }
        Ok(field.placed(Self {
            proof: proof_field.placed(proof),
            authorities: list.placed(authorities),
            judged_at: judged,
        }))
    }
}

fn authority(item: &Field<'_>) -> Result<TimeAuthority, PolicyError> {
    let mut section = item.table()?;
    let authority = TimeAuthority {
        name: name(&section.required("name")?)?,
        certificate: section.required("certificate")?.parsed(parse_certificate)?,
    };
    section.finish()?;
    Ok(authority)
}

/// A certificate as PEM (`BEGIN CERTIFICATE`) or as base64 of the DER.
fn parse_certificate(text: &str) -> Result<Vec<u8>, String> {
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let der = STANDARD.decode(body).map_err(|_| "is neither PEM nor base64 of a certificate".to_owned())?;
    let certificate = Certificate::parse(&der, Profile::TimeStamping).map_err(|error| error.to_string())?;
    match certificate.is_authority() {
        Ok(true) => Ok(der),
        _ => {
            Err("is no certificate authority's; name the CA above the authority's signing certificate"
                .to_owned())
        }
    }
}
