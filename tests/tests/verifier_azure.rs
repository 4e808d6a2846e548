//! Whole images built behind Azure's paravisor, on SEV-SNP and on TDX: accepted with the paravisor named in the verdict,
//! and for each rule of the policy one change that is refused for exactly that reason. NOT HARDWARE: the paravisor and
//! the hardware under it are the software TEE's.

#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/words.rs"]
mod words;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::azure::{AzureEvidence, InvalidAzureEvidence};
use provenance::binding::{Leaf, ReportData};
use provenance::digest::Sha256Digest;
use provenance::evidence::{Evidence, Platform};
use provenance::frame::FrameError;
use sealwright_tests::software_tee::DANGEROUS_SOFTWARE_MEASUREMENT;
use sealwright_tests::software_tee::paravisor::{
    SoftwareParavisor, Tpm, usual_boot, usual_digests, usual_pcrs,
};
use sealwright_tests::software_tee::tdx::{SoftwareTdx, dangerous_measurements};
use support::PolicyText;
use verifier::azure::{AzureError, AzureRefusal};
use verifier::bound::BindingError;
use verifier::event_log::EventLogError;
use verifier::evidence::{AppraisalError, AuthenticationError};
use verifier::policy::{
    AzurePlatformValues, ParavisorValues, PcrDigest, PcrValue, PcrValues, Platforms, PolicyError,
    PolicyTemplate, REFERENCE_VALUES_TYPE, ReferenceMeasurement, ReferenceValues, TdxRegister,
    policy_from_reference_values,
};
use verifier::roots::{Anchors, Revocation};
use verifier::snp::SnpRefusal;
use verifier::tdx::TdxRefusal;
use verifier::verdict::{Link, Outcome};
use verifier::{Class, Endorsements, Policy, Reason};
use world::{Made, World, now};

/// A guest behind a paravisor, and the policy that accepts it.
struct Setting {
    world: World,
    paravisor: SoftwareParavisor,
    td: SoftwareTdx,
}

fn hexed(value: &[u8]) -> String {
    hex::encode(value)
}

/// `pcr0` to `pcr15` of the usual boot: 0 by value, 4 by events, 7 by value, the others not judged.
fn pcr_rules() -> String {
    let pcrs = usual_pcrs();
    let events: Vec<_> = usual_digests(4).iter().map(|digest| format!("\"{}\"", hexed(digest))).collect();
    (0..16)
        .map(|index| match index {
            0 | 7 => format!("pcr{index} = \"{}\"\n", hexed(&pcrs[index])),
            4 => format!("pcr4 = {{ events = [{}] }}\n", events.join(", ")),
            _ => format!("pcr{index} = \"not-judged\"\n"),
        })
        .collect()
}

impl Setting {
    fn new(platform: Platform) -> Self {
        let mut world = World::new();
        world.instance.platform = platform;
        let td = SoftwareTdx::shared().expect("a software TD");
        Self { world, paravisor: SoftwareParavisor::new().expect("a paravisor"), td }
    }

    /// A build with Evidence of this guest.
    fn made(&self, evidence: impl FnOnce(&Self, &ReportData) -> Evidence) -> Made {
        let made = self.world.make();
        let leaf = Leaf::parse(&made.bundle.leaf).expect("a leaf");
        let report_data = made.bundle.proof.report_data(&leaf).expect("a proof");
        let evidence = evidence(self, &report_data);
        let platform = evidence.platform;
        let mut made = made.with_bundle(|bundle| bundle.evidence = evidence);
        made.policy = self.policy(&made.policy, platform);
        made
    }

    fn on_snp(&self) -> Made {
        self.made(|setting, data| setting.paravisor.on_snp(setting.world.tee.chip(), data))
    }

    fn on_snp_with(&self, alter: impl FnOnce(&mut Tpm)) -> Made {
        self.made(|setting, data| setting.paravisor.on_snp_with(setting.world.tee.chip(), data, alter))
    }

    fn on_tdx(&self) -> Made {
        self.made(|setting, data| setting.paravisor.on_tdx(&setting.td, data))
    }

