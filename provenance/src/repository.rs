//! Repositories of image names: what statements call their subjects, and what a caller asked for. One implementation,
//! so that key service and verifier compare the same thing that build-server states.

use crate::request::Output;

/// Name of the subjects of an image for which the request gives no name.
pub const UNNAMED: &str = "image";

/// The repository of an image name `registry[:port]/path[:tag][@digest]`: without tag and digest.
#[must_use]
pub fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(before, _)| before);
    match name.rsplit_once(':') {
        // A colon before the last slash belongs to the registry's port.
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

impl Output {
    /// Repositories that a build of this output may name its images in, each once, in the order of the names:
    /// [`UNNAMED`] for an image without names, none for files.
    #[must_use]
    pub fn repositories(&self) -> Vec<&str> {
        let Self::Image { names, .. } = self else { return Vec::new() };
        if names.is_empty() {
            return vec![UNNAMED];
        }
        let mut repositories = Vec::new();
        for repository in names.iter().map(|name| repository_of(name)) {
            if !repositories.contains(&repository) {
                repositories.push(repository);
            }
        }
        repositories
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Compression;

    fn image(names: &[&str]) -> Output {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Output::Image { compression: Compression::Gzip, names, push: false, rewrite_timestamp: false }
    }

    #[test]
    fn repository_drops_tag_and_digest_but_not_the_port() {
        assert_eq!(repository_of("127.0.0.1:5000/a/b:1.4"), "127.0.0.1:5000/a/b");
        assert_eq!(repository_of("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b");
        assert_eq!(repository_of("docker.io/library/x:1@sha256:00"), "docker.io/library/x");
    }

    #[test]
    fn each_repository_stands_once_and_an_image_without_names_has_one() {
        let names = ["r.example/b:1", "r.example/a:1", "r.example/b:2"];
        assert_eq!(image(&names).repositories(), ["r.example/b", "r.example/a"]);
        assert_eq!(image(&[]).repositories(), [UNNAMED]);
        assert!(Output::Files {}.repositories().is_empty());
    }
}
