//! Attestation requests of Secure Execution (ARCB, version 1), made for the host keys of machines that a policy accepts,
//! as `pvattest create` of s390-tools makes them.
//!
//! ```text
//! requester                                             Ultravisor
//! protection key (AES-256, random)
//!   seals measurement key and nonce ─────────┐
//!   is wrapped for each host key: P-521 ECDH,│
//!   X9.63 with SHA-256, AES-256-GCM ─────────┴────────► opens slot, opens request, answers with HMAC-SHA-512
//! ```
//! Whoever holds the protection key can forge every answer. It leaves this machine in no form but wrapped, and is written to
//! a file only where somebody asked for that ([`AttestationRequestKey::save`]).

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use p521::elliptic_curve::sec1::{FromSec1Point as _, ToSec1Point as _};
use provenance::challenge::{AttestationRequest, MEASUREMENT_LEN};
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use ring::aead;
use ring::rand::{SecureRandom as _, SystemRandom};
use verifier::secure_execution::request::{
    HMAC_SHA512, KEY_SLOT_LEN, MEASUREMENT_KEY_LEN, NONCE_LEN, PROTECTION_KEY_LEN, TAG_LEN, VERSION, flag,
    offset,
};
use verifier::secure_execution::{
    AuthenticHostKey, NoHostKey, OwnRequest, ProtectionKey, exchange, host_keys_for_request,
};
use verifier::{Endorsements, Policy};
use zeroize::Zeroizing;

/// What a request asks for beside the measurement: a nonce against old answers, and which host keys unpacked image and
/// request. The verifier demands both hashes.
const FLAGS: u64 = flag::NONCE | flag::IMAGE_HOST_KEY_HASH | flag::ATTESTATION_HOST_KEY_HASH;
/// Length of the two hashes in bytes.
const ADDITIONAL_LEN: u32 = 64;
/// Lengths of a P-521 coordinate, in a point and in IBM's structures, in bytes.
const COORDINATE_LEN: usize = 66;
const PADDED_LEN: usize = 80;
/// A wrapping key is used once, so its nonce may be fixed; s390-tools has the same.
const SLOT_IV: [u8; 12] = [0; 12];

/// Why there is no attestation request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestationRequestError {
    /// No host key that it may be made for.
    #[error("no attestation request can be made: {0}")]
    NoHostKey(#[from] NoHostKey),
    /// A host key is no point of the curve. Fault: whoever certified it.
    #[error("host key {0} is no point of the curve P-521")]
    Point(Sha256Digest),
    /// The system gives no randomness.
    #[error("the system gave no randomness for an attestation request")]
    NoRandomness,
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A new request of one's own, with the key that makes its answers convincing.
///
/// `Debug`, `Clone` and `Serialize` are left out, so that the key reaches no log and no file by mistake.
pub struct NewAttestationRequest {
    request: AttestationRequest,
    key: AttestationRequestKey,
}

/// The protection key of an own request (ARPK), 32 bytes.
pub struct AttestationRequestKey(Zeroizing<[u8; PROTECTION_KEY_LEN]>);

impl AttestationRequestKey {
    /// Writes the bare 32 bytes to a file that nobody else can read (mode 0600), in the place of one that is there.
    pub fn save(&self, path: &Path) -> Result<(), AttestationRequestError> {
        save(path, &self.0[..])
    }
}

/// A file of mode 0600. An earlier one is removed first: its mode would stay.
fn save(path: &Path, bytes: &[u8]) -> Result<(), AttestationRequestError> {
    let written = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    written().map_err(|source| AttestationRequestError::Write { path: path.display().to_string(), source })
}

impl NewAttestationRequest {
    /// A request for the host keys in `given` that the policy accepts; each is traced to an accepted root first.
    pub fn make(
        policy: &Policy,
        given: &Endorsements,
        now: Timestamp,
    ) -> Result<Self, AttestationRequestError> {
        Self::for_host_keys(&host_keys_for_request(policy, given, now)?)
    }

    fn for_host_keys(host_keys: &[AuthenticHostKey]) -> Result<Self, AttestationRequestError> {
        let protection_key = Zeroizing::new(random::<PROTECTION_KEY_LEN>()?);
        let mut secret = Zeroizing::new(Vec::with_capacity(MEASUREMENT_KEY_LEN + NONCE_LEN + TAG_LEN));
        secret.extend_from_slice(&*Zeroizing::new(random::<MEASUREMENT_KEY_LEN>()?));
        secret.extend_from_slice(&random::<NONCE_LEN>()?);
        let own = new_key()?;

        let slots = host_keys
            .iter()
            .map(|host_key| slot(&own, host_key, &protection_key))
            .collect::<Result<Vec<_>, _>>()?;
        let size = offset::SLOTS + slots.len() * KEY_SLOT_LEN + secret.len() + TAG_LEN;
        let iv = random::<12>()?;
        let mut bytes = vec![0; offset::SLOTS];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(offset::VERSION, &VERSION.to_be_bytes());
        put(offset::SIZE, &length(size));
        put(offset::IV, &iv);
        put(offset::KEY_SLOTS, &[u8::try_from(slots.len()).unwrap_or(u8::MAX)]);
        put(offset::ENCRYPTED_LEN, &length(secret.len()));
        put(offset::FLAGS, &FLAGS.to_be_bytes());
        put(offset::ALGORITHM, &HMAC_SHA512.to_be_bytes());
        put(offset::CUSTOMER_KEY, &padded(&own.public_key()));
        bytes.extend(slots.concat());
        seal(&protection_key, iv, &bytes, &mut secret);
        bytes.extend_from_slice(&secret);

        let request = AttestationRequest::parse(&in_exchange_format(&bytes)).expect("our own request");
        Ok(Self { request, key: AttestationRequestKey(protection_key) })
    }

    /// The request as it is sent.
    #[must_use]
    pub fn request(&self) -> &AttestationRequest {
        &self.request
    }

    /// What judges the answer.
    #[must_use]
    pub fn own(&self) -> OwnRequest {
        let key = ProtectionKey::new(*self.key.0);
        OwnRequest::open(self.request.parts().request(), &key).expect("our own request, with its key")
    }

    /// Writes request and key, both with mode 0600, for `sealwright verify` and `appraise`.
    pub fn save(&self, request: &Path, key: &Path) -> Result<(), AttestationRequestError> {
        save(request, self.request.as_bytes())?;
        self.key.save(key)
    }
}

fn random<const N: usize>() -> Result<[u8; N], AttestationRequestError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AttestationRequestError::NoRandomness)?;
    Ok(bytes)
}

