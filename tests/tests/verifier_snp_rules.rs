//! Each rule that a policy has for SEV-SNP: a report that just satisfies it, and one that differs in what the rule is
//! about and gets exactly that refusal. NOT HARDWARE: the chip is the software TEE's.

#[path = "../src/policy_text.rs"]
mod policy_text;

use std::sync::LazyLock;

use enclave_keys::KeyService;
use policy_text::PolicyText;
use provenance::binding::ReportData;
use provenance::evidence::Evidence;
use provenance::timestamp::Timestamp;
use sealwright_tests::reference_values;
use sealwright_tests::release_fixture::{FixtureKey, instance_inputs};
use sealwright_tests::software_tee::{Chip, Product, ReportFields, SoftwareTee, Tcb};
use verifier::evidence::AppraisalError;
use verifier::policy::PolicyError;
use verifier::snp::{ReportError, SnpError, SnpRefusal};
use verifier::{Endorsements, Policy, appraise, authenticate};

type Alter = fn(&mut ReportFields);

static TEE: LazyLock<SoftwareTee> = LazyLock::new(|| SoftwareTee::shared().expect("a software TEE"));
/// Turin has reports of version 5, with all there is.
static CHIP: LazyLock<Chip> =
    LazyLock::new(|| TEE.new_chip(Product::Turin, Tcb::of(Product::Turin), |_| ()).expect("a chip"));

fn policy() -> PolicyText {
    let keys = KeyService::start(Box::new(SoftwareTee::shared().expect("a TEE")), instance_inputs(), None)
        .expect("started");
    let callers = [("ci".to_owned(), FixtureKey::new().public)];
    PolicyText(reference_values::dangerous_policy(&TEE, keys.instance(), &callers))
}

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

fn judge(policy: &PolicyText, alter: Alter) -> Result<(), AppraisalError> {
    let (policy, evidence) = (policy.parse(), CHIP.evidence(&ReportData([5; 64]), alter));
    let authentic = authenticate(&evidence, &Endorsements::default(), policy.anchors(), now());
    appraise(authentic.expect("authentic"), &policy).map(|_| ())
}

fn hex(byte: u8) -> String {
    hex::encode([byte; 48])
}

/// Under the policy with `to` in the place of `from`, `good` passes and `bad` is refused so.
fn rule(
    base: &PolicyText,
    [from, to]: [&str; 2],
    good: Alter,
    bad: Alter,
    refusal: impl Fn(usize) -> SnpRefusal,
) {
    let policy = base.clone().with(from, to);
    let line = policy.line_of(to.lines().next().expect("a line"));
    assert_eq!(judge(&policy, good), Ok(()), "{to}");
    assert_eq!(judge(&policy, bad), Err(refusal(line).into()), "{to}");
}

fn set(fields: &mut ReportFields, bit: u32) {
    fields.policy |= 1 << bit;
}

#[test]
fn reserved_bytes_of_each_tcb_are_zero() {
    for (alter, field, offset) in [
        ((|f| f.current_tcb[4] = 1) as Alter, "CURRENT_TCB", 0x3c),
        (|f| f.reported_tcb[5] = 1, "REPORTED_TCB", 0x185),
        (|f| f.committed_tcb[6] = 1, "COMMITTED_TCB", 0x1e6),
        (|f| f.launch_tcb[4] = 1, "LAUNCH_TCB", 0x1f4),
    ] {
        let evidence = CHIP.evidence(&ReportData([5; 64]), alter);
        let answer = authenticate(&evidence, &Endorsements::default(), policy().parse().anchors(), now());
        let error = SnpError::TcbReserved { field, offset, got: 1 };
        assert_eq!(answer.map(|_| ()), Err(error.into()));
    }
}

#[test]
fn malformed_reports_have_their_errors() {
    let policy = policy().parse();
    let judge = |evidence: &Evidence| {
        authenticate(evidence, &Endorsements::default(), policy.anchors(), now()).map(|_| ())
    };
    let altered = |alter: Alter| judge(&CHIP.evidence(&ReportData([5; 64]), alter));
    let error = |error: ReportError| Err(SnpError::from(error).into());
    assert_eq!(altered(|f| f.vmpl = 3), Ok(()));
    assert_eq!(altered(|f| f.vmpl = 4), error(ReportError::Vmpl { got: 4 }));
    // MASK_CHIP_KEY: the chip's key is masked, so nothing is signed.
    assert_eq!(altered(|f| f.key_info = 2), error(ReportError::Unsigned { key_info: 2 }));
    // Nothing signs what follows the integers of the signature.
    for offset in [0x2a0 + 48, 0x2a0 + 53, 0x2e8 + 53, 0x330 + 5, 0x49f] {
        let mut evidence = CHIP.evidence(&ReportData([5; 64]), |_| ());
        evidence.report[offset] = 9;
        assert_eq!(judge(&evidence), error(ReportError::Reserved { offset, got: 9 }));
    }
}

