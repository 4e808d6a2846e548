//! The Evidence envelope (RATS, RFC 9334): a conceptual message wrapper collection (CMW, RFC 9999) in JSON.
//!
//! ```json
//! {"__cmwc_t":"https://sealwright.dev/cmw/evidence/v1",
//!  "attestation-result":["application/vnd.dsse.envelope.v1+json","<base64url>",8],
//!  "caller-key":["application/vnd.sealwright.spki","<base64url>",4],
//!  "endorsements":["application/vnd.amd.ghcb.guid-table","<base64url>",2],
//!  "evidence":["application/vnd.amd.sev-snp.attestation-report","<base64url>",4],
//!  "inclusion-proof":["application/vnd.sealwright.inclusion-proof.v1","<base64url>",4],
//!  "instance":["application/vnd.sealwright.instance.v1+json","<base64url>",4],
//!  "leaf":["application/vnd.sealwright.leaf.v1","<base64url>",4],
//!  "request":["application/vnd.dsse.envelope.v1+json","<base64url>",4],
//!  "signing-key":["application/vnd.sealwright.spki","<base64url>",4]}
//! ```
//! `request`, `signing-key` and `caller-key` are there for builds only. The two keys are SubjectPublicKeyInfo DER
//! and carry no trust: they are believed when their SHA-256 is the one that leaf, statement or policy names.
//! `attestation-result` is there for Secure Execution only, where a Verifier speaks for the Evidence
//! ([`crate::secure_execution::AttestationResult`]).
//! Bytes are base64url without padding. The JSON is canonical (RFC 8785).
//! The inclusion proof is `F("sealwright/inclusion-proof/v1") ‖ u32be(leaf_index) ‖ u32be(tree_size) ‖ n × 32`.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::binding::{InclusionProof, MAX_PROOF_HASHES};
use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::frame::{FrameError, FrameReader, FrameWriter};

/// `__cmwc_t` of our collection.
pub const COLLECTION_TYPE: &str = "https://sealwright.dev/cmw/evidence/v1";
/// OCI artifact type and media type of the collection.
pub const CMW_MEDIA_TYPE: &str = "application/cmw+json";
/// Largest collection in bytes.
pub const MAX_COLLECTION: usize = 4 << 20;
/// Label of an inclusion proof.
pub const PROOF_LABEL: &str = "sealwright/inclusion-proof/v1";

const SNP_REPORT: &str = "application/vnd.amd.sev-snp.attestation-report";
const SNP_ENDORSEMENTS: &str = "application/vnd.amd.ghcb.guid-table";
const TDX_QUOTE: &str = "application/vnd.sealwright.tdx-quote";
const TDX_ENDORSEMENTS: &str = "application/vnd.sealwright.tdx-endorsements";
const SE_EVIDENCE: &str = "application/vnd.sealwright.ibm-se-attestation";
const SE_ENDORSEMENTS: &str = "application/vnd.sealwright.ibm-se-endorsements";
const LEAF: &str = "application/vnd.sealwright.leaf.v1";
const PROOF: &str = "application/vnd.sealwright.inclusion-proof.v1";
const INSTANCE: &str = "application/vnd.sealwright.instance.v1+json";
const REQUEST: &str = "application/vnd.dsse.envelope.v1+json";
const ATTESTATION_RESULT: &str = REQUEST;
const SPKI: &str = "application/vnd.sealwright.spki";

/// CMW indicator bits (RFC 9999): what kind of conceptual message a record holds.
const IND_ENDORSEMENTS: u8 = 2;
const IND_EVIDENCE: u8 = 4;
const IND_ATTESTATION_RESULTS: u8 = 8;

/// The hardware a guest runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// IBM Secure Execution.
    SecureExecution,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SevSnp => "SEV-SNP",
            Self::Tdx => "TDX",
            Self::SecureExecution => "Secure Execution",
        })
    }
}

impl Platform {
    const fn media_types(self) -> (&'static str, &'static str) {
        match self {
            Self::SevSnp => (SNP_REPORT, SNP_ENDORSEMENTS),
            Self::Tdx => (TDX_QUOTE, TDX_ENDORSEMENTS),
            Self::SecureExecution => (SE_EVIDENCE, SE_ENDORSEMENTS),
        }
    }

    fn from_evidence_media_type(media_type: &str) -> Option<Self> {
        [Self::SevSnp, Self::Tdx, Self::SecureExecution].into_iter().find(|p| p.media_types().0 == media_type)
    }
}

