//! What hardware signs: leaves, their Merkle tree, and the 64 bytes of report data.
//!
//! ```text
//! leaf_data   = F("sealwright/leaf/v1") ‖ type(1) ‖ salt(32) ‖ instance_sha256(32) ‖ F(body)
//!   1 key     : role(1) ‖ scope_sha256(32) ‖ spki_sha256(32)
//!   2 build   : spki_sha256(32) ‖ nonce(32) ‖ statement_sha256(32)
//!   3 session : tls_spki_sha256(32) ‖ tls_exporter(32) ‖ nonce(32)
//! leaf        = SHA-256(0x00 ‖ leaf_data)      node = SHA-256(0x01 ‖ left ‖ right)     (RFC 6962 §2.1)
//! report_data = SHA-512(F("sealwright/report-data/v1") ‖ u32be(tree_size) ‖ root(32))  64 bytes
//! ```
//! The salt is random and keeps tenants that share a report from guessing each other's leaves.

use crate::digest::{Sha256Digest, sha512};
use crate::frame::{FrameError, FrameReader, FrameWriter};

/// Label of a leaf.
pub const LEAF_LABEL: &str = "sealwright/leaf/v1";
/// Label of report data.
pub const REPORT_DATA_LABEL: &str = "sealwright/report-data/v1";
/// Most leaves that may share one report.
pub const MAX_LEAVES: usize = 4096;
/// Longest inclusion proof for [`MAX_LEAVES`] leaves.
pub const MAX_PROOF_HASHES: usize = 12;

/// A caller's nonce, 32 bytes. It gives freshness to the caller, none to a later public verifier.
///
/// `Default` is left out: a forgotten nonce would be all zero and look fresh to nobody's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 32]);

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRole {
    /// Signs the images and statements of one project; scope is the project id.
    ProjectSigning,
    /// Certifies project keys; scope is the SHA-256 of the builder id.
    EnclaveCa,
}

impl KeyRole {
    const fn code(self) -> u8 {
        match self {
            Self::ProjectSigning => 1,
            Self::EnclaveCa => 2,
        }
    }
}

/// What a leaf is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafBody {
    /// Key Evidence: this guest holds this key for this role and scope.
    Key {
        /// What the key is for.
        role: KeyRole,
        /// Whose key it is.
        scope_sha256: Sha256Digest,
        /// SHA-256 of the key's SPKI.
        spki_sha256: Sha256Digest,
    },
    /// Build Evidence: this guest made this statement for this nonce and signs it with this key.
    Build {
        /// SHA-256 of the signing key's SPKI.
        spki_sha256: Sha256Digest,
        /// The caller's nonce.
        nonce: Nonce,
        /// SHA-256 of the exact DSSE payload.
        statement_sha256: Sha256Digest,
    },
    /// Session Evidence: the other end of this very TLS connection is this guest.
    Session {
        /// SHA-256 of the SPKI of the server's TLS certificate.
        tls_spki_sha256: Sha256Digest,
        /// TLS exporter (RFC 8446 §7.5), label [`SESSION_EXPORTER_LABEL`], context = nonce.
        tls_exporter: [u8; 32],
        /// The client's nonce.
        nonce: Nonce,
    },
}

/// Label under which the TLS exporter for session leaves is taken.
pub const SESSION_EXPORTER_LABEL: &[u8] = b"EXPORTER-sealwright-session-v1";

/// One leaf: body, salt and the instance it was made under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// 32 random bytes.
    pub salt: [u8; 32],
    /// SHA-256 of the exact instance document.
    pub instance_sha256: Sha256Digest,
    /// What the leaf is about.
    pub body: LeafBody,
}

/// Why bytes are no leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The framing is wrong.
    #[error("leaf: {0}")]
    Frame(#[from] FrameError),
    /// Unknown leaf type.
    #[error("leaf type is {got}, wanted 1 (key), 2 (build) or 3 (session)")]
    Type {
        /// The type seen.
        got: u8,
    },
    /// Unknown key role.
    #[error("key role is {got}, wanted 1 (project signing) or 2 (enclave CA)")]
    Role {
        /// The role seen.
        got: u8,
    },
}

