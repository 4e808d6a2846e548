//! What Intel signs about platforms: TCB info (version 3, `TDX`) and the identity of the Quoting Enclave (version 2,
//! `TD_QE`), Intel PCS API version 4.
//!
//! The signature is checked over the bytes of the inner JSON value exactly as delivered, before anything in it is
//! read. The documents are read strictly: an unknown field is an error, because it might change what the others mean.

use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use ring::signature;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::endorse::IssuerLists;
use super::tcb::TcbStatus;
use super::{CertificateName, ChainName, TdxError, pem, point};
use crate::x509::{Certificate, Profile};

/// Largest TCB info or QE identity that is read, in bytes. Genuine ones are below 8 KiB.
const MAX_DOCUMENT: usize = 256 << 10;
/// Name of the certificate that signs TCB info and QE identity.
const SIGNER_NAME: &str = "Intel SGX TCB Signing";

/// A document that Intel signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// TCB levels of the platforms of one FMSPC.
    TcbInfo,
    /// Identity and TCB levels of the Quoting Enclave.
    QeIdentity,
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TcbInfo => "TCB info",
            Self::QeIdentity => "QE identity",
        })
    }
}

/// `N` bytes as hex digits of either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| {
            D::Error::custom(format!("{} characters, wanted {} hex digits", text.len(), 2 * N))
        })?;
        Ok(Self(bytes))
    }
}

/// A signature: R ‖ S as lower-case hex digits, the one spelling that Intel uses, because nothing signs them.
struct Signature([u8; 64]);

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) if !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(Self(bytes)),
            _ => Err(D::Error::custom(format!(
                "signature has {} characters, wanted 128 lower-case hex digits",
                text.len()
            ))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TcbInfoAnswer<'a> {
    #[serde(borrow, rename = "tcbInfo")]
    document: &'a RawValue,
    signature: Signature,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QeIdentityAnswer<'a> {
    #[serde(borrow, rename = "enclaveIdentity")]
    document: &'a RawValue,
    signature: Signature,
}

/// TCB info of one FMSPC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TcbInfo {
    id: String,
    version: u32,
    pub(super) issue_date: Timestamp,
    pub(super) next_update: Timestamp,
    pub(super) fmspc: Hex<6>,
    pub(super) pce_id: Hex<2>,
    tcb_type: u32,
    pub(super) tcb_evaluation_data_number: u32,
    pub(super) tdx_module: ModuleIdentity,
    #[serde(default)]
    pub(super) tdx_module_identities: Vec<ModuleLevels>,
    pub(super) tcb_levels: Vec<Level<PlatformTcb>>,
}

/// Who signs the TDX module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ModuleIdentity {
    pub(super) mrsigner: Hex<48>,
    pub(super) attributes: Hex<8>,
    pub(super) attributes_mask: Hex<8>,
}

/// A major version of the TDX module, with its own TCB levels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ModuleLevels {
    /// `TDX_01`: the major version in two hex digits.
    pub(super) id: String,
    mrsigner: Hex<48>,
    attributes: Hex<8>,
    attributes_mask: Hex<8>,
    pub(super) tcb_levels: Vec<Level<IsvSvn>>,
}

impl ModuleLevels {
    pub(super) fn identity(&self) -> ModuleIdentity {
        ModuleIdentity {
            mrsigner: self.mrsigner,
            attributes: self.attributes,
            attributes_mask: self.attributes_mask,
        }
    }
}

/// A TCB level with Intel's word on it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Level<T> {
    pub(super) tcb: T,
    pub(super) tcb_date: Timestamp,
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisory_ids: Vec<String>,
}

/// SVNs of a platform.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlatformTcb {
    #[serde(rename = "sgxtcbcomponents")]
    pub(super) sgx: [Component; 16],
    pub(super) pcesvn: u16,
    #[serde(rename = "tdxtcbcomponents")]
    pub(super) tdx: [Component; 16],
}

/// SVN of one component. What it is called is for people.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Component {
    pub(super) svn: u8,
    #[serde(default, rename = "category")]
    _category: String,
    #[serde(default, rename = "type")]
    _type: String,
}

/// SVN of an enclave or of the TDX module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IsvSvn {
    pub(super) isvsvn: u16,
}

