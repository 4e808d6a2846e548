//! A whole build made by hand, so that a test can change any one thing at any stage and have everything after it
//! made again consistently. NOT HARDWARE: the reports are the software TEE's.

use std::collections::BTreeMap;

use provenance::binding::{Leaf, LeafBody, LeafTree, Nonce};
use provenance::canonical::to_canonical_json;
use provenance::digest::Sha256Digest;
use provenance::dsse::{IN_TOTO_PAYLOAD_TYPE, REQUEST_PAYLOAD_TYPE};
use provenance::evidence::{EvidenceBundle, Platform};
use provenance::instance::{INSTANCE_TYPE, InstanceDocument, KeyOrigin};
use provenance::materials::{Completeness, MaterialClass};
use provenance::request::Request;
use provenance::sigstore::{bundle_with_key_hint, cosign_sign_statement, simple_signing_payload};
use provenance::statement::{Statement, Subject};
use provenance::timestamp::Timestamp;
use sealwright_tests::release_fixture::{self, FixtureKey, REPOSITORY};
use sealwright_tests::software_tee::{Chip, DANGEROUS_SOFTWARE_MEASUREMENT, ReportFields, SoftwareTee};
use serde_json::json;
use verifier::image::SimpleSignature;
use verifier::{Endorsements, ImageInput, Policy, Reason, Verdict, verify_image};

use super::support::PolicyText;

/// The time that everything is judged at, within all validities of the fixture PKI.
pub(crate) fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

/// Everything that goes into a build. Tests change fields and then make a [`Made`].
pub(crate) struct World {
    pub(crate) tee: SoftwareTee,
    /// Another chip than the shared one.
    pub(crate) chip: Option<Chip>,
    pub(crate) caller: FixtureKey,
    pub(crate) signer: FixtureKey,
    pub(crate) instance: InstanceDocument,
    pub(crate) request: Request,
    pub(crate) completeness: BTreeMap<MaterialClass, Completeness>,
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

/// Bytes as a Relying Party fetches them, with what they were made from.
pub(crate) struct Made {
    pub(crate) bundle: EvidenceBundle,
    pub(crate) statement: Statement,
    pub(crate) input: ImageInput,
    pub(crate) policy: PolicyText,
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": Sha256Digest::of(bytes).to_string(), "size": bytes.len()})
}

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI image manifest of a configuration and a layer.
pub(crate) fn image_manifest(config: &[u8], layer: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
    }))
    .expect("JSON")
}

/// An OCI index of these manifests.
pub(crate) fn index(manifests: &[Vec<u8>], media_type: &str) -> Vec<u8> {
    let manifests: Vec<_> = manifests.iter().map(|manifest| descriptor(media_type, manifest)).collect();
    let media_type = "application/vnd.oci.image.index.v1+json";
    serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}))
        .expect("JSON")
}

impl World {
    pub(crate) fn new() -> Self {
        let (caller, inputs) = (FixtureKey::new(), release_fixture::instance_inputs());
        let request = release_fixture::request(&caller.project("acme/app"), "b-1", Nonce([7; 32]));
        let (config, layer) = (b"{\"os\":\"linux\"}".to_vec(), b"a layer".to_vec());
        Self {
            tee: SoftwareTee::shared().expect("a software TEE"),
            chip: None,
            caller,
            signer: FixtureKey::new(),
            instance: InstanceDocument {
                boot_id: "00".repeat(32),
                build_policy_sha256: inputs.build_policy_sha256,
                builder_id: inputs.builder_id,
                buildkitd: inputs.buildkitd,
                epoch: 1,
                key_origin: KeyOrigin::DangerousSoftware,
                platform: Platform::SevSnp,
                runc: inputs.runc,
                started_at: inputs.started_at,
                trust_configuration: inputs.trust_configuration,
                document_type: INSTANCE_TYPE.to_owned(),
                version: inputs.version,
            },
            request,
            completeness: MaterialClass::ALL.map(|class| (class, Completeness::None {})).into(),
            manifest: image_manifest(&config, &layer),
            blobs: vec![config, layer],
        }
    }

    pub(crate) fn target(&self) -> Sha256Digest {
        Sha256Digest::of(&self.manifest)
    }

    pub(crate) fn statement(&self) -> Statement {
        let subjects = [Subject::new(REPOSITORY, &self.target())];
        let mut statement =
            release_fixture::statement_of(&self.instance, &self.request, &self.caller.public, &subjects);
        statement.predicate.build_definition.internal_parameters.completeness = self.completeness.clone();
        statement
    }

