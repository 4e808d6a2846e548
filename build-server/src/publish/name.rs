//! Image names `registry/repository:tag`, parsed once.

use std::fmt;

/// Longest registry host or repository in bytes (distribution-spec 1.1: together at most 255).
pub const MAX_NAME: usize = 255;
/// Longest tag in bytes (distribution-spec 1.1, "Pulling manifests").
pub const MAX_TAG: usize = 128;

/// A full image name. Equal names have equal text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: String,
}

/// A text that is no full image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{seen}` is no full image name: {problem}; wanted `registry/repository:tag`")]
pub struct InvalidImageName {
    /// The text as it came, cut to 300 characters.
    pub seen: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ImageName {
    /// Parses `registry/repository:tag`. The registry is everything before the first `/` and holds a `.` or
    /// `:` or is `localhost`; `docker.io` names Docker Hub.
    pub fn parse(text: &str) -> Result<Self, InvalidImageName> {
        let invalid = |problem| InvalidImageName { seen: text.chars().take(300).collect(), problem };
        if text.contains('@') {
            return Err(invalid("a name to push to has no digest"));
        }
        let (registry, rest) = text.split_once('/').ok_or_else(|| invalid("no registry"))?;
        if !is_registry(registry) {
            return Err(invalid("the part before the first `/` is no host name or address"));
        }
        let (repository, tag) = rest.rsplit_once(':').ok_or_else(|| invalid("no tag"))?;
        if !is_repository(repository) || registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid(
                "repository is malformed (a-z, 0-9, separated by `.`, `_`, `__`, `-`, `/`; 255 bytes)",
            ));
        }
        if !is_tag(tag) {
            return Err(invalid("tag is malformed (A-Z, a-z, 0-9, `_`, `.`, `-`; 128 bytes)"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag: tag.to_owned() })
    }

    /// Host and port as written.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and port that serve the registry API: Docker Hub's differs from its name.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if matches!(self.registry.as_str(), "docker.io" | "index.docker.io") {
            "registry-1.docker.io"
        } else {
            &self.registry
        }
    }

    /// Path of the repository in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// `registry/repository` without tag, as signatures name it.
    #[must_use]
    pub fn without_tag(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.registry, self.repository, self.tag)
    }
}

/// A host name, IPv4 address or bracketed IPv6 address, with an optional port.
fn is_registry(text: &str) -> bool {
    let marked = text.contains('.') || text.contains(':') || text == "localhost";
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            (address, rest.strip_prefix(':'))
        }
        Some(_) => return false,
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let host_ok = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':'))
        && !host.starts_with(['-', '.'])
        && !host.ends_with('-');
    marked && host_ok && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0))
}

/// distribution-spec 1.1: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
fn is_repository(text: &str) -> bool {
    text.split('/').all(|part| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && part
                .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
    })
}

/// distribution-spec 1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    text.len() <= MAX_TAG
        && !text.starts_with(['.', '-'])
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_are_split_at_their_registry_and_tag() {
        for (text, registry, repository, tag) in [
            ("127.0.0.1:5000/app:1.4", "127.0.0.1:5000", "app", "1.4"),
            ("registry.example/team/app_a__b--c:latest", "registry.example", "team/app_a__b--c", "latest"),
            ("[::1]:5000/app:x", "[::1]:5000", "app", "x"),
            ("localhost/app:x", "localhost", "app", "x"),
        ] {
            let name = ImageName::parse(text).expect("well formed");
            assert_eq!((name.registry(), name.repository(), name.tag()), (registry, repository, tag));
            assert_eq!(name.to_string(), text);
        }
        assert_eq!(
            ImageName::parse("docker.io/library/x:1").map(|n| n.api_host().to_owned()).as_deref(),
            Ok("registry-1.docker.io")
        );
    }

    #[test]
    fn anything_that_could_change_the_path_of_a_request_is_refused() {
        for text in [
            "app:1",
            "app/x:1",
            "reg.example/app",
            "reg.example/App:1",
            "reg.example/../x:1",
            "reg.example/a//b:1",
            "reg.example/a:..",
            "reg.example/a?x:1",
            "reg.example/a:1/2",
            "user@reg.example/a:1",
            "reg.example:0/a:1",
            "reg.example:99999/a:1",
            "reg.example/a___b:1",
            "reg.example/a._b:1",
            "reg.example/:1",
            "reg.example/a:",
            "-a.example/a:1",
            "[zz]:1/a:1",
            "reg.example/a:%41",
        ] {
            assert!(ImageName::parse(text).is_err(), "{text}");
        }
    }
}
