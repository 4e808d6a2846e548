//! Evidence from behind Azure's paravisor as it travels in the bundle.
//!
//! `F("sealwright/azure-evidence/v1") ‖ F(HCL report) ‖ F(TDX quote) ‖ F(TPM quote) ‖ F(signature) ‖ 24 × 32 ‖ F(event
//! log)`: the 24 values are the SHA-256 bank of PCRs. The TDX quote is there on TDX only; the event log may be empty.
//! Endorsements are those of SEV-SNP or TDX.

use crate::frame::{FrameError, FrameReader, FrameWriter};

/// Label of Evidence.
pub const AZURE_EVIDENCE_LABEL: &str = "sealwright/azure-evidence/v1";
/// Largest Evidence in bytes. An event log has some tens of KiB.
pub const MAX_AZURE_EVIDENCE: usize = 1 << 20;
/// PCRs of a TPM's bank.
pub const PCRS: usize = 24;

/// What a guest behind the paravisor collected. Nothing about it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureEvidence {
    /// HCL report, as the TPM's NV index 0x01400001 holds it.
    pub hcl_report: Vec<u8>,
    /// TDX quote of the TD report in it; empty on SEV-SNP, whose report is in the HCL report.
    pub td_quote: Vec<u8>,
    /// TPMS_ATTEST.
    pub quote: Vec<u8>,
    /// RSASSA-PKCS1-v1_5 signature with SHA-256 over the TPM quote.
    pub signature: Vec<u8>,
    /// The SHA-256 bank.
    pub pcrs: [[u8; 32]; PCRS],
    /// Event log of the boot (TCG, crypto-agile), may be empty.
    pub event_log: Vec<u8>,
}

/// Why bytes are no Evidence from behind the paravisor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAzureEvidence {
    /// Too many bytes.
    #[error("Evidence from behind Azure's paravisor has {got} bytes, at most {MAX_AZURE_EVIDENCE} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// Not framed as it must be.
    #[error("Evidence from behind Azure's paravisor: {0}")]
    Frame(#[from] FrameError),
}

impl AzureEvidence {
    /// The framed bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = FrameWriter::new(AZURE_EVIDENCE_LABEL)
            .framed(&self.hcl_report)
            .framed(&self.td_quote)
            .framed(&self.quote)
            .framed(&self.signature);
        self.pcrs.iter().fold(writer, |writer, pcr| writer.fixed(pcr)).framed(&self.event_log).finish()
    }

    /// Parses framed bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidAzureEvidence> {
        if bytes.len() > MAX_AZURE_EVIDENCE {
            return Err(InvalidAzureEvidence::TooLarge { got: bytes.len() });
        }
        let mut reader = FrameReader::new(bytes, AZURE_EVIDENCE_LABEL)?;
        let mut field = || reader.framed().map(<[u8]>::to_vec);
        let (hcl_report, td_quote, quote, signature) = (field()?, field()?, field()?, field()?);
        let mut pcrs = [[0; 32]; PCRS];
        for pcr in &mut pcrs {
            *pcr = reader.array()?;
        }
        let event_log = reader.framed()?.to_vec();
        reader.finish()?;
        Ok(Self { hcl_report, td_quote, quote, signature, pcrs, event_log })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> AzureEvidence {
        let mut pcrs = [[0; 32]; PCRS];
        pcrs[23][31] = 9;
        AzureEvidence {
            hcl_report: b"HCLA".to_vec(),
            td_quote: Vec::new(),
            quote: vec![1, 2],
            signature: vec![3],
            pcrs,
            event_log: b"log".to_vec(),
        }
    }

    #[test]
    fn evidence_round_trips() {
        assert_eq!(AzureEvidence::parse(&evidence().encode()), Ok(evidence()));
    }

    #[test]
    fn what_is_cut_off_or_added_is_refused() {
        let whole = evidence().encode();
        for length in 0..whole.len() {
            assert!(AzureEvidence::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        let added = [whole.as_slice(), b"\0"].concat();
        assert!(matches!(
            AzureEvidence::parse(&added),
            Err(InvalidAzureEvidence::Frame(FrameError::Trailing { extra: 1, .. }))
        ));
    }

    #[test]
    fn too_many_bytes_and_other_labels_are_refused() {
        let got = MAX_AZURE_EVIDENCE + 1;
        assert_eq!(AzureEvidence::parse(&vec![0; got]), Err(InvalidAzureEvidence::TooLarge { got }));
        let other = FrameWriter::new("sealwright/other/v1").finish();
        assert!(matches!(
            AzureEvidence::parse(&other),
            Err(InvalidAzureEvidence::Frame(FrameError::Label { .. }))
        ));
    }
}