#[test]
fn fields_that_no_rule_is_about_are_read_too() {
    let alter = |f: &mut ReportFields| {
        (f.family_id, f.image_id, f.report_id_ma) = ([0x31; 16], [0x32; 16], [0x33; 32]);
    };
    let evidence = CHIP.evidence(&ReportData([5; 64]), alter);
    let authentic = authenticate(&evidence, &Endorsements::default(), policy().parse().anchors(), now());
    let authentic = authentic.expect("authentic");
    let report = authentic.snp().expect("a report").report();
    assert_eq!(report.family_id(), &[0x31; 16]);
    assert_eq!(report.image_id(), &[0x32; 16]);
    assert_eq!(report.report_id_ma(), &[0x33; 32]);
}

#[test]
fn version_level_and_launch_are_judged() {
    let base = policy();
    let version = ["minimum_report_version = 3", "minimum_report_version = 5"];
    let below = |f: &mut ReportFields| {
        f.version = 4;
        (f.launch_mitigations, f.current_mitigations) = (0, 0);
    };
    rule(&base, version, |_| (), below, |line| SnpRefusal::ReportVersion { got: 4, wanted: 5, line });

    let wanted = vec![0, 1];
    rule(
        &base,
        ["vmpl = [0]", "vmpl = [0, 1]"],
        |f| f.vmpl = 1,
        |f| f.vmpl = 2,
        |line| SnpRefusal::Vmpl { got: 2, wanted: wanted.clone(), line },
    );

    let (id, author, none) = (hex(1), hex(2), hex(0));
    let svn = format!("id_keys = [\"{id}\"]\nauthor_keys = \"any\"\nminimum_guest_svn = 7");
    let from = "id_keys = \"any\"\nauthor_keys = \"any\"\nminimum_guest_svn = 0";
    let good: Alter = |f| (f.id_key_digest, f.guest_svn) = ([1; 48], 7);
    let bad: Alter = |f| (f.id_key_digest, f.guest_svn) = ([1; 48], 6);
    rule(&base, [from, &svn], good, bad, |line| SnpRefusal::GuestSvn { got: 6, wanted: 7, line: line + 2 });

    let keys = format!("id_keys = [\"{id}\", \"{none}\"]");
    let wanted = vec![id, none.clone()];
    for good in [(|f| f.id_key_digest = [1; 48]) as Alter, |_| ()] {
        rule(
            &base,
            ["id_keys = \"any\"", &keys],
            good,
            |f| f.id_key_digest = [3; 48],
            |line| SnpRefusal::BlockKey {
                field: "ID_KEY_DIGEST",
                got: hex(3),
                wanted: wanted.clone(),
                offset: 0xe0,
                line,
            },
        );
    }
    let keys = format!("author_keys = [\"{author}\"]");
    let refusal = |line| SnpRefusal::BlockKey {
        field: "AUTHOR_KEY_DIGEST",
        got: none.clone(),
        wanted: vec![author.clone()],
        offset: 0x110,
        line,
    };
    rule(&base, ["author_keys = \"any\"", &keys], |f| f.author_key_digest = [2; 48], |_| (), refusal);
}

#[test]
fn every_bit_of_a_mitigation_that_is_demanded_must_be_there() {
    let base = policy();
    let from = "required_mitigations = { launch = 0x0, current = 0x0 }";
    let refusal =
        |field, got, wanted, offset| move |line| SnpRefusal::Mitigations { field, got, wanted, offset, line };
    let launch = "required_mitigations = { launch = 0x5, current = 0x0 }";
    let lacks = refusal("LAUNCH_MIT_VECTOR", 0x3a, 0x5, 0x1f8);
    rule(&base, [from, launch], |_| (), |f| f.launch_mitigations = 0x3a, lacks);
    let current = "required_mitigations = { launch = 0x0, current = 0x21 }";
    let lacks = refusal("CURRENT_MIT_VECTOR", 0x20, 0x21, 0x200);
    rule(&base, [from, current], |_| (), |f| f.current_mitigations = 0x20, lacks);
    // Reports before version 5 do not have the vectors.
    let before = |f: &mut ReportFields| {
        f.version = 4;
        (f.launch_mitigations, f.current_mitigations) = (0, 0);
    };
    rule(&base, [from, launch], |_| (), before, refusal("LAUNCH_MIT_VECTOR", 0, 0x5, 0x1f8));
}

