//! What a verdict says, word by word.

use verifier::Verdict;

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

/// Compares the verdict as text, as JSON and as EAR with what was written down, where `#` stands for digests, keys and
/// times.
pub(crate) fn check(verdict: &Verdict, wanted: &str) {
    let report = verdict.report();
    let json = serde_json::to_string_pretty(report).expect("JSON");
    let ear = serde_json::to_string_pretty(&report.to_ear()).expect("JSON");
    let said = plain(&format!("{report}\n{json}\n{ear}\n"));
    let differs = said.lines().zip(wanted.lines()).position(|(said, wanted)| said != wanted);
    assert!(said == wanted.trim_end(), "line {:?} differs; it says\n{said}", differs.map(|line| line + 1));
}