    /// The world's policy for a guest behind the paravisor instead of one on the bare chip.
    fn policy(&self, of_snp: &PolicyText, platform: Platform) -> PolicyText {
        let name = platform.name();
        let mut text = of_snp.0.clone();
        let start = text.find("[sev-snp]").expect("the table");
        let end = text.find("[[reference_values]]").expect("the list");
        let (measured, hardware) = match platform {
            Platform::AzSnp => {
                let hardware = text[start..end].replace("[sev-snp", "[az-snp.hardware");
                (format!("measurement = \"{}\"", hexed(&DANGEROUS_SOFTWARE_MEASUREMENT)), hardware)
            }
            _ => {
                let values = dangerous_measurements();
                let registers = TdxRegister::ALL.map(|register| {
                    format!("{} = \"{}\"", register.name(), hexed(values.register(register).as_bytes()))
                });
                let hardware = "[az-tdx.hardware]\ntcb_statuses = [\"UpToDate\"]\n\
                    minimum_tcb_evaluation_data_number = 0\nmodules = \"endorsed\"\nattributes_allowed = []\n\
                    xfam_allowed = 0x602e7\nallow_td_1_0 = false\n\n";
                (registers.join(", "), hardware.to_owned())
            }
        };
        let table = format!(
            "[{name}]\nparavisors = [{{ name = \"software paravisor\", {measured} }}]\n\
             attestation_keys = \"any-of-paravisor\"\n\n{hardware}"
        );
        text.replace_range(start..end, &table);
        let start = text.find("platform = \"sev-snp\"").expect("the reference value");
        let end = text.find("[guest]").expect("the table");
        text.replace_range(start..end, &format!("platform = \"{name}\"\n{}\n", pcr_rules()));
        PolicyText(text).with("platforms = [\"sev-snp\"]", &format!("platforms = [\"{name}\"]")).with(
            &format!("\"{}\"]", self.world.tee.root_spki_sha256()),
            &format!("\"{}\", \"{}\"]", self.world.tee.root_spki_sha256(), self.td.root_spki_sha256()),
        )
    }
}

/// Changes the parts of a build's Evidence.
fn with_parts(made: Made, change: impl FnOnce(&mut AzureEvidence)) -> Made {
    made.with_bundle(|bundle| {
        let mut parts = AzureEvidence::parse(&bundle.evidence.report).expect("Evidence");
        change(&mut parts);
        bundle.evidence.report = parts.encode();
    })
}

fn not_authentic(error: AzureError) -> Reason {
    Reason::Authentication(AuthenticationError::Azure(error))
}

fn refused(refusal: AzureRefusal) -> Reason {
    Reason::Appraisal(AppraisalError::Azure(refusal))
}

#[test]
fn a_build_behind_the_paravisor_is_accepted_and_the_verdict_names_the_paravisor() {
    for (platform, hardware) in [(Platform::AzSnp, "SEV-SNP Milan"), (Platform::AzTdx, "TDX abababababab")] {
        let setting = Setting::new(platform);
        let made = if platform == Platform::AzSnp { setting.on_snp() } else { setting.on_tdx() };
        let verdict = made.verdict();
        let report = verdict.report();
        assert_eq!(report.outcome(), Outcome::BlobsNotChecked, "{report}");
        let facts = report.facts();
        assert_eq!(facts.hardware, Some(format!("{hardware} behind Azure's paravisor")));
        assert_eq!(facts.paravisor.as_deref(), Some("software paravisor"));
        assert_eq!(facts.reliance, Some("hardware"));
        assert_eq!(facts.measurement, Some(Sha256Digest::of(&usual_pcrs().concat()).hex()));
        let line = "Microsoft's paravisor \"software paravisor\" is trusted too: its TPM, not the hardware, speaks of the guest";
        let text = report.to_string();
        assert!(text.contains(line) && text.contains("NOT HARDWARE"), "{text}");
    }
}

#[test]
fn a_verdict_says_the_same_word_by_word() {
    let snp = Setting::new(Platform::AzSnp);
    words::check(&snp.on_snp().verdict(), include_str!("verdicts/az-snp.txt"));
    let tdx = Setting::new(Platform::AzTdx);
    words::check(&tdx.on_tdx().verdict(), include_str!("verdicts/az-tdx.txt"));
}