/// Raw vendor bytes with the endorsements that came with them. Nothing about them is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The platform that made it.
    pub platform: Platform,
    /// The raw report or quote; on Secure Execution [`crate::secure_execution::SecureExecutionEvidence`].
    pub report: Vec<u8>,
    /// Endorsements as sent, may be empty. On SEV-SNP the GHCB certificate table (GUID table), on TDX
    /// [`crate::tdx_endorsements::TdxEndorsements`], on Secure Execution
    /// [`crate::secure_execution::SecureExecutionEndorsements`].
    pub endorsements: Vec<u8>,
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence({}, report {})", self.platform, Sha256Digest::of(&self.report))
    }
}

/// Evidence with what ties it to one leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceBundle {
    /// What the hardware made.
    pub evidence: Evidence,
    /// The exact instance document.
    pub instance: Vec<u8>,
    /// The exact leaf data.
    pub leaf: Vec<u8>,
    /// Place of the leaf in the batch.
    pub proof: InclusionProof,
    /// The signed request (DSSE JSON), for build Evidence only.
    pub request: Option<Vec<u8>>,
    /// SPKI DER of the project key that signs the statement, for build Evidence; the leaf names its SHA-256.
    pub signing_key: Option<Vec<u8>>,
    /// SPKI DER of the caller's key that signed `request`; statement and policy name its SHA-256.
    pub caller_key: Option<Vec<u8>>,
    /// Attestation Result of a Verifier about the Evidence (DSSE JSON), where one speaks for it.
    pub attestation_result: Option<Vec<u8>>,
}

/// Why a collection is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not canonical JSON of a collection.
    #[error("Evidence collection: {0}")]
    Canonical(#[from] CanonicalError),
    /// Another collection type.
    #[error("collection type is `{got}`, wanted `{COLLECTION_TYPE}`")]
    CollectionType {
        /// The type seen.
        got: String,
    },
    /// A record is missing.
    #[error("record `{label}` is missing")]
    Missing {
        /// Label of the record.
        label: &'static str,
    },
    /// A record has another media type.
    #[error("record `{label}` has media type `{got}`, wanted `{wanted}`")]
    MediaType {
        /// Label of the record.
        label: &'static str,
        /// The media type seen.
        got: String,
        /// The media type wanted.
        wanted: &'static str,
    },
    /// A record has other indicator bits.
    #[error("record `{label}` has indicator {got}, wanted {wanted}")]
    Indicator {
        /// Label of the record.
        label: &'static str,
        /// Bits seen.
        got: u8,
        /// Bits wanted.
        wanted: u8,
    },
    /// A value is not base64url without padding.
    #[error("record `{label}` is not base64url without padding")]
    Base64 {
        /// Label of the record.
        label: &'static str,
    },
    /// No platform has this media type of Evidence.
    #[error("Evidence has media type `{got}`, which no platform here uses")]
    UnknownPlatform {
        /// The media type seen.
        got: String,
    },
    /// The inclusion proof is malformed.
    #[error("inclusion proof: {0}")]
    Proof(#[from] FrameError),
    /// The inclusion proof is not a whole number of hashes, or too long.
    #[error("inclusion proof has {got} bytes of hashes; wanted a multiple of 32, at most {}", MAX_PROOF_HASHES * 32)]
    ProofLength {
        /// Bytes seen.
        got: usize,
    },
}

type Record = (String, String, u8);

/// A struct rather than a map, so that unknown labels are refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Collection {
    #[serde(rename = "__cmwc_t")]
    collection_type: String,
    #[serde(rename = "attestation-result", default, skip_serializing_if = "Option::is_none")]
    attestation_result: Option<Record>,
    #[serde(rename = "caller-key", default, skip_serializing_if = "Option::is_none")]
    caller_key: Option<Record>,
    endorsements: Option<Record>,
    evidence: Option<Record>,
    #[serde(rename = "inclusion-proof")]
    inclusion_proof: Option<Record>,
    instance: Option<Record>,
    leaf: Option<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Record>,
    #[serde(rename = "signing-key", default, skip_serializing_if = "Option::is_none")]
    signing_key: Option<Record>,
}

fn encode_proof(proof: &InclusionProof) -> Vec<u8> {
    let mut out = FrameWriter::new(PROOF_LABEL)
        .fixed(&proof.leaf_index.to_be_bytes())
        .fixed(&proof.tree_size.to_be_bytes());
    for hash in &proof.hashes {
        out = out.fixed(hash.as_bytes());
    }
    out.finish()
}

