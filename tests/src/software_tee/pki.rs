//! The fixture PKI on disk: ARK, ASK, ASVK (RSA-4096) and the VCEK (P-384) of one made-up chip. NOT HARDWARE.
//!
//! It is generated once per directory and then only read. Nothing of it is ever committed.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use provenance::digest::Sha256Digest;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair};

use super::certificate::{self, Issuer, Validity};
use super::openssl::openssl;
use super::{ASK_SERIAL, Product, Tcb, VekContents, timestamp, validity_of_a_vcek};

/// Name of the PKI's directory; another layout gets another name.
const DIRECTORY: &str = "snp-fixture-pki-v1";
const README: &str =
    "Fixture keys of Sealwright's software TEE. NOT HARDWARE: whoever can read them can make any Evidence.\n";

/// One RSA authority.
pub(super) struct Authority {
    common_name: String,
    pub(super) certificate: Vec<u8>,
    key_file: PathBuf,
    key: OnceLock<RsaKeyPair>,
}

impl Authority {
    fn key(&self) -> &RsaKeyPair {
        // Read only when a certificate is issued: a development server never does.
        self.key.get_or_init(|| {
            let pkcs8 = fs::read(&self.key_file).expect("the fixture PKI is complete");
            RsaKeyPair::from_pkcs8(&pkcs8).expect("a key that openssl made")
        })
    }

    /// SubjectPublicKeyInfo DER of the authority's key.
    pub(super) fn spki(&self) -> Vec<u8> {
        use der::{Decode as _, Encode as _};
        let parsed = x509_cert::Certificate::from_der(&self.certificate).expect("our own certificate");
        parsed.tbs_certificate().subject_public_key_info().to_der().expect("parsed from DER")
    }
}

impl Issuer for Authority {
    fn common_name(&self) -> &str {
        &self.common_name
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        rsa_pss(self.key(), message)
    }
}

/// A key that has no certificate yet.
struct NewAuthority<'a> {
    common_name: &'a str,
    key: &'a RsaKeyPair,
}

impl Issuer for NewAuthority<'_> {
    fn common_name(&self) -> &str {
        self.common_name
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        rsa_pss(self.key, message)
    }
}

fn rsa_pss(key: &RsaKeyPair, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&signature::RSA_PSS_SHA384, &SystemRandom::new(), message, &mut signature)
        .expect("the buffer is as long as the modulus");
    signature
}

/// The authorities, and the key of the one persistent chip.
pub(super) struct FixturePki {
    pub(super) ark: Authority,
    pub(super) ask: Authority,
    pub(super) asvk: Authority,
    vcek_key: Vec<u8>,
    pub(super) vcek: Vec<u8>,
}

const AUTHORITIES: [(&str, &str, u32); 3] =
    [("ark", "ARK-Milan", 0x10000), ("ask", "SEV-Milan", ASK_SERIAL), ("asvk", "SEV-VLEK-Milan", 0x10101)];

impl FixturePki {
    /// Opens the PKI below `dir`, making it when it is not there. Two processes may do so at the same time.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let home = dir.join(DIRECTORY);
        if !home.exists() {
            private_directory(dir)?;
            let draft = tempfile::Builder::new()
                .prefix(&format!(".{DIRECTORY}-"))
                .tempdir_in(dir)
                .with_context(|| format!("make a directory in {}", dir.display()))?;
            generate(draft.path()).context("generate the fixture PKI")?;
            let draft = draft.keep();
            if let Err(error) = fs::rename(&draft, &home) {
                fs::remove_dir_all(&draft)?;
                // Another process was faster; its PKI is as good.
                ensure!(home.exists(), "rename {} to {}: {error}", draft.display(), home.display());
            }
        }
        let read = |name: &str| {
            let path = home.join(name);
            fs::read(&path).with_context(|| {
                format!("read {}; remove {} to have it made again", path.display(), home.display())
            })
        };
        let authority = |index: usize| -> Result<Authority> {
            let (file, common_name, _) = AUTHORITIES[index];
            Ok(Authority {
                common_name: common_name.to_owned(),
                certificate: read(&format!("{file}.der"))?,
                key_file: home.join(format!("{file}.key")),
                key: OnceLock::new(),
            })
        };
        Ok(Self {
            ark: authority(0)?,
            ask: authority(1)?,
            asvk: authority(2)?,
            vcek_key: read("vcek.key")?,
            vcek: read("vcek.der")?,
        })
    }

    /// What sealing roots of the persistent chip come from.
    pub(super) fn chip_secret(&self) -> Sha256Digest {
        Sha256Digest::of(&self.vcek_key)
    }

    /// The key of the one persistent chip.
    pub(super) fn chip_key(&self) -> Result<EcdsaKeyPair> {
        p384_key(&self.vcek_key)
    }
}

