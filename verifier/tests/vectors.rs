//! Every case of the recorded Evidence, answered by the same code as `make vectors`, so that tests of this crate alone
//! notice when an answer changes; and that code itself, which must not take anything for an expected answer.

#[path = "../../tests/src/vectors/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "`make vectors` uses the rest")]
mod vectors;

use std::path::{Path, PathBuf};

use provenance::evidence::{Evidence, Platform, certificate_table};
use provenance::timestamp::Timestamp;
use serde_json::{Value, json};
use verifier::Endorsements;
use verifier::roots::{Anchors, Revocation};
use verifier::snp::Product;

fn index() -> Option<(PathBuf, Value)> {
    let folder = vectors::folder()?;
    let text = std::fs::read(folder.join("index.json")).expect("an index");
    Some((folder, serde_json::from_slice(&text).expect("JSON")))
}

/// The index with one case of it alone, changed.
fn with_case(index: &Value, id: &str, change: impl FnOnce(&mut Value)) -> Value {
    let cases = index["cases"].as_array().expect("cases");
    let mut case = cases.iter().find(|case| case["id"] == id).expect("the case").clone();
    change(&mut case);
    json!({ "note": "", "files": index["files"], "cases": [case] })
}

/// What is wrong with the one case of an index.
fn problems(folder: &Path, index: &Value) -> Vec<String> {
    let outcomes = vectors::answer_index(folder, index.to_string().as_bytes()).expect("an index");
    let [outcome] = &outcomes[..] else { panic!("{} outcomes", outcomes.len()) };
    outcome.problems.clone()
}

#[test]
fn every_case_is_answered_as_stated_and_each_refusal_says_what_is_wrong() {
    let Some((folder, _)) = index() else { return };
    let outcomes = vectors::run(&folder).expect("an index");
    let wrong: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_as_expected()).collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", vectors::summary(&outcomes));
    for (id, says) in [
        ("snp-milan-v2-debug", "guest policy 0xb0000 allows debugging (bit 19"),
        ("snp-milan-v3-vlek-expired", "VLEK certificate was valid until 2025-12-10T22:14:21Z"),
        ("snp-vlek-under-vcek-chain", "issuer is `SEV-VLEK-Milan`, but the certificate above is `SEV-Milan`"),
        ("snp-neg-measurement-flip", "signature of the report does not verify under the VCEK"),
        ("snp-neg-reportdata-flip", "signature of the report does not verify under the VCEK"),
        ("snp-neg-version-downgrade", "signature of the report does not verify under the VCEK"),
        ("snp-neg-invalid-vcek", "VCEK certificate signature does not verify under the key of `SEV-Milan`"),
        ("snp-neg-swapped-vcek", "VCEK certificate is of chip 6c65aee8"),
        ("snp-milan-v3-mintcb", "microcode is 0xdb, policy wants at least 0xde"),
        ("snp-milan-v3-vlek-not-allowed", "policy accepts the chip's VCEK only"),
        ("tdx-v4-collateral-expired", "root CA revocation list was valid until 2026-04-03T11:21:57Z"),
        ("tdx-v4-cos-outofdate-jan", "TCB status is OutOfDate (INTEL-SA-01010, INTEL-SA-01036"),
        ("tdx-v4-debug", "TD attributes 0x10000001 are of a TD under debug"),
        ("tdx-v5-servicetd", "MRSERVICETD is 383c87d3"),
        ("tdx-v5-no-tcb-level", "reaches no TCB level of its FMSPC"),
        ("tdx-v4-spr-no-tcb-level", "reaches no TCB level of its FMSPC"),
        ("tdx-v4-tappd-no-tcb-level", "reaches no TCB level of its FMSPC"),
        ("tdx-neg-mrtd-flip", "quote bytes 0x0 to 0x277, signature at 0x27c"),
        ("tdx-neg-rtmr-flip", "quote bytes 0x0 to 0x277, signature at 0x27c"),
        (
            "tdx-neg-qe-report-flip",
            "Quoting Enclave's report does not verify under the PCK (report at quote offset 0x302",
        ),
        ("tdx-neg-fmspc-mismatch", "TCB info is of FMSPC 00806f050000, the PCK certificate of b0c06f000000"),
        ("tdx-v4-granite-parse-only", "for FMSPC 00a06d080000 are missing"),
        ("se-neg-user-data", "does not hold for the image with tag e23af4f2a4b68f9b9cd3237f2636f2ae"),
        ("se-neg-other-image", "does not hold for the image with tag e23af4f2a4b68f9b9cd3237e2636f2ae"),
        ("se-neg-wrong-arpk", "does not open under the protection key"),
        ("se-pki-revoked", "host key document certificate is revoked"),
        ("se-pki-expired", "host key document certificate was valid until 2023-03-22T15:52:39Z"),
        (
            "se-pki-crl-outdated",
            "revocation list of the IBM signing key was valid until 2023-03-22T15:52:39Z",
        ),
        ("se-pki-crl-wrong-issuer", "L=Armonk, ST=New York"),
        ("se-z16", "hkd_chain=unchecked"),
    ] {
        if let Some(outcome) = outcomes.iter().find(|outcome| outcome.id == id) {
            assert!(outcome.answer.contains(says), "{id}: {}", outcome.answer);
        }
    }
}

