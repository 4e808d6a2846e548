//! The engine process: it starts, watches and ends the buildkitd of each project, as root, and does nothing else.
//!
//! ```text
//! service (no privileges) ──frames──► engine process (root) ──starts, watches, ends──► buildkitd of a project
//!        └──────────────── control socket, owned by the service's user ──────────────►     └─► steps
//! ```
//!
//! The service parses what strangers send, so this process believes it nothing: programs, paths, options and limits come
//! from the configuration files, which it reads itself. All that can be asked for is in [`EngineRequest`]: a project's
//! daemon may be started and ended. What is no request ends the connection, and with the connection all daemons end.
//!
//! - [`EngineProcess`] answers one connection; [`crate::buildkit::Engine`] asks.
//! - A daemon runs as the first process of its own pid and mount namespace. When it ends, for whatever reason, the kernel
//!   ends its steps and drops its mounts; when this process ends, `setpriv --pdeathsig` ends the daemon. So a crash leaves
//!   no process and no mount behind, without any clean-up at the next start.

mod config;
mod daemon;
mod log;
mod process;
mod programs;
mod protocol;
mod runtime;

pub use config::{DAEMONS_BESIDE_BUILDS, EngineConfig};
pub use process::{ConnectionEnded, EngineProcess};
pub use protocol::{Begun, EngineAnswer, EngineRequest, MAX_ENGINE_FRAME, StartFailure, StartedDaemon};
