//! Whoever alters one thing of a good build is refused, and for the reason that is written down beforehand.
//!
//! From two good bundles of each platform, every field is changed alone and taken from the other: fields of binary parts
//! by the layout tables that the parsers use, JSON and DER walked to the last value. The reasons stand in
//! `tests/refusals/*.txt`; a field without a line there fails, and so does a line without a field. NOT HARDWARE: the
//! Evidence is the software TEE's.

#[path = "tamper_support/fields.rs"]
mod fields;
#[path = "verifier_support/good.rs"]
#[allow(dead_code, reason = "the fuzz targets use the other parts")]
mod good;
#[path = "tamper_support/parts.rs"]
mod parts;
#[path = "verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod setting;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "tamper_support/table.rs"]
mod table;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use fields::alterations;
use good::Good;
use parts::{Fetched, Part};
use table::{Table, name_of};
use verifier::verdict::Outcome;

fn fetched(good: &Good) -> Fetched {
    Fetched { bundle: good.made.bundle.clone(), input: good.made.input.clone() }
}

/// Goes through all parts; complaints are what is not as written down.
fn suite(pair: &[Good; 2], parts: &[Part], of_platform: &str) {
    let [good, other] = pair;
    let [one, theirs] = [fetched(good), fetched(other)];
    for (good, fetched) in [(good, &one), (other, &theirs)] {
        let verdict = good.judge(&fetched.input);
        assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
    }
    let mut table = Table::parse(&[of_platform, include_str!("../refusals/every-platform.txt")].concat());
    let (mut complaints, mut seen) = (Vec::new(), 0);
    for part in parts {
        let bytes = part.of(&one);
        let untouched = good.judge(&part.replaced(&one, bytes.clone()));
        assert_eq!(untouched.report().outcome(), Outcome::BlobsNotChecked, "{}", untouched.report());
        for alteration in alterations(&part.form, &bytes, &part.of(&theirs)) {
            seen += 1;
            let (field, operation) =
                (format!("{}:{}", part.name, alteration.field), alteration.operation.name());
            let verdict = good.judge(&part.replaced(&one, alteration.bytes));
            let rejection = verdict.report().rejection();
            let got =
                rejection.map_or_else(|| "ACCEPTED".to_owned(), |rejection| name_of(rejection.reason()));
            if let Err(says) = table.allows(&field, operation, &got) {
                complaints.push(format!("{field} {operation} {got}   # {says}"));
            }
        }
    }
    for line in table.unused() {
        complaints.push(format!("# line {line}: there is no such field"));
    }
    assert!(complaints.is_empty(), "of {seen} alterations:\n{}", complaints.join("\n"));
    eprintln!("{seen} alterations, all refused as written down");
}

#[test]
fn every_field_of_a_build_on_sev_snp_is_bound() {
    let pair = good::snp();
    let parts = [parts::snp(), parts::common(&fetched(&pair[0]))].concat_parts();
    suite(&pair, &parts, include_str!("../refusals/sev-snp.txt"));
}

#[test]
fn every_field_of_a_build_on_tdx_is_bound() {
    let pair = good::tdx();
    let good = fetched(&pair[0]);
    let parts = [parts::tdx(&good), parts::common(&good)].concat_parts();
    suite(&pair, &parts, include_str!("../refusals/tdx.txt"));
}

#[test]
fn every_field_of_a_build_under_secure_execution_is_bound() {
    let pair = good::secure_execution();
    let good = fetched(&pair[0]);
    let parts = [parts::secure_execution(&good), parts::common(&good)].concat_parts();
    suite(&pair, &parts, include_str!("../refusals/secure-execution.txt"));
}

trait ConcatParts {
    fn concat_parts(self) -> Vec<Part>;
}

impl ConcatParts for [Vec<Part>; 2] {
    fn concat_parts(self) -> Vec<Part> {
        self.into_iter().flatten().collect()
    }
}
