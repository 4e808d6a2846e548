//! Images in a registry: the manifest is resolved once, then everything is fetched by digest: manifests,
//! referrers (API or fallback tag), and cosign's `.sig` and `.att` tags.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use futures_util::StreamExt as _;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use proto::v1::RegistryCredential;
use provenance::digest::Sha256Digest;
use verifier::image::{BlobError, BlobHasher, CheckedBlob};

use super::documents::Documents;
use super::{
    AnyManifest, Attached, Blobs, Descriptor, ImageError, MAX_ATTACHED, MAX_ATTACHED_BYTES, parse_manifest,
};
use crate::image_name::{ImageName, api_host, is_loopback};

/// Longest time for a connection to a registry.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence of a registry.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How this program calls itself.
pub(crate) const USER_AGENT: &str = concat!("sealwright/", env!("CARGO_PKG_VERSION"));
/// Most bytes of attachments that are held for one image; what is beyond is left out. In many registries strangers
/// may attach what they like.
const MAX_HELD: u64 = 256 << 20;
/// What a manifest may be.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// An image of a registry, with all its small documents in memory.
pub struct RemoteImage {
    /// The name that was asked for.
    pub name: ImageName,
    /// Digest that the name had when it was resolved, once.
    pub target: Sha256Digest,
    /// What stands beside the image.
    pub attached: Vec<Attached>,
    documents: HashMap<Sha256Digest, Vec<u8>>,
    /// Bytes of attachments in `documents`.
    held: u64,
    small: Documents,
    client: Client,
}

/// Fetches an image's documents. `credential` is the login for its registry, if there is one.
pub async fn fetch(
    name: &ImageName,
    credential: Option<&RegistryCredential>,
) -> Result<RemoteImage, ImageError> {
    // reqwest takes the process's provider; a second installation means that somebody did the same.
    let _ = crate::tls::provider().install_default();
    let host = api_host(name.registry());
    let protocol = if is_loopback(name.registry()) { ClientProtocol::Http } else { ClientProtocol::Https };
    let client = Client::new(ClientConfig {
        protocol: protocol.clone(),
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: USER_AGENT,
        ..ClientConfig::default()
    });
    let auth = match credential {
        Some(credential) if !credential.username.is_empty() => {
            RegistryAuth::Basic(credential.username.clone(), credential.password.clone())
        }
        _ => RegistryAuth::Anonymous,
    };
    client.store_auth_if_needed(host, &auth).await;
    let repository = Reference::with_tag(host.to_owned(), name.path().to_owned(), "latest".to_owned());
    let small = Documents::open(&client, &protocol, name.registry(), &repository, &auth).await?;
    let mut image = RemoteImage {
        name: name.clone(),
        target: Sha256Digest::of(b""),
        attached: Vec::new(),
        documents: HashMap::new(),
        held: 0,
        small,
        client,
    };
    let wanted = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let (target, manifest) = image.manifest(&wanted).await?;
    if let Some(wanted) = name.digest()
        && wanted != target
    {
        return Err(ImageError::BadBlob {
            digest: wanted,
            problem: format!("the registry's bytes hash to {target}"),
        });
    }
    image.target = target;
    for child in manifest.manifests.iter().take(verifier::image::MAX_CHILDREN) {
        // What is not there is named by the verifier.
        let _ = image.manifest(&child.digest.to_string()).await;
    }
    image.find_attached().await?;
    Ok(image)
}

impl RemoteImage {
    fn by_digest(&self, digest: &Sha256Digest) -> Reference {
        let host = api_host(self.name.registry()).to_owned();
        Reference::with_digest(host, self.name.path().to_owned(), digest.to_string())
    }

