//! Certificates of an instance, before other tools are told to trust them: does an accepted guest hold the key of the
//! enclave CA and the key of the project, and do both certificates say exactly what the key Evidence says?

use der::asn1::{ObjectIdentifier, Utf8StringRef};
use der::{Decode, Reader, SliceReader, Tag};
use provenance::binding::{KeyRole, LeafBody};
use provenance::certificate::{
    ID_PE_CMW, SIGSTORE_ISSUER, authority_scope, evidence_digest_record, project_uri,
};
use provenance::digest::Sha256Digest;
use provenance::evidence::EvidenceBundle;
use provenance::key::{InvalidPublicKey, PublicKey};
use provenance::project::ProjectId;
use provenance::timestamp::Timestamp;

use crate::bound::{self, BindingError, BoundLeaf};
use crate::built::RequestRefusal;
use crate::policy::Policy;
use crate::rejection::{Reason, Rejection};
use crate::session::{SessionGrounds, bound_leaf};
use crate::x509::{Certificate, CertificateError, DIGITAL_SIGNATURE, KEY_CERT_AND_CRL_SIGN, Profile};

const SUBJECT_KEY_IDENTIFIER: &str = "2.5.29.14";
const KEY_USAGE: &str = "2.5.29.15";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const AUTHORITY_KEY_IDENTIFIER: &str = "2.5.29.35";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
/// extendedKeyUsage with codeSigning alone (RFC 5280 §4.2.1.12), DER.
const CODE_SIGNING_ONLY: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];
/// Context tag of uniformResourceIdentifier in a GeneralName (RFC 5280 §4.2.1.6).
const URI: Tag = Tag::ContextSpecific { constructed: false, number: der::TagNumber(6) };

/// Which of the two certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The enclave CA's.
    Authority,
    /// The project's.
    Project,
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Authority => "certificate of the enclave CA",
            Self::Project => "certificate of the project",
        })
    }
}

/// Why certificates are not what key Evidence says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateRefusal {
    /// Form, signature, issuer or validity.
    #[error("{which} {problem}")]
    Certificate {
        /// Which one.
        which: Which,
        /// What is wrong with it.
        problem: CertificateError,
    },
    /// The key Evidence is of a key for another purpose.
    #[error("key Evidence beside the {which} is of a key for another purpose")]
    Role {
        /// Which one.
        which: Which,
    },
    /// The key Evidence is of a key for another builder or project.
    #[error("key Evidence beside the {which} is for {got}, wanted {wanted}")]
    Scope {
        /// Which one.
        which: Which,
        /// Scope in the leaf: a project id, or the SHA-256 of a builder id.
        got: Sha256Digest,
        /// Scope wanted.
        wanted: Sha256Digest,
    },
    /// The two leaves are of different instances.
    #[error("key of the project is of instance {project}, that of the enclave CA of {authority}")]
    Instances {
        /// Instance that holds the project's key.
        project: Sha256Digest,
        /// Instance that holds the CA's key.
        authority: Sha256Digest,
    },
    /// The certificate is of another key than the Evidence.
    #[error("{which} is of key {got}, its key Evidence covers {wanted}")]
    Key {
        /// Which one.
        which: Which,
        /// SHA-256 of the SPKI in the certificate.
        got: Sha256Digest,
        /// SHA-256 of the SPKI in the leaf.
        wanted: Sha256Digest,
    },
    /// The project's key is of no kind that signs.
    #[error("key of the project: {0}")]
    PublicKey(#[from] InvalidPublicKey),
    /// An extension is missing or says something else.
    #[error("{which}: {extension} is not what it must be: {wanted}")]
    Extension {
        /// Which one.
        which: Which,
        /// Name of the extension.
        extension: &'static str,
        /// What it must say.
        wanted: String,
    },
    /// An extension that the profile does not know.
    #[error("{which} has extension {oid}, which its profile does not know")]
    UnknownExtension {
        /// Which one.
        which: Which,
        /// The extension.
        oid: String,
    },
}

/// What an instance says about a project's key, as it came.
#[derive(Debug, Clone, Copy)]
pub struct ProjectCertificates<'a> {
    /// Certificate of the project, X.509 DER.
    pub certificate: &'a [u8],
    /// Key Evidence of the project, CMW JSON.
    pub key_evidence: &'a [u8],
    /// Certificate of the enclave CA, X.509 DER.
    pub authority_certificate: &'a [u8],
    /// Key Evidence of the enclave CA, CMW JSON.
    pub authority_evidence: &'a [u8],
}

