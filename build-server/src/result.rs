//! What a client is told of a finished build.

use proto::v1;
use provenance::statement::Statement;

use crate::buildkit::FilesDescriptor;
use crate::materials;
use crate::policy::ReleasableImage;
use crate::publish::ResultLayout;
use crate::publish::oci::Descriptor;

/// Media type of an archive of files.
const TAR: &str = "application/x-tar";

/// The result of a build that gave an image.
#[must_use]
pub fn image(
    layout: &ResultLayout,
    image: &ReleasableImage,
    statement: &Statement,
    pushed: Vec<String>,
) -> v1::Result {
    let root = &layout.image().descriptor;
    let config = layout.config_digest().map(|digest| digest.to_string()).unwrap_or_default();
    v1::Result {
        image: Some(descriptor(root)),
        attached: layout.attached().iter().map(|artefact| descriptor(&artefact.descriptor)).collect(),
        index_json: layout.index_json().to_vec().into(),
        blobs: layout.blobs().iter().map(descriptor).collect(),
        metadata_json: metadata(root, &config, &pushed, image).into(),
        pushed,
        files: None,
        statement_digest: provenance::digest::Sha256Digest::of(&statement.document()).to_string(),
        materials: materials::summary(image.materials()),
        config_digest: config,
    }
}

/// The result of a build that gave files.
#[must_use]
pub fn files(files: &FilesDescriptor) -> v1::Result {
    let archive = Descriptor::new(TAR, files.digest, files.size);
    v1::Result {
        files: Some(descriptor(&archive)),
        blobs: vec![descriptor(&archive)],
        metadata_json: b"{}".to_vec().into(),
        ..Default::default()
    }
}

fn descriptor(descriptor: &Descriptor) -> v1::Descriptor {
    v1::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: descriptor.size,
        annotations: descriptor.annotations.clone(),
        artifact_type: descriptor.artifact_type.clone().unwrap_or_default(),
    }
}

/// The keys that `docker buildx build --metadata-file` writes.
fn metadata(root: &Descriptor, config: &str, pushed: &[String], image: &ReleasableImage) -> Vec<u8> {
    let mut metadata = serde_json::json!({
        "containerimage.descriptor": { "mediaType": root.media_type, "digest": root.digest.to_string(), "size": root.size },
        "containerimage.digest": root.digest.to_string(),
    });
    let provenance::request::Output::Image { names, .. } = &image.signed_request().request().output else {
        return serde_json::to_vec(&metadata).expect("texts and numbers always serialise");
    };
    if !config.is_empty() {
        metadata["containerimage.config.digest"] = config.into();
    }
    let names = if pushed.is_empty() { names } else { pushed };
    if !names.is_empty() {
        metadata["image.name"] = names.join(",").into();
    }
    serde_json::to_vec(&metadata).expect("texts and numbers always serialise")
}
