//! Reference Values added to a policy leave the rest of its text alone, and a policy says in words what it does not check.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::digest::Sha256Digest;
use provenance::evidence::Platform;
use provenance::materials::MaterialClass;
use verifier::Policy;
use verifier::policy::{
    AddReferenceError, Added, AzurePlatformValues, HexDigits, MAX_POLICY, ParavisorValues, PcrDigest,
    PcrValue, PcrValues, Place, PlatformValues, Platforms, PolicyError, PolicyTemplate,
    REFERENCE_VALUES_TYPE, ReferenceMeasurement, ReferenceValues, ReferenceValuesError, SePlatformValues,
    SeReferenceImage, TdxPlatformValues, TdxReferenceMeasurements, TdxRegister, add_reference_values,
    policy_from_reference_values, usual_requirement,
};

fn measurement(byte: u8) -> ReferenceMeasurement {
    ReferenceMeasurement::from_bytes([byte; 48])
}

fn td(byte: u8) -> TdxReferenceMeasurements {
    let register = || measurement(byte);
    TdxReferenceMeasurements {
        mrtd: register(),
        mrconfigid: register(),
        mrowner: register(),
        mrownerconfig: register(),
        rtmr0: register(),
        rtmr1: register(),
        rtmr2: register(),
        rtmr3: register(),
    }
}

fn image(digit: &str) -> SeReferenceImage {
    let digits = |length| HexDigits::try_from(digit.repeat(length)).expect("hex digits");
    SeReferenceImage {
        address_list_digest: digits(128),
        page_list_digest: digits(128),
        tag: digits(32),
        tweak_list_digest: digits(128),
    }
}

fn snp(bytes: &[u8]) -> Platforms {
    let measurements = bytes.iter().map(|byte| measurement(*byte)).collect();
    Platforms { sev_snp: Some(PlatformValues { measurements }), ..Platforms::default() }
}

fn all(byte: u8, digit: &str) -> Platforms {
    let host_keys = vec![Sha256Digest::of(b"host key")];
    Platforms {
        tdx: Some(TdxPlatformValues { measurements: vec![td(byte)] }),
        secure_execution: Some(SePlatformValues { host_keys, images: vec![image(digit)] }),
        ..snp(&[byte])
    }
}

/// PCRs of a guest behind a paravisor that measures to this.
fn azure<Measured>(byte: u8, paravisor: Measured) -> AzurePlatformValues<Measured> {
    let event = PcrDigest::from_bytes([byte; 32]);
    let values = [(4, PcrValue::Value(event.clone())), (7, PcrValue::Events { events: vec![event] })];
    AzurePlatformValues {
        measurements: vec![PcrValues::new(values).expect("PCR 4 is there")],
        paravisors: vec![ParavisorValues { measurement: paravisor, name: "hcl".to_owned() }],
    }
}

fn az_snp(byte: u8) -> Platforms {
    Platforms { az_snp: Some(azure(byte, measurement(9))), ..Platforms::default() }
}

fn release(guest_version: u64, platforms: Platforms) -> ReferenceValues {
    ReferenceValues {
        build_policies: vec![Sha256Digest::of(b"policy")],
        builder_ids: vec!["https://builder.example".to_owned()],
        dangerous_roots: Vec::new(),
        guest_version,
        name: format!("sealwright 0.{guest_version}.0"),
        platforms,
        trust_configurations: vec![Sha256Digest::of(b"trust")],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    }
}

/// A policy from a release, with a caller filled in.
fn policy(values: &ReferenceValues) -> String {
    let caller = format!("callers = [{{ name = \"ci\", spki_sha256 = \"{}\" }}", Sha256Digest::of(b"key"));
    policy_from_reference_values(values, &PolicyTemplate::default()).replace("callers = [", &caller)
}

fn add(text: &str, values: &ReferenceValues) -> Result<Added, AddReferenceError> {
    add_reference_values(text, "test.toml", values, &Sha256Digest::of(b"release key"))
}

/// The lines that the second text has and the first has not, which must all stand together; the rest is the same.
fn inserted(old: &str, new: &str) -> String {
    let same = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
    let start = old[..same].rfind('\n').map_or(0, |at| at + 1);
    let length = new.len() - old.len();
    let candidates = [start, same];
    let at = candidates.into_iter().find(|at| [&new[..*at], &new[at + length..]].concat() == old);
    new[at.expect("one insertion")..][..length].to_owned()
}