impl Leaf {
    /// The bytes that are hashed into the tree.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match &self.body {
            LeafBody::Key { role, scope_sha256, spki_sha256 } => {
                (1, [&[role.code()][..], scope_sha256.as_bytes(), spki_sha256.as_bytes()].concat())
            }
            LeafBody::Build { spki_sha256, nonce, statement_sha256 } => {
                (2, [&spki_sha256.as_bytes()[..], &nonce.0, statement_sha256.as_bytes()].concat())
            }
            LeafBody::Session { tls_spki_sha256, tls_exporter, nonce } => {
                (3, [&tls_spki_sha256.as_bytes()[..], tls_exporter, &nonce.0].concat())
            }
        };
        FrameWriter::new(LEAF_LABEL)
            .fixed(&[kind])
            .fixed(&self.salt)
            .fixed(self.instance_sha256.as_bytes())
            .framed(&body)
            .finish()
    }

    /// Parses leaf bytes; trailing bytes and wrong lengths are errors.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut reader = FrameReader::new(bytes, LEAF_LABEL)?;
        let kind = reader.byte()?;
        let salt = reader.array()?;
        let instance_sha256 = Sha256Digest::from_bytes(reader.array()?);
        let wanted = match kind {
            1 => 65,
            2 | 3 => 96,
            got => return Err(LeafError::Type { got }),
        };
        let length = u32::from_be_bytes(reader.array()?) as usize;
        if length < wanted {
            return Err(FrameError::Truncated { offset: reader.offset(), wanted, got: length }.into());
        }
        if length > wanted {
            return Err(
                FrameError::Trailing { offset: reader.offset() + wanted, extra: length - wanted }.into()
            );
        }
        let body = match kind {
            1 => LeafBody::Key {
                role: match reader.byte()? {
                    1 => KeyRole::ProjectSigning,
                    2 => KeyRole::EnclaveCa,
                    got => return Err(LeafError::Role { got }),
                },
                scope_sha256: Sha256Digest::from_bytes(reader.array()?),
                spki_sha256: Sha256Digest::from_bytes(reader.array()?),
            },
            2 => LeafBody::Build {
                spki_sha256: Sha256Digest::from_bytes(reader.array()?),
                nonce: Nonce(reader.array()?),
                statement_sha256: Sha256Digest::from_bytes(reader.array()?),
            },
            _ => LeafBody::Session {
                tls_spki_sha256: Sha256Digest::from_bytes(reader.array()?),
                tls_exporter: reader.array()?,
                nonce: Nonce(reader.array()?),
            },
        };
        reader.finish()?;
        Ok(Self { salt, instance_sha256, body })
    }

    /// The leaf's hash in the tree.
    #[must_use]
    pub fn hash(&self) -> Sha256Digest {
        leaf_hash(&self.encode())
    }
}

fn leaf_hash(leaf_data: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[&[0x00], leaf_data].concat())
}

fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[0x01][..], left.as_bytes(), right.as_bytes()].concat())
}

/// The 64 bytes handed to the hardware.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData(pub [u8; 64]);

impl std::fmt::Debug for ReportData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReportData({})", hex::encode(self.0))
    }
}

/// Report data for a tree of `tree_size` leaves with this root.
#[must_use]
pub fn report_data(tree_size: u32, root: &Sha256Digest) -> ReportData {
    let bytes =
        FrameWriter::new(REPORT_DATA_LABEL).fixed(&tree_size.to_be_bytes()).fixed(root.as_bytes()).finish();
    ReportData(sha512(&bytes))
}

