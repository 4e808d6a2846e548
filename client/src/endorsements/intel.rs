//! Intel's Provisioning Certification Service, version 4:
//!
//! - `/tdx/certification/v4/tcb?fmspc=<12 hex digits>`: JSON, its signer's chain in header `TCB-Info-Issuer-Chain`
//! - `/tdx/certification/v4/qe/identity`: JSON, chain in `SGX-Enclave-Identity-Issuer-Chain`
//! - `/sgx/certification/v4/pckcrl?ca=platform|processor&encoding=der`: DER
//! - the revocation list of the root has a URL of its own, which stands in the root's certificate: DER
//!
//! Chains are percent-encoded PEM, signer first. Caching services give lists as hex digits.

use provenance::tdx_endorsements::{MAX_TDX_ENDORSEMENTS, TdxEndorsements};
use serde_json::Value;
use verifier::endorsements::WantedOfIntel;

use super::service::{Question, Service};
use super::{Answer, Asked, Collected, FetchError, Services, pem};

const TCB_INFO_CHAIN: &str = "TCB-Info-Issuer-Chain";
const IDENTITY_CHAIN: &str = "SGX-Enclave-Identity-Issuer-Chain";

pub(super) async fn collect(
    service: &Service,
    services: &Services,
    wanted: &WantedOfIntel,
) -> Result<Collected, FetchError> {
    let mut asked: Vec<Asked> = Vec::new();
    let base = &services.intel_pcs.0;
    let fmspc = hex::encode(wanted.fmspc);
    let tcb_info = Question {
        url: format!("{base}/tdx/certification/v4/tcb?fmspc={fmspc}"),
        chain: Some(TCB_INFO_CHAIN),
        ages: true,
        wanted: "a signed TCB info with its issuer's chain",
        form: |answer| document(answer, "tcbInfo"),
    };
    let identity = Question {
        url: format!("{base}/tdx/certification/v4/qe/identity"),
        chain: Some(IDENTITY_CHAIN),
        ages: true,
        wanted: "a signed QE identity with its issuer's chain",
        form: |answer| document(answer, "enclaveIdentity"),
    };
    let list = |url: String| Question {
        url,
        chain: None,
        ages: true,
        wanted: "a revocation list",
        form: |answer| pem::der(&answer.body).map(drop),
    };
    let pck_crl = list(format!("{base}/sgx/certification/v4/pckcrl?ca={}&encoding=der", wanted.ca.name()));
    let root_crl = list(services.intel_root_crl.0.clone());

    let (tcb_info, tcb_info_issuer_chain) = signed(service, &tcb_info, &mut asked).await?;
    let (qe_identity, qe_identity_issuer_chain) = signed(service, &identity, &mut asked).await?;
    let endorsements = TdxEndorsements {
        tcb_info,
        tcb_info_issuer_chain,
        qe_identity,
        qe_identity_issuer_chain,
        root_ca_crl: der(service, &root_crl, &mut asked).await?,
        pck_crl: der(service, &pck_crl, &mut asked).await?,
    };
    let bytes = endorsements.encode();
    if bytes.len() > MAX_TDX_ENDORSEMENTS {
        return Err(FetchError::Together { got: bytes.len(), limit: MAX_TDX_ENDORSEMENTS });
    }
    Ok(Collected { file_name: format!("intel-{fmspc}-{}.tdx", wanted.ca.name()), bytes, asked })
}

async fn signed(
    service: &Service,
    question: &Question,
    asked: &mut Vec<Asked>,
) -> Result<(Vec<u8>, Vec<u8>), FetchError> {
    let answer = service.ask(question, asked).await?;
    let chain = chain(&answer).map_err(|problem| not_the_form(question, problem))?;
    Ok((answer.body, chain))
}

async fn der(service: &Service, question: &Question, asked: &mut Vec<Asked>) -> Result<Vec<u8>, FetchError> {
    let answer = service.ask(question, asked).await?;
    pem::der(&answer.body).map_err(|problem| not_the_form(question, problem))
}

fn not_the_form(question: &Question, problem: String) -> FetchError {
    FetchError::Form { url: question.url.clone(), wanted: question.wanted, problem }
}

/// Whether a body is `{"<name>":{…},"signature":"…"}` with a chain beside it. The bytes are kept as they are: the
/// signature is over them.
fn document(answer: &Answer, name: &str) -> Result<(), String> {
    let body: Value =
        serde_json::from_slice(&answer.body).map_err(|problem| format!("it is not JSON: {problem}"))?;
    if !body[name].is_object() || !body["signature"].is_string() {
        return Err(format!("it has no `{name}` with a `signature` beside it"));
    }
    chain(answer).map(drop)
}

/// The chain as PEM.
fn chain(answer: &Answer) -> Result<Vec<u8>, String> {
    let pem = pem::percent_decoded(answer.chain.as_deref().unwrap_or_default())?;
    let blocks = pem::blocks(std::str::from_utf8(&pem).map_err(|_| "its chain is not text".to_owned())?)
        .map_err(|problem| format!("in its chain {problem}"))?;
    match blocks.len() {
        2 => Ok(pem),
        other => Err(format!("its chain has {other} certificates, wanted 2")),
    }
}