#[test]
fn measurements_of_a_newer_release_stand_behind_those_that_are_there_and_nothing_else_changes() {
    let old = policy(&release(7, all(1, "a")))
        .replace("[hardware]", "# mine: why\n[hardware] # as agreed")
        .replace(
            &format!("tag = \"{}\"\n", "a".repeat(32)),
            &format!("tag = \"{}\" # the tag\n", "a".repeat(32)),
        );
    let added = add(&old, &release(8, all(2, "b"))).expect("added");
    assert_eq!((added.present, added.not_accepted.len(), added.not_named.len()), (0, 0, 0));
    assert_eq!(added.added, ["sev-snp", "tdx", "secure-execution"]);
    let new = inserted(&old, &added.text);
    assert_eq!(new.matches("[[reference_values]]").count(), 3);
    assert!(new.contains(&format!("# From Reference Values signed by {}", Sha256Digest::of(b"release key"))));
    let policy = Policy::parse(&added.text, "test.toml").expect("complete");
    let versions: Vec<_> = policy.reference_values().iter().map(|value| value.guest_version).collect();
    assert_eq!(versions, [7, 7, 7, 8, 8, 8]);
    // Once more: all is there already, so the text stays.
    let again = add(&added.text, &release(8, all(2, "b"))).expect("nothing to add");
    assert_eq!((again.text == added.text, again.added.len(), again.present), (true, 0, 3));
}

#[test]
fn the_same_guest_is_not_added_twice_under_another_version() {
    let old = policy(&release(7, snp(&[1])));
    let added = add(&old, &release(8, snp(&[1, 2]))).expect("added");
    assert_eq!((added.added.len(), added.present), (1, 1));
    let last = format!("measurement = \"{}\"\n", "01".repeat(48));
    let new = format!(
        "{last}\n# From Reference Values signed by {}.\n[[reference_values]]\nname = \"sealwright 0.8.0\"\n\
         guest_version = 8\nplatform = \"sev-snp\"\n{}",
        Sha256Digest::of(b"release key"),
        last.replace("01", "02")
    );
    assert_eq!(added.text, old.replace(&last, &new));
}

#[test]
fn an_older_release_is_refused_with_the_line_of_the_newer_one() {
    let text = policy(&release(7, snp(&[1])));
    let line = 1 + text.lines().position(|line| line == "[[reference_values]]").expect("one");
    let place = Place { file: "test.toml".to_owned(), line };
    let error = AddReferenceError::Older { place, newest: 7, got: 6 };
    assert_eq!(add(&text, &release(6, snp(&[2]))), Err(error.clone()));
    assert_eq!(
        error.to_string(),
        format!(
            "test.toml line {line}: guest version 7 is accepted, the Reference Values are of the older 6"
        )
    );
    assert!(add(&text, &release(7, snp(&[2]))).is_ok(), "another shape of the same release");
}

#[test]
fn platforms_that_the_policy_does_not_accept_are_left_out() {
    let text = policy(&release(7, snp(&[1])));
    let added = add(&text, &release(8, all(2, "b"))).expect("added");
    assert_eq!(added.added, ["sev-snp"]);
    assert_eq!(added.not_accepted, ["tdx", "secure-execution"]);
    let tdx = Platforms { sev_snp: None, secure_execution: None, ..all(2, "b") };
    let wanted = AddReferenceError::Platforms { file: "test.toml".to_owned(), got: vec!["tdx".to_owned()] };
    assert_eq!(add(&text, &release(8, tdx)), Err(wanted));
}

#[test]
fn what_else_a_release_names_is_told_and_not_added() {
    let text = policy(&release(7, snp(&[1])));
    let mut values = release(8, snp(&[2]));
    values.builder_ids.push("https://other.example".to_owned());
    values.trust_configurations = vec![Sha256Digest::of(b"other")];
    let added = add(&text, &values).expect("added");
    let wanted = [
        ("guest.builder_ids", "https://other.example".to_owned()),
        ("guest.trust_configurations", Sha256Digest::of(b"other").to_string()),
    ];
    assert_eq!(added.not_named, wanted);
    assert!(!added.text.contains("other.example"));
}

