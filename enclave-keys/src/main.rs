//! The key process. The launcher of build-server starts it first, with the control socket as its stdin; nothing on its
//! command line or in its environment selects another TEE. `--sealed DIR` names the directory of the sealed epoch.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use enclave_keys::process::{KeyProcess, confine, own_socket, protect};

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("refusing to start: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args_os().skip(1);
    let sealed = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(directory), None) if flag == "--sealed" => PathBuf::from(directory),
        _ => return Err("usage: enclave-keys --sealed DIR (it is started by build-server)".to_owned()),
    };
    let control = own_socket()
        .map_err(|error| format!("stdin is no socket ({error}); this program is started by build-server"))?;
    protect().map_err(|error| error.to_string())?;
    let attester = enclave_keys::detect().map_err(|error| error.to_string())?;
    confine().map_err(|error| error.to_string())?;
    KeyProcess::new(attester, Some(sealed)).run(control).map(|_ended| ()).map_err(|error| error.to_string())
}
