//! Runs every case of a folder of recorded Evidence through the verifier's public functions, and says of each whether
//! the answer is the one that the folder's `index.json` states, for the reason it states.
//!
//! The folder's README lists the strict default policy; a case's `policy` widens or tightens it. Every field of
//! `expected` is compared, and a field, a knob or a reason that nothing here knows is an error of the case, so that
//! no case can pass because it was not understood.

mod azure;
mod folder;
mod input;
mod policy;
mod prepared;
mod reason;
mod secure_execution;
mod snp;
mod tdx;

pub use folder::folder;
#[allow(unused_imports, reason = "a test of the verifier includes this file and needs the rest")]
pub use prepared::{Prepared, prepare, recorded_answers, recorded_documents};
#[allow(unused_imports, reason = "a test of the verifier includes this file and needs the rest")]
pub use secure_execution::{Chain, RecordedAnswer, RecordedDocument};

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use self::reason::{Refused, Stated};

/// `index.json` of a folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// For people.
    #[serde(rename = "note", default)]
    _note: String,
    files: BTreeMap<String, FileEntry>,
    cases: Vec<Case>,
}

/// What the index says about a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    #[serde(rename = "what")]
    _what: String,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "source_path")]
    _source_path: String,
    #[serde(rename = "licence")]
    _licence: String,
    #[serde(rename = "genuine")]
    _genuine: bool,
    /// SHA-256, hex.
    sha256: String,
    /// Length in bytes.
    bytes: u64,
}

/// One case of an index.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    platform: Platform,
    verdict: Wanted,
    why: String,
    #[serde(rename = "genuine_evidence")]
    _genuine_evidence: bool,
    /// RFC 3339; null where nothing depends on the time.
    now: Option<String>,
    policy: Map<String, Value>,
    inputs: BTreeMap<String, Value>,
    expected: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Platform {
    Snp,
    Tdx,
    /// An answer to an attestation request of Secure Execution.
    Se,
    /// A host key document of Secure Execution.
    SeHkd,
    AzSnp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Accept,
    Reject,
    /// All signatures at hand hold, and the TCB status is unknown.
    Parse,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Parse => "parse",
        })
    }
}

/// What the verifier says about a case.
#[derive(Debug)]
enum Answer {
    /// Accepted; what stays open, for the line of the case.
    Accepted(Option<&'static str>),
    /// Refused only because nothing is known about the TCB.
    TcbUnknown(Refused),
    Refused(Refused),
}

/// An answer with everything that was read of the Evidence.
#[derive(Debug)]
struct Judged {
    answer: Answer,
    fields: Vec<(&'static str, Value)>,
}

/// What became of one case.
#[derive(Debug)]
pub struct Outcome {
    /// Id of the case.
    pub id: String,
    /// What the verifier answered, for people.
    pub answer: String,
    /// What is not as expected; empty when all is.
    pub problems: Vec<String>,
}

impl Outcome {
    /// Whether all is as expected.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_as_expected() { "ok  " } else { "FAIL" };
        write!(f, "{sign} {:<30} {}", self.id, self.answer)?;
        self.problems.iter().try_for_each(|problem| write!(f, "; NOT AS EXPECTED: {problem}"))
    }
}

/// Reads the index of a folder and answers its cases, in order.
///
/// An index that does not parse, is empty, or has two cases of one id is an error; everything else is the outcome of
/// its case.
pub fn run(folder: &Path) -> Result<Vec<Outcome>, String> {
    let path = folder.join("index.json");
    let index = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    answer_index(folder, &index).map_err(|problem| format!("{}: {problem}", path.display()))
}

/// Answers the cases of an index whose files lie in `folder`.
pub fn answer_index(folder: &Path, index: &[u8]) -> Result<Vec<Outcome>, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    if index.cases.is_empty() {
        return Err("no cases".to_owned());
    }
    let mut ids: Vec<_> = index.cases.iter().map(|case| case.id.as_str()).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("two cases have the id {}", pair[0]));
    }
    Ok(index.cases.iter().map(|case| answer(folder, &index.files, case)).collect())
}

/// `47/47 as expected`.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let good = outcomes.iter().filter(|outcome| outcome.is_as_expected()).count();
    format!("{good}/{} as expected", outcomes.len())
}

fn answer(folder: &Path, files: &BTreeMap<String, FileEntry>, case: &Case) -> Outcome {
    let mut inputs = input::Inputs::new(folder, files, case);
    let judged = match case.platform {
        Platform::Snp => snp::judge(&mut inputs),
        Platform::Tdx => tdx::judge(&mut inputs),
        Platform::Se => secure_execution::judge_answer(&mut inputs),
        Platform::SeHkd => secure_execution::judge_host_key(&mut inputs),
        Platform::AzSnp => azure::judge(&mut inputs),
    };
    let judged = judged.and_then(|judged| inputs.check_all_used().map(|()| judged));
    let (answer, problems) = match judged {
        Err(problem) => ("not answered".to_owned(), vec![problem]),
        Ok(judged) => {
            let mut problems = compare_answer(case, &judged.answer);
            problems.extend(compare_fields(&case.expected, &judged.fields));
            (describe(&judged.answer, case.expected.len()), problems)
        }
    };
    Outcome { id: case.id.clone(), answer, problems }
}

fn describe(answer: &Answer, fields: usize) -> String {
    match answer {
        Answer::Accepted(None) => format!("accept, {fields} fields"),
        Answer::Accepted(Some(open)) => format!("accept ({open}), {fields} fields"),
        Answer::TcbUnknown(why) => format!("parse, {fields} fields: {why}"),
        Answer::Refused(why) => format!("reject, {fields} fields: {why}"),
    }
}

fn compare_answer(case: &Case, answer: &Answer) -> Vec<String> {
    match (case.verdict, answer) {
        (Wanted::Accept, Answer::Accepted(_)) | (Wanted::Parse, Answer::TcbUnknown(_)) => Vec::new(),
        (Wanted::Reject, Answer::Refused(why) | Answer::TcbUnknown(why)) => match Stated::of(&case.why) {
            None => {
                vec![format!("no reason known here stands in `{}`; name it in vectors/reason.rs", case.why)]
            }
            Some(stated) if stated.is_met_by(why) => Vec::new(),
            Some(stated) => vec![format!("refused for another reason than the stated one, {stated:?}")],
        },
        (wanted, _) => vec![format!("wanted {wanted}")],
    }
}

fn compare_fields(expected: &Map<String, Value>, fields: &[(&'static str, Value)]) -> Vec<String> {
    let compare = |(name, wanted): (&String, &Value)| match fields.iter().find(|(field, _)| field == name) {
        None => Some(format!("`{name}` is expected and nothing here reads it")),
        Some((_, got)) if got == wanted => None,
        Some((_, got)) => Some(format!("`{name}` is {got}, expected {wanted}")),
    };
    expected.iter().filter_map(compare).collect()
}
