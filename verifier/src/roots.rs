//! Roots of trust: vendor root keys by the SHA-256 of their SubjectPublicKeyInfo, built in; and others, which only
//! a policy key that begins with `dangerous_` can name.

use std::fmt;

use provenance::digest::Sha256Digest;

use crate::reliance::NamedVerifier;
use crate::snp::Product;

/// SHA-256 of the SPKI of AMD's root key (ARK) of each product, from the certificates that AMD's Key Distribution
/// Service publishes under `https://kdsintf.amd.com/vcek/v1/{product}/cert_chain`.
const AMD_ROOTS: [(Product, &str); 3] = [
    (Product::Milan, "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9"),
    (Product::Genoa, "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831"),
    (Product::Turin, "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08"),
];

/// SHA-256 of the SPKI of `Intel SGX Root CA`, from the certificate that Intel publishes under
/// `https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer`.
const INTEL_ROOT: &str = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e";

/// SHA-256 of the DER of these roots' certificates, as published in the same places. Their own signatures hold, so
/// nobody needs to compute them again; a certificate that differs in one bit is not among them.
const PUBLISHED_ROOTS: [[u8; 32]; 4] = [
    digest("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    digest("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    digest("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
    digest("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
];

/// The bytes of 64 lower-case hex digits.
const fn digest(text: &str) -> [u8; 32] {
    const fn value(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("not a lower-case hex digit"),
        }
    }
    let text = text.as_bytes();
    assert!(text.len() == 64, "not 64 digits");
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = value(text[2 * at]) << 4 | value(text[2 * at + 1]);
        at += 1;
    }
    bytes
}

/// Whether this DER is a root certificate that AMD or Intel published, bit by bit.
pub(crate) fn is_published_root(der: &[u8]) -> bool {
    PUBLISHED_ROOTS.contains(Sha256Digest::of(der).as_bytes())
}

/// A root that Evidence was traced to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// AMD's root key of this product.
    Amd(Product),
    /// Intel's root key for SGX and TDX.
    Intel,
    /// The root above IBM's keys that sign host key documents of Secure Execution.
    Ibm,
    /// A root that a policy named under `dangerous_roots`. What it endorses is NOT HARDWARE.
    Dangerous(Sha256Digest),
}

impl Root {
    /// Whether a vendor stands behind it.
    #[must_use]
    pub const fn is_hardware(&self) -> bool {
        matches!(self, Self::Amd(_) | Self::Intel | Self::Ibm)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amd(product) => write!(f, "AMD root {product}"),
            Self::Intel => f.write_str("Intel SGX root"),
            Self::Ibm => f.write_str("IBM's signing key under DigiCert Trusted Root G4"),
            Self::Dangerous(digest) => write!(f, "dangerous root {digest} (NOT HARDWARE)"),
        }
    }
}

/// The product whose vendor root has this SPKI digest.
#[must_use]
pub fn amd_root(spki_sha256: &Sha256Digest) -> Option<Product> {
    let hex = spki_sha256.hex();
    AMD_ROOTS.iter().find(|(_, digest)| *digest == hex).map(|(product, _)| *product)
}

/// Whether this is the SPKI digest of Intel's root key.
#[must_use]
pub fn is_intel_root(spki_sha256: &Sha256Digest) -> bool {
    spki_sha256.hex() == INTEL_ROOT
}

/// Whether certificate revocation lists are demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// A fresh CRL of the root must come with the Evidence or the endorsements.
    CrlRequired,
    /// A CRL that is there is believed about what it revokes, whatever its age; none need be there.
    CrlIfPresent,
}

/// The roots that Evidence may be traced to, and how revocation is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchors {
    amd: Vec<Product>,
    intel: bool,
    ibm: bool,
    dangerous: Vec<Sha256Digest>,
    verifiers: Vec<NamedVerifier>,
    revocation: Revocation,
}

impl Anchors {
    /// AMD's roots of these products only.
    #[must_use]
    pub fn vendor(amd: &[Product], revocation: Revocation) -> Self {
        Self {
            amd: amd.to_vec(),
            intel: false,
            ibm: false,
            dangerous: Vec::new(),
            verifiers: Vec::new(),
            revocation,
        }
    }

    /// With Intel's root.
    #[must_use]
    pub fn with_intel(mut self) -> Self {
        self.intel = true;
        self
    }

    /// With the root above IBM's signing keys.
    #[must_use]
    pub fn with_ibm(mut self) -> Self {
        self.ibm = true;
        self
    }

    /// With Verifiers whose Attestation Results count.
    #[must_use]
    pub fn with_verifiers(mut self, verifiers: &[NamedVerifier]) -> Self {
        self.verifiers = verifiers.to_vec();
        self
    }

    /// With roots that no vendor stands behind. Evidence under them says nothing about hardware.
    #[must_use]
    pub fn dangerous_with_roots(mut self, roots: &[Sha256Digest]) -> Self {
        self.dangerous = roots.to_vec();
        self
    }

    /// AMD's roots accepted.
    #[must_use]
    pub fn amd(&self) -> &[Product] {
        &self.amd
    }

    /// Whether Intel's root is accepted.
    #[must_use]
    pub fn accepts_intel(&self) -> bool {
        self.intel
    }

    /// Whether the root above IBM's signing keys is accepted.
    #[must_use]
    pub fn accepts_ibm(&self) -> bool {
        self.ibm
    }

    /// Verifiers whose Attestation Results count.
    #[must_use]
    pub fn verifiers(&self) -> &[NamedVerifier] {
        &self.verifiers
    }

    /// The roots accepted that are not a vendor's.
    #[must_use]
    pub fn dangerous(&self) -> &[Sha256Digest] {
        &self.dangerous
    }

    /// How revocation is judged.
    #[must_use]
    pub fn revocation(&self) -> Revocation {
        self.revocation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_called_by_its_vendor_and_one_of_nobody_is_not_hardware() {
        let nobody = Sha256Digest::of(b"a root");
        for (root, words) in [
            (Root::Amd(Product::Milan), "AMD root Milan".to_owned()),
            (Root::Intel, "Intel SGX root".to_owned()),
            (Root::Ibm, "IBM's signing key under DigiCert Trusted Root G4".to_owned()),
            (Root::Dangerous(nobody), format!("dangerous root {nobody} (NOT HARDWARE)")),
        ] {
            assert_eq!((root.to_string(), root.is_hardware()), (words, root != Root::Dangerous(nobody)));
        }
    }
}
