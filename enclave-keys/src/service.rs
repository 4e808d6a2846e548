//! The key service: one boot's keys, its instance document and the device behind one typed interface.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use provenance::binding::{KeyRole, LeafBody, Nonce};
use provenance::certificate::authority_scope;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::instance::{INSTANCE_TYPE, InstanceDocument, Program};
use provenance::project::ProjectId;
use provenance::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::attester::Attester;
use crate::batch::{Batcher, BoundLeaf};
use crate::certificates;
use crate::error::{KeyError, StartError};
use crate::interface::{Authority, Health, KeyRequest, KeyResponse, ProjectKey, ReleaseRequest, Released};
use crate::release::{CheckedRelease, OwnInstance, readable};
use crate::releases::Releases;
use crate::sealing::{Epoch, EpochStart};
use crate::secret::{SigningKey, random};
use crate::secure_execution::SecureExecutionHeader;
use crate::tls::TlsIdentity;

/// Most projects whose key Evidence is remembered; one more takes the place of another.
const MAX_REMEMBERED_PROJECTS: usize = 4096;

/// What build-server says about itself; goes into the instance document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceInputs {
    /// Version of build-server.
    pub version: String,
    /// SLSA builder id.
    pub builder_id: String,
    /// buildkitd as pinned.
    pub buildkitd: Program,
    /// runc as pinned.
    pub runc: Program,
    /// The trust configuration in full.
    pub trust_configuration: serde_json::Value,
    /// SHA-256 of the build policy in force.
    pub build_policy_sha256: Sha256Digest,
    /// The guest's clock at start.
    pub started_at: Timestamp,
    /// Header of the guest's image, at most 8 KiB, which on Secure Execution goes out with each answer: a guest cannot
    /// read its own. No part of the instance document; what does not fit an answer is seen by its verifier.
    pub secure_execution_header: Option<SecureExecutionHeader>,
}

/// Handle to the keys of this boot. Cheap to clone, thread-safe; calls block.
#[derive(Clone)]
pub struct KeyService(Arc<Inner>);

struct Inner {
    own: OwnInstance,
    epoch: Epoch,
    tls: TlsIdentity,
    batcher: Batcher,
    releases: Releases,
    projects: Mutex<BTreeMap<ProjectId, Arc<ProjectSlot>>>,
    authority_key: SigningKey,
    authority: Mutex<Option<Arc<AuthoritySlot>>>,
}

/// A project's key, and what is public about it once obtained.
struct ProjectSlot {
    key: SigningKey,
    known: Mutex<Option<ProjectKey>>,
}

/// The enclave CA, once its key has Evidence.
struct AuthoritySlot {
    issuer: certificates::Authority,
    public: Authority,
}

impl std::fmt::Debug for KeyService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyService(instance {})", self.0.own.sha256)
    }
}

impl KeyService {
    /// Makes or unseals the keys of this boot and obtains a first report, which fixes the own launch measurement.
    ///
    /// `sealed`: directory of the sealed epoch, made when it is not there and held against other processes; without
    /// one the epoch ends with this boot.
    pub fn start(
        attester: Box<dyn Attester>,
        inputs: InstanceInputs,
        sealed: Option<&Path>,
    ) -> Result<Self, StartError> {
        let epoch = Epoch::begin(&*attester, sealed, inputs.started_at)?;
        match &epoch.start {
            EpochStart::Next { .. } => tracing::warn!(epoch = epoch.number, "epoch is {}", epoch.start),
            _ => tracing::info!(epoch = epoch.number, "epoch is {}", epoch.start),
        }
        let document = InstanceDocument {
            boot_id: hex::encode(random::<32>()?),
            build_policy_sha256: inputs.build_policy_sha256,
            builder_id: inputs.builder_id,
            buildkitd: inputs.buildkitd,
            epoch: epoch.number,
            key_origin: epoch.origin,
            platform: attester.platform(),
            runc: inputs.runc,
            started_at: inputs.started_at,
            trust_configuration: inputs.trust_configuration,
            document_type: INSTANCE_TYPE.to_owned(),
            version: inputs.version,
        }
        .document();
        // Read back, so that what statements embed is what a verifier reads from these bytes.
        let parsed = InstanceDocument::parse(&document)?;
        let own = OwnInstance { sha256: Sha256Digest::of(&document), document, parsed };
        let tls = TlsIdentity::generate(own.parsed.started_at)?;
        let batcher = Batcher::start(attester, own.sha256, inputs.secure_execution_header)?;
        let releases = Releases::since(own.parsed.started_at);
        let authority_key =
            epoch.secret.authority_key(epoch.number, &authority_scope(&own.parsed.builder_id));
        Ok(Self(Arc::new(Inner {
            own,
            epoch,
            tls,
            batcher,
            releases,
            projects: Mutex::default(),
            authority_key,
            authority: Mutex::default(),
        })))
    }