#[test]
fn tables_in_line_and_policies_that_are_not_complete_are_refused() {
    let text = policy(&release(7, snp(&[1])));
    let incomplete = text.replace("judged_at = \"today\"\n", "");
    assert!(matches!(add(&incomplete, &release(8, snp(&[2]))), Err(AddReferenceError::Policy(_))));
    let start = text.find("[[reference_values]]").expect("one");
    let end = start + text[start..].find("\n\n").expect("ends");
    let inline = format!(
        "reference_values = [{{ name = \"a\", guest_version = 7, platform = \"sev-snp\", measurement = \"{}\" }}]\n",
        "01".repeat(48)
    );
    let text = format!("# mine\n\n{inline}{}{}", &text[..start], &text[end..]);
    Policy::parse(&text, "test.toml").expect("as good a policy");
    let form = |line| Err(AddReferenceError::Form { place: Place { file: "test.toml".to_owned(), line } });
    assert_eq!(add(&text, &release(8, snp(&[2]))), form(3));
    // A table of its own below the last one: nothing is put between its header and its keys.
    let text = policy(&release(7, az_snp(1)));
    let line = 1 + text.lines().position(|line| line == "[[reference_values]]").expect("one");
    let pcr7 = text.lines().find(|line| line.starts_with("pcr7 = ")).expect("the rule").to_owned();
    let events = pcr7.trim_start_matches("pcr7 = { ").trim_end_matches(" }");
    let below = text
        .replace(&format!("{pcr7}\n"), "")
        .replace("\n\n[guest]", &format!("\n[reference_values.pcr7]\n{events}\n\n[guest]"));
    Policy::parse(&below, "test.toml").expect("as good a policy");
    assert_eq!(add(&below, &release(8, az_snp(2))), form(line));
}

#[test]
fn a_policy_that_would_no_longer_be_one_is_not_made() {
    let text = policy(&release(7, snp(&[1])));
    let length = inserted(&text, &add(&text, &release(8, snp(&[2]))).expect("added").text).len();
    let padded = |length: usize| format!("{text}#{}", "x".repeat(length - text.len() - 1));
    assert!(add(&padded(MAX_POLICY - length), &release(8, snp(&[2]))).is_ok());
    let error = PolicyError::TooLarge { file: "test.toml".to_owned(), got: MAX_POLICY + 1 };
    let got = add(&padded(MAX_POLICY - length + 1), &release(8, snp(&[2])));
    assert_eq!(got, Err(AddReferenceError::Policy(error)));
}

/// Keys of the checks that a policy leaves out, each with the text of its line.
fn skips(text: &str) -> Vec<(String, String)> {
    let explanation = Policy::parse(text, "test.toml").expect("complete").explain();
    let line = |number: usize| text.lines().nth(number - 1).unwrap_or_default().to_owned();
    explanation.skips.into_iter().map(|skip| (skip.key, line(skip.line))).collect()
}

const UNPROVEN: &str = "proof = \"none\"\nauthorities = []";

/// Rules by which a timestamp of an authority must prove the time.
fn proven_by(certificate: &str) -> String {
    format!(
        "proof = \"rfc3161\"\nauthorities = [{{ name = \"clock tower\", certificate = \"{certificate}\" }}]"
    )
}

/// Certificate of a certificate authority, base64.
fn authority() -> String {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    STANDARD.encode(params.self_signed(&key).expect("a certificate").der())
}

