//! TDX quotes, and the event logs that replay to them.

use provenance::evidence::{Evidence, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use serde::Deserialize;
use serde_json::Value;
use verifier::evidence::AuthenticationError;
use verifier::policy::TdxRegister;
use verifier::roots::is_intel_root;
use verifier::snp::Endorsements;
use verifier::tdx::event_log::EventLog;
use verifier::tdx::quote::td_attributes;
use verifier::tdx::{AuthenticQuote, Quote, QuoteError, TdxError, authenticate_signatures};
use verifier::{Policy, Reason};

use super::input::{Inputs, all_der, der, spki_sha256};
use super::reason::Refused;
use super::{Answer, Judged};

type Fields = Vec<(&'static str, Value)>;

/// What a case may change about the strict default.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Knobs {
    #[serde(default = "up_to_date")]
    allow_tcb_status: Vec<String>,
}

fn up_to_date() -> Vec<String> {
    vec!["UpToDate".to_owned()]
}

/// The strict default of the vectors, with what a case changes, for the TD with these registers.
fn policy(knobs: &Knobs, quote: Option<&Quote>) -> Result<Policy, String> {
    let tables = format!(
        "[tdx]
tcb_statuses = {:?}
minimum_tcb_evaluation_data_number = 0
modules = \"endorsed\"
# The vectors' default says nothing about other attributes than DEBUG and SEPT_VE_DISABLE.
attributes_allowed = [\"lass\", \"pks\", \"kl\", \"tpa\", \"perfmon\"]
xfam_allowed = 0x7fffffffffffffff
allow_td_1_0 = true
",
        knobs.allow_tcb_status
    );
    let registers = TdxRegister::ALL.map(|register| {
        let value = quote.map_or([0; 48], |quote| *register.of(quote));
        format!("{} = \"{}\"\n", register.name(), hex::encode(value))
    });
    super::policy::policy(
        "platforms = [\"tdx\"]\nroots = [\"intel-sgx\"]\nrevocation = \"crl-required\"",
        &tables,
        &format!("platform = \"tdx\"\n{}", registers.concat()),
    )
}

/// Intel's answers put together again around the exact inner value, revocation lists as DER.
fn endorsements(collateral: &[u8]) -> Result<TdxEndorsements, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct QuoteCollateral {
        tcb_info_issuer_chain: String,
        tcb_info: String,
        tcb_info_signature: String,
        qe_identity_issuer_chain: String,
        qe_identity: String,
        qe_identity_signature: String,
        root_ca_crl: String,
        pck_crl: String,
        #[serde(rename = "pck_crl_issuer_chain", default)]
        _pck_crl_issuer_chain: String,
        #[serde(rename = "pck_certificate_chain", default)]
        _pck_certificate_chain: Option<String>,
    }
    let it: QuoteCollateral =
        serde_json::from_slice(collateral).map_err(|error| format!("collateral: {error}"))?;
    let answer = |key: &str, value: &str, signature: &str| {
        format!("{{\"{key}\":{value},\"signature\":\"{signature}\"}}").into_bytes()
    };
    let list = |text: &str| hex::decode(text).map_err(|error| format!("collateral: {error}"));
    Ok(TdxEndorsements {
        tcb_info: answer("tcbInfo", &it.tcb_info, &it.tcb_info_signature),
        tcb_info_issuer_chain: it.tcb_info_issuer_chain.into_bytes(),
        qe_identity: answer("enclaveIdentity", &it.qe_identity, &it.qe_identity_signature),
        qe_identity_issuer_chain: it.qe_identity_issuer_chain.into_bytes(),
        root_ca_crl: list(&it.root_ca_crl)?,
        pck_crl: list(&it.pck_crl)?,
    })
}

pub(super) fn judge(inputs: &mut Inputs<'_>) -> Result<Judged, String> {
    let bytes = inputs.input("quote")?;
    let quote = read_leniently(&bytes);
    let mut fields = quote.as_ref().map(quote_fields).unwrap_or_default();
    if inputs.has("event_log") {
        let log = inputs.input("event_log")?;
        let replayed = replay(&log, quote.as_ref().ok_or("quote does not parse")?, &mut fields);
        if let Some(answer) = replayed {
            return Ok(Judged { answer: Answer::Refused(answer), fields });
        }
        // Without a time there is nothing to judge but the replay.
        if inputs.optional_now().is_none() {
            return Ok(Judged { answer: Answer::Accepted(Some("the replay alone")), fields });
        }
    }
    let evidence = evidence(inputs)?;
    let policy = policy_for(inputs, &evidence)?;
    let now = inputs.now()?;
    let refused = |reason: Reason| Answer::Refused(Refused::Evidence(reason));
    let answer = match verifier::authenticate(&evidence, &Endorsements::default(), policy.anchors(), now) {
        Ok(authentic) => {
            fields.extend(authentic.tdx().map(judged_fields).into_iter().flatten());
            match verifier::appraise(authentic, &policy) {
                Ok(_) => Answer::Accepted(None),
                Err(error) => refused(error.into()),
            }
        }
        Err(error) => {
            let missing = matches!(error, AuthenticationError::Tdx(TdxError::MissingEndorsements { .. }));
            match authenticate_signatures(&evidence.report, policy.anchors(), now) {
                Ok(signed) => fields.push(("fmspc", Value::from(hex::encode(signed.platform().fmspc)))),
                Err(_) => {
                    fields.extend(quote.as_ref().and_then(|quote| unchecked_fmspc(&evidence.report, quote)))
                }
            }
            if missing {
                fields.push(("tcb_status", Value::from("Unknown")));
                Answer::TcbUnknown(Refused::Evidence(error.into()))
            } else {
                refused(error.into())
            }
        }
    };
    Ok(Judged { answer, fields })
}

/// Quote and collateral of a case.
pub(super) fn evidence(inputs: &mut Inputs<'_>) -> Result<Evidence, String> {
    let root = inputs.input("root")?;
    let root = spki_sha256(&der(&root)?)?;
    if !is_intel_root(&root) {
        return Err(format!("root {root} is not Intel's, which the strict default pins"));
    }
    let endorsements =
        if inputs.has("collateral") { Some(endorsements(&inputs.input("collateral")?)?) } else { None };
    Ok(Evidence {
        platform: Platform::Tdx,
        report: inputs.input("quote")?,
        endorsements: endorsements.map(|endorsements| endorsements.encode()).unwrap_or_default(),
    })
}

/// The policy of a case; registers are not part of the strict default, so the quote's own are those accepted.
pub(super) fn policy_for(inputs: &mut Inputs<'_>, evidence: &Evidence) -> Result<Policy, String> {
    policy(&inputs.knobs()?, read_leniently(&evidence.report).as_ref())
}

/// Reads a quote that may be refused for bytes that follow it: those are left out.
fn read_leniently(bytes: &[u8]) -> Option<Quote> {
    match Quote::parse(bytes) {
        Err(QuoteError::Trailing { offset, .. }) => Quote::parse(bytes.get(..offset)?).ok(),
        parsed => parsed.ok(),
    }
}

/// Replays a log; the reason when it is none, or not that of the quote.
fn replay(log: &[u8], quote: &Quote, fields: &mut Fields) -> Option<Refused> {
    let log = match EventLog::parse(log) {
        Ok(log) => log,
        Err(error) => return Some(Refused::EventLog(error)),
    };
    let replayed = log.replay();
    let matches: Vec<bool> = replayed.iter().zip(quote.rtmrs()).map(|(got, wanted)| got == wanted).collect();
    fields.push(("rtmrs_match", Value::from(matches)));
    log.check_against(quote).err().map(Refused::EventLog)
}

/// Everything that a quote says, whoever made it.
fn quote_fields(quote: &Quote) -> Fields {
    let attributes = quote.td_attributes();
    let bit = |bit: u64| Value::from(attributes & bit != 0);
    let hex_of = |bytes: &[u8]| Value::from(hex::encode(bytes));
    let mut fields = vec![
        ("version", Value::from(quote.version())),
        ("ak_type", Value::from(quote.attestation_key_type())),
        ("tee_type", Value::from(format!("{:#x}", quote.tee_type()))),
        ("body_type", Value::from(quote.body_type().number())),
        ("tee_tcb_svn", hex_of(quote.tee_tcb_svn())),
        ("mrseam", hex_of(quote.mrseam())),
        ("mrsignerseam", hex_of(quote.mrsignerseam())),
        ("seamattributes", hex_of(quote.seam_attributes())),
        ("td_attributes", hex_of(&attributes.to_le_bytes())),
        ("xfam", hex_of(&quote.xfam().to_le_bytes())),
        ("report_data", hex_of(quote.report_data())),
        ("debug", bit(1)),
        ("sept_ve_dis", bit(td_attributes::SEPT_VE_DISABLE)),
        ("migratable", bit(td_attributes::MIGRATABLE)),
        ("pks", bit(td_attributes::PKS)),
        ("perfmon", bit(td_attributes::PERFMON)),
    ];
    fields.extend(TdxRegister::ALL.map(|register| (register.name(), hex_of(register.of(quote)))));
    fields.extend(quote.tee_tcb_svn2().map(|svn| ("tee_tcb_svn2", hex_of(svn))));
    fields.extend(quote.mrservicetd().map(|services| ("mrservicetd", hex_of(services))));
    fields
}

/// What an authentic quote says beyond its own bytes.
fn judged_fields(quote: &AuthenticQuote) -> Fields {
    vec![
        ("fmspc", Value::from(hex::encode(quote.platform().fmspc))),
        ("tcb_status", Value::from(quote.tcb().status.name())),
        ("advisory_ids", Value::from(quote.tcb().advisory_ids.clone())),
    ]
}

/// FMSPC as the PCK certificate in a quote has it whose signatures do not hold: OCTET STRING of 6 bytes after
/// 1.2.840.113741.1.13.1.4.
fn unchecked_fmspc(bytes: &[u8], quote: &Quote) -> Option<(&'static str, Value)> {
    const FMSPC: [u8; 14] =
        [0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01, 0x04, 0x04, 0x06];
    let (start, end) = quote.chain_range();
    let pck = all_der(bytes.get(start..end)?).ok()?.into_iter().next()?;
    let at = FMSPC.len() + pck.windows(FMSPC.len()).position(|window| window == FMSPC)?;
    Some(("fmspc", Value::from(hex::encode(pck.get(at..at + 6)?))))
}
