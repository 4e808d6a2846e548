//! `sealwright appraise`: the role of a Verifier. Evidence of Secure Execution that answers an own attestation request is
//! judged, and what was seen is signed for others.

use std::num::NonZeroU16;
use std::path::Path;

use client::key::CallerKey;
use client::session::now;
use provenance::evidence::MAX_COLLECTION;
use provenance::secure_execution::ATTESTATION_RESULT_PAYLOAD_TYPE;
use verifier::secure_execution::exchange::MAX_REQUEST;
use verifier::secure_execution::request::PROTECTION_KEY_LEN;
use verifier::secure_execution::{ExchangeRequest, OwnRequest, ProtectionKey, vouch};
use zeroize::Zeroizing;

use super::args::AppraiseArgs;
use super::failure::Failure;
use super::output::Output;
use super::setup::{Setup, read_file};
use super::verify::endorsements;

/// First bytes of a request in the exchange format; a bare request begins with zeros.
const EXCHANGE_MAGIC: &[u8] = b"pvattest";

/// Judges, signs, and prints the collection with the Attestation Result in it.
pub(crate) fn run(args: &AppraiseArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let policy = setup.policy()?;
    let signer = CallerKey::load(&args.sign)?;
    let evidence = read_file(&args.evidence, MAX_COLLECTION, "Evidence")?;
    let paths: Vec<_> = args.endorsements.iter().cloned().chain(setup.host_key_documents()).collect();
    let extra = endorsements(&paths)?;
    let own = own_request(&args.attestation_request, &args.attestation_request_key)?;
    let days = NonZeroU16::new(args.valid_for).ok_or_else(|| Failure::usage("--valid-for is 0 days"))?;
    let vouched = vouch(&policy, &evidence, &extra, own, days, now()).map_err(|rejection| {
        let failure = Failure::new(rejection.class().exit_code(), "REFUSED", &rejection);
        let failure = match rejection.policy_place() {
            Some(place) => failure.at(place),
            None => failure,
        };
        rejection.advice().into_iter().fold(failure, Failure::advise)
    })?;
    let result = vouched.result();
    let (request, expires_at) = (result.request_sha256, result.expires_at);
    let envelope = signer.sign_envelope(ATTESTATION_RESULT_PAYLOAD_TYPE, result.document())?;
    let mark = if policy.is_dangerous() { "NOT HARDWARE: " } else { "" };
    output.status(
        "vouched",
        &format!(
            "{mark}the answer to {request} is accepted under policy {}; signed by {} until {expires_at}",
            policy.sha256(),
            signer.public().spki_sha256(),
        ),
    );
    let collection = vouched.into_collection(envelope.to_json());
    output.data(&(String::from_utf8_lossy(&collection) + "\n"));
    Ok(0)
}

/// The remembered request, opened with its key.
pub(super) fn own_request(request_file: &Path, key_file: &Path) -> Result<OwnRequest, Failure> {
    let file = read_file(request_file, MAX_REQUEST + 0x40, "attestation request")?;
    let request = if file.starts_with(EXCHANGE_MAGIC) {
        let parsed = ExchangeRequest::parse(&file);
        parsed.map_err(|error| Failure::usage(error).at(request_file.display()))?.request().to_vec()
    } else {
        file
    };
    let key = Zeroizing::new(read_file(key_file, PROTECTION_KEY_LEN, "protection key")?);
    let key: &[u8; PROTECTION_KEY_LEN] = key.as_slice().try_into().map_err(|_| {
        Failure::usage(format!("protection key has {} bytes, wanted {PROTECTION_KEY_LEN}", key.len()))
            .at(key_file.display())
    })?;
    OwnRequest::open(&request, &ProtectionKey::new(*key))
        .map_err(|error| Failure::usage(error).at(request_file.display()))
}