#[test]
fn each_switch_that_leaves_a_check_out_is_named_with_its_line() {
    let proven = proven_by(&authority());
    let base = policy(&release(7, all(1, "a")))
        .replace("\"incomplete-ok\"", "\"observed\"")
        .replace("crl-if-present", "crl-required")
        .replace(UNPROVEN, &proven)
        .replace("allow_td_1_0 = true", "allow_td_1_0 = false")
        .replace("config_uids = \"any-run\"", &format!("config_uids = [\"{}\"]", "0".repeat(32)));
    let required: Vec<String> = base
        .lines()
        .map(|line| match line.strip_suffix(" = false") {
            Some(key) if key.starts_with("require_") => format!("{key} = true"),
            _ => line.to_owned(),
        })
        .collect();
    let keys = format!("[\"{}\"]", "0".repeat(96));
    let strict = required.join("\n").replace("_keys = \"any\"", &format!("_keys = {keys}"));
    assert_eq!(skips(&strict), [], "nothing is left unchecked");
    let zero = "reported = { bootloader = 0, tee = 0, snp = 0, microcode = 0 }";
    let milan = strict.lines().find(|line| line.starts_with("reported = ")).expect("Milan's");
    for (from, to, key) in [
        ("revocation = \"crl-required\"", "revocation = \"crl-if-present\"", "hardware.revocation"),
        ("allow_vlek = false", "allow_vlek = true", "sev-snp.allow_vlek"),
        (proven.as_str(), UNPROVEN, "time.proof"),
        (
            "allow_provisional_firmware = false",
            "allow_provisional_firmware = true",
            "sev-snp.allow_provisional_firmware",
        ),
        ("minimum_report_version = 3", "minimum_report_version = 2", "sev-snp.minimum_report_version"),
        ("roots = [", "roots = [\"amd-milan\", ", "hardware.roots"),
        ("vmpl = [0]", "vmpl = [0, 1]", "sev-snp.vmpl"),
        (milan, zero, "sev-snp.minimum_tcb.milan.reported"),
        (&format!("id_keys = {keys}"), "id_keys = \"any\"", "sev-snp.id_keys"),
        (&format!("author_keys = {keys}"), "author_keys = \"any\"", "sev-snp.author_keys"),
        ("require_alias_check = true", "require_alias_check = false", "sev-snp.platform"),
        ("require_single_socket = true", "require_single_socket = false", "sev-snp.guest_policy"),
        ("[\"UpToDate\"]", "[\"UpToDate\", \"OutOfDate\"]", "tdx.tcb_statuses"),
        ("data_number = 18", "data_number = 0", "tdx.minimum_tcb_evaluation_data_number"),
        ("allow_td_1_0 = false", "allow_td_1_0 = true", "tdx.allow_td_1_0"),
        ("config_uids = [", "config_uids = \"any-run\" # [", "secure-execution.config_uids"),
        ("network = \"observed\"", "network = \"incomplete-ok\"", "materials.network"),
    ] {
        assert_eq!(strict.matches(from).count(), 1, "{from}");
        let found = skips(&strict.replace(from, to));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, key);
        let start = match key.rsplit('.').next() {
            Some("platform" | "guest_policy") => "require_",
            name => name.expect("a key"),
        };
        assert!(found[0].1.starts_with(start), "{found:?}");
    }
    let dangerous = strict.replace(
        "roots = [\"amd-genoa\"",
        &format!("dangerous_roots = [\"{}\"]\nroots = [\"amd-genoa\"", Sha256Digest::of(b"root")),
    );
    assert_eq!(skips(&dangerous)[0].0, "hardware.dangerous_roots");
    // Lists of Intel and IBM are demanded whatever the rule says, which is about AMD's alone.
    let on_tdx = policy(&release(7, Platforms { sev_snp: None, ..all(1, "a") }));
    assert!(on_tdx.contains("revocation = \"crl-if-present\"\n"));
    assert!(!skips(&on_tdx).iter().any(|(key, _)| key == "hardware.revocation"));
}