/// A project's key in an accepted guest, with certificates that say what its Evidence says. Made only by
/// [`appraise_certificates`].
#[derive(Debug, Clone)]
pub struct CertifiedKey {
    project: BoundLeaf,
    public: PublicKey,
    uri: String,
    certificate: Vec<u8>,
    authority: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl CertifiedKey {
    /// Guest, leaf and instance of the project's key.
    #[must_use]
    pub fn bound(&self) -> &BoundLeaf {
        &self.project
    }

    /// The project's key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Subject alternative name: `<builder id>/project/<project id>`.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Certificate of the project, X.509 DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Certificate of the enclave CA, X.509 DER.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// When both certificates are valid, both ends included; the guest's clock, unproven.
    #[must_use]
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        (self.not_before, self.not_after)
    }
}

/// Appraises both key Evidences under the policy and compares both certificates with them.
///
/// `project`: whose key it must be. `grounds`: what is at hand beside the Evidence.
pub fn appraise_certificates(
    policy: &Policy,
    given: ProjectCertificates<'_>,
    project: &ProjectId,
    grounds: SessionGrounds<'_>,
    now: Timestamp,
) -> Result<CertifiedKey, Rejection> {
    judge(policy, given, project, grounds, now).map_err(|reason| Rejection::new(reason, policy))
}

fn judge(
    policy: &Policy,
    given: ProjectCertificates<'_>,
    project: &ProjectId,
    grounds: SessionGrounds<'_>,
    now: Timestamp,
) -> Result<CertifiedKey, Reason> {
    let bound = |evidence| {
        let bound = bound_leaf(policy, &EvidenceBundle::parse(evidence)?, grounds, now)?;
        bound::appraise_key_only(&bound, policy)?;
        Ok::<_, Reason>(bound)
    };
    let authority = bound(given.authority_evidence)?;
    let builder_id = authority.instance().builder_id.clone();
    let authority_key =
        key_of(&authority, Which::Authority, KeyRole::EnclaveCa, authority_scope(&builder_id))?;
    let bound = bound(given.key_evidence)?;
    let project_key = key_of(&bound, Which::Project, KeyRole::ProjectSigning, project.0)?;
    let (one, other) = (bound.leaf().instance_sha256, authority.leaf().instance_sha256);
    if one != other {
        return Err(CertificateRefusal::Instances { project: one, authority: other }.into());
    }
    bound::appraise_rules(bound.instance(), policy)?;
    if let Some(projects) = policy.projects().filter(|projects| !projects.value.contains(project)) {
        return Err(RequestRefusal::ProjectNotAccepted {
            got: project.to_string(),
            wanted: projects.value.iter().map(ToString::to_string).collect(),
            line: projects.line,
        }
        .into());
    }

    let uri = project_uri(&builder_id, project);
    let ca = read(Which::Authority, given.authority_certificate, authority_key, now)?;
    check_authority(&ca, given.authority_evidence)?;
    let leaf = read(Which::Project, given.certificate, project_key, now)?;
    leaf.check_issued_by(&ca).map_err(|problem| refuse(Which::Project, problem))?;
    check_project(&leaf, given.key_evidence, &uri, &builder_id)?;

    let public = PublicKey::from_spki_der(leaf.spki()).map_err(CertificateRefusal::from)?;
    let ((ca_from, ca_to), (from, to)) = (ca.validity(), leaf.validity());
    Ok(CertifiedKey {
        project: bound,
        public,
        uri,
        certificate: given.certificate.to_vec(),
        authority: given.authority_certificate.to_vec(),
        not_before: from.max(ca_from),
        not_after: to.min(ca_to),
    })
}

fn refuse(which: Which, problem: CertificateError) -> CertificateRefusal {
    CertificateRefusal::Certificate { which, problem }
}

/// SHA-256 of the key that the leaf covers, which must be one of this role and scope.
fn key_of(
    bound: &BoundLeaf,
    which: Which,
    role: KeyRole,
    wanted: Sha256Digest,
) -> Result<Sha256Digest, Reason> {
    match bound.leaf().body {
        LeafBody::Key { role: got, .. } if got != role => Err(CertificateRefusal::Role { which }.into()),
        LeafBody::Key { scope_sha256: got, .. } if got != wanted => {
            Err(CertificateRefusal::Scope { which, got, wanted }.into())
        }
        LeafBody::Key { spki_sha256, .. } => Ok(spki_sha256),
        ref other => Err(BindingError::LeafKind { got: bound::kind(other), wanted: "key" }.into()),
    }
}

/// Parses a certificate of the key that Evidence covers, valid now.
fn read(
    which: Which,
    der: &[u8],
    wanted: Sha256Digest,
    now: Timestamp,
) -> Result<Certificate<'_>, CertificateRefusal> {
    let certificate = Certificate::parse(der, Profile::Enclave).map_err(|problem| refuse(which, problem))?;
    let got = certificate.spki_sha256();
    if got != wanted {
        return Err(CertificateRefusal::Key { which, got, wanted });
    }
    certificate.check_validity(now).map_err(|problem| refuse(which, problem))?;
    Ok(certificate)
}

/// One certificate whose extensions are compared with its profile.
struct Extensions<'a> {
    which: Which,
    certificate: &'a Certificate<'a>,
}

