//! The `[secure-execution]` table of a policy and Reference Values of an image, key by key. NOT HARDWARE: the machine is
//! made up.

mod se_support;

use provenance::digest::Sha256Digest;
use se_support::policy::{PolicyText, by_own_request, evidence, public, verifier_key};
use se_support::{ALL_FLAGS, Answer, Machine, UID, own, test_root};
use verifier::Policy;
use verifier::policy::{
    HexDigits, Platforms, PolicyTemplate, REFERENCE_VALUES_TYPE, ReferenceValues, SePlatformValues,
    SeReferenceImage, policy_from_reference_values,
};
use verifier::reliance::EvidenceKind;
use verifier::secure_execution::ImageTags;

#[test]
fn any_run_is_accepted_only_where_that_is_said() {
    let Some(machine) = Machine::new() else { return };
    let uids = format!("[\"{}\"]", hex::encode(UID));
    let any = PolicyText::of(&machine).with(&uids, "\"any-run\"").parse();
    let answer = Answer { config_uid: vec![0x99; 16], ..machine.answer(ALL_FLAGS) };
    let authentic = by_own_request(&evidence(&machine, &answer), own(&answer.request), &any);
    verifier::appraise(authentic.expect("authentic"), &any).expect("accepted");
    let error = PolicyText::of(&machine).with(&uids, "\"all\"").error();
    assert!(error.contains("secure-execution.config_uids` is \"all\", wanted \"any-run\""), "{error}");
    let error = PolicyText::of(&machine).with(&uids, "[]").error();
    assert!(error.contains("config_uids` is empty"), "{error}");
}

#[test]
fn every_key_of_the_table_is_mandatory_and_no_other_is_known() {
    let Some(machine) = Machine::new() else { return };
    let good = PolicyText::of(&machine);
    good.parse();
    for key in [
        "image_host_keys",
        "attestation_host_keys",
        "config_uids",
        "allow_key_only",
        "page_list_digest",
        "address_list_digest",
        "tweak_list_digest",
        "tag",
    ] {
        let at = good.line_of(&format!("{key} = "));
        let without: Vec<&str> =
            good.0.lines().enumerate().filter(|(n, _)| n + 1 != at).map(|(_, line)| line).collect();
        let error = PolicyText(without.join("\n")).error();
        assert!(error.contains("mandatory key") && error.contains(&format!(".{key}`")), "{key}: {error}");
    }
    for (from, to, says) in [
        ("verifiers = [", "others = [", "mandatory key `secure-execution.verifiers` is missing"),
        ("allow_key_only", "colour = 1\nallow_key_only", "unknown key `secure-execution.colour`"),
        ("allow_key_only = false", "allow_key_only = 0", "wanted true or false"),
        ("name = \"auditor\",", "", "mandatory key `secure-execution.verifiers[0].name` is missing"),
        (
            "name = \"auditor\",",
            "name = \"auditor\", id = 1,",
            "unknown key `secure-execution.verifiers[0].id`",
        ),
        ("public_key = \"M", "public_key = \"-", "is neither PEM nor base64"),
        ("tag = \"", "tag = \"0", "has 33 characters, wanted 32 lower-case hex digits"),
        ("page_list_digest = \"", "page_list_digest = \"0", "has 129 characters, wanted 128"),
        (
            "platforms = [\"secure-execution\"]",
            "platforms = [\"cca\"]",
            "wanted \"sev-snp\", \"tdx\", \"secure-execution\", \"az-snp\", \"az-tdx\"",
        ),
        ("dangerous_roots", "# dangerous_roots", "name at least one vendor root"),
    ] {
        let error = good.clone().with(from, to).error();
        assert!(error.contains(says), "{from} as {to}: {error}");
    }
    let upper = good.clone().with(&hex::encode(UID), &format!("{}AA", &hex::encode(UID)[2..]));
    assert!(upper.error().contains("has 32 characters, wanted 32 lower-case hex digits"));
}

