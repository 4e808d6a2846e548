//! The statement step: request, materials and image become an in-toto statement with SLSA provenance v1.

use std::collections::BTreeMap;

use provenance::digest::Sha256Digest;
use provenance::statement::{
    BUILD_TYPE, BuildDefinition, BuildMetadata, Builder, Byproduct, ExternalParameters, InternalParameters,
    KEY_EVIDENCE, PREDICATE_TYPE, Predicate, RunDetails, STATEMENT_TYPE, Statement, Subject, SubjectDigest,
};
use provenance::timestamp::Timestamp;

use crate::policy::ReleasableImage;

/// What the statement says beside the image: where and when it was built.
pub struct Run<'a> {
    /// The exact instance document, parsed and as bytes.
    pub instance: (&'a provenance::instance::InstanceDocument, &'a [u8]),
    /// Key Evidence of the project's signing key (CMW).
    pub key_evidence: &'a [u8],
    /// BuildKit's own provenance, kept as a byproduct by digest.
    pub engine_provenance: &'a [u8],
    /// `projects/{project}/builds/{build}`.
    pub build_name: &'a str,
    /// When the build started, by the guest's clock.
    pub started: Timestamp,
    /// When it finished, by the guest's clock.
    pub finished: Timestamp,
}

/// Writes the statement about a releasable image.
#[must_use]
pub fn state(image: &ReleasableImage, run: &Run<'_>) -> Statement {
    let (instance, instance_bytes) = run.instance;
    let signed = image.signed_request();
    let byproduct = |name: &str, media_type: &str, bytes: &[u8]| Byproduct {
        digest: SubjectDigest { sha256: Sha256Digest::of(bytes).hex() },
        media_type: media_type.to_owned(),
        name: name.to_owned(),
    };
    let version = BTreeMap::from([
        ("buildkitd".to_owned(), instance.buildkitd.version.clone()),
        ("runc".to_owned(), instance.runc.version.clone()),
        ("sealwright".to_owned(), instance.version.clone()),
    ]);
    Statement {
        statement_type: STATEMENT_TYPE.to_owned(),
        predicate_type: PREDICATE_TYPE.to_owned(),
        subject: image.subjects().iter().map(|(name, digest)| Subject::new(name, digest)).collect(),
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: ExternalParameters {
                    caller: signed.caller(),
                    request: signed.request().clone(),
                    request_digest: signed.request_sha256(),
                },
                internal_parameters: InternalParameters {
                    completeness: image.materials().completeness().clone(),
                    instance: instance.clone(),
                    instance_digest: Sha256Digest::of(instance_bytes),
                },
                resolved_dependencies: image.materials().items().to_vec(),
            },
            run_details: RunDetails {
                builder: Builder { id: instance.builder_id.clone(), version },
                byproducts: vec![
                    byproduct(KEY_EVIDENCE, provenance::evidence::CMW_MEDIA_TYPE, run.key_evidence),
                    byproduct("buildkit-provenance", "application/json", run.engine_provenance),
                ],
                metadata: BuildMetadata {
                    finished_on: run.finished,
                    invocation_id: run.build_name.to_owned(),
                    started_on: run.started,
                },
            },
        },
    }
}
