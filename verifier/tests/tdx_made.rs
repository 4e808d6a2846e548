//! Checks that recorded Evidence cannot show, because they need Intel's keys: Evidence is made under a fixture root
//! by a recipe, one thing of it is changed, and exactly the error written down for it comes out.

#[path = "../../tests/src/software_tee/tdx/fixture.rs"]
mod tdx_fixture;

use provenance::digest::Sha256Digest;
use serde_json::json;
use tdx_fixture::{
    Made, NOW, PCK_CA_SERIAL, PCK_SERIAL, ROOT_SERIAL, Recipe, SIGNER_SERIAL, der, entry, now, sgx_entries,
    sgx_extension,
};
use verifier::endorsements::{PckCa, WantedEndorsements, WantedError, WantedOfIntel, wanted_endorsements};
use verifier::evidence::AuthenticationError;
use verifier::rejection::Class;
use verifier::roots::{Anchors, Revocation, Root};
use verifier::tdx::quote::{QE_REPORT_LEN, header, qe_report};
use verifier::tdx::{AuthenticQuote, CertificateName, Document, QuoteError, TcbStatus, TdxError};
use verifier::x509::CertificateError;
use verifier::{Endorsements, Reason};

fn under(made: &Made, roots: &[Sha256Digest]) -> Result<AuthenticQuote, TdxError> {
    let anchors = Anchors::vendor(&[], Revocation::CrlRequired).with_intel().dangerous_with_roots(roots);
    match verifier::authenticate(&made.evidence, &Endorsements::default(), &anchors, now()) {
        Ok(evidence) => Ok(evidence.tdx().expect("a TDX quote").clone()),
        Err(AuthenticationError::Tdx(error)) => Err(error),
        Err(other) => panic!("not an error of TDX: {other:?}"),
    }
}

fn judged(recipe: &Recipe) -> Result<AuthenticQuote, TdxError> {
    let made = recipe.make();
    under(&made, &[made.root])
}

fn refused(change: impl FnOnce(&mut Recipe)) -> TdxError {
    let mut recipe = Recipe::default();
    change(&mut recipe);
    judged(&recipe).expect_err("refused")
}

#[test]
fn what_the_usual_recipe_makes_is_authentic_under_its_own_root_and_no_hardware() {
    let made = Recipe::default().make();
    let authentic = under(&made, &[made.root]).expect("authentic");
    assert_eq!(authentic.root(), Root::Dangerous(made.root));
    assert!(!authentic.root().is_hardware());
    assert_eq!(authentic.tcb().status, TcbStatus::UpToDate);
    assert_eq!((authentic.platform().fmspc, authentic.platform().pcesvn), ([0xab; 6], 11));
    assert_eq!(authentic.platform().configuration, None);

    assert_eq!(under(&made, &[]), Err(TdxError::UnknownRoot { got: made.root }));
    let another = Sha256Digest::of(b"another root");
    assert_eq!(under(&made, &[another]), Err(TdxError::UnknownRoot { got: made.root }));
}

#[test]
fn each_certificate_that_can_be_revoked_is() {
    let revoked = |which| TdxError::Revoked { which };
    assert_eq!(refused(|r| r.revoked_by_root.push(PCK_CA_SERIAL)), revoked(CertificateName::PckCa));
    assert_eq!(refused(|r| r.revoked_by_pck_ca.push(PCK_SERIAL)), revoked(CertificateName::Pck));
    assert_eq!(
        refused(|r| r.revoked_by_root.push(SIGNER_SERIAL)),
        revoked(CertificateName::TcbSigning(Document::TcbInfo))
    );
    // A list speaks for its own issuer only.
    let mut recipe = Recipe::default();
    recipe.revoked_by_root.push(PCK_SERIAL);
    recipe.revoked_by_pck_ca.extend([PCK_CA_SERIAL, SIGNER_SERIAL]);
    assert!(judged(&recipe).is_ok());
}

