//! The documents of a host key: the host key's certificate, IBM's signing key, the authorities above it, and the
//! revocation lists of all three issuers, under a root of its own making. NOT HARDWARE.
//!
//! All of it is made by `openssl` in a directory that goes at once; no private key but the host's is kept.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use provenance::digest::Sha256Digest;

use super::super::openssl::openssl;
use super::machine::P521;

/// Names as IBM writes them, but for the unit of the authorities.
const IBM: &str = "/C=US/ST=New York/O=International Business Machines Corporation\
                   /CN=International Business Machines Corporation";

/// What `openssl x509` writes into each certificate, and what `openssl ca` needs to make a list.
const CONFIGURATION: &str = "
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[signing_key]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = codeSigning
[host_key]
keyUsage = critical, keyAgreement
[list]
database = DIRECTORY/index.txt
crlnumber = DIRECTORY/crlnumber
default_md = sha512
";

/// Documents about one host key, DER.
pub struct HostKeyDocuments {
    /// Certificate of the host key.
    pub document: Vec<u8>,
    /// Certificates of further host keys by the same signing key.
    pub others: Vec<Vec<u8>>,
    /// Signing key, intermediate authority and root.
    pub certificates: [Vec<u8>; 3],
    /// Revocation lists of the same three, valid for ten years, so that a machine may stay.
    pub crls: [Vec<u8>; 3],
    /// SHA-256 of the root's SPKI.
    pub root: Sha256Digest,
}

impl HostKeyDocuments {
    /// Makes the documents of a host key (some seconds).
    pub fn of(host_key: &P521) -> Result<Self> {
        Self::of_all(host_key, &[])
    }

    /// The same, and documents of other machines' host keys.
    pub fn of_all(host_key: &P521, others: &[&P521]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let maker = Maker { directory: directory.path() };
        fs::write(maker.path("index.txt")?, b"")?;
        // A list without a number is one of version 1.
        fs::write(maker.path("crlnumber")?, b"01\n")?;
        let configuration = CONFIGURATION.replace("DIRECTORY", &maker.path("")?);
        fs::write(maker.path("openssl.cnf")?, configuration)?;
        for name in ["root", "intermediate", "signing"] {
            maker.rsa_key(name)?;
        }
        fs::write(maker.path("host.key")?, host_key.pem())?;
        let root = maker.certificate("root", "root", "/L=Armonk/OU=Fixture Root", "authority")?;
        let intermediate =
            maker.certificate("intermediate", "root", "/L=Armonk/OU=Fixture Authority", "authority")?;
        let unit = "/L=Poughkeepsie/OU=IBM Z Host Key Signing Service";
        let signing = maker.certificate("signing", "intermediate", unit, "signing_key")?;
        let document = maker.certificate("host", "signing", "/L=Armonk/OU=IBM Z Host Key", "host_key")?;
        let other = |other: &&P521| {
            fs::write(maker.path("other.key")?, other.pem())?;
            maker.certificate("other", "signing", "/L=Armonk/OU=IBM Z Host Key", "host_key")
        };
        let others = others.iter().map(other).collect::<Result<_>>()?;
        let spki = openssl(&["pkey", "-in", &maker.path("root.key")?, "-pubout", "-outform", "DER"], &[])?;
        Ok(Self {
            document,
            others,
            certificates: [signing, intermediate, root],
            crls: [maker.list("signing")?, maker.list("intermediate")?, maker.list("root")?],
            root: Sha256Digest::of(&spki),
        })
    }
}

struct Maker<'a> {
    directory: &'a Path,
}

impl Maker<'_> {
    fn path(&self, name: &str) -> Result<String> {
        self.directory.join(name).to_str().map(str::to_owned).context("UTF-8")
    }

    fn rsa_key(&self, name: &str) -> Result<()> {
        let key = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], &[])?;
        fs::write(self.path(&format!("{name}.key"))?, key)?;
        Ok(())
    }

    /// A certificate of `name.key` by `issuer.key`, as DER; as PEM it stays in the directory.
    fn certificate(&self, name: &str, issuer: &str, subject: &str, section: &str) -> Result<Vec<u8>> {
        let key = self.path(&format!("{name}.key"))?;
        let request = openssl(&["req", "-new", "-key", &key, "-subj", &format!("{IBM}{subject}")], &[])?;
        let (issuer_key, issuer_pem) =
            (self.path(&format!("{issuer}.key"))?, self.path(&format!("{issuer}.pem"))?);
        let mut arguments = vec!["x509", "-req", "-sha512", "-days", "3650"];
        let configuration = self.path("openssl.cnf")?;
        arguments.extend(["-extfile", &configuration, "-extensions", section]);
        if issuer == name {
            arguments.extend(["-signkey", &issuer_key]);
        } else {
            arguments.extend(["-CA", &issuer_pem, "-CAkey", &issuer_key, "-CAcreateserial"]);
        }
        let pem = openssl(&arguments, &request)?;
        fs::write(self.path(&format!("{name}.pem"))?, &pem)?;
        openssl(&["x509", "-outform", "DER"], &pem)
    }

    /// An empty revocation list of `name`, as DER.
    fn list(&self, name: &str) -> Result<Vec<u8>> {
        let (key, pem) = (self.path(&format!("{name}.key"))?, self.path(&format!("{name}.pem"))?);
        let configuration = self.path("openssl.cnf")?;
        let mut arguments = vec!["ca", "-gencrl", "-config", &configuration, "-name", "list"];
        arguments.extend(["-crldays", "3650", "-keyfile", &key, "-cert", &pem]);
        openssl(&["crl", "-outform", "DER"], &openssl(&arguments, &[])?)
    }
}
