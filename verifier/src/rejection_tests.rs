use provenance::materials::MaterialClass;
use provenance::secure_execution::InvalidSeBytes;
use provenance::timestamp::Timestamp;

use super::*;
use crate::given::TooManyEndorsements;
use crate::reliance::EvidenceKind;
use crate::secure_execution::{SeRefusal, host_key};
use crate::snp::{CertificateName, Product, Tcb};
use crate::tdx::{TcbStatus, TdxError, TdxRefusal};
use crate::x509::CertificateError;

fn digest() -> Sha256Digest {
    Sha256Digest::of(b"anything")
}

fn time() -> Timestamp {
    Timestamp::from_unix(0).expect("1970")
}

fn expired() -> CertificateError {
    CertificateError::Expired { not_after: time(), now: time() }
}

fn too_many() -> TooManyEndorsements {
    TooManyEndorsements { what: "certificates", got: 65, limit: 64 }
}

fn tcb() -> Tcb {
    Tcb { fmc: 0, bootloader: 0, tee: 0, snp: 0, microcode: 0 }
}

fn too_low() -> SnpRefusal {
    let field = "REPORTED_TCB";
    SnpRefusal::TcbTooLow { field, tcb: tcb(), component: "snp", got: 0, wanted: 1, offset: 0, line: 7 }
}

fn out_of_date() -> TdxRefusal {
    let wanted = vec![TcbStatus::UpToDate];
    TdxRefusal::TcbStatus { got: TcbStatus::OutOfDate, advisory_ids: Vec::new(), wanted, line: 7 }
}

fn other_guest() -> SnpRefusal {
    SnpRefusal::Measurement { got: String::new(), wanted: Vec::new(), line: 7 }
}

/// Has no `_`, so that a new kind is missed here first. Certificates are refused by tests of their own.
fn has_a_case(reason: &Reason) -> bool {
    match reason {
        Reason::NoEvidence { .. }
        | Reason::TooMany { .. }
        | Reason::TooMuchWork
        | Reason::Bundle(_)
        | Reason::Time(_)
        | Reason::Authentication(_)
        | Reason::Appraisal(_)
        | Reason::Binding(_)
        | Reason::Session(_)
        | Reason::Statement(_)
        | Reason::Request(_)
        | Reason::Materials(_)
        | Reason::Rules(_)
        | Reason::Image(_)
        | Reason::Blob(_) => true,
        Reason::Certificate(_) => false,
    }
}

