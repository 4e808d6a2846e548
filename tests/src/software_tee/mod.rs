//! The software TEE. **NOT HARDWARE**: it emits byte-exact SEV-SNP reports, and in [`tdx`] TDX quotes, under a fixture
//! root of its own making, so that everything around the hardware can be developed and tested without it. No shipped
//! crate can reach it, and no shipped policy trusts its root.

mod certificate;
pub mod fake_devices;
pub mod fake_kernel;
mod openssl;
pub mod paravisor;
mod pki;
mod report;
mod scripted;
pub mod se;
pub mod sev_guest;
pub mod tdx;
pub mod ultravisor;

use std::path::Path;

use anyhow::Result;
use enclave_keys::{Attester, AttesterError, RootKind, RootMeasurement, SealedUnder, SealingRoot};
use provenance::binding::ReportData;
use provenance::digest::{Sha256Digest, sha512};
use provenance::evidence::{Evidence, Platform, certificate_table};
use provenance::frame::FrameWriter;
use provenance::instance::KeyOrigin;
use provenance::timestamp::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

pub use certificate::{FIXTURE_ORGANISATION, Validity, VekContents, VekOwner};
pub use report::{REPORT_LEN, ReportFields, SIGNATURE_PART_LEN, SIGNED_LEN};
pub use scripted::ScriptedTee;

use certificate::Issuer;
use pki::FixturePki;

/// Launch measurement of the software TEE. Dangerous: it stands for no guest image at all, so a policy that
/// accepts it accepts whatever the fixture keys sign.
pub const DANGEROUS_SOFTWARE_MEASUREMENT: [u8; 48] = *b"NOT HARDWARE: Sealwright software TEE, dangerous";

const DAY: i64 = 86_400;

fn timestamp(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a constant")
}

fn now() -> i64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since_epoch.expect("the clock is after 1970").as_secs()).expect("the clock is before 9999")
}

fn days_from_now(from: i64, to: i64) -> Validity {
    let day = |days: i64| Timestamp::from_unix(now() + days * DAY).expect("near now");
    Validity { not_before: day(from), not_after: day(to) }
}

/// Seven years, as AMD gives.
fn validity_of_a_vcek() -> Validity {
    days_from_now(-1, 7 * 365)
}

/// Serial number of the ASK certificate.
pub const ASK_SERIAL: u32 = 0x10001;

/// A generation of processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// Zen 3, report version 3 here.
    Milan,
    /// Zen 4, report version 3 here.
    Genoa,
    /// Zen 5, report version 5 here, other TCB layout, chip id of 8 bytes.
    Turin,
}

impl Product {
    fn name_of_vcek(self) -> &'static str {
        match self {
            Self::Milan => "Milan-B0",
            Self::Genoa => "Genoa-B1",
            Self::Turin => "Turin",
        }
    }

    fn name_of_vlek(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The made-up chip whose VCEK has this point.
    fn hwid(self, point: &[u8]) -> Vec<u8> {
        let id = sha512(&[b"NOT HARDWARE chip id", point].concat());
        if self == Self::Turin { id[..8].to_vec() } else { id.to_vec() }
    }
}

/// Security versions of a chip's firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcb {
    /// FMC; on Turin only.
    pub fmc: Option<u8>,
    /// Boot loader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Tcb {
    /// What the fixture chips of a product run.
    #[must_use]
    pub fn of(product: Product) -> Self {
        match product {
            Product::Milan => Self { fmc: None, bootloader: 4, tee: 0, snp: 0x18, microcode: 0xdb },
            Product::Genoa => Self { fmc: None, bootloader: 0x0a, tee: 0, snp: 0x17, microcode: 0x54 },
            Product::Turin => Self { fmc: Some(1), bootloader: 1, tee: 1, snp: 4, microcode: 0x51 },
        }
    }

    /// TCB_VERSION as it stands in a report (SEV-SNP ABI table 3; Turin's layout begins with FMC).
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        match self.fmc {
            None => [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode],
            Some(fmc) => [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode],
        }
    }
}

/// A made-up chip: it signs reports with its own VCEK, or with a VLEK.
pub struct Chip {
    key: EcdsaKeyPair,
    product: Product,
    tcb: Tcb,
    measurement: [u8; 48],
    /// What sealing roots of this chip come from.
    secret: Sha256Digest,
    vlek: bool,
    /// Certificate of the key, DER.
    pub certificate: Vec<u8>,
    /// The chain above it: ASK or ASVK, then ARK.
    chain: [Vec<u8>; 2],
}

