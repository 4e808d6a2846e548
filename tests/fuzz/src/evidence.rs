//! What the hardware or its host hands out.

use std::path::PathBuf;
use std::sync::LazyLock;

use provenance::azure::AzureEvidence;
use provenance::challenge::AttestationRequest;
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, EvidenceBundle, Platform, certificate_table};
use provenance::frame::{FrameReader, FrameWriter};
use provenance::project::ProjectId;
use provenance::secure_execution::{SecureExecutionEndorsements, SecureExecutionEvidence};
use provenance::tdx_endorsements::TdxEndorsements;
use provenance::timestamp::Timestamp;
use verifier::azure::PcrLog;
use verifier::policy::Policy;
use verifier::reliance::Grounds;
use verifier::secure_execution::{ExchangeRequest, ExchangeResponse, ImageTags, OwnRequest, ProtectionKey};
use verifier::secure_execution::{HostKeyAnchors, host_key};
use verifier::tdx::Quote;
use verifier::tdx::event_log::EventLog;
use verifier::tdx::quote::{body, header};
use verifier::{Endorsements, ProjectCertificates, appraise_certificates, snp};

/// Label of inputs that have several parts.
pub const PARTS: &str = "sealwright/fuzz/v1";

/// The framed parts of an input.
pub(crate) fn parts<const N: usize>(bytes: &[u8]) -> Option<[&[u8]; N]> {
    let mut reader = FrameReader::new(bytes, PARTS).ok()?;
    let mut parts = [&[][..]; N];
    for part in &mut parts {
        *part = reader.framed().ok()?;
    }
    reader.finish().ok()?;
    Some(parts)
}

/// A time that all certificates of the fixture are valid at.
pub(crate) static NOW: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::parse(String::from_utf8(good("now")).expect("text").trim()).expect("a time"));

/// A file of good Evidence, beside the seeds.
pub(crate) fn good(name: &str) -> Vec<u8> {
    let folder =
        PathBuf::from(std::env::var_os("SEALWRIGHT_FUZZ_GOOD").expect("SEALWRIGHT_FUZZ_GOOD is set"));
    std::fs::read(folder.join(name)).expect("good Evidence, which scripts/fuzz.sh makes")
}

/// Good Evidence of two guests of a platform, and the policy that accepts both.
struct Good {
    evidence: [Evidence; 2],
    policy: Policy,
}

impl Good {
    fn of(platform: &str) -> Self {
        let evidence = ["evidence", "other-evidence"].map(|name| {
            EvidenceBundle::parse(&good(&format!("{platform}-{name}"))).expect("a collection").evidence
        });
        let policy = String::from_utf8(good(&format!("{platform}-policy.toml"))).expect("text");
        Self { evidence, policy: Policy::parse(&policy, "policy.toml").expect("a policy") }
    }
}

static SNP: LazyLock<Good> = LazyLock::new(|| Good::of("snp"));
static TDX: LazyLock<Good> = LazyLock::new(|| Good::of("tdx"));
static SE: LazyLock<Good> = LazyLock::new(|| Good::of("se"));
/// The request that the good answer of Secure Execution is to, and its protection key.
static REQUEST: LazyLock<Vec<u8>> = LazyLock::new(|| good("se-request"));

fn protection_key() -> ProtectionKey {
    ProtectionKey::new(good("se-protection-key").try_into().expect("32 bytes"))
}

thread_local! {
    static OWN: OwnRequest = OwnRequest::open(&REQUEST, &protection_key()).expect("the good request");
}

pub(crate) fn snp_report(bytes: &[u8]) -> bool {
    let Ok(report) = snp::Report::parse(bytes) else { return false };
    assert_eq!(report.signed_bytes(), &bytes[..snp::report::SIGNED_LEN]);
    let signature = report.signature();
    let little_endian = |part: &[u8]| part.iter().rev().copied().collect::<Vec<u8>>();
    assert_eq!(little_endian(&signature[..48]), bytes[0x2a0..0x2d0]);
    assert_eq!(little_endian(&signature[48..]), bytes[0x2e8..0x318]);
    assert!(bytes[0x2d0..0x2e8].iter().chain(&bytes[0x318..]).all(|byte| *byte == 0), "unsigned bytes");
    true
}

