//! A request in BuildKit's terms: frontend attributes, exporter, and the trees and stores the session serves.

use std::collections::{BTreeMap, BTreeSet};

use proto::buildkit::moby::buildkit::v1::Exporter;
use provenance::digest::Sha256Digest;
use provenance::request::{Compression, Output, Request, Source};

use super::error::EngineError;
use super::export::Expected;

/// Name under which BuildKit asks for the main context.
const CONTEXT: &str = "context";
/// Name under which BuildKit asks for the tree that holds the Dockerfile.
const DOCKERFILE: &str = "dockerfile";
/// The variable of <https://reproducible-builds.org/specs/source-date-epoch/>.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// One solve.
#[derive(Debug)]
pub(super) struct Translated {
    /// Attributes without build arguments and labels.
    pub(super) attributes: BTreeMap<String, String>,
    /// Build arguments and labels as attributes.
    pub(super) values: BTreeMap<String, String>,
    pub(super) exporter: Exporter,
    pub(super) expected: Expected,
    /// Root directories by name.
    pub(super) trees: BTreeMap<String, Sha256Digest>,
    /// Names of the content stores of uploaded layouts.
    pub(super) stores: BTreeSet<String>,
    /// The main context is a git repository.
    pub(super) git_context: bool,
    /// Path of the Dockerfile as the frontend is asked for it.
    pub(super) dockerfile: String,
}

fn bad(problem: impl Into<String>) -> EngineError {
    EngineError::Request { problem: problem.into() }
}

/// Translates a request. `syntax` is the directive that the built-in frontend stands in for.
pub(super) fn translate(request: &Request, syntax: Option<&str>) -> Result<Translated, EngineError> {
    let mut attributes = BTreeMap::new();
    let mut set = |name: &str, value: String| attributes.insert(name.to_owned(), value);
    // Any value keeps the frontend from following `# syntax=` and BUILDKIT_SYNTAX to another frontend, which
    // the daemon would refuse. The directive has been checked to name the built-in one.
    set("cmdline", syntax.unwrap_or("docker/dockerfile:1").to_owned());
    set("filename", request.dockerfile.path.clone());
    if let Some(target) = &request.target {
        set("target", target.clone());
    }
    if !request.platforms.is_empty() {
        set("platform", request.platforms.join(","));
    }
    if request.no_cache {
        set("no-cache", String::new());
    }
    if request.pull {
        set("image-resolve-mode", "pull".to_owned());
    }
    if !request.add_hosts.is_empty() {
        let hosts = request.add_hosts.iter().map(|host| {
            let plain = host.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if plain && !host.name.is_empty() {
                Ok(format!("{}={}", host.name, host.address))
            } else {
                Err(bad(format!("add_hosts: `{}` is no host name", host.name)))
            }
        });
        set("add-hosts", hosts.collect::<Result<Vec<_>, _>>()?.join(","));
    }

    let mut trees = BTreeMap::new();
    let mut git_context = false;
    let mut dockerfile = request.dockerfile.path.clone();
    let rewrites = matches!(request.output, Output::Image { rewrite_timestamp: true, .. });
    match &request.context {
        Source::Tree { root } => {
            trees.insert(CONTEXT.to_owned(), *root);
        }
        Source::Git { url } => {
            git_context = true;
            let has_epoch = rewrites || request.build_args.contains_key(EPOCH);
            match subdirectory(url).filter(|_| has_epoch) {
                None => set("context", url.clone()),
                // With an epoch, BuildKit 0.33.1 sets the times of a checkout, and looks for a subdirectory's where it
                // has just removed it. So it checks out everything, and the frontend takes the subdirectory of that.
                Some((repository, path)) => {
                    if request.dockerfile.root.is_none() {
                        dockerfile = format!("{path}/{dockerfile}");
                        set("filename", dockerfile.clone());
                    }
                    set("contextsubdir", path);
                    set("context", repository)
                }
            };
            if request.dockerfile.root.is_some() {
                set("dockerfilekey", DOCKERFILE.to_owned());
            }
        }
        Source::Image { .. } | Source::OciLayout { .. } => {
            return Err(bad("context must be a tree or a git URL"));
        }
    }
    if let Some(root) = request.dockerfile.root {
        trees.insert(DOCKERFILE.to_owned(), root);
    }
    let mut stores = BTreeSet::new();
    for (index, (name, source)) in request.named_contexts.iter().enumerate() {
        let value = match source {
            Source::Tree { root } => {
                let local = format!("named-{name}");
                trees.insert(local.clone(), *root);
                format!("local:{local}")
            }
            Source::Git { url } => url.clone(),
            Source::Image { reference } => format!("docker-image://{reference}"),
            Source::OciLayout { manifest, .. } => {
                // BuildKit parses this as an image reference, so the name of the context would not always do.
                let store = format!("layout{index}");
                let value = format!("oci-layout://{store}@{manifest}");
                stores.insert(store);
                value
            }
        };
        set(&format!("context:{}", familiar(name)), value);
    }

    let mut values = BTreeMap::new();
    for (name, value) in &request.build_args {
        values.insert(format!("build-arg:{name}"), value.clone());
    }
    for (name, value) in &request.labels {
        values.insert(format!("label:{name}"), value.clone());
    }
    let (exporter, expected) = exporter(request)?;
    if rewrites && !request.build_args.contains_key(EPOCH) {
        if !git_context {
            return Err(bad(format!(
                "rewrite_timestamp needs the build argument {EPOCH} (seconds since 1970): without it times would be today's"
            )));
        }
        // BuildKit's word for the time of the context's commit.
        set(&format!("build-arg:{EPOCH}"), "context".to_owned());
    }
    Ok(Translated { attributes, values, exporter, expected, trees, stores, git_context, dockerfile })
}