/// A software TEE whose keys lie in a directory. NOT HARDWARE.
pub struct SoftwareTee {
    pki: FixturePki,
    chip: Chip,
}

impl SoftwareTee {
    /// Opens the fixture PKI in `dir`, making it when it is not there (some seconds, needs `openssl`).
    pub fn open(dir: &Path) -> Result<Self> {
        let pki = FixturePki::open(dir)?;
        let chip = Chip {
            key: pki.chip_key()?,
            product: Product::Milan,
            tcb: Tcb::of(Product::Milan),
            measurement: DANGEROUS_SOFTWARE_MEASUREMENT,
            secret: pki.chip_secret(),
            vlek: false,
            certificate: pki.vcek.clone(),
            chain: [pki.ask.certificate.clone(), pki.ark.certificate.clone()],
        };
        Ok(Self { pki, chip })
    }

    /// The same chip with firmware of another TCB. Real chips have another VCEK for each TCB; here it is another
    /// certificate of the same key.
    pub fn with_tcb(mut self, tcb: Tcb) -> Result<Self> {
        let chip = &mut self.chip;
        let point = chip.key.public_key().as_ref();
        let owner = VekOwner::Chip { hwid: chip.product.hwid(point) };
        let contents = VekContents::new(chip.product.name_of_vcek(), tcb, validity_of_a_vcek(), &owner);
        chip.certificate = contents.issue(&self.pki.ask, point);
        chip.tcb = tcb;
        Ok(self)
    }

    /// Another certificate of the persistent chip's key, DER.
    pub fn reissued(&self, alter: impl FnOnce(&mut VekContents)) -> Vec<u8> {
        let Chip { key, product, tcb, .. } = &self.chip;
        let point = key.public_key().as_ref();
        let owner = VekOwner::Chip { hwid: product.hwid(point) };
        let mut contents = VekContents::new(product.name_of_vcek(), *tcb, validity_of_a_vcek(), &owner);
        alter(&mut contents);
        contents.issue(&self.pki.ask, point)
    }

    /// The same chip with another guest on it.
    #[must_use]
    pub fn with_measurement(mut self, measurement: [u8; 48]) -> Self {
        self.chip.measurement = measurement;
        self
    }

    /// The one that all tests of this repository share, below `target/`.
    pub fn shared() -> Result<Self> {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/software-tee"))
    }

    /// The fixture root (ARK), DER.
    #[must_use]
    pub fn root_certificate(&self) -> &[u8] {
        &self.pki.ark.certificate
    }

    /// SHA-256 of the fixture root's SPKI, by which a policy names it under a `dangerous_…` key.
    #[must_use]
    pub fn root_spki_sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&self.pki.ark.spki())
    }

    /// A revocation list of the fixture root; `updates` is thisUpdate to nextUpdate.
    #[must_use]
    pub fn revocation_list(&self, revoked: &[u32], updates: Validity) -> Vec<u8> {
        certificate::revocation_list(&self.pki.ark, revoked, updates)
    }

    /// The same, but signed by the ASK, which may not.
    #[must_use]
    pub fn revocation_list_of_the_ask(&self, revoked: &[u32], updates: Validity) -> Vec<u8> {
        certificate::revocation_list(&self.pki.ask, revoked, updates)
    }

    /// Another ASK and another ARK of the same names, under keys of their own, DER.
    pub fn impostors(&self) -> Result<[Vec<u8>; 2]> {
        pki::impostors()
    }

    /// The persistent Milan chip with its VCEK.
    #[must_use]
    pub fn chip(&self) -> &Chip {
        &self.chip
    }

    /// A new chip of a product with a VCEK; `alter` may change the certificate before it is issued.
    pub fn new_chip(&self, product: Product, tcb: Tcb, alter: impl FnOnce(&mut VekContents)) -> Result<Chip> {
        self.new_vek(product, tcb, false, alter)
    }

    /// A new VLEK for chips of a product.
    pub fn new_vlek(&self, product: Product, tcb: Tcb, alter: impl FnOnce(&mut VekContents)) -> Result<Chip> {
        self.new_vek(product, tcb, true, alter)
    }

    fn new_vek(
        &self,
        product: Product,
        tcb: Tcb,
        vlek: bool,
        alter: impl FnOnce(&mut VekContents),
    ) -> Result<Chip> {
        let pkcs8 = pki::new_p384_key()?;
        let key = pki::p384_key(&pkcs8)?;
        let point = key.public_key().as_ref();
        let (issuer, name, validity, owner) = if vlek {
            let owner = VekOwner::Provider { csp_id: "CN=not-hardware.example".to_owned() };
            (&self.pki.asvk, product.name_of_vlek(), days_from_now(-1, 364), owner)
        } else {
            let owner = VekOwner::Chip { hwid: product.hwid(point) };
            (&self.pki.ask, product.name_of_vcek(), validity_of_a_vcek(), owner)
        };
        let mut contents = VekContents::new(name, tcb, validity, &owner);
        alter(&mut contents);
        let certificate = contents.issue(issuer as &dyn Issuer, point);
        let chain = [issuer.certificate.clone(), self.pki.ark.certificate.clone()];
        let (secret, measurement) = (Sha256Digest::of(&pkcs8), DANGEROUS_SOFTWARE_MEASUREMENT);
        Ok(Chip { key, product, tcb, measurement, secret, vlek, certificate, chain })
    }
}

