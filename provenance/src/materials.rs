//! The materials manifest: every byte that went into a build, by class, with an honest statement of how
//! complete each class is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;

/// A class of materials. Each class states its own completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaterialClass {
    /// The build context, its Dockerfile and ignore file.
    Context,
    /// Named contexts (`--build-context`).
    NamedContexts,
    /// Base images and images copied from.
    BaseImages,
    /// http and git sources (`ADD`, git contexts).
    Sources,
    /// What RUN steps fetched from the network.
    Network,
    /// Earlier results that were used instead of running a step, and cache mounts.
    Cache,
    /// Build arguments and frontend attributes.
    Parameters,
    /// Secrets, by id and commitment.
    Secrets,
    /// SSH agents, by id.
    Ssh,
    /// buildkitd, runc and the frontend.
    Engine,
}

impl MaterialClass {
    /// All classes; a manifest states each.
    pub const ALL: [Self; 10] = [
        Self::Context,
        Self::NamedContexts,
        Self::BaseImages,
        Self::Sources,
        Self::Network,
        Self::Cache,
        Self::Parameters,
        Self::Secrets,
        Self::Ssh,
        Self::Engine,
    ];

    /// The name in JSON and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::NamedContexts => "named-contexts",
            Self::BaseImages => "base-images",
            Self::Sources => "sources",
            Self::Network => "network",
            Self::Cache => "cache",
            Self::Parameters => "parameters",
            Self::Secrets => "secrets",
            Self::Ssh => "ssh",
            Self::Engine => "engine",
        }
    }
}

/// How complete a class is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "state", rename_all = "kebab-case")]
pub enum Completeness {
    /// The guest saw every byte and lists it by digest.
    Observed {},
    /// The signed request commits to the values; the manifest does not show them.
    Committed {},
    /// The build had nothing of this class.
    None {},
    /// Something of this class may have gone in that is not listed.
    Incomplete {
        /// Why, in words.
        reason: String,
    },
}

/// How a reference became a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resolution {
    /// The request itself named the digest.
    #[serde(rename = "pinned")]
    Pinned,
    /// The guest resolved the name and built from this digest.
    #[serde(rename = "resolved in the guest")]
    ResolvedInTheGuest,
}

/// One material: an in-toto ResourceDescriptor with our annotations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Material {
    /// Class and what else is known.
    pub annotations: MaterialAnnotations,
    /// Digests by algorithm (`sha256`, `gitCommit`), lower-case hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// A name for what has no URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it came from: `pkg:docker/…`, `git+https://…#ref`, `https://…`, `sealwright:context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// Annotations of a material.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MaterialAnnotations {
    /// The class it is counted in.
    pub class: MaterialClass,
    /// Platform of an image, like `linux/amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// What was asked for, as written (`debian:bookworm`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// How the reference became the digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// A value that is no secret, such as a build argument's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Material {
    /// A material of a class that is known by its SHA-256.
    #[must_use]
    pub fn new(class: MaterialClass) -> Self {
        Self {
            annotations: MaterialAnnotations {
                class,
                platform: None,
                requested: None,
                resolution: None,
                value: None,
            },
            digest: BTreeMap::new(),
            name: None,
            uri: None,
        }
    }

    /// With its SHA-256.
    #[must_use]
    pub fn sha256(mut self, digest: Sha256Digest) -> Self {
        self.digest.insert("sha256".into(), digest.hex());
        self
    }
}

/// The whole manifest. Built only by [`Materials::new`], which demands a statement for every class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Materials {
    items: Vec<Material>,
    completeness: BTreeMap<MaterialClass, Completeness>,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMaterials {
    /// A class has no statement of completeness.
    #[error("materials manifest says nothing about class `{}`", class.name())]
    Unstated {
        /// The class.
        class: MaterialClass,
    },
    /// A class that is said to be empty has a material.
    #[error("materials manifest says class `{}` is empty but lists {got} of it", class.name())]
    NotEmpty {
        /// The class.
        class: MaterialClass,
        /// Materials listed.
        got: usize,
    },
    /// A class is said to be observed, and one of its materials has no digest and no value.
    #[error("class `{}` is said to be observed, but `{what}` has neither digest nor value", class.name())]
    NoDigest {
        /// The class.
        class: MaterialClass,
        /// Name or URI of the material.
        what: String,
    },
}

impl Materials {
    /// Checks that items and statements fit together, and sorts the items.
    pub fn new(
        mut items: Vec<Material>,
        completeness: BTreeMap<MaterialClass, Completeness>,
    ) -> Result<Self, InvalidMaterials> {
        for class in MaterialClass::ALL {
            let of_class = || items.iter().filter(move |item| item.annotations.class == class);
            match completeness.get(&class) {
                None => return Err(InvalidMaterials::Unstated { class }),
                Some(Completeness::None {}) if of_class().count() > 0 => {
                    return Err(InvalidMaterials::NotEmpty { class, got: of_class().count() });
                }
                Some(Completeness::Observed {}) => {
                    if let Some(bare) =
                        of_class().find(|i| i.digest.is_empty() && i.annotations.value.is_none())
                    {
                        let what = bare.uri.clone().or_else(|| bare.name.clone()).unwrap_or_default();
                        return Err(InvalidMaterials::NoDigest { class, what });
                    }
                }
                Some(_) => {}
            }
        }
        items.sort_by(|a, b| {
            let key = |m: &Material| {
                (
                    m.annotations.class,
                    m.uri.clone(),
                    m.name.clone(),
                    m.digest.clone(),
                    m.annotations.platform.clone(),
                )
            };
            key(a).cmp(&key(b))
        });
        items.dedup();
        Ok(Self { items, completeness })
    }

    /// The materials, sorted.
    #[must_use]
    pub fn items(&self) -> &[Material] {
        &self.items
    }

    /// Completeness of every class.
    #[must_use]
    pub fn completeness(&self) -> &BTreeMap<MaterialClass, Completeness> {
        &self.completeness
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(class: MaterialClass, name: &str) -> Material {
        Material { name: Some(name.to_owned()), ..Material::new(class).sha256(Sha256Digest::of(b"any")) }
    }

    #[test]
    fn materials_are_sorted_and_each_is_there_once() {
        let completeness = MaterialClass::ALL.map(|class| (class, Completeness::Observed {})).into();
        let [context, source, other] = [
            named(MaterialClass::Context, "z"),
            named(MaterialClass::Sources, "a"),
            named(MaterialClass::Sources, "b"),
        ];
        let given = vec![other.clone(), source.clone(), context.clone(), source.clone()];
        let materials = Materials::new(given, completeness).expect("complete");
        assert_eq!(materials.items(), [context, source, other]);
        assert_eq!(materials.completeness().len(), MaterialClass::ALL.len());
    }
}
