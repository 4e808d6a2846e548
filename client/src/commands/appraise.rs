//! `sealwright appraise`: Evidence alone is judged, of a build server over a connection of its own or from a file. With
//! `--sign` the role of a Verifier: Evidence of Secure Execution that answers an own attestation request is judged, and
//! what was seen is signed for others.

use std::num::NonZeroU16;
use std::path::Path;

use client::channel::{SessionEvidence, UnappraisedChannel};
use client::key::CallerKey;
use client::progress::clean_text;
use client::session::now;
use provenance::evidence::MAX_COLLECTION;
use provenance::secure_execution::ATTESTATION_RESULT_PAYLOAD_TYPE;
use serde_json::{Value, json};
use verifier::appraisal::EvidenceInput;
use verifier::secure_execution::exchange::MAX_REQUEST;
use verifier::secure_execution::request::PROTECTION_KEY_LEN;
use verifier::secure_execution::{ExchangeRequest, OwnRequest, ProtectionKey, vouch};
use verifier::session::Connection;
use verifier::{Endorsements, Policy, appraise_evidence};
use zeroize::Zeroizing;

use super::args::AppraiseArgs;
use super::build::runtime;
use super::failure::Failure;
use super::output::Output;
use super::setup::{Setup, read_file};
use super::verify::{endorsements, paint};

/// First bytes of a request in the exchange format; a bare request begins with zeros.
const EXCHANGE_MAGIC: &[u8] = b"pvattest";

/// Judges and prints the verdict; with `--sign` signs instead.
pub(crate) fn run(args: &AppraiseArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let policy = setup.policy()?;
    let paths: Vec<_> = args.endorsements.iter().cloned().chain(setup.host_key_documents()).collect();
    let extra = endorsements(&paths)?;
    let own = match (&args.attestation_request, &args.attestation_request_key) {
        (Some(request), Some(key)) => Some(own_request(request, key)?),
        _ => None,
    };
    if let Some(key) = &args.sign {
        // Wanted together by the command line.
        let (Some(file), Some(own), Some(days)) = (&args.evidence, own, args.valid_for) else {
            return Err(Failure::usage("--sign needs EVIDENCE, --attestation-request and --valid-for"));
        };
        return sign(&Signing { key, file, days }, own, &extra, &policy, output);
    }
    let mut own: Vec<OwnRequest> = own.into_iter().collect();
    let (collection, connection) = match &args.evidence {
        Some(file) => (read_file(file, MAX_COLLECTION, "Evidence")?, None),
        None => {
            let (evidence, made) = ask(setup, &policy)?;
            own.extend(made);
            let SessionEvidence { collection, tls_spki_sha256, exporter, nonce } = evidence;
            (collection, Some(Connection { tls_spki_sha256, exporter, nonce }))
        }
    };
    let input =
        EvidenceInput { collection: &collection, own_requests: &own, connection: connection.as_ref() };
    let report = appraise_evidence(&policy, input, &extra, now());
    if let Some(file) = &args.ear {
        write_ear(file, &report.to_ear(), output)?;
    }
    if output.is_json() {
        output.document(&json!(report));
    } else {
        let text = clean_text(&report.to_string(), "") + "\n";
        output.data(&paint(&text, output.color_stdout()));
    }
    Ok(report.exit_code())
}

/// What is signed, with what, for how long.
struct Signing<'a> {
    key: &'a Path,
    file: &'a Path,
    days: u16,
}

/// Judges, signs, and prints the collection with the Attestation Result in it.
fn sign(
    signing: &Signing<'_>,
    own: OwnRequest,
    extra: &Endorsements,
    policy: &Policy,
    output: &Output,
) -> Result<u8, Failure> {
    let signer = CallerKey::load(signing.key)?;
    let evidence = read_file(signing.file, MAX_COLLECTION, "Evidence")?;
    let days = NonZeroU16::new(signing.days).ok_or_else(|| Failure::usage("--valid-for is 0 days"))?;
    let vouched = vouch(policy, &evidence, extra, own, days, now()).map_err(|rejection| {
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

/// Evidence of the build server in use, over a connection that ends with it, and the attestation request made for it.
fn ask(setup: &Setup, policy: &Policy) -> Result<(SessionEvidence, Vec<OwnRequest>), Failure> {
    let (endpoint, key, host_keys) = (setup.endpoint()?, setup.key_or_new()?, setup.host_keys()?);
    let asked = runtime()?.block_on(async {
        let channel = UnappraisedChannel::connect(&endpoint, &key).await?;
        channel.evidence_for(policy, host_keys.as_ref(), now()).await
    })?;
    Ok(asked)
}

/// Writes EAR claims.
pub(super) fn write_ear(file: &Path, claims: &Value, output: &Output) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(claims).unwrap_or_default();
    text.push('\n');
    std::fs::write(file, text)
        .map_err(|e| Failure::failed(format!("cannot write {}: {e}", file.display())))?;
    output.status("EAR", &format!("{}: the verdict as claims, not signed", file.display()));
    Ok(())
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
