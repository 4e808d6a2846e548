//! A caller, a request and a statement that belong together, for tests of key service and verifier.

use std::collections::BTreeMap;

use enclave_keys::{ImageName, InstanceInputs, KeyService, ReleaseRequest};
use provenance::binding::Nonce;
use provenance::challenge::AttestationRequest;
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, REQUEST_PAYLOAD_TYPE, pre_authentication_encoding};
use provenance::instance::{InstanceDocument, Program};
use provenance::key::PublicKey;
use provenance::materials::{Completeness, MaterialClass};
use provenance::project::Project;
use provenance::request::{BuildId, Compression, Dockerfile, Output, REQUEST_TYPE, Request, Source};
use provenance::statement::{
    BUILD_TYPE, BuildDefinition, BuildMetadata, Builder, ExternalParameters, InternalParameters,
    PREDICATE_TYPE, Predicate, RunDetails, STATEMENT_TYPE, Statement, Subject,
};
use provenance::timestamp::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

/// Repository of the fixture's image.
pub const REPOSITORY: &str = "registry.example/app";
/// Builder id of the fixture's instance.
pub const BUILDER_ID: &str = "https://sealwright.dev/builder/test";

fn moment() -> Timestamp {
    Timestamp::parse("2026-11-21T10:00:00Z").expect("a constant")
}

/// A P-256 key of a caller (signs requests) or of a release (signs Reference Values).
pub struct FixtureKey {
    key: EcdsaKeyPair,
    /// Its public half.
    pub public: PublicKey,
}

impl Default for FixtureKey {
    fn default() -> Self {
        Self::new()
    }
}

impl FixtureKey {
    /// A new P-256 key.
    #[must_use]
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("random bytes");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
            .expect("a key just made");
        let public = PublicKey::from_p256_point(key.public_key().as_ref()).expect("an uncompressed point");
        Self { key, public }
    }

    /// An envelope of this key over a payload (DSSE JSON).
    #[must_use]
    pub fn sign(&self, payload_type: &str, payload: Vec<u8>) -> Envelope {
        let signature = self.sign_bytes(&pre_authentication_encoding(payload_type, &payload));
        Envelope { payload_type: payload_type.to_owned(), payload, signature }
    }

    /// ECDSA with SHA-256 over the message, ASN.1 DER.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(&SystemRandom::new(), message).expect("random bytes").as_ref().to_vec()
    }

    /// A project of which this key is the only member.
    #[must_use]
    pub fn project(&self, name: &str) -> Project {
        Project::new(name, [self.public.spki_sha256()]).expect("a valid project")
    }
}

/// What a test instance says about itself.
#[must_use]
pub fn instance_inputs() -> InstanceInputs {
    let program =
        |name: &str| Program { sha256: Sha256Digest::of(name.as_bytes()), version: "1.0.0".to_owned() };
    InstanceInputs {
        version: "0.1.0".to_owned(),
        builder_id: BUILDER_ID.to_owned(),
        buildkitd: program("buildkitd"),
        runc: program("runc"),
        trust_configuration: serde_json::json!({"projects": []}),
        build_policy_sha256: Sha256Digest::of(b"build policy"),
        started_at: moment(),
        secure_execution_header: None,
    }
}

/// A small request of a project.
#[must_use]
pub fn request(project: &Project, build_id: &str, nonce: Nonce) -> Request {
    let root = Sha256Digest::of(b"context");
    Request {
        add_hosts: vec![],
        annotations: BTreeMap::new(),
        attestation_request: None,
        build_args: BTreeMap::new(),
        build_id: BuildId::try_from(build_id.to_owned()).expect("a valid build id"),
        context: Source::Tree { root },
        dockerfile: Dockerfile { path: "Dockerfile".to_owned(), root: Some(root) },
        issued_at: moment(),
        labels: BTreeMap::new(),
        named_contexts: BTreeMap::new(),
        no_cache: false,
        nonce,
        output: Output::Image {
            compression: Compression::Gzip,
            names: vec![format!("{REPOSITORY}:1")],
            push: false,
            rewrite_timestamp: false,
        },
        platforms: vec![],
        project: project.clone(),
        pull: false,
        secrets: None,
        ssh: vec![],
        target: None,
        document_type: REQUEST_TYPE.to_owned(),
    }
}

