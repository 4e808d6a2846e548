//! Host key documents: certificates in which IBM names the public key of a machine. They are traced to a pinned root
//! by IBM's own rules, which are not those of an ordinary certification path (IBM, "Introducing IBM Secure Execution
//! for Linux", "Verifying the host key document"; the `pv` crate of s390-tools does the same).
//!
//! Steps of [`authenticate`], each with its own error:
//! 1. the document has a P-521 key for key agreement;
//! 2. its signing key is at hand: a certificate with IBM's fixed subject, which the document names as its issuer;
//!    order of attributes and locality (Poughkeepsie or Armonk) may differ;
//! 3. intermediate and root are at hand; the root has a pinned key, signs itself and is valid at `now`;
//! 4. intermediate and signing key are issued in order and valid at `now`; the signing key is no authority, and is
//!    for code signing;
//! 5. the document is signed with the signing key and valid at `now`;
//! 6. root, intermediate and signing key each have a CRL at hand that is fresh at `now`, under the same rules of
//!    naming, and none lists what it stands for.

#[cfg(test)]
mod tests;

use std::fmt;

use der::asn1::ObjectIdentifier;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;

use crate::evidence::{Endorsements, TooManyEndorsements};
use crate::roots::Anchors;
use crate::x509::{
    Certificate, CertificateError, DIGITAL_SIGNATURE, DistinguishedName, KEY_AGREEMENT, Profile,
    UnauthenticatedList,
};

/// Most certificates, and most revocation lists, that are looked at of those that came with the Evidence: beside those
/// given, which have limits of their own.
pub const MAX_SENT: usize = 64;

/// SHA-256 of the SPKI of DigiCert Trusted Root G4, which the certificates of IBM's signing keys lead to, as the CA
/// bundle of Mozilla has it.
const DIGICERT_TRUSTED_ROOT_G4: &str = "59df317bfa9f4f0ab7ca514d7772296aa2c765b87664d08b96e57399e364729c";

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const COMMON_NAME: ObjectIdentifier = oid("2.5.4.3");
const COUNTRY: ObjectIdentifier = oid("2.5.4.6");
const LOCALITY: ObjectIdentifier = oid("2.5.4.7");
const STATE: ObjectIdentifier = oid("2.5.4.8");
const ORGANIZATION: ObjectIdentifier = oid("2.5.4.10");
const UNIT: ObjectIdentifier = oid("2.5.4.11");
/// extendedKeyUsage codeSigning (RFC 5280 §4.2.1.12).
const CODE_SIGNING: ObjectIdentifier = oid("1.3.6.1.5.5.7.3.3");

const IBM: &str = "International Business Machines Corporation";
const SIGNING_SERVICE: &str = "Key Signing Service";
const LOCALITIES: [&str; 2] = ["Poughkeepsie", "Armonk"];

/// Length of each coordinate of a P-521 key in its certificate, in bytes.
const COORDINATE_LEN: usize = 66;
/// Length of each coordinate in IBM's structures, in bytes: padded with zeros on the left.
const PADDED_COORDINATE_LEN: usize = 80;
/// Length of a public key in IBM's structures, in bytes.
pub const PUBLIC_KEY_LEN: usize = 2 * PADDED_COORDINATE_LEN;

/// A place in the chain of a host key document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// Root of the public authority.
    Root,
    /// Its intermediate for code signing.
    Intermediate,
    /// IBM's key that signs host key documents.
    SigningKey,
    /// The host key document.
    HostKey,
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::SigningKey => "IBM signing key",
            Self::HostKey => "host key document",
        })
    }
}

