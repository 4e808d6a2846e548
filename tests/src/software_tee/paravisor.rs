//! A stand-in for Azure's paravisor (HCL) and its virtual TPM. **NOT HARDWARE**: byte-exact HCL reports and TPM quotes
//! over reports and quotes of the software TEE, with an attestation key made for the occasion.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use provenance::azure::{AzureEvidence, PCRS};
use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use verifier::azure::offset;

use super::tdx::{QuoteVersion, SoftwareTdx};
use super::{Chip, pki};

/// EV_NO_ACTION, EV_EFI_BOOT_SERVICES_APPLICATION and EV_SEPARATOR (TCG profile §10.4.1).
const EV_NO_ACTION: u32 = 3;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_SEPARATOR: u32 = 4;
/// TPM_ALG_SHA256.
const SHA256_ALGORITHM: u16 = 0x000b;
/// What started the TPM: PCR 0 begins with it.
const LOCALITY: u8 = 3;

/// An event of the boot: PCR, type, and the bytes that its digest is of.
pub type BootEvent = (u32, u32, &'static [u8]);

/// What was "measured" at boot.
const BOOT: [BootEvent; 6] = [
    (0, EV_SEPARATOR, b"NOT HARDWARE: firmware"),
    (7, EV_SEPARATOR, b"NOT HARDWARE: secure boot"),
    (4, EV_SEPARATOR, b"\0\0\0\0"),
    (4, EV_EFI_BOOT_SERVICES_APPLICATION, b"NOT HARDWARE: the guest's kernel and initial RAM disk"),
    (11, EV_SEPARATOR, b"NOT HARDWARE: command line"),
    (11, EV_SEPARATOR, b"NOT HARDWARE: command line"),
];

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A paravisor that has booted a guest.
pub struct SoftwareParavisor {
    key: RsaKeyPair,
    spki: Sha256Digest,
    runtime_data: Vec<u8>,
}

impl SoftwareParavisor {
    /// With a new attestation key. Needs `openssl`.
    pub fn new() -> Result<Self> {
        let pkcs8 = pki::new_rsa_key(2048)?;
        let key =
            RsaKeyPair::from_pkcs8(&pkcs8).map_err(|error| anyhow::anyhow!("RSA key of openssl: {error}"))?;
        let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(key.public());
        let runtime_data = format!(
            r#"{{"keys":[{{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"{}","n":"{}"}}],"user-data":"NOT HARDWARE"}}"#,
            URL_SAFE_NO_PAD.encode(&public.e),
            URL_SAFE_NO_PAD.encode(&public.n)
        )
        .into_bytes();
        let spki = Sha256Digest::of(&super::certificate::rsa_spki(key.public().as_ref()));
        Ok(Self { key, spki, runtime_data })
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the attestation key.
    #[must_use]
    pub fn attestation_key(&self) -> Sha256Digest {
        self.spki
    }

    /// What hardware has to report: SHA-256 of the runtime data, then zeros.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        let mut data = [0; 64];
        data[..32].copy_from_slice(&sha256(&self.runtime_data));
        ReportData(data)
    }

    /// Evidence of a guest on SEV-SNP.
    #[must_use]
    pub fn on_snp(&self, chip: &Chip, data: &ReportData) -> Evidence {
        self.on_snp_with(chip, data, |_| ())
    }

    /// The same, with the guest's TPM altered before it quotes.
    #[must_use]
    pub fn on_snp_with(&self, chip: &Chip, data: &ReportData, alter: impl FnOnce(&mut Tpm)) -> Evidence {
        let hardware = chip.evidence(&self.report_data(), |_| ());
        let parts = self.parts(&hardware.report, 2, Vec::new(), data, alter);
        Evidence { platform: Platform::AzSnp, report: parts.encode(), endorsements: hardware.endorsements }
    }

    /// Evidence of a guest on TDX.
    #[must_use]
    pub fn on_tdx(&self, td: &SoftwareTdx, data: &ReportData) -> Evidence {
        let quote = td.bare_evidence(QuoteVersion::V5, &self.report_data()).report;
        // Of the TD report only REPORTDATA is looked at.
        let mut td_report = vec![0x77; offset::RUNTIME_SIZE - offset::HARDWARE_REPORT];
        let at = offset::TD_REPORT_DATA - offset::HARDWARE_REPORT;
        td_report[at..at + 64].copy_from_slice(&self.report_data().0);
        let parts = self.parts(&td_report, 4, quote, data, |_| ());
        let endorsements = td.endorsements().encode();
        Evidence { platform: Platform::AzTdx, report: parts.encode(), endorsements }
    }

    fn parts(
        &self,
        hardware_report: &[u8],
        report_type: u32,
        td_quote: Vec<u8>,
        data: &ReportData,
        alter: impl FnOnce(&mut Tpm),
    ) -> AzureEvidence {
        let mut tpm = Tpm::booted(data);
        alter(&mut tpm);
        let quote = tpm.quote();
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &quote, &mut signature)
            .expect("the buffer is as long as the modulus");
        AzureEvidence {
            hcl_report: self.hcl_report(hardware_report, report_type),
            td_quote,
            quote,
            signature,
            pcrs: tpm.pcrs,
            event_log: tpm.event_log,
        }
    }

    fn hcl_report(&self, hardware_report: &[u8], report_type: u32) -> Vec<u8> {
        let length = |bytes: usize| u32::try_from(bytes).expect("short").to_le_bytes();
        let end = offset::RUNTIME_DATA + self.runtime_data.len();
        let mut report = vec![0; end.max(2600)];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        put(offset::SIGNATURE, b"HCLA");
        put(offset::VERSION, &length(2));
        put(offset::REPORT_SIZE, &length(end));
        put(offset::REQUEST_TYPE, &length(2));
        put(offset::HARDWARE_REPORT, hardware_report);
        put(offset::RUNTIME_SIZE, &length(end - offset::RUNTIME_SIZE));
        put(offset::RUNTIME_VERSION, &length(1));
        put(offset::REPORT_TYPE, &report_type.to_le_bytes());
        put(offset::HASH_TYPE, &length(1));
        put(offset::RUNTIME_DATA_SIZE, &length(self.runtime_data.len()));
        put(offset::RUNTIME_DATA, &self.runtime_data);
        report
    }
}

