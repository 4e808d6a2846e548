//! SEV-SNP behind Azure's paravisor.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use provenance::evidence::{Evidence, Platform, certificate_table};
use serde::Deserialize;
use serde_json::Value;
use verifier::Endorsements;
use verifier::azure::{AzureEvidence, PCRS, offset};
use verifier::evidence::AuthenticationError;
use verifier::roots::{Anchors, Revocation};
use verifier::snp::Product;
use verifier::snp::report::REPORT_LEN;

use super::input::{Inputs, all_der};
use super::reason::Refused;
use super::{Answer, Judged};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    #[serde(rename = "platform")]
    _platform: String,
    evidence: Parts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    #[serde(rename = "version")]
    _version: Value,
    tpm_quote: TpmQuote,
    /// base64url.
    hcl_report: String,
    /// base64url of DER.
    vcek: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TpmQuote {
    /// All hex.
    signature: String,
    message: String,
    pcrs: Vec<String>,
}

pub(super) fn judge(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    let recorded: Recorded =
        serde_json::from_slice(&inputs.input("evidence")?).map_err(|error| format!("evidence: {error}"))?;
    let Parts { tpm_quote, hcl_report, vcek, .. } = recorded.evidence;
    let base64 = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("evidence: {error}"));
    let hexed = |text: &str| hex::decode(text).map_err(|error| format!("evidence: {error}"));
    let (hcl_report, vcek) = (base64(&hcl_report)?, base64(&vcek)?);
    let (quote, signature) = (hexed(&tpm_quote.message)?, hexed(&tpm_quote.signature)?);
    let pcr = |text: &String| {
        <[u8; 32]>::try_from(hexed(text)?).map_err(|pcr| format!("a PCR of {} bytes", pcr.len()))
    };
    let pcrs = tpm_quote.pcrs.iter().map(pcr).collect::<Result<Vec<_>, _>>()?;
    let pcrs = <[[u8; 32]; PCRS]>::try_from(pcrs).map_err(|pcrs| format!("{} PCRs", pcrs.len()))?;

    // AMD's own certificates do not come with the case; its VCEK names the product.
    let product = Product::ALL
        .into_iter()
        .find(|product| {
            let issuer = format!("SEV-{}", product.certificate_name());
            vcek.windows(issuer.len()).any(|window| window == issuer.as_bytes())
        })
        .ok_or("VCEK names no product")?;
    let suffix = if product == Product::Turin { "_vcek" } else { "" };
    let chain = all_der(&inputs.file(&format!("snp/roots/ask_ark_{}{suffix}.pem", product.name()))?)?;
    let [ask, ark] = chain.as_slice() else { return Err("chain is not ASK and ARK".to_owned()) };
    let table = certificate_table::encode(&[
        (certificate_table::VCEK, &vcek),
        (certificate_table::ASK, ask),
        (certificate_table::ARK, ark),
    ]);
    let evidence = Evidence {
        platform: Platform::AzSnp,
        report: AzureEvidence {
            hcl_report: hcl_report.clone(),
            td_quote: Vec::new(),
            quote,
            signature,
            pcrs,
            event_log: Vec::new(),
        }
        .encode(),
        endorsements: table.clone(),
    };
    let anchors = Anchors::vendor(&[product], Revocation::CrlIfPresent);
    let authentic = match verifier::authenticate(&evidence, &Endorsements::default(), &anchors, inputs.now()?)
    {
        Ok(authentic) => authentic,
        Err(AuthenticationError::Azure(error)) => {
            return Ok(Judged { answer: Answer::Refused(Refused::Azure(error)), fields: Vec::new() });
        }
        Err(error) => return Err(format!("an error of another platform: {error}")),
    };
    let authentic = authentic.az_snp().ok_or("evidence of another platform")?;
    let report = hcl_report[offset::HARDWARE_REPORT..offset::HARDWARE_REPORT + REPORT_LEN].to_vec();
    let mut fields = super::snp::fields(&report);
    fields.push(("extra_data", Value::from(hex::encode(authentic.extra_data()))));
    // The paravisor is judged as any SEV-SNP guest is.
    let evidence = Evidence { platform: Platform::SevSnp, report, endorsements: table };
    let answer = super::snp::judge_report(inputs, evidence)?;
    Ok(Judged { answer, fields })
}