/// Why a host key document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostKeyError {
    /// More certificates or revocation lists than are looked at.
    #[error(transparent)]
    TooMany(TooManyEndorsements),
    /// A certificate is refused.
    #[error("{which} certificate {error}")]
    Certificate {
        /// The certificate.
        which: CertificateName,
        /// Why.
        error: CertificateError,
    },
    /// The document has no P-521 key.
    #[error("host key document has no P-521 key")]
    KeyKind,
    /// A certificate is not for what it is used for.
    #[error("{which} certificate is not for {wanted}")]
    Usage {
        /// The certificate.
        which: CertificateName,
        /// What its keyUsage or extendedKeyUsage must name.
        wanted: &'static str,
    },
    /// A certificate is not at hand.
    #[error("{which} certificate is missing among the endorsements given")]
    MissingCertificate {
        /// The certificate.
        which: CertificateName,
    },
    /// The document names an issuer that is no signing key at hand.
    #[error("host key document names the issuer `{got}`, at hand is `{wanted}`")]
    Issuer {
        /// The issuer named.
        got: String,
        /// Subject of a signing key at hand.
        wanted: String,
    },
    /// A certificate authority where IBM's signing key belongs.
    #[error("IBM signing key certificate is a certificate authority, which IBM's is not")]
    SigningKeyIsAuthority,
    /// The root is no pinned one.
    #[error(
        "root key is {got}, which is not the one that IBM's signing keys lead to and none that the policy names"
    )]
    UnknownRoot {
        /// SHA-256 of the root's SPKI.
        got: Sha256Digest,
    },
    /// A CRL does not parse.
    #[error("revocation list {0}")]
    MalformedCrl(CertificateError),
    /// A CRL is signed by one and names another as its issuer.
    #[error(
        "revocation list is signed with the key of the {which} and names `{got}` as its issuer, wanted `{wanted}`"
    )]
    CrlIssuer {
        /// Whose key signed it.
        which: CertificateName,
        /// The issuer it names.
        got: String,
        /// Subject of the one who signed it.
        wanted: String,
    },
    /// A CRL of the right issuer is refused.
    #[error("revocation list of the {which} {error}")]
    Crl {
        /// The issuer.
        which: CertificateName,
        /// Why.
        error: CertificateError,
    },
    /// No CRL of an issuer is at hand.
    #[error("no revocation list of the {which} is at hand")]
    CrlMissing {
        /// The issuer.
        which: CertificateName,
    },
    /// A certificate is revoked.
    #[error("{which} certificate is revoked")]
    Revoked {
        /// The certificate.
        which: CertificateName,
    },
}

impl HostKeyError {
    /// Whether other or newer endorsements could heal it: something is missing or out of date.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::TooMany(_)
            | Self::MissingCertificate { .. }
            | Self::Issuer { .. }
            | Self::CrlMissing { .. } => true,
            Self::Certificate { error, .. } | Self::Crl { error, .. } => {
                matches!(error, CertificateError::Expired { .. } | CertificateError::NotYetValid { .. })
            }
            _ => false,
        }
    }
}

/// The roots that host key documents may be traced to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeyAnchors {
    dangerous: Vec<Sha256Digest>,
}

impl HostKeyAnchors {
    /// The root that IBM's signing keys lead to, and no other.
    #[must_use]
    pub const fn vendor() -> Self {
        Self { dangerous: Vec::new() }
    }

    /// With roots that IBM does not stand behind. Measurements under them say nothing about hardware.
    #[must_use]
    pub fn dangerous_with_roots(mut self, roots: &[Sha256Digest]) -> Self {
        self.dangerous = roots.to_vec();
        self
    }
}

/// A root that a host key document was traced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyRoot {
    /// DigiCert Trusted Root G4, above IBM's signing keys.
    DigiCertTrustedRootG4,
    /// A root that a policy named as dangerous. What it endorses is NOT HARDWARE.
    Dangerous(Sha256Digest),
}

impl HostKeyRoot {
    /// Whether IBM stands behind what it endorses.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        matches!(self, Self::DigiCertTrustedRootG4)
    }
}

/// A host key that was traced to an accepted root. Made only by [`authenticate`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticHostKey {
    hash: Sha256Digest,
    public: [u8; PUBLIC_KEY_LEN],
    root: HostKeyRoot,
    serial: String,
}

