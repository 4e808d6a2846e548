//! Tags that several writers share: cosign's `.sig` and `.att`, and the referrers tag `sha256-<hex>`
//! (distribution-spec 1.1, "Referrers Tag Schema") of registries without the referrers API.
//!
//! Each is read, changed and written. Writers in this process take turns; against others the tag is read again
//! afterwards, and the change repeated when it got lost. What others put there stays.

use bytes::Bytes;
use provenance::digest::Sha256Digest;
use provenance::statement::PREDICATE_TYPE;
use provenance::timestamp::Timestamp;
use reqwest::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::client::{Attempts, Call, Failure, Registry, bounded_body, header};
use super::error::PushError;
use crate::publish::artefacts::{PREDICATE_TYPE_ANNOTATION, image_config};
use crate::publish::layout::StoredManifest;
use crate::publish::oci::{
    DOCKER_MANIFEST, Descriptor, IMAGE_CONFIG, IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST, to_json,
};

/// How often a change is made that another writer undoes.
const MAX_ROUNDS: u32 = 5;
/// Most attestations of one predicate type in an `.att` image; the oldest go when it is full. A digest that is
/// built again every night would otherwise outgrow what verifiers read.
const MAX_PROVENANCES: usize = 32;
/// Media types that may stand under a tag.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest as a registry gave it.
struct Seen {
    media_type: String,
    document: Value,
    etag: Option<String>,
}

/// What is to stand under a tag.
struct Change {
    media_type: &'static str,
    manifest: Vec<u8>,
    /// A new configuration that the manifest needs.
    config: Option<Vec<u8>>,
}

impl Registry {
    /// `PUT` of a manifest under a tag or digest. Says whether the registry keeps its subject (`OCI-Subject`).
    pub(super) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, PushError> {
        let mut attempts = Attempts::new(&self.settings.config);
        loop {
            match self.put_manifest_once(repository, reference, media_type, bytes, None).await {
                Ok(subject) => return Ok(subject),
                Err(failure) => attempts.pause_after(failure).await?,
            }
        }
    }

    async fn put_manifest_once(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
        condition: Option<&str>,
    ) -> Result<bool, Failure> {
        let call = Call {
            method: Method::PUT,
            url: self.url(repository, &format!("manifests/{reference}")),
            repository,
            action: format!("the upload of manifest `{reference}`"),
            accept: None,
            condition: condition.map(|etag| (IF_MATCH, etag)),
            content: Some((media_type, Bytes::copy_from_slice(bytes))),
            wanted: &[StatusCode::CREATED, StatusCode::OK],
        };
        let answer = self.attempt(&call).await?;
        self.same_digest(&call.action, &Sha256Digest::of(bytes), &answer)?;
        Ok(header(answer.headers(), "oci-subject").is_some())
    }