fn parse_proof(bytes: &[u8]) -> Result<InclusionProof, EvidenceError> {
    let mut reader = FrameReader::new(bytes, PROOF_LABEL)?;
    let leaf_index = u32::from_be_bytes(reader.array()?);
    let tree_size = u32::from_be_bytes(reader.array()?);
    let rest = reader.remaining();
    if rest % 32 != 0 || rest / 32 > MAX_PROOF_HASHES {
        return Err(EvidenceError::ProofLength { got: rest });
    }
    let mut hashes = Vec::with_capacity(rest / 32);
    for _ in 0..rest / 32 {
        hashes.push(Sha256Digest::from_bytes(reader.array()?));
    }
    reader.finish()?;
    Ok(InclusionProof { leaf_index, tree_size, hashes })
}

impl EvidenceBundle {
    /// The canonical JSON collection.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let record = |media_type: &str, bytes: &[u8], ind| {
            Some((media_type.to_owned(), URL_SAFE_NO_PAD.encode(bytes), ind))
        };
        let (evidence_type, endorsements_type) = self.evidence.platform.media_types();
        to_canonical_json(&Collection {
            collection_type: COLLECTION_TYPE.to_owned(),
            attestation_result: self
                .attestation_result
                .as_ref()
                .and_then(|bytes| record(ATTESTATION_RESULT, bytes, IND_ATTESTATION_RESULTS)),
            endorsements: record(endorsements_type, &self.evidence.endorsements, IND_ENDORSEMENTS),
            evidence: record(evidence_type, &self.evidence.report, IND_EVIDENCE),
            inclusion_proof: record(PROOF, &encode_proof(&self.proof), IND_EVIDENCE),
            instance: record(INSTANCE, &self.instance, IND_EVIDENCE),
            leaf: record(LEAF, &self.leaf, IND_EVIDENCE),
            request: self.request.as_ref().and_then(|bytes| record(REQUEST, bytes, IND_EVIDENCE)),
            signing_key: self.signing_key.as_ref().and_then(|bytes| record(SPKI, bytes, IND_EVIDENCE)),
            caller_key: self.caller_key.as_ref().and_then(|bytes| record(SPKI, bytes, IND_EVIDENCE)),
        })
    }

    /// Parses a collection. The parts are decoded, not yet believed.
    pub fn parse(json: &[u8]) -> Result<Self, EvidenceError> {
        let collection: Collection = from_canonical_json(json, MAX_COLLECTION)?;
        if collection.collection_type != COLLECTION_TYPE {
            return Err(EvidenceError::CollectionType { got: collection.collection_type });
        }
        let evidence_type =
            &collection.evidence.as_ref().ok_or(EvidenceError::Missing { label: "evidence" })?.0;
        let platform = Platform::from_evidence_media_type(evidence_type)
            .ok_or_else(|| EvidenceError::UnknownPlatform { got: evidence_type.clone() })?;
        let (evidence_type, endorsements_type) = platform.media_types();
        Ok(Self {
            evidence: Evidence {
                platform,
                report: decode("evidence", collection.evidence, evidence_type, IND_EVIDENCE)?,
                endorsements: decode(
                    "endorsements",
                    collection.endorsements,
                    endorsements_type,
                    IND_ENDORSEMENTS,
                )?,
            },
            instance: decode("instance", collection.instance, INSTANCE, IND_EVIDENCE)?,
            leaf: decode("leaf", collection.leaf, LEAF, IND_EVIDENCE)?,
            proof: parse_proof(&decode("inclusion-proof", collection.inclusion_proof, PROOF, IND_EVIDENCE)?)?,
            request: decode_optional("request", collection.request, REQUEST, IND_EVIDENCE)?,
            signing_key: decode_optional("signing-key", collection.signing_key, SPKI, IND_EVIDENCE)?,
            caller_key: decode_optional("caller-key", collection.caller_key, SPKI, IND_EVIDENCE)?,
            attestation_result: decode_optional(
                "attestation-result",
                collection.attestation_result,
                ATTESTATION_RESULT,
                IND_ATTESTATION_RESULTS,
            )?,
        })
    }
}

fn decode_optional(
    label: &'static str,
    record: Option<Record>,
    wanted: &'static str,
    ind: u8,
) -> Result<Option<Vec<u8>>, EvidenceError> {
    record.map(|present| decode(label, Some(present), wanted, ind)).transpose()
}

