//! The materials step: what the engine captured becomes the materials manifest, class by class.
//!
//! The rule: a class is `observed` only when the guest saw every byte of it and lists it by digest; what cannot
//! be known is `incomplete` with the reason. Nothing here makes a class look better than the capture shows.

use std::collections::BTreeMap;

use proto::v1;
use provenance::digest::Sha256Digest;
use provenance::instance::InstanceDocument;
use provenance::materials::{Completeness, InvalidMaterials, Material, MaterialClass, Materials, Resolution};
use provenance::request::{Request, Source};

use crate::build_files::{BuildFile, Role};
use crate::buildkit::{Capture, CapturedSource, SourceKind};

/// Why RUN steps leave the network class incomplete until their traffic goes through a recording gateway.
const NETWORK_REASON: &str = "RUN steps used the guest's network, which is not recorded";
/// Why a cached step leaves the cache class incomplete.
const CACHE_REASON: &str =
    "steps were served from the project's cache; what they fetched when they ran is not re-stated";
/// Why a cache mount leaves the cache class incomplete.
const CACHE_MOUNT_REASON: &str = "a cache mount carries bytes of earlier builds that are not recorded";
/// Why a forwarded agent leaves the ssh class incomplete.
const SSH_REASON: &str = "what the forwarded agent was used for is not recorded";

/// Why a build's materials cannot be accounted for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaterialsError {
    /// The engine used a source of which it named no digest.
    #[error("the engine used `{requested}` without naming a digest for it")]
    SourceWithoutDigest {
        /// The source as asked for.
        requested: String,
    },
    /// Items and statements contradict each other: a bug of ours.
    #[error(transparent)]
    Invalid(#[from] InvalidMaterials),
}

/// Accounts for everything that went into a build.
pub fn account(
    request: &Request,
    files: &[BuildFile],
    capture: &Capture,
    instance: &InstanceDocument,
) -> Result<Materials, MaterialsError> {
    let mut account = Account::default();
    account.contexts(request);
    account.files(files);
    for source in &capture.sources {
        account.source(source)?;
    }
    account.parameters(request, capture);
    account.secrets_and_ssh(request);
    account.engine(instance, capture);
    account.runs_and_cache(capture);
    Ok(Materials::new(account.items, account.completeness)?)
}

/// One line for people: how many materials, and which classes are incomplete.
#[must_use]
pub fn describe(materials: &Materials) -> String {
    let incomplete: Vec<_> = materials
        .completeness()
        .iter()
        .filter(|(_, state)| matches!(state, Completeness::Incomplete { .. }))
        .map(|(class, _)| class.name())
        .collect();
    let state = if incomplete.is_empty() {
        "complete".to_owned()
    } else {
        format!("incomplete: {}", incomplete.join(", "))
    };
    format!("{} materials, {state}", materials.items().len())
}

/// The manifest's classes as the API tells them.
#[must_use]
pub fn summary(materials: &Materials) -> Vec<v1::MaterialsSummary> {
    let line = |(class, state): (&MaterialClass, &Completeness)| {
        let (state, reason) = match state {
            Completeness::Observed {} => ("observed", String::new()),
            Completeness::Committed {} => ("committed", String::new()),
            Completeness::None {} => ("none", String::new()),
            Completeness::Incomplete { reason } => ("incomplete", reason.clone()),
        };
        let of_class = materials.items().iter().filter(|item| item.annotations.class == *class).count();
        v1::MaterialsSummary {
            material_class: class.name().to_owned(),
            state: state.to_owned(),
            count: u32::try_from(of_class).unwrap_or(u32::MAX),
            reason,
        }
    };
    materials.completeness().iter().map(line).collect()
}

#[derive(Default)]
struct Account {
    items: Vec<Material>,
    completeness: BTreeMap<MaterialClass, Completeness>,
}

impl Account {
    fn observed(&mut self, class: MaterialClass) {
        self.completeness.entry(class).or_insert(Completeness::Observed {});
    }

    fn incomplete(&mut self, class: MaterialClass, reason: &str) {
        self.completeness.insert(class, Completeness::Incomplete { reason: reason.to_owned() });
    }

    fn none_unless_stated(&mut self, class: MaterialClass) {
        self.completeness.entry(class).or_insert(Completeness::None {});
    }

    fn tree(&mut self, class: MaterialClass, uri: &str, name: Option<&str>, root: &Sha256Digest) {
        let mut material = Material::new(class).sha256(*root);
        material.uri = Some(uri.to_owned());
        material.name = name.map(str::to_owned);
        material.annotations.resolution = Some(Resolution::Pinned);
        self.items.push(material);
        self.observed(class);
    }

    /// Trees are pinned by the signed request itself; git contexts appear among the captured sources.
    fn contexts(&mut self, request: &Request) {
        if let Source::Tree { root } = &request.context {
            self.tree(MaterialClass::Context, "sealwright:context", None, root);
        }
        if let Some(root) = &request.dockerfile.root {
            self.tree(MaterialClass::Context, "sealwright:dockerfile", Some(&request.dockerfile.path), root);
        }
        for (name, source) in &request.named_contexts {
            if let Source::Tree { root } = source {
                self.tree(MaterialClass::NamedContexts, "sealwright:named-context", Some(name), root);
            }
        }
        self.none_unless_stated(MaterialClass::Context);
    }

