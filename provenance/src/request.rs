//! The request document: everything the guest may build from, signed by the caller as DSSE.
//!
//! Exact canonical JSON (RFC 8785). The guest builds what these bytes say and nothing else; unknown fields are
//! refused. Secrets and credentials are not in it, only a commitment to the secrets ([`crate::commitment`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::binding::Nonce;
use crate::canonical::{CanonicalError, from_canonical_json, to_canonical_json};
use crate::challenge::AttestationRequest;
use crate::digest::Sha256Digest;
use crate::dsse::{DsseError, Envelope, REQUEST_PAYLOAD_TYPE};
use crate::key::PublicKey;
use crate::platform::check_platform;
use crate::project::{InvalidProject, Project};
use crate::timestamp::Timestamp;

/// `type` of a request.
pub const REQUEST_TYPE: &str = "https://sealwright.dev/request/v1";
/// Largest request document in bytes.
pub const MAX_REQUEST: usize = 1 << 20;
/// Longest build id.
pub const MAX_BUILD_ID: usize = 63;
/// Most entries of any map or list of a request.
pub const MAX_ITEMS: usize = 1024;
/// Longest text value of a request in bytes.
pub const MAX_TEXT: usize = 128 << 10;
/// 9999-12-31T23:59:59Z, the last time that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// A build id: 1 to 63 of `a-z 0-9 -`, first a letter, last no `-` (AIP-122 resource id).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(String);

impl TryFrom<String> for BuildId {
    type Error = InvalidRequest;

    fn try_from(text: String) -> Result<Self, InvalidRequest> {
        let bytes = text.as_bytes();
        let fits = !bytes.is_empty()
            && bytes.len() <= MAX_BUILD_ID
            && bytes[0].is_ascii_lowercase()
            && bytes[bytes.len() - 1] != b'-'
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if fits {
            Ok(Self(text))
        } else {
            Err(InvalidRequest::BuildId { got: text.chars().take(100).collect() })
        }
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.0
    }
}

impl std::fmt::Display for BuildId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a build's source comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// A tree in the project's context store.
    Tree {
        /// SHA-256 of the root directory blob.
        root: Sha256Digest,
    },
    /// A git repository, BuildKit's URL form `https://host/repo.git#ref:subdir`; pinned in the guest.
    Git {
        /// The URL as written.
        url: String,
    },
    /// An image of a registry.
    Image {
        /// The reference as written.
        reference: String,
    },
    /// An image of an OCI layout, uploaded to the project's context store.
    OciLayout {
        /// Digest of its manifest or index.
        manifest: Sha256Digest,
        /// Size of that manifest in bytes.
        size: u64,
        /// Its media type.
        media_type: String,
    },
}

/// The Dockerfile: the directory it stands in, with its own ignore file, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dockerfile {
    /// Path of the Dockerfile inside `root`, or inside the git context when there is no `root`.
    pub path: String,
    /// Tree that holds the Dockerfile and `<Dockerfile>.dockerignore`; absent when it comes from a git context.
    pub root: Option<Sha256Digest>,
}

/// Compression of the layers of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip (RFC 1952), what every runtime reads.
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
    /// No compression.
    Uncompressed,
}

/// What the build gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", tag = "kind")]
pub enum Output {
    /// An image with signature, provenance and Evidence.
    Image {
        /// Compression of layers that this build makes.
        compression: Compression,
        /// Full image names `registry/repository:tag`, normalised, in the order of `-t`.
        names: Vec<String>,
        /// Push to the registries of `names`.
        push: bool,
        /// Set all times of the image to SOURCE_DATE_EPOCH.
        rewrite_timestamp: bool,
    },
    /// The files of the last stage, without an image. Nothing is signed but the provenance of the archive.
    Files {},
}

/// The commitment to the secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsCommitment {
    /// See [`crate::commitment::commit_to_secrets`].
    pub commitment: Sha256Digest,
    /// Ids of the secrets, ascending, each once.
    pub ids: Vec<String>,
}

/// Everything the caller signed. Serialises in alphabetical field order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Extra hosts for RUN steps: name to address.
    pub add_hosts: Vec<AddHost>,
    /// Annotations of the image manifest.
    pub annotations: BTreeMap<String, String>,
    /// The request that Evidence of this build is to answer. On Secure Execution, and only there. Not there rather
    /// than `null` without one, as in documents from before it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "never_null")]
    pub attestation_request: Option<AttestationRequest>,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// The client's id for this build.
    pub build_id: BuildId,
    /// The main context.
    pub context: Source,
    /// The Dockerfile.
    pub dockerfile: Dockerfile,
    /// When the caller signed, by the caller's clock.
    pub issued_at: Timestamp,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Named contexts.
    pub named_contexts: BTreeMap<String, Source>,
    /// Run every step again.
    pub no_cache: bool,
    /// The caller's nonce, 64 hex digits.
    #[serde(with = "nonce_hex")]
    pub nonce: Nonce,
    /// What the build gives.
    pub output: Output,
    /// Platforms `os/arch[/variant]`, in the order asked for; empty for the guest's own.
    pub platforms: Vec<String>,
    /// The project that owns the build.
    pub project: Project,
    /// Resolve image references again even when cached.
    pub pull: bool,
    /// Commitment to the secrets, when there are any.
    pub secrets: Option<SecretsCommitment>,
    /// Ids of forwarded SSH agents, ascending.
    pub ssh: Vec<String>,
    /// The stage to build.
    pub target: Option<String>,
    /// Always [`REQUEST_TYPE`].
    #[serde(rename = "type")]
    pub document_type: String,
}