    /// Any request in its serialisable form. The methods below are the same requests with their own types.
    pub fn handle(&self, request: KeyRequest) -> Result<KeyResponse, KeyError> {
        let inner = &*self.0;
        Ok(match request {
            KeyRequest::Instance {} => KeyResponse::Instance { document: inner.own.document.clone() },
            KeyRequest::ProjectKey { project, challenge } => {
                KeyResponse::ProjectKey(inner.project_key(&project, challenge)?)
            }
            KeyRequest::Release(request) => KeyResponse::Release(Box::new(inner.release(request)?)),
            KeyRequest::SessionEvidence { exporter, nonce, challenge } => {
                KeyResponse::SessionEvidence { evidence: inner.session_evidence(exporter, nonce, challenge)? }
            }
            KeyRequest::TlsCertificate {} => {
                KeyResponse::TlsCertificate { certificate: inner.tls.certificate().to_vec() }
            }
            KeyRequest::SignTls { message } => KeyResponse::SignTls { signature: inner.tls.sign(&message)? },
            KeyRequest::Health {} => KeyResponse::Health(inner.batcher.health()),
        })
    }

    /// The canonical instance document, whose SHA-256 is in every leaf.
    #[must_use]
    pub fn instance_document(&self) -> &[u8] {
        &self.0.own.document
    }

    /// The same, parsed.
    #[must_use]
    pub fn instance(&self) -> &InstanceDocument {
        &self.0.own.parsed
    }

    /// How this boot's epoch began.
    #[must_use]
    pub fn epoch_start(&self) -> &EpochStart {
        &self.0.epoch.start
    }

    /// A project's signing key and its Evidence, obtained once per boot; on Secure Execution each time.
    pub fn project_key(&self, project: &ProjectId, challenge: Challenge) -> Result<ProjectKey, KeyError> {
        self.0.project_key(project, challenge)
    }

    /// Binds a statement to the hardware and signs it and its images. Nothing is signed on any error.
    pub fn release(&self, request: ReleaseRequest) -> Result<Released, KeyError> {
        self.0.release(request)
    }

    /// Evidence (CMW JSON) that the TLS connection with this exporter ends here.
    pub fn session_evidence(
        &self,
        exporter: [u8; 32],
        nonce: Nonce,
        challenge: Challenge,
    ) -> Result<Vec<u8>, KeyError> {
        self.0.session_evidence(exporter, nonce, challenge)
    }

    /// The self-signed P-256 certificate of this boot, DER.
    #[must_use]
    pub fn tls_certificate(&self) -> Vec<u8> {
        self.0.tls.certificate().to_vec()
    }

    /// How the device does.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.batcher.health()
    }
}

impl Inner {
    fn slot(&self, project: &ProjectId) -> Arc<ProjectSlot> {
        let mut projects = self.projects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = projects.get(project) {
            return Arc::clone(slot);
        }
        if projects.len() >= MAX_REMEMBERED_PROJECTS {
            projects.pop_first();
        }
        let key = self.epoch.secret.project_key(self.epoch.number, project);
        let slot = Arc::new(ProjectSlot { key, known: Mutex::default() });
        projects.insert(*project, Arc::clone(&slot));
        slot
    }

