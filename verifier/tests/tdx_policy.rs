//! The `[tdx]` table of a policy is strict, and a policy written from Reference Values says what they say.

mod tdx_support;

use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use tdx_support::PolicyText;
use verifier::Policy;
use verifier::policy::{
    AcceptedModules, Measurements, PlatformValues, Platforms, PolicyError, PolicyTemplate,
    REFERENCE_VALUES_TYPE, ReferenceMeasurement, ReferenceValues, ReferenceValuesError, TdAttribute,
    TdxPlatformValues, TdxReferenceMeasurements, TdxRegister, policy_from_reference_values,
};
use verifier::snp::Product;
use verifier::tdx::TcbStatus;

fn refused(text: &PolicyText) -> PolicyError {
    match Policy::parse(&text.0, "test.toml") {
        Err(error) => error,
        Ok(_) => panic!("accepted:\n{}", text.0),
    }
}

#[test]
fn a_complete_policy_is_read_as_it_stands() {
    let module = "ab".repeat(48);
    let policy = PolicyText::zero()
        .with("[\"UpToDate\"]", "[\"UpToDate\", \"TDRelaunchAdvised\"]")
        .with("modules = \"endorsed\"", &format!("modules = [\"{module}\"]"))
        .with("attributes_allowed = []", "attributes_allowed = [\"pks\", \"perfmon\"]")
        .with("xfam_allowed = 0x61ae7", "xfam_allowed = 0xe7")
        .parse();
    assert!(policy.anchors().accepts_intel() && policy.anchors().amd().is_empty());
    assert_eq!(policy.platforms().iter().map(|p| p.value).collect::<Vec<_>>(), [Platform::Tdx]);
    assert!(policy.snp().is_none());
    let rules = policy.tdx().expect("rules");
    assert_eq!(rules.tcb_statuses.value, [TcbStatus::UpToDate, TcbStatus::TdRelaunchAdvised]);
    assert_eq!(rules.minimum_tcb_evaluation_data_number.value, 1);
    assert_eq!(rules.modules.value, AcceptedModules::Listed(vec![[0xab; 48]]));
    assert_eq!(rules.attributes_allowed.value, [TdAttribute::Pks, TdAttribute::Perfmon]);
    assert_eq!(rules.xfam_allowed.value, 0xe7);
    assert!(rules.allow_td_1_0.value);
}

#[test]
fn every_key_is_mandatory() {
    for key in [
        "tcb_statuses",
        "minimum_tcb_evaluation_data_number",
        "modules",
        "attributes_allowed",
        "xfam_allowed",
        "allow_td_1_0",
    ] {
        let mut text = PolicyText::zero();
        text.0 =
            text.0.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
        match refused(&text) {
            PolicyError::Missing { key: missing, .. } => assert_eq!(missing, format!("tdx.{key}")),
            other => panic!("{key}: {other}"),
        }
    }
    for register in TdxRegister::ALL {
        let mut text = PolicyText::zero();
        let start = format!("{} = ", register.name());
        text.0 =
            text.0.lines().filter(|line| !line.starts_with(&start)).map(|line| format!("{line}\n")).collect();
        match refused(&text) {
            PolicyError::Missing { key, .. } => {
                assert_eq!(key, format!("reference_values[0].{}", register.name()));
            }
            other => panic!("{register}: {other}"),
        }
    }
}

#[test]
fn what_is_not_to_be_expressed_cannot_be() {
    for (from, to) in [
        ("[\"UpToDate\"]", "[\"Revoked\"]"),
        ("[\"UpToDate\"]", "[\"uptodate\"]"),
        ("tcb_statuses = [\"UpToDate\"]", "tcb_statuses = []"),
        ("attributes_allowed = []", "attributes_allowed = [\"debug\"]"),
        ("attributes_allowed = []", "attributes_allowed = [\"migratable\"]"),
        ("modules = \"endorsed\"", "modules = \"any\""),
        ("modules = \"endorsed\"", "modules = []"),
        ("modules = \"endorsed\"", "modules = [\"00\"]"),
        ("xfam_allowed = 0x61ae7", "xfam_allowed = -1"),
        ("minimum_tcb_evaluation_data_number = 1", "minimum_tcb_evaluation_data_number = 4294967296"),
        ("roots = [\"intel-sgx\"]", "roots = [\"intel-tdx\"]"),
        ("roots = [\"intel-sgx\"]", "roots = []"),
        ("platforms = [\"tdx\"]", "platforms = [\"tdx-1.5\"]"),
    ] {
        let text = PolicyText::zero().with(from, to);
        let line = text.line_of(to);
        match refused(&text) {
            PolicyError::Value { place, .. } => assert_eq!(place.line, line, "{to}"),
            other => panic!("{to}: {other}"),
        }
    }
}

#[test]
fn unknown_keys_are_refused() {
    for (after, key, path) in [
        ("allow_td_1_0 = true", "allow_debug = true", "tdx.allow_debug"),
        ("platform = \"tdx\"", "measurement = \"00\"", "reference_values[0].measurement"),
    ] {
        let text = PolicyText::zero().with(after, &format!("{after}\n{key}"));
        match refused(&text) {
            PolicyError::UnknownKey { key, .. } => assert_eq!(key, path),
            other => panic!("{key}: {other}"),
        }
    }
}

