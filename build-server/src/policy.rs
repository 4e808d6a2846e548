//! Build policy: what may be built, and what may be released. Both decisions hand out a permit or a typed
//! refusal; the permit is the only way on.

use provenance::digest::Sha256Digest;
use provenance::materials::{Completeness, MaterialClass, Materials};
use provenance::request::{Output, Request, SignedRequest, Source};
use serde::{Deserialize, Serialize};

use crate::buildkit::ImageDescriptor;

/// The build policy, part of the trust configuration and so of the instance document.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildPolicy {
    /// Repositories that may be pushed to, as prefixes `registry` or `registry/path`, or `*` for any; empty
    /// forbids every push.
    pub allow_push_to: Vec<String>,
    /// Classes of materials that must be fully accounted for (not `incomplete`) before anything is signed.
    pub require_complete: Vec<MaterialClass>,
    /// Whether contexts and named contexts may be git URLs.
    pub allow_git_sources: bool,
}

impl BuildPolicy {
    /// SHA-256 of the policy's canonical JSON, which the instance document names.
    #[must_use]
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest::of(&provenance::canonical::to_canonical_json(self))
    }

    /// Permits a build or says why not.
    pub fn permit(&self, signed: SignedRequest) -> Result<PermittedBuild, Refusal> {
        let request = signed.request();
        if let Output::Image { names, push: true, .. } = &request.output {
            for name in names {
                if !self.allow_push_to.iter().any(|prefix| is_below(name, prefix)) {
                    return Err(Refusal::PushTarget {
                        name: name.clone(),
                        allowed: self.allow_push_to.clone(),
                    });
                }
            }
        }
        if !self.allow_git_sources {
            let sources = std::iter::once(&request.context).chain(request.named_contexts.values());
            for source in sources {
                if let Source::Git { url } = source {
                    return Err(Refusal::GitSource { url: url.clone() });
                }
            }
        }
        Ok(PermittedBuild { signed })
    }

    /// Releases an image with its materials or says why not.
    pub fn release(
        &self,
        permitted: PermittedBuild,
        image: BuiltImage,
        materials: Materials,
    ) -> Result<ReleasableImage, Refusal> {
        for class in &self.require_complete {
            if let Some(Completeness::Incomplete { reason }) = materials.completeness().get(class) {
                return Err(Refusal::Incomplete { class: *class, reason: reason.clone() });
            }
        }
        Ok(ReleasableImage { signed: permitted.signed, image, materials })
    }
}

/// Whether the image name lies below a prefix, compared by whole path components; `*` stands for everything.
fn is_below(name: &str, prefix: &str) -> bool {
    // What follows a bare registry with a colon is its port, so another registry.
    let ends: &[char] = if prefix.contains('/') { &['/', ':', '@'] } else { &['/'] };
    prefix == "*" || name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(ends))
}

/// Why the build policy refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The image may not be pushed there.
    #[error("the build policy does not allow a push to `{name}`; it allows {allowed:?}")]
    PushTarget {
        /// The image name asked for.
        name: String,
        /// Prefixes that the policy allows.
        allowed: Vec<String>,
    },
    /// Git sources are not allowed.
    #[error("the build policy does not allow git sources; the request names `{url}`")]
    GitSource {
        /// The URL asked for.
        url: String,
    },
    /// A class of materials that must be complete is not.
    #[error("the build policy demands complete materials of class `{}`; they are incomplete: {reason}", class.name())]
    Incomplete {
        /// The class.
        class: MaterialClass,
        /// Why it is incomplete.
        reason: String,
    },
}

/// A request that the build policy permits. Built only by [`BuildPolicy::permit`].
#[derive(Debug, Clone)]
pub struct PermittedBuild {
    signed: SignedRequest,
}

impl PermittedBuild {
    /// What may be built.
    #[must_use]
    pub fn request(&self) -> &Request {
        self.signed.request()
    }
}

/// An image in an OCI layout whose blobs have all been hashed while they arrived.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// The manifest, or the index of several platforms.
    pub root: ImageDescriptor,
    /// The platform manifests of an index; empty otherwise.
    pub platform_manifests: Vec<ImageDescriptor>,
}

/// An image that may be signed. Built only by [`BuildPolicy::release`].
#[derive(Debug, Clone)]
pub struct ReleasableImage {
    signed: SignedRequest,
    image: BuiltImage,
    materials: Materials,
}

impl ReleasableImage {
    /// The request it was built from.
    #[must_use]
    pub fn signed_request(&self) -> &SignedRequest {
        &self.signed
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &BuiltImage {
        &self.image
    }

    /// Its materials.
    #[must_use]
    pub fn materials(&self) -> &Materials {
        &self.materials
    }

    /// Repositories the image is named in, without tags, each once; `image` when the request names none.
    #[must_use]
    pub fn repositories(&self) -> Vec<&str> {
        self.signed.request().output.repositories()
    }

    /// Subjects of the statement: root first, then platform manifests, each under every repository.
    #[must_use]
    pub fn subjects(&self) -> Vec<(String, Sha256Digest)> {
        let images = std::iter::once(&self.image.root).chain(&self.image.platform_manifests);
        let repositories = self.repositories();
        images.flat_map(|image| repositories.iter().map(|name| ((*name).to_owned(), image.digest))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_matches_whole_components_only() {
        assert!(is_below("registry.example/team/app:1", "registry.example/team"));
        assert!(is_below("registry.example/team", "registry.example/team"));
        assert!(!is_below("registry.example/teamster/app:1", "registry.example/team"));
        assert!(!is_below("registry.example.evil/app", "registry.example"));
        assert!(is_below("registry.example/app:1", "registry.example"));
        assert!(!is_below("registry.example:8443/app:1", "registry.example"));
    }
}
