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
//!  "signing-key":["application/vnd.sealwright.spki","<base64url>",4],
//!  "timestamp":["application/timestamp-reply","<base64url>",2]}
//! ```
//! `request`, `signing-key` and `caller-key` are there for builds only. The two keys are SubjectPublicKeyInfo DER
//! and carry no trust: they are believed when their SHA-256 is the one that leaf, statement or policy names.
//! `attestation-result` is there for Secure Execution only, where a Verifier speaks for the Evidence
//! ([`crate::secure_execution::AttestationResult`]). `timestamp` is there when somebody had the build time-stamped: an
//! RFC 3161 response over [`EvidenceBundle::timestamp_message`].
//! Bytes are base64url without padding. The JSON is canonical (RFC 8785).
//! The inclusion proof is `F("sealwright/inclusion-proof/v1") ‖ u32be(leaf_index) ‖ u32be(tree_size) ‖ n × 32`.

pub mod certificate_table;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::binding::{InclusionProof, MAX_PROOF_HASHES};
use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::dsse::Envelope;
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
const AZURE_SNP_EVIDENCE: &str = "application/vnd.sealwright.azure-sev-snp-evidence";
const AZURE_TDX_EVIDENCE: &str = "application/vnd.sealwright.azure-tdx-evidence";
const LEAF: &str = "application/vnd.sealwright.leaf.v1";
const PROOF: &str = "application/vnd.sealwright.inclusion-proof.v1";
const INSTANCE: &str = "application/vnd.sealwright.instance.v1+json";
const REQUEST: &str = "application/vnd.dsse.envelope.v1+json";
const ATTESTATION_RESULT: &str = REQUEST;
const SPKI: &str = "application/vnd.sealwright.spki";
/// RFC 3161 §3.4.
const TIMESTAMP: &str = "application/timestamp-reply";
/// Label of what a timestamp is over.
pub const TIMESTAMP_LABEL: &str = "sealwright/timestamp/v1";

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
    /// AMD SEV-SNP behind Azure's paravisor.
    AzSnp,
    /// Intel TDX behind Azure's paravisor.
    AzTdx,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SevSnp => "SEV-SNP",
            Self::Tdx => "TDX",
            Self::SecureExecution => "Secure Execution",
            Self::AzSnp => "SEV-SNP behind Azure's paravisor",
            Self::AzTdx => "TDX behind Azure's paravisor",
        })
    }
}

impl Platform {
    /// All platforms.
    pub const ALL: [Self; 5] = [Self::SevSnp, Self::Tdx, Self::SecureExecution, Self::AzSnp, Self::AzTdx];

    /// Its spelling in documents and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SevSnp => "sev-snp",
            Self::Tdx => "tdx",
            Self::SecureExecution => "secure-execution",
            Self::AzSnp => "az-snp",
            Self::AzTdx => "az-tdx",
        }
    }

    const fn media_types(self) -> (&'static str, &'static str) {
        match self {
            Self::SevSnp => (SNP_REPORT, SNP_ENDORSEMENTS),
            Self::Tdx => (TDX_QUOTE, TDX_ENDORSEMENTS),
            Self::SecureExecution => (SE_EVIDENCE, SE_ENDORSEMENTS),
            Self::AzSnp => (AZURE_SNP_EVIDENCE, SNP_ENDORSEMENTS),
            Self::AzTdx => (AZURE_TDX_EVIDENCE, TDX_ENDORSEMENTS),
        }
    }

    fn from_evidence_media_type(media_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.media_types().0 == media_type)
    }
}

/// Raw vendor bytes with the endorsements that came with them. Nothing about them is checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The platform that made it.
    pub platform: Platform,
    /// The raw report or quote; on Secure Execution [`crate::secure_execution::SecureExecutionEvidence`], behind Azure's
    /// paravisor [`crate::azure::AzureEvidence`].
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
    /// Timestamp over Evidence, leaf and signature (RFC 3161, DER of a TimeStampResp), where somebody had one made.
    pub timestamp: Option<Vec<u8>>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<Record>,
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
            timestamp: self.timestamp.as_ref().and_then(|bytes| record(TIMESTAMP, bytes, IND_ENDORSEMENTS)),
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
            timestamp: decode_optional("timestamp", collection.timestamp, TIMESTAMP, IND_ENDORSEMENTS)?,
        })
    }

    /// What a timestamp of this build is over: Evidence, leaf and the signed statement together, so that none of them
    /// can have been made later than the others.
    ///
    /// `F("sealwright/timestamp/v1") ‖ F(media type of the Evidence) ‖ sha256(Evidence)(32) ‖ sha256(leaf data)(32) ‖
    /// sha256(DSSE payload)(32) ‖ F(signature)`. Endorsements are not in it: whoever signs them dates them.
    #[must_use]
    pub fn timestamp_message(&self, statement: &Envelope) -> Vec<u8> {
        self.stamped().message(&Sha256Digest::of(&statement.payload), &statement.signature)
    }

    /// What of this collection a timestamp is over, to be held against several statements.
    #[must_use]
    pub fn stamped(&self) -> Stamped {
        Stamped {
            evidence_type: self.evidence.platform.media_types().0,
            evidence_sha256: Sha256Digest::of(&self.evidence.report),
            leaf_sha256: Sha256Digest::of(&self.leaf),
        }
    }
}