impl AuthenticHostKey {
    /// SHA-256 of the key as the Ultravisor states it: X and Y, each padded with zeros to 80 bytes.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        self.hash
    }

    /// The key as the Ultravisor states it: X and Y, each padded with zeros on the left to 80 bytes.
    #[must_use]
    pub fn public_key(&self) -> &[u8; PUBLIC_KEY_LEN] {
        &self.public
    }

    /// The root it was traced to.
    #[must_use]
    pub fn root(&self) -> HostKeyRoot {
        self.root
    }

    /// Serial number of the document in hex.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }
}

/// A host key whose document was **not** traced to any root: anyone could have made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncheckedHostKey {
    hash: Sha256Digest,
}

impl UncheckedHostKey {
    /// SHA-256 of the key as the Ultravisor states it: X and Y, each padded with zeros to 80 bytes.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        self.hash
    }
}

/// Whether this is the SPKI digest of the root that IBM's signing keys lead to.
pub(super) fn is_vendor_root(spki_sha256: &Sha256Digest) -> bool {
    spki_sha256.hex() == DIGICERT_TRUSTED_ROOT_G4
}

/// The root of several host keys together: a dangerous one if any of them has such a root. `None` without a host key.
pub(super) fn root_of_all(host_keys: &[AuthenticHostKey]) -> Option<HostKeyRoot> {
    let roots = || host_keys.iter().map(AuthenticHostKey::root);
    roots().find(|root| !root.is_hardware()).or_else(|| roots().next())
}

/// Whether a policy accepts a root that a host key was traced to. Dangerous ones are only those that it names.
pub(super) fn is_accepted(root: HostKeyRoot, anchors: &Anchors) -> bool {
    anchors.accepts_ibm() || !root.is_hardware()
}

/// SHA-256 of the SPKI of a root.
pub(super) fn root_digest(root: HostKeyRoot) -> Sha256Digest {
    match root {
        HostKeyRoot::DigiCertTrustedRootG4 => {
            Sha256Digest::from_hex(DIGICERT_TRUSTED_ROOT_G4).expect("64 lower-case hex digits")
        }
        HostKeyRoot::Dangerous(digest) => digest,
    }
}

/// Whether a certificate has the form of a host key document: a P-521 key for key agreement.
pub(super) fn is_document(certificate: &[u8]) -> bool {
    host_key(certificate).is_ok()
}

/// Hash of the key in a host key document, whoever made it.
pub(super) fn hash(document: &[u8]) -> Result<Sha256Digest, HostKeyError> {
    Ok(Sha256Digest::of(&host_key(document)?.1))
}

/// Whether this is a revocation list of a kind that the chain has. What is of other vendors is none.
pub(super) fn is_list(crl: &[u8]) -> bool {
    UnauthenticatedList::parse(crl, Profile::Ibm).is_ok()
}

fn refused(which: CertificateName) -> impl Fn(CertificateError) -> HostKeyError {
    move |error| HostKeyError::Certificate { which, error }
}

/// Step 1.
fn host_key(document: &[u8]) -> Result<(Certificate<'_>, [u8; PUBLIC_KEY_LEN]), HostKeyError> {
    let refused = refused(CertificateName::HostKey);
    let certificate = Certificate::parse(document, Profile::Ibm).map_err(&refused)?;
    let point = certificate.p521_point().ok_or(HostKeyError::KeyKind)?;
    if certificate.key_usage().map_err(&refused)?.is_none_or(|bits| bits & KEY_AGREEMENT == 0) {
        return Err(HostKeyError::Usage { which: CertificateName::HostKey, wanted: "key agreement" });
    }
    let (x, y) = point[1..].split_at(COORDINATE_LEN);
    let mut padded = [0; PUBLIC_KEY_LEN];
    padded[PADDED_COORDINATE_LEN - COORDINATE_LEN..PADDED_COORDINATE_LEN].copy_from_slice(x);
    padded[PUBLIC_KEY_LEN - COORDINATE_LEN..].copy_from_slice(y);
    Ok((certificate, padded))
}

