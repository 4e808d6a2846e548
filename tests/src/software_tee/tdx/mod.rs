//! The TDX part of the software TEE. **NOT HARDWARE**: byte-exact quotes and everything that Intel says about the
//! platform, under a fixture root.
//!
//! The keys are generated once per directory. Certificates, TCB info, QE identity and revocation lists are made anew
//! whenever it is opened, valid for 30 days as Intel's are. The root is named by its key, so it stays the same.

pub mod event_log;
pub mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use enclave_keys::{Attester, AttesterError};
use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::instance::KeyOrigin;
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use verifier::policy::{ReferenceMeasurement, TdxReferenceMeasurements, TdxRegister};
use verifier::tdx::quote::{BODY_1_0_LEN, body};

use self::fixture::{Issued, Keys, Recipe, entry, sgx_entries, sgx_extension};
use super::{DANGEROUS_SOFTWARE_MEASUREMENT, pki};

/// Name of the keys' directory; another layout gets another name.
const DIRECTORY: &str = "tdx-fixture-pki-v1";
const README: &str =
    "Fixture keys of Sealwright's software TEE. NOT HARDWARE: whoever can read them can make any Evidence.\n";
const KEY_FILES: [&str; 5] = ["root.key", "pck-ca.key", "tcb-signing.key", "pck.key", "attestation.key"];

/// MRSEAM: what stands for the TDX module.
const SOFTWARE_MODULE: &[u8; 48] = b"NOT HARDWARE: Sealwright's stand-in for a module";

/// Version of a quote, with the body that Intel's Quoting Enclave gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuoteVersion {
    /// Version 4, TD 1.0 body.
    V4,
    /// Version 5, TD 1.5 body.
    V5,
}

/// A software TD and the platform that quotes it, whose keys lie in a directory. NOT HARDWARE.
pub struct SoftwareTdx {
    keys: Keys,
    issued: Issued,
    opened: Timestamp,
}

impl SoftwareTdx {
    /// Opens the fixture keys in `dir`, making them when they are not there, and has everything issued that ages.
    pub fn open(dir: &Path) -> Result<Self> {
        let keys = open_keys(dir)?;
        let opened = Timestamp::from_unix(super::now()).context("the clock")?;
        let issued = recipe(opened).issue(&keys);
        Ok(Self { keys, issued, opened })
    }

    /// The one that all tests of this repository share, below `target/`.
    pub fn shared() -> Result<Self> {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/software-tee"))
    }

    /// SHA-256 of the fixture root's SPKI, by which a policy names it under a `dangerous_…` key.
    #[must_use]
    pub fn root_spki_sha256(&self) -> Sha256Digest {
        self.keys.root_spki_sha256()
    }

    /// TCB info, QE identity and revocation lists, valid for 30 days.
    #[must_use]
    pub fn endorsements(&self) -> &TdxEndorsements {
        &self.issued.endorsements
    }

    /// The same from a recipe that a test has altered, under the same keys.
    #[must_use]
    pub fn altered_endorsements(&self, alter: impl FnOnce(&mut Recipe)) -> TdxEndorsements {
        let mut altered = recipe(self.opened);
        alter(&mut altered);
        altered.issue(&self.keys).endorsements
    }

    /// What a quote says, before it is signed: the body of the software TD over this report data.
    #[must_use]
    pub fn recipe(&self, version: QuoteVersion, data: &ReportData) -> Recipe {
        let mut recipe = recipe(self.opened);
        recipe.body[body::MRSEAM..][..48].copy_from_slice(SOFTWARE_MODULE);
        for (register, value) in registers() {
            recipe.body[register.offset()..][..48].copy_from_slice(&value);
        }
        recipe.body[body::REPORTDATA..][..64].copy_from_slice(&data.0);
        if version == QuoteVersion::V4 {
            recipe.version = 4;
            recipe.body.truncate(BODY_1_0_LEN);
        }
        recipe
    }

    /// A quote by a recipe that a test may have altered, signed with the platform's keys.
    #[must_use]
    pub fn quote(&self, recipe: &Recipe) -> Vec<u8> {
        recipe.quote(&self.keys, &self.issued.pck_chain)
    }

