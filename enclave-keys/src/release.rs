//! From a finished build to signatures: checked → bound by hardware → signed. Each step consumes the type of
//! the one before, so nothing can be signed without Evidence.

use provenance::binding::LeafBody;
use provenance::challenge::Challenge;
use provenance::digest::Sha256Digest;
use provenance::dsse::{Envelope, IN_TOTO_PAYLOAD_TYPE, pre_authentication_encoding};
use provenance::evidence::{EvidenceBundle, MAX_COLLECTION};
use provenance::instance::InstanceDocument;
use provenance::key::PublicKey;
use provenance::project::ProjectId;
use provenance::request::authenticate_request;
use provenance::sigstore::{cosign_sign_statement, simple_signing_payload};
use provenance::statement::{MAX_SUBJECTS, Statement};

use crate::batch::{Batcher, BoundLeaf};
use crate::error::KeyError;
use crate::interface::{ImageName, ReleaseRequest, Released, SignedImage};
use crate::releases::{Counted, Releases};
use crate::secret::SigningKey;

/// This instance, as statements must name it.
pub(crate) struct OwnInstance {
    pub(crate) document: Vec<u8>,
    pub(crate) sha256: Sha256Digest,
    pub(crate) parsed: InstanceDocument,
}

/// A statement of this instance about the caller's own request, and images it names.
pub(crate) struct CheckedRelease<'a> {
    request: ReleaseRequest,
    challenge: Challenge,
    counted: Counted<'a>,
}

/// The same with Evidence over key, nonce and statement.
pub(crate) struct BoundRelease<'a> {
    request: ReleaseRequest,
    evidence: Vec<u8>,
    counted: Counted<'a>,
}

impl<'a> CheckedRelease<'a> {
    /// Checks that statement, signed request, images and this instance belong together, and that the request may be
    /// released once more.
    pub(crate) fn check(
        request: ReleaseRequest,
        own: &OwnInstance,
        releases: &'a Releases,
    ) -> Result<Self, KeyError> {
        let statement = Statement::parse(&request.statement)?;
        let definition = &statement.predicate.build_definition;
        let run = &statement.predicate.run_details;

        let got = definition.internal_parameters.instance_digest;
        if got != own.sha256 {
            return Err(KeyError::Instance { expected: own.sha256, got });
        }
        if run.builder.id != own.parsed.builder_id {
            let expected = own.parsed.builder_id.clone();
            return Err(KeyError::BuilderId { expected, got: run.builder.id.clone() });
        }

        let caller = PublicKey::from_spki_der(&request.caller_key)?;
        let signed = authenticate_request(&request.signed_request, &caller)?;
        let external = &definition.external_parameters;
        if external.caller != signed.caller() {
            return Err(KeyError::Caller { expected: signed.caller(), got: external.caller });
        }
        if external.request_digest != signed.request_sha256() {
            let expected = signed.request_sha256();
            return Err(KeyError::RequestDigest { expected, got: external.request_digest });
        }
        let expected = signed.request().nonce;
        if request.nonce != expected {
            return Err(KeyError::Nonce { expected, got: request.nonce });
        }
        let expected = signed.request().project.id();
        if request.project != expected {
            return Err(KeyError::Project { expected: expected.0, got: request.project.0 });
        }
        let expected = format!("projects/{}/builds/{}", request.project, signed.request().build_id);
        if run.metadata.invocation_id != expected {
            return Err(KeyError::Invocation { expected, got: run.metadata.invocation_id.clone() });
        }

        let repositories = signed.request().output.repositories();
        if let Some(got) = statement.subject.iter().find(|it| !repositories.contains(&it.name.as_str())) {
            let expected = repositories.into_iter().map(str::to_owned).collect();
            return Err(KeyError::SubjectName { expected, got: got.name.clone() });
        }
        if request.images.len() > MAX_SUBJECTS {
            return Err(KeyError::TooManyImages { got: request.images.len() });
        }
        for image in &request.images {
            check_image(image, &statement)?;
        }
        let challenge = signed.request().attestation_request.clone().into();
        let counted = releases.count(&signed)?;
        Ok(Self { request, challenge, counted })
    }

    /// The project whose key signs.
    pub(crate) fn project(&self) -> &ProjectId {
        &self.request.project
    }