#[test]
fn the_tpm_quotes_the_hash_of_this_builds_report_data() {
    let setting = Setting::new(Platform::AzSnp);
    let made = setting.on_snp_with(|tpm| tpm.extra_data[0] ^= 1);
    let leaf = Leaf::parse(&made.bundle.leaf).expect("a leaf");
    let wanted = Sha256Digest::of(&made.bundle.proof.report_data(&leaf).expect("a proof").0);
    let mut got = *wanted.as_bytes();
    got[0] ^= 1;
    let error = AzureError::ExtraData { got: hexed(&got), wanted: wanted.hex() };
    let reason = made.refused();
    assert_eq!(reason, Reason::Binding(BindingError::Azure(error)));
    assert_eq!((reason.class(), reason.link()), (Class::NotAuthentic, Link::Key));
    // The report data themselves are not their hash.
    let made = setting.made(|setting, data| {
        setting.paravisor.on_snp_with(setting.world.tee.chip(), data, |tpm| tpm.extra_data = data.0.to_vec())
    });
    assert!(matches!(made.refused(), Reason::Binding(BindingError::Azure(AzureError::ExtraData { .. }))));
}

#[test]
fn the_parts_of_evidence_are_held_together() {
    let setting = Setting::new(Platform::AzSnp);
    let made = setting.on_snp().with_bundle(|bundle| bundle.evidence.report.push(0));
    let reason = made.refused();
    let trailing = matches!(
        reason,
        Reason::Authentication(AuthenticationError::Azure(AzureError::Envelope(
            InvalidAzureEvidence::Frame(FrameError::Trailing { extra: 1, .. })
        )))
    );
    assert!(trailing, "{reason}");
    let made = with_parts(setting.on_snp(), |parts| parts.td_quote = vec![0; 7]);
    assert_eq!(made.refused(), not_authentic(AzureError::UnexpectedTdQuote { got: 7 }));
    let made = with_parts(setting.on_snp(), |parts| parts.event_log = vec![0; 64]);
    assert_eq!(made.refused(), not_authentic(AzureError::EventLog(EventLogError::NoSpecId)));
    let made = with_parts(setting.on_snp(), |parts| parts.signature[9] ^= 1);
    assert_eq!(made.refused(), not_authentic(AzureError::Signature));
    let made = with_parts(setting.on_snp(), |parts| parts.pcrs[4][0] ^= 1);
    assert!(matches!(
        made.refused(),
        Reason::Authentication(AuthenticationError::Azure(AzureError::PcrDigest { .. }))
    ));
    // Evidence of one hardware under the name of the other.
    let made = setting.on_snp().with_bundle(|bundle| bundle.evidence.platform = Platform::AzTdx);
    let reason = made.refused();
    let of_tdx = matches!(
        reason,
        Reason::Authentication(AuthenticationError::Azure(AzureError::Field {
            field: "report type",
            got: 2,
            ..
        }))
    );
    assert!(of_tdx, "{reason}");
    let bare = setting.made(|setting, data| setting.world.tee.chip().evidence(data, |_| ()));
    let bare = bare.with_policy(|_| setting.on_snp().policy);
    let line = bare.policy.line_of("roots = []");
    let not_accepted = AppraisalError::PlatformNotAccepted { got: Platform::SevSnp, line };
    assert_eq!(bare.refused(), Reason::Appraisal(not_accepted));
}

#[test]
fn authentic_evidence_is_of_one_platform() {
    let setting = Setting::new(Platform::AzSnp);
    let chip = setting.world.tee.chip();
    let data = ReportData([5; 64]);
    let of = |evidence: &Evidence| {
        let roots = [setting.world.tee.root_spki_sha256(), setting.td.root_spki_sha256()];
        let anchors = Anchors::vendor(&[], Revocation::CrlIfPresent).dangerous_with_roots(&roots);
        let authentic =
            verifier::authenticate(evidence, &Endorsements::default(), &anchors, now()).expect("authentic");
        let platforms = [
            authentic.snp().is_some(),
            authentic.tdx().is_some(),
            authentic.secure_execution().is_some(),
            authentic.az_snp().is_some(),
            authentic.az_tdx().is_some(),
        ];
        platforms.map(u8::from)
    };
    assert_eq!(of(&chip.evidence(&data, |_| ())), [1, 0, 0, 0, 0]);
    assert_eq!(of(&setting.paravisor.on_snp(chip, &data)), [0, 0, 0, 1, 0]);
    assert_eq!(of(&setting.paravisor.on_tdx(&setting.td, &data)), [0, 0, 0, 0, 1]);
}