    /// Adds referrers of one subject to its referrers tag.
    pub(super) async fn add_to_referrers_tag(
        &self,
        repository: &str,
        subject: &Sha256Digest,
        referrers: &[Descriptor],
    ) -> Result<(), PushError> {
        let tag = format!("sha256-{}", subject.hex());
        self.change_tag(repository, &tag, |seen: Option<Seen>| {
            let mut index = match seen {
                Some(seen) if seen.media_type == IMAGE_INDEX => seen.document,
                Some(seen) => return Err(self.foreign(repository, &tag, &seen.media_type, "an image index")),
                None => json!({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []}),
            };
            let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
                return Err(self.foreign(repository, &tag, "an index without manifests", "an image index"));
            };
            let before = entries.len();
            for referrer in referrers {
                let digest = referrer.digest.to_string();
                if !entries.iter().any(|entry| entry["digest"] == digest) {
                    entries.push(serde_json::to_value(referrer).expect("string keys always serialise"));
                }
            }
            Ok((entries.len() > before).then(|| Change {
                media_type: IMAGE_INDEX,
                manifest: to_json(&index),
                config: None,
            }))
        })
        .await
    }

    /// Writes a `.sig` or `.att` image; signatures that are under the tag already stay.
    pub(super) async fn add_to_cosign_tag(
        &self,
        repository: &str,
        tag: &str,
        image: &StoredManifest,
        created: Timestamp,
    ) -> Result<(), PushError> {
        let ours: Value = serde_json::from_slice(&image.bytes).expect("the layout's manifest was parsed");
        self.change_tag(repository, tag, |seen: Option<Seen>| {
            let Some(seen) = seen else {
                return Ok(Some(Change {
                    media_type: IMAGE_MANIFEST,
                    manifest: image.bytes.clone(),
                    config: None,
                }));
            };
            if seen.media_type != IMAGE_MANIFEST && seen.media_type != DOCKER_MANIFEST {
                return Err(self.foreign(repository, tag, &seen.media_type, "an image manifest"));
            }
            let Some(layers) = merged_layers(&seen.document["layers"], &ours["layers"]) else {
                return Ok(None);
            };
            let digests = layers.iter().filter_map(|layer| layer["digest"].as_str()?.parse().ok());
            let config = image_config(digests, created);
            let mut merged = ours.clone();
            merged["config"] = serde_json::to_value(Descriptor::of(IMAGE_CONFIG, &config))
                .expect("string keys always serialise");
            merged["layers"] = Value::Array(layers);
            Ok(Some(Change { media_type: IMAGE_MANIFEST, manifest: to_json(&merged), config: Some(config) }))
        })
        .await
    }

    /// Read, change, write, read again, until the change stands: `change` gives `None` when nothing is missing.
    async fn change_tag(
        &self,
        repository: &str,
        tag: &str,
        change: impl Fn(Option<Seen>) -> Result<Option<Change>, PushError> + Send,
    ) -> Result<(), PushError> {
        let _turn = self.settings.turn(&self.host, repository, tag).await;
        for _ in 0..MAX_ROUNDS {
            let seen = self.manifest_at(repository, tag).await?;
            let etag = seen.as_ref().and_then(|seen| seen.etag.clone());
            let Some(Change { media_type, manifest: bytes, config }) = change(seen)? else {
                return Ok(());
            };
            if let Some(config) = config {
                self.put_small_blob(repository, &config).await?;
            }
            if bytes.len() as u64 > MAX_MANIFEST {
                return Err(self.shared_tag(
                    repository,
                    tag,
                    format!("would have {} bytes, at most {MAX_MANIFEST} are allowed", bytes.len()),
                ));
            }
            let mut attempts = Attempts::new(&self.settings.config);
            while let Err(failure) =
                self.put_manifest_once(repository, tag, media_type, &bytes, etag.as_deref()).await
            {
                // Another writer was faster, and the registry honours If-Match: the next round sees its change.
                if matches!(failure.error, PushError::Rejected { status: 412, .. }) {
                    break;
                }
                attempts.pause_after(failure).await?;
            }
        }
        // The last round's write has not been read back yet.
        match change(self.manifest_at(repository, tag).await?)? {
            None => Ok(()),
            Some(_) => Err(self.shared_tag(
                repository,
                tag,
                format!("other writers undid the change {MAX_ROUNDS} times"),
            )),
        }
    }

    async fn manifest_at(&self, repository: &str, tag: &str) -> Result<Option<Seen>, PushError> {
        let answer = self
            .call(&Call {
                method: Method::GET,
                url: self.url(repository, &format!("manifests/{tag}")),
                repository,
                action: format!("the question for tag `{tag}`"),
                accept: Some(ACCEPT),
                condition: None,
                content: None,
                wanted: &[StatusCode::OK, StatusCode::NOT_FOUND],
            })
            .await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned);
        let content_type =
            answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_owned();
        let body = bounded_body(answer, MAX_MANIFEST as usize).await.map_err(|problem| {
            self.shared_tag(repository, tag, format!("its manifest cannot be read: {problem}"))
        })?;
        let document = serde_json::from_slice(&body)
            .map_err(|e| self.shared_tag(repository, tag, format!("its manifest is no JSON: {e}")))?;
        Ok(Some(Seen { media_type, document, etag }))
    }

    /// A blob that fits in memory, without a file.
    async fn put_small_blob(&self, repository: &str, bytes: &[u8]) -> Result<(), PushError> {
        let digest = Sha256Digest::of(bytes);
        let mut attempts = Attempts::new(&self.settings.config);
        loop {
            let failure = match self.put_small_blob_once(repository, &digest, bytes).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            attempts.pause_after(failure).await?;
        }
    }

    async fn put_small_blob_once(
        &self,
        repository: &str,
        digest: &Sha256Digest,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let mut call = Call {
            method: Method::POST,
            url: self.url(repository, "blobs/uploads/"),
            repository,
            action: format!("the upload of blob {digest}"),
            accept: None,
            condition: None,
            content: None,
            wanted: &[StatusCode::ACCEPTED, StatusCode::CREATED],
        };
        let begun = self.attempt(&call).await?;
        let mut location = self.location(&call.action, &call.url, begun.headers())?;
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        call.method = Method::PUT;
        call.url = location;
        call.content = Some(("application/octet-stream", Bytes::copy_from_slice(bytes)));
        call.wanted = &[StatusCode::CREATED];
        let answer = self.attempt(&call).await?;
        self.same_digest(&call.action, digest, &answer)
    }

    fn shared_tag(&self, repository: &str, tag: &str, problem: String) -> PushError {
        PushError::SharedTag {
            registry: self.host.clone(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            problem,
        }
    }

    fn foreign(&self, repository: &str, tag: &str, got: &str, wanted: &str) -> PushError {
        let got: String = got.chars().take(100).collect();
        self.shared_tag(repository, tag, format!("holds `{got}`, wanted {wanted}"))
    }
}

