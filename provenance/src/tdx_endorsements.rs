//! Endorsements of a TDX quote as they travel in the bundle: what Intel's Provisioning Certification Service says
//! about the platform, byte for byte as it answers.
//!
//! `F("sealwright/tdx-endorsements/v1") ‖ F(TCB info) ‖ F(its issuer chain) ‖ F(QE identity) ‖ F(its issuer chain) ‖
//! F(root CA CRL) ‖ F(PCK CRL)`. No bytes at all stand for no endorsements.

use crate::frame::{FrameError, FrameReader, FrameWriter};

/// Label of TDX endorsements.
pub const TDX_ENDORSEMENTS_LABEL: &str = "sealwright/tdx-endorsements/v1";
/// Largest endorsements in bytes. Genuine ones have about 15 KiB.
pub const MAX_TDX_ENDORSEMENTS: usize = 2 << 20;

/// Intel's word on a platform. Nothing about it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxEndorsements {
    /// Answer of `/tdx/certification/v4/tcb?fmspc=…`: JSON `{"tcbInfo":{…},"signature":"<128 hex digits>"}`.
    pub tcb_info: Vec<u8>,
    /// Its header `TCB-Info-Issuer-Chain`, with the percent encoding taken off: PEM, signer first, then the root.
    pub tcb_info_issuer_chain: Vec<u8>,
    /// Answer of `/tdx/certification/v4/qe/identity`: JSON `{"enclaveIdentity":{…},"signature":"<128 hex digits>"}`.
    pub qe_identity: Vec<u8>,
    /// Its header `SGX-Enclave-Identity-Issuer-Chain`, likewise.
    pub qe_identity_issuer_chain: Vec<u8>,
    /// Revocation list of Intel's root, DER.
    pub root_ca_crl: Vec<u8>,
    /// Revocation list of the CA that issued the PCK certificate, DER.
    pub pck_crl: Vec<u8>,
}

/// Why bytes are no TDX endorsements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTdxEndorsements {
    /// Too many bytes.
    #[error("TDX endorsements have {got} bytes, at most {MAX_TDX_ENDORSEMENTS} are read")]
    TooLarge {
        /// Bytes seen.
        got: usize,
    },
    /// Not framed as they must be.
    #[error("TDX endorsements: {0}")]
    Frame(#[from] FrameError),
}

impl TdxEndorsements {
    /// The framed bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        FrameWriter::new(TDX_ENDORSEMENTS_LABEL)
            .framed(&self.tcb_info)
            .framed(&self.tcb_info_issuer_chain)
            .framed(&self.qe_identity)
            .framed(&self.qe_identity_issuer_chain)
            .framed(&self.root_ca_crl)
            .framed(&self.pck_crl)
            .finish()
    }

    /// Parses framed bytes; `None` when there are none.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, InvalidTdxEndorsements> {
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() > MAX_TDX_ENDORSEMENTS {
            return Err(InvalidTdxEndorsements::TooLarge { got: bytes.len() });
        }
        let mut reader = FrameReader::new(bytes, TDX_ENDORSEMENTS_LABEL)?;
        let mut field = || reader.framed().map(<[u8]>::to_vec);
        let endorsements = Self {
            tcb_info: field()?,
            tcb_info_issuer_chain: field()?,
            qe_identity: field()?,
            qe_identity_issuer_chain: field()?,
            root_ca_crl: field()?,
            pck_crl: field()?,
        };
        reader.finish()?;
        Ok(Some(endorsements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endorsements() -> TdxEndorsements {
        TdxEndorsements {
            tcb_info: b"{}".to_vec(),
            tcb_info_issuer_chain: b"chain".to_vec(),
            qe_identity: b"{ }".to_vec(),
            qe_identity_issuer_chain: b"another chain".to_vec(),
            root_ca_crl: vec![1],
            pck_crl: vec![],
        }
    }

    #[test]
    fn endorsements_round_trip_and_none_are_no_bytes() {
        assert_eq!(TdxEndorsements::parse(&endorsements().encode()), Ok(Some(endorsements())));
        assert_eq!(TdxEndorsements::parse(&[]), Ok(None));
    }

    #[test]
    fn what_is_cut_off_or_added_is_refused() {
        let whole = endorsements().encode();
        for length in 1..whole.len() {
            assert!(TdxEndorsements::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        let added = [whole.as_slice(), b"\0"].concat();
        assert!(matches!(
            TdxEndorsements::parse(&added),
            Err(InvalidTdxEndorsements::Frame(FrameError::Trailing { extra: 1, .. }))
        ));
    }

    #[test]
    fn too_many_bytes_and_other_labels_are_refused() {
        let got = MAX_TDX_ENDORSEMENTS + 1;
        assert_eq!(TdxEndorsements::parse(&vec![0; got]), Err(InvalidTdxEndorsements::TooLarge { got }));
        let other = FrameWriter::new("sealwright/other/v1").finish();
        assert!(matches!(
            TdxEndorsements::parse(&other),
            Err(InvalidTdxEndorsements::Frame(FrameError::Label { .. }))
        ));
    }
}
