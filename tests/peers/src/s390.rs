//! Evidence of Secure Execution for the crate `s390_pv`, put together as `pvattest` of s390-tools does. The crate reads
//! neither the exchange format nor a time: parts come cut, and documents are judged at the wall clock.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use openssl::pkey::PKey;
use openssl::x509::X509;
use provenance::digest::Sha256Digest;
use s390_pv::attest::{
    AdditionalData, AttestationFlags, AttestationItems, AttestationMeasurement, AttestationRequest,
};
use s390_pv::request::{Aes256GcmKey, BootHdrTags, CertVerifier, EcPubKeyCoord, HkdVerifier as _, SymKey};
use tempfile::TempDir;

use crate::Verdict;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The crate panics over a request that is shorter than it says; that counts as a refusal.
fn asked<T>(question: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(question)).unwrap_or_else(|_| Err("panicked".to_owned()))
}

/// A protection key as the crate takes it.
#[must_use]
pub fn protection_key(key: [u8; 32]) -> SymKey {
    SymKey::Aes256(Aes256GcmKey::from(key))
}

/// What the crate reads of a request that it opens.
pub struct Opened {
    /// Plaintext attestation flags.
    pub flags: AttestationFlags,
    /// Key of the measurement, 64 bytes.
    pub measurement_key: Vec<u8>,
    /// Nonce, where there is one.
    pub nonce: Option<[u8; 16]>,
}

/// Opens an attestation request with its protection key.
pub fn open(request: &[u8], key: [u8; 32]) -> Result<Opened, String> {
    asked(|| {
        let (clear, sealed) = AttestationRequest::decrypt_bin(request, &protection_key(key)).map_err(text)?;
        Ok(Opened {
            flags: *clear.flags(),
            measurement_key: sealed.measurement_key().to_vec(),
            nonce: sealed.nonce().as_ref().map(|nonce| *nonce.value()),
        })
    })
}

/// SHA-256 of the public key of a host key document (DER), as requests and answers name it.
pub fn host_key_hash(document: &[u8]) -> Result<Sha256Digest, String> {
    let key = X509::from_der(document).and_then(|document| document.public_key()).map_err(text)?;
    let digest = EcPubKeyCoord::try_from(key).map_err(text)?.sha256().map_err(text)?;
    Ok(Sha256Digest::from_bytes(digest.as_ref().try_into().map_err(text)?))
}

/// An answer to an attestation request, cut into its parts.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The request that is answered.
    pub request: &'a [u8],
    /// Header of the image, which stands at its beginning.
    pub header: &'a [u8],
    /// What the Ultravisor says that it measured.
    pub measurement: &'a [u8],
    /// What the Ultravisor added.
    pub additional: &'a [u8],
    /// What the guest had measured.
    pub user_data: &'a [u8],
    /// Configuration unique id.
    pub config_uid: &'a [u8; 16],
}

/// What the crate reads of an answer that it accepts.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// Page, address and tweak list digest, and tag of the image: 208 bytes.
    pub image: Vec<u8>,
    /// Nonce of the request.
    pub nonce: Option<[u8; 16]>,
    /// Hash of the host key that unpacked the image.
    pub image_host_key: Option<Vec<u8>>,
    /// Hash of the host key that opened the request.
    pub attestation_host_key: Option<Vec<u8>>,
    /// Hash of the secret store.
    pub secret_store_hash: Option<Vec<u8>>,
    /// State of the firmware.
    pub firmware_state: Option<Vec<u8>>,
}

/// The measurement that the crate computes for an answer under a key of 64 bytes.
pub fn measurement(answer: &Answer<'_>, key: &[u8], nonce: Option<&[u8; 16]>) -> Result<Vec<u8>, String> {
    let tags = BootHdrTags::from_se_image(&mut Cursor::new(answer.header)).map_err(text)?;
    let items = AttestationItems::new(
        &tags,
        answer.config_uid,
        Some(answer.user_data),
        nonce,
        Some(answer.additional),
    );
    let key = PKey::hmac(key).map_err(text)?;
    let algorithm = s390_pv::attest::AttestationMeasAlg::HmacSha512;
    AttestationMeasurement::calculate(items, algorithm, &key)
        .map(|measurement| measurement.as_ref().to_vec())
        .map_err(text)
}

/// Opens the request of an answer, computes its measurement, compares it and reads the additional data; then both host
/// keys must be that with hash `host_key`.
pub fn judge_answer(answer: &Answer<'_>, key: [u8; 32], host_key: &Sha256Digest) -> Result<Claims, String> {
    let opened = open(answer.request, key)?;
    asked(|| {
        let wanted = measurement(answer, &opened.measurement_key, opened.nonce.as_ref())?;
        if !AttestationMeasurement::from(wanted).eq_secure(answer.measurement) {
            return Err("measurement differs".to_owned());
        }
        let additional = AdditionalData::from_slice(answer.additional, &opened.flags).map_err(text)?;
        let owned = |bytes: Option<&&[u8]>| bytes.map(|bytes| bytes.to_vec());
        let hashes = [additional.image_public_host_key_hash(), additional.attestation_public_host_key_hash()];
        if hashes.iter().any(|hash| hash.is_none_or(|hash| *hash != host_key.as_bytes())) {
            return Err("another host key".to_owned());
        }
        let tags = BootHdrTags::from_se_image(&mut Cursor::new(answer.header)).map_err(text)?;
        Ok(Claims {
            image: tags.as_ref().to_vec(),
            nonce: opened.nonce,
            image_host_key: owned(hashes[0]),
            attestation_host_key: owned(hashes[1]),
            secret_store_hash: owned(additional.secret_store_hash()),
            firmware_state: owned(additional.firmware_state()),
        })
    })
}

/// What is above host key documents, in files, because the crate takes nothing else.
pub struct Above {
    _folder: TempDir,
    root: PathBuf,
    certificates: Vec<PathBuf>,
    crls: Vec<PathBuf>,
}

impl Above {
    /// Writes root, certificates below it and revocation lists, all DER.
    pub fn write(root: &[u8], certificates: &[Vec<u8>], crls: &[Vec<u8>]) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(text)?;
        let file = |name: String, bytes: &[u8]| -> Result<PathBuf, String> {
            let path = folder.path().join(name);
            fs::write(&path, bytes).map_err(text)?;
            Ok(path)
        };
        let files = |name: &str, all: &[Vec<u8>]| -> Result<Vec<PathBuf>, String> {
            all.iter().enumerate().map(|(index, der)| file(format!("{name}-{index}"), der)).collect()
        };
        let (certificates, crls) = (files("certificate", certificates)?, files("list", crls)?);
        let root = file("root".to_owned(), root)?;
        Ok(Self { _folder: folder, root, certificates, crls })
    }

    /// Judges a host key document (DER) at the wall clock, with all that is above it.
    pub fn judge(&self, document: &[u8]) -> Verdict {
        let document = X509::from_der(document).map_err(text)?;
        let offline = true;
        CertVerifier::new(&self.certificates, &self.crls, Some(&self.root), offline)
            .and_then(|verifier| verifier.verify(&document))
            .map_err(text)
    }
}
