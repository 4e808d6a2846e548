//! Pushing a result layout to registries.
//!
//! Order, per push: blobs, manifests by digest, signatures, provenance and Evidence, in every repository; only
//! then the image's tags. Whatever breaks, no tag of ours is without its signature and Evidence.

mod auth;
mod blob;
mod client;
mod error;
mod shared_tags;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use futures_util::{FutureExt as _, future::BoxFuture};
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;

pub use auth::{Anonymous, Credential, CredentialSource};
pub use error::{Login, PushError};

use self::blob::Arrival;
use self::client::{Registry, Settings};
use super::layout::{ResultLayout, StoredManifest};
use super::name::ImageName;
use super::oci::{CREATED, Descriptor, REF_NAME};

/// How to speak to registries.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Hosts (with port as in image names) that are spoken to in plain http.
    pub plain_http: Vec<String>,
    /// Speak plain http to loopback addresses. Only the development server sets it.
    pub plain_http_on_loopback: bool,
    /// Certificates (DER) that registries' certificates may chain to, beside the system's.
    pub additional_roots: Vec<Vec<u8>>,
    /// Most blobs or manifests sent at the same time per push.
    pub parallel: usize,
    /// Most attempts at one request or blob.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles each time.
    pub first_pause: Duration,
    /// Longest pause, also when a registry asks for more: then the push fails at once.
    pub longest_pause: Duration,
    /// How long a request may make no progress.
    pub stall: Duration,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            plain_http_on_loopback: false,
            additional_roots: Vec::new(),
            parallel: 4,
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(60),
        }
    }
}

/// Pushes results. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Publisher {
    settings: Arc<Settings>,
}

/// What a push did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Image names whose tags were written, in the order asked for.
    pub names: Vec<String>,
    /// Blobs that were there before.
    pub present: usize,
    /// Blobs that another repository of the same registry lent.
    pub mounted: usize,
    /// Blobs that were sent.
    pub uploaded: usize,
    /// Bytes of the blobs that were sent.
    pub uploaded_bytes: u64,
}

/// Writers of one shared tag take turns; a fixed number of locks serves all tags.
const TURNS: usize = 64;

/// Locks of a process, because two builds can push the same digest at the same time.
struct Turns {
    hasher: RandomState,
    locks: Vec<tokio::sync::Mutex<()>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: (0..TURNS).map(|_| tokio::sync::Mutex::default()).collect(),
        }
    }
}

impl Settings {
    /// Waits for the turn to change a shared tag.
    async fn turn(&self, host: &str, repository: &str, tag: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let slot = self.turns.hasher.hash_one((host, repository, tag)) as usize % TURNS;
        self.turns.locks[slot].lock().await
    }
}