#[test]
fn the_hardware_under_the_paravisor_is_held_to_its_own_rules() {
    let setting = Setting::new(Platform::AzSnp);
    let made = setting
        .on_snp()
        .with_policy(|policy| policy.with("minimum_report_version = 3", "minimum_report_version = 5"));
    let line = made.policy.line_of("minimum_report_version");
    let version = SnpRefusal::ReportVersion { got: 3, wanted: 5, line };
    let reason = made.refused();
    assert_eq!(reason, refused(AzureRefusal::Snp(version)));
    assert_eq!((reason.class(), reason.link()), (Class::RefusedByPolicy, Link::Hardware));

    let setting = Setting::new(Platform::AzTdx);
    let made =
        setting.on_tdx().with_policy(|policy| policy.with("xfam_allowed = 0x602e7", "xfam_allowed = 0x1"));
    let reason = made.refused();
    let xfam = matches!(
        reason,
        Reason::Appraisal(AppraisalError::Azure(AzureRefusal::Tdx(TdxRefusal::Xfam { allowed: 1, .. })))
    );
    assert!(xfam, "{reason}");
}

#[test]
fn flaws_of_the_hardware_under_the_paravisor_are_told() {
    let setting = Setting::new(Platform::AzTdx);
    let flawed = setting.td.altered_endorsements(|recipe| {
        recipe.tcb_info["tcbEvaluationDataNumber"] = 19.into();
        recipe.tcb_info["tcbLevels"][0]["tcbStatus"] = "SWHardeningNeeded".into();
        recipe.tcb_info["tcbLevels"][0]["advisoryIDs"] = vec!["INTEL-SA-00001"].into();
    });
    let (from, to) =
        ("tcb_statuses = [\"UpToDate\"]", "tcb_statuses = [\"UpToDate\", \"SWHardeningNeeded\"]");
    let mut made = setting.on_tdx().with_policy(|policy| policy.with(from, to));
    assert!(made.verdict().report().facts().known_flaws.is_empty());
    made.input.endorsements.tdx = vec![flawed];
    let verdict = made.verdict();
    let report = verdict.report();
    assert_eq!(report.outcome(), Outcome::BlobsNotChecked, "{report}");
    assert_eq!(report.facts().known_flaws, ["TCB status SWHardeningNeeded", "INTEL-SA-00001"]);
}

#[test]
fn another_paravisor_or_another_tpm_is_refused() {
    let setting = Setting::new(Platform::AzSnp);
    let got = hexed(&DANGEROUS_SOFTWARE_MEASUREMENT);
    let other = "00".repeat(48);
    let made = setting.on_snp().with_policy(|policy| policy.with(&got, &other));
    let line = made.policy.line_of("paravisors = ");
    let register = "launch measurement".to_owned();
    let reason = made.refused();
    assert_eq!(reason, refused(AzureRefusal::Paravisor { register, got, wanted: vec![other.clone()], line }));
    assert_eq!(reason.link(), Link::Hardware);

    let any = "attestation_keys = \"any-of-paravisor\"";
    let keys = |key: Sha256Digest| format!("attestation_keys = [\"{key}\"]");
    let own = setting.paravisor.attestation_key();
    let made = setting.on_snp().with_policy(|policy| policy.with(any, &keys(own)));
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    let wanted = Sha256Digest::of(b"another key");
    let made = setting.on_snp().with_policy(|policy| policy.with(any, &keys(wanted)));
    let line = made.policy.line_of("attestation_keys");
    assert_eq!(
        made.refused(),
        refused(AzureRefusal::AttestationKey { got: own, wanted: vec![wanted], line })
    );

    let setting = Setting::new(Platform::AzTdx);
    let values = dangerous_measurements();
    let got = hexed(values.register(TdxRegister::Rtmr1).as_bytes());
    let made = setting.on_tdx().with_policy(|policy| policy.with(&got, &other));
    let line = made.policy.line_of("paravisors = ");
    let register = "RTMR1".to_owned();
    assert_eq!(made.refused(), refused(AzureRefusal::Paravisor { register, got, wanted: vec![other], line }));
}