/// Another ASK and ARK of the names of the fixture's.
pub(super) fn impostors() -> Result<[Vec<u8>; 2]> {
    let key = || {
        RsaKeyPair::from_pkcs8(&new_rsa_key(2048)?).map_err(|e| anyhow::anyhow!("RSA key of openssl: {e}"))
    };
    let (ark_key, ask_key) = (key()?, key()?);
    let ark = NewAuthority { common_name: AUTHORITIES[0].1, key: &ark_key };
    let certificate = |(_, name, serial): (&str, &str, u32), key: &RsaKeyPair| {
        certificate::authority_certificate(&ark, serial, name, validity_of_a_vcek(), key.public().as_ref())
    };
    Ok([certificate(AUTHORITIES[1], &ask_key), certificate(AUTHORITIES[0], &ark_key)])
}

pub(super) fn p384_key(pkcs8: &[u8]) -> Result<EcdsaKeyPair> {
    EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, pkcs8, &SystemRandom::new())
        .map_err(|error| anyhow::anyhow!("P-384 fixture key: {error}"))
}

pub(super) fn new_p384_key() -> Result<Vec<u8>> {
    EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &SystemRandom::new())
        .map(|pkcs8| pkcs8.as_ref().to_vec())
        .map_err(|_| anyhow::anyhow!("no random bytes"))
}

fn generate(home: &Path) -> Result<()> {
    let keys = std::thread::scope(|scope| {
        let threads: Vec<_> = AUTHORITIES.iter().map(|_| scope.spawn(|| new_rsa_key(4096))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let pairs: Vec<_> = keys
        .iter()
        .map(|pkcs8| RsaKeyPair::from_pkcs8(pkcs8).map_err(|e| anyhow::anyhow!("RSA key of openssl: {e}")))
        .collect::<Result<_>>()?;

    let validity = Validity {
        not_before: timestamp("2020-10-22T17:23:05Z"),
        not_after: timestamp("2045-10-22T17:23:05Z"),
    };
    let ark = NewAuthority { common_name: AUTHORITIES[0].1, key: &pairs[0] };
    for ((file, common_name, serial), (pkcs8, pair)) in AUTHORITIES.iter().zip(keys.iter().zip(&pairs)) {
        let certificate =
            certificate::authority_certificate(&ark, *serial, common_name, validity, pair.public().as_ref());
        write_private(&home.join(format!("{file}.key")), pkcs8)?;
        write_private(&home.join(format!("{file}.der")), &certificate)?;
    }

    let vcek_key = new_p384_key()?;
    let pair = p384_key(&vcek_key)?;
    let product = Product::Milan;
    let point = pair.public_key().as_ref();
    let owner = certificate::VekOwner::Chip { hwid: product.hwid(point) };
    let contents = VekContents::new(product.name_of_vcek(), Tcb::of(product), validity_of_a_vcek(), &owner);
    let ask = NewAuthority { common_name: AUTHORITIES[1].1, key: &pairs[1] };
    write_private(&home.join("vcek.key"), &vcek_key)?;
    write_private(&home.join("vcek.der"), &contents.issue(&ask, point))?;
    write_private(&home.join("README"), README.as_bytes())
}

/// An RSA key as PKCS #8 DER. ring signs with RSA keys but does not make them.
pub(super) fn new_rsa_key(bits: u32) -> Result<Vec<u8>> {
    let bits = format!("rsa_keygen_bits:{bits}");
    let pem = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &bits], &[])?;
    openssl(&["pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], &pem)
}

pub(super) fn private_directory(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make directory {}", dir.display()))
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all().with_context(|| format!("write {}", path.display()))
}
