//! Evidence recorded on an Azure confidential machine with SEV-SNP, and altered copies; and the same paravisor as if it
//! stood on TDX.
//!
//! The vectors are not part of the repository. `SEALWRIGHT_VECTORS` names their directory, by default
//! `../shared/vectors` beside the repository. Without them the tests are skipped with a message, but fail in CI.

mod se_support;
#[path = "../../tests/src/software_tee/tdx/fixture.rs"]
mod tdx_fixture;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use provenance::binding::ReportData;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use se_support::{cases, input, now, read, vectors};
use serde_json::Value;
use tdx_fixture::{Made, Recipe};
use verifier::Endorsements;
use verifier::azure::{self, AuthenticQuote, AzureError, AzureEvidence, PCRS, offset};
use verifier::roots::{Anchors, Revocation, Root};
use verifier::snp::{CertificateName, Product, SnpError};
use verifier::tdx;
use verifier::tdx::quote::body;

/// End of the runtime data of the recorded report.
const END: usize = 2346;

#[derive(Clone)]
struct Recorded {
    hcl_report: Vec<u8>,
    quote: Vec<u8>,
    signature: Vec<u8>,
    pcrs: [[u8; 32]; PCRS],
    extra: Endorsements,
    now: Timestamp,
}

impl Recorded {
    fn read() -> Option<Self> {
        let dir = vectors()?;
        let cases = cases(&dir, "az-snp");
        let [case] = cases.as_slice() else { panic!("{} cases: say here what each must give", cases.len()) };
        assert_eq!((&case["id"], &case["verdict"]), (&Value::from("az-snp-live"), &Value::from("accept")));
        let recorded: Value = serde_json::from_slice(&input(&dir, case, "evidence")).expect("JSON");
        let evidence = &recorded["evidence"];
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let hexed = |value: &Value| hex::decode(text(value)).expect("hex");
        let base64 = |value: &Value| URL_SAFE_NO_PAD.decode(text(value)).expect("base64");
        let pcrs: Vec<[u8; 32]> = evidence["tpm_quote"]["pcrs"]
            .as_array()
            .expect("PCRs")
            .iter()
            .map(|pcr| hexed(pcr).try_into().expect("32 bytes"))
            .collect();
        let chain = String::from_utf8(read(&dir, "snp/roots/ask_ark_milan.pem")).expect("PEM");
        let mut certificates: Vec<Vec<u8>> = chain
            .split("-----BEGIN CERTIFICATE-----")
            .skip(1)
            .map(|part| {
                let body: String =
                    part.split("-----END").next().expect("an end").split_whitespace().collect();
                STANDARD.decode(body).expect("base64")
            })
            .collect();
        certificates.push(base64(&evidence["vcek"]));
        Some(Self {
            hcl_report: base64(&evidence["hcl_report"]),
            quote: hexed(&evidence["tpm_quote"]["message"]),
            signature: hexed(&evidence["tpm_quote"]["signature"]),
            pcrs: pcrs.try_into().expect("24 PCRs"),
            extra: Endorsements { certificates, ..Endorsements::default() },
            now: now(case),
        })
    }

    fn judge(&self) -> Result<AuthenticQuote, AzureError> {
        let evidence = self.evidence(&[]);
        let anchors = Anchors::vendor(&[Product::Milan], Revocation::CrlIfPresent);
        azure::authenticate(&evidence, &[], &self.extra, &anchors, self.now)
    }

    fn evidence(&self, td_quote: &[u8]) -> AzureEvidence {
        AzureEvidence {
            hcl_report: self.hcl_report.clone(),
            td_quote: td_quote.to_vec(),
            quote: self.quote.clone(),
            signature: self.signature.clone(),
            pcrs: self.pcrs,
            event_log: Vec::new(),
        }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.hcl_report[at..at + 4].try_into().expect("four bytes"))
    }
}

#[test]
fn the_recorded_evidence_is_authentic() {
    let Some(good) = Recorded::read() else { return };
    let quote = good.judge().expect("authentic");
    assert_eq!(quote.report().root(), Root::Amd(Product::Milan));
    assert_eq!(quote.report().report().vmpl(), 0);
    assert_eq!(quote.extra_data(), b"attestation-test-fixture");
    assert_eq!(quote.runtime_data(), &good.hcl_report[offset::RUNTIME_DATA..END]);
    for index in 0..PCRS {
        assert_eq!(quote.pcr(index), Some(&good.pcrs[index]));
    }
    assert_eq!(quote.pcr(PCRS), None);
    let report_data = ReportData([7; 64]);
    assert_eq!(
        quote.check_report_data(&report_data),
        Err(AzureError::ExtraData {
            got: hex::encode(b"attestation-test-fixture"),
            wanted: Sha256Digest::of(&[7; 64]).hex(),
        })
    );
}