pub(crate) fn snp_certificate_table(bytes: &[u8]) -> bool {
    let Ok(found) = certificate_table::parse(bytes) else { return false };
    let entries: Vec<([u8; 16], &[u8])> = found.iter().map(|(guid, der)| (*guid, der.as_slice())).collect();
    let used = certificate_table::used(bytes).expect("it parses");
    assert!(used <= bytes.len());
    if !entries.is_empty() {
        assert_eq!(certificate_table::parse(&certificate_table::encode(&entries)).as_ref(), Ok(&found));
        assert_eq!(certificate_table::parse(&bytes[..used]).as_ref(), Ok(&found), "the rest is padding");
    }
    true
}

/// Parts: report, endorsements, seconds (i64be) to shift the time by. What is accepted has the report that was made.
fn whole(good: &Good, bytes: &[u8], own: &[OwnRequest]) -> bool {
    let Some([report, endorsements, shift]) = parts::<3>(bytes) else { return false };
    let Ok(shift) = shift.try_into().map(i64::from_be_bytes) else { return false };
    let Ok(now) = Timestamp::from_unix(NOW.unix().saturating_add(shift)) else { return false };
    let platform = good.evidence[0].platform;
    let evidence = Evidence { platform, report: report.to_vec(), endorsements: endorsements.to_vec() };
    let grounds = Grounds { own_requests: own, ..Grounds::default() };
    let anchors = good.policy.anchors();
    let given = Endorsements::default();
    let judged = verifier::evidence::authenticate_with_grounds(&evidence, &given, grounds, anchors, now);
    let Ok(authentic) = judged else { return false };
    let unpadded = |quote: &[u8]| {
        let end = quote.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        quote[..end].to_vec()
    };
    let made = good.evidence.iter().any(|made| match platform {
        Platform::Tdx => unpadded(report) == unpadded(&made.report),
        Platform::SecureExecution => measured(report) == measured(&made.report),
        _ => report == made.report,
    });
    assert!(made, "an altered report is authentic");
    let _ = verifier::appraise(authentic, &good.policy);
    true
}

/// The answer, and of the image's header what it measures. Nobody looks at the rest of the header, and nothing signs it.
fn measured(evidence: &[u8]) -> Option<(Vec<u8>, ImageTags)> {
    let parsed = SecureExecutionEvidence::parse(evidence).ok()?;
    Some((parsed.response, ImageTags::of_header(&parsed.header).ok()?))
}

pub(crate) fn snp_evidence(bytes: &[u8]) -> bool {
    whole(&SNP, bytes, &[])
}

pub(crate) fn tdx_evidence(bytes: &[u8]) -> bool {
    whole(&TDX, bytes, &[])
}

pub(crate) fn se_evidence(bytes: &[u8]) -> bool {
    let framed = parts::<3>(bytes).and_then(|[report, ..]| SecureExecutionEvidence::parse(report).ok());
    if let Some(parsed) = framed {
        assert_eq!(parts::<3>(bytes).expect("read before")[0], parsed.encode());
    }
    OWN.with(|own| whole(&SE, bytes, std::slice::from_ref(own)))
}

pub(crate) fn tdx_quote(bytes: &[u8]) -> bool {
    let Ok(quote) = Quote::parse(bytes) else { return false };
    let signed = quote.signed_bytes();
    assert_eq!(signed, &bytes[..signed.len()]);
    assert_eq!(quote.version().to_le_bytes(), bytes[header::VERSION..header::VERSION + 2]);
    for (at, field) in [
        (body::MRTD, &quote.mrtd()[..]),
        (body::REPORTDATA, &quote.report_data()[..]),
        (body::RTMR0, &quote.rtmrs()[0][..]),
    ] {
        let start = quote.body_offset(at);
        assert_eq!(&bytes[start..start + field.len()], field);
    }
    let (chain, end) = quote.chain_range();
    assert_eq!(quote.pck_chain(), &bytes[chain..end]);
    true
}

pub(crate) fn tdx_endorsements(bytes: &[u8]) -> bool {
    let Ok(parsed) = TdxEndorsements::parse(bytes) else { return false };
    assert_eq!(parsed.map(|parsed| parsed.encode()).unwrap_or_default(), bytes);
    true
}

/// Parts: quote, TCB info, QE identity.
pub(crate) fn tdx_documents(bytes: &[u8]) -> bool {
    let Some([quote, tcb_info, qe_identity]) = parts::<3>(bytes) else { return false };
    verifier::fuzzing::tdx_documents(quote, tcb_info, qe_identity)
}

pub(crate) fn tdx_event_log(bytes: &[u8]) -> bool {
    let Ok(log) = EventLog::parse(bytes) else { return false };
    for event in log.events() {
        assert!(event.rtmr < 4 && event.offset < bytes.len());
        let within = bytes[event.offset..].windows(event.data.len().max(1));
        assert!(event.data.is_empty() || within.into_iter().any(|window| window == event.data));
    }
    let _ = log.replay();
    true
}