/// Splits a git URL with a subdirectory (`…#ref:path` or `…?subdir=path`) into the URL without it and the path, as
/// BuildKit cleans it.
fn subdirectory(url: &str) -> Option<(String, String)> {
    let clean = |path: &str| {
        let mut parts = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        (!parts.is_empty()).then(|| parts.join("/"))
    };
    if let Some((repository, fragment)) = url.split_once('#') {
        let (reference, path) = fragment.split_once(':')?;
        return Some((format!("{repository}#{reference}"), clean(path)?));
    }
    let (repository, query) = url.split_once('?')?;
    let (paths, others): (Vec<_>, Vec<_>) = query.split('&').partition(|pair| pair.starts_with("subdir="));
    let [path] = paths.as_slice() else { return None };
    // Percent-encoded paths stay as they are: BuildKit says what is wrong with them.
    let path = path.strip_prefix("subdir=").filter(|path| !path.contains(['%', '+']))?;
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    Some((format!("{repository}{query}"), clean(path)?))
}

/// An image name as the frontend looks contexts up: without Docker Hub's prefixes and `:latest`.
fn familiar(name: &str) -> &str {
    let name =
        name.strip_prefix("docker.io/").map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    name.strip_suffix(":latest").unwrap_or(name)
}

fn exporter(request: &Request) -> Result<(Exporter, Expected), EngineError> {
    let mut attrs = BTreeMap::new();
    let Output::Image { compression, rewrite_timestamp, .. } = &request.output else {
        if !request.annotations.is_empty() {
            return Err(bad("annotations: files have none; they belong to an image"));
        }
        return Ok((Exporter { r#type: "tar".to_owned(), attrs }, Expected::Tar));
    };
    let mut set = |name: String, value: &str| attrs.insert(name, value.to_owned());
    set("oci-mediatypes".to_owned(), "true");
    // Gzip is ours to do: the engine has one thread for it. Layers of base images stay as they are either way.
    let (compression, compress) = match compression {
        Compression::Gzip => ("uncompressed", true),
        Compression::Zstd => ("zstd", false),
        Compression::Uncompressed => ("uncompressed", false),
    };
    set("compression".to_owned(), compression);
    if *rewrite_timestamp {
        set("rewrite-timestamp".to_owned(), "true");
    }
    for (key, value) in &request.annotations {
        set(format!("annotation.{key}"), value);
    }
    Ok((Exporter { r#type: "oci".to_owned(), attrs }, Expected::OciLayout { compress }))
}

#[cfg(test)]
mod tests {
    use super::subdirectory;

    #[test]
    fn the_subdirectory_is_split_off_a_git_url() {
        let split = |url| subdirectory(url).map(|(url, path)| format!("{url} {path}"));
        for (url, wanted) in [
            ("https://h/r.git#v1:app", Some("https://h/r.git#v1 app")),
            ("https://h/r.git#:/a/./b/../c/", Some("https://h/r.git# a/c")),
            ("https://h/r.git?tag=v1&subdir=app", Some("https://h/r.git?tag=v1 app")),
            ("https://h/r.git?subdir=app", Some("https://h/r.git app")),
            ("https://h/r.git#v1", None),
            ("https://h/r.git#v1:", None),
            ("https://h/r.git#v1:..", None),
            ("https://h/r.git?branch=main", None),
            ("https://h/r.git", None),
        ] {
            assert_eq!(split(url).as_deref(), wanted, "{url}");
        }
    }
}