#[test]
fn a_policy_says_what_it_accepts() {
    let text = policy(&release(7, all(1, "a")));
    let explanation = Policy::parse(&text, "test.toml").expect("complete").explain();
    let said = |about: &str| {
        let section = explanation.accepts.iter().find(|section| section.about == about).expect(about);
        section.lines.join("\n")
    };
    assert!(said("hardware").contains("Evidence of SEV-SNP, TDX, Secure Execution"));
    assert!(said("hardware").contains("kinds of Evidence: hardware, own-request\n"));
    assert!(said("hardware").contains("roots of AMD Genoa, AMD Turin, Intel, IBM's host keys"));
    assert!(said("SEV-SNP").contains("Milan: TCB at least 04.00.18.db reported"));
    assert!(said("SEV-SNP").contains("demanded: ECC memory, memory alias check"));
    assert!(!said("SEV-SNP").contains("mitigations"));
    assert!(said("TDX").contains("TCB status UpToDate\nIntel's documents of evaluation 18 or newer"));
    assert!(said("Secure Execution").contains(&Sha256Digest::of(b"host key").short()));
    assert!(
        said("guest")
            .contains("sealwright 0.7.0 (guest version 7): SEV-SNP launch measurement 01010101…0101")
    );
    assert!(said("request").contains(&format!("asked for by ci ({})", Sha256Digest::of(b"key"))));
    assert!(said("request").contains("of any project"));
    assert!(said("materials").contains("every byte listed of context"));
    assert!(said("rules").contains("builders https://builder.example"));
    assert!(said("time").contains("judged as of the day of the verification"));
    assert!(!explanation.not_hardware);
    let mitigated = text.replace("{ launch = 0x0, current = 0x0 }", "{ launch = 0x1, current = 0x3 }");
    let explanation = Policy::parse(&mitigated, "test.toml").expect("complete").explain();
    let snp = explanation.accepts.iter().find(|section| section.about == "SEV-SNP").expect("SEV-SNP");
    assert!(snp.lines.contains(&"mitigations 0x1 at launch, 0x3 now".to_owned()), "{:?}", snp.lines);
    let signing = text.replace(UNPROVEN, &proven_by(&authority())).replace("\"today\"\n", "\"signing\"\n");
    let explanation = Policy::parse(&signing, "test.toml").expect("complete").explain();
    let time = explanation.accepts.iter().find(|section| section.about == "time").expect("time");
    assert!(time.lines[0].contains("a timestamp of clock tower must prove"), "{:?}", time.lines);
    assert!(time.lines[1].contains("revocation as of the day"), "{:?}", time.lines);
}

#[test]
fn a_guest_behind_azures_paravisor_is_added_and_its_left_pcrs_are_named() {
    let old = policy(&release(7, az_snp(1)));
    let added = add(&old, &release(8, az_snp(2))).expect("added");
    assert_eq!(added.added, ["az-snp"]);
    assert_eq!(inserted(&old, &added.text).matches("pcr").count(), 16);
    let left = skips(&added.text);
    for key in ["az-snp.attestation_keys", "reference_values[0].pcr0", "reference_values[1].pcr0"] {
        let skip = left.iter().find(|skip| skip.0 == key).unwrap_or_else(|| panic!("{key}: {left:?}"));
        assert!(skip.1.starts_with(key.rsplit('.').next().expect("a key")), "{skip:?}");
    }
    let explanation = Policy::parse(&added.text, "test.toml").expect("complete").explain();
    let guests = &explanation.accepts.iter().find(|section| section.about == "guest").expect("guests").lines;
    assert!(guests[1].contains("PCR 4, 7 of the TPM"), "{guests:?}");
}

#[test]
fn a_paravisor_on_tdx_is_accepted_by_all_its_registers_and_its_pcrs_are_of_its_platform_alone() {
    let paravisor = TdxReferenceMeasurements {
        mrtd: measurement(1),
        mrconfigid: measurement(2),
        mrowner: measurement(3),
        mrownerconfig: measurement(4),
        rtmr0: measurement(5),
        rtmr1: measurement(6),
        rtmr2: measurement(7),
        rtmr3: measurement(8),
    };
    let text = policy(&release(7, Platforms { az_tdx: Some(azure(2, paravisor.clone())), ..az_snp(1) }));
    let registers = TdxRegister::ALL
        .map(|register| {
            format!("{} = \"{}\"", register.name(), hex::encode(paravisor.register(register).as_bytes()))
        })
        .join(", ");
    assert!(text.contains(&format!("  {{ name = \"hcl\", {registers} }},\n")), "{text}");
    let policy = Policy::parse(&text, "test.toml").expect("complete");
    let accepted = &policy.az_tdx().expect("accepted").paravisors.value[0];
    for register in TdxRegister::ALL {
        let wanted = paravisor.register(register).as_bytes();
        assert_eq!(&accepted.measured.register(register).value, wanted, "{}", register.name());
    }
    let judged = |on| policy.reference_values().iter().map(|it| it.measurements.pcrs(on).is_some()).collect();
    let (on_snp, on_tdx, on_neither): (Vec<bool>, Vec<bool>, Vec<bool>) =
        (judged(Platform::AzSnp), judged(Platform::AzTdx), judged(Platform::SevSnp));
    assert_eq!((on_snp, on_tdx), (vec![true, false], vec![false, true]));
    assert_eq!(on_neither, [false, false]);
}