#[test]
fn every_byte_of_an_hcl_report_counts_and_each_has_its_error() {
    let Some(good) = Recorded::read() else { return };
    assert_eq!(good.judge().map(|_| ()), Ok(()));
    let check = |range: std::ops::Range<usize>, wanted: &dyn Fn(usize, &Recorded) -> AzureError| {
        for at in range {
            let mut altered = good.clone();
            altered.hcl_report[at] ^= 1 << (at % 8);
            assert_eq!(altered.judge().err(), Some(wanted(at, &altered)), "byte {at:#x}");
        }
    };
    for (field, at, wanted) in [
        ("signature", offset::SIGNATURE, "`HCLA`"),
        ("version", offset::VERSION, "1 or 2"),
        ("request type", offset::REQUEST_TYPE, "2, attestation"),
        ("runtime version", offset::RUNTIME_VERSION, "1 or 2"),
        ("report type", offset::REPORT_TYPE, "2, SEV-SNP"),
        ("hash type", offset::HASH_TYPE, "1, SHA-256"),
    ] {
        check(at..at + 4, &|_, altered| AzureError::Field {
            field,
            got: altered.word(at),
            wanted,
            offset: at,
        });
    }
    for (field, at, wanted) in [
        ("report size", offset::REPORT_SIZE, END),
        ("runtime size", offset::RUNTIME_SIZE, END - offset::RUNTIME_SIZE),
    ] {
        check(at..at + 4, &|_, altered| AzureError::Size {
            field,
            got: altered.word(at),
            wanted,
            offset: at,
        });
    }
    check(offset::RUNTIME_DATA_SIZE..offset::RUNTIME_DATA, &|_, altered| {
        let got = altered.word(offset::RUNTIME_DATA_SIZE);
        let left = good.hcl_report.len() - offset::RUNTIME_DATA;
        if got > u32::try_from(left).expect("small") {
            return AzureError::RuntimeDataLength { got, wanted: left };
        }
        let end = offset::RUNTIME_DATA + usize::try_from(got).expect("small");
        let stated = u32::try_from(END).expect("small");
        AzureError::Size { field: "report size", got: stated, wanted: end, offset: offset::REPORT_SIZE }
    });
    let not_zero =
        |at: usize, altered: &Recorded| AzureError::NotZero { offset: at, got: altered.hcl_report[at] };
    check(offset::STATUS..offset::HARDWARE_REPORT, &not_zero);
    check(END..good.hcl_report.len(), &not_zero);
    let report_data = &good.hcl_report[offset::HARDWARE_REPORT + 0x50..][..32];
    check(offset::RUNTIME_DATA..END, &|_, altered| AzureError::RuntimeDataHash {
        got: hex::encode(report_data),
        wanted: Sha256Digest::of(&altered.hcl_report[offset::RUNTIME_DATA..END]).hex(),
    });
    // The signed part of the report, but for what is looked at before the signature: version, algorithm, key, and
    // where a broken signature is told as another chip's or another TCB's certificate.
    let signed = offset::HARDWARE_REPORT + 0x50..offset::HARDWARE_REPORT + 0x180;
    check(signed, &|_, _| SnpError::Signature { which: CertificateName::Vcek }.into());
    for at in offset::HARDWARE_REPORT..offset::RUNTIME_SIZE {
        let mut altered = good.clone();
        altered.hcl_report[at] ^= 1 << (at % 8);
        assert!(matches!(altered.judge(), Err(AzureError::Snp(_))), "byte {at:#x}");
    }
    for length in [0, offset::RUNTIME_DATA - 1, 0x4001] {
        let altered = Recorded { hcl_report: vec![0; length], ..good.clone() };
        assert_eq!(altered.judge().err(), Some(AzureError::Length { got: length }));
    }
}

#[test]
fn every_byte_of_quote_signature_and_pcrs_counts() {
    let Some(good) = Recorded::read() else { return };
    for at in 0..good.quote.len() {
        let mut altered = good.clone();
        altered.quote[at] ^= 1 << (at % 8);
        assert_eq!(altered.judge().err(), Some(AzureError::Signature), "byte {at:#x} of the quote");
    }
    for at in 0..good.signature.len() {
        let mut altered = good.clone();
        altered.signature[at] ^= 1 << (at % 8);
        assert_eq!(altered.judge().err(), Some(AzureError::Signature), "byte {at:#x} of the signature");
    }
    let got = hex::encode(&good.quote[good.quote.len() - 32..]);
    for index in 0..PCRS {
        let mut altered = good.clone();
        altered.pcrs[index][31] ^= 1;
        let wanted = Sha256Digest::of(&altered.pcrs.concat()).hex();
        assert_eq!(
            altered.judge().err(),
            Some(AzureError::PcrDigest { got: got.clone(), wanted }),
            "PCR {index}"
        );
    }
    let mut long = good.clone();
    long.quote.resize(0x1000, 0);
    assert_eq!(long.judge().err(), Some(AzureError::Signature));
    long.quote.resize(0x1001, 0);
    assert_eq!(long.judge().err(), Some(AzureError::QuoteTooLong { got: 0x1001 }));
    let mut other = good;
    other.extra.certificates.pop();
    let which = CertificateName::Vcek;
    assert_eq!(other.judge().err(), Some(SnpError::MissingCertificate { which }.into()));
}