#[test]
fn each_certificate_must_be_valid_and_a_newer_one_could_heal_it() {
    for (serial, wanted) in [
        (ROOT_SERIAL, CertificateName::Root),
        (PCK_CA_SERIAL, CertificateName::PckCa),
        (PCK_SERIAL, CertificateName::Pck),
        (SIGNER_SERIAL, CertificateName::TcbSigning(Document::TcbInfo)),
    ] {
        let error = refused(|r| r.expired = Some(serial));
        assert!(
            matches!(&error, TdxError::Certificate { which, error: CertificateError::Expired { .. } } if *which == wanted),
            "{error:?}"
        );
        assert_eq!(Reason::from(AuthenticationError::from(error)).class(), Class::Endorsements);
    }
}

#[test]
fn no_certificate_stands_in_for_another() {
    let name = |which, wanted| TdxError::Name { which, got: "Intel SGX".to_owned(), wanted };
    assert_eq!(refused(|r| r.root_name = "Intel SGX"), name(CertificateName::Root, "Intel SGX Root CA"));
    assert_eq!(
        refused(|r| r.pck_ca_name = "Intel SGX"),
        name(CertificateName::PckCa, "Intel SGX PCK Platform CA")
    );
    assert_eq!(
        refused(|r| r.pck_name = "Intel SGX"),
        name(CertificateName::Pck, "Intel SGX PCK Certificate")
    );
    assert_eq!(
        refused(|r| r.signer_name = "Intel SGX"),
        name(CertificateName::TcbSigning(Document::TcbInfo), "Intel SGX TCB Signing")
    );
    let processor = Recipe { pck_ca_name: "Intel SGX PCK Processor CA", ..Recipe::default() };
    assert!(judged(&processor).is_ok(), "the other PCK CA");
}

#[test]
fn a_pck_ca_that_is_no_authority_and_a_pck_of_another_kind_are_refused() {
    assert!(matches!(
        refused(|r| r.pck_ca_is_ca = false),
        TdxError::Certificate { which: CertificateName::Pck, error: CertificateError::NotAuthority { .. } }
    ));
    assert_eq!(
        refused(|r| r.pck_key = &rcgen::PKCS_ECDSA_P384_SHA384),
        TdxError::KeyKind { which: CertificateName::Pck }
    );
}

#[test]
fn documents_must_lead_to_the_root_of_the_quote() {
    let error = refused(|r| r.documents_of_other_root = true);
    assert!(matches!(error, TdxError::OtherRoot { which: Document::TcbInfo, .. }), "{error:?}");
}

#[test]
fn reserved_fields_count_even_when_they_are_signed() {
    assert_eq!(
        refused(|r| r.header_reserved[3] = 1),
        TdxError::Quote(QuoteError::Reserved { offset: header::RESERVED + 3, got: 1 })
    );
    for field in
        [qe_report::RESERVED_20, qe_report::RESERVED_96, qe_report::RESERVED_160, qe_report::RESERVED_262]
    {
        let error = refused(|r| r.qe_report[field] = 7);
        let offset = 54 + 648 + 4 + 134 + field;
        assert_eq!(error, TdxError::Quote(QuoteError::Reserved { offset, got: 7 }));
    }
}

#[test]
fn the_second_half_of_the_quoting_enclaves_report_data_is_zero() {
    let error = refused(|r| r.qe_report[QE_REPORT_LEN - 1] = 1);
    assert!(matches!(error, TdxError::AttestationKey { .. }), "{error:?}");
}

#[test]
fn zeros_may_follow_the_quote_and_nothing_else() {
    let padded = Recipe { padding: vec![0; 3000], ..Recipe::default() };
    assert!(judged(&padded).is_ok());
    for at in [0, 2999] {
        let error = refused(|r| {
            r.padding = vec![0; 3000];
            r.padding[at] = b'x';
        });
        assert!(matches!(error, TdxError::Quote(QuoteError::Trailing { got: b'x', .. })), "{error:?}");
    }
}