/// Where a leaf stands in its tree, and the hashes that lead to the root (RFC 6962 §2.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// Index of the leaf, from 0.
    pub leaf_index: u32,
    /// Leaves in the tree, 1 to [`MAX_LEAVES`].
    pub tree_size: u32,
    /// Sibling hashes from the leaf upwards.
    pub hashes: Vec<Sha256Digest>,
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Tree size or index outside their bounds.
    #[error(
        "leaf index {leaf_index} of tree size {tree_size}: wanted an index below a size of 1 to {MAX_LEAVES}"
    )]
    Range {
        /// Index seen.
        leaf_index: u32,
        /// Size seen.
        tree_size: u32,
    },
    /// The path has a wrong number of hashes.
    #[error("inclusion proof has {got} hashes, wanted {wanted}")]
    PathLength {
        /// Hashes seen.
        got: usize,
        /// Hashes that index and size demand.
        wanted: usize,
    },
}

impl InclusionProof {
    /// Root of the tree in which `leaf` stands at this place (RFC 9162 §2.1.3.2, without its inner loop: once `index` is
    /// `last` both stay equal, so that every later hash is of a left sibling, and how many there are is fixed before).
    pub fn root(&self, leaf: &Leaf) -> Result<Sha256Digest, ProofError> {
        let Self { leaf_index, tree_size, .. } = *self;
        if tree_size == 0 || tree_size as usize > MAX_LEAVES || leaf_index >= tree_size {
            return Err(ProofError::Range { leaf_index, tree_size });
        }
        let wanted = path_length(leaf_index, tree_size);
        if self.hashes.len() != wanted {
            return Err(ProofError::PathLength { got: self.hashes.len(), wanted });
        }
        let (mut index, mut last) = (leaf_index, tree_size - 1);
        let mut root = leaf.hash();
        for sibling in &self.hashes {
            if index & 1 == 1 || index == last {
                root = node_hash(sibling, &root);
            } else {
                root = node_hash(&root, sibling);
            }
            index >>= 1;
            last >>= 1;
        }
        Ok(root)
    }

    /// Report data that a report over this leaf must carry.
    pub fn report_data(&self, leaf: &Leaf) -> Result<ReportData, ProofError> {
        Ok(report_data(self.tree_size, &self.root(leaf)?))
    }
}

fn path_length(leaf_index: u32, tree_size: u32) -> usize {
    let (mut index, mut last, mut length) = (leaf_index, tree_size - 1, 0);
    while last > 0 {
        if index & 1 == 1 || index < last {
            length += 1;
        }
        index >>= 1;
        last >>= 1;
    }
    length
}

/// A batch of leaves that share one report.
#[derive(Debug, Clone)]
pub struct LeafTree {
    levels: Vec<Vec<Sha256Digest>>,
}

impl LeafTree {
    /// Builds the tree, or gives `None` for no leaves or more than [`MAX_LEAVES`].
    #[must_use]
    pub fn new(leaves: &[Leaf]) -> Option<Self> {
        if leaves.is_empty() || leaves.len() > MAX_LEAVES {
            return None;
        }
        let mut levels = vec![leaves.iter().map(Leaf::hash).collect::<Vec<_>>()];
        while levels.last().is_some_and(|level| level.len() > 1) {
            let below = levels.last().expect("there is at least the leaf level");
            // A lone last node moves up unchanged, which gives the RFC 6962 shape.
            let above = below
                .chunks(2)
                .map(|pair| if let [l, r] = pair { node_hash(l, r) } else { pair[0] })
                .collect();
            levels.push(above);
        }
        Some(Self { levels })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u32 {
        u32::try_from(self.levels[0].len()).expect("at most MAX_LEAVES leaves")
    }

    /// Report data over the whole batch.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        let root = self.levels.last().expect("there is at least the leaf level")[0];
        report_data(self.size(), &root)
    }