#[test]
fn kinds_of_evidence_and_verifiers_must_agree_with_the_platforms() {
    let Some(machine) = Machine::new() else { return };
    let good = PolicyText::of(&machine);
    let both = "[\"own-request\", \"attestation-result\"]";
    for (kinds, says) in [
        ("[]", "is empty"),
        ("[\"hardware\", \"own-request\"]", "which Secure Execution cannot give"),
        ("[\"own-request\"]", "names a Verifier, but `hardware.evidence` has no \"attestation-result\""),
        ("[\"rumour\"]", "wanted \"hardware\" or \"own-request\" or \"attestation-result\""),
    ] {
        let error = good.clone().with(both, kinds).error();
        assert!(error.contains(says), "{kinds}: {error}");
    }
    let start = good.0.find("verifiers = [").expect("the key");
    let end = start + good.0[start..].find("\n]").expect("its end") + 2;
    let named = good.0[start..end].to_owned();
    let nobody = good.clone().with(&named, "verifiers = []");
    assert!(nobody.error().contains("name at least one Verifier"));
    let own_only = nobody.with(both, "[\"own-request\"]");
    own_only.parse();
    let key_only = own_only.with("allow_key_only = false", "allow_key_only = true");
    assert!(key_only.error().contains("is true, but `hardware.evidence` has no \"attestation-result\""));
    let unused = good.clone().with("platforms = [\"secure-execution\"]", "platforms = [\"tdx\"]");
    assert!(unused.error().contains("has no \"hardware\""), "{}", unused.error());
    let unused = unused.with(both, "[\"hardware\", \"own-request\"]");
    assert!(unused.error().contains("which `hardware.platforms` does not have"), "{}", unused.error());
    let table = unused.with("[\"hardware\", \"own-request\"]", "[\"hardware\"]");
    let tdx = "[tdx]\ntcb_statuses = [\"UpToDate\"]\nminimum_tcb_evaluation_data_number = 0\n\
        modules = \"endorsed\"\nattributes_allowed = []\nxfam_allowed = 0\nallow_td_1_0 = true\n\n\
        [secure-execution]";
    let table = table.with("[secure-execution]", tdx);
    let error = table.error();
    assert!(error.contains("`secure-execution` is there, but `hardware.platforms` has no"), "{error}");
}

#[test]
fn a_policy_is_written_from_reference_values_of_an_image() {
    let Some(machine) = Machine::new() else { return };
    let tags = ImageTags::of_header(&machine.header).expect("a header");
    let digits = |bytes: &[u8]| HexDigits::try_from(hex::encode(bytes)).expect("digits");
    let image = SeReferenceImage {
        address_list_digest: digits(tags.address_list_digest()),
        page_list_digest: digits(tags.page_list_digest()),
        tag: digits(tags.tag()),
        tweak_list_digest: digits(tags.tweak_list_digest()),
    };
    let nobody = Sha256Digest::from_bytes([0; 32]);
    let values = ReferenceValues {
        build_policies: vec![nobody],
        builder_ids: vec!["https://builder.example".to_owned()],
        dangerous_roots: Vec::new(),
        guest_version: 3,
        name: "sealwright test guest".to_owned(),
        platforms: Platforms {
            secure_execution: Some(SePlatformValues { host_keys: vec![machine.hash], images: vec![image] }),
            ..Platforms::default()
        },
        trust_configurations: vec![nobody],
        document_type: REFERENCE_VALUES_TYPE.to_owned(),
    };
    assert_eq!(ReferenceValues::parse(&values.document()), Ok(values.clone()));
    let template = PolicyTemplate {
        callers: vec![("ci".to_owned(), public(&verifier_key(3)))],
        ..PolicyTemplate::default()
    };
    let text = policy_from_reference_values(&values, &template);
    let policy = Policy::parse(&text, "new.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(!policy.is_dangerous() && policy.anchors().accepts_ibm());
    assert_eq!(policy.evidence_kinds().value, [EvidenceKind::OwnRequest]);
    let dangerous = PolicyTemplate { dangerous_roots: vec![test_root()], ..template };
    let text = policy_from_reference_values(&values, &dangerous);
    let policy = Policy::parse(&text, "new.toml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert!(policy.is_dangerous() && !policy.anchors().accepts_ibm());
    let answer = machine.answer(ALL_FLAGS);
    let authentic = by_own_request(&evidence(&machine, &answer), own(&answer.request), &policy);
    let accepted = verifier::appraise(authentic.expect("authentic"), &policy).expect("accepted");
    assert_eq!(accepted.reference().guest_version, 3);

    let mut wrong = values;
    wrong.platforms.secure_execution = Some(SePlatformValues { host_keys: Vec::new(), images: Vec::new() });
    assert!(ReferenceValues::parse(&wrong.document()).is_err(), "no image");
    assert!(HexDigits::try_from("AB".repeat(16)).is_err() && HexDigits::try_from("ab".repeat(15)).is_err());
}
