//! A guest of the software Ultravisor, whose machine lies in a directory. NOT HARDWARE.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use client::endorsements::pem;
use enclave_keys::{
    Attester, AttesterError, ChallengeKind, RootKind, RootMeasurement, SealedUnder, SealingRoot,
};
use provenance::binding::ReportData;
use provenance::challenge::AttestationRequest;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::frame::FrameWriter;
use provenance::instance::KeyOrigin;
use provenance::se_exchange::ExchangeResponse;
use provenance::secure_execution::SecureExecutionEvidence;
use zeroize::Zeroizing;

use super::fixture::image_header;
use super::host_keys::HostKeyDocuments;
use super::{P521, SoftwareUltravisor};
use crate::software_tee::pki::private_directory;

/// Name of the machine's directory; another layout gets another name.
const DIRECTORY: &str = "se-fixture-machine-v1";
/// What the digests in the image's header repeat. Dangerous: it stands for no image at all.
const DANGEROUS_IMAGE: u8 = b'!';
/// Return code of the Ultravisor for a request that does not open.
const BAD_REQUEST: u16 = 0x010a;

/// The only guest of a made-up machine.
pub struct SoftwareSe {
    ultravisor: SoftwareUltravisor,
    /// What IBM would say about the machine.
    pub documents: HostKeyDocuments,
}

impl SoftwareSe {
    /// Opens the machine in `dir`, making it when it is not there (some seconds, needs `openssl`).
    pub fn open(dir: &Path) -> Result<Self> {
        let directory = dir.join(DIRECTORY);
        if !directory.is_dir() {
            make(dir, &directory)?;
        }
        let host_key = P521::from_pem(read(&directory, "host.key")?)?;
        let mut ultravisor = SoftwareUltravisor::new(&image_header(DANGEROUS_IMAGE))?;
        ultravisor.host_key = host_key;
        Ok(Self { ultravisor, documents: read_documents(&directory)? })
    }

    /// The one that all tests of this repository share, below `target/`.
    pub fn shared() -> Result<Self> {
        Self::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/software-tee"))
    }

    /// The machine.
    #[must_use]
    pub fn ultravisor(&self) -> &SoftwareUltravisor {
        &self.ultravisor
    }

    /// Header of the guest's image.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.ultravisor.header
    }

    /// Writes what IBM would say about the machine into a folder, as `--host-key-documents` takes it.
    pub fn write_documents(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let text = |label: &str, all: &[Vec<u8>]| {
            all.iter().map(|der| pem::block(label, der)).collect::<Vec<_>>().concat()
        };
        let HostKeyDocuments { document, certificates, crls, .. } = &self.documents;
        fs::write(folder.join("host-key.pem"), pem::block("CERTIFICATE", document))?;
        fs::write(folder.join("certificates.pem"), text("CERTIFICATE", certificates))?;
        fs::write(folder.join("revocation-lists.pem"), text("X509 CRL", crls))?;
        Ok(())
    }

    /// Everybody who reads the fixture's files can know it.
    fn root(&self) -> SealingRoot {
        let header = Sha256Digest::of(self.header());
        let key = FrameWriter::new("NOT HARDWARE: sealing root")
            .framed(self.ultravisor.host_key.pem())
            .framed(header.as_bytes())
            .finish();
        let under = SealedUnder {
            guest_policy: None,
            kind: RootKind::DangerousSoftware,
            measurement: RootMeasurement::from_bytes(header.as_bytes()).expect("32 bytes"),
            platform: Platform::SecureExecution,
            tcb: None,
        };
        SealingRoot::new(Zeroizing::new(*Sha256Digest::of(&key).as_bytes()), under)
    }
}

/// Makes the machine beside its place first, so that it is there in full or not at all.
fn make(dir: &Path, directory: &Path) -> Result<()> {
    private_directory(dir)?;
    let new = tempfile::tempdir_in(dir)?;
    let host_key = P521::generate()?;
    let HostKeyDocuments { document, certificates, crls, root, .. } = HostKeyDocuments::of(&host_key)?;
    let write = |name: &str, bytes: &[u8]| fs::write(new.path().join(name), bytes);
    write("host.key", host_key.pem())?;
    write("document.der", &document)?;
    for (index, (certificate, crl)) in certificates.iter().zip(&crls).enumerate() {
        write(&format!("certificate-{index}.der"), certificate)?;
        write(&format!("list-{index}.der"), crl)?;
    }
    write("root", root.hex().as_bytes())?;
    match fs::rename(new.path(), directory) {
        // Somebody else was faster.
        Err(_) if directory.is_dir() => Ok(()),
        other => other.with_context(|| format!("make {}", directory.display())),
    }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path: PathBuf = directory.join(name);
    fs::read(&path).with_context(|| format!("read {}", path.display()))
}

fn read_documents(directory: &Path) -> Result<HostKeyDocuments> {
    let three = |name: &str| -> Result<[Vec<u8>; 3]> {
        let of = |index: u8| read(directory, &format!("{name}-{index}.der"));
        Ok([of(0)?, of(1)?, of(2)?])
    };
    let root = String::from_utf8(read(directory, "root")?)?;
    ensure!(root.len() == 64, "the root's digest has 64 digits");
    Ok(HostKeyDocuments {
        document: read(directory, "document.der")?,
        others: Vec::new(),
        certificates: three("certificate")?,
        crls: three("list")?,
        root: Sha256Digest::from_hex(&root)?,
    })
}

impl Attester for SoftwareSe {
    fn platform(&self) -> Platform {
        Platform::SecureExecution
    }

    fn key_origin(&self) -> KeyOrigin {
        KeyOrigin::DangerousSoftware
    }

    fn sealing_root(&self) -> Result<Option<SealingRoot>, AttesterError> {
        Ok(Some(self.root()))
    }

    fn evidence(&self, _: &ReportData) -> Result<Evidence, AttesterError> {
        let wanted = ChallengeKind::AttestationRequest;
        Err(AttesterError::Challenge { platform: Platform::SecureExecution, wanted })
    }

    fn answer_request(
        &self,
        request: &AttestationRequest,
        data: &ReportData,
    ) -> Result<Evidence, AttesterError> {
        let request = request.parts().request();
        let answer = self.ultravisor.attest(request, &data.0).map_err(|_| AttesterError::Ultravisor {
            path: "the software Ultravisor".into(),
            call: "attest",
            code: BAD_REQUEST,
            reason: 0,
        })?;
        let response = ExchangeResponse::new(
            request,
            &answer.measurement,
            &answer.additional_data,
            &data.0,
            &answer.config_uid,
        )?;
        let evidence = SecureExecutionEvidence { response: response.encode(), header: vec![] };
        let report = evidence.encode();
        Ok(Evidence { platform: Platform::SecureExecution, report, endorsements: vec![] })
    }
}