impl Chip {
    /// Launch measurement of the guest on it.
    #[must_use]
    pub fn measurement(&self) -> [u8; 48] {
        self.measurement
    }

    /// What the chip reports about the software TEE over this report data.
    #[must_use]
    pub fn fields(&self, data: &ReportData) -> ReportFields {
        let mut chip_id = [0; 64];
        let hwid = self.product.hwid(self.key.public_key().as_ref());
        chip_id[..hwid.len()].copy_from_slice(&hwid);
        let mut fields = ReportFields::of(self.product, self.tcb, chip_id, self.vlek);
        fields.report_data = data.0;
        fields.measurement = self.measurement;
        fields
    }

    /// What the firmware would derive for this guest on this chip. Everybody who reads the fixture's files can know it.
    #[must_use]
    pub fn sealing_root(&self) -> SealingRoot {
        let fields = self.fields(&ReportData([0; 64]));
        let key = FrameWriter::new("NOT HARDWARE: sealing root")
            .framed(self.secret.as_bytes())
            .framed(&fields.policy.to_le_bytes())
            .framed(&fields.measurement)
            .framed(&fields.committed_tcb)
            .finish();
        let under = SealedUnder {
            guest_policy: Some(fields.policy),
            kind: RootKind::DangerousSoftware,
            measurement: RootMeasurement::from_bytes(&fields.measurement).expect("48 bytes"),
            platform: Platform::SevSnp,
            tcb: Some(fields.committed_tcb),
        };
        SealingRoot::new(Zeroizing::new(*Sha256Digest::of(&key).as_bytes()), under)
    }

    /// A whole report over these bytes, whatever they are: signature R and S little-endian at 0x2a0 and 0x2e8.
    #[must_use]
    pub fn sign(&self, signed: &[u8; SIGNED_LEN]) -> Vec<u8> {
        let signature =
            self.key.sign(&SystemRandom::new(), signed).expect("the operating system gives random bytes");
        let (r, s) = signature.as_ref().split_at(48);
        let mut report = vec![0; REPORT_LEN];
        report[..SIGNED_LEN].copy_from_slice(signed);
        for (offset, part) in [(SIGNED_LEN, r), (SIGNED_LEN + SIGNATURE_PART_LEN, s)] {
            for (at, byte) in part.iter().rev().enumerate() {
                report[offset + at] = *byte;
            }
        }
        report
    }

    /// Evidence over report data with some fields altered before signing.
    #[must_use]
    pub fn evidence(&self, data: &ReportData, alter: impl FnOnce(&mut ReportFields)) -> Evidence {
        let mut fields = self.fields(data);
        alter(&mut fields);
        Evidence {
            platform: Platform::SevSnp,
            report: self.sign(&fields.encode()),
            endorsements: self.endorsements(),
        }
    }

    /// The GHCB certificate table: VCEK or VLEK, ASK or ASVK, ARK.
    #[must_use]
    pub fn endorsements(&self) -> Vec<u8> {
        let own = if self.vlek { certificate_table::VLEK } else { certificate_table::VCEK };
        certificate_table::encode(&[
            (own, &self.certificate),
            (certificate_table::ASK, &self.chain[0]),
            (certificate_table::ARK, &self.chain[1]),
        ])
    }
}

impl Attester for Chip {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        Ok(Some(Chip::sealing_root(self)))
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        Ok(Chip::evidence(self, data, |_| ()))
    }
}

impl Attester for SoftwareTee {
    fn platform(&self) -> Platform {
        Platform::SevSnp
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        Attester::sealing_root(&self.chip)
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        Attester::evidence(&self.chip, data)
    }
}
