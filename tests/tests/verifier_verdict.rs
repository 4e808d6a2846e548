//! What a verdict says of a good build on three platforms, word by word: to people, and to programs as JSON and as EAR.
//! Digests, keys and times stand as `#`; that they are the right ones other tests see to. NOT HARDWARE: the Evidence is
//! the software TEE's.

#[path = "verifier_support/good.rs"]
#[allow(dead_code, reason = "the tamper suite uses the other parts")]
mod good;
#[path = "verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod setting;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use good::Good;

/// The text with `#` for each time and each word of four or more hex digits.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for piece in
        text.replace("sha256", "SHA").split_inclusive(|character: char| !character.is_ascii_alphanumeric())
    {
        let word = piece.trim_end_matches(|character: char| !character.is_ascii_alphanumeric());
        let is_value = word.len() >= 4 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        out.push_str(if is_value { "#" } else { word });
        out.push_str(&piece[word.len()..]);
    }
    // What is left of a time after its year.
    while let Some(at) = out.find("#-") {
        let end = at + out[at..].find('Z').expect("times end in Z") + 1;
        out.replace_range(at..end, "#");
    }
    out.replace(env!("CARGO_PKG_VERSION"), "VERSION").trim_end().to_owned()
}

fn check(good: &[Good; 2], wanted: &str) {
    let verdict = good[0].judge(&good[0].made.input);
    let report = verdict.report();
    let json = serde_json::to_string_pretty(report).expect("JSON");
    let ear = serde_json::to_string_pretty(&report.to_ear()).expect("JSON");
    let said = plain(&format!("{report}\n{json}\n{ear}\n"));
    let differs = said.lines().zip(wanted.lines()).position(|(said, wanted)| said != wanted);
    assert!(said == wanted.trim_end(), "line {:?} differs; it says\n{said}", differs.map(|line| line + 1));
}

#[test]
fn on_sev_snp() {
    check(&good::snp(), include_str!("verdicts/sev-snp.txt"));
}

#[test]
fn on_tdx() {
    check(&good::tdx(), include_str!("verdicts/tdx.txt"));
}

#[test]
fn on_secure_execution() {
    check(&good::secure_execution(), include_str!("verdicts/secure-execution.txt"));
}
