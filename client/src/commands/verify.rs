//! placeholder
use super::args::VerifyArgs;
use super::failure::Failure;
use super::output::Output;
use super::setup::Setup;
pub(crate) fn run(_args: &VerifyArgs, _setup: &Setup, _output: &Output) -> Result<u8, Failure> { Ok(1) }