/// A random key. Random bits miss the range of the curve's order with a probability below 2^-250.
fn new_key() -> Result<p521::SecretKey, AttestationRequestError> {
    let mut bytes = Zeroizing::new(random::<COORDINATE_LEN>()?);
    // 521 bits in 66 bytes.
    bytes[0] &= 1;
    p521::SecretKey::from_slice(&bytes[..]).map_err(|_| AttestationRequestError::NoRandomness)
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("a request has a few kilobytes").to_be_bytes()
}

/// X and Y, each padded in front to 80 bytes.
fn padded(key: &p521::PublicKey) -> [u8; 2 * PADDED_LEN] {
    let point = key.to_sec1_point(false);
    let (_, coordinates) = point.as_bytes().split_at(1);
    let mut padded = [0; 2 * PADDED_LEN];
    padded[PADDED_LEN - COORDINATE_LEN..PADDED_LEN].copy_from_slice(&coordinates[..COORDINATE_LEN]);
    padded[2 * PADDED_LEN - COORDINATE_LEN..].copy_from_slice(&coordinates[COORDINATE_LEN..]);
    padded
}

/// A host key slot: hash of the host key (32), wrapped protection key (32), tag (16).
fn slot(
    own: &p521::SecretKey,
    host_key: &AuthenticHostKey,
    protection_key: &[u8; PROTECTION_KEY_LEN],
) -> Result<Vec<u8>, AttestationRequestError> {
    let (x, y) = host_key.public_key().split_at(PADDED_LEN);
    let skipped = PADDED_LEN - COORDINATE_LEN;
    let point = [&[4], &x[skipped..], &y[skipped..]].concat();
    let wrong = |_| AttestationRequestError::Point(host_key.hash());
    let point = p521::Sec1Point::from_bytes(&point).map_err(wrong)?;
    let theirs = Option::<p521::PublicKey>::from(p521::PublicKey::from_sec1_point(&point));
    let theirs = theirs.ok_or(AttestationRequestError::Point(host_key.hash()))?;
    let mut wrapped = Zeroizing::new(protection_key.to_vec());
    seal(&wrapping_key(own, &theirs), SLOT_IV, &[], &mut wrapped);
    Ok([host_key.hash().as_bytes().as_slice(), &wrapped].concat())
}

/// SHA-256 of the shared X coordinate and a counter (ANSI X9.63).
fn wrapping_key(own: &p521::SecretKey, theirs: &p521::PublicKey) -> Zeroizing<[u8; 32]> {
    use p521::elliptic_curve::point::AffineCoordinates as _;
    let shared = (theirs.to_projective() * *own.to_nonzero_scalar()).to_affine();
    let input = Zeroizing::new([&*Zeroizing::new(shared.x()), &[0, 0, 0, 1][..]].concat());
    Zeroizing::new(*Sha256Digest::of(&input).as_bytes())
}

/// AES-256-GCM with the tag at the end.
fn seal(key: &[u8; 32], iv: [u8; 12], clear: &[u8], secret: &mut Vec<u8>) {
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key).expect("32 bytes");
    aead::LessSafeKey::new(key)
        .seal_in_place_append_tag(aead::Nonce::assume_unique_for_key(iv), aead::Aad::from(clear), secret)
        .expect("far less than AES-GCM takes");
}

/// The request with the lengths that its answer needs.
fn in_exchange_format(request: &[u8]) -> Vec<u8> {
    let mut header = vec![0; exchange::HEADER_LEN];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    put(exchange::offset::MAGIC, &exchange::MAGIC);
    put(exchange::offset::VERSION, &exchange::VERSION.to_be_bytes());
    put(exchange::offset::SIZE, &length(exchange::HEADER_LEN + request.len()));
    put(exchange::Part::Request.entry(), &length(request.len()));
    put(exchange::Part::Request.entry() + 4, &length(exchange::HEADER_LEN));
    put(exchange::Part::Measurement.entry(), &MEASUREMENT_LEN.to_be_bytes());
    put(exchange::Part::AdditionalData.entry(), &ADDITIONAL_LEN.to_be_bytes());
    [header, request.to_vec()].concat()
}