pub(crate) fn se_exchange(bytes: &[u8]) -> bool {
    let request = ExchangeRequest::parse(bytes);
    if let Ok(taken) = AttestationRequest::parse(bytes) {
        assert_eq!(Ok(taken.parts()), request);
    }
    let Ok(response) = ExchangeResponse::parse(bytes) else { return request.is_ok() };
    assert!(request.is_err(), "what is an answer is no request");
    let encoded = response.encode();
    assert_eq!(ExchangeResponse::parse(&encoded), Ok(response));
    true
}

pub(crate) fn se_request(bytes: &[u8]) -> bool {
    let Ok(own) = OwnRequest::open(bytes, &protection_key()) else { return false };
    assert!(own.bytes() == REQUEST.as_slice(), "an altered request opens");
    true
}

pub(crate) fn se_image_header(bytes: &[u8]) -> bool {
    let Ok(tags) = ImageTags::of_header(bytes) else { return false };
    assert_eq!(tags.tag()[..], bytes[bytes.len() - 16..]);
    assert_eq!(tags.as_bytes()[..192], bytes[0xe0..0x1a0]);
    true
}

pub(crate) fn se_endorsements(bytes: &[u8]) -> bool {
    let Ok(parsed) = SecureExecutionEndorsements::parse(bytes) else { return false };
    assert!(bytes.is_empty() || parsed.encode() == bytes);
    let given = Endorsements { certificates: parsed.certificates, crls: parsed.crls, tdx: vec![] };
    let anchors = HostKeyAnchors::vendor().dangerous_with_roots(SE.policy.anchors().dangerous());
    let judge = |document: &Vec<u8>| host_key::authenticate(document, &given, &anchors, *NOW).is_ok();
    // A few of many, or one input takes all the time.
    !parsed.host_keys.is_empty() && parsed.host_keys.iter().take(4).all(judge)
}

pub(crate) fn azure_evidence(bytes: &[u8]) -> bool {
    let Ok(parsed) = AzureEvidence::parse(bytes) else { return false };
    assert!(parsed.encode() == bytes, "another encoding of the same Evidence is accepted");
    true
}

pub(crate) fn azure_event_log(bytes: &[u8]) -> bool {
    let Ok(Some(log)) = PcrLog::parse(bytes) else { return false };
    for index in 0..24 {
        let extended = log.digests(index).count();
        assert!(extended > 0 || log.replay(index)[1..31].iter().all(|byte| [0, 0xff].contains(byte)));
    }
    true
}

/// Parts: report or quote, endorsements. What is asked of a vendor is read of Evidence that nobody has authenticated.
pub(crate) fn wanted_endorsements(bytes: &[u8]) -> bool {
    let Some([report, endorsements]) = parts::<2>(bytes) else { return false };
    [Platform::SevSnp, Platform::Tdx, Platform::AzSnp, Platform::AzTdx].into_iter().any(|platform| {
        let evidence = Evidence { platform, report: report.to_vec(), endorsements: endorsements.to_vec() };
        verifier::endorsements::wanted_endorsements(&evidence).is_ok()
    })
}

/// Whose certificates the good ones are.
static CERTIFIED: LazyLock<(Policy, ProjectId)> = LazyLock::new(|| {
    let text = |name| String::from_utf8(good(name)).expect("text");
    let policy = Policy::parse(&text("certificates-policy.toml"), "policy.toml").expect("a policy");
    let project = Sha256Digest::from_hex(&text("certificates-project")).expect("a digest");
    (policy, ProjectId(project))
});

/// Parts: certificate of a project and its key Evidence, certificate of the enclave CA and its key Evidence.
pub(crate) fn project_certificates(bytes: &[u8]) -> bool {
    let Some([certificate, key_evidence, authority_certificate, authority_evidence]) = parts::<4>(bytes)
    else {
        return false;
    };
    let given = ProjectCertificates { certificate, key_evidence, authority_certificate, authority_evidence };
    let (policy, project) = &*CERTIFIED;
    let none = Endorsements::default();
    let accepted = appraise_certificates(policy, given, project, (&none).into(), *NOW).is_ok();
    assert!(!accepted || certificate == good("certificates-project.der"), "another certificate is accepted");
    accepted
}

/// An input of these parts, for seeds.
#[must_use]
pub fn framed(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(FrameWriter::new(PARTS), |writer, part| writer.framed(part)).finish()
}
