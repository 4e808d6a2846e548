//! IBM Secure Execution: the answer to an attestation request, traced to host keys of IBM.
//!
//! This Evidence is not like that of other platforms. An answer is an HMAC under a key that the *requester* made and
//! wrapped for host keys; the requester could have made any answer. It convinces the one who made the request, and
//! nobody else. So [`authenticate_own_request`] wants an [`OwnRequest`], which only the holder of the request's
//! protection key can make. Others can rely on the word of a Verifier that made a request: an Attestation Result (see
//! `result.rs`). There is no function that does without either.
//!
//! Steps of [`authenticate_own_request`], each with its own error:
//! 1. the response is in the exchange format, the image's header is one;
//! 2. it answers exactly the request that was remembered;
//! 3. measurement and additional data have the lengths that the request asks for;
//! 4. the measurement holds over image tags, configuration unique id, user data, nonce and additional data;
//! 5. each host key document is traced to a pinned root, as of `now` (see [`host_key`]);
//! 6. each host key that can open the request is one of these: the holder of any other could have forged the answer;
//! 7. the host key that opened the request is one that the request was made for;
//! 8. the host key that unpacked the image is one of these.
//!
//! The state of the firmware is handed on unjudged: only a service of IBM can read it.

mod appraise;
mod facts;
pub mod host_key;
pub mod image;
mod measurement;
pub mod request;
mod requester;
mod result;
mod vouch;

use std::collections::BTreeSet;

use provenance::digest::Sha256Digest;
use provenance::evidence::Evidence;
use provenance::secure_execution::{InvalidSeBytes, SecureExecutionEndorsements, SecureExecutionEvidence};
use provenance::timestamp::Timestamp;

use self::appraise::REPORT_DATA_LEN;
pub use self::appraise::{SeAppraisal, SeRefusal};
pub(crate) use self::appraise::{appraise_guest, appraise_hardware};
pub use self::exchange::{ExchangeError, ExchangeRequest, ExchangeResponse};
pub use self::host_key::{AuthenticHostKey, HostKeyAnchors, HostKeyError, HostKeyRoot, UncheckedHostKey};
pub use self::image::{HeaderError, ImageTags};
use self::measurement::AdditionalData;
pub use self::measurement::{FIRMWARE_STATE_LEN, HOST_KEY_HASH_LEN, MEASUREMENT_LEN, SECRET_STORE_HASH_LEN};
pub use self::request::{OwnRequest, ProtectionKey, RequestError};
pub use self::requester::{NoHostKey, host_keys_for_request};
pub use self::result::ResultError;
pub use self::vouch::{Vouched, vouch};
use crate::reliance::{Grounds, Reliance};
use crate::roots::Anchors;
use crate::snp::Endorsements;
pub use provenance::se_exchange as exchange;

/// Most host key documents that are looked at: a request has at most 255 slots.
pub const MAX_HOST_KEYS: usize = 256;

/// Why an answer is not authentic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SeError {
    /// Evidence or endorsements are malformed.
    #[error(transparent)]
    Bytes(#[from] InvalidSeBytes),
    /// Nothing at hand makes the answer convincing.
    #[error(
        "answer is to the attestation request {request}, which is not an own one, and no Attestation Result speaks for it: it convinces only the one who asked"
    )]
    Unconvincing {
        /// SHA-256 of the request that is answered.
        request: Sha256Digest,
    },
    /// The Attestation Result is not authentic.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// IBM's root, which the policy does not accept.
    #[error("root is the one above IBM's signing keys, which the policy does not accept")]
    RootNotAccepted,
    /// The response is malformed.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The image's header is malformed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The answer is to another request.
    #[error("response answers the attestation request {got}, the remembered one is {wanted}")]
    OtherRequest {
        /// SHA-256 of the request in the response.
        got: Sha256Digest,
        /// SHA-256 of the own request.
        wanted: Sha256Digest,
    },
    /// The measurement has another length.
    #[error("measurement has {got} bytes, wanted {MEASUREMENT_LEN}, HMAC-SHA-512 (entry at offset 0x20)")]
    MeasurementLength {
        /// Bytes seen.
        got: usize,
    },
    /// The additional data have another length than the request's flags ask for.
    #[error("additional data have {got} bytes, the request asks for {wanted} (entry at offset 0x28)")]
    AdditionalDataLength {
        /// Bytes seen.
        got: usize,
        /// Bytes asked for.
        wanted: usize,
    },
    /// The measurement does not hold.
    #[error(
        "measurement does not hold for the image with tag {tag}: the answer is altered, or of another image"
    )]
    Measurement {
        /// Tag of the image's header, hex.
        tag: String,
    },
    /// More certificates or revocation lists came with the Evidence than are looked at.
    #[error("{got} {what} came with the Evidence, at most {} are looked at", host_key::MAX_SENT)]
    TooManySent {
        /// `certificates` or `revocation lists`.
        what: &'static str,
        /// How many there are.
        got: usize,
    },
    /// Too many host key documents.
    #[error("{got} host key documents are given, at most {MAX_HOST_KEYS} are read")]
    TooManyHostKeys {
        /// How many there are.
        got: usize,
    },
    /// A host key document is refused.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// A host key that can open the request is not of a document given.
    #[error("host key {got} can open the request (slot {slot}), and no document given is of that key")]
    UnknownSlot {
        /// Index of the slot.
        slot: usize,
        /// Hash of the host key.
        got: Sha256Digest,
    },
    /// The host key that opened the request is not one that it was made for.
    #[error("request was opened with the host key {got}, for which it was not made")]
    OtherAttestationHostKey {
        /// Hash of the host key.
        got: Sha256Digest,
    },
    /// The host key that unpacked the image is not of a document given.
    #[error("image was unpacked with the host key {got}, and no document given is of that key")]
    UnknownImageHostKey {
        /// Hash of the host key.
        got: Sha256Digest,
    },
}