/// The virtual TPM of a guest, before it quotes.
#[derive(Debug, Clone)]
pub struct Tpm {
    /// What the guest wants quoted: SHA-256 of the report data.
    pub extra_data: Vec<u8>,
    /// Bit n selects PCR n.
    pub selected: u32,
    /// The SHA-256 bank.
    pub pcrs: [[u8; 32]; PCRS],
    /// The event log.
    pub event_log: Vec<u8>,
}

impl Tpm {
    /// After a boot, asked for these report data.
    fn booted(data: &ReportData) -> Self {
        Self {
            extra_data: sha256(&data.0).to_vec(),
            selected: 0x00ff_ffff,
            pcrs: pcrs(&BOOT),
            event_log: event_log(&BOOT),
        }
    }

    /// After another boot, whose log is there.
    pub fn boot(&mut self, events: &[BootEvent]) {
        self.pcrs = pcrs(events);
        self.event_log = event_log(events);
    }

    fn quote(&self) -> Vec<u8> {
        let selected: Vec<u8> = (0..PCRS)
            .filter(|index| self.selected & 1 << index != 0)
            .flat_map(|index| self.pcrs[index])
            .collect();
        let mut quote = 0xff54_4347_u32.to_be_bytes().to_vec();
        quote.extend(0x8018_u16.to_be_bytes());
        let mut sized = |bytes: &[u8], more: &[u8]| {
            quote.extend(u16::try_from(bytes.len()).expect("short").to_be_bytes());
            quote.extend(bytes);
            quote.extend(more);
        };
        // The signer's name; then clockInfo and firmwareVersion after extraData, and one selection of three bytes.
        sized(&[0; 34], &[]);
        let select = self.selected.to_le_bytes();
        let selection = [&[0; 17 + 8][..], &[0, 0, 0, 1, 0, 0x0b, 3], &select[..3]].concat();
        sized(&self.extra_data, &selection);
        sized(&sha256(&selected), &[]);
        quote
    }
}

/// The events of the usual boot.
#[must_use]
pub fn usual_boot() -> Vec<BootEvent> {
    BOOT.to_vec()
}

/// Digests of the usual boot's events of a PCR, each once.
#[must_use]
pub fn usual_digests(pcr: u32) -> Vec<[u8; 32]> {
    let mut digests: Vec<_> =
        BOOT.iter().filter(|(of, ..)| *of == pcr).map(|(_, _, data)| sha256(data)).collect();
    digests.dedup();
    digests
}

/// PCRs after the usual boot.
#[must_use]
pub fn usual_pcrs() -> [[u8; 32]; PCRS] {
    pcrs(&BOOT)
}

fn pcrs(events: &[BootEvent]) -> [[u8; 32]; PCRS] {
    let mut pcrs = [[0; 32]; PCRS];
    pcrs[17..=22].fill([0xff; 32]);
    pcrs[0][31] = LOCALITY;
    for (index, _, data) in events {
        let pcr = &mut pcrs[*index as usize];
        *pcr = sha256(&[pcr.as_slice(), &sha256(data)].concat());
    }
    pcrs
}

fn event_log(events: &[BootEvent]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
    let mut spec_id = b"Spec ID Event03\0".to_vec();
    spec_id.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    spec_id.extend(1_u32.to_le_bytes());
    spec_id.extend(SHA256_ALGORITHM.to_le_bytes());
    spec_id.extend(32_u16.to_le_bytes());
    spec_id.push(0);
    let mut log = 0_u32.to_le_bytes().to_vec();
    log.extend(EV_NO_ACTION.to_le_bytes());
    log.extend([0; 20]);
    log.extend(length(&spec_id));
    log.extend(spec_id);
    let mut event = |pcr: u32, kind: u32, digest: &[u8], data: &[u8]| {
        log.extend(pcr.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(SHA256_ALGORITHM.to_le_bytes());
        log.extend(digest);
        log.extend(length(data));
        log.extend(data);
    };
    event(0, EV_NO_ACTION, &[0; 32], &[b"StartupLocality\0".as_slice(), &[LOCALITY]].concat());
    for (pcr, kind, data) in events {
        event(*pcr, *kind, &sha256(data), data);
    }
    log
}