    /// Dockerfile and ignore file by themselves, so that they can be compared without the trees that hold them.
    fn files(&mut self, files: &[BuildFile]) {
        for file in files {
            let mut material = Material::new(MaterialClass::Context).sha256(file.digest);
            let uri = match file.role {
                Role::Dockerfile => "sealwright:file/dockerfile",
                Role::IgnoreFile => "sealwright:file/ignore",
            };
            material.uri = Some(uri.to_owned());
            material.name = Some(file.path.clone());
            material.annotations.resolution = Some(Resolution::Pinned);
            self.items.push(material);
        }
    }

    fn source(&mut self, source: &CapturedSource) -> Result<(), MaterialsError> {
        let class = match source.kind {
            SourceKind::Image => MaterialClass::BaseImages,
            SourceKind::OciLayout => MaterialClass::NamedContexts,
            SourceKind::Git | SourceKind::Http => MaterialClass::Sources,
            // Served by us from the trees that the request pins.
            SourceKind::Local => return Ok(()),
        };
        let digest = source
            .digest
            .clone()
            .ok_or_else(|| MaterialsError::SourceWithoutDigest { requested: source.requested.clone() })?;
        // An uploaded layout is named by digest in the request, whatever the Dockerfile calls it.
        let pinned = source.kind == SourceKind::OciLayout || source.requested.contains(&digest.hex);
        let mut material = Material::new(class);
        material.digest.insert(digest.algorithm, digest.hex);
        material.uri = Some(source.uri.clone());
        material.annotations.platform = source.platform.clone();
        material.annotations.requested = Some(source.requested.clone());
        material.annotations.resolution =
            Some(if pinned { Resolution::Pinned } else { Resolution::ResolvedInTheGuest });
        self.items.push(material);
        self.observed(class);
        Ok(())
    }

    fn parameters(&mut self, request: &Request, capture: &Capture) {
        let mut parameter = |name: String, value: &str| {
            let mut material = Material::new(MaterialClass::Parameters);
            material.name = Some(name);
            material.annotations.value = Some(value.to_owned());
            self.items.push(material);
        };
        for (name, value) in &request.build_args {
            parameter(format!("build-arg:{name}"), value);
        }
        for (name, value) in &capture.frontend_attributes {
            parameter(format!("frontend:{name}"), value);
        }
        self.observed(MaterialClass::Parameters);
    }

    fn secrets_and_ssh(&mut self, request: &Request) {
        if let Some(secrets) = &request.secrets {
            for id in &secrets.ids {
                let mut material = Material::new(MaterialClass::Secrets);
                material.name = Some(id.clone());
                self.items.push(material);
            }
            self.completeness.insert(MaterialClass::Secrets, Completeness::Committed {});
        }
        for id in &request.ssh {
            let mut material = Material::new(MaterialClass::Ssh);
            material.name = Some(id.clone());
            self.items.push(material);
            self.incomplete(MaterialClass::Ssh, SSH_REASON);
        }
        self.none_unless_stated(MaterialClass::Secrets);
        self.none_unless_stated(MaterialClass::Ssh);
    }

    fn engine(&mut self, instance: &InstanceDocument, capture: &Capture) {
        for (name, program) in [("buildkitd", &instance.buildkitd), ("runc", &instance.runc)] {
            let mut material = Material::new(MaterialClass::Engine).sha256(program.sha256);
            material.name = Some(name.to_owned());
            material.annotations.value = Some(program.version.clone());
            self.items.push(material);
        }
        let mut frontend = Material::new(MaterialClass::Engine);
        frontend.name = Some("frontend".to_owned());
        frontend.annotations.value = Some("dockerfile.v0 (built in)".to_owned());
        frontend.annotations.requested = capture.syntax_directive.clone();
        self.items.push(frontend);
        self.observed(MaterialClass::Engine);
    }

    fn runs_and_cache(&mut self, capture: &Capture) {
        if capture.has_run_steps {
            self.incomplete(MaterialClass::Network, NETWORK_REASON);
        }
        if capture.has_cache_mounts {
            self.incomplete(MaterialClass::Cache, CACHE_MOUNT_REASON);
        }
        let cached: Vec<_> =
            capture.vertices.iter().filter(|vertex| vertex.cached && vertex.is_run).collect();
        for vertex in &cached {
            let mut material = Material::new(MaterialClass::Cache);
            material.name = Some(vertex.name.clone());
            if let Some(hex) = vertex.digest.strip_prefix("sha256:") {
                material.digest.insert("sha256".to_owned(), hex.to_owned());
            }
            self.items.push(material);
        }
        if !cached.is_empty() {
            self.incomplete(MaterialClass::Cache, CACHE_REASON);
        }
        for class in [
            MaterialClass::Network,
            MaterialClass::Cache,
            MaterialClass::NamedContexts,
            MaterialClass::BaseImages,
            MaterialClass::Sources,
        ] {
            self.none_unless_stated(class);
        }
    }
}