/// Identity of the Quoting Enclave.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct QeIdentity {
    id: String,
    version: u32,
    pub(super) issue_date: Timestamp,
    pub(super) next_update: Timestamp,
    pub(super) tcb_evaluation_data_number: u32,
    pub(super) miscselect: Hex<4>,
    pub(super) miscselect_mask: Hex<4>,
    pub(super) attributes: Hex<16>,
    pub(super) attributes_mask: Hex<16>,
    pub(super) mrsigner: Hex<32>,
    pub(super) isvprodid: u16,
    pub(super) tcb_levels: Vec<Level<IsvSvn>>,
}

/// The root that a quote was traced to, with every list of it at hand, authenticated.
pub(super) struct TrustedRoot<'a> {
    pub(super) certificate: &'a Certificate<'a>,
    pub(super) lists: &'a IssuerLists<'a>,
}

/// How new endorsements are, as they say of themselves: evaluation number and issue date of the TCB info, then of the
/// QE identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    tcb_info: (u32, Timestamp),
    qe_identity: Option<(u32, Timestamp)>,
}

/// Parses JSON, with the position of an error in it.
fn json<'a, T: Deserialize<'a>>(which: Document, bytes: &'a [u8]) -> Result<T, TdxError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(TdxError::DocumentTooLarge { which, got: bytes.len(), limit: MAX_DOCUMENT });
    }
    serde_json::from_slice(bytes).map_err(|error| TdxError::Document { which, problem: error.to_string() })
}

fn field<T: PartialEq + ToString>(
    which: Document,
    name: &'static str,
    got: &T,
    wanted: &T,
) -> Result<(), TdxError> {
    if got == wanted {
        return Ok(());
    }
    Err(TdxError::DocumentField { which, name, got: got.to_string(), wanted: wanted.to_string() })
}

fn dates(which: Document, issued: Timestamp, next: Timestamp, now: Timestamp) -> Result<(), TdxError> {
    if now < issued {
        return Err(TdxError::DocumentNotYetValid { which, issue_date: issued, now });
    }
    if now > next {
        return Err(TdxError::DocumentExpired { which, next_update: next, now });
    }
    Ok(())
}

/// Who signs documents: the P-256 key of a certificate that an issuer chain leads to. Made only by
/// [`Signer::authenticate`].
pub(super) struct Signer {
    /// Uncompressed point, 65 bytes.
    key: Vec<u8>,
    issuer_chain: Vec<u8>,
}

impl Signer {
    /// The signer of another document, whose chain is mostly the same to the byte.
    pub(super) fn or_authenticate(
        self,
        which: Document,
        issuer_chain: &[u8],
        root: &TrustedRoot<'_>,
        now: Timestamp,
    ) -> Result<Self, TdxError> {
        if self.issuer_chain == issuer_chain {
            return Ok(self);
        }
        Self::authenticate(which, issuer_chain, root, now)
    }

    /// Authenticates the issuer chain of a document to the root.
    pub(super) fn authenticate(
        which: Document,
        issuer_chain: &[u8],
        root: &TrustedRoot<'_>,
        now: Timestamp,
    ) -> Result<Self, TdxError> {
        let key = signer_key(which, issuer_chain, root, now)?;
        Ok(Self { key, issuer_chain: issuer_chain.to_vec() })
    }

    fn check(&self, which: Document, document: &RawValue, signature: &Signature) -> Result<(), TdxError> {
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, &self.key)
            .verify(document.get().as_bytes(), &signature.0)
            .map_err(|_| TdxError::DocumentSignature { which })
    }
}