/// Layers of a cosign image with ours added, or `None` when all of ours are there. Older provenances go when
/// there are too many.
fn merged_layers(present: &Value, ours: &Value) -> Option<Vec<Value>> {
    let empty = Vec::new();
    let ours = ours.as_array().unwrap_or(&empty);
    let mut layers = present.as_array().unwrap_or(&empty).clone();
    let same = |a: &Value, b: &Value| a["digest"] == b["digest"] && a["annotations"] == b["annotations"];
    let missing: Vec<Value> =
        ours.iter().filter(|our| !layers.iter().any(|layer| same(layer, our))).cloned().collect();
    if missing.is_empty() {
        return None;
    }
    layers.extend(missing);
    let is_provenance = |layer: &Value| layer["annotations"][PREDICATE_TYPE_ANNOTATION] == PREDICATE_TYPE;
    let mut surplus =
        layers.iter().filter(|layer| is_provenance(layer)).count().saturating_sub(MAX_PROVENANCES);
    layers.retain(|layer| {
        let goes = surplus > 0 && is_provenance(layer);
        surplus -= usize::from(goes);
        !goes
    });
    Some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, predicate: &str) -> Value {
        json!({"digest": digest, "annotations": {PREDICATE_TYPE_ANNOTATION: predicate}})
    }

    #[test]
    fn layers_of_others_stay_and_ours_are_added_once() {
        let present = json!([layer("a", "vuln")]);
        let ours = json!([layer("b", PREDICATE_TYPE)]);
        let merged = merged_layers(&present, &ours).expect("one is missing");
        assert_eq!(merged, [layer("a", "vuln"), layer("b", PREDICATE_TYPE)]);
        assert_eq!(merged_layers(&Value::Array(merged), &ours), None);
    }

    #[test]
    fn only_the_oldest_provenances_go_when_there_are_too_many() {
        let mut present = vec![layer("other", "vuln")];
        present.extend((0..MAX_PROVENANCES).map(|n| layer(&format!("old{n}"), PREDICATE_TYPE)));
        let merged =
            merged_layers(&Value::Array(present), &json!([layer("new", PREDICATE_TYPE)])).expect("missing");
        assert_eq!(merged.len(), MAX_PROVENANCES + 1);
        assert_eq!((&merged[0]["digest"], &merged[1]["digest"]), (&json!("other"), &json!("old1")));
        assert_eq!(merged[MAX_PROVENANCES]["digest"], "new");
    }
}
