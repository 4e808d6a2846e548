//! BuildKit as the engine: daemons, the session, one solve. The daemons belong to the engine process ([`crate::engine`]).
//!
//! ```text
//! let (engine, _) = Engine::begin(socket, options)?;     // once; starts nothing
//! let daemon = engine.daemon(&project).await?;           // the project's own buildkitd, started on demand
//! let solved = solve(&daemon, inputs, events, cancel).await?;
//! engine.shutdown().await;                               // no daemon, no step, no mount is left
//! ```
//! Hold the `Arc<Daemon>` for as long as the build runs: a daemon that nobody holds is stopped when idle.
//!
//! - [`SolveInputs`] names everything that a build may read; secrets and logins live in memory only and are
//!   served to this build's session alone. [`EngineEvent`] is what people may see: secrets are masked.
//! - [`Export`] is on disk with every blob hashed while it arrived, and nothing missing or extra.
//! - [`Capture`] is what was observed, for the materials manifest.
//! - [`EngineError`] has one variant per failure. After [`EngineError::DaemonDied`] the next
//!   [`Engine::daemon`] starts a new one.
//! - [`AgentHub`] joins the API's ForwardAgent streams ([`AgentHub::attach`]) with the steps that want an agent.
//! - [`SourcePolicy`] is asked about every source before it is used.
//!
//! Everything that comes from a daemon or through the session is untrusted input: a step that breaks out of
//! its sandbox owns the daemon of its project.

mod attributes;
mod auth;
mod blobs;
mod capture;
mod client;
mod connection;
mod content;
mod daemon;
mod error;
mod export;
mod failure;
mod filesync;
mod layer_cache;
mod layers;
mod mask;
mod progress;
mod record;
mod session;
mod shared_key;
mod solve;
mod source_policy;
mod ssh;
mod syntax;
mod tree;

pub use blobs::{BlobError, ContextBlobs};
pub use capture::{
    Capture, CapturedSource, CapturedVertex, FilesDescriptor, ImageDescriptor, SourceDigest, SourceKind,
};
pub use client::ControlChannel;
pub use daemon::{Daemon, Engine, EngineOptions};
pub use error::EngineError;
pub use export::Export;
pub use progress::EngineEvent;
pub use solve::{SolveInputs, Solved, solve};
pub use source_policy::{AllowAllSources, SourceDecision, SourcePolicy, SourceQuestion};
pub use ssh::{AgentAttachment, AgentFrame, AgentHub, AttachError};
pub use tree::{Tree, TreeError};