#[test]
fn documents_of_another_kind_or_version_are_refused_however_well_signed() {
    let field = |which, name, got: &str, wanted: &str| TdxError::DocumentField {
        which,
        name,
        got: got.to_owned(),
        wanted: wanted.to_owned(),
    };
    let (info, identity) = (Document::TcbInfo, Document::QeIdentity);
    assert_eq!(refused(|r| r.tcb_info["id"] = json!("SGX")), field(info, "id", "SGX", "TDX"));
    assert_eq!(refused(|r| r.tcb_info["version"] = json!(2)), field(info, "version", "2", "3"));
    assert_eq!(refused(|r| r.tcb_info["tcbType"] = json!(1)), field(info, "tcbType", "1", "0"));
    assert_eq!(refused(|r| r.qe_identity["id"] = json!("QE")), field(identity, "id", "QE", "TD_QE"));
    assert_eq!(refused(|r| r.qe_identity["version"] = json!(1)), field(identity, "version", "1", "2"));
    let unknown = refused(|r| r.tcb_info["more"] = json!(true));
    assert!(
        matches!(&unknown, TdxError::Document { which, problem } if *which == info && problem.contains("`more`")),
        "{unknown:?}"
    );
    let unknown = refused(|r| r.qe_identity["more"] = json!(true));
    assert!(matches!(&unknown, TdxError::Document { which, .. } if *which == identity), "{unknown:?}");
}

#[test]
fn documents_count_from_their_issue_to_their_next_update_both_included() {
    for document in ["tcb_info", "qe_identity"] {
        let with = |issued: &str, next: &str| {
            let mut recipe = Recipe::default();
            let value = if document == "tcb_info" { &mut recipe.tcb_info } else { &mut recipe.qe_identity };
            value["issueDate"] = json!(issued);
            value["nextUpdate"] = json!(next);
            judged(&recipe)
        };
        assert!(with(NOW, NOW).is_ok(), "{document}");
        let late = with("2026-02-01T00:00:00Z", "2026-02-28T23:59:59Z").expect_err("expired");
        assert!(matches!(late, TdxError::DocumentExpired { .. }), "{document}: {late:?}");
        let early = with("2026-03-01T00:00:01Z", "2026-03-20T00:00:00Z").expect_err("not yet valid");
        assert!(matches!(early, TdxError::DocumentNotYetValid { .. }), "{document}: {early:?}");
    }
}

#[test]
fn tcb_info_must_be_of_the_platform() {
    let other = |name, got: &str, wanted: &str| TdxError::OtherPlatform {
        name,
        got: got.to_owned(),
        wanted: wanted.to_owned(),
    };
    let error = refused(|r| r.tcb_info["fmspc"] = json!("ABABABABABAC"));
    assert_eq!(error, other("FMSPC", "abababababac", "abababababab"));
    assert_eq!(Reason::from(AuthenticationError::from(error)).class(), Class::Endorsements);
    assert_eq!(refused(|r| r.tcb_info["pceId"] = json!("0001")), other("PCE id", "0001", "0000"));
}

#[test]
fn what_intel_does_not_stand_by_is_refused_and_not_called_unauthentic() {
    for (error, wanted) in [
        (refused(|r| r.body[0] = 5), TdxError::NoModuleTcbLevel { got: 5, offset: 54 }),
        (refused(|r| r.body[1] = 9), TdxError::NoModuleIdentity { got: "TDX_09".to_owned(), offset: 54 }),
    ] {
        assert_eq!(error, wanted);
        assert_eq!(Reason::from(AuthenticationError::from(error)).class(), Class::RefusedByPolicy);
    }
    let foreign = refused(|r| r.body[64] = 1);
    assert!(matches!(foreign, TdxError::ModuleIdentity { name: "MRSIGNERSEAM", .. }), "{foreign:?}");
    assert_eq!(Reason::from(AuthenticationError::from(foreign)).class(), Class::NotAuthentic);
}

