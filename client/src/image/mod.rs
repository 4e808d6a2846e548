//! Gathering an image for the verifier: manifests, Evidence, envelopes and signatures, from a layout, its tar
//! file or a registry. Nothing is judged here; what does not fit is left for the verifier to miss.

mod archive;
mod documents;
mod local;
mod referrers;
pub mod registry;
pub mod restamp;
mod selection;

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::evidence::CMW_MEDIA_TYPE;
use provenance::sigstore::{
    BUNDLE_MEDIA_TYPE, DSSE_MEDIA_TYPE, SIGNATURE_ANNOTATION, SIMPLE_SIGNING_MEDIA_TYPE,
};
use serde::Deserialize;
use verifier::image::{ImageInput, MAX_CHILDREN, SimpleSignature};

pub use archive::ArchiveError;
pub use local::{LocalImage, open_local};
pub(crate) use selection::looks_attached;

/// Largest manifest or index in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest attached document (Evidence, bundle, payload) in bytes.
pub const MAX_ATTACHED_BYTES: u64 = 10 << 20;
/// Most attached manifests that are looked at.
pub(crate) const MAX_ATTACHED: usize = 1024;
/// Most bytes of attached documents that are kept at once, together.
const MAX_ATTACHED_TOTAL: u64 = 512 << 20;
/// Annotation under which a layout names what it holds.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An OCI descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Artifact type, for referrers.
    #[serde(default)]
    pub artifact_type: Option<String>,
    /// Platform, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// Platform of an image.
#[derive(Debug, Clone, Deserialize)]
pub struct Platform {
    /// Architecture, such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant, such as `v7`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// Reads `null` as an empty list.
pub(crate) fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Descriptor>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An image manifest or index, whatever of it there is.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct AnyManifest {
    /// Manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// Configuration of an image.
    pub config: Option<Descriptor>,
    /// Layers of an image or artefact; BuildKit writes `null` for an image without any.
    #[serde(deserialize_with = "null_is_empty")]
    pub layers: Vec<Descriptor>,
    /// What an artefact refers to.
    pub subject: Option<Descriptor>,
    /// Artifact type.
    pub artifact_type: Option<String>,
}

/// Why an image cannot be gathered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file cannot be read. Fault: environment.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The index of a layout is cut off or no index at all. Fault: whoever wrote the layout, or what it lay on.
    #[error("layout {} is damaged: index.json: {problem}", path.display())]
    Index {
        /// The layout.
        path: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// Not an OCI layout. Fault: the caller.
    #[error("{} is no OCI layout: {problem}", path.display())]
    NotALayout {
        /// The file or directory.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// Not a tar file that every program reads in the same way. Fault: whoever made the file.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// The layout holds no image, several, or not the one asked for. Fault: the caller.
    #[error("{}: {problem}", path.display())]
    Selection {
        /// The layout.
        path: PathBuf,
        /// What was asked for and what there is.
        problem: String,
    },
    /// Beside the index stands another, of which nothing is verified. Fault: whoever made the layout.
    #[error("{} holds `{name}`, which `docker load` and others read in place of `index.json`; it is not verified", path.display())]
    OtherIndex {
        /// The layout.
        path: PathBuf,
        /// Name of the other index.
        name: &'static str,
    },
    /// The index gives the image another size than its manifest has.
    #[error("the layout's index gives {digest} {said} bytes, its manifest has {got}")]
    DescriptorSize {
        /// Digest of the manifest.
        digest: Sha256Digest,
        /// Bytes by the index.
        said: u64,
        /// Bytes of the manifest.
        got: u64,
    },
    /// A blob is not there. Not authentic: what should be there is not.
    #[error("blob {digest} is missing")]
    MissingBlob {
        /// Its digest.
        digest: Sha256Digest,
    },
    /// Bytes are not those of the digest, or too many.
    #[error("blob {digest}: {problem}")]
    BadBlob {
        /// Its digest.
        digest: Sha256Digest,
        /// What was seen and wanted.
        problem: String,
    },
    /// A document does not parse.
    #[error("manifest {digest} does not parse: {problem}")]
    Manifest {
        /// Its digest.
        digest: Sha256Digest,
        /// What is wrong.
        problem: String,
    },
    /// The reference is no image name. Fault: the caller.
    #[error(transparent)]
    Name(#[from] crate::image_name::InvalidImageName),
    /// The login for the registry cannot be had. Fault: configuration.
    #[error(transparent)]
    Login(#[from] crate::docker_config::DockerConfigError),
    /// The registry does not have it.
    #[error("registry {registry}: {what} not found")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry refuses the caller.
    #[error("registry {registry} refuses access to {what}: {problem}")]
    Denied {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What it said.
        problem: String,
    },
    /// The registry cannot be reached or failed.
    #[error("registry {registry}: {problem}")]
    Registry {
        /// The registry.
        registry: String,
        /// What was seen.
        problem: String,
    },
    /// The registry sends more for one document than is read.
    #[error("registry {registry}: {what} has more than {limit} bytes")]
    TooLong {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Most bytes that are read of it.
        limit: u64,
    },
    /// So much is attached that reading it takes too many requests.
    #[error(
        "what is attached to the image takes more than {limit} requests to read; the rest is not looked at: remove what is not needed"
    )]
    TooManyRequests {
        /// Most requests for one image.
        limit: usize,
    },
    /// So much is attached that it has too many bytes.
    #[error(
        "what is attached to the image has more than {limit} bytes; the rest is not looked at: remove what is not needed"
    )]
    TooManyBytes {
        /// Most bytes of manifests and attachments that are fetched for one image.
        limit: u64,
    },
}