impl SeError {
    /// Whether other or newer endorsements could heal it: something is missing or out of date.
    #[must_use]
    pub fn concerns_endorsements(&self) -> bool {
        match self {
            Self::UnknownSlot { .. } | Self::UnknownImageHostKey { .. } => true,
            Self::HostKey(error) => error.concerns_endorsements(),
            Self::Result(error) => error.concerns_endorsements(),
            _ => false,
        }
    }

    /// Whether the Evidence may well be genuine, but the policy accepts nothing of its kind or it cannot convince.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Unconvincing { .. }
                | Self::RootNotAccepted
                | Self::Result(ResultError::UnknownVerifier { .. })
        )
    }
}

/// What an answer says. The measurement holds for it under the key of an own request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    request: Sha256Digest,
    nonce: Option<[u8; request::NONCE_LEN]>,
    /// Host keys that can open the request; none where the Verifier looked at them and not we.
    slots: Vec<Sha256Digest>,
    image: ImageTags,
    config_uid: [u8; exchange::CONFIG_UID_LEN],
    user_data: Vec<u8>,
    /// Offset of the user data in the response, in bytes.
    user_data_offset: usize,
    additional: AdditionalData,
}

impl Claims {
    /// SHA-256 of the request that is answered. Whoever holds its key could have made the answer.
    #[must_use]
    pub fn own_request(&self) -> Sha256Digest {
        self.request
    }

    /// Hashes of the host keys that can open the request, slot by slot. Whoever holds one of them could have made the
    /// answer, whatever it says about itself. Empty for an Attestation Result: its Verifier has looked at them.
    #[must_use]
    pub fn host_keys_of_request(&self) -> &[Sha256Digest] {
        &self.slots
    }

    /// The request's nonce, when it has one.
    #[must_use]
    pub fn nonce(&self) -> Option<&[u8; request::NONCE_LEN]> {
        self.nonce.as_ref()
    }

    /// Name of the measurement's algorithm; there is one.
    #[must_use]
    pub const fn measurement_algorithm(&self) -> &'static str {
        "HMAC-SHA-512"
    }

    /// Tags of the image that runs.
    #[must_use]
    pub fn image(&self) -> &ImageTags {
        &self.image
    }

    /// Configuration unique id: of this run of this guest.
    #[must_use]
    pub fn config_uid(&self) -> &[u8; exchange::CONFIG_UID_LEN] {
        &self.config_uid
    }

    /// What the guest had measured, up to 256 bytes.
    #[must_use]
    pub fn user_data(&self) -> &[u8] {
        &self.user_data
    }

    /// The first 64 bytes of the user data, if there are as many.
    #[must_use]
    pub fn report_data(&self) -> Option<&[u8; REPORT_DATA_LEN]> {
        self.user_data.first_chunk()
    }

    /// Hash of the host key that unpacked the image.
    #[must_use]
    pub fn image_host_key(&self) -> Sha256Digest {
        self.additional.image_host_key
    }

    /// Hash of the host key that opened the request.
    #[must_use]
    pub fn attestation_host_key(&self) -> Sha256Digest {
        self.additional.attestation_host_key
    }

    /// Hash of the secret store, when the request asked for it: SHA-512 over the tags of the added secrets' requests
    /// and whether the store is locked.
    #[must_use]
    pub fn secret_store_hash(&self) -> Option<&[u8; SECRET_STORE_HASH_LEN]> {
        self.additional.secret_store_hash.as_ref()
    }

    /// State of the firmware, when the request asked for it. Nobody but IBM can read it.
    #[must_use]
    pub fn firmware_state(&self) -> Option<&[u8; FIRMWARE_STATE_LEN]> {
        self.additional.firmware_state.as_ref()
    }
}