/// Refusals of the kinds above, each with its class, its link, and how the advice begins.
fn cases() -> Vec<(Reason, Class, Link, &'static str)> {
    use Class::{Endorsements, NotAuthentic, RefusedByPolicy};
    let ark = CertificateName::Ark;
    let authentication = |error: AuthenticationError| Reason::Authentication(error);
    let appraisal = |error: AppraisalError| Reason::Appraisal(error);
    let (do_not_use, fewer, of_amd, of_intel, guest) = (
        "do not use it;",
        "give the endorsements of this platform alone",
        "fetch current certificates of the platform from AMD",
        "fetch current documents of the platform from Intel",
        "if this guest is a release",
    );
    let qe = || TdxError::NoQeTcbLevel { got: 0, offset: 0 };
    let root = "Evidence under such a root";
    let mut cases = vec![
        (Reason::NoEvidence { target: digest() }, NotAuthentic, Link::Hardware, "the image was not built"),
        (Reason::TooMuchWork, NotAuthentic, Link::Hardware, do_not_use),
        (
            Reason::TooMany { what: "statements", got: 257, limit: 256 },
            NotAuthentic,
            Link::Hardware,
            do_not_use,
        ),
        (EvidenceError::ProofLength { got: 1 }.into(), NotAuthentic, Link::Hardware, do_not_use),
        (StatementError::NoSigningKey.into(), NotAuthentic, Link::Key, do_not_use),
        (Reason::Binding(BindingError::SoftwareKeys), NotAuthentic, Link::Key, do_not_use),
    ];
    for (error, class, advice) in [
        (SnpError::TooMany(too_many()), Endorsements, fewer),
        (SnpError::CrlMissing, Endorsements, of_amd),
        (SnpError::MissingCertificate { which: ark }, Endorsements, of_amd),
        (SnpError::Certificate { which: ark, error: expired() }, Endorsements, of_amd),
        (SnpError::Crl(expired()), Endorsements, of_amd),
        (SnpError::Crl(CertificateError::AlgorithmsDiffer), NotAuthentic, do_not_use),
        (SnpError::Signature { which: ark }, NotAuthentic, do_not_use),
        (SnpError::UnknownRoot { got: digest() }, NotAuthentic, root),
        (SnpError::RootNotAccepted { got: Product::Milan }, RefusedByPolicy, ""),
    ] {
        cases.push((authentication(error.clone().into()), class, Link::Hardware, advice));
        let behind = AuthenticationError::Azure(error.into());
        cases.push((authentication(behind), class, Link::Hardware, advice));
    }
    for (error, class, advice) in [
        (TdxError::TooMany(too_many()), Endorsements, fewer),
        (TdxError::MissingEndorsements { fmspc: String::new() }, Endorsements, of_intel),
        (qe(), RefusedByPolicy, "the platform or its TDX module"),
        (TdxError::RootNotAccepted, RefusedByPolicy, ""),
        (TdxError::UnknownRoot { got: digest() }, NotAuthentic, root),
        (TdxError::QeSignature { report: 0, signature: 0 }, NotAuthentic, do_not_use),
    ] {
        cases.push((authentication(error.clone().into()), class, Link::Hardware, advice));
        let behind = AuthenticationError::Azure(error.into());
        cases.push((authentication(behind), class, Link::Hardware, advice));
    }
    let (issuer, host_keys) = (host_key::CertificateName::Root, "give current host key documents");
    let differ = || CertificateError::AlgorithmsDiffer;
    for (error, class, advice) in [
        (SeError::HostKey(HostKeyError::TooMany(too_many())), Endorsements, fewer),
        (SeError::UnknownImageHostKey { got: digest() }, Endorsements, host_keys),
        (HostKeyError::CrlMissing { which: issuer }.into(), Endorsements, host_keys),
        (HostKeyError::Certificate { which: issuer, error: expired() }.into(), Endorsements, host_keys),
        (HostKeyError::Crl { which: issuer, error: expired() }.into(), Endorsements, host_keys),
        (HostKeyError::Crl { which: issuer, error: differ() }.into(), NotAuthentic, do_not_use),
        (HostKeyError::Certificate { which: issuer, error: differ() }.into(), NotAuthentic, do_not_use),
        (HostKeyError::KeyKind.into(), NotAuthentic, do_not_use),
        (
            SeError::Result(ResultError::Expired { expires_at: time(), now: time() }),
            Endorsements,
            "ask the Verifier for a new",
        ),
        (SeError::Unconvincing { request: digest() }, RefusedByPolicy, "Secure Execution convinces only"),
        (SeError::RootNotAccepted, RefusedByPolicy, ""),
        (SeError::HostKey(HostKeyError::UnknownRoot { got: digest() }), NotAuthentic, root),
        (SeError::Result(ResultError::UnknownVerifier { wanted: Vec::new() }), RefusedByPolicy, ""),
        (SeError::Bytes(InvalidSeBytes::TooLarge { what: "Evidence", got: 0 }), NotAuthentic, do_not_use),
    ] {
        cases.push((authentication(error.into()), class, Link::Hardware, advice));
    }
    let key_only = SeRefusal::KeyOnly { line: 7 };
    let kind = SeRefusal::Kind { got: EvidenceKind::Hardware, wanted: Vec::new(), line: 7 };
    let provisional = SnpRefusal::ProvisionalFirmware { current: tcb(), committed: tcb(), line: 7 };
    let paravisor =
        AzureRefusal::Paravisor { register: String::new(), got: String::new(), wanted: Vec::new(), line: 7 };
    for (error, link, advice) in [
        (AppraisalError::Snp(other_guest()), Link::Guest, guest),
        (AppraisalError::SecureExecution(key_only), Link::Key, ""),
        (AppraisalError::SecureExecution(kind), Link::Hardware, ""),
        (AppraisalError::Snp(too_low()), Link::Hardware, FIRMWARE_ADVICE),
        (AppraisalError::Snp(provisional), Link::Hardware, FIRMWARE_ADVICE),
        (AppraisalError::Snp(SnpRefusal::VlekNotAllowed { line: 7 }), Link::Hardware, ""),
        (AppraisalError::Tdx(out_of_date()), Link::Hardware, FIRMWARE_ADVICE),
        (AppraisalError::Tdx(TdxRefusal::BodyType { line: 7 }), Link::Hardware, ""),
        (AppraisalError::Azure(too_low().into()), Link::Hardware, FIRMWARE_ADVICE),
        (AppraisalError::Azure(out_of_date().into()), Link::Hardware, FIRMWARE_ADVICE),
        (AppraisalError::Azure(paravisor), Link::Hardware, "if Microsoft vouches for this paravisor"),
    ] {
        cases.push((appraisal(error), RefusedByPolicy, link, advice));
    }
    let name = String::new;
    for (error, class, advice) in [
        (TimeError::Missing { line: 7 }, RefusedByPolicy, "have the build time-stamped by an authority"),
        (
            TimeError::UnknownAuthority { issuer: name(), line: 7 },
            RefusedByPolicy,
            "if you trust this authority's clock",
        ),
        (
            TimeError::NotValidToday { name: name(), error: expired() },
            Endorsements,
            "have the build time-stamped again",
        ),
        (TimeError::OtherStatement, NotAuthentic, do_not_use),
    ] {
        cases.push((error.into(), class, Link::Hardware, advice));
    }
    let materials = MaterialsRefusal::Completeness {
        class: MaterialClass::Network,
        stated: name(),
        wanted: "observed",
        line: 7,
    };
    let origin = RulesRefusal::KeyOrigin {
        got: provenance::instance::KeyOrigin::BootEphemeral,
        wanted: Vec::new(),
        line: 7,
    };
    let caller = RequestRefusal::CallerNotAccepted { got: digest(), wanted: Vec::new(), line: 7 };
    let project = RequestRefusal::ProjectNotAccepted { got: name(), wanted: Vec::new(), line: 7 };
    let builder = RulesRefusal::BuilderId { got: name(), wanted: Vec::new(), line: 7 };
    let repository = ImageRefusal::Repository { got: name(), wanted: Vec::new() };
    let blob = BlobError::Digest { got: digest(), wanted: digest() };
    cases.extend([
        (
            SessionError::TlsKey { got: digest(), wanted: digest() }.into(),
            NotAuthentic,
            Link::Key,
            "do not send anything over this connection",
        ),
        (caller.into(), RefusedByPolicy, Link::Request, "if you trust this caller"),
        (project.into(), RefusedByPolicy, Link::Request, "if you trust this project"),
        (RequestRefusal::NoRequest.into(), NotAuthentic, Link::Request, do_not_use),
        (materials.into(), RefusedByPolicy, Link::Materials, "build without what cannot be listed"),
        (origin.into(), RefusedByPolicy, Link::Rules, "if you trust whoever else"),
        (builder.into(), RefusedByPolicy, Link::Rules, "read the trust configuration"),
        (repository.into(), NotAuthentic, Link::Image, "if this is a copy under another name"),
        (blob.into(), NotAuthentic, Link::Image, do_not_use),
        (
            BlobError::Unchecked { left: 1, first: digest() }.into(),
            NotAuthentic,
            Link::Image,
            "fetch the whole image",
        ),
        (
            BlobError::Missing { digest: digest(), problem: name() }.into(),
            NotAuthentic,
            Link::Image,
            "fetch the whole image",
        ),
    ]);
    cases
}

