//! Whole builds under Secure Execution. NOT HARDWARE: the Ultravisor is the software TEE's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::binding::{KeyRole, Leaf, LeafBody};
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::secure_execution::{
    ATTESTATION_RESULT_PAYLOAD_TYPE, AttestationResult, SecureExecutionEndorsements, SecureExecutionEvidence,
};
use provenance::timestamp::Timestamp;
use sealwright_tests::release_fixture::FixtureKey;
use sealwright_tests::software_tee::se::fixture::{ALL_FLAGS, image_header};
use sealwright_tests::software_tee::se::host_keys::HostKeyDocuments;
use sealwright_tests::software_tee::se::{Requester, SoftwareUltravisor};
use verifier::secure_execution::{ImageTags, OwnRequest, ProtectionKey};

use super::support::PolicyText;
use super::world::{Made, World, now};

/// A machine, who asks it, and a Verifier.
pub(crate) struct Setting {
    pub(crate) world: World,
    pub(crate) machine: SoftwareUltravisor,
    pub(crate) documents: HostKeyDocuments,
    pub(crate) requester: Requester,
    pub(crate) auditor: FixtureKey,
    pub(crate) header: Vec<u8>,
}

impl Setting {
    pub(crate) fn new() -> Self {
        Self::of_world(World::new())
    }

    /// The machine of this world.
    pub(crate) fn of_world(mut world: World) -> Self {
        let header = image_header(0x66);
        let machine = SoftwareUltravisor::new(&header).expect("a machine");
        let documents = HostKeyDocuments::of(machine.host_key()).expect("documents");
        let requester = Requester::new(ALL_FLAGS, &[machine.host_key()]).expect("a request");
        world.instance.platform = Platform::SecureExecution;
        Self { world, machine, documents, requester, auditor: FixtureKey::new(), header }
    }

    pub(crate) fn own(&self) -> OwnRequest {
        let key = ProtectionKey::new(self.requester.protection_key);
        OwnRequest::open(&self.requester.request, &key).expect("the key opens it")
    }

    pub(crate) fn key_leaf(&self) -> LeafBody {
        LeafBody::Key {
            role: KeyRole::ProjectSigning,
            scope_sha256: self.world.request.project.id().0,
            spki_sha256: self.world.signer.public.spki_sha256(),
        }
    }

    /// A build with Evidence of this machine over the leaf, whose body may be another than the build's.
    pub(crate) fn made(&self, body: Option<LeafBody>, allow_key_only: bool) -> Made {
        let alter = |leaf: &mut Leaf| leaf.body = body.unwrap_or(leaf.body);
        let mut made = self.world.make_of(self.world.statement(), alter, |_| ());
        let leaf = Leaf::parse(&made.bundle.leaf).expect("a leaf");
        let report_data = made.bundle.proof.report_data(&leaf).expect("a proof");
        let request = &self.requester.request;
        let answer = self.machine.attest(request, &report_data.0).expect("an answer");
        let response = answer.exchange(request, &report_data.0);
        let sent = SecureExecutionEndorsements {
            host_keys: [&[self.documents.document.clone()][..], &self.documents.others].concat(),
            certificates: self.documents.certificates.to_vec(),
            crls: self.documents.crls.to_vec(),
        };
        let evidence = Evidence {
            platform: Platform::SecureExecution,
            report: SecureExecutionEvidence { response, header: self.header.clone() }.encode(),
            endorsements: sent.encode(),
        };
        let tags = ImageTags::of_header(&self.header).expect("a header");
        let at = |seconds| Timestamp::from_unix(now().unix() + seconds).expect("a time");
        let result = AttestationResult {
            evidence_sha256: Sha256Digest::of(&evidence.report),
            request_sha256: Sha256Digest::of(request),
            user_data: report_data.0.to_vec(),
            image: *tags.as_bytes(),
            image_host_key: self.machine.host_key().hash(),
            attestation_host_key: self.machine.host_key().hash(),
            config_uid: answer.config_uid,
            host_key_root: self.documents.root,
            policy_sha256: Sha256Digest::of(b"the auditor's policy"),
            issued_at: at(-60),
            expires_at: at(600),
        };
        let signed = self.auditor.sign(ATTESTATION_RESULT_PAYLOAD_TYPE, result.document()).to_json();
        made.policy = self.policy(&made.policy, allow_key_only);
        made.with_bundle(|bundle| {
            bundle.evidence = evidence;
            bundle.attestation_result = Some(signed);
        })
    }

    /// The world's policy for this machine instead of the SEV-SNP chip.
    pub(crate) fn policy(&self, of_snp: &PolicyText, allow_key_only: bool) -> PolicyText {
        let mut text = of_snp.0.clone();
        let start = text.find("[sev-snp]").expect("the table");
        let end = text.find("[[reference_values]]").expect("the list");
        let host_key = self.machine.host_key().hash();
        let table = format!(
            "[secure-execution]\nimage_host_keys = [\"{host_key}\"]\nattestation_host_keys = [\"{host_key}\"]\n\
             config_uids = \"any-run\"\nallow_key_only = {allow_key_only}\nverifiers = [\n  {{ name = \"auditor\", \
             public_key = \"{}\", policies = [\"{}\"] }},\n]\n\n",
            STANDARD.encode(self.auditor.public.spki_der()),
            Sha256Digest::of(b"the auditor's policy")
        );
        text.replace_range(start..end, &table);
        let tags = ImageTags::of_header(&self.header).expect("a header");
        let reference = format!(
            "platform = \"secure-execution\"\npage_list_digest = \"{}\"\naddress_list_digest = \"{}\"\n\
             tweak_list_digest = \"{}\"\ntag = \"{}\"\n\n[guest]",
            hex::encode(tags.page_list_digest()),
            hex::encode(tags.address_list_digest()),
            hex::encode(tags.tweak_list_digest()),
            hex::encode(tags.tag())
        );
        let start = text.find("platform = \"sev-snp\"").expect("the reference value");
        let end = text.find("[guest]").expect("the table") + "[guest]".len();
        text.replace_range(start..end, &reference);
        PolicyText(text)
            .with("platforms = [\"sev-snp\"]", "platforms = [\"secure-execution\"]")
            .with("evidence = [\"hardware\"]", "evidence = [\"own-request\", \"attestation-result\"]")
            .with(&self.world.tee.root_spki_sha256().to_string(), &self.documents.root.to_string())
    }
}
