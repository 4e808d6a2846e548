//! Intel TDX: authenticating a quote to a pinned root and finding what Intel says about the platform's TCB.
//! Comparing it with a policy is in `appraise`.
//!
//! Steps of [`authenticate_signatures`], each with its own error; they need nothing but the quote:
//! 1. the quote is of TDX, in a known version, with sizes that agree;
//! 2. the root certificate has a pinned key, signs itself and is valid at `now`;
//! 3. PCK CA and PCK certificate are each issued by the one above, have their right names and are valid at `now`;
//! 4. the PCK signed the Quoting Enclave's report, over its raw bytes;
//! 5. that report names the attestation key;
//! 6. the attestation key signed header and body of the quote, over their raw bytes;
//! 7. reserved fields of what is signed are zero;
//! 8. the PCK certificate says which platform it is of.
//!
//! What they give is a [`SignedQuote`], whose TCB status is unknown. Steps of [`SignedQuote::endorse`]:
//! 9. endorsements are at hand; the root signed the CRL of the root and the PCK CA that of PCKs, both are fresh, and
//!    neither PCK CA nor PCK is on them or on any other list at hand that these two signed;
//! 10. TCB info is signed by Intel's signer under the same root, current at `now`, and the signer is on none of the
//!     root's lists at hand;
//! 11. so is the identity of the Quoting Enclave;
//! 12. TCB info is of this platform (FMSPC, PCE id);
//! 13. the Quoting Enclave is the one that its identity describes, the TDX module is Intel's, and each reaches a
//!     level, and so does the platform, at the TD's launch and at the quote;
//! 14. nothing but zeros follows the quote.

mod appraise;
mod collateral;
mod endorse;
mod error;
pub mod event_log;
mod facts;
mod layout;
mod pck;
mod pem;
pub mod quote;
mod tcb;
#[cfg(test)]
mod tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod unauthenticated;

use provenance::digest::Sha256Digest;
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use ring::signature;

pub use self::appraise::{TdxAppraisal, TdxRefusal};
pub(crate) use self::appraise::{appraise_guest, appraise_hardware, match_registers};
pub use self::collateral::Document;
pub use self::error::{CertificateName, ChainName, CrlName, TdxError};
pub use self::pck::{PckFacts, PlatformConfiguration};
pub use self::pem::PemError;
pub use self::quote::{BodyType, Quote, QuoteError};
pub use self::tcb::{TcbStatus, TcbVerdict};
use crate::given::{MAX_TDX, check_count};
use crate::roots::{Anchors, Root, is_intel_root};
use crate::time::Moment;
use crate::x509::{Certificate, Profile};

/// Names of Intel's certificates.
const ROOT_NAME: &str = "Intel SGX Root CA";
const PCK_CA_NAMES: [&str; 2] = ["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"];
const PCK_NAME: &str = "Intel SGX PCK Certificate";

/// A quote whose signatures lead to an accepted root. Its TCB status is unknown. Made only by
/// [`authenticate_signatures`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedQuote {
    quote: Quote,
    root: Root,
    facts: PckFacts,
    /// DER of PCK certificate, PCK CA and root.
    chain: [Vec<u8>; 3],
}

impl SignedQuote {
    /// The quote.
    #[must_use]
    pub fn quote(&self) -> &Quote {
        &self.quote
    }

    /// The root it was traced to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root
    }

    /// What the PCK certificate says about the platform.
    #[must_use]
    pub fn platform(&self) -> &PckFacts {
        &self.facts
    }
}

/// A quote of a platform that Intel says something about. Made only by [`SignedQuote::endorse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticQuote {
    signed: SignedQuote,
    tcb: TcbVerdict,
}

impl AuthenticQuote {
    /// The quote.
    #[must_use]
    pub fn quote(&self) -> &Quote {
        &self.signed.quote
    }

    /// The root it was traced to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.signed.root
    }

    /// What the PCK certificate says about the platform.
    #[must_use]
    pub fn platform(&self) -> &PckFacts {
        &self.signed.facts
    }

    /// What Intel says about the platform.
    #[must_use]
    pub fn tcb(&self) -> &TcbVerdict {
        &self.tcb
    }
}

/// The P-256 key of a certificate as an uncompressed point.
fn point<'a>(certificate: &Certificate<'a>, which: CertificateName) -> Result<&'a [u8], TdxError> {
    certificate.p256_point().ok_or(TdxError::KeyKind { which })
}

fn parse(which: CertificateName, der: &[u8]) -> Result<Certificate<'_>, TdxError> {
    Certificate::parse(der, Profile::Intel).map_err(|error| TdxError::Certificate { which, error })
}