#[test]
fn every_refusal_has_its_class_its_link_and_its_advice() {
    for (reason, class, link, advice) in cases() {
        assert!(has_a_case(&reason));
        assert_eq!((reason.class(), reason.link()), (class, link), "{reason:?}");
        let given = reason.advice();
        let begins = match given.as_slice() {
            [] => advice.is_empty(),
            [given] => !advice.is_empty() && given.starts_with(advice),
            _ => false,
        };
        assert!(begins, "{reason:?}: {given:?}, wanted `{advice}`");
    }
}

#[test]
fn classes_have_words_and_exit_codes() {
    let said = [Class::RefusedByPolicy, Class::NotAuthentic, Class::Endorsements]
        .map(|class| (class.to_string(), class.exit_code()));
    let wanted = [("refused by policy", 3), ("not authentic", 4), ("endorsements missing or out of date", 8)];
    assert_eq!(said, wanted.map(|(words, code)| (words.to_owned(), code)));
}

#[test]
fn a_rule_of_the_policy_is_named_with_its_line() {
    let policy = crate::policy::fixture::vendor_policy();
    for (reason, ..) in cases() {
        let said = format!("{reason:?}");
        let wanted = if said.contains("UnknownRoot") || said.contains("RootNotAccepted") {
            Some(policy.roots_line())
        } else {
            said.contains("line: 7").then_some(7)
        };
        assert_eq!(reason.policy_line(&policy), wanted, "{said}");
    }
}

#[test]
fn messages_name_all_that_is_accepted_and_what_is_refused() {
    let wanted = vec![digest(), Sha256Digest::of(b"another")];
    let said = RulesRefusal::BuildPolicy { got: digest(), wanted: wanted.clone(), line: 7 }.to_string();
    assert!(said.contains(&format!("{}, {}", wanted[0], wanted[1])), "{said}");
    let refusal = |which| CertificateRefusal::Certificate { which, problem: expired() }.to_string();
    let of = |which| format!("{which} {}", expired());
    assert_eq!(refusal(crate::certified::Which::Authority), of("certificate of the enclave CA"));
    assert_eq!(refusal(crate::certified::Which::Project), of("certificate of the project"));
}