    /// What the kernel's interface gives, and so does the Attester: a quote and nothing beside it.
    #[must_use]
    pub fn bare_evidence(&self, version: QuoteVersion, data: &ReportData) -> Evidence {
        let report = self.quote(&self.recipe(version, data));
        Evidence { platform: Platform::Tdx, report, endorsements: vec![] }
    }
}

impl Attester for SoftwareTdx {
    fn platform(&self) -> Platform {
        Platform::Tdx
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn evidence(&self, data: &ReportData) -> Result<Evidence, AttesterError> {
        Ok(self.bare_evidence(QuoteVersion::V5, data))
    }
}

/// The platform: FMSPC abababababab, dynamic, keys cached, SMT on, as genuine ones are.
fn recipe(now: Timestamp) -> Recipe {
    let mut entries = sgx_entries();
    let flag = |id: u8| entry(&[7, id], fixture::der(0x01, &[0xff]));
    entries.push(entry(&[6], fixture::der(0x04, &[6; 16])));
    entries.push(entry(&[7], fixture::der(0x30, &[flag(1), flag(2), flag(3)].concat())));
    Recipe { sgx_extension: Some(sgx_extension(&entries)), ..Recipe::at(now) }
}

/// The software TD's registers: MRTD says what it is, RTMRs are what [`event_log::log`] replays to, the others are zero.
fn registers() -> [(TdxRegister, [u8; 48]); 8] {
    let rtmrs = event_log::registers();
    TdxRegister::ALL.map(|register| {
        let value = match register {
            TdxRegister::Mrtd => DANGEROUS_SOFTWARE_MEASUREMENT,
            TdxRegister::Rtmr0 => rtmrs[0],
            TdxRegister::Rtmr1 => rtmrs[1],
            TdxRegister::Rtmr2 => rtmrs[2],
            TdxRegister::Rtmr3 => rtmrs[3],
            _ => [0; 48],
        };
        (register, value)
    })
}

/// Reference Values of the software TD. Dangerous: they stand for no guest image at all.
#[must_use]
pub fn dangerous_measurements() -> TdxReferenceMeasurements {
    let [mrtd, mrconfigid, mrowner, mrownerconfig, rtmr0, rtmr1, rtmr2, rtmr3] =
        registers().map(|(_, value)| ReferenceMeasurement::from_bytes(value));
    TdxReferenceMeasurements { mrconfigid, mrowner, mrownerconfig, mrtd, rtmr0, rtmr1, rtmr2, rtmr3 }
}

/// Two processes may do so at the same time.
fn open_keys(dir: &Path) -> Result<Keys> {
    let home = dir.join(DIRECTORY);
    if !home.exists() {
        pki::private_directory(dir)?;
        let draft = tempfile::Builder::new()
            .prefix(&format!(".{DIRECTORY}-"))
            .tempdir_in(dir)
            .with_context(|| format!("make a directory in {}", dir.display()))?;
        let keys = Keys::generate(&rcgen::PKCS_ECDSA_P256_SHA256).to_pkcs8();
        for (file, key) in KEY_FILES.iter().zip(keys) {
            pki::write_private(&draft.path().join(file), &key)?;
        }
        pki::write_private(&draft.path().join("README"), README.as_bytes())?;
        let draft = draft.keep();
        if let Err(error) = fs::rename(&draft, &home) {
            fs::remove_dir_all(&draft)?;
            // Another process was faster; its keys are as good.
            ensure!(home.exists(), "rename {} to {}: {error}", draft.display(), home.display());
        }
    }
    read_keys(&home).with_context(|| format!("remove {} to have it made again", home.display()))
}

fn read_keys(home: &Path) -> Result<Keys> {
    let path = |file: &str| -> PathBuf { home.join(file) };
    let read = |file: &str| fs::read(path(file)).with_context(|| format!("read {}", path(file).display()));
    let [root, pck_ca, signer, pck, attestation] = KEY_FILES;
    let keys = [read(root)?, read(pck_ca)?, read(signer)?, read(pck)?, read(attestation)?];
    Keys::from_pkcs8(keys).context("a fixture key is damaged")
}