/// Steps 2 and 3: chain, root first pinned, names and validity.
fn authenticate_chain(chain: &[Vec<u8>; 3], anchors: &Anchors, now: Timestamp) -> Result<Root, TdxError> {
    let [pck, ca, root] = chain;
    let root = parse(CertificateName::Root, root)?;
    let ca = parse(CertificateName::PckCa, ca)?;
    let pck = parse(CertificateName::Pck, pck)?;
    let spki = root.spki_sha256();
    let traced = match is_intel_root(&spki) {
        true if anchors.accepts_intel() => Root::Intel,
        _ if anchors.dangerous().contains(&spki) => Root::Dangerous(spki),
        true => return Err(TdxError::RootNotAccepted),
        false => return Err(TdxError::UnknownRoot { got: spki }),
    };
    for (which, certificate, issuer, names) in [
        (CertificateName::Root, &root, &root, &[ROOT_NAME][..]),
        (CertificateName::PckCa, &ca, &root, &PCK_CA_NAMES[..]),
        (CertificateName::Pck, &pck, &ca, &[PCK_NAME][..]),
    ] {
        certificate
            .check_issued_by(issuer)
            .and_then(|()| certificate.check_validity(now))
            .map_err(|error| TdxError::Certificate { which, error })?;
        let got = certificate.common_name();
        if !names.contains(&got.as_str()) {
            return Err(TdxError::Name { which, got, wanted: names[0] });
        }
    }
    Ok(traced)
}

/// Steps 4 to 6: PCK → Quoting Enclave → attestation key → quote.
fn check_signatures(quote: &Quote, pck: &Certificate<'_>) -> Result<(), TdxError> {
    use quote::{qe_report, signature_data};
    let at = |field| quote.signature_data_offset(field);
    let verify = |key: &[u8], message: &[u8], signature: &[u8]| {
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
    };
    verify(point(pck, CertificateName::Pck)?, quote.qe_report(), quote.qe_signature()).map_err(|_| {
        TdxError::QeSignature {
            report: at(signature_data::QE_REPORT),
            signature: at(signature_data::QE_SIGNATURE),
        }
    })?;

    let named = Sha256Digest::of(&[quote.attestation_key(), quote.qe_auth()].concat());
    let mut wanted = [0; 64];
    wanted[..32].copy_from_slice(named.as_bytes());
    let got: &[u8; 64] = quote.of_qe_report(qe_report::REPORTDATA);
    if *got != wanted {
        return Err(TdxError::AttestationKey {
            got: hex::encode(got),
            wanted: hex::encode(wanted),
            offset: at(signature_data::QE_REPORT + qe_report::REPORTDATA),
        });
    }

    let mut key = vec![4];
    key.extend_from_slice(quote.attestation_key());
    verify(&key, quote.signed_bytes(), quote.signature()).map_err(|_| TdxError::Signature {
        last: quote.signed_bytes().len() - 1,
        signature: at(signature_data::SIGNATURE),
    })
}

/// What the PCK certificate of a quote says about the platform, and the common name of the CA beside it. Nothing about
/// them is checked.
pub(crate) fn unauthenticated_platform(chain: &[u8]) -> Result<(PckFacts, String), TdxError> {
    let [pck, ca, _] =
        pem::chain::<3>(chain).map_err(|error| TdxError::Pem { which: ChainName::Pck, error })?;
    let facts = pck::facts(&parse(CertificateName::Pck, &pck)?)?;
    Ok((facts, parse(CertificateName::PckCa, &ca)?.common_name()))
}

/// Authenticates the signatures of a quote to a root of `anchors`, as of `now`: steps 1 to 8.
pub fn authenticate_signatures(
    quote: &[u8],
    anchors: &Anchors,
    now: Timestamp,
) -> Result<SignedQuote, TdxError> {
    let quote = Quote::parse(quote)?;
    let chain =
        pem::chain(quote.pck_chain()).map_err(|error| TdxError::Pem { which: ChainName::Pck, error })?;
    let root = authenticate_chain(&chain, anchors, now)?;
    let pck = parse(CertificateName::Pck, &chain[0])?;
    check_signatures(&quote, &pck)?;
    quote.check_signed_form()?;
    let facts = pck::facts(&pck)?;
    Ok(SignedQuote { quote, root, facts, chain })
}

/// Authenticates a quote, and finds what Intel says about its platform among the endorsements that came with it and those
/// given (`extra`), which may be of other platforms too.
pub(crate) fn authenticate(
    quote: &[u8],
    endorsements: &[u8],
    extra: &[TdxEndorsements],
    anchors: &Anchors,
    moment: Moment,
) -> Result<AuthenticQuote, TdxError> {
    check_count("endorsements of TDX platforms", extra.len(), MAX_TDX)?;
    let signed = authenticate_signatures(quote, anchors, moment.at())?;
    let own = TdxEndorsements::parse(endorsements)?;
    signed.endorse_with_best(extra, own.as_ref(), anchors.revocation(), moment)
}