#[test]
fn every_component_of_each_tcb_must_reach_its_minimum() {
    let base = policy();
    let zero = "{ fmc = 0, bootloader = 0, tee = 0, snp = 0, microcode = 0 }";
    let start = base.0.find("[sev-snp.minimum_tcb.turin]").expect("Turin's table");
    let tcb = |level: [u8; 5]| Tcb {
        fmc: Some(level[0]),
        bootloader: level[1],
        tee: level[2],
        snp: level[3],
        microcode: level[4],
    };
    // What the chip reports, and one more of each component.
    let now = [1, 1, 1, 4, 0x51];
    assert_eq!(tcb(now).encode(), Tcb::of(Product::Turin).encode());
    for (key, field, offset) in [
        ("reported", "REPORTED_TCB", 0x180),
        ("committed", "COMMITTED_TCB", 0x1e0),
        ("launch", "LAUNCH_TCB", 0x1f0),
    ] {
        for (at, component) in ["fmc", "bootloader", "tee", "snp", "microcode"].into_iter().enumerate() {
            for above in [0, 1] {
                let mut least = now;
                // The others are far below: no component makes up for another.
                least.iter_mut().enumerate().for_each(|(other, level)| *level *= u8::from(other == at));
                least[at] += above;
                let [fmc, bootloader, tee, snp, microcode] = least;
                let line = format!(
                    "{key} = {{ fmc = {fmc}, bootloader = {bootloader}, tee = {tee}, snp = {snp}, microcode = {microcode} }}"
                );
                let mut text = base.0.clone();
                let table = text[start..].replacen(&format!("{key} = {zero}"), &line, 1);
                text.replace_range(start.., &table);
                let policy = PolicyText(text);
                let result = judge(&policy, |_| ());
                if above == 0 {
                    assert_eq!(result, Ok(()), "{line}");
                    continue;
                }
                let Err(AppraisalError::Snp(SnpRefusal::TcbTooLow {
                    field: got_field,
                    component: got_component,
                    got,
                    wanted,
                    offset: got_offset,
                    line: got_line,
                    ..
                })) = result
                else {
                    panic!("{line}: {result:?}")
                };
                assert_eq!((got_field, got_component, got_offset), (field, component, offset));
                assert_eq!((got, wanted, got_line), (now[at], now[at] + 1, policy.line_of(&line)));
            }
        }
    }
}

#[test]
fn firmware_that_is_not_committed_is_refused_unless_that_is_said() {
    let base = policy();
    let provisional: Alter = |f| f.current_tcb[3] += 1;
    let got = judge(&base, provisional);
    let refused = matches!(
        got,
        Err(AppraisalError::Snp(SnpRefusal::ProvisionalFirmware { line, .. }))
            if line == base.line_of("allow_provisional_firmware")
    );
    assert!(refused, "{got:?}");
    let allowed = base.with("allow_provisional_firmware = false", "allow_provisional_firmware = true");
    assert_eq!(judge(&allowed, provisional), Ok(()));
}

#[test]
fn what_no_policy_can_accept_is_refused_under_the_widest() {
    let base = policy().with("allow_cxl = false", "allow_cxl = true");
    let debug = SnpRefusal::Debug { guest_policy: 0xb_0000 };
    assert_eq!(judge(&base, |f| set(f, 19)), Err(debug.into()));
    let migration = SnpRefusal::MigrationAgent { guest_policy: 0x7_0000 };
    assert_eq!(judge(&base, |f| set(f, 18)), Err(migration.into()));
}

