//! Endorsements for Evidence that comes from the device without any: a TDX quote carries the PCK chain only, and the
//! guest has no network to Intel. The operator keeps a file current; it is not trusted, and what it holds is carried
//! along without a judgement, which is the verifier's.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use provenance::evidence::{EvidenceBundle, MAX_COLLECTION, Platform};
use provenance::tdx_endorsements::{InvalidTdxEndorsements, MAX_TDX_ENDORSEMENTS, TdxEndorsements};

/// Why a file of endorsements is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] InvalidTdxEndorsements),
    /// Nothing stands in it.
    #[error("is empty")]
    Empty,
    /// No verifier would read Evidence with it.
    #[error("makes Evidence of {got} bytes, of which verifiers read {MAX_COLLECTION}")]
    CollectionTooLong {
        /// Bytes of the collection.
        got: usize,
    },
}

/// The file of TDX endorsements that the operations configuration names, if it names one.
#[derive(Debug, Clone, Default)]
pub struct TdxEndorsementsFile(Option<PathBuf>);

impl TdxEndorsementsFile {
    /// Takes the path.
    #[must_use]
    pub fn new(path: Option<&Path>) -> Self {
        Self(path.map(Path::to_owned))
    }

    /// Evidence (CMW JSON) of TDX that has no endorsements gets those of the file, read anew; everything else stays
    /// as it is. A file that cannot be used is a warning: the verifier then says what is missing. Blocks.
    #[must_use]
    pub fn complete(&self, evidence: Vec<u8>) -> Vec<u8> {
        let Some(path) = &self.0 else { return evidence };
        let Ok(mut bundle) = EvidenceBundle::parse(&evidence) else { return evidence };
        if bundle.evidence.platform != Platform::Tdx || !bundle.evidence.endorsements.is_empty() {
            return evidence;
        }
        let completed = read(path).and_then(|endorsements| {
            bundle.evidence.endorsements = endorsements;
            let completed = bundle.to_json();
            let got = completed.len();
            if got > MAX_COLLECTION { Err(Unusable::CollectionTooLong { got }) } else { Ok(completed) }
        });
        match completed {
            Ok(completed) => completed,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "Evidence goes out without TDX endorsements");
                evidence
            }
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that too many are noticed.
    std::fs::File::open(path)?.take(MAX_TDX_ENDORSEMENTS as u64 + 1).read_to_end(&mut bytes)?;
    TdxEndorsements::parse(&bytes)?.ok_or(Unusable::Empty)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use provenance::binding::InclusionProof;
    use provenance::evidence::Evidence;

    use super::*;

    fn evidence(platform: Platform, endorsements: &[u8]) -> Vec<u8> {
        EvidenceBundle {
            evidence: Evidence { platform, report: vec![1, 2, 3], endorsements: endorsements.to_vec() },
            instance: b"{}".to_vec(),
            leaf: vec![4],
            proof: InclusionProof { leaf_index: 0, tree_size: 1, hashes: vec![] },
            request: None,
            signing_key: None,
            caller_key: None,
            attestation_result: None,
            timestamp: None,
        }
        .to_json()
    }

    fn endorsements(tcb_info: &[u8]) -> Vec<u8> {
        let part = b"part".to_vec();
        TdxEndorsements {
            tcb_info: tcb_info.to_vec(),
            tcb_info_issuer_chain: part.clone(),
            qe_identity: part.clone(),
            qe_identity_issuer_chain: part.clone(),
            root_ca_crl: part.clone(),
            pck_crl: part,
        }
        .encode()
    }

    #[test]
    fn bare_quotes_get_what_the_file_holds_at_that_moment() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endorsements");
        let file = TdxEndorsementsFile::new(Some(&path));
        for tcb_info in [&b"first"[..], b"second"] {
            std::fs::write(&path, endorsements(tcb_info)).expect("written");
            let wanted = evidence(Platform::Tdx, &endorsements(tcb_info));
            assert_eq!(file.complete(evidence(Platform::Tdx, b"")), wanted);
        }
    }

    #[test]
    fn other_evidence_and_evidence_with_endorsements_stay_as_they_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endorsements");
        std::fs::write(&path, endorsements(b"file")).expect("written");
        let file = TdxEndorsementsFile::new(Some(&path));
        for same in [
            evidence(Platform::SevSnp, b""),
            evidence(Platform::Tdx, b"own"),
            evidence(Platform::SecureExecution, b""),
            b"no Evidence".to_vec(),
        ] {
            assert_eq!(file.complete(same.clone()), same);
        }
        let bare = evidence(Platform::Tdx, b"");
        assert_eq!(TdxEndorsementsFile::new(None).complete(bare.clone()), bare);
    }

    #[test]
    fn evidence_that_no_verifier_would_read_any_more_stays_bare() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endorsements");
        std::fs::write(&path, endorsements(b"file")).expect("written");
        let file = TdxEndorsementsFile::new(Some(&path));
        let with_request = |length| {
            let mut bundle = EvidenceBundle::parse(&evidence(Platform::Tdx, b"")).expect("a collection");
            bundle.request = Some(vec![0; length]);
            bundle.to_json()
        };
        // Base64: four bytes for three.
        let room = MAX_COLLECTION - file.complete(with_request(0)).len();
        let (fits, too_long) = (with_request(room / 4 * 3), with_request((room / 4 + 1) * 3));
        assert!(file.complete(fits.clone()).len() > fits.len());
        assert!(too_long.len() <= MAX_COLLECTION);
        assert_eq!(file.complete(too_long.clone()), too_long);
    }

    #[test]
    fn a_file_that_cannot_be_used_leaves_the_evidence_bare() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("endorsements");
        let file = TdxEndorsementsFile::new(Some(&path));
        let bare = evidence(Platform::Tdx, b"");
        assert!(matches!(read(&path), Err(Unusable::Io(_))), "there is none");
        assert_eq!(file.complete(bare.clone()), bare);
        let whole = endorsements(b"file");
        let long = vec![0; MAX_TDX_ENDORSEMENTS + 1];
        for content in [&whole[..whole.len() - 1], b"text", &long] {
            std::fs::write(&path, content).expect("written");
            assert!(matches!(read(&path), Err(Unusable::Invalid(_))), "{} bytes", content.len());
            assert_eq!(file.complete(bare.clone()), bare);
        }
        std::fs::write(&path, b"").expect("written");
        assert!(matches!(read(&path), Err(Unusable::Empty)));
        assert_eq!(file.complete(bare.clone()), bare);
    }
}