    /// Obtains Evidence over key, nonce and statement.
    pub(crate) fn bind(
        self,
        key: &SigningKey,
        own: &OwnInstance,
        batcher: &Batcher,
    ) -> Result<BoundRelease<'a>, KeyError> {
        let Self { request, challenge, counted } = self;
        let body = LeafBody::Build {
            spki_sha256: key.public().spki_sha256(),
            nonce: request.nonce,
            statement_sha256: Sha256Digest::of(&request.statement),
        };
        let BoundLeaf { evidence, leaf, proof } = batcher.bind(body, challenge)?;
        let bundle = EvidenceBundle {
            evidence,
            instance: own.document.clone(),
            leaf,
            proof,
            request: Some(request.signed_request.clone()),
            signing_key: Some(key.public().spki_der().to_vec()),
            caller_key: Some(request.caller_key.clone()),
            attestation_result: None,
            timestamp: None,
        };
        Ok(BoundRelease { request, evidence: readable(&bundle)?, counted })
    }
}

impl BoundRelease<'_> {
    /// Signs statement and images.
    pub(crate) fn sign(self, key: &SigningKey) -> Released {
        self.counted.done();
        let images = self.request.images.into_iter().map(|ImageName { repository, digest }| {
            let payload = simple_signing_payload(&repository, &digest);
            let signature = key.sign(&payload);
            SignedImage {
                simple_signing: (payload, signature),
                cosign_sign: sign_in_toto(key, cosign_sign_statement(&digest)),
                repository,
                digest,
            }
        });
        let images = images.collect();
        Released { evidence: self.evidence, provenance: sign_in_toto(key, self.request.statement), images }
    }
}

/// The collection as JSON (CMW), unless no verifier would read it.
pub(crate) fn readable(bundle: &EvidenceBundle) -> Result<Vec<u8>, KeyError> {
    let json = bundle.to_json();
    if json.len() > MAX_COLLECTION {
        return Err(KeyError::CollectionTooLong { got: json.len() });
    }
    Ok(json)
}

fn check_image(image: &ImageName, statement: &Statement) -> Result<(), KeyError> {
    let hex = image.digest.hex();
    let names: Vec<_> =
        statement.subject.iter().filter(|s| s.digest.sha256 == hex).map(|s| s.name.clone()).collect();
    if names.is_empty() {
        return Err(KeyError::NotASubject { digest: image.digest });
    }
    if !names.contains(&image.repository) {
        let got = image.repository.clone();
        return Err(KeyError::Repository { digest: image.digest, expected: names, got });
    }
    Ok(())
}

fn sign_in_toto(key: &SigningKey, payload: Vec<u8>) -> Envelope {
    let signature = key.sign(&pre_authentication_encoding(IN_TOTO_PAYLOAD_TYPE, &payload));
    Envelope { payload_type: IN_TOTO_PAYLOAD_TYPE.to_owned(), payload, signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use provenance::binding::InclusionProof;
    use provenance::evidence::{Evidence, Platform};

    #[test]
    fn a_collection_is_as_long_as_is_read_and_not_longer() {
        let with = |report: usize, instance: usize| EvidenceBundle {
            evidence: Evidence {
                platform: Platform::SevSnp,
                report: vec![0; report],
                endorsements: Vec::new(),
            },
            instance: vec![0; instance],
            leaf: Vec::new(),
            proof: InclusionProof { leaf_index: 0, tree_size: 1, hashes: Vec::new() },
            request: None,
            signing_key: None,
            caller_key: None,
            attestation_result: None,
            timestamp: None,
        };
        // Base64 takes four characters for three bytes; two fields together reach every length.
        let longest = (MAX_COLLECTION - with(0, 0).to_json().len()) / 4 * 3;
        let lengths: Vec<_> = (0..3)
            .flat_map(|instance| (longest - 4..longest + 4).map(move |report| (report, instance)))
            .map(|(report, instance)| readable(&with(report, instance)))
            .collect();
        let accepted = lengths.iter().filter_map(|json| json.as_ref().ok()).map(Vec::len).max();
        let refused = lengths.iter().filter_map(|json| match json {
            Err(KeyError::CollectionTooLong { got }) => Some(*got),
            _ => None,
        });
        assert_eq!((accepted, refused.min()), (Some(MAX_COLLECTION), Some(MAX_COLLECTION + 1)));
    }
}