    /// Inclusion proof of the leaf at `index`.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<InclusionProof> {
        let leaf_index = u32::try_from(index).ok().filter(|i| *i < self.size())?;
        let mut position = index;
        let mut hashes = Vec::new();
        // The root, which is the last level, has no sibling.
        for level in &self.levels {
            if let Some(sibling) = level.get(position ^ 1) {
                hashes.push(*sibling);
            }
            position /= 2;
        }
        Some(InclusionProof { leaf_index, tree_size: self.size(), hashes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: u32) -> Leaf {
        let mut salt = [0; 32];
        salt[..4].copy_from_slice(&n.to_be_bytes());
        let digest = |text: &str| Sha256Digest::of(text.as_bytes());
        let body = match n % 3 {
            0 => LeafBody::Key {
                role: KeyRole::ProjectSigning,
                scope_sha256: digest("project"),
                spki_sha256: digest("key"),
            },
            1 => LeafBody::Build {
                spki_sha256: digest("key"),
                nonce: Nonce([7; 32]),
                statement_sha256: digest("statement"),
            },
            _ => LeafBody::Session {
                tls_spki_sha256: digest("tls"),
                tls_exporter: [9; 32],
                nonce: Nonce([8; 32]),
            },
        };
        Leaf { salt, instance_sha256: digest("instance"), body }
    }

    #[test]
    fn every_leaf_of_every_size_proves_its_root() {
        for size in (1..=70).chain([255, 256, 257, 4095, 4096]) {
            let leaves: Vec<_> = (0..size).map(leaf).collect();
            let tree = LeafTree::new(&leaves).expect("in range");
            assert_eq!(tree.proof(leaves.len()), None);
            for (index, leaf) in leaves.iter().enumerate().step_by(1 + size as usize / 50) {
                let proof = tree.proof(index).expect("in range");
                assert_eq!(proof.report_data(leaf), Ok(tree.report_data()), "{index} of {size}");
                assert!(proof.hashes.len() <= MAX_PROOF_HASHES);
                let mut wrong = proof.clone();
                wrong.leaf_index = (wrong.leaf_index + 1) % wrong.tree_size;
                if size > 1 {
                    assert_ne!(wrong.report_data(leaf), Ok(tree.report_data()), "{index} of {size}");
                }
            }
        }
    }

    #[test]
    fn a_batch_has_at_least_one_and_at_most_4096_leaves() {
        assert!(LeafTree::new(&[]).is_none());
        assert!(LeafTree::new(&vec![leaf(0); MAX_LEAVES + 1]).is_none());
    }

    #[test]
    fn leaves_round_trip_and_each_malformation_has_its_error() {
        for n in 0..3 {
            let bytes = leaf(n).encode();
            assert_eq!(Leaf::parse(&bytes), Ok(leaf(n)));
            for cut in 0..bytes.len() {
                assert!(matches!(Leaf::parse(&bytes[..cut]), Err(LeafError::Frame(_))), "cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!(Leaf::parse(&longer), Err(LeafError::Frame(FrameError::Trailing { .. }))));
        }
        let good = leaf(0).encode();
        let (start, body) = good.split_at(good.len() - 65 - 4);
        let with_length =
            |length: u32, body: &[u8]| Leaf::parse(&[start, &length.to_be_bytes(), body].concat());
        assert_eq!(with_length(65, &body[4..]), Ok(leaf(0)));
        let offset = good.len();
        let longer = [&body[4..], &[0; 2]].concat();
        assert_eq!(with_length(67, &longer), Err(FrameError::Trailing { offset, extra: 2 }.into()));
        let (offset, wanted) = (offset - 65, 65);
        assert_eq!(
            with_length(64, &body[4..]),
            Err(FrameError::Truncated { offset, wanted, got: 64 }.into())
        );
        let mut unknown = leaf(0).encode();
        unknown[4 + LEAF_LABEL.len()] = 9;
        assert_eq!(Leaf::parse(&unknown), Err(LeafError::Type { got: 9 }));
        let mut role = leaf(0).encode();
        let at = role.len() - 65;
        role[at] = 3;
        assert_eq!(Leaf::parse(&role), Err(LeafError::Role { got: 3 }));
    }

    /// The repository's own vector: another implementation can check itself against these bytes.
    #[test]
    fn vector_of_three_leaves() {
        let leaves = [leaf(0), leaf(1), leaf(2)];
        let tree = LeafTree::new(&leaves).expect("in range");
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../vectors/binding-v1.json")).expect("vector is JSON");
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(vector["leaves"][index], hex::encode(leaf.encode()));
        }
        assert_eq!(vector["report_data"], hex::encode(tree.report_data().0));
    }
}