    fn project_key(&self, project: &ProjectId, challenge: Challenge) -> Result<ProjectKey, KeyError> {
        let slot = self.slot(project);
        if challenge != Challenge::Nonce {
            // It convinces nobody but the one who asked.
            return self.certified_key(project, &slot, &*self.new_authority(&challenge)?, challenge);
        }
        // Held while the device is asked, so that callers of one project share one leaf.
        let mut known = slot.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let key = self.certified_key(project, &slot, &*self.authority()?, challenge)?;
        Ok(known.insert(key).clone())
    }

    fn certified_key(
        &self,
        project: &ProjectId,
        slot: &ProjectSlot,
        authority: &AuthoritySlot,
        challenge: Challenge,
    ) -> Result<ProjectKey, KeyError> {
        let public = slot.key.public().clone();
        let evidence = self.key_evidence(KeyRole::ProjectSigning, project.0, &slot.key, challenge)?;
        let certificate =
            authority.issuer.issue(&self.authority_key, project, &public, &Sha256Digest::of(&evidence))?;
        Ok(ProjectKey { public, evidence, certificate, authority: authority.public.clone() })
    }

    fn authority(&self) -> Result<Arc<AuthoritySlot>, KeyError> {
        // Held while the device is asked, so that there is one certificate per boot.
        let mut known = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(authority) = &*known {
            return Ok(Arc::clone(authority));
        }
        Ok(Arc::clone(known.insert(self.new_authority(&Challenge::Nonce)?)))
    }

    fn new_authority(&self, challenge: &Challenge) -> Result<Arc<AuthoritySlot>, KeyError> {
        let InstanceDocument { builder_id, started_at, .. } = &self.own.parsed;
        let (key, scope) = (&self.authority_key, authority_scope(builder_id));
        let evidence = self.key_evidence(KeyRole::EnclaveCa, scope, key, challenge.clone())?;
        let issuer =
            certificates::Authority::certify(key, &Sha256Digest::of(&evidence), builder_id, *started_at)?;
        let public = Authority { certificate: issuer.certificate().to_vec(), evidence };
        Ok(Arc::new(AuthoritySlot { issuer, public }))
    }

    fn key_evidence(
        &self,
        role: KeyRole,
        scope_sha256: Sha256Digest,
        key: &SigningKey,
        challenge: Challenge,
    ) -> Result<Vec<u8>, KeyError> {
        let body = LeafBody::Key { role, scope_sha256, spki_sha256: key.public().spki_sha256() };
        let signing_key = Some(key.public().spki_der().to_vec());
        self.bundle(self.batcher.bind(body, challenge)?, signing_key)
    }

    fn release(&self, request: ReleaseRequest) -> Result<Released, KeyError> {
        let checked = CheckedRelease::check(request, &self.own, &self.releases)?;
        let slot = self.slot(checked.project());
        Ok(checked.bind(&slot.key, &self.own, &self.batcher)?.sign(&slot.key))
    }

    fn session_evidence(
        &self,
        exporter: [u8; 32],
        nonce: Nonce,
        challenge: Challenge,
    ) -> Result<Vec<u8>, KeyError> {
        let tls_spki_sha256 = self.tls.public().spki_sha256();
        let body = LeafBody::Session { tls_spki_sha256, tls_exporter: exporter, nonce };
        self.bundle(self.batcher.bind(body, challenge)?, None)
    }

    fn bundle(&self, bound: BoundLeaf, signing_key: Option<Vec<u8>>) -> Result<Vec<u8>, KeyError> {
        readable(&EvidenceBundle {
            evidence: bound.evidence,
            instance: self.own.document.clone(),
            leaf: bound.leaf,
            proof: bound.proof,
            request: None,
            signing_key,
            caller_key: None,
            attestation_result: None,
            timestamp: None,
        })
    }
}