#[test]
fn a_new_policy_demands_of_each_class_of_materials_what_can_be_had() {
    let usual = |class: MaterialClass| (class.name(), usual_requirement(class).name());
    let wanted = [
        ("context", "observed"),
        ("named-contexts", "observed"),
        ("base-images", "observed"),
        ("sources", "observed"),
        ("network", "incomplete-ok"),
        ("cache", "incomplete-ok"),
        ("parameters", "observed"),
        ("secrets", "committed"),
        ("ssh", "incomplete-ok"),
        ("engine", "observed"),
    ];
    assert_eq!(MaterialClass::ALL.map(usual), wanted);
}

#[test]
fn each_platform_of_a_policy_has_a_kind_of_evidence() {
    let text = policy(&release(7, all(1, "a")));
    let kinds = "evidence = [\"hardware\", \"own-request\"]";
    let line = 1 + text.lines().position(|line| line == kinds).expect("the kinds");
    for (kinds, problem) in [
        (
            "[\"hardware\"]",
            "has neither \"own-request\" nor \"attestation-result\", the kinds of Evidence of Secure Execution",
        ),
        ("[\"own-request\"]", "has no \"hardware\", the kind of Evidence that SEV-SNP and TDX give"),
    ] {
        let text = text.replace("[\"hardware\", \"own-request\"]", kinds);
        let error = PolicyError::Value {
            place: Place { file: "test.toml".to_owned(), line },
            key: "hardware.evidence".to_owned(),
            problem: problem.to_owned(),
        };
        assert_eq!(Policy::parse(&text, "test.toml").map(|_| ()), Err(error));
    }
}

#[test]
fn reference_values_have_1_to_256_measurements_of_each_platform_that_is_there() {
    let parse = |platforms| ReferenceValues::parse(&release(7, platforms).document()).map(|_| ());
    let refused = |got| Err(ReferenceValuesError::Measurements { got });
    assert_eq!(parse(Platforms::default()), refused(0));
    let pcrs = |number| {
        let values = azure(1, measurement(1));
        vec![values.measurements[0].clone(); number]
    };
    // Each beside a platform that is in order.
    let with = |platform, number| match platform {
        Platform::SevSnp => Platforms { tdx: all(1, "a").tdx, ..snp(&vec![1; number]) },
        Platform::Tdx => {
            let measurements = vec![td(1); number];
            Platforms { tdx: Some(TdxPlatformValues { measurements }), ..snp(&[1]) }
        }
        Platform::SecureExecution => {
            let images = vec![image("a"); number];
            let values = SePlatformValues { host_keys: Vec::new(), images };
            Platforms { secure_execution: Some(values), ..snp(&[1]) }
        }
        Platform::AzSnp => {
            let values = AzurePlatformValues { measurements: pcrs(number), paravisors: Vec::new() };
            Platforms { az_snp: Some(values), ..snp(&[1]) }
        }
        Platform::AzTdx => {
            let values = AzurePlatformValues { measurements: pcrs(number), paravisors: Vec::new() };
            Platforms { az_tdx: Some(values), ..snp(&[1]) }
        }
    };
    for platform in Platform::ALL {
        for (number, wanted) in [(0, refused(0)), (1, Ok(())), (256, Ok(())), (257, refused(257))] {
            assert_eq!(parse(with(platform, number)), wanted, "{number} of {platform}");
        }
    }
}

