//! An Ultravisor with a host key of its own, and requesters. **NOT HARDWARE.**
//!
//! It opens attestation requests that were made for its host key, as s390-tools makes them, and answers with the
//! measurement. Keys and the requester's side are left to `openssl`, so that two implementations of P-521 must agree; the
//! machine opens requests by itself, because it may sit in a process that can start no other program.
//!
//! `tests/peers` includes this file and its neighbours by their paths, so they name nothing of other workspace crates
//! than `provenance` and `verifier`.

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p521::elliptic_curve::point::AffineCoordinates as _;
use p521::elliptic_curve::sec1::FromSec1Point as _;
use provenance::digest::Sha256Digest;
use ring::aead;
use ring::rand::{SecureRandom as _, SystemRandom};
use verifier::secure_execution::request::flag;

use super::super::openssl::openssl;
use super::fixture::{self, Answer, Request, cipher};

/// Head of the SubjectPublicKeyInfo of a P-521 key (RFC 5480 §2), before the uncompressed point.
const SPKI_HEAD: [u8; 25] = [
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];
/// Length of a coordinate, and to how much it is padded in requests and hashes.
const COORDINATE: usize = 66;
const PADDED: usize = 80;
/// A slot is wrapped once, under a key that is used once.
const SLOT_IV: [u8; 12] = [0; 12];

/// A P-521 key pair.
pub struct P521 {
    pem: Vec<u8>,
    public: [u8; 2 * PADDED],
}

impl P521 {
    /// A new key.
    pub fn generate() -> Result<Self> {
        let arguments = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
        Self::from_pem(openssl(&arguments, &[])?)
    }

    /// A key that [`Self::generate`] made.
    pub fn from_pem(pem: Vec<u8>) -> Result<Self> {
        let spki = openssl(&["pkey", "-pubout", "-outform", "DER"], &pem)?;
        let point = spki.strip_prefix(&SPKI_HEAD).and_then(|point| point.strip_prefix(&[4]));
        let point = point.filter(|point| point.len() == 2 * COORDINATE).context("a P-521 point")?;
        let mut public = [0; 2 * PADDED];
        public[PADDED - COORDINATE..PADDED].copy_from_slice(&point[..COORDINATE]);
        public[2 * PADDED - COORDINATE..].copy_from_slice(&point[COORDINATE..]);
        Ok(Self { pem, public })
    }

    /// The private key, as `openssl genpkey` writes it.
    #[must_use]
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// X and Y, each padded in front to 80 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8; 2 * PADDED] {
        &self.public
    }

    /// SHA-256 of [`Self::public`], by which requests and answers name a host key.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        Sha256Digest::of(&self.public)
    }

    /// The same key without another program.
    fn secret(&self) -> Result<p521::SecretKey> {
        let text = std::str::from_utf8(&self.pem)?;
        let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(body)?;
        // ECPrivateKey (RFC 5915 §3): version 1, then 66 bytes.
        let head = [0x02, 0x01, 0x01, 0x04, 0x42];
        let at = der.windows(head.len()).position(|part| part == head).context("an ECPrivateKey")?;
        let bytes = der.get(at + head.len()..at + head.len() + COORDINATE).context("66 bytes")?;
        Ok(p521::SecretKey::from_slice(bytes)?)
    }

    /// The AES-256 key shared with another: SHA-256 of the shared X coordinate and a counter (ANSI X9.63).
    fn shared_key(&self, other: &[u8; 2 * PADDED]) -> Result<[u8; 32]> {
        let (x, y) = other.split_at(PADDED);
        let skipped = PADDED - COORDINATE;
        let spki = [&SPKI_HEAD[..], &[4], &x[skipped..], &y[skipped..]].concat();
        let directory = tempfile::tempdir()?;
        let file = |name: &str, bytes: &[u8]| -> Result<String> {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes)?;
            path.to_str().map(str::to_owned).context("UTF-8")
        };
        let (own, peer) = (file("own.pem", &self.pem)?, file("peer.der", &spki)?);
        let shared =
            openssl(&["pkeyutl", "-derive", "-inkey", &own, "-peerkey", &peer, "-peerform", "DER"], &[])?;
        Ok(*Sha256Digest::of(&[shared.as_slice(), &[0, 0, 0, 1]].concat()).as_bytes())
    }
}

/// The same as [`P521::shared_key`], for a host key, without another program.
fn opened_key(host_key: &p521::SecretKey, other: &[u8; 2 * PADDED]) -> Result<[u8; 32]> {
    let (x, y) = other.split_at(PADDED);
    let skipped = PADDED - COORDINATE;
    let point = p521::Sec1Point::from_bytes([&[4], &x[skipped..], &y[skipped..]].concat())?;
    let point = Option::<p521::PublicKey>::from(p521::PublicKey::from_sec1_point(&point));
    let point = point.context("requester's key is no point of the curve")?;
    let shared = (point.to_projective() * *host_key.to_nonzero_scalar()).to_affine();
    Ok(*Sha256Digest::of(&[&shared.x(), &[0, 0, 0, 1][..]].concat()).as_bytes())
}

