//! TDX Evidence for the crate `dcap-qvl`.

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use provenance::evidence::Evidence;
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;

/// Endorsements in the crate's form; the issuers of the PCK certificate's revocation list are those in the quote.
pub fn collateral(evidence: &Evidence) -> Result<QuoteCollateralV3, String> {
    let endorsements = endorsements(evidence)?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|error| error.to_string());
    let (tcb_info, tcb_info_signature) = split(&endorsements.tcb_info, "tcbInfo")?;
    let (qe_identity, qe_identity_signature) = split(&endorsements.qe_identity, "enclaveIdentity")?;
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: issuers_in_quote(&evidence.report)?,
        root_ca_crl: endorsements.root_ca_crl,
        pck_crl: endorsements.pck_crl,
        tcb_info_issuer_chain: text(endorsements.tcb_info_issuer_chain)?,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: text(endorsements.qe_identity_issuer_chain)?,
        qe_identity,
        qe_identity_signature,
        pck_certificate_chain: None,
    })
}

pub(crate) fn endorsements(evidence: &Evidence) -> Result<TdxEndorsements, String> {
    TdxEndorsements::parse(&evidence.endorsements)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "no collateral".to_owned())
}

/// The exact inner value, and the signature over it.
fn split(answer: &[u8], key: &str) -> Result<(String, Vec<u8>), String> {
    let text = std::str::from_utf8(answer).map_err(|error| error.to_string())?;
    let (value, signature) = text
        .strip_prefix(&format!("{{\"{key}\":"))
        .and_then(|rest| rest.strip_suffix("\"}"))
        .and_then(|rest| rest.rsplit_once(",\"signature\":\""))
        .ok_or_else(|| format!("no answer with `{key}`"))?;
    Ok((value.to_owned(), hex::decode(signature).map_err(|error| error.to_string())?))
}

/// PEM of all certificates in the quote but the first.
pub(crate) fn issuers_in_quote(quote: &[u8]) -> Result<String, String> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let find = |from: usize, what: &[u8]| {
        quote.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
    };
    let range = || {
        let leaf = find(0, BEGIN)?;
        let start = find(leaf + BEGIN.len(), BEGIN)?;
        let mut end = start;
        while let Some(at) = find(end, END) {
            end = at + END.len();
        }
        Some(start..end)
    };
    let range = range().ok_or("the quote holds no chain")?;
    Ok(format!("{}\n", String::from_utf8_lossy(&quote[range])))
}

/// Full verification: the converged TCB status, or why the crate refuses.
pub fn dcap_qvl(
    evidence: &Evidence,
    collateral: &QuoteCollateralV3,
    now: Timestamp,
) -> Result<String, String> {
    let now = u64::try_from(now.unix()).map_err(|error| error.to_string())?;
    let verifier = QuoteVerifier::new_prod();
    let report = verifier.verify(&evidence.report, collateral, now).map_err(|error| format!("{error:#}"))?;
    Ok(report.status)
}
