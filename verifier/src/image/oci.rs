//! As much of OCI image manifests and indexes (image specification 1.1) as is needed to follow digests. Fields that
//! say nothing about digests are ignored: the statement covers the exact bytes anyway.

use serde::Deserialize;

use provenance::digest::Sha256Digest;

/// Largest manifest or index in bytes, as registries limit them.
pub const MAX_MANIFEST: usize = 4 << 20;

/// A reference by digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: Sha256Digest,
    pub(super) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestJson {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { manifests: Vec<Descriptor> },
}

const IMAGE_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

impl Manifest {
    /// Parses exact bytes. What could be read as both an image and an index is refused.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_MANIFEST {
            return Err(format!("has {} bytes, at most {MAX_MANIFEST} are read", bytes.len()));
        }
        let json: ManifestJson = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if json.schema_version != 2 {
            return Err(format!("schemaVersion is {}, wanted 2", json.schema_version));
        }
        let says =
            |types: &[&str]| json.media_type.as_deref().is_none_or(|media_type| types.contains(&media_type));
        match (json.config, json.layers, json.manifests) {
            // BuildKit writes `null` for an image without layers.
            (Some(config), layers, None) if says(&IMAGE_TYPES) => {
                Ok(Self::Image { config, layers: layers.unwrap_or_default() })
            }
            (None, None, Some(manifests)) if says(&INDEX_TYPES) => Ok(Self::Index { manifests }),
            _ => {
                Err("is neither an image manifest (config, layers) nor an image index (manifests)".to_owned())
            }
        }
    }
}
