//! Secure Execution: answers to attestation requests, and host key documents.

use provenance::timestamp::Timestamp;
use serde_json::Value;
use verifier::Endorsements;
use verifier::secure_execution::host_key;
use verifier::secure_execution::{
    AuthenticHostKey, Claims, ExchangeResponse, HostKeyAnchors, HostKeyError, OwnRequest, ProtectionKey,
    authenticate_own_request, dangerous_authenticate_with_unchecked_host_keys,
};

use super::input::{Inputs, der, spki_sha256};
use super::reason::Refused;
use super::{Answer, Judged};

/// What is above a host key document.
pub struct Chain {
    /// DER: root, intermediate, signing key.
    pub certificates: [Vec<u8>; 3],
    /// Revocation lists, DER.
    pub crls: Vec<Vec<u8>>,
}

impl Chain {
    fn read(inputs: &mut Inputs<'_>) -> Result<Self, String> {
        let mut certificate = |name| der(&inputs.input(name)?);
        let certificates = [certificate("root")?, certificate("intermediate")?, certificate("signing_key")?];
        let crls = inputs.list("crls")?.iter().map(|crl| der(crl)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { certificates, crls })
    }

    /// As the verifier takes it, with the root as the pinned one.
    fn given(&self) -> Result<(Endorsements, HostKeyAnchors), String> {
        let anchors = HostKeyAnchors::vendor().dangerous_with_roots(&[spki_sha256(&self.certificates[0])?]);
        let (certificates, crls) = (self.certificates.to_vec(), self.crls.clone());
        Ok((Endorsements { certificates, crls, ..Endorsements::default() }, anchors))
    }
}

/// A host key document with what is above it.
pub struct RecordedDocument {
    /// DER.
    pub document: Vec<u8>,
    /// Above it.
    pub chain: Chain,
    /// The time to judge at.
    pub now: Timestamp,
}

impl RecordedDocument {
    pub(super) fn read(inputs: &mut Inputs<'_>) -> Result<Self, String> {
        let chain = Chain::read(inputs)?;
        Ok(Self { document: der(&inputs.input("hkd")?)?, chain, now: inputs.now()? })
    }

    /// What the verifier says; the outer error is of the recording.
    pub fn judge(&self) -> Result<Result<AuthenticHostKey, HostKeyError>, String> {
        let (endorsements, anchors) = self.chain.given()?;
        Ok(host_key::authenticate(&self.document, &endorsements, &anchors, self.now))
    }
}

/// An answer to an attestation request. The vectors hold no request but the one in the response, so that one counts as
/// remembered.
pub struct RecordedAnswer {
    /// Exchange format.
    pub response: Vec<u8>,
    /// Header of the image.
    pub header: Vec<u8>,
    /// Host key document, DER.
    pub document: Vec<u8>,
    /// Protection key of the request.
    pub key: [u8; 32],
    chain: Option<Chain>,
    /// The time to judge at.
    pub now: Timestamp,
}

impl RecordedAnswer {
    pub(super) fn read(inputs: &mut Inputs<'_>) -> Result<Self, String> {
        let response = inputs.input("response")?;
        let header = inputs.input("se_header")?;
        let document = der(&inputs.input("hkd")?)?;
        let key = inputs.input("arpk")?;
        let key =
            <[u8; 32]>::try_from(key).map_err(|key| format!("arpk has {} bytes, wanted 32", key.len()))?;
        let chain = if inputs.has("root") { Some(Chain::read(inputs)?) } else { None };
        Ok(Self { response, header, document, key, chain, now: inputs.now()? })
    }

    fn own(&self) -> Result<OwnRequest, Refused> {
        let parsed =
            ExchangeResponse::parse(&self.response).map_err(|error| Refused::Answer(error.into()))?;
        OwnRequest::open(parsed.request(), &ProtectionKey::new(self.key)).map_err(Refused::Request)
    }

    /// What the verifier reads of it where it accepts it, without a chain for the host key.
    pub fn claims_with_unchecked_host_keys(&self) -> Result<Claims, String> {
        let own = self.own().map_err(|refused| refused.to_string())?;
        let documents = std::slice::from_ref(&self.document);
        let (response, header) = (&self.response, &self.header);
        dangerous_authenticate_with_unchecked_host_keys(response, header, &own, documents, self.now)
            .map(|answer| answer.claims().clone())
            .map_err(|error| error.to_string())
    }

    fn judge(&self) -> Result<Judged, String> {
        let own = match self.own() {
            Ok(own) => own,
            Err(why) => return Ok(refused(why)),
        };
        let documents = std::slice::from_ref(&self.document);
        let (response, header, now) = (&self.response, &self.header, self.now);
        let judged = match &self.chain {
            None => dangerous_authenticate_with_unchecked_host_keys(response, header, &own, documents, now)
                .map(|answer| (Some("hkd_chain=unchecked"), fields(answer.claims()))),
            Some(chain) => {
                let (endorsements, anchors) = chain.given()?;
                authenticate_own_request(response, header, &own, documents, &endorsements, &anchors, now)
                    .map(|answer| (None, fields(answer.claims())))
            }
        };
        Ok(match judged {
            Ok((open, fields)) => Judged { answer: Answer::Accepted(open), fields },
            Err(error) => refused(Refused::Answer(error)),
        })
    }
}

fn refused(why: Refused) -> Judged {
    Judged { answer: Answer::Refused(why), fields: Vec::new() }
}

pub(super) fn judge_host_key(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    Ok(match RecordedDocument::read(inputs)?.judge()? {
        Ok(_) => Judged { answer: Answer::Accepted(None), fields: Vec::new() },
        Err(error) => refused(Refused::HostKey(error)),
    })
}

pub(super) fn judge_answer(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    RecordedAnswer::read(inputs)?.judge()
}

fn fields(claims: &Claims) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("cuid", Value::from(hex::encode(claims.config_uid()))),
        ("se_header_tag", Value::from(hex::encode(claims.image().tag()))),
        ("image_phkh", Value::from(claims.image_host_key().hex())),
        ("attestation_phkh", Value::from(claims.attestation_host_key().hex())),
        ("measurement_alg", Value::from(claims.measurement_algorithm())),
    ];
    fields.extend(claims.nonce().map(|nonce| ("arcb_nonce", Value::from(hex::encode(nonce)))));
    fields.extend(
        String::from_utf8(claims.user_data().to_vec())
            .ok()
            .map(|text| ("user_data_ascii", Value::from(text))),
    );
    fields
}
