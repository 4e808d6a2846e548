//! The verifier beside others on the same recorded Evidence. Whatever is accepted here is accepted by them, and where
//! they accept what is refused here, the case and the reason stand below.

mod support;

use provenance::evidence::Platform;
use sealwright_peers::vectors::{self, Prepared};
use sealwright_peers::{dcap, go, snp};
use support::Differs::{self, RefusedHere, RefusedThere};
use support::agree;
use verifier::Endorsements;

fn cases(platform: Platform) -> Option<Vec<Prepared>> {
    let cases = vectors::prepare(&vectors::folder()?).expect("an index");
    let cases: Vec<_> = cases.into_iter().filter(|case| case.evidence.platform == platform).collect();
    assert!(!cases.is_empty());
    Some(cases)
}

/// All cases must agree, except those named.
fn compare(
    cases: &[Prepared],
    peer: impl Fn(&Prepared) -> Result<(), String>,
    named: &[(&'static str, Differs)],
) {
    let judged = cases.iter().map(|case| {
        let own = case.judge().map_err(|reason| reason.to_string());
        (case.id.clone(), own, peer(case))
    });
    agree(judged, named);
}

#[test]
fn sev_accepts_what_is_accepted_here_and_more() {
    let Some(cases) = cases(Platform::SevSnp) else { return };
    // It checks signatures only: no dates, no claims.
    let named = [
        ("snp-milan-v2-debug", RefusedHere("allows debugging")),
        ("snp-milan-v3-vlek-expired", RefusedHere("VLEK certificate was valid until")),
        ("snp-milan-v3-mintcb", RefusedHere("policy wants at least 0xde")),
        ("snp-milan-v3-vlek-not-allowed", RefusedHere("VLEK")),
    ];
    compare(&cases, |case| snp::sev_crate(&case.evidence), &named);
}

#[test]
fn dcap_qvl_accepts_what_is_accepted_here_and_more() {
    let Some(cases) = cases(Platform::Tdx) else { return };
    let accepts = |case: &Prepared| {
        let collateral = dcap::collateral(&case.evidence)?;
        dcap::dcap_qvl(&case.evidence, &collateral, case.now).map(|_| ())
    };
    // It leaves the status to its caller.
    let named = [("tdx-v4-cos-outofdate-jan", RefusedHere("TCB status is OutOfDate"))];
    compare(&cases, accepts, &named);
}

#[test]
fn tcb_statuses_are_those_of_dcap_qvl() {
    let Some(cases) = cases(Platform::Tdx) else { return };
    let mut compared = 0;
    for case in &cases {
        let Ok(collateral) = dcap::collateral(&case.evidence) else { continue };
        let Ok(theirs) = dcap::dcap_qvl(&case.evidence, &collateral, case.now) else { continue };
        let none = Endorsements::default();
        let Ok(authentic) = verifier::authenticate(&case.evidence, &none, case.policy.anchors(), case.now)
        else {
            continue;
        };
        let own = authentic.tdx().expect("a quote").tcb().status.name();
        assert_eq!(own, theirs, "{}", case.id);
        compared += 1;
    }
    assert!(compared > 4, "only {compared} compared");
}

#[test]
fn the_libraries_in_go_accept_what_is_accepted_here_and_more() {
    let (Some(snp), Some(tdx)) = (cases(Platform::SevSnp), cases(Platform::Tdx)) else { return };
    let scratch = tempfile::tempdir().expect("a folder");
    let program = go::build(scratch.path()).expect("built");
    let in_snp = [
        ("snp-milan-v2-debug", RefusedHere("allows debugging")),
        ("snp-milan-v3-mintcb", RefusedHere("policy wants at least 0xde")),
        ("snp-turin-v5", RefusedThere("1.3.6.1.4.1.3704.1.3.9")),
        ("snp-milan-v3-vlek", RefusedThere("missing intermediate certificate authority certificate")),
    ];
    // It compares FMSPCs as text, of which services answer either case, and knows version 4 only.
    let fmspc = RefusedThere("is not equal to FMSPC value");
    let in_tdx = [
        ("tdx-v4-uptodate", fmspc),
        ("tdx-v4-cos-uptodate-oct", fmspc),
        ("tdx-v4-buildernet", fmspc),
        ("tdx-v4-cos-outofdate-allowed", fmspc),
        ("tdx-v5-uptodate", RefusedThere("quote format not supported")),
        ("tdx-v4-debug", RefusedHere("under debug")),
    ];
    for (cases, named) in [(snp, &in_snp[..]), (tdx, &in_tdx[..])] {
        let answers = go::run(&program, &cases, 0.0).expect("answers");
        let answer = |case: &Prepared| {
            let answer = answers.iter().find(|answer| answer.id == case.id).ok_or("not asked")?;
            if answer.error.is_empty() { Ok(()) } else { Err(answer.error.clone()) }
        };
        compare(&cases, answer, named);
    }
}