/// One `--add-host`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddHost {
    /// An IP address.
    pub address: String,
    /// Host name.
    pub name: String,
}

/// A value that is left out where there is none, so that a document has one spelling.
fn never_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

mod nonce_hex {
    use super::Nonce;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(nonce: &Nonce, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(nonce.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nonce, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || hex::decode_to_slice(&text, &mut bytes).is_err() {
            return Err(serde::de::Error::custom("nonce must be 64 lower-case hex digits"));
        }
        Ok(Nonce(bytes))
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// The envelope or its signature is wrong.
    #[error("signed request: {0}")]
    Envelope(#[from] DsseError),
    /// Not canonical or of another shape.
    #[error("request document: {0}")]
    Canonical(#[from] CanonicalError),
    /// Another document type.
    #[error("request type is `{got}`, wanted `{REQUEST_TYPE}`")]
    Type {
        /// The type seen.
        got: String,
    },
    /// Malformed build id.
    #[error(
        "build id `{got}` is malformed; wanted 1 to {MAX_BUILD_ID} of a-z, 0-9 and `-`, first a letter, last no `-`"
    )]
    BuildId {
        /// The id seen.
        got: String,
    },
    /// The embedded project is malformed.
    #[error(transparent)]
    Project(#[from] InvalidProject),
    /// The caller is not a member of the project the request names.
    #[error("caller {caller} is not a member of project {project}")]
    NotAMember {
        /// The caller's key.
        caller: Sha256Digest,
        /// The project's id.
        project: String,
    },
    /// A field holds what it must not.
    #[error("request field `{field}`: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What was seen and what is wanted.
        problem: String,
    },
}

fn field(name: &str, problem: impl Into<String>) -> InvalidRequest {
    InvalidRequest::Field { field: name.to_owned(), problem: problem.into() }
}

fn ascending(name: &str, ids: &[String]) -> Result<(), InvalidRequest> {
    if ids.windows(2).all(|pair| pair[0] < pair[1]) {
        Ok(())
    } else {
        Err(field(name, "must be ascending, each once"))
    }
}

impl Request {
    /// Parses a document and checks what the types cannot say.
    pub fn parse(document: &[u8]) -> Result<Self, InvalidRequest> {
        let request: Self = from_canonical_json(document, MAX_REQUEST)?;
        request.check()?;
        Ok(request)
    }

    /// The rules beyond the shape.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        if self.document_type != REQUEST_TYPE {
            return Err(InvalidRequest::Type { got: self.document_type.clone() });
        }
        self.project.check()?;
        for (name, count) in [
            ("add_hosts", self.add_hosts.len()),
            ("annotations", self.annotations.len()),
            ("build_args", self.build_args.len()),
            ("labels", self.labels.len()),
            ("named_contexts", self.named_contexts.len()),
            ("platforms", self.platforms.len()),
            ("ssh", self.ssh.len()),
            ("secrets", self.secrets.as_ref().map_or(0, |s| s.ids.len())),
        ] {
            if count > MAX_ITEMS {
                return Err(field(name, format!("has {count} entries, at most {MAX_ITEMS} are allowed")));
            }
        }
        for (name, map) in
            [("annotations", &self.annotations), ("build_args", &self.build_args), ("labels", &self.labels)]
        {
            for (key, value) in map {
                if key.is_empty() || key.contains('=') || key.contains('\0') || value.contains('\0') {
                    return Err(field(
                        &format!("{name}.{key}"),
                        "a key must not be empty or hold `=`; NUL is not allowed",
                    ));
                }
                if key.len() + value.len() > MAX_TEXT {
                    return Err(field(&format!("{name}.{key}"), format!("longer than {MAX_TEXT} bytes")));
                }
            }
        }
        if self.build_args.contains_key("BUILDKIT_SYNTAX") {
            return Err(field(
                "build_args.BUILDKIT_SYNTAX",
                "names another frontend; only the built-in docker/dockerfile:1 is served here; remove the argument",
            ));
        }
        if let Some(secrets) = &self.secrets {
            ascending("secrets.ids", &secrets.ids)?;
            if secrets.ids.is_empty() || secrets.ids.iter().any(String::is_empty) {
                return Err(field("secrets.ids", "must not be empty"));
            }
        }
        ascending("ssh", &self.ssh)?;
        for host in &self.add_hosts {
            if host.address.parse::<std::net::IpAddr>().is_err() {
                return Err(field("add_hosts", format!("`{}` is no IP address", host.address)));
            }
        }
        for platform in &self.platforms {
            check_platform(platform).map_err(|problem| {
                field("platforms", format!("`{}`: {problem}", platform.chars().take(200).collect::<String>()))
            })?;
        }
        self.check_paths_and_sources()?;
        self.check_output()
    }

