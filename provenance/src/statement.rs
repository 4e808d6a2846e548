//! The statement: in-toto Statement v1 with SLSA provenance v1 (spec 1.2) as predicate.
//!
//! It holds request, materials and image digests. It never names its own build Evidence, which covers the
//! statement and so cannot be inside it; it names only the key Evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::digest::Sha256Digest;
use crate::instance::InstanceDocument;
use crate::materials::{Completeness, InvalidMaterials, Material, MaterialClass, Materials};
use crate::request::{InvalidRequest, Request};
use crate::timestamp::Timestamp;

/// `_type` of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Predicate type of SLSA provenance.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// Build type: how parameters and materials are to be read.
pub const BUILD_TYPE: &str = "https://sealwright.dev/build/dockerfile/v1";
/// Largest statement in bytes.
pub const MAX_STATEMENT: usize = 8 << 20;
/// Most subjects (Sigstore clients refuse more than 1024).
pub const MAX_SUBJECTS: usize = 64;

/// An in-toto statement as we write it. Fields are in canonical (alphabetical) order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Always [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// SLSA provenance.
    pub predicate: Predicate,
    /// Always [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What was built: first the root manifest or index, then each platform manifest of an index.
    pub subject: Vec<Subject>,
}

/// One thing that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// `sha256` in lower-case hex, and nothing else.
    pub digest: SubjectDigest,
    /// Repository without tag, or `image` when the build named none.
    pub name: String,
}

/// The digest set of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectDigest {
    /// 64 lower-case hex digits.
    pub sha256: String,
}

/// SLSA provenance v1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Predicate {
    /// What was asked for and what went in.
    pub build_definition: BuildDefinition,
    /// Who built it, and when.
    pub run_details: RunDetails,
}

/// SLSA `buildDefinition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildDefinition {
    /// Always [`BUILD_TYPE`].
    pub build_type: String,
    /// What the caller signed.
    pub external_parameters: ExternalParameters,
    /// Where it ran.
    pub internal_parameters: InternalParameters,
    /// The materials manifest's items.
    pub resolved_dependencies: Vec<Material>,
}

/// SLSA `externalParameters`: the request document and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExternalParameters {
    /// SHA-256 of the SPKI of the caller's key that signed the request.
    pub caller: Sha256Digest,
    /// The request document.
    pub request: Request,
    /// SHA-256 of the exact request document (the DSSE payload).
    pub request_digest: Sha256Digest,
}

/// SLSA `internalParameters`: the instance document, and how complete each class of materials is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct InternalParameters {
    /// Completeness per class; every class is stated.
    pub completeness: BTreeMap<MaterialClass, Completeness>,
    /// The instance document.
    pub instance: InstanceDocument,
    /// SHA-256 of the exact instance document.
    pub instance_digest: Sha256Digest,
}

/// SLSA `runDetails`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDetails {
    /// The builder.
    pub builder: Builder,
    /// Further results: key Evidence, the engine's own metadata.
    pub byproducts: Vec<Byproduct>,
    /// Invocation and times.
    pub metadata: BuildMetadata,
}

/// SLSA `builder`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Builder {
    /// Builder id.
    pub id: String,
    /// Versions of its parts.
    pub version: BTreeMap<String, String>,
}

/// A byproduct: an in-toto ResourceDescriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Byproduct {
    /// Its digest.
    pub digest: SubjectDigest,
    /// Its media type.
    pub media_type: String,
    /// Its name, such as [`KEY_EVIDENCE`].
    pub name: String,
}

/// Name of the byproduct that is the signing key's Evidence.
pub const KEY_EVIDENCE: &str = "tee-key-evidence";

/// SLSA `metadata`. Times are the guest's clock, which is the host's: unproven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildMetadata {
    /// When the build finished.
    pub finished_on: Timestamp,
    /// Resource name of the build, `projects/{project}/builds/{build}`.
    pub invocation_id: String,
    /// When it started.
    pub started_on: Timestamp,
}