/// An answer under host keys that were traced to an accepted root, by oneself for an own request, or by a Verifier.
/// Made only by [`authenticate_own_request`] and from an authentic Attestation Result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticMeasurement {
    claims: Claims,
    root: HostKeyRoot,
    reliance: Reliance,
}

impl AuthenticMeasurement {
    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What is relied on.
    #[must_use]
    pub fn reliance(&self) -> &Reliance {
        &self.reliance
    }

    /// The root of the host keys: a dangerous one if any of them has such a root.
    #[must_use]
    pub fn root(&self) -> HostKeyRoot {
        self.root
    }
}

/// An answer to an own request under host keys that **nobody has vouched for**: it may come from any machine, or from
/// none. No policy accepts it. Made only by [`dangerous_authenticate_with_unchecked_host_keys`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKeysUnchecked(Claims);

impl HostKeysUnchecked {
    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0
    }
}

/// Authenticates a response (exchange format) to `own`, for the image with `header`, under the host key documents
/// given (DER), as of `now`.
///
/// Every host key document counts: one that is refused refuses the whole.
pub fn authenticate_own_request(
    response: &[u8],
    header: &[u8],
    own: &OwnRequest,
    documents: &[Vec<u8>],
    extra: &Endorsements,
    anchors: &HostKeyAnchors,
    now: Timestamp,
) -> Result<AuthenticMeasurement, SeError> {
    // Steps 1 to 4.
    let claims = open(response, header, own)?;

    // Step 5.
    check_count(documents)?;
    // Tracing one is dear, and anybody can send it many times.
    let mut traced = BTreeSet::new();
    let host_keys = documents
        .iter()
        .filter(|document| traced.insert(Sha256Digest::of(document)))
        .map(|document| host_key::authenticate(document, extra, anchors, now))
        .collect::<Result<Vec<_>, _>>()?;

    // Steps 6 to 8.
    let hashes: Vec<Sha256Digest> = host_keys.iter().map(AuthenticHostKey::hash).collect();
    check_host_keys(&claims, own, &hashes)?;
    let root =
        host_key::root_of_all(&host_keys).expect("a request has a slot, and step 6 found a document for it");
    let reliance = Reliance::OwnRequest { request: claims.request };
    Ok(AuthenticMeasurement { claims, root, reliance })
}

/// The same without step 5, for looking at a recorded answer whose chain is not at hand. Whoever made the host key
/// documents could have made the answer.
pub fn dangerous_authenticate_with_unchecked_host_keys(
    response: &[u8],
    header: &[u8],
    own: &OwnRequest,
    documents: &[Vec<u8>],
    now: Timestamp,
) -> Result<HostKeysUnchecked, SeError> {
    let claims = open(response, header, own)?;
    check_count(documents)?;
    let hashes = documents
        .iter()
        .map(|document| host_key::dangerous_unchecked(document, now).map(|key| key.hash()))
        .collect::<Result<Vec<_>, _>>()?;
    check_host_keys(&claims, own, &hashes)?;
    Ok(HostKeysUnchecked(claims))
}

/// Offset of the user data: the configuration unique id comes after them and is the last part.
fn user_data_offset(bytes: &[u8], response: &ExchangeResponse<'_>) -> usize {
    bytes.len().saturating_sub(exchange::CONFIG_UID_LEN + response.user_data().len())
}