/// What of a collection a timestamp is over. Made by [`EvidenceBundle::stamped`].
#[derive(Debug, Clone)]
pub struct Stamped {
    evidence_type: &'static str,
    evidence_sha256: Sha256Digest,
    leaf_sha256: Sha256Digest,
}

impl Stamped {
    /// [`EvidenceBundle::timestamp_message`] with the signed statement of which these are SHA-256 of the payload and
    /// signature.
    #[must_use]
    pub fn message(&self, payload_sha256: &Sha256Digest, signature: &[u8]) -> Vec<u8> {
        FrameWriter::new(TIMESTAMP_LABEL)
            .framed(self.evidence_type.as_bytes())
            .fixed(self.evidence_sha256.as_bytes())
            .fixed(self.leaf_sha256.as_bytes())
            .fixed(payload_sha256.as_bytes())
            .framed(signature)
            .finish()
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
            timestamp: Some(b"timestamp".to_vec()),
        }
    }

    #[test]
    fn collections_round_trip_with_and_without_the_build_records() {
        for bare in [false, true] {
            let mut bundle = bundle();
            if bare {
                (bundle.request, bundle.signing_key, bundle.caller_key) = (None, None, None);
                (bundle.attestation_result, bundle.timestamp) = (None, None);
            }
            assert_eq!(EvidenceBundle::parse(&bundle.to_json()), Ok(bundle));
        }
    }

    #[test]
    fn a_proof_has_whole_hashes_and_no_more_than_the_largest_tree_needs() {
        let proof = |hashes: usize| InclusionProof {
            leaf_index: 1,
            tree_size: 2,
            hashes: vec![Sha256Digest::of(b"a hash"); hashes],
        };
        for hashes in [0, 1, MAX_PROOF_HASHES] {
            assert_eq!(parse_proof(&encode_proof(&proof(hashes))), Ok(proof(hashes)));
        }
        let got = 32 * (MAX_PROOF_HASHES + 1);
        let longer = encode_proof(&proof(MAX_PROOF_HASHES + 1));
        assert_eq!(parse_proof(&longer), Err(EvidenceError::ProofLength { got }));
        let cut = encode_proof(&proof(1));
        assert_eq!(parse_proof(&cut[..cut.len() - 1]), Err(EvidenceError::ProofLength { got: 31 }));
    }

    #[test]
    fn every_platform_has_evidence_of_its_own() {
        for platform in Platform::ALL {
            let mut bundle = bundle();
            bundle.evidence.platform = platform;
            assert_eq!(EvidenceBundle::parse(&bundle.to_json()), Ok(bundle));
            assert_eq!(serde_json::to_value(platform).expect("JSON"), platform.name());
        }
    }

    #[test]
    fn a_timestamp_is_over_evidence_leaf_statement_and_signature() {
        let envelope = |payload: &[u8], signature: &[u8]| Envelope {
            payload_type: "type".to_owned(),
            payload: payload.to_vec(),
            signature: signature.to_vec(),
        };
        let message = bundle().timestamp_message(&envelope(b"statement", b"signature"));
        let start = FrameWriter::new(TIMESTAMP_LABEL).framed(SNP_REPORT.as_bytes()).finish();
        assert_eq!(message.len(), start.len() + 3 * 32 + 4 + 9);
        let mut others: Vec<EvidenceBundle> = vec![bundle(); 3];
        others[0].evidence.report[0] ^= 1;
        others[1].leaf[0] ^= 1;
        others[2].evidence.platform = Platform::Tdx;
        for other in &others {
            assert_ne!(other.timestamp_message(&envelope(b"statement", b"signature")), message);
        }
        assert_ne!(bundle().timestamp_message(&envelope(b"statemenu", b"signature")), message);
        assert_ne!(bundle().timestamp_message(&envelope(b"statement", b"signaturf")), message);
        let mut same = bundle();
        same.evidence.endorsements.push(1);
        same.timestamp = None;
        assert_eq!(same.timestamp_message(&envelope(b"statement", b"signature")), message);
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