#[test]
fn the_pck_certificate_must_say_which_platform_it_is_of() {
    let extension = |name, problem| TdxError::PckExtension { name, problem };
    assert_eq!(refused(|r| r.sgx_extension = None), extension("SGX extensions", "missing"));
    assert_eq!(refused(|r| r.sgx_extension = Some(vec![5, 0])), extension("SGX extensions", "malformed"));
    for (index, name) in ["PPID", "TCB", "PCEID", "FMSPC", "SGX type"].into_iter().enumerate() {
        let mut entries = sgx_entries();
        entries.remove(index);
        let error = refused(|r| r.sgx_extension = Some(sgx_extension(&entries)));
        assert_eq!(error, extension(name, "missing"));
        let id = u8::try_from(index + 1).expect("small");
        let mut entries = sgx_entries();
        entries[index] = entry(&[id], der(0x04, &[0; 5]));
        let error = refused(|r| r.sgx_extension = Some(sgx_extension(&entries)));
        assert_eq!(error, extension(name, "malformed"));
    }
    let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut entries = sgx_entries();
        change(&mut entries);
        judged(&Recipe { sgx_extension: Some(sgx_extension(&entries)), ..Recipe::default() }).map(|_| ())
    };
    for (sgx_type, wanted) in [
        (der(0x0a, &[2]), Ok(())),
        (der(0x0a, &[3]), Err(extension("SGX type", "malformed"))),
        (der(0x02, &[2]), Err(extension("SGX type", "malformed"))),
    ] {
        assert_eq!(with(&|entries| entries[4] = entry(&[5], sgx_type.clone())), wanted, "{sgx_type:?}");
    }
    for (instance, wanted) in [
        (der(0x04, &[6; 16]), Ok(())),
        (der(0x04, &[6; 15]), Err(extension("platform instance id", "malformed"))),
        (der(0x0c, &[6; 16]), Err(extension("platform instance id", "malformed"))),
    ] {
        assert_eq!(with(&|entries| entries.push(entry(&[6], instance.clone()))), wanted, "{instance:?}");
    }
    let mut twice = sgx_entries();
    twice.push(twice[3].clone());
    let error = refused(|r| r.sgx_extension = Some(sgx_extension(&twice)));
    assert_eq!(error, extension("SGX extensions", "malformed"));
    let mut more = sgx_entries();
    more.push(entry(&[8], der(0x04, &[0; 2])));
    let error = refused(|r| r.sgx_extension = Some(sgx_extension(&more)));
    assert_eq!(error, extension("SGX extensions", "with an unknown entry"));
    let mut many = sgx_entries();
    many.extend((50..78).map(|id| entry(&[id], der(0x04, &[0; 2]))));
    let error = refused(|r| r.sgx_extension = Some(sgx_extension(&many)));
    assert_eq!(error, extension("SGX extensions", "malformed"), "more than 32 entries");
}

#[test]
fn configuration_flags_are_reported() {
    let flag = |id: u8, value: u8| entry(&[7, id], der(0x01, &[value]));
    let configuration = [flag(1, 0xff), flag(2, 0), flag(3, 0xff)].concat();
    let mut entries = sgx_entries();
    entries.push(entry(&[6], der(0x04, &[6; 16])));
    entries.push(entry(&[7], der(0x30, &configuration)));
    let recipe = Recipe { sgx_extension: Some(sgx_extension(&entries)), ..Recipe::default() };
    let flags = judged(&recipe).expect("authentic").platform().configuration.expect("flags");
    assert_eq!((flags.dynamic_platform, flags.cached_keys, flags.smt_enabled), (true, false, true));
}

#[test]
fn intel_is_asked_for_the_list_of_the_ca_that_issued_the_pck() {
    let wanted =
        |pck_ca_name| wanted_endorsements(&Recipe { pck_ca_name, ..Recipe::default() }.make().evidence);
    for (name, ca) in
        [("Intel SGX PCK Platform CA", PckCa::Platform), ("Intel SGX PCK Processor CA", PckCa::Processor)]
    {
        let intel = WantedOfIntel { fmspc: [0xab; 6], ca };
        assert_eq!(wanted(name), Ok(WantedEndorsements::Intel(intel)));
    }
    let got = "Intel SGX".to_owned();
    assert_eq!(wanted("Intel SGX"), Err(WantedError::PckIssuer { got }));
    assert_eq!((PckCa::Platform.name(), PckCa::Processor.name()), ("platform", "processor"));
}