#[test]
fn nothing_depends_on_the_names_of_cases() {
    let Some((folder, mut index)) = index() else { return };
    for (number, case) in index["cases"].as_array_mut().expect("cases").iter_mut().enumerate() {
        case["id"] = format!("renamed-{number}").into();
    }
    let outcomes = vectors::answer_index(&folder, index.to_string().as_bytes()).expect("an index");
    assert!(outcomes.iter().all(vectors::Outcome::is_as_expected), "{}", vectors::summary(&outcomes));
}

#[test]
fn another_verdict_or_another_value_of_any_field_is_noticed() {
    let Some((folder, index)) = index() else { return };
    for case in index["cases"].as_array().expect("cases") {
        let id = case["id"].as_str().expect("an id");
        // What lacks collateral may as well be refused for that.
        let others: &[&str] = match case["verdict"].as_str() {
            Some("accept") => &["reject", "parse"],
            Some("reject") => &["accept", "parse"],
            _ => &["accept"],
        };
        for verdict in others.iter().copied() {
            let changed = with_case(&index, id, |case| case["verdict"] = verdict.into());
            assert_ne!(problems(&folder, &changed), Vec::<String>::new(), "{id} as {verdict}");
        }
        for field in case["expected"].as_object().expect("fields").keys() {
            let changed = with_case(&index, id, |case| case["expected"][field] = "something else".into());
            let said = problems(&folder, &changed);
            assert!(said.len() == 1 && said[0].starts_with(&format!("`{field}` is ")), "{id}: {said:?}");
        }
        let added = with_case(&index, id, |case| case["expected"]["colour"] = "blue".into());
        assert_eq!(problems(&folder, &added), ["`colour` is expected and nothing here reads it"], "{id}");
    }
}

