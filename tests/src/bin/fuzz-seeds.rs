//! Writes good inputs for the fuzz targets of `tests/fuzz` into a folder: `seeds/TARGET/NAME`, and `good/`, the Evidence
//! that targets compare with. Made by the software TEE; with recorded Evidence where it is at hand. NOT HARDWARE.

#[path = "../../tests/verifier_support/good.rs"]
#[allow(dead_code, reason = "tests judge what is made")]
mod good;
#[path = "fuzz_seeds/seeds.rs"]
mod seeds;
#[path = "../../tests/verifier_support/secure_execution.rs"]
#[allow(dead_code, reason = "tests use the other parts")]
mod setting;
#[path = "../../tests/verifier_support/mod.rs"]
mod support;
#[path = "../../tests/verifier_support/world.rs"]
#[allow(dead_code, reason = "tests use the other parts")]
mod world;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: fuzz-seeds FOLDER");
        return ExitCode::from(2);
    };
    match seeds::write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}