    fn check_paths_and_sources(&self) -> Result<(), InvalidRequest> {
        let path = &self.dockerfile.path;
        let relative = !path.is_empty()
            && path.len() <= 4096
            && !path.contains('\0')
            && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        if !relative {
            return Err(field(
                "dockerfile.path",
                format!("`{path}` is not a relative path without `.` and `..`"),
            ));
        }
        match (&self.context, &self.dockerfile.root) {
            (Source::Tree { .. }, None) => {
                return Err(field("dockerfile.root", "is required when the context is a tree"));
            }
            (Source::Image { .. } | Source::OciLayout { .. }, _) => {
                return Err(field("context", "must be a tree or a git URL"));
            }
            _ => {}
        }
        for (name, source) in std::iter::once(("context", &self.context))
            .chain(self.named_contexts.iter().map(|(name, source)| (name.as_str(), source)))
        {
            let text = match source {
                Source::Git { url } => url,
                Source::Image { reference } => reference,
                Source::OciLayout { media_type, .. } => media_type,
                Source::Tree { .. } => continue,
            };
            if name.is_empty()
                || text.is_empty()
                || text.len() > 4096
                || text.chars().any(|c| c.is_control() || c == ' ')
            {
                return Err(field(
                    name,
                    "must be 1 to 4096 characters without spaces and control characters",
                ));
            }
        }
        Ok(())
    }

    fn check_output(&self) -> Result<(), InvalidRequest> {
        if let Output::Image { names, push, rewrite_timestamp, .. } = &self.output {
            if names.len() > 64 {
                return Err(field("output.names", "more than 64 names"));
            }
            if *push && names.is_empty() {
                return Err(field("output.push", "a push needs at least one name (-t)"));
            }
            let has_epoch = self.build_args.contains_key("SOURCE_DATE_EPOCH")
                || matches!(self.context, Source::Git { .. });
            if *rewrite_timestamp && !has_epoch {
                return Err(field(
                    "output.rewrite_timestamp",
                    "needs an epoch; give --build-arg SOURCE_DATE_EPOCH=SECONDS or build from a git URL",
                ));
            }
        }
        if let Some(epoch) = self.build_args.get("SOURCE_DATE_EPOCH") {
            // An empty value is Docker's way to say "unset".
            let in_range = |seconds: u64| seconds <= LAST_SECOND;
            if !epoch.is_empty() && epoch != "context" && !epoch.parse().is_ok_and(in_range) {
                return Err(field(
                    "build_args.SOURCE_DATE_EPOCH",
                    format!(
                        "`{epoch}` is no number of seconds from 0 to {LAST_SECOND}, the end of the year 9999"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The canonical document.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        to_canonical_json(self)
    }
}

/// A request whose signature is of a member of its project. Built only by [`authenticate_request`].
#[derive(Debug, Clone)]
pub struct SignedRequest {
    request: Request,
    request_sha256: Sha256Digest,
    caller: PublicKey,
    envelope: Vec<u8>,
}

/// Checks that the caller's key signed this request and is a member of the project that it names.
///
/// `envelope` is the DSSE JSON; `caller` is the key of the authenticated connection (in the guest) or a key
/// that the Relying Party's policy names (in a verifier).
pub fn authenticate_request(envelope: &[u8], caller: &PublicKey) -> Result<SignedRequest, InvalidRequest> {
    let parsed = Envelope::parse(envelope, MAX_REQUEST * 2)?;
    let document = parsed.authenticate(REQUEST_PAYLOAD_TYPE, caller)?;
    let request = Request::parse(document)?;
    let digest = caller.spki_sha256();
    if !request.project.has_member(&digest) {
        return Err(InvalidRequest::NotAMember { caller: digest, project: request.project.id().to_string() });
    }
    let request_sha256 = Sha256Digest::of(document);
    Ok(SignedRequest { request, request_sha256, caller: caller.clone(), envelope: envelope.to_vec() })
}

impl SignedRequest {
    /// The request.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// SHA-256 of the exact document.
    #[must_use]
    pub fn request_sha256(&self) -> Sha256Digest {
        self.request_sha256
    }

    /// SHA-256 of the SPKI of the caller's key.
    #[must_use]
    pub fn caller(&self) -> Sha256Digest {
        self.caller.spki_sha256()
    }

    /// The caller's key.
    #[must_use]
    pub fn caller_key(&self) -> &PublicKey {
        &self.caller
    }

    /// The DSSE JSON exactly as received.
    #[must_use]
    pub fn envelope(&self) -> &[u8] {
        &self.envelope
    }
}
