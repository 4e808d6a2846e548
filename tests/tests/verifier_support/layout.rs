//! A build made by hand as an OCI layout, for the commands.

use std::path::Path;

use provenance::digest::Sha256Digest;
use provenance::evidence::CMW_MEDIA_TYPE;
use provenance::sigstore::BUNDLE_MEDIA_TYPE;
use serde_json::json;

use super::world::{MANIFEST_TYPE, Made, World};

/// The image with what is attached to it as an OCI layout.
pub(crate) fn write_layout(world: &World, made: &Made, root: &Path) {
    let blobs = root.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).expect("a directory");
    let blob = |bytes: &[u8], media_type: &str| {
        std::fs::write(blobs.join(Sha256Digest::of(bytes).hex()), bytes).expect("written");
        json!({"mediaType": media_type, "digest": Sha256Digest::of(bytes), "size": bytes.len()})
    };
    for bytes in &world.blobs {
        blob(bytes, "");
    }
    let image = blob(&world.manifest, MANIFEST_TYPE);
    let mut manifests = vec![image.clone()];
    let evidence = made.input.evidence.iter().map(|bytes| (bytes, CMW_MEDIA_TYPE));
    let signed = made.input.envelopes.iter().map(|bytes| (bytes, BUNDLE_MEDIA_TYPE));
    for (bytes, media_type) in evidence.chain(signed) {
        let referrer = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": media_type,
            "config": blob(b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [blob(bytes, media_type)], "subject": image,
        });
        let mut descriptor = blob(referrer.to_string().as_bytes(), MANIFEST_TYPE);
        descriptor["artifactType"] = media_type.into();
        manifests.push(descriptor);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    std::fs::write(root.join("index.json"), index.to_string()).expect("written");
    std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
}