/// A requester: makes requests that a host key can open, and keeps what judges the answers.
pub struct Requester {
    /// The request as it is sent.
    pub request: Vec<u8>,
    /// The request's protection key, which is nobody else's business.
    pub protection_key: [u8; 32],
    /// Key of the measurement, sealed in the request.
    pub measurement_key: [u8; 64],
    /// Nonce, sealed in the request when the flags say so.
    pub nonce: [u8; 16],
}

impl Requester {
    /// A new request for these host keys.
    pub fn new(flags: u64, host_keys: &[&P521]) -> Result<Self> {
        let customer = P521::generate()?;
        let (protection_key, measurement_key, nonce) = (random()?, random()?, random()?);
        let slots = host_keys.iter().map(|host| {
            let key = customer.shared_key(&host.public)?;
            let mut wrapped = protection_key.to_vec();
            cipher(&key)
                .seal_in_place_append_tag(iv(), aead::Aad::empty(), &mut wrapped)
                .ok()
                .context("short enough")?;
            let mut slot = [0; 80];
            slot[..32].copy_from_slice(host.hash().as_bytes());
            slot[32..].copy_from_slice(&wrapped);
            Ok(slot)
        });
        let slots = slots.collect::<Result<_>>()?;
        let request =
            Request { flags, customer_key: customer.public, slots, protection_key, measurement_key, nonce };
        Ok(Self { request: request.seal(), protection_key, measurement_key, nonce })
    }
}

/// The Ultravisor of a made-up machine on which one guest runs. NOT HARDWARE.
pub struct SoftwareUltravisor {
    pub(super) host_key: P521,
    pub(super) header: Vec<u8>,
    config_uid: [u8; 16],
}

/// What the Ultravisor gives the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// HMAC-SHA-512, 64 bytes.
    pub measurement: Vec<u8>,
    /// What the request's flags ask for.
    pub additional_data: Vec<u8>,
    /// Configuration unique id.
    pub config_uid: [u8; 16],
}

impl Attestation {
    /// The exchange that the guest sends back to the requester.
    #[must_use]
    pub fn exchange(&self, request: &[u8], user_data: &[u8]) -> Vec<u8> {
        fixture::exchange(&[request, &self.measurement, &self.additional_data, user_data, &self.config_uid])
    }
}

impl SoftwareUltravisor {
    /// A machine with a new host key, which runs a guest with this Secure Execution header.
    pub fn new(header: &[u8]) -> Result<Self> {
        Ok(Self { host_key: P521::generate()?, header: header.to_vec(), config_uid: random()? })
    }

    /// The machine's host key.
    #[must_use]
    pub fn host_key(&self) -> &P521 {
        &self.host_key
    }

    /// Opens a request that was made for this machine and measures the guest over `user_data`. The secret store is
    /// empty; firmware state is zero.
    pub fn attest(&self, request: &[u8], user_data: &[u8]) -> Result<Attestation> {
        let field = |at: usize, length: usize| request.get(at..at + length).context("request is too short");
        let slots = usize::from(field(0x27, 1)?[0]);
        let flags = u64::from_be_bytes(field(0x30, 8)?.try_into()?);
        let customer: &[u8; 160] = field(0x40, 160)?.try_into()?;
        let own = self.host_key.hash();
        let mut slot = None;
        for index in 0..slots {
            let candidate = field(0xe0 + 80 * index, 80)?;
            if candidate[..32] == *own.as_bytes() {
                slot = Some(candidate);
            }
        }
        let Some(slot) = slot else { bail!("request has no slot for host key {own}") };
        let mut wrapped = slot[32..].to_vec();
        let protection_key: [u8; 32] = cipher(&opened_key(&self.host_key.secret()?, customer)?)
            .open_in_place(iv(), aead::Aad::empty(), &mut wrapped)
            .ok()
            .context("slot does not open under the host key")?
            .try_into()?;
        let (clear, sealed) = request.split_at_checked(0xe0 + 80 * slots).context("request is too short")?;
        let mut sealed = sealed.to_vec();
        let request_iv = aead::Nonce::try_assume_unique_for_key(field(0x10, 12)?).ok().context("12 bytes")?;
        let opened = cipher(&protection_key)
            .open_in_place(request_iv, aead::Aad::from(clear), &mut sealed)
            .ok()
            .context("request does not open under its protection key")?;
        let (measurement_key, nonce) = opened.split_at_checked(64).context("request holds too little")?;

        let mut additional = Vec::new();
        for (bit, bytes) in [
            (flag::IMAGE_HOST_KEY_HASH, own.as_bytes().as_slice()),
            (flag::ATTESTATION_HOST_KEY_HASH, own.as_bytes()),
            (flag::SECRET_STORE_HASH, &[0; 64]),
            (flag::FIRMWARE_STATE, &[0; 320]),
        ] {
            if flags & bit != 0 {
                additional.extend(bytes);
            }
        }
        let answer = Answer {
            request: request.to_vec(),
            header: self.header.clone(),
            user_data: user_data.to_vec(),
            additional,
            config_uid: self.config_uid.to_vec(),
            nonce: nonce.to_vec(),
        };
        let measurement = answer.measurement_under(measurement_key);
        Ok(Attestation { measurement, additional_data: answer.additional, config_uid: self.config_uid })
    }
}

fn iv() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key(SLOT_IV)
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().context("no random bytes")?;
    Ok(bytes)
}
