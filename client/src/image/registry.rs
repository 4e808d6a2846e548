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
    AnyManifest, Attached, Blobs, Descriptor, ImageError, MAX_ATTACHED_BYTES, MAX_MANIFEST, is_read,
    parse_manifest, referrers,
};
use crate::image_name::{ImageName, api_host, is_loopback};

/// Longest time for a connection to a registry.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest silence of a registry.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How this program calls itself.
pub(crate) const USER_AGENT: &str = concat!("sealwright/", env!("CARGO_PKG_VERSION"));
/// Most requests for the documents of one image, and most bytes of them that are fetched, kept or not. What is beyond is
/// left out: in many registries strangers may attach what they like. An image that was built 100 times stays below.
const MAX_REQUESTS: usize = 1024;
const MAX_FETCHED: u64 = 256 << 20;
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
    /// Why not everything that stands beside the image was looked at, if so.
    pub left_out: Option<ImageError>,
    documents: HashMap<Sha256Digest, Vec<u8>>,
    /// Requests made for `documents`, and the bytes that came.
    requests: usize,
    fetched: u64,
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
        left_out: None,
        documents: HashMap::new(),
        requests: 0,
        fetched: 0,
        small,
        client,
    };
    let wanted = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let (target, manifest, bytes) = image.manifest(&wanted).await?;
    if let Some(wanted) = name.digest()
        && wanted != target
    {
        return Err(ImageError::BadBlob {
            digest: wanted,
            problem: format!("the registry's bytes hash to {target}"),
        });
    }
    image.target = target;
    image.documents.insert(target, bytes);
    for child in manifest.manifests.iter().take(verifier::image::MAX_CHILDREN) {
        // What is not there is named by the verifier.
        if let Ok((digest, _, bytes)) = image.manifest(&child.digest.to_string()).await {
            image.documents.insert(digest, bytes);
        }
    }
    match image.find_attached().await {
        Ok(()) => {}
        // What was found until then may be enough.
        Err(limit @ (ImageError::TooManyRequests { .. } | ImageError::TooManyBytes { .. })) => {
            image.left_out = Some(limit);
        }
        Err(error) => return Err(error),
    }
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

    /// Counts one request, for up to `size` bytes as far as that is known before.
    fn spend(&mut self, size: u64) -> Result<(), ImageError> {
        if self.requests >= MAX_REQUESTS {
            return Err(ImageError::TooManyRequests { limit: MAX_REQUESTS });
        }
        if self.fetched.saturating_add(size) > MAX_FETCHED {
            return Err(ImageError::TooManyBytes { limit: MAX_FETCHED });
        }
        self.requests += 1;
        Ok(())
    }

    /// The manifest of a tag or digest, parsed and as it came.
    async fn manifest(&mut self, wanted: &str) -> Result<(Sha256Digest, AnyManifest, Vec<u8>), ImageError> {
        self.spend(0)?;
        let bytes = self.small.get(&format!("manifests/{wanted}"), &MANIFEST_TYPES, MAX_MANIFEST).await;
        let length = match &bytes {
            Ok(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Err(ImageError::TooLong { limit, .. }) => *limit,
            Err(_) => 0,
        };
        self.fetched += length;
        let bytes = bytes?.ok_or_else(|| ImageError::NotFound {
            registry: self.name.registry().to_owned(),
            what: format!("{}{}{wanted}", self.name.path(), if wanted.contains(':') { '@' } else { ':' }),
        })?;
        let digest = Sha256Digest::of(&bytes);
        if wanted.parse().is_ok_and(|wanted: Sha256Digest| wanted != digest) {
            let problem = format!("the registry's bytes are not those of {wanted}");
            return Err(ImageError::BadBlob { digest, problem });
        }
        Ok((digest, parse_manifest(digest, &bytes)?, bytes))
    }

    /// What refers to the image: from the referrers API, or from the fallback tag where the registry has none
    /// (OCI distribution-spec 1.1, "Listing Referrers").
    async fn referrers(&self) -> Result<Vec<Sha256Digest>, ImageError> {
        let list = |path: String| async move {
            self.small.get(&path, &MANIFEST_TYPES[..1], referrers::MAX_REFERRERS).await
        };
        let bytes = match list(format!("referrers/{}", self.target)).await? {
            Some(bytes) => Some(bytes),
            None => list(format!("manifests/sha256-{}", self.target.hex())).await?,
        };
        bytes.map_or_else(|| Ok(Vec::new()), |bytes| referrers::parse(&bytes))
    }

    /// Fetches what stands beside the image; what strangers cannot add to comes first.
    async fn find_attached(&mut self) -> Result<(), ImageError> {
        for suffix in ["sig", "att"] {
            let tag = format!("sha256-{}.{suffix}", self.target.hex());
            self.attach(&tag, Some(tag.clone())).await?;
        }
        for referrer in self.referrers().await? {
            self.attach(&referrer.to_string(), None).await?;
        }
        Ok(())
    }

    /// Fetches one thing that stands beside the image, as far as it is read.
    async fn attach(&mut self, reference: &str, tag: Option<String>) -> Result<(), ImageError> {
        let (digest, manifest, bytes) = match self.manifest(reference).await {
            Ok(found) => found,
            // A missing or damaged attachment must not hide the others.
            Err(
                ImageError::NotFound { .. }
                | ImageError::Manifest { .. }
                | ImageError::BadBlob { .. }
                | ImageError::TooLong { .. },
            ) => return Ok(()),
            Err(error) => return Err(error),
        };
        let refers = manifest.subject.as_ref().is_some_and(|subject| subject.digest == self.target);
        let mut layers: Vec<Descriptor> = manifest.layers.into_iter().filter(is_read).collect();
        layers.truncate(verifier::image::MAX_ATTACHED);
        if layers.is_empty() || (tag.is_none() && !refers) {
            return Ok(());
        }
        let descriptor = Descriptor {
            media_type: String::new(),
            digest,
            size: bytes.len() as u64,
            annotations: std::collections::BTreeMap::new(),
            artifact_type: manifest.artifact_type,
            platform: None,
        };
        self.documents.insert(digest, bytes);
        self.attached.push(Attached { descriptor, tag });
        for layer in layers.iter().filter(|layer| layer.size <= MAX_ATTACHED_BYTES) {
            self.small_blob(layer).await?;
        }
        Ok(())
    }

    async fn small_blob(&mut self, layer: &Descriptor) -> Result<(), ImageError> {
        if self.documents.contains_key(&layer.digest) {
            return Ok(());
        }
        self.spend(layer.size)?;
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
            self.fetched += piece.as_ref().map_or(0, |piece| piece.len() as u64);
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
