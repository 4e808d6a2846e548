//! A time-stamping authority made with `openssl`: a root, an intermediate and signing certificates of a test's own
//! choice; timestamps by `openssl ts`, and for what that refuses to make, by `openssl cms` over contents given.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::timestamp::Timestamp;
use tempfile::TempDir;

/// extendedKeyUsage of a proper signing certificate.
pub const PROPER_PURPOSE: &str = "extendedKeyUsage=critical,timeStamping";
/// keyUsage of a proper signing certificate.
pub const PROPER_USAGE: &str = "keyUsage=critical,digitalSignature";
/// OID of TSTInfo.
const TST_INFO: &str = "1.2.840.113549.1.9.16.1.4";

/// A kind of key, as `openssl genpkey` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA.
    P256,
    /// ECDSA.
    P384,
    /// RSA of 2048 bits.
    Rsa,
}

impl KeyKind {
    const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::P256 => ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::Rsa => ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        }
    }
}

/// An authority with a root and an intermediate, in a directory of its own.
pub struct TimestampAuthority {
    dir: TempDir,
    /// Tests share an authority, and openssl's files have fixed names.
    busy: Mutex<()>,
}

/// A certificate of the authority and its key.
#[derive(Debug, Clone)]
pub struct Signer {
    certificate: PathBuf,
    key: PathBuf,
    digest: &'static str,
}

impl Signer {
    /// Paths of certificate and key.
    #[must_use]
    pub fn files(&self) -> (String, String) {
        (self.certificate.display().to_string(), self.key.display().to_string())
    }
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("openssl").current_dir(dir).args(arguments).output().context("run openssl")?;
    if !output.status.success() {
        bail!("openssl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

impl TimestampAuthority {
    /// A new one. The intermediate may have no authority below it, and the root one.
    pub fn new() -> Result<Self> {
        let authority = Self { dir: TempDir::new()?, busy: Mutex::new(()) };
        let configuration = "[tsa]\ndefault_tsa = it\n[it]\nserial = serial\nsigner_digest = sha256\n\
            default_policy = 1.2.3.4.1\ndigests = sha256, sha384, sha512, sha1\naccuracy = secs:1, millisecs:500\n\
            ordering = no\ntsa_name = no\ness_cert_id_chain = no\ness_cert_id_alg = sha256\n";
        fs::write(authority.path("tsa.conf"), configuration)?;
        fs::write(authority.path("serial"), "01\n")?;
        authority.key("root", KeyKind::P256)?;
        openssl(
            authority.dir.path(),
            &[
                "req",
                "-x509",
                "-new",
                "-key",
                "root.key",
                "-sha256",
                "-days",
                "7300",
                "-out",
                "root.pem",
                "-subj",
                "/CN=NOT A TRUSTED AUTHORITY: root",
                "-addext",
                "keyUsage=critical,keyCertSign",
            ],
        )?;
        authority.certificate(
            "intermediate",
            KeyKind::P384,
            "root",
            3650,
            &["basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"],
        )?;
        Ok(authority)
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self, name: &str, kind: KeyKind) -> Result<()> {
        let file = format!("{name}.key");
        let [a, b, c, d] = kind.arguments();
        openssl(self.dir.path(), &["genpkey", a, b, c, d, "-out", &file]).map(|_| ())
    }

    /// Makes `name.key` and `name.pem`, issued by `issuer` for so many days from now.
    fn certificate(
        &self,
        name: &str,
        kind: KeyKind,
        issuer: &str,
        days: u32,
        extensions: &[&str],
    ) -> Result<()> {
        self.key(name, kind)?;
        let file = |ending: &str| format!("{name}.{ending}");
        let subject = format!("/CN=NOT A TRUSTED AUTHORITY: {name}");
        let dir = self.dir.path();
        openssl(dir, &["req", "-new", "-key", &file("key"), "-subj", &subject, "-out", &file("csr")])?;
        fs::write(self.path(&file("ext")), extensions.join("\n") + "\nsubjectKeyIdentifier=hash\n")?;
        let (issuer_pem, issuer_key) = (format!("{issuer}.pem"), format!("{issuer}.key"));
        openssl(
            dir,
            &[
                "x509",
                "-req",
                "-in",
                &file("csr"),
                "-CA",
                &issuer_pem,
                "-CAkey",
                &issuer_key,
                "-sha256",
                "-days",
                &days.to_string(),
                "-CAcreateserial",
                "-extfile",
                &file("ext"),
                "-out",
                &file("pem"),
            ],
        )?;
        Ok(())
    }

    /// A signing certificate below `issuer` (`root` or `intermediate`), with these extensions.
    pub fn signer_with(
        &self,
        name: &str,
        kind: KeyKind,
        issuer: &str,
        days: u32,
        extensions: &[&str],
    ) -> Result<Signer> {
        let alone = self.alone();
        self.certificate(name, kind, issuer, days, extensions)?;
        drop(alone);
        let digest = if kind == KeyKind::P384 { "-sha384" } else { "-sha256" };
        Ok(Signer {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            digest,
        })
    }

    /// A proper signing certificate below the intermediate.
    pub fn signer(&self, kind: KeyKind) -> Result<Signer> {
        let name = format!("signer {kind:?}").replace(' ', "-").to_lowercase();
        self.signer_with(&name, kind, "intermediate", 3650, &[PROPER_PURPOSE, PROPER_USAGE])
    }

    /// Keeps a certificate of another authority under a name, for [`Self::sign_with`].
    pub fn adopt(&self, name: &str, pem: &str) -> Result<()> {
        Ok(fs::write(self.path(&format!("{name}.pem")), pem)?)
    }

    /// PEM of a certificate by name: `root`, `intermediate`.
    pub fn pem(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.path(&format!("{name}.pem")))?)
    }

    /// DER of a certificate.
    pub fn der(&self, name: &str) -> Result<Vec<u8>> {
        let pem = self.pem(name)?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        STANDARD.decode(body).context("PEM")
    }

    /// A timestamp of now by `openssl ts` over a digest in hex, as a TimeStampResp. `hash` is `-sha256` and the like.
    pub fn stamp(&self, signer: &Signer, hash: &str, digest: &str) -> Result<Vec<u8>> {
        let _alone = self.alone();
        let dir = self.dir.path();
        openssl(dir, &["ts", "-query", "-digest", digest, hash, "-cert", "-out", "query.tsq"])?;
        let (certificate, key) = signer.files();
        openssl(
            dir,
            &[
                "ts",
                "-reply",
                "-config",
                "tsa.conf",
                "-queryfile",
                "query.tsq",
                "-signer",
                &certificate,
                "-inkey",
                &key,
                "-chain",
                "intermediate.pem",
                signer.digest,
                "-out",
                "reply.tsr",
            ],
        )?;
        Ok(fs::read(self.path("reply.tsr"))?)
    }

    /// A TimeStampResp over TSTInfo that a test made, with the intermediate's certificate. `more` are further arguments of
    /// `openssl cms -sign`.
    pub fn sign(&self, signer: &Signer, info: &[u8], more: &[&str]) -> Result<Vec<u8>> {
        self.sign_with(signer, info, &["intermediate"], more)
    }

    /// The same with these certificates beside the signer's.
    pub fn sign_with(&self, signer: &Signer, info: &[u8], others: &[&str], more: &[&str]) -> Result<Vec<u8>> {
        let _alone = self.alone();
        let others = others.iter().map(|name| self.pem(name)).collect::<Result<String>>()?;
        fs::write(self.path("others.pem"), others)?;
        fs::write(self.path("info.der"), info)?;
        let (certificate, key) = signer.files();
        let md = signer.digest.trim_start_matches('-');
        let mut arguments = vec![
            "cms",
            "-sign",
            "-binary",
            "-nodetach",
            "-nosmimecap",
            "-econtent_type",
            TST_INFO,
            "-in",
            "info.der",
            "-outform",
            "DER",
            "-md",
            md,
            "-signer",
            &certificate,
            "-inkey",
            &key,
            "-certfile",
            "others.pem",
        ];
        arguments.extend_from_slice(more);
        let content = openssl(self.dir.path(), &arguments)?;
        Ok(response(0, &content))
    }
}

/// DER of a tag and contents, up to 64 KiB.
#[must_use]
pub fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        length @ 0..0x80 => out.push(length as u8),
        length @ 0x80..0x100 => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(contents);
    out
}