#[test]
fn names_in_reference_values_can_stand_in_a_policy() {
    type Named = (&'static str, fn(&mut ReferenceValues, String));
    let places: [Named; 4] = [
        ("name", |values, text| values.name = text),
        ("builder_ids", |values, text| values.builder_ids.push(text)),
        ("paravisors.name", |values, text| {
            values.platforms.az_snp.as_mut().expect("there").paravisors[0].name = text;
        }),
        ("paravisors.name", |values, text| {
            values.platforms.az_tdx.as_mut().expect("there").paravisors[0].name = text;
        }),
    ];
    for (field, set) in places {
        let parse = |text: &str| {
            let mut values = release(7, Platforms { az_tdx: Some(azure(1, td(1))), ..az_snp(1) });
            set(&mut values, text.to_owned());
            ReferenceValues::parse(&values.document()).map(|_| ())
        };
        assert_eq!(parse(&"n".repeat(128)), Ok(()));
        for other in ["", &"n".repeat(129), "a\nb"] {
            assert_eq!(parse(other), Err(ReferenceValuesError::Text { field }), "{other:?}");
        }
    }
}

#[test]
fn measurements_names_and_the_whole_text_have_one_form_and_a_longest_length() {
    let good = policy(&release(1, snp(&[0xab])));
    let refused = |from: &str, to: &str| {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        Policy::parse(&good.replace(from, to), "test.toml").map(|_| ())
    };
    let value = |result: Result<(), PolicyError>| matches!(result, Err(PolicyError::Value { .. }));
    let measured = "ab".repeat(48);
    for other in [measured.to_uppercase(), "ab".repeat(47), "ab".repeat(49), "ag".repeat(48)] {
        assert!(value(refused(&measured, &other)), "{other}");
    }
    let named = "name = \"sealwright 0.1.0\"";
    let called = |name: &str| refused(named, &format!("name = \"{name}\""));
    assert_eq!(called(&"n".repeat(128)), Ok(()));
    for other in ["", &"n".repeat(129), "a\\nb"] {
        assert!(value(called(other)), "{other}");
    }
    let origins = good.lines().find(|line| line.starts_with("key_origins")).expect("a line");
    assert_eq!(origins, "key_origins = [\"boot-ephemeral\", \"snp-derived-key\"]");
    let of = |values: &ReferenceValues| {
        let text = policy(values);
        let line = text.lines().find(|line| line.starts_with("key_origins")).expect("a line");
        line.trim_start_matches("key_origins = ").to_owned()
    };
    assert_eq!(of(&release(1, all(1, "2"))), "[\"boot-ephemeral\", \"snp-derived-key\"]");
    let on_tdx = Platforms { sev_snp: None, ..all(1, "2") };
    assert_eq!(
        of(&release(1, on_tdx)),
        "[\"boot-ephemeral\"]",
        "owners know the secrets of Secure Execution"
    );
    let mut of_development = release(1, snp(&[1]));
    of_development.dangerous_roots = vec![Sha256Digest::of(b"a root")];
    assert!(of(&of_development).ends_with("\"dangerous-software\"]"));
    assert_eq!(refused(origins, "key_origins = [\"secure-execution-image-secret\"]"), Ok(()));
    assert!(value(refused(origins, "key_origins = [\"anywhere\"]")));
    assert!(refused(origins, "key_origins = []").is_err(), "nothing would be accepted");
    assert!(matches!(
        refused(&format!("{origins}\n"), ""),
        Err(PolicyError::Missing { key, .. }) if key == "guest.key_origins"
    ));

    let padded = |length: usize| format!("{good}#{}", "x".repeat(length - good.len() - 1));
    assert!(Policy::parse(&padded(MAX_POLICY), "test.toml").is_ok());
    let got = MAX_POLICY + 1;
    let file = "test.toml".to_owned();
    assert_eq!(
        Policy::parse(&padded(got), "test.toml").map(|_| ()),
        Err(PolicyError::TooLarge { file, got })
    );
}

#[test]
fn a_guest_version_in_reference_values_can_stand_in_a_policy() {
    // Neighbours in canonical JSON, whose numbers are doubles; a policy holds up to 9,223,372,036,854,775,807.
    let (last, first) = (9_223_372_036_854_775_000, 9_223_372_036_854_776_000);
    let parse = |version| ReferenceValues::parse(&release(version, snp(&[2])).document());
    let values = parse(last).expect("Reference Values");
    let added = add(&policy(&release(7, snp(&[1]))), &values).expect("added");
    let policy = Policy::parse(&added.text, "test.toml").expect("complete");
    assert_eq!(policy.reference_values()[1].guest_version, last);
    let error = ReferenceValuesError::GuestVersion { got: first };
    assert_eq!(
        error.to_string(),
        "Reference Values: guest_version is 9223372036854776000, wanted 0 to 9223372036854775807"
    );
    assert_eq!(parse(first), Err(error));
}