/// Whether a subject is that of a signing key of IBM.
fn names_signing_key(name: &DistinguishedName) -> bool {
    name.len() == 6
        && name.value(&COUNTRY) == Some("US")
        && name.value(&STATE) == Some("New York")
        && name.value(&LOCALITY).is_some_and(|locality| LOCALITIES.contains(&locality))
        && name.value(&ORGANIZATION) == Some(IBM)
        && name.value(&COMMON_NAME) == Some(IBM)
        && name.value(&UNIT).is_some_and(|unit| unit.ends_with(SIGNING_SERVICE))
}

/// Whether `issuer` means the signing key with this `subject`. IBM moved from one locality to the other, and writes
/// the attributes of issuers in another order than the authority that wrote the subject.
fn means(issuer: &DistinguishedName, subject: &DistinguishedName) -> bool {
    names_signing_key(issuer) && issuer.clone().without(&LOCALITY) == subject.clone().without(&LOCALITY)
}

struct Chain<'a> {
    root: Certificate<'a>,
    intermediate: Certificate<'a>,
    signing_key: Certificate<'a>,
}

/// Steps 2 and 3 as far as finding goes.
fn find_chain<'a>(
    document: &Certificate<'_>,
    extra: &'a Endorsements,
    anchors: &HostKeyAnchors,
) -> Result<Chain<'a>, HostKeyError> {
    let missing = |which| HostKeyError::MissingCertificate { which };
    // What does not parse is of another vendor, or of no use.
    let at_hand: Vec<Certificate<'_>> =
        extra.certificates.iter().filter_map(|der| Certificate::parse(der, Profile::Ibm).ok()).collect();
    let issuer = document.issuer_name().map_err(refused(CertificateName::HostKey))?;
    let signing_keys: Vec<(&Certificate<'_>, DistinguishedName)> = at_hand
        .iter()
        .filter_map(|certificate| Some((certificate, certificate.subject_name().ok()?)))
        .filter(|(_, subject)| names_signing_key(subject))
        .collect();
    let (_, other) = signing_keys.first().ok_or(missing(CertificateName::SigningKey))?;
    let named: Vec<_> =
        signing_keys.iter().filter(|(_, subject)| means(&issuer, subject)).map(|(key, _)| *key).collect();
    // A renewed signing key may have the name of the one before.
    let signing_key = signer_among(document, &named)
        .ok_or_else(|| HostKeyError::Issuer { got: issuer.to_string(), wanted: other.to_string() })?;
    let issuer_of = |certificate: &Certificate<'_>, which| {
        let named: Vec<_> = at_hand.iter().filter(|issuer| certificate.names_as_issuer(issuer)).collect();
        signer_among(certificate, &named).ok_or(missing(which))
    };
    let intermediate = issuer_of(signing_key, CertificateName::Intermediate)?;
    let root = issuer_of(intermediate, CertificateName::Root)?;
    // An authority may sign its root across; the pinned key counts, not the first of its name.
    let root = at_hand
        .iter()
        .filter(|other| intermediate.names_as_issuer(other))
        .find(|other| accepted_root(&other.spki_sha256(), anchors).is_some())
        .unwrap_or(root);
    Ok(Chain { root: root.clone(), intermediate: intermediate.clone(), signing_key: signing_key.clone() })
}

/// Of several certificates with the name of the issuer the one that signed, else the first. Steps 4 and 5 check all
/// signatures, so where there is one of the name nothing is checked here.
fn signer_among<'c, 'a>(
    certificate: &Certificate<'_>,
    named: &[&'c Certificate<'a>],
) -> Option<&'c Certificate<'a>> {
    match named {
        [] | [_] => named.first().copied(),
        several => {
            let signed = |issuer: &&&Certificate<'_>| certificate.check_signed_with_key_of(issuer).is_ok();
            several.iter().find(signed).or(several.first()).copied()
        }
    }
}