impl Publisher {
    /// Prepares connections. Fails when a root certificate of the configuration is none.
    pub fn new(config: PublisherConfig) -> Result<Self, PushError> {
        // reqwest takes its provider from the process; ring is the only one in our tree. An error means that
        // it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client_error = |error: reqwest::Error| PushError::Client { problem: error.to_string() };
        let roots = config
            .additional_roots
            .iter()
            .map(|der| reqwest::Certificate::from_der(der).map_err(client_error))
            .collect::<Result<Vec<_>, _>>()?;
        let http = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_merge(roots)
            .tls_version_min(reqwest::tls::Version::TLS_1_2)
            // Followed by hand, so that no login leaves its registry.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(config.stall.min(Duration::from_secs(20)))
            .user_agent(concat!("sealwright/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(client_error)?;
        Ok(Self { settings: Arc::new(Settings { http, config, turns: Turns::default() }) })
    }

    /// Pushes a result under all names. Tags are written last; see [`PushError::Tag`] for what a failure between
    /// two tags leaves.
    ///
    /// Cancel safe: dropping it stops all uploads; no tag stands without its signature and Evidence.
    pub async fn push(
        &self,
        layout: &ResultLayout,
        names: &[ImageName],
        credentials: &dyn CredentialSource,
    ) -> Result<Pushed, PushError> {
        let mut hosts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for name in names {
            hosts.entry(name.api_host()).or_default().insert(name.repository());
        }
        let mut registries = HashMap::new();
        let mut pushed = Pushed::default();
        for (host, repositories) in hosts {
            let all = repositories.iter().map(|repository| (*repository).to_owned()).collect();
            let registry =
                Registry::new(Arc::clone(&self.settings), host, all, credentials.credential(host))?;
            let mut lender = None;
            for repository in repositories {
                Push { registry: &registry, repository, layout }.content(lender, &mut pushed).await?;
                lender = Some(repository);
            }
            registries.insert(host, registry);
        }
        let image = layout.image();
        for name in names {
            let registry = &registries[name.api_host()];
            let written = registry
                .put_manifest(name.repository(), name.tag(), &image.descriptor.media_type, &image.bytes)
                .await;
            if let Err(source) = written {
                return Err(PushError::Tag {
                    name: name.to_string(),
                    written: pushed.names,
                    source: Box::new(source),
                });
            }
            pushed.names.push(name.to_string());
        }
        Ok(pushed)
    }
}

/// One layout on its way to one repository.
struct Push<'a> {
    registry: &'a Registry,
    repository: &'a str,
    layout: &'a ResultLayout,
}

impl Push<'_> {
    /// Everything but the image's tags.
    async fn content(&self, lender: Option<&str>, pushed: &mut Pushed) -> Result<(), PushError> {
        let layout = self.layout;
        let manifests: BTreeSet<Sha256Digest> = [layout.image()]
            .into_iter()
            .chain(layout.platforms())
            .chain(layout.attached())
            .map(|manifest| manifest.descriptor.digest)
            .collect();
        let blobs = layout.blobs();
        let uploads = blobs.iter().filter(|blob| !manifests.contains(&blob.digest)).map(|blob| {
            async move {
                let file = layout.blob_path(&blob.digest);
                let arrival = self.registry.ensure_blob(self.repository, blob, &file, lender).await?;
                Ok::<_, PushError>((arrival, blob.size))
            }
            .boxed()
        });
        for (arrival, size) in self.parallel(uploads.collect()).await? {
            match arrival {
                Arrival::Present => pushed.present += 1,
                Arrival::Mounted => pushed.mounted += 1,
                Arrival::Uploaded => {
                    pushed.uploaded += 1;
                    pushed.uploaded_bytes += size;
                }
            }
        }

        // Registries may refuse an index whose manifests they do not have.
        let platforms = layout.platforms().iter().map(|manifest| self.by_digest(manifest).boxed());
        self.parallel(platforms.collect()).await?;
        self.by_digest(layout.image()).await?;
        self.attach().await
    }

    async fn by_digest(&self, manifest: &StoredManifest) -> Result<bool, PushError> {
        let descriptor = &manifest.descriptor;
        let reference = descriptor.digest.to_string();
        self.registry.put_manifest(self.repository, &reference, &descriptor.media_type, &manifest.bytes).await
    }

    /// Signatures, provenance and Evidence.
    async fn attach(&self) -> Result<(), PushError> {
        let attached = self.layout.attached().iter().map(|manifest| {
            async move {
                if let Some(subject) = &manifest.subject {
                    let kept = self.by_digest(manifest).await?;
                    return Ok((!kept).then(|| (subject.digest, manifest.descriptor.clone())));
                }
                if let Some(tag) = manifest.descriptor.annotations.get(REF_NAME) {
                    self.registry
                        .add_to_cosign_tag(self.repository, tag, manifest, created(manifest))
                        .await?;
                }
                Ok::<_, PushError>(None)
            }
            .boxed()
        });
        let mut without_api: BTreeMap<Sha256Digest, Vec<Descriptor>> = BTreeMap::new();
        for (subject, referrer) in self.parallel(attached.collect()).await?.into_iter().flatten() {
            without_api.entry(subject).or_default().push(referrer);
        }
        let tags = without_api.iter().map(|(subject, referrers)| {
            self.registry.add_to_referrers_tag(self.repository, subject, referrers).boxed()
        });
        self.parallel(tags.collect()).await?;
        Ok(())
    }

    /// Runs a bounded number at the same time; the first error ends them all.
    async fn parallel<T>(&self, work: Vec<BoxFuture<'_, Result<T, PushError>>>) -> Result<Vec<T>, PushError> {
        stream::iter(work).buffer_unordered(self.registry.settings.config.parallel.max(1)).try_collect().await
    }
}

/// The time that the layout's artefacts carry.
fn created(manifest: &StoredManifest) -> Timestamp {
    let annotation = serde_json::from_slice::<serde_json::Value>(&manifest.bytes)
        .ok()
        .and_then(|document| Timestamp::parse(document["annotations"][CREATED].as_str()?).ok());
    annotation.unwrap_or_else(|| Timestamp::from_unix(0).expect("1970 is a year that it takes"))
}