#[test]
fn the_table_is_there_exactly_when_the_platform_is() {
    let without = PolicyText::zero().with("[tdx]", "[tdxx]");
    assert!(matches!(refused(&without), PolicyError::Missing { key, .. } if key == "tdx"));
    let unused = PolicyText::zero().with("platforms = [\"tdx\"]", "platforms = [\"sev-snp\"]");
    let error = refused(&unused);
    assert!(matches!(&error, PolicyError::Missing { key, .. } if key == "sev-snp"), "{error}");
}

fn measurement(byte: u8) -> ReferenceMeasurement {
    ReferenceMeasurement::from_bytes([byte; 48])
}

fn td() -> TdxReferenceMeasurements {
    TdxReferenceMeasurements {
        mrtd: measurement(0),
        mrconfigid: measurement(1),
        mrowner: measurement(2),
        mrownerconfig: measurement(3),
        rtmr0: measurement(4),
        rtmr1: measurement(5),
        rtmr2: measurement(6),
        rtmr3: measurement(7),
    }
}

fn release(platforms: Platforms) -> ReferenceValues {
    ReferenceValues {
        build_policies: vec![Sha256Digest::of(b"policy")],
        builder_ids: vec!["https://builder.example".to_owned()],
        dangerous_roots: Vec::new(),
        guest_version: 7,
        name: "sealwright 0.4.0".to_owned(),
        platforms,
        trust_configurations: vec![Sha256Digest::of(b"trust")],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    }
}

/// A policy from Reference Values that went through their document. Only a caller is filled in by hand.
fn written(platforms: Platforms) -> Policy {
    let values = ReferenceValues::parse(&release(platforms).document()).expect("well formed");
    let text = policy_from_reference_values(&values, &PolicyTemplate::default());
    let caller = format!("callers = [{{ name = \"ci\", spki_sha256 = \"{}\" }}", Sha256Digest::of(b"key"));
    let text = text.replace("callers = [", &caller);
    Policy::parse(&text, "written.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn a_policy_for_tdx_alone_names_intels_root_and_all_registers() {
    let tdx = Some(TdxPlatformValues { measurements: vec![td()] });
    let policy = written(Platforms { tdx, ..Platforms::default() });
    assert!(policy.anchors().accepts_intel() && policy.anchors().amd().is_empty() && policy.snp().is_none());
    let rules = policy.tdx().expect("rules");
    assert_eq!(rules.tcb_statuses.value, [TcbStatus::UpToDate]);
    assert!(rules.attributes_allowed.value.is_empty());
    let [reference] = policy.reference_values() else { panic!("one Reference Value") };
    assert_eq!((reference.name.as_str(), reference.guest_version), ("sealwright 0.4.0", 7));
    let Measurements::Tdx(registers) = &reference.measurements else { panic!("of TDX") };
    for (byte, register) in (0..).zip(TdxRegister::ALL) {
        assert_eq!(registers.register(register).value, [byte; 48], "{register}");
    }
}

#[test]
fn a_policy_for_both_platforms_has_both_tables_and_all_roots() {
    let policy = written(Platforms {
        sev_snp: Some(PlatformValues { measurements: vec![measurement(9)] }),
        tdx: Some(TdxPlatformValues { measurements: vec![td()] }),
        ..Platforms::default()
    });
    assert!(policy.snp().is_some() && policy.tdx().is_some());
    assert!(policy.anchors().accepts_intel() && policy.anchors().amd() == [Product::Genoa, Product::Turin]);
    assert_eq!(policy.reference_values().len(), 2);
}

#[test]
fn a_policy_for_sev_snp_alone_does_not_speak_of_tdx() {
    let sev_snp = Some(PlatformValues { measurements: vec![measurement(9)] });
    let policy = written(Platforms { sev_snp, ..Platforms::default() });
    assert!(policy.tdx().is_none() && !policy.anchors().accepts_intel());
}

#[test]
fn reference_values_of_no_platform_or_without_measurements_are_refused() {
    for platforms in [
        Platforms::default(),
        Platforms { tdx: Some(TdxPlatformValues { measurements: Vec::new() }), ..Platforms::default() },
        Platforms {
            sev_snp: Some(PlatformValues { measurements: vec![measurement(9)] }),
            tdx: Some(TdxPlatformValues { measurements: Vec::new() }),
            ..Platforms::default()
        },
    ] {
        let answer = ReferenceValues::parse(&release(platforms).document());
        assert_eq!(answer, Err(ReferenceValuesError::Measurements { got: 0 }));
    }
    let many =
        Platforms { tdx: Some(TdxPlatformValues { measurements: vec![td(); 257] }), ..Platforms::default() };
    let answer = ReferenceValues::parse(&release(many).document());
    assert_eq!(answer, Err(ReferenceValuesError::Measurements { got: 257 }));
}