fn accepted_root(spki: &Sha256Digest, anchors: &HostKeyAnchors) -> Option<HostKeyRoot> {
    if spki.hex() == DIGICERT_TRUSTED_ROOT_G4 {
        return Some(HostKeyRoot::DigiCertTrustedRootG4);
    }
    anchors.dangerous.contains(spki).then_some(HostKeyRoot::Dangerous(*spki))
}

/// Authenticates a host key document (DER) to a root of `anchors`, with the certificates and CRLs of `extra`, as of
/// `now`.
pub fn authenticate(
    document: &[u8],
    extra: &Endorsements,
    anchors: &HostKeyAnchors,
    now: Timestamp,
) -> Result<AuthenticHostKey, HostKeyError> {
    extra.check_certificates_and_lists(MAX_SENT).map_err(HostKeyError::TooMany)?;
    // Step 1.
    let (document, public) = host_key(document)?;

    // Steps 2 and 3.
    let chain = find_chain(&document, extra, anchors)?;
    let spki = chain.root.spki_sha256();
    let root = accepted_root(&spki, anchors).ok_or(HostKeyError::UnknownRoot { got: spki })?;

    // Step 4.
    for (which, certificate, issuer) in [
        (CertificateName::Root, &chain.root, &chain.root),
        (CertificateName::Intermediate, &chain.intermediate, &chain.root),
        (CertificateName::SigningKey, &chain.signing_key, &chain.intermediate),
    ] {
        certificate
            .check_issued_by(issuer)
            .and_then(|()| certificate.check_validity(now))
            .map_err(refused(which))?;
    }
    check_signing_key(&chain.signing_key)?;

    // Step 5.
    document
        .check_signed_with_key_of(&chain.signing_key)
        .and_then(|()| document.check_validity(now))
        .map_err(refused(CertificateName::HostKey))?;

    // Step 6.
    check_revocation(&document, &chain, &extra.crls, now)?;
    Ok(AuthenticHostKey { hash: Sha256Digest::of(&public), public, root, serial: document.serial_hex() })
}

/// Reads a host key document and checks nothing but form and validity. Whoever made it could be anyone, so a
/// measurement under its key proves nothing about hardware; no policy accepts one.
pub fn dangerous_unchecked(document: &[u8], now: Timestamp) -> Result<UncheckedHostKey, HostKeyError> {
    let (certificate, public) = host_key(document)?;
    certificate.check_validity(now).map_err(refused(CertificateName::HostKey))?;
    Ok(UncheckedHostKey { hash: Sha256Digest::of(&public) })
}

fn check_signing_key(signing_key: &Certificate<'_>) -> Result<(), HostKeyError> {
    let which = CertificateName::SigningKey;
    if signing_key.is_authority().map_err(refused(which))? {
        return Err(HostKeyError::SigningKeyIsAuthority);
    }
    if signing_key.key_usage().map_err(refused(which))?.is_none_or(|bits| bits & DIGITAL_SIGNATURE == 0) {
        return Err(HostKeyError::Usage { which, wanted: "digital signatures" });
    }
    if signing_key.has_purpose(&CODE_SIGNING).map_err(refused(which))? {
        Ok(())
    } else {
        Err(HostKeyError::Usage { which, wanted: "code signing" })
    }
}

/// Who issues, and the certificate that the issuer's list speaks of.
struct Issuer<'a> {
    which: CertificateName,
    certificate: &'a Certificate<'a>,
    subject_which: CertificateName,
    subject: &'a Certificate<'a>,
}

impl Issuer<'_> {
    /// Whether a list names this issuer: IBM's rules for the signing key, byte for byte for the others.
    fn is_named_by(&self, list: &UnauthenticatedList<'_>) -> Result<bool, CertificateError> {
        if self.which != CertificateName::SigningKey {
            return Ok(list.names_as_issuer(self.certificate));
        }
        Ok(means(&list.issuer_name()?, &self.certificate.subject_name()?))
    }
}