/// Where blobs are read from.
pub trait Blobs: Send + Sync {
    /// Opens a blob. Nothing is checked yet.
    fn open(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send + '_>, ImageError>;

    /// A small document whose digest is checked.
    fn document(&self, digest: &Sha256Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let bad = |problem: String| ImageError::BadBlob { digest: *digest, problem };
        self.open(digest)?.take(limit + 1).read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
        if bytes.len() as u64 > limit {
            return Err(bad(format!("more than {limit} bytes")));
        }
        let got = Sha256Digest::of(&bytes);
        if got == *digest { Ok(bytes) } else { Err(bad(format!("its bytes hash to {got}"))) }
    }
}

/// What stands beside an image: a manifest and, in a layout, the tag under which it was found.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// `sha256-….sig` and the like.
    pub tag: Option<String>,
}

/// Parses a manifest.
pub fn parse_manifest(digest: Sha256Digest, bytes: &[u8]) -> Result<AnyManifest, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Manifest { digest, problem: e.to_string() })
}

/// Puts together what the verifier wants to see of the image `target`.
///
/// A damaged attachment is left out and named in the second part of the result: another may still hold, and
/// the verifier refuses when none does.
pub fn gather(
    blobs: &dyn Blobs,
    target: Sha256Digest,
    attached: &[Attached],
) -> Result<(ImageInput, Vec<ImageError>), ImageError> {
    let root = blobs.document(&target, MAX_MANIFEST)?;
    let manifest = parse_manifest(target, &root)?;
    let mut input = ImageInput {
        target,
        repository: None,
        documents: vec![root],
        evidence: Vec::new(),
        envelopes: Vec::new(),
        simple_signatures: Vec::new(),
        endorsements: verifier::Endorsements::default(),
        expected_request: None,
    };
    for child in manifest.manifests.iter().take(MAX_CHILDREN) {
        // A child that is not at hand is named by the verifier, which knows what it needs.
        if let Ok(bytes) = blobs.document(&child.digest, MAX_MANIFEST) {
            input.documents.push(bytes);
        }
    }
    let mut damaged = Vec::new();
    let mut seen = HashSet::new();
    let mut room = Room { left: MAX_ATTACHED_TOTAL, documents: HashSet::new() };
    for item in attached.iter().take(MAX_ATTACHED).filter(|item| seen.insert(item.descriptor.digest)) {
        if let Err(error) = attach(blobs, target, item, &mut room, &mut input) {
            damaged.push(error);
        }
    }
    Ok((input, damaged))
}

/// What may still be taken in. Manifests are small, and may name many large documents, or one many times.
struct Room {
    left: u64,
    /// Envelopes and Evidence that are taken in already.
    documents: HashSet<Sha256Digest>,
}

impl Room {
    fn document(&mut self, blobs: &dyn Blobs, digest: &Sha256Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = blobs.document(digest, MAX_ATTACHED_BYTES)?;
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            let problem = format!("what is attached has more than {MAX_ATTACHED_TOTAL} bytes together");
            return Err(ImageError::BadBlob { digest: *digest, problem });
        };
        self.left = left;
        Ok(bytes)
    }
}

/// Whether a layer of an attachment is of a kind that [`attach`] takes in.
fn is_read(layer: &Descriptor) -> bool {
    let kinds = [SIMPLE_SIGNING_MEDIA_TYPE, DSSE_MEDIA_TYPE, BUNDLE_MEDIA_TYPE, CMW_MEDIA_TYPE];
    kinds.contains(&layer.media_type.as_str())
}

fn attach(
    blobs: &dyn Blobs,
    target: Sha256Digest,
    item: &Attached,
    room: &mut Room,
    input: &mut ImageInput,
) -> Result<(), ImageError> {
    let digest = item.descriptor.digest;
    let manifest = parse_manifest(digest, &blobs.document(&digest, MAX_MANIFEST)?)?;
    let tagged = |suffix: &str| item.tag.as_deref() == Some(&format!("sha256-{}.{suffix}", target.hex()));
    let refers = manifest.subject.as_ref().is_some_and(|subject| subject.digest == target);
    let layers: &[Descriptor] = if tagged("sig") || tagged("att") || refers { &manifest.layers } else { &[] };
    for layer in layers {
        // What is beyond is not judged: an image that is built again and again gathers Evidence under one digest, and in
        // many registries strangers may attach what they like.
        let enough = |count: usize| count >= verifier::image::MAX_ATTACHED;
        match layer.media_type.as_str() {
            SIMPLE_SIGNING_MEDIA_TYPE => {
                let signature =
                    layer.annotations.get(SIGNATURE_ANNOTATION).and_then(|text| STANDARD.decode(text).ok());
                let signature = signature.ok_or_else(|| ImageError::BadBlob {
                    digest: layer.digest,
                    problem: format!("has no base64 signature under {SIGNATURE_ANNOTATION}"),
                })?;
                if !enough(input.simple_signatures.len()) {
                    let payload = room.document(blobs, &layer.digest)?;
                    input.simple_signatures.push(SimpleSignature { payload, signature });
                }
            }
            DSSE_MEDIA_TYPE | BUNDLE_MEDIA_TYPE
                if !enough(input.envelopes.len()) && room.documents.insert(layer.digest) =>
            {
                input.envelopes.push(room.document(blobs, &layer.digest)?);
            }
            CMW_MEDIA_TYPE if !enough(input.evidence.len()) && room.documents.insert(layer.digest) => {
                input.evidence.push(room.document(blobs, &layer.digest)?);
            }
            _ => {}
        }
    }
    Ok(())
}
