//! libFuzzer around the target that the environment names: one build serves all.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::{Corpus, fuzz_target};
use sealwright_fuzz::{TARGETS, Target, seeds, target};

/// Variable that names the target. With `list` the names are printed; with `seeds=FOLDER` each target is run over its
/// seeds.
const NAME: &str = "SEALWRIGHT_FUZZ_TARGET";

static TARGET: OnceLock<Target> = OnceLock::new();

/// Lists or runs seeds and ends the process, when that is asked for.
#[allow(clippy::disallowed_methods, reason = "libFuzzer has the main function, and nothing is running yet")]
fn without_fuzzing(asked: &str) {
    if asked == "list" {
        for (name, _) in TARGETS {
            println!("{name}");
        }
        std::process::exit(0);
    }
    if let Some(folder) = asked.strip_prefix("seeds=") {
        let complaints = seeds::complaints(Path::new(folder));
        for complaint in &complaints {
            eprintln!("{complaint}");
        }
        std::process::exit(i32::from(!complaints.is_empty()));
    }
}

fuzz_target!(
    init: {
        let name = std::env::var(NAME).unwrap_or_default();
        without_fuzzing(&name);
        let chosen = target(&name).unwrap_or_else(|| panic!("{NAME} is `{name}`, which is no target"));
        let _ = TARGET.set(chosen);
    },
    |data: &[u8]| -> Corpus {
        let run = TARGET.get().expect("set before the first input");
        let _ = run(data);
        Corpus::Keep
    }
);