#[test]
fn each_pcr_is_judged_as_the_policy_says() {
    let setting = Setting::new(Platform::AzSnp);
    let usual = usual_pcrs();
    // A value.
    let wanted = "11".repeat(32);
    let made = setting.on_snp().with_policy(|policy| policy.with(&hexed(&usual[7]), &wanted));
    let line = made.policy.line_of("pcr7 = ");
    let reason = made.refused();
    let pcr = AzureRefusal::Pcr { index: 7, got: hexed(&usual[7]), wanted: vec![wanted], line };
    assert_eq!(reason, refused(pcr));
    assert_eq!((reason.class(), reason.link()), (Class::RefusedByPolicy, Link::Guest));
    // What is not judged may be anything; what is judged must be quoted.
    let made = setting.on_snp_with(|tpm| tpm.pcrs[15] = [9; 32]);
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    let made = setting.on_snp_with(|tpm| tpm.selected &= !(1 << 7));
    assert_eq!(made.refused(), refused(AzureRefusal::NotQuoted { index: 7, line }));

    // Events: no log, a log of something else, an event too much, one too few.
    let line = made.policy.line_of("pcr4 = ");
    let made = setting.on_snp_with(|tpm| tpm.event_log.clear());
    assert_eq!(made.refused(), refused(AzureRefusal::NoEventLog { index: 4, line }));
    let made = setting.on_snp_with(|tpm| tpm.pcrs[4] = [9; 32]);
    let error = EventLogError::Pcr { index: 4, replayed: hexed(&usual[4]), quote: hexed(&[9; 32]) };
    assert_eq!(made.refused(), refused(AzureRefusal::EventLog { error, line }));
    let listed: Vec<_> = usual_digests(4).iter().map(|digest| hexed(digest)).collect();
    let made = setting.on_snp_with(|tpm| {
        let mut events = usual_boot();
        events.push((4, 4, b"another boot loader"));
        tpm.boot(&events);
    });
    let got = Sha256Digest::of(b"another boot loader").hex();
    assert_eq!(made.refused(), refused(AzureRefusal::Event { index: 4, got, wanted: listed.clone(), line }));
    let made = setting.on_snp_with(|tpm| {
        let mut events = usual_boot();
        events.retain(|(_, _, data)| data.len() != 4);
        tpm.boot(&events);
    });
    assert_eq!(
        made.refused(),
        refused(AzureRefusal::MissingEvent { index: 4, missing: listed[0].clone(), line })
    );
    // In another order, and twice: the same events.
    let made = setting.on_snp_with(|tpm| {
        let mut events = usual_boot();
        events.swap(2, 3);
        events.push(events[3]);
        tpm.boot(&events);
    });
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
}

#[test]
fn pcr_0_starts_with_the_locality_that_the_log_states() {
    let setting = Setting::new(Platform::AzSnp);
    let value = format!("pcr0 = \"{}\"", hexed(&usual_pcrs()[0]));
    let events = format!("pcr0 = {{ events = [\"{}\"] }}", hexed(&usual_digests(0)[0]));
    let by_events = |policy: PolicyText| policy.with(&value, &events);
    let made = setting.on_snp().with_policy(by_events);
    assert_eq!(made.verdict().report().outcome(), Outcome::BlobsNotChecked);
    let made = with_parts(setting.on_snp(), |parts| {
        let at = parts.event_log.windows(15).position(|part| part == b"StartupLocality").expect("the event");
        parts.event_log[at + 16] = 0;
    });
    let made = made.with_policy(by_events);
    let reason = made.refused();
    let replayed = matches!(
        reason,
        Reason::Appraisal(AppraisalError::Azure(AzureRefusal::EventLog {
            error: EventLogError::Pcr { index: 0, .. },
            ..
        }))
    );
    assert!(replayed, "{reason}");
}