    fn failed(&self, what: &str, error: &OciDistributionError) -> ImageError {
        let registry = self.name.registry().to_owned();
        let what = what.to_owned();
        match error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => ImageError::NotFound { registry, what },
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => {
                ImageError::Denied { registry, what, problem: error.to_string() }
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                let text = envelope.to_string();
                let upper = text.to_ascii_uppercase();
                if upper.contains("UNKNOWN") || upper.contains("NOT FOUND") {
                    ImageError::NotFound { registry, what }
                } else if upper.contains("DENIED") || upper.contains("UNAUTHORIZED") {
                    ImageError::Denied { registry, what, problem: text }
                } else {
                    ImageError::Registry { registry, problem: text }
                }
            }
            other => ImageError::Registry { registry, problem: with_sources(other) },
        }
    }

    /// The manifest of a tag or digest.
    async fn manifest(&mut self, wanted: &str) -> Result<(Sha256Digest, AnyManifest), ImageError> {
        let bytes = self.small.get(&format!("manifests/{wanted}"), &MANIFEST_TYPES).await?;
        let bytes = bytes.ok_or_else(|| ImageError::NotFound {
            registry: self.name.registry().to_owned(),
            what: format!("{}{}{wanted}", self.name.path(), if wanted.contains(':') { '@' } else { ':' }),
        })?;
        let digest = Sha256Digest::of(&bytes);
        if wanted.parse().is_ok_and(|wanted: Sha256Digest| wanted != digest) {
            let problem = format!("the registry's bytes are not those of {wanted}");
            return Err(ImageError::BadBlob { digest, problem });
        }
        let manifest = parse_manifest(digest, &bytes)?;
        self.documents.insert(digest, bytes);
        Ok((digest, manifest))
    }

    /// What refers to the image: from the referrers API, or from the fallback tag where the registry has none
    /// (OCI distribution-spec 1.1, "Listing Referrers").
    async fn referrers(&self) -> Result<Vec<Descriptor>, ImageError> {
        let api = self.small.get(&format!("referrers/{}", self.target), &MANIFEST_TYPES[..1]).await?;
        let list = match api {
            Some(bytes) => Some(bytes),
            None => {
                let tag = format!("manifests/sha256-{}", self.target.hex());
                self.small.get(&tag, &MANIFEST_TYPES[..1]).await?
            }
        };
        let Some(bytes) = list else { return Ok(Vec::new()) };
        Ok(parse_manifest(Sha256Digest::of(&bytes), &bytes)?.manifests)
    }

    async fn find_attached(&mut self) -> Result<(), ImageError> {
        let referrers = self.referrers().await?;
        let mut found: Vec<(String, Option<String>)> = Vec::new();
        for referrer in referrers.iter().take(MAX_ATTACHED) {
            found.push((referrer.digest.to_string(), None));
        }
        for suffix in ["sig", "att"] {
            let tag = format!("sha256-{}.{suffix}", self.target.hex());
            found.push((tag.clone(), Some(tag)));
        }
        for (reference, tag) in found {
            let (digest, manifest) = match self.manifest(&reference).await {
                Ok(found) => found,
                Err(
                    ImageError::NotFound { .. } | ImageError::Manifest { .. } | ImageError::BadBlob { .. },
                ) => continue,
                Err(error) => return Err(error),
            };
            for layer in manifest.layers.iter().filter(|layer| layer.size <= MAX_ATTACHED_BYTES) {
                self.small_blob(layer).await?;
            }
            let descriptor = Descriptor {
                media_type: String::new(),
                digest,
                size: self.documents.get(&digest).map_or(0, |bytes| bytes.len() as u64),
                annotations: std::collections::BTreeMap::new(),
                artifact_type: manifest.artifact_type,
                platform: None,
            };
            self.attached.push(Attached { descriptor, tag });
        }
        Ok(())
    }

    async fn small_blob(&mut self, layer: &Descriptor) -> Result<(), ImageError> {
        if self.documents.contains_key(&layer.digest) {
            return Ok(());
        }
        if self.held.saturating_add(layer.size) > MAX_HELD {
            return Ok(());
        }
        let descriptor = descriptor(&layer.digest, layer.size);
        let reference = self.by_digest(&self.target);
        let mut stream = match self.client.pull_blob_stream(&reference, &descriptor).await {
            Ok(sized) => sized.stream,
            Err(e) => match self.failed(&layer.digest.to_string(), &e) {
                ImageError::NotFound { .. } => return Ok(()),
                error => return Err(error),
            },
        };
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) if (bytes.len() + piece.len()) as u64 <= layer.size => {
                    bytes.extend_from_slice(&piece)
                }
                // A missing or altered attachment must not hide the others.
                Ok(_) => return Ok(()),
                Err(e) if e.to_string().to_ascii_lowercase().contains("digest") => return Ok(()),
                Err(e) => {
                    let problem = e.to_string();
                    return Err(ImageError::Registry { registry: self.name.registry().to_owned(), problem });
                }
            }
        }
        self.held += bytes.len() as u64;
        self.documents.insert(layer.digest, bytes);
        Ok(())
    }

    /// Streams one blob through the verifier's hasher.
    pub async fn check_blob(
        &self,
        digest: Sha256Digest,
        size: u64,
        mut hasher: BlobHasher,
    ) -> Result<Result<CheckedBlob, BlobError>, ImageError> {
        let reference = self.by_digest(&self.target);
        let missing = |problem: String| BlobError::Missing { digest, problem };
        let mut stream = match self.client.pull_blob_stream(&reference, &descriptor(&digest, size)).await {
            Ok(sized) => sized.stream,
            Err(e) => match self.failed(&digest.to_string(), &e) {
                ImageError::NotFound { .. } => {
                    return Ok(Err(missing("the registry does not have it".to_owned())));
                }
                error => return Err(error),
            },
        };
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(bytes) => {
                    if let Err(error) = hasher.update(&bytes) {
                        return Ok(Err(error));
                    }
                }
                // The client's own comparison; ours says the same with both digests.
                Err(e) if e.to_string().to_ascii_lowercase().contains("digest") => break,
                Err(e) => {
                    return Err(ImageError::Registry {
                        registry: self.name.registry().to_owned(),
                        problem: e.to_string(),
                    });
                }
            }
        }
        Ok(hasher.finish())
    }
}

fn descriptor(digest: &Sha256Digest, size: u64) -> OciDescriptor {
    OciDescriptor {
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    }
}

pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl Blobs for RemoteImage {
    fn open(&self, digest: &Sha256Digest) -> Result<Box<dyn Read + Send + '_>, ImageError> {
        match self.documents.get(digest) {
            Some(bytes) => Ok(Box::new(bytes.as_slice())),
            None => Err(ImageError::MissingBlob { digest: *digest }),
        }
    }
}