fn signer_key(
    which: Document,
    issuer_chain: &[u8],
    root: &TrustedRoot<'_>,
    now: Timestamp,
) -> Result<Vec<u8>, TdxError> {
    let [signer, chain_root] = pem::chain(issuer_chain)
        .map_err(|error| TdxError::Pem { which: ChainName::Document(which), error })?;
    let name = CertificateName::TcbSigning(which);
    let certificate_error = |error| TdxError::Certificate { which: name, error };
    let signer = Certificate::parse(&signer, Profile::Intel).map_err(certificate_error)?;
    let chain_root = Certificate::parse(&chain_root, Profile::Intel).map_err(certificate_error)?;
    if chain_root.spki_sha256() != root.certificate.spki_sha256() {
        return Err(TdxError::OtherRoot {
            which,
            got: chain_root.spki_sha256(),
            wanted: root.certificate.spki_sha256(),
        });
    }
    // The same certificate, or the same key under another certificate that it signed itself.
    chain_root
        .check_issued_by(root.certificate)
        .map_err(|error| TdxError::Certificate { which: CertificateName::Root, error })?;
    signer
        .check_issued_by(root.certificate)
        .and_then(|()| signer.check_validity(now))
        .map_err(certificate_error)?;
    let got = signer.common_name();
    if got != SIGNER_NAME {
        return Err(TdxError::Name { which: name, got, wanted: SIGNER_NAME });
    }
    if root.lists.revokes(&signer) {
        return Err(TdxError::Revoked { which: name });
    }
    point(&signer, name).map(<[u8]>::to_vec)
}

impl TcbInfo {
    /// Authenticates TCB info; it is current as of `now`.
    pub(super) fn authenticate(
        endorsements: &TdxEndorsements,
        signer: &Signer,
        now: Timestamp,
    ) -> Result<Self, TdxError> {
        let which = Document::TcbInfo;
        let answer: TcbInfoAnswer<'_> = json(which, &endorsements.tcb_info)?;
        signer.check(which, answer.document, &answer.signature)?;
        let info = Self::read(answer.document)?;
        dates(which, info.issue_date, info.next_update, now)?;
        Ok(info)
    }

    fn read(document: &RawValue) -> Result<Self, TdxError> {
        let which = Document::TcbInfo;
        let info: Self = json(which, document.get().as_bytes())?;
        field(which, "id", &info.id.as_str(), &"TDX")?;
        field(which, "version", &info.version, &3)?;
        field(which, "tcbType", &info.tcb_type, &0)?;
        Ok(info)
    }

    /// What an answer says, whoever signed it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn unauthenticated(answer: &[u8]) -> Result<Self, TdxError> {
        Self::read(json::<TcbInfoAnswer<'_>>(Document::TcbInfo, answer)?.document)
    }

    /// How new these endorsements say that they are, when their unauthenticated TCB info names this FMSPC.
    pub(super) fn unauthenticated_rank(endorsements: &TdxEndorsements, fmspc: [u8; 6]) -> Option<Rank> {
        let answer: TcbInfoAnswer<'_> = json(Document::TcbInfo, &endorsements.tcb_info).ok()?;
        let info: Self = json(Document::TcbInfo, answer.document.get().as_bytes()).ok()?;
        let identity = json::<QeIdentityAnswer<'_>>(Document::QeIdentity, &endorsements.qe_identity)
            .and_then(|answer| json::<QeIdentity>(Document::QeIdentity, answer.document.get().as_bytes()))
            .ok();
        (info.fmspc.0 == fmspc).then_some(Rank {
            tcb_info: (info.tcb_evaluation_data_number, info.issue_date),
            qe_identity: identity.map(|it| (it.tcb_evaluation_data_number, it.issue_date)),
        })
    }
}

impl QeIdentity {
    /// Authenticates the QE identity; it is current as of `now`.
    pub(super) fn authenticate(
        endorsements: &TdxEndorsements,
        signer: &Signer,
        now: Timestamp,
    ) -> Result<Self, TdxError> {
        let which = Document::QeIdentity;
        let answer: QeIdentityAnswer<'_> = json(which, &endorsements.qe_identity)?;
        signer.check(which, answer.document, &answer.signature)?;
        let identity = Self::read(answer.document)?;
        dates(which, identity.issue_date, identity.next_update, now)?;
        Ok(identity)
    }

    fn read(document: &RawValue) -> Result<Self, TdxError> {
        let which = Document::QeIdentity;
        let identity: Self = json(which, document.get().as_bytes())?;
        field(which, "id", &identity.id.as_str(), &"TD_QE")?;
        field(which, "version", &identity.version, &2)?;
        Ok(identity)
    }

    /// What an answer says, whoever signed it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn unauthenticated(answer: &[u8]) -> Result<Self, TdxError> {
        Self::read(json::<QeIdentityAnswer<'_>>(Document::QeIdentity, answer)?.document)
    }
}