impl Extensions<'_> {
    /// No extension but these.
    fn are_among(&self, known: &[&str]) -> Result<(), CertificateRefusal> {
        let known = |oid: &ObjectIdentifier| {
            known.contains(&oid.to_string().as_str())
                || *oid == number(ID_PE_CMW)
                || *oid == number(SIGSTORE_ISSUER)
        };
        match self.certificate.extension_oids().find(|oid| !known(oid)) {
            Some(oid) => {
                Err(CertificateRefusal::UnknownExtension { which: self.which, oid: oid.to_string() })
            }
            None => Ok(()),
        }
    }

    fn require(
        &self,
        holds: bool,
        extension: &'static str,
        wanted: impl Into<String>,
    ) -> Result<(), CertificateRefusal> {
        if holds {
            return Ok(());
        }
        Err(CertificateRefusal::Extension { which: self.which, extension, wanted: wanted.into() })
    }

    fn key_usage(&self, wanted: u8, words: &str) -> Result<(), CertificateRefusal> {
        let got = self.certificate.key_usage().map_err(|problem| refuse(self.which, problem))?;
        self.require(got == Some(wanted), "keyUsage", words)
    }

    fn authority(&self, wanted: bool) -> Result<(), CertificateRefusal> {
        let got = self.certificate.is_authority().map_err(|problem| refuse(self.which, problem))?;
        let words = if wanted { "a certificate authority" } else { "no certificate authority" };
        self.require(got == wanted, "basicConstraints", words)
    }

    fn text(&self, oid: &[u32], extension: &'static str, wanted: &str) -> Result<(), CertificateRefusal> {
        let got = self.certificate.extension(&number(oid)).and_then(|der| Utf8StringRef::from_der(der).ok());
        self.require(got.is_some_and(|got| got.as_str() == wanted), extension, wanted)
    }

    fn evidence(&self, evidence: &[u8]) -> Result<(), CertificateRefusal> {
        self.text(ID_PE_CMW, "id-pe-cmw", &evidence_digest_record(&Sha256Digest::of(evidence)))
    }
}

fn number(oid: &[u32]) -> ObjectIdentifier {
    ObjectIdentifier::from_arcs(oid.iter().copied())
        .expect("constants of this workspace are object identifiers")
}

fn check_authority(ca: &Certificate<'_>, evidence: &[u8]) -> Result<(), CertificateRefusal> {
    ca.check_issued_by(ca).map_err(|problem| refuse(Which::Authority, problem))?;
    let extensions = Extensions { which: Which::Authority, certificate: ca };
    extensions.are_among(&[SUBJECT_KEY_IDENTIFIER, KEY_USAGE, BASIC_CONSTRAINTS])?;
    extensions.key_usage(KEY_CERT_AND_CRL_SIGN, "keyCertSign and cRLSign")?;
    extensions.evidence(evidence)
}

fn check_project(
    leaf: &Certificate<'_>,
    evidence: &[u8],
    uri: &str,
    builder_id: &str,
) -> Result<(), CertificateRefusal> {
    let extensions = Extensions { which: Which::Project, certificate: leaf };
    extensions.are_among(&[
        SUBJECT_KEY_IDENTIFIER,
        AUTHORITY_KEY_IDENTIFIER,
        KEY_USAGE,
        EXTENDED_KEY_USAGE,
        SUBJECT_ALT_NAME,
        BASIC_CONSTRAINTS,
    ])?;
    extensions.authority(false)?;
    extensions.key_usage(DIGITAL_SIGNATURE, "digitalSignature alone")?;
    let purposes = leaf.extension(&ObjectIdentifier::new_unwrap(EXTENDED_KEY_USAGE));
    extensions.require(purposes == Some(CODE_SIGNING_ONLY), "extendedKeyUsage", "codeSigning alone")?;
    let names = leaf.extension(&ObjectIdentifier::new_unwrap(SUBJECT_ALT_NAME));
    extensions.require(names.and_then(only_uri) == Some(uri.as_bytes()), "subjectAltName", uri)?;
    extensions.text(SIGSTORE_ISSUER, "issuer (1.3.6.1.4.1.57264.1.8)", builder_id)?;
    extensions.evidence(evidence)
}

/// The URI of GeneralNames that hold one URI and nothing else.
fn only_uri(names: &[u8]) -> Option<&[u8]> {
    let mut outer = SliceReader::new(names).ok()?;
    let any = der::asn1::AnyRef::decode(&mut outer).ok()?;
    outer.finish().ok()?;
    if der::Tagged::tag(&any) != Tag::Sequence {
        return None;
    }
    let mut inner = SliceReader::new(any.value()).ok()?;
    let name = der::asn1::AnyRef::decode(&mut inner).ok()?;
    inner.finish().ok()?;
    (der::Tagged::tag(&name) == URI).then(|| name.value())
}