/// TimeStampResp of a status and a token.
#[must_use]
pub fn response(status: u8, token: &[u8]) -> Vec<u8> {
    let status = der(0x30, &der(0x02, &[status]));
    der(0x30, &[status.as_slice(), token].concat())
}

/// What a TSTInfo says. Tests change fields.
#[derive(Debug, Clone)]
pub struct Info {
    /// Version.
    pub version: u8,
    /// DER of the hash's AlgorithmIdentifier.
    pub hash: Vec<u8>,
    /// The imprint.
    pub imprint: Vec<u8>,
    /// genTime, such as `20261122010203Z`.
    pub time: String,
    /// DER of what follows genTime.
    pub rest: Vec<u8>,
}

impl Info {
    /// Over a SHA-256 imprint, of this time.
    #[must_use]
    pub fn new(imprint: &[u8], time: Timestamp) -> Self {
        let digits: String = time.to_string().chars().filter(char::is_ascii_digit).collect();
        let sha256 = [0x30, 0x0b, 6, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 1];
        Self {
            version: 1,
            hash: sha256.to_vec(),
            imprint: imprint.to_vec(),
            time: format!("{digits}Z"),
            rest: Vec::new(),
        }
    }

    /// DER.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let imprint = der(0x30, &[self.hash.clone(), der(0x04, &self.imprint)].concat());
        let contents = [
            der(0x02, &[self.version]),
            der(0x06, &[0x2a, 3, 4, 1]),
            imprint,
            der(0x02, &[7]),
            der(0x18, self.time.as_bytes()),
            self.rest.clone(),
        ];
        der(0x30, &contents.concat())
    }
}