/// Why a statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStatement {
    /// Not canonical or of another shape.
    #[error("statement: {0}")]
    Canonical(#[from] CanonicalError),
    /// A fixed value is another one.
    #[error("statement field `{field}` is `{got}`, wanted `{wanted}`")]
    Fixed {
        /// Name of the field.
        field: &'static str,
        /// The value seen.
        got: String,
        /// The value wanted.
        wanted: &'static str,
    },
    /// No subject, or too many.
    #[error("statement has {got} subjects, wanted 1 to {MAX_SUBJECTS}")]
    Subjects {
        /// Number seen.
        got: usize,
    },
    /// A subject's digest is malformed.
    #[error("subject {index} has no SHA-256 of 64 lower-case hex digits")]
    SubjectDigest {
        /// Index of the subject.
        index: usize,
    },
    /// The embedded request does not hash to the digest beside it.
    #[error("embedded request hashes to {got}, statement says {wanted}")]
    RequestDigest {
        /// Digest of the embedded request.
        got: Sha256Digest,
        /// Digest stated.
        wanted: Sha256Digest,
    },
    /// The embedded instance does not hash to the digest beside it.
    #[error("embedded instance document hashes to {got}, statement says {wanted}")]
    InstanceDigest {
        /// Digest of the embedded instance.
        got: Sha256Digest,
        /// Digest stated.
        wanted: Sha256Digest,
    },
    /// The embedded request breaks its own rules.
    #[error(transparent)]
    Request(#[from] InvalidRequest),
    /// Materials and completeness do not fit together.
    #[error(transparent)]
    Materials(#[from] InvalidMaterials),
}

impl Statement {
    /// Parses a canonical statement and checks everything it says about itself.
    pub fn parse(payload: &[u8]) -> Result<Self, InvalidStatement> {
        let statement: Self = from_canonical_json(payload, MAX_STATEMENT)?;
        let fixed = |field, got: &str, wanted: &'static str| {
            if got == wanted {
                Ok(())
            } else {
                Err(InvalidStatement::Fixed { field, got: got.to_owned(), wanted })
            }
        };
        fixed("_type", &statement.statement_type, STATEMENT_TYPE)?;
        fixed("predicateType", &statement.predicate_type, PREDICATE_TYPE)?;
        fixed("buildType", &statement.predicate.build_definition.build_type, BUILD_TYPE)?;
        if statement.subject.is_empty() || statement.subject.len() > MAX_SUBJECTS {
            return Err(InvalidStatement::Subjects { got: statement.subject.len() });
        }
        for (index, subject) in statement.subject.iter().enumerate() {
            Sha256Digest::from_hex(&subject.digest.sha256)
                .map_err(|_| InvalidStatement::SubjectDigest { index })?;
        }
        let definition = &statement.predicate.build_definition;
        let external = &definition.external_parameters;
        external.request.check()?;
        let got = Sha256Digest::of(&external.request.document());
        if got != external.request_digest {
            return Err(InvalidStatement::RequestDigest { got, wanted: external.request_digest });
        }
        let internal = &definition.internal_parameters;
        let got = Sha256Digest::of(&internal.instance.document());
        if got != internal.instance_digest {
            return Err(InvalidStatement::InstanceDigest { got, wanted: internal.instance_digest });
        }
        Materials::new(definition.resolved_dependencies.clone(), internal.completeness.clone())?;
        Ok(statement)
    }

    /// The canonical bytes: the DSSE payload.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(self)
    }

    /// Digests of the subjects, in order.
    #[must_use]
    pub fn subject_digests(&self) -> Vec<Sha256Digest> {
        self.subject
            .iter()
            .filter_map(|subject| Sha256Digest::from_hex(&subject.digest.sha256).ok())
            .collect()
    }
}

impl Subject {
    /// A subject of this name and digest.
    #[must_use]
    pub fn new(name: &str, digest: &Sha256Digest) -> Self {
        Self { digest: SubjectDigest { sha256: digest.hex() }, name: name.to_owned() }
    }
}