/// Steps 1 to 4.
fn open(bytes: &[u8], header: &[u8], own: &OwnRequest) -> Result<Claims, SeError> {
    let response = ExchangeResponse::parse(bytes)?;
    let image = ImageTags::of_header(header)?;
    if response.request() != own.bytes() {
        return Err(SeError::OtherRequest {
            got: Sha256Digest::of(response.request()),
            wanted: Sha256Digest::of(own.bytes()),
        });
    }
    if response.measurement().len() != MEASUREMENT_LEN {
        return Err(SeError::MeasurementLength { got: response.measurement().len() });
    }
    let additional = AdditionalData::parse(response.additional_data(), own).ok_or_else(|| {
        SeError::AdditionalDataLength {
            got: response.additional_data().len(),
            wanted: AdditionalData::length(own.flags()),
        }
    })?;
    if !measurement::holds(&response, &image, own) {
        return Err(SeError::Measurement { tag: hex::encode(image.tag()) });
    }
    Ok(Claims {
        request: Sha256Digest::of(own.bytes()),
        nonce: own.nonce().copied(),
        slots: own.host_key_hashes().to_vec(),
        image,
        config_uid: *response.config_uid(),
        user_data: response.user_data().to_vec(),
        user_data_offset: user_data_offset(bytes, &response),
        additional,
    })
}

fn check_count(documents: &[Vec<u8>]) -> Result<(), SeError> {
    if documents.len() > MAX_HOST_KEYS {
        return Err(SeError::TooManyHostKeys { got: documents.len() });
    }
    Ok(())
}

/// Steps 6 to 8.
fn check_host_keys(claims: &Claims, own: &OwnRequest, known: &[Sha256Digest]) -> Result<(), SeError> {
    let slots = own.host_key_hashes();
    if let Some((slot, got)) = slots.iter().enumerate().find(|(_, hash)| !known.contains(hash)) {
        return Err(SeError::UnknownSlot { slot, got: *got });
    }
    let got = claims.attestation_host_key();
    if !slots.contains(&got) {
        return Err(SeError::OtherAttestationHostKey { got });
    }
    let got = claims.image_host_key();
    if !known.contains(&got) {
        return Err(SeError::UnknownImageHostKey { got });
    }
    Ok(())
}

fn check_sent(sent: &SecureExecutionEndorsements) -> Result<(), SeError> {
    for (what, got) in [("certificates", sent.certificates.len()), ("revocation lists", sent.crls.len())] {
        if got > host_key::MAX_SENT {
            return Err(SeError::TooManySent { what, got });
        }
    }
    Ok(())
}

/// Authenticates Evidence of a bundle: as the answer to an own request where it is one, otherwise by an Attestation
/// Result that speaks for it.
///
/// Host key documents and their chain come with the Evidence; `extra` is looked at first.
pub(crate) fn authenticate(
    evidence: &Evidence,
    extra: &Endorsements,
    grounds: Grounds<'_>,
    anchors: &Anchors,
    now: Timestamp,
) -> Result<AuthenticMeasurement, SeError> {
    let SecureExecutionEvidence { response, header } = SecureExecutionEvidence::parse(&evidence.report)?;
    let parsed = ExchangeResponse::parse(&response)?;
    let own = grounds.own_requests.iter().find(|own| own.bytes() == parsed.request());
    let measurement = match (own, grounds.attestation_result) {
        (Some(own), _) => {
            let sent = SecureExecutionEndorsements::parse(&evidence.endorsements)?;
            extra.check_certificates_and_lists(0).map_err(HostKeyError::TooMany)?;
            check_sent(&sent)?;
            // Documents of other machines are given too; whether those are in order is no matter here.
            let claims = open(&response, &header, own)?;
            let needed = |hash| own.host_key_hashes().contains(&hash) || claims.image_host_key() == hash;
            let given =
                extra.certificates.iter().filter(|der| host_key::hash(der).is_ok_and(needed)).cloned();
            let documents: Vec<_> = given.chain(sent.host_keys).collect();
            // What was given may be for other platforms too; what came with the Evidence is for this one.
            let lists = extra.crls.iter().filter(|der| host_key::is_list(der)).cloned();
            let extra = Endorsements {
                certificates: [extra.certificates.clone(), sent.certificates].concat(),
                crls: lists.chain(sent.crls).collect(),
                ..Endorsements::default()
            };
            let roots = HostKeyAnchors::vendor().dangerous_with_roots(anchors.dangerous());
            authenticate_own_request(&response, &header, own, &documents, &extra, &roots, now)?
        }
        (None, Some(envelope)) => {
            let offset = user_data_offset(&response, &parsed);
            result::authenticate(&evidence.report, offset, envelope, anchors, now)?
        }
        (None, None) => {
            return Err(SeError::Unconvincing { request: Sha256Digest::of(parsed.request()) });
        }
    };
    if !host_key::is_accepted(measurement.root, anchors) {
        return Err(SeError::RootNotAccepted);
    }
    Ok(measurement)
}