/// The recorded paravisor as if it stood on TDX: its runtime data and TPM, with a TD report and a quote made of it under
/// a fixture root. NOT HARDWARE: no genuine one is public.
#[derive(Clone)]
struct OnTdx {
    recorded: Recorded,
    recipe_report_data: [u8; 64],
}

impl OnTdx {
    fn read() -> Option<Self> {
        let mut recorded = Recorded::read()?;
        let mut report_data = [0; 64];
        let runtime_data = &recorded.hcl_report[offset::RUNTIME_DATA..END];
        report_data[..32].copy_from_slice(Sha256Digest::of(runtime_data).as_bytes());
        recorded.hcl_report[offset::HARDWARE_REPORT..offset::RUNTIME_SIZE].fill(0x77);
        recorded.hcl_report[offset::REPORT_TYPE] = 4;
        let mut on_tdx = Self { recorded, recipe_report_data: report_data };
        on_tdx.set_td_report(&report_data);
        Some(on_tdx)
    }

    fn set_td_report(&mut self, report_data: &[u8; 64]) {
        let field = offset::TD_REPORT_DATA..offset::TD_REPORT_DATA + 64;
        self.recorded.hcl_report[field].copy_from_slice(report_data);
    }

    fn judge(&self) -> Result<AuthenticQuote<tdx::AuthenticQuote>, AzureError> {
        let mut recipe = Recipe::default();
        recipe.body[body::REPORTDATA..body::REPORTDATA + 64].copy_from_slice(&self.recipe_report_data);
        let made = recipe.make();
        let root = made.root;
        self.judge_quote(&made, &[root])
    }

    fn judge_quote(
        &self,
        made: &Made,
        roots: &[Sha256Digest],
    ) -> Result<AuthenticQuote<tdx::AuthenticQuote>, AzureError> {
        let evidence = self.recorded.evidence(&made.evidence.report);
        let anchors = Anchors::vendor(&[], Revocation::CrlRequired).dangerous_with_roots(roots);
        let sent = &made.evidence.endorsements;
        azure::authenticate_tdx(&evidence, sent, &Endorsements::default(), &anchors, tdx_fixture::now())
    }
}

#[test]
fn a_paravisor_on_tdx_is_traced_to_the_quote_of_its_td() {
    let Some(good) = OnTdx::read() else { return };
    let quote = good.judge().expect("authentic");
    assert!(!quote.td_quote().root().is_hardware());
    assert_eq!(quote.td_quote().quote().report_data(), &good.recipe_report_data);
    assert_eq!(quote.extra_data(), b"attestation-test-fixture");
}

#[test]
fn each_link_from_the_td_quote_to_the_tpm_counts() {
    let Some(good) = OnTdx::read() else { return };
    // Reports of the other hardware are not taken for each other.
    let mut other = good.clone();
    other.recorded.hcl_report[offset::REPORT_TYPE] = 2;
    let field =
        |got, wanted| AzureError::Field { field: "report type", got, wanted, offset: offset::REPORT_TYPE };
    assert_eq!(other.judge().err(), Some(field(2, "4, TDX")));
    assert_eq!(good.recorded.judge().err(), Some(field(4, "2, SEV-SNP")));

    // The quote is of another TD report, and both are of other runtime data.
    let mut altered = good.recipe_report_data;
    altered[0] ^= 1;
    let (got, wanted) = (hex::encode(good.recipe_report_data), hex::encode(altered));
    let mut other = good.clone();
    other.set_td_report(&altered);
    assert_eq!(
        other.judge().err(),
        Some(AzureError::OtherTdReport { got: got.clone(), wanted: wanted.clone() })
    );
    let mut other = good.clone();
    other.recipe_report_data = altered;
    assert_eq!(
        other.judge().err(),
        Some(AzureError::OtherTdReport { got: wanted.clone(), wanted: got.clone() })
    );
    other.set_td_report(&altered);
    let runtime = AzureError::RuntimeDataHash { got: wanted[..64].to_owned(), wanted: got[..64].to_owned() };
    assert_eq!(other.judge().err(), Some(runtime));
    let mut tail = good.recipe_report_data;
    tail[63] = 1;
    let mut other = good.clone();
    other.recipe_report_data = tail;
    other.set_td_report(&tail);
    assert_eq!(other.judge().err(), Some(AzureError::ReportDataTail { got: hex::encode(&tail[32..]) }));

    let mut other = good.clone();
    other.recorded.quote[60] ^= 1;
    assert_eq!(other.judge().err(), Some(AzureError::Signature));
    let mut other = good.clone();
    other.recorded.pcrs[4][0] ^= 1;
    assert!(matches!(other.judge(), Err(AzureError::PcrDigest { .. })));

    // The quote itself is held to all the rules of TDX.
    let made = Recipe::default().make();
    let unknown = tdx::TdxError::UnknownRoot { got: made.root };
    assert_eq!(good.judge_quote(&made, &[]).err(), Some(unknown.into()));
    let mut bare = Recipe::default().make();
    bare.evidence.endorsements.clear();
    let root = bare.root;
    let answer = good.judge_quote(&bare, &[root]);
    assert!(matches!(answer, Err(AzureError::Tdx(tdx::TdxError::MissingEndorsements { .. }))), "{answer:?}");
}
