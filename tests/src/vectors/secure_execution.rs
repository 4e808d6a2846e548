//! Secure Execution: answers to attestation requests, and host key documents.

use serde_json::Value;
use verifier::Endorsements;
use verifier::secure_execution::host_key;
use verifier::secure_execution::{
    Claims, ExchangeResponse, HostKeyAnchors, OwnRequest, ProtectionKey, authenticate_own_request,
    dangerous_authenticate_with_unchecked_host_keys,
};

use super::input::{Inputs, der, spki_sha256};
use super::reason::Refused;
use super::{Answer, Judged};

/// Chain and revocation lists of a case, and the root that it gives as the pinned one.
fn chain(inputs: &mut Inputs<'_>) -> Result<(Endorsements, HostKeyAnchors), String> {
    let certificates = ["root", "intermediate", "signing_key"]
        .into_iter()
        .map(|name| der(&inputs.input(name)?))
        .collect::<Result<Vec<_>, _>>()?;
    let crls = inputs.list("crls")?.iter().map(|crl| der(crl)).collect::<Result<Vec<_>, _>>()?;
    let anchors = HostKeyAnchors::vendor().dangerous_with_roots(&[spki_sha256(&certificates[0])?]);
    Ok((Endorsements { certificates, crls, ..Endorsements::default() }, anchors))
}

pub(super) fn judge_host_key(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    let (endorsements, anchors) = chain(inputs)?;
    let document = der(&inputs.input("hkd")?)?;
    let answer = match host_key::authenticate(&document, &endorsements, &anchors, inputs.now()?) {
        Ok(_) => Answer::Accepted(None),
        Err(error) => Answer::Refused(Refused::HostKey(error)),
    };
    Ok(Judged { answer, fields: Vec::new() })
}

/// The vectors hold no request but the one in the response, so that one counts as remembered.
pub(super) fn judge_answer(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    let response = inputs.input("response")?;
    let header = inputs.input("se_header")?;
    let documents = [der(&inputs.input("hkd")?)?];
    let key = inputs.input("arpk")?;
    let key = <[u8; 32]>::try_from(key).map_err(|key| format!("arpk has {} bytes, wanted 32", key.len()))?;
    let chain = if inputs.has("root") { Some(chain(inputs)?) } else { None };
    let now = inputs.now()?;
    let refused = |why| Ok(Judged { answer: Answer::Refused(why), fields: Vec::new() });

    let own = match ExchangeResponse::parse(&response) {
        Ok(parsed) => match OwnRequest::open(parsed.request(), &ProtectionKey::new(key)) {
            Ok(own) => own,
            Err(error) => return refused(Refused::Request(error)),
        },
        Err(error) => return refused(Refused::Answer(error.into())),
    };
    match chain {
        None => {
            match dangerous_authenticate_with_unchecked_host_keys(&response, &header, &own, &documents, now) {
                Ok(answer) => Ok(Judged {
                    answer: Answer::Accepted(Some("hkd_chain=unchecked")),
                    fields: fields(answer.claims()),
                }),
                Err(error) => refused(Refused::Answer(error)),
            }
        }
        Some((endorsements, anchors)) => {
            match authenticate_own_request(&response, &header, &own, &documents, &endorsements, &anchors, now)
            {
                Ok(answer) => Ok(Judged { answer: Answer::Accepted(None), fields: fields(answer.claims()) }),
                Err(error) => refused(Refused::Answer(error)),
            }
        }
    }
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