fn check_revocation(
    document: &Certificate<'_>,
    chain: &Chain<'_>,
    crls: &[Vec<u8>],
    now: Timestamp,
) -> Result<(), HostKeyError> {
    use CertificateName::{HostKey, Intermediate, Root, SigningKey};
    let issuers = [
        (Root, &chain.root, Intermediate, &chain.intermediate),
        (Intermediate, &chain.intermediate, SigningKey, &chain.signing_key),
        (SigningKey, &chain.signing_key, HostKey, document),
    ]
    .map(|(which, certificate, subject_which, subject)| Issuer {
        which,
        certificate,
        subject_which,
        subject,
    });
    let lists = crls
        .iter()
        .map(|der| Ok((der.as_slice(), signer_of_list(der, &issuers)?)))
        .collect::<Result<Vec<_>, _>>()?;
    issuers.iter().try_for_each(|issuer| check_lists_of(issuer, &lists, now))
}

/// Which of the issuers signed a list, if any. One signature does not hold under two keys, so those that the list names
/// are asked first, and mostly nobody else.
fn signer_of_list(der: &[u8], issuers: &[Issuer<'_>; 3]) -> Result<Option<CertificateName>, HostKeyError> {
    let list = UnauthenticatedList::parse(der, Profile::Ibm).map_err(HostKeyError::MalformedCrl)?;
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for issuer in issuers {
        if issuer.is_named_by(&list).map_err(HostKeyError::MalformedCrl)? {
            named.push(issuer);
        } else {
            others.push(issuer);
        }
    }
    let signed = |issuer: &&Issuer<'_>| list.is_signed_with_key_of(issuer.certificate);
    Ok(named.into_iter().chain(others).find(signed).map(|issuer| issuer.which))
}

/// `lists`: DER, and who signed it.
fn check_lists_of(
    issuer: &Issuer<'_>,
    lists: &[(&[u8], Option<CertificateName>)],
    now: Timestamp,
) -> Result<(), HostKeyError> {
    let which = issuer.which;
    let unsuitable = |error| HostKeyError::Crl { which, error };
    let mut fresh = false;
    let mut problem = None;
    for (der, signer) in lists {
        let list = UnauthenticatedList::parse(der, Profile::Ibm).map_err(HostKeyError::MalformedCrl)?;
        let named = issuer.is_named_by(&list).map_err(HostKeyError::MalformedCrl)?;
        match (named, *signer == Some(which)) {
            // Of another issuer.
            (false, false) => continue,
            // Altered, or of an older key of the same name: as good as none.
            (true, false) => {
                let error = CertificateError::Signature { issuer: issuer.certificate.common_name() };
                problem = problem.or(Some(unsuitable(error)));
                continue;
            }
            (false, true) => {
                let name = |name: Result<DistinguishedName, _>| name.map(|name| name.to_string());
                return Err(HostKeyError::CrlIssuer {
                    which,
                    got: name(list.issuer_name()).map_err(HostKeyError::MalformedCrl)?,
                    wanted: name(issuer.certificate.subject_name()).map_err(refused(which))?,
                });
            }
            // IBM's signing key may sign lists though no certificate says so.
            (true, true) if which == CertificateName::SigningKey => {}
            (true, true) => list.check_issuer(issuer.certificate).map_err(unsuitable)?,
        }
        let list = list.read().map_err(unsuitable)?;
        if list.lists(issuer.subject) {
            return Err(HostKeyError::Revoked { which: issuer.subject_which });
        }
        match list.check_fresh(now) {
            Ok(()) => fresh = true,
            Err(error) => problem = Some(unsuitable(error)),
        }
    }
    match problem {
        _ if fresh => Ok(()),
        Some(problem) => Err(problem),
        None => Err(HostKeyError::CrlMissing { which }),
    }
}