#[test]
fn every_bit_of_the_guest_policy_is_judged() {
    let base = policy();
    let refusal =
        |guest_policy, bit, rule| move |line| SnpRefusal::GuestPolicy { guest_policy, bit, rule, line };
    let smt = ["allow_smt = true", "allow_smt = false"];
    let lacks = refusal(0x3_0000, "SMT may be on (bit 16)", smt[1]);
    rule(&base, smt, |f| f.policy = 0x2_0000, |_| (), lacks);
    let cxl = ["allow_cxl = false", "allow_cxl = false # none"];
    let lacks = refusal(0x23_0000, "CXL may be populated (bit 21)", "allow_cxl = false");
    rule(&base, cxl, |_| (), |f| set(f, 21), lacks);

    let start = base.0.find("[sev-snp.guest_policy]").expect("the table");
    let demands: [(&str, &str, Alter); 5] = [
        ("single_socket", "more than one socket is allowed (bit 20)", |f| set(f, 20)),
        ("aes_256_xts", "AES-256-XTS is not required (bit 22)", |f| set(f, 22)),
        ("rapl_disabled", "RAPL is not disabled (bit 23)", |f| set(f, 23)),
        ("ciphertext_hiding", "ciphertext hiding is not required (bit 24)", |f| set(f, 24)),
        ("page_swap_disabled", "page swap is not disabled (bit 25)", |f| set(f, 25)),
    ];
    for (key, says, good) in demands {
        let (policy, line) = demanding(&base, start, key);
        assert_eq!(judge(&policy, good), Ok(()), "{key}");
        // Any other bit does not stand for it.
        let got = judge(&policy, |_| ());
        let Err(AppraisalError::Snp(SnpRefusal::GuestPolicy { guest_policy, bit, rule, line: at })) = got
        else {
            panic!("{key}: {got:?}")
        };
        assert_eq!((guest_policy, bit, at), (0x3_0000, says, line));
        assert_eq!(rule, format!("require_{key} = true"));
    }
}

/// The policy with `require_<key> = true` in the table that begins at `start`, and the line of it.
fn demanding(base: &PolicyText, start: usize, key: &str) -> (PolicyText, usize) {
    let mut text = base.0.clone();
    let (off, on) = (format!("require_{key} = false"), format!("require_{key} = true"));
    let at = start + text[start..].find(&off).expect("the rule");
    text.replace_range(at..at + off.len(), &on);
    let line = 1 + text[..at].matches('\n').count();
    (PolicyText(text), line)
}

#[test]
fn every_bit_of_the_platform_s_state_is_judged() {
    let base = policy();
    let start = base.0.find("[sev-snp.platform]").expect("the table");
    let states: [(&str, &str, Alter, Alter); 7] = [
        ("ecc", "ECC memory is off (bit 2)", |f| f.platform_info = 1 << 2, |f| f.platform_info = 0x21),
        (
            "alias_check",
            "the memory alias check is not complete (bit 5)",
            |f| f.platform_info = 1 << 5,
            |f| f.platform_info = 0x05,
        ),
        ("smt_disabled", "SMT is on (bit 0)", |f| f.platform_info = 0x24, |f| f.platform_info = 0x25),
        ("tsme", "TSME is off (bit 1)", |f| f.platform_info = 0x27, |f| f.platform_info = 0x25),
        ("rapl_disabled", "RAPL is on (bit 3)", |f| f.platform_info = 0x2d, |f| f.platform_info = 0x25),
        (
            "ciphertext_hiding",
            "ciphertext hiding is off (bit 4)",
            |f| f.platform_info = 0x35,
            |f| f.platform_info = 0x25,
        ),
        ("tio_disabled", "trusted I/O is on (bit 7)", |f| f.platform_info = 0x25, |f| f.platform_info = 0xa5),
    ];
    for (key, says, good, bad) in states {
        let (policy, line) = demanding(&base, start, key);
        assert_eq!(judge(&base, bad), Ok(()), "{key} is not demanded");
        assert_eq!(judge(&policy, good), Ok(()), "{key}");
        let got = judge(&policy, bad);
        let Err(AppraisalError::Snp(SnpRefusal::PlatformInfo { bit, rule, line: at, .. })) = got else {
            panic!("{key}: {got:?}")
        };
        assert_eq!((bit, at), (says, line));
        assert_eq!(rule, format!("require_{key} = true"));
    }
}

#[test]
fn a_minimum_svn_without_id_keys_is_no_policy() {
    let text = policy().with("minimum_guest_svn = 0", "minimum_guest_svn = 1");
    let error = Policy::parse(&text.0, "test.toml").expect_err("refused");
    let PolicyError::Value { problem, place, .. } = error else { panic!("{error}") };
    assert_eq!(place.line, text.line_of("minimum_guest_svn"));
    assert!(problem.contains("id_keys is \"any\""), "{problem}");
}
