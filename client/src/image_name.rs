//! Image names as Docker reads them: `debian` is `docker.io/library/debian:latest`.

use std::fmt;
use std::str::FromStr;

use provenance::digest::Sha256Digest;

/// Longest repository (registry and path) in bytes, as registries limit it.
const MAX_REPOSITORY: usize = 255;
/// Longest tag in bytes.
const MAX_TAG: usize = 128;
/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";

/// A full image name: registry, path, and tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Sha256Digest>,
}

/// A text that is no image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{got}` is no image name: {problem}")]
pub struct InvalidImageName {
    /// The text as it came.
    pub got: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FromStr for ImageName {
    type Err = InvalidImageName;

    fn from_str(text: &str) -> Result<Self, InvalidImageName> {
        let invalid = |problem| InvalidImageName { got: text.chars().take(300).collect(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    digest.parse().map_err(|_| invalid("the digest is not sha256 and 64 hex digits"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash belongs to the registry's port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag is 1 to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DOCKER_HUB } else { registry };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("a repository must be lower case"));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(invalid(
                "a path component is a-z 0-9, joined by one . or _, two _, or any number of -",
            ));
        }
        let path =
            if registry == DOCKER_HUB && !path.contains('/') { format!("library/{path}") } else { path };
        if registry.len() + 1 + path.len() > MAX_REPOSITORY {
            return Err(invalid("registry and path together are longer than 255 bytes"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), path, tag, digest })
    }
}

impl ImageName {
    /// Registry host and port.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path inside the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and path, without tag and digest.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// The tag; `latest` where the text had neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<Sha256Digest> {
        self.digest
    }

    /// Host that serves this registry's API.
    #[must_use]
    pub fn api_host(&self) -> &str {
        api_host(&self.registry)
    }
}

/// Host that serves a registry's API: that of Docker Hub is not `docker.io`.
#[must_use]
pub fn api_host(registry: &str) -> &str {
    if registry == DOCKER_HUB { "registry-1.docker.io" } else { registry }
}

/// Whether Docker would speak plain http to this registry: it is on this machine.
#[must_use]
pub fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first part of a name is a registry if it could not be a path component: Docker's rule.
fn is_registry(first: &str) -> bool {
    let looks_like_host = first.contains('.')
        || first.contains(':')
        || first == "localhost"
        || first.to_ascii_lowercase() != first;
    let (host, port) = match first.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':'))
            }
            _ => return false,
        },
        None => match first.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (first, None),
        },
    };
    let host_fits = !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
    looks_like_host && host_fits && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty()
        && tag.len() <= MAX_TAG
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes.split(|b| alphanumeric(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = Sha256Digest::of(b"x");
        for (text, full) in [
            ("debian", "docker.io/library/debian:latest".to_owned()),
            ("debian:bookworm", "docker.io/library/debian:bookworm".to_owned()),
            ("acme/app", "docker.io/acme/app:latest".to_owned()),
            ("index.docker.io/acme/app:1", "docker.io/acme/app:1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app", "localhost:5000/app:latest".to_owned()),
            ("[::1]:5000/app:1", "[::1]:5000/app:1".to_owned()),
            ("registry.example/a/b_c/d__e/f--g.h:V1.2", "registry.example/a/b_c/d__e/f--g.h:V1.2".to_owned()),
            (&format!("app@{digest}"), format!("docker.io/library/app@{digest}")),
            (&format!("r.example/app:1@{digest}"), format!("r.example/app:1@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageName>().map(|name| name.to_string()), Ok(full), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("r.example/{}", "a/".repeat(130) + "a");
        let tag = format!("app:{}", "t".repeat(129));
        for bad in [
            "",
            "App",
            "r.example/",
            "r.example/a//b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a_-b",
            "a___b",
            "-a",
            "a b",
            &long,
            &tag,
        ] {
            assert!(bad.parse::<ImageName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "127.8.9.1"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["registry.example:5000", "10.0.0.1:5000", "localhost.example"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