#[test]
fn a_refusal_for_another_reason_than_the_stated_one_is_noticed() {
    let Some((folder, index)) = index() else { return };
    let reasons: Vec<_> = index["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .filter(|case| case["verdict"] == "reject")
        .map(|case| (case["id"].as_str().expect("an id"), case["why"].clone()))
        .collect();
    for (id, _) in &reasons {
        let unknown = with_case(&index, id, |case| case["why"] = "because".into());
        assert!(problems(&folder, &unknown)[0].starts_with("no reason known here"), "{id}");
        // Form is never what these are refused for.
        let parse = with_case(&index, id, |case| case["why"] = "trailing bytes".into());
        assert!(problems(&folder, &parse)[0].starts_with("refused for another reason"), "{id}");
        let others = reasons.iter().filter(|(_, why)| {
            let other = with_case(&index, id, |case| case["why"] = why.clone());
            !problems(&folder, &other).is_empty()
        });
        let (others, most) = (others.count(), reasons.len());
        assert!(others + 6 >= most, "{id} passes for {} of {most} reasons", most - others);
    }
}

#[test]
fn what_the_index_says_beyond_what_is_known_is_an_error() {
    let Some((folder, index)) = index() else { return };
    for id in ["snp-genoa-v3", "tdx-v5-uptodate", "se-z16", "se-pki-ok", "az-snp-live"] {
        let knob = with_case(&index, id, |case| case["policy"]["allow_all"] = true.into());
        let said = problems(&folder, &knob);
        assert!(said.len() == 1 && said[0].contains("allow_all"), "{id}: {said:?}");
        let input = with_case(&index, id, |case| case["inputs"]["clock"] = "az/clock".into());
        assert_eq!(
            problems(&folder, &input),
            ["input `clock` is not one that is read for this platform"],
            "{id}"
        );
        for change in [
            &(|case: &mut Value| case["colour"] = "blue".into()) as &dyn Fn(&mut Value),
            &|case| case["verdict"] = "maybe".into(),
            &|case| case["platform"] = "cca".into(),
            &|case| case["id"] = Value::Null,
        ] {
            let changed = with_case(&index, id, change).to_string();
            assert!(vectors::answer_index(&folder, changed.as_bytes()).is_err(), "{id}: {changed:.200}");
        }
    }
    let case = &index["cases"][0];
    for wrong in [
        json!({ "note": "", "files": {}, "cases": [] }),
        json!({ "note": "", "files": {}, "cases": [case, case] }),
        json!({ "note": "", "files": {}, "cases": [case], "colour": "blue" }),
    ] {
        assert!(vectors::answer_index(&folder, wrong.to_string().as_bytes()).is_err(), "{wrong:.200}");
    }
}

#[test]
fn a_file_that_is_not_the_one_described_is_an_error() {
    let Some((folder, index)) = index() else { return };
    let id = "snp-genoa-v3";
    let path = "snp/snp-genoa-v3/report.bin";
    for (field, value) in [("sha256", json!("00")), ("bytes", json!(1183))] {
        let mut changed = with_case(&index, id, |_| ());
        changed["files"][path][field] = value;
        assert!(problems(&folder, &changed)[0].starts_with(path), "{field}");
    }
    let mut changed = with_case(&index, id, |_| ());
    changed["files"].as_object_mut().expect("files").remove(path);
    assert_eq!(problems(&folder, &changed), [format!("{path} is not among the index's files")]);
    let outside = with_case(&index, id, |case| case["inputs"]["report"] = format!("../{path}").into());
    assert_eq!(problems(&folder, &outside), [format!("`../{path}` is not a path inside the folder")]);
}

/// What other verifiers let pass: changed bits that a re-encoded structure does not hold.
#[test]
fn no_byte_of_a_genuine_report_can_be_changed() {
    let Some((folder, index)) = index() else { return };
    for (id, product, roots) in
        [("snp-genoa-v3", Product::Genoa, "genoa"), ("snp-turin-v5", Product::Turin, "turin_vcek")]
    {
        let pem = |path: String| {
            use base64::Engine as _;
            let text = std::fs::read_to_string(folder.join(path)).expect("PEM");
            let body = |part: &str| -> String {
                part.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect()
            };
            let decode =
                |part: &str| base64::engine::general_purpose::STANDARD.decode(body(part)).expect("base64");
            text.split("-----BEGIN ").skip(1).map(decode).collect::<Vec<_>>()
        };
        let (vek, chain) = (pem(format!("snp/{id}/vek.pem")), pem(format!("snp/roots/ask_ark_{roots}.pem")));
        let genuine = Evidence {
            platform: Platform::SevSnp,
            report: std::fs::read(folder.join(format!("snp/{id}/report.bin"))).expect("a report"),
            endorsements: certificate_table::encode(&[
                (certificate_table::VCEK, &vek[0]),
                (certificate_table::ASK, &chain[0]),
                (certificate_table::ARK, &chain[1]),
            ]),
        };
        let case = with_case(&index, id, |_| ());
        let now = Timestamp::parse(case["cases"][0]["now"].as_str().expect("a time")).expect("a time");
        let anchors = Anchors::vendor(&[product], Revocation::CrlIfPresent);
        let judge =
            |evidence: &Evidence| verifier::authenticate(evidence, &Endorsements::default(), &anchors, now);
        assert!(judge(&genuine).is_ok(), "{id}");
        // Every byte, a different bit in each: all bits would take minutes.
        for offset in 0..genuine.report.len() {
            let mut altered = genuine.clone();
            altered.report[offset] ^= 1 << (offset % 8);
            assert!(judge(&altered).is_err(), "{id}: byte {offset:#x} altered and still authentic");
        }
    }
}

/// Another folder of the same form: altered copies of good cases, with the reason that each must be refused for.
#[test]
fn another_folder_of_the_same_form_runs_without_a_change() {
    let Some((folder, index)) = index() else { return };
    type Alter = fn(&mut Vec<u8>);
    let altered: [(&str, &str, &str, &str, Alter, &str); 7] = [
        ("snp-genoa-v3", "report", "accept", "Nothing is altered.", |_| (), ""),
        (
            "snp-genoa-v3",
            "report",
            "reject",
            "One trailing byte.",
            |bytes| bytes.push(0),
            "wanted exactly 1184",
        ),
        (
            "snp-genoa-v3",
            "report",
            "reject",
            "A reserved byte is set.",
            |bytes| bytes[0x4c] = 1,
            "does not verify",
        ),
        (
            "snp-genoa-v3",
            "report",
            "reject",
            "Padding is not zero.",
            |bytes| bytes[0x330] = 1,
            "offset 0x330",
        ),
        ("tdx-v4-uptodate", "quote", "accept", "Zero padding is fine.", |bytes| bytes.resize(8000, 0), ""),
        (
            "tdx-v4-uptodate",
            "quote",
            "reject",
            "A byte after the quote.",
            |bytes| bytes.extend([0, 0, 7]),
            "follows the TDX quote",
        ),
        (
            "tdx-v5-uptodate",
            "quote",
            "reject",
            "XFAM bit flipped.",
            |bytes| bytes[0xb8] ^= 1,
            "does not verify",
        ),
    ];
    let other = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("vectors-of-another-folder");
    std::fs::create_dir_all(&other).expect("a directory");
    let (mut files, mut cases) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let entry = json!({
            "what": "copy", "source": "test", "source_path": name, "licence": "none", "genuine": false,
            "sha256": provenance::digest::Sha256Digest::of(bytes).hex(), "bytes": bytes.len(),
        });
        std::fs::write(other.join(&name), bytes).expect("written");
        files.insert(name.clone(), entry);
        Value::from(name)
    };
    for (number, (id, input, verdict, why, alter, _)) in altered.iter().enumerate() {
        let mut case = with_case(&index, id, |_| ())["cases"][0].clone();
        (case["id"], case["verdict"], case["why"]) =
            (format!("altered-{number}").into(), (*verdict).into(), (*why).into());
        for (name, path) in case["inputs"].as_object_mut().expect("inputs") {
            let mut bytes = std::fs::read(folder.join(path.as_str().expect("a path"))).expect("a file");
            if name == input {
                alter(&mut bytes);
            }
            *path = add(format!("{number}-{name}"), &bytes);
        }
        if *verdict == "reject" {
            // A refused form says nothing about the platform's TCB.
            let fields = case["expected"].as_object_mut().expect("fields");
            fields.retain(|name, _| !["tcb_status", "advisory_ids", "xfam"].contains(&name.as_str()));
        }
        cases.push(case);
    }
    let text = json!({ "note": "altered copies", "files": files, "cases": cases }).to_string();
    std::fs::write(other.join("index.json"), text).expect("written");
    let outcomes = vectors::run(&other).expect("an index");
    for (outcome, (.., says)) in outcomes.iter().zip(&altered) {
        assert!(outcome.is_as_expected() && outcome.answer.contains(says), "{outcome}");
    }
    assert_eq!(vectors::summary(&outcomes), "7/7 as expected");
    std::fs::remove_dir_all(&other).expect("removed");
}