    /// The policy that accepts this world as it is made by [`World::new`].
    pub(crate) fn policy(&self) -> PolicyText {
        let trust = Sha256Digest::of(&to_canonical_json(&json!({"projects": []})));
        PolicyText::template()
            .with("MEASUREMENT", &hex::encode(DANGEROUS_SOFTWARE_MEASUREMENT))
            .with(
                "roots = [\"amd-milan\", \"amd-genoa\", \"amd-turin\"]",
                &format!("roots = []\ndangerous_roots = [\"{}\"]", self.tee.root_spki_sha256()),
            )
            .with("BUILDER", release_fixture::BUILDER_ID)
            .with("TRUST", &trust.to_string())
            .with("RULES", &Sha256Digest::of(b"build policy").to_string())
            .with("CALLER", &self.caller.public.spki_sha256().to_string())
    }

    pub(crate) fn make(&self) -> Made {
        self.make_of(self.statement(), |_| (), |_| ())
    }

    /// Makes a build whose statement is altered before the leaf and the signature are made over it.
    pub(crate) fn make_stating(&self, alter: impl FnOnce(&mut Statement)) -> Made {
        let mut statement = self.statement();
        alter(&mut statement);
        self.make_of(statement, |_| (), |_| ())
    }

    /// Makes everything from a statement, with leaf and report altered before they are signed.
    pub(crate) fn make_of(
        &self,
        statement: Statement,
        alter_leaf: impl FnOnce(&mut Leaf),
        alter_report: impl FnOnce(&mut ReportFields),
    ) -> Made {
        let payload = statement.document();
        let mut leaf = Leaf {
            salt: [1; 32],
            instance_sha256: Sha256Digest::of(&self.instance.document()),
            body: LeafBody::Build {
                spki_sha256: self.signer.public.spki_sha256(),
                nonce: self.request.nonce,
                statement_sha256: Sha256Digest::of(&payload),
            },
        };
        alter_leaf(&mut leaf);
        // Another tenant's leaf shares the report.
        let other = Leaf { salt: [2; 32], ..leaf };
        let tree = LeafTree::new(&[other, leaf]).expect("two leaves");
        let bundle = EvidenceBundle {
            evidence: self
                .chip
                .as_ref()
                .unwrap_or(self.tee.chip())
                .evidence(&tree.report_data(), alter_report),
            instance: self.instance.document(),
            leaf: leaf.encode(),
            proof: tree.proof(1).expect("the second leaf"),
            request: Some(self.caller.sign(REQUEST_PAYLOAD_TYPE, self.request.document()).to_json()),
            signing_key: Some(self.signer.public.spki_der().to_vec()),
            caller_key: Some(self.caller.public.spki_der().to_vec()),
            attestation_result: None,
            timestamp: None,
        };
        let provenance = self.signer.sign(IN_TOTO_PAYLOAD_TYPE, payload);
        let sign = self.signer.sign(IN_TOTO_PAYLOAD_TYPE, cosign_sign_statement(&self.target()));
        let input = ImageInput {
            target: self.target(),
            repository: Some(REPOSITORY.to_owned()),
            documents: vec![self.manifest.clone()],
            evidence: vec![bundle.to_json()],
            envelopes: vec![
                bundle_with_key_hint(&provenance, &self.signer.public),
                bundle_with_key_hint(&sign, &self.signer.public),
            ],
            simple_signatures: vec![self.simple_signature(REPOSITORY, &self.target())],
            endorsements: Endorsements::default(),
            expected_request: None,
        };
        Made { bundle, statement, input, policy: self.policy() }
    }

    pub(crate) fn simple_signature(&self, repository: &str, digest: &Sha256Digest) -> SimpleSignature {
        let payload = simple_signing_payload(repository, digest);
        SimpleSignature { signature: self.signer.sign_bytes(&payload), payload }
    }
}

impl Made {
    /// Puts a changed bundle in the place of the one made.
    pub(crate) fn with_bundle(mut self, change: impl FnOnce(&mut EvidenceBundle)) -> Self {
        change(&mut self.bundle);
        self.input.evidence = vec![self.bundle.to_json()];
        self
    }

    pub(crate) fn with_policy(mut self, change: impl FnOnce(PolicyText) -> PolicyText) -> Self {
        self.policy = change(self.policy);
        self
    }

    pub(crate) fn parsed_policy(&self) -> Policy {
        self.policy.parse()
    }

    pub(crate) fn verdict(&self) -> Verdict {
        verify_image(&self.parsed_policy(), &self.input, now())
    }

    /// The reason of the refusal, whatever it is.
    pub(crate) fn refused(&self) -> Reason {
        let verdict = self.verdict();
        let report = verdict.report();
        report.rejection().unwrap_or_else(|| panic!("not refused:\n{report}")).reason().clone()
    }
}
