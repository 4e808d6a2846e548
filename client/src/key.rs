//! The caller's key: a P-256 or Ed25519 private key in a PKCS#8 PEM file (RFC 5958, RFC 7468) that only its
//! owner can read. It signs requests (DSSE) and authenticates the TLS connection.

use std::fmt;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::dsse::{Envelope, pre_authentication_encoding};
use provenance::key::{KeyAlgorithm, PublicKey};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::endorsements::pem;

/// Largest key file that is read, in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A caller's private key.
///
/// `Clone`, `Serialize` and a `Debug` of its contents are left out: each would make a second copy of the key
/// that nobody wipes, or print it.
pub struct CallerKey {
    pkcs8: Zeroizing<Vec<u8>>,
    signer: Signer,
    public: PublicKey,
}

enum Signer {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why a key cannot be used. Fault: the caller's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A new key would replace a file.
    #[error("key file {} exists; a key is never overwritten", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the file.
    #[error("key file {} has mode {mode:04o}: others can read or change it, wanted 0600 or stricter", path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// No PKCS#8 PEM.
    #[error("key file {}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was seen and what is wanted.
        problem: String,
    },
    /// The system gives no randomness, or an algorithm refuses the key.
    #[error("cannot make or use a key: {problem}")]
    Crypto {
        /// What failed.
        problem: &'static str,
    },
}

impl CallerKey {
    /// A new random key.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let rng = SystemRandom::new();
        let failed = KeyError::Crypto { problem: "the system gave no randomness" };
        let document = match algorithm {
            KeyAlgorithm::EcdsaP256Sha256 => {
                EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &rng)
            }
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&rng),
        };
        let Ok(document) = document else { return Err(failed) };
        Self::from_pkcs8(document.as_ref()).ok_or(KeyError::Crypto { problem: "a fresh key does not parse" })
    }

    /// From PKCS#8 DER: P-256 with its public key, or Ed25519. `None` for anything else.
    #[must_use]
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let pkcs8 = Zeroizing::new(der.to_vec());
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let public = PublicKey::from_ed25519(pair.public_key().as_ref()).ok()?;
            return Some(Self { pkcs8, signer: Signer::Ed25519(pair), public });
        }
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new()).ok()?;
        let public = PublicKey::from_p256_point(pair.public_key().as_ref()).ok()?;
        Some(Self { pkcs8, signer: Signer::P256(pair), public })
    }

    /// Reads a key file. Refuses one that others can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file_error = |source| KeyError::File { path: path.to_owned(), source };
        let file = fs::File::open(path).map_err(file_error)?;
        let metadata = file.metadata().map_err(file_error)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Permissions { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_KEY_FILE).read_to_string(&mut text).map_err(file_error)?;
        let format = |problem: &str| KeyError::Format { path: path.to_owned(), problem: problem.to_owned() };
        if text.contains("ENCRYPTED PRIVATE KEY") {
            return Err(format("the key is encrypted; wanted an unencrypted PKCS#8 key (mode 0600)"));
        }
        let body = text
            .split_once(PEM_BEGIN)
            .and_then(|(_, rest)| rest.split_once(PEM_END))
            .map(|(body, _)| body)
            .ok_or_else(|| {
                format("no `PRIVATE KEY` block; wanted PKCS#8 PEM as `sealwright key new` writes it")
            })?;
        let compact = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
        let der =
            Zeroizing::new(STANDARD.decode(compact.as_bytes()).map_err(|_| format("the PEM is not base64"))?);
        Self::from_pkcs8(&der).ok_or_else(|| format("neither an Ed25519 nor a P-256 key with its public key"))
    }

    /// Writes the key to a new file of mode 0600.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        let file_error = |source| KeyError::File { path: path.to_owned(), source };
        let mut file = match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(KeyError::Exists { path: path.to_owned() });
            }
            Err(e) => return Err(file_error(e)),
        };
        let mut pem = Zeroizing::new(String::with_capacity(512));
        pem.push_str(PEM_BEGIN);
        pem.push('\n');
        let encoded = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        for (index, c) in encoded.chars().enumerate() {
            if index > 0 && index % 64 == 0 {
                pem.push('\n');
            }
            pem.push(c);
        }
        pem.push('\n');
        pem.push_str(PEM_END);
        pem.push('\n');
        file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(file_error)
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a payload as a DSSE envelope.
    pub fn sign_envelope(&self, payload_type: &str, payload: Vec<u8>) -> Result<Envelope, KeyError> {
        let message = pre_authentication_encoding(payload_type, &payload);
        let signature = match &self.signer {
            Signer::P256(pair) => pair
                .sign(&SystemRandom::new(), &message)
                .map_err(|_| KeyError::Crypto { problem: "the signature failed" })?
                .as_ref()
                .to_vec(),
            Signer::Ed25519(pair) => pair.sign(&message).as_ref().to_vec(),
        };
        Ok(Envelope { payload_type: payload_type.to_owned(), payload, signature })
    }

    /// PKCS#8 DER, for the TLS stack only.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerKey({})", self.public.spki_sha256())
    }
}

/// The public key as PEM (`PUBLIC KEY`, RFC 7468 §13).
#[must_use]
pub fn public_pem(key: &PublicKey) -> String {
    pem::block("PUBLIC KEY", key.spki_der())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_through_their_file_and_sign() {
        let folder = tempfile::tempdir().expect("folder");
        for (name, algorithm) in [("p", KeyAlgorithm::EcdsaP256Sha256), ("e", KeyAlgorithm::Ed25519)] {
            let path = folder.path().join(name);
            let key = CallerKey::generate(algorithm).expect("a key");
            key.save_new(&path).expect("saved");
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
            assert!(matches!(key.save_new(&path), Err(KeyError::Exists { .. })));
            let again = CallerKey::load(&path).expect("loads");
            assert_eq!(again.public(), key.public());
            let envelope = again.sign_envelope("text/x", b"payload".to_vec()).expect("signs");
            assert_eq!(envelope.authenticate("text/x", key.public()).expect("holds"), b"payload");
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        CallerKey::generate(KeyAlgorithm::Ed25519).expect("a key").save_new(&path).expect("saved");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(CallerKey::load(&path), Err(KeyError::Permissions { mode: 0o640, .. })));
    }
}