#[test]
fn a_policy_says_something_about_paravisor_key_and_every_pcr() {
    let setting = Setting::new(Platform::AzSnp);
    let good = setting.on_snp().policy;
    let error = |from: &str, to: &str| {
        Policy::parse(&good.clone().with(from, to).0, "test.toml").expect_err("not a policy")
    };
    let line_of = |from: &str| good.line_of(from);
    let missing = |from: &str, wanted: &str| match error(from, "") {
        PolicyError::Missing { key, .. } => assert_eq!(key, wanted),
        other => panic!("{other}"),
    };
    missing("attestation_keys = \"any-of-paravisor\"", "az-snp.attestation_keys");
    missing("pcr9 = \"not-judged\"", "reference_values[0].pcr9");
    let hardware = "[az-snp.hardware]";
    assert!(matches!(
        error(hardware, "[az-snp.hardwares]"),
        PolicyError::Missing { key, .. } | PolicyError::UnknownKey { key, .. } if key.starts_with("az-snp.hardware")
    ));
    let value = |from: &str, to: &str| match error(from, to) {
        PolicyError::Value { problem, place, .. } => (problem, place.line),
        other => panic!("{other}"),
    };
    let whole = good.0.lines().find(|line| line.starts_with("paravisors")).expect("the list");
    let (problem, line) = value(whole, "paravisors = []");
    assert_eq!(line, line_of("paravisors"));
    assert!(problem.contains("at least one paravisor"), "{problem}");
    let pcr4 = good.0.lines().find(|line| line.starts_with("pcr4")).expect("the rule");
    let (problem, line) = value(pcr4, "pcr4 = \"not-judged\"");
    assert_eq!(line, line_of("pcr4"));
    assert!(problem.contains("any program would be accepted"), "{problem}");
    let (problem, _) = value(pcr4, "pcr4 = { events = [] }");
    assert!(problem.contains("at least one value"), "{problem}");
    let (problem, _) = value(pcr4, "pcr4 = \"any\"");
    assert!(problem.contains("64 lower-case hex digits, or \"not-judged\""), "{problem}");
    // What the paravisor hosts may ask for reports at the other levels.
    let (problem, line) = value("vmpl = [0]", "vmpl = [0, 2]");
    assert_eq!(line, line_of("vmpl"));
    assert!(problem.contains("must be [0]"), "{problem}");
    assert!(matches!(
        error("pcr15 = \"not-judged\"", "pcr15 = \"not-judged\"\npcr16 = \"not-judged\""),
        PolicyError::UnknownKey { key, .. } if key == "reference_values[0].pcr16"
    ));
}

#[test]
fn a_policy_from_reference_values_spells_out_what_it_does_not_judge() {
    let mut setting = Setting::new(Platform::AzSnp);
    setting.world.instance.key_origin = provenance::instance::KeyOrigin::DangerousSoftware;
    let pcrs = usual_pcrs();
    let events: Vec<_> = usual_digests(4).into_iter().map(PcrDigest::from_bytes).collect();
    let values = |paravisors| ReferenceValues {
        build_policies: vec![setting.world.instance.build_policy_sha256],
        builder_ids: vec![setting.world.instance.builder_id.clone()],
        dangerous_roots: vec![setting.world.tee.root_spki_sha256()],
        guest_version: 1,
        name: "NOT HARDWARE: software paravisor's guest".to_owned(),
        platforms: Platforms {
            az_snp: Some(AzurePlatformValues {
                measurements: vec![
                    PcrValues::new([
                        (0, PcrValue::Value(PcrDigest::from_bytes(pcrs[0]))),
                        (4, PcrValue::Events { events: events.clone() }),
                    ])
                    .expect("PCR 4 is there"),
                ],
                paravisors,
            }),
            ..Platforms::default()
        },
        trust_configurations: vec![setting.world.instance.trust_configuration_sha256()],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    };
    let paravisor = ParavisorValues {
        measurement: ReferenceMeasurement::from_bytes(DANGEROUS_SOFTWARE_MEASUREMENT),
        name: "software paravisor".to_owned(),
    };
    let signed = values(vec![paravisor]);
    assert_eq!(ReferenceValues::parse(&signed.document()), Ok(signed.clone()));
    let callers = vec![("ci".to_owned(), setting.world.caller.public.clone())];
    let template = PolicyTemplate {
        callers,
        materials: [(provenance::materials::MaterialClass::Ssh, verifier::policy::Requirement::None)].into(),
        ..PolicyTemplate::default()
    };
    let text = policy_from_reference_values(&signed, &template);
    assert!(text.contains("pcr7 = \"not-judged\"\n"), "{text}");
    let policy = Policy::parse(&text, "new.toml").expect("complete");
    let made = setting.on_snp();
    let verdict = verifier::verify_image(&policy, &made.input, now());
    assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
    // Without paravisors the list is empty, and the policy refused until it is filled.
    let text = policy_from_reference_values(&values(Vec::new()), &template);
    assert!(matches!(
        Policy::parse(&text, "new.toml"),
        Err(PolicyError::Value { key, .. }) if key == "az-snp.paravisors"
    ));
    // PCR 4 belongs to every release.
    assert!(PcrValues::new([(0, PcrValue::Value(PcrDigest::from_bytes(pcrs[0])))]).is_err());
    assert!(PcrValues::new([(4, PcrValue::Events { events: Vec::new() })]).is_err());
    let sixteen = (16, PcrValue::Value(PcrDigest::from_bytes(pcrs[0])));
    let four = (4, PcrValue::Value(PcrDigest::from_bytes(pcrs[4])));
    assert!(PcrValues::new([sixteen, four]).is_err());
}