/// Everything one release needs. Change a field, then [`Release::to_request`].
pub struct Release {
    /// Who signs the request.
    pub caller: FixtureKey,
    /// The request; the statement embeds it.
    pub request: Request,
    /// The statement of the key service's instance about that request, with [`REPOSITORY`] as only subject.
    pub statement: Statement,
    /// Digest of the image, the only subject.
    pub image: Sha256Digest,
}

impl Release {
    /// A release that `keys` accepts.
    #[must_use]
    pub fn of(keys: &KeyService, build_id: &str) -> Self {
        Self::of_instance(keys.instance(), build_id)
    }

    /// A release whose caller asks for an image in these repositories; the statement names it [`REPOSITORY`].
    #[must_use]
    pub fn of_names(keys: &KeyService, build_id: &str, repositories: &[&str]) -> Self {
        let mut release = Self::of(keys, build_id);
        if let Output::Image { names, .. } = &mut release.request.output {
            *names = repositories.iter().map(|repository| format!("{repository}:1")).collect();
        }
        let subjects = [Subject::new(REPOSITORY, &release.image)];
        release.statement = statement(keys, &release.request, &release.caller.public, &subjects);
        release
    }

    /// A release that the key service of `instance` accepts.
    #[must_use]
    pub fn of_instance(instance: &InstanceDocument, build_id: &str) -> Self {
        Self::of_instance_answering(instance, build_id, None)
    }

    /// A release whose signed request holds this attestation request.
    #[must_use]
    pub fn answering(
        keys: &KeyService,
        build_id: &str,
        attestation_request: Option<AttestationRequest>,
    ) -> Self {
        Self::of_instance_answering(keys.instance(), build_id, attestation_request)
    }

    fn of_instance_answering(
        instance: &InstanceDocument,
        build_id: &str,
        attestation_request: Option<AttestationRequest>,
    ) -> Self {
        let caller = FixtureKey::new();
        let nonce = Nonce(*Sha256Digest::of(build_id.as_bytes()).as_bytes());
        let request =
            Request { attestation_request, ..request(&caller.project("acme/app"), build_id, nonce) };
        let image = Sha256Digest::of(format!("image of {build_id}").as_bytes());
        let statement = statement_of(instance, &request, &caller.public, &[Subject::new(REPOSITORY, &image)]);
        Self { caller, request, statement, image }
    }

    /// What is handed to [`KeyService::release`].
    #[must_use]
    pub fn to_request(&self) -> ReleaseRequest {
        ReleaseRequest {
            project: self.request.project.id(),
            nonce: self.request.nonce,
            statement: self.statement.document(),
            signed_request: self.caller.sign(REQUEST_PAYLOAD_TYPE, self.request.document()).to_json(),
            caller_key: self.caller.public.spki_der().to_vec(),
            images: vec![ImageName { repository: REPOSITORY.to_owned(), digest: self.image }],
        }
    }
}

/// A statement of the key service's instance about a request, with no materials.
#[must_use]
pub fn statement(
    keys: &KeyService,
    request: &Request,
    caller: &PublicKey,
    subjects: &[Subject],
) -> Statement {
    statement_of(keys.instance(), request, caller, subjects)
}

/// A statement of any instance about a request, with no materials.
#[must_use]
pub fn statement_of(
    instance: &InstanceDocument,
    request: &Request,
    caller: &PublicKey,
    subjects: &[Subject],
) -> Statement {
    Statement {
        statement_type: STATEMENT_TYPE.to_owned(),
        predicate: Predicate {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: ExternalParameters {
                    caller: caller.spki_sha256(),
                    request: request.clone(),
                    request_digest: Sha256Digest::of(&request.document()),
                },
                internal_parameters: InternalParameters {
                    completeness: MaterialClass::ALL.map(|class| (class, Completeness::None {})).into(),
                    instance: instance.clone(),
                    instance_digest: Sha256Digest::of(&instance.document()),
                },
                resolved_dependencies: vec![],
            },
            run_details: RunDetails {
                builder: Builder { id: instance.builder_id.clone(), version: BTreeMap::new() },
                byproducts: vec![],
                metadata: BuildMetadata {
                    finished_on: moment(),
                    invocation_id: format!("projects/{}/builds/{}", request.project.id(), request.build_id),
                    started_on: moment(),
                },
            },
        },
        predicate_type: PREDICATE_TYPE.to_owned(),
        subject: subjects.to_vec(),
    }
}