fn decode(
    label: &'static str,
    record: Option<Record>,
    wanted: &'static str,
    ind: u8,
) -> Result<Vec<u8>, EvidenceError> {
    let (media_type, text, indicator) = record.ok_or(EvidenceError::Missing { label })?;
    if media_type != wanted {
        return Err(EvidenceError::MediaType { label, got: media_type, wanted });
    }
    if indicator != ind {
        return Err(EvidenceError::Indicator { label, got: indicator, wanted: ind });
    }
    URL_SAFE_NO_PAD.decode(text).map_err(|_| EvidenceError::Base64 { label })
}

/// The GHCB certificate table (AMD GHCB specification §4.1.8.1): which certificate is which.
pub mod certificate_table {
    use super::BTreeMap;

    /// GUID of the ARK certificate, in the byte order of the table.
    pub const ARK: [u8; 16] =
        guid(0xc0b4_06a4, 0xa803, 0x4952, [0x97, 0x43, 0x3f, 0xb6, 0x01, 0x4c, 0xd0, 0xae]);
    /// GUID of the ASK certificate.
    pub const ASK: [u8; 16] =
        guid(0x4ab7_b379, 0xbbac, 0x4fe4, [0xa0, 0x2f, 0x05, 0xae, 0xf3, 0x27, 0xc7, 0x82]);
    /// GUID of the VCEK certificate.
    pub const VCEK: [u8; 16] =
        guid(0x63da_758d, 0xe664, 0x4564, [0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd]);
    /// GUID of the VLEK certificate.
    pub const VLEK: [u8; 16] =
        guid(0xa807_4bc2, 0xa25a, 0x483e, [0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1]);
    /// GUID of the VCEK/VLEK intermediate ASVK is the ASK entry; CRLs have this GUID.
    pub const CRL: [u8; 16] =
        guid(0x92f8_1bc3, 0x5811, 0x4d3d, [0x97, 0xff, 0xd1, 0x9f, 0x88, 0xdc, 0x67, 0xea]);

    /// Most entries that are read.
    pub const MAX_ENTRIES: usize = 16;
    const ENTRY_LEN: usize = 24;

