//! Verdicts of the verifier beside those of others.

use std::collections::BTreeMap;

use sealwright_peers::Verdict;

/// A case about which verifier and peer differ, with words of the one that refuses.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "each test file uses its own part")]
pub enum Differs {
    /// The verifier refuses what the peer accepts.
    RefusedHere(&'static str),
    /// The peer cannot read, or refuses, what the verifier accepts.
    RefusedThere(&'static str),
}
use Differs::{RefusedHere, RefusedThere};

/// Verifier and peer must agree about each case, of which these are id, verdict here and verdict there, except those named.
pub fn agree(judged: impl IntoIterator<Item = (String, Verdict, Verdict)>, named: &[(&str, Differs)]) {
    let mut named: BTreeMap<_, _> = named.iter().copied().collect();
    let mut wrong = Vec::new();
    for (id, own, theirs) in judged {
        match (own, theirs, named.remove(id.as_str())) {
            (Ok(()), Ok(()), None) | (Err(_), Err(_), None) => {}
            (Err(reason), Ok(()), Some(RefusedHere(words))) if reason.contains(words) => {}
            (Ok(()), Err(reason), Some(RefusedThere(words))) if reason.contains(words) => {}
            (own, theirs, named) => {
                wrong.push(format!("{id}: verifier {own:?}, peer {theirs:?}, named {named:?}"));
            }
        }
    }
    wrong.extend(named.keys().map(|id| format!("{id} is named, and is no case")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