    /// A GUID's first three fields are little-endian in the table (RFC 4122 mixed form, as UEFI stores them).
    const fn guid(a: u32, b: u16, c: u16, rest: [u8; 8]) -> [u8; 16] {
        let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), rest);
        [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
    }

    /// Why a table is refused.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum InvalidTable {
        /// No all-zero entry ends the table within its bytes and [`MAX_ENTRIES`].
        #[error("certificate table of {got} bytes has no end entry among its first {MAX_ENTRIES} entries")]
        NoEnd {
            /// Length of the table.
            got: usize,
        },
        /// An entry points outside the table.
        #[error("certificate table entry {index} points to {offset}+{length}, outside its {got} bytes")]
        OutOfBounds {
            /// Index of the entry.
            index: usize,
            /// Offset seen.
            offset: usize,
            /// Length seen.
            length: usize,
            /// Length of the table.
            got: usize,
        },
        /// The same GUID stands twice.
        #[error("certificate table names the same certificate twice (entry {index})")]
        Duplicate {
            /// Index of the second entry.
            index: usize,
        },
    }

    /// Entries: GUID(16) ‖ offset u32le ‖ length u32le, ended by an all-zero entry; then the certificates.
    #[must_use]
    pub fn encode(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut header = Vec::new();
        let mut body = Vec::new();
        let start = (entries.len() + 1) * ENTRY_LEN;
        for (guid, certificate) in entries {
            let offset = u32::try_from(start + body.len()).expect("certificates are small");
            let length = u32::try_from(certificate.len()).expect("certificates are small");
            header.extend_from_slice(guid);
            header.extend_from_slice(&offset.to_le_bytes());
            header.extend_from_slice(&length.to_le_bytes());
            body.extend_from_slice(certificate);
        }
        header.extend_from_slice(&[0; ENTRY_LEN]);
        [header, body].concat()
    }

    struct Entry {
        guid: [u8; 16],
        offset: usize,
        length: usize,
    }

    /// The entries, all of which lie within the table.
    fn entries(table: &[u8]) -> Result<Vec<Entry>, InvalidTable> {
        let mut found: Vec<Entry> = Vec::new();
        if table.is_empty() {
            return Ok(found);
        }
        for index in 0..=MAX_ENTRIES {
            let entry = table
                .get(index * ENTRY_LEN..(index + 1) * ENTRY_LEN)
                .filter(|_| index < MAX_ENTRIES)
                .ok_or(InvalidTable::NoEnd { got: table.len() })?;
            if entry.iter().all(|byte| *byte == 0) {
                return Ok(found);
            }
            let word = |at: usize| {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&entry[at..at + 4]);
                u32::from_le_bytes(bytes) as usize
            };
            let (offset, length) = (word(16), word(20));
            if table.get(offset..offset.saturating_add(length)).is_none() {
                return Err(InvalidTable::OutOfBounds { index, offset, length, got: table.len() });
            }
            let mut guid = [0; 16];
            guid.copy_from_slice(&entry[..16]);
            if found.iter().any(|other| other.guid == guid) {
                return Err(InvalidTable::Duplicate { index });
            }
            found.push(Entry { guid, offset, length });
        }
        Err(InvalidTable::NoEnd { got: table.len() })
    }

    /// The certificates by GUID. An empty table is no bytes at all.
    pub fn parse(table: &[u8]) -> Result<BTreeMap<[u8; 16], Vec<u8>>, InvalidTable> {
        let certificate =
            |entry: Entry| (entry.guid, table[entry.offset..entry.offset + entry.length].to_vec());
        Ok(entries(table)?.into_iter().map(certificate).collect())
    }

    /// How many of the bytes are the table's, where it comes in whole pages: 0 without entries, else up to the end of
    /// the entries or of the last certificate.
    pub fn used(table: &[u8]) -> Result<usize, InvalidTable> {
        let entries = entries(table)?;
        let end = (entries.len() + 1) * ENTRY_LEN;
        Ok(entries.iter().map(|entry| end.max(entry.offset + entry.length)).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle() -> EvidenceBundle {
        EvidenceBundle {
            evidence: Evidence { platform: Platform::SevSnp, report: vec![1; 4], endorsements: Vec::new() },
            instance: b"{}".to_vec(),
            leaf: vec![2],
            proof: InclusionProof { leaf_index: 0, tree_size: 1, hashes: Vec::new() },
            request: Some(b"request".to_vec()),
            signing_key: Some(b"signing key".to_vec()),
            caller_key: Some(b"caller key".to_vec()),
            attestation_result: Some(b"result".to_vec()),
        }
    }

    #[test]
    fn collections_round_trip_with_and_without_the_build_records() {
        for bare in [false, true] {
            let mut bundle = bundle();
            if bare {
                (bundle.request, bundle.signing_key, bundle.caller_key) = (None, None, None);
                bundle.attestation_result = None;
            }
            assert_eq!(EvidenceBundle::parse(&bundle.to_json()), Ok(bundle));
        }
    }

    #[test]
    fn the_padding_of_a_certificate_tables_pages_is_not_its_own() {
        use certificate_table::{ARK, InvalidTable, VCEK, encode, used};
        let table = encode(&[(VCEK, b"one"), (ARK, b"zero\0")]);
        let padded = [&table[..], &[0; 100]].concat();
        assert_eq!(used(&padded), Ok(table.len()), "the last certificate's own zero belongs to it");
        assert_eq!(used(&[0; 4096]), Ok(0), "a host that sends nothing");
        assert_eq!(used(b""), Ok(0));
        assert_eq!(used(&encode(&[(VCEK, b"")])), Ok(48), "the end entry belongs to the table");
        let cut = table.len() - 1;
        assert_eq!(
            used(&table[..cut]),
            Err(InvalidTable::OutOfBounds { index: 1, offset: 75, length: 5, got: cut })
        );
        assert_eq!(
            used(&table[..60]),
            Err(InvalidTable::OutOfBounds { index: 0, offset: 72, length: 3, got: 60 })
        );
    }

    #[test]
    fn an_attestation_result_that_calls_itself_evidence_is_refused() {
        let json = String::from_utf8(bundle().to_json()).expect("JSON is text").replacen(",8]", ",4]", 1);
        let error = EvidenceError::Indicator { label: "attestation-result", got: 4, wanted: 8 };
        assert_eq!(EvidenceBundle::parse(json.as_bytes()), Err(error));
    }

    #[test]
    fn a_key_record_of_another_media_type_is_refused() {
        let json = String::from_utf8(bundle().to_json()).expect("JSON is text").replacen(SPKI, REQUEST, 1);
        assert!(matches!(
            EvidenceBundle::parse(json.as_bytes()),
            Err(EvidenceError::MediaType { label: "caller-key", wanted: SPKI, .. })
        ));
    }
}
