//! What service and engine process say to each other: frames of at most [`MAX_ENGINE_FRAME`] bytes of JSON.
//!
//! The frame's number is the daemon's. [`EngineRequest::Begin`] is first, with any number; each [`EngineRequest::Start`]
//! has a number above all before it, and what is said about that daemon, by either side, has the same.

use std::path::PathBuf;

use provenance::digest::Sha256Digest;
use provenance::instance::Program;
use provenance::project::ProjectId;
use serde::{Deserialize, Serialize};

/// Longest frame in bytes of JSON, both ways: the last lines of a log.
pub const MAX_ENGINE_FRAME: usize = 64 << 10;

/// What the service may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EngineRequest {
    /// Prepare. The service sends it once it has locked the state directory. Answer: `Begun` or `Refused`.
    Begin {},
    /// Start the daemon of a project. Answer: `Started`, and later `Ended`, or `Failed`.
    Start {
        /// Id of the project, 32 bytes.
        project: ProjectId,
    },
    /// End this daemon: SIGTERM, and SIGKILL when it takes too long. No answer but the daemon's `Ended`.
    Stop {},
    /// End this daemon at once.
    Kill {},
}

/// What the engine process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EngineAnswer {
    /// Daemons can be started.
    Begun(Begun),
    /// No daemon can be started here.
    Refused {
        /// What is wrong and what to do.
        problem: String,
    },
    /// This daemon answers at its socket.
    Started(StartedDaemon),
    /// This daemon did not come up, and nothing of it is left.
    Failed(StartFailure),
    /// This daemon has ended, with its steps, and nothing of it runs.
    Ended {
        /// Its last log lines.
        log: Vec<String>,
    },
}

/// With what the daemons are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begun {
    /// The buildkitd program.
    pub buildkitd: Program,
    /// The runc program.
    pub runc: Program,
    /// SHA-256 of the trust configuration that the engine process has read, see [`crate::config::Trust::sha256`].
    pub trust_sha256: Sha256Digest,
}

/// A daemon that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartedDaemon {
    /// Its control socket, mode 0600, owned by the service's user.
    pub socket: PathBuf,
    /// Process id of buildkitd, the first process of its namespace.
    pub process_id: u32,
}

/// Why a daemon was not started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartFailure {
    /// The project's daemon runs, and nobody has ended it.
    #[error("this project's daemon runs already")]
    Running {},
    /// The daemon before it does not end.
    #[error(
        "the project's daemon before it does not end: the kernel has not ended its steps within {seconds} s"
    )]
    StillEnding {
        /// How long was waited.
        seconds: u64,
    },
    /// As many run as may.
    #[error("{limit} daemons run, which is the limit")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// No space left.
    #[error("no space left to {what}")]
    DiskFull {
        /// What was being done.
        what: String,
    },
    /// It was ended before it answered.
    #[error("it was ended while it started")]
    GivenUp {},
    /// It did not come up.
    #[error("{problem}")]
    Daemon {
        /// What was seen.
        problem: String,
        /// Its last log lines.
        log: Vec<String>,
    },
}

impl StartFailure {
    pub(super) fn of(problem: impl Into<String>) -> Self {
        Self::Daemon { problem: problem.into(), log: Vec::new() }
    }

    /// Turns a file system failure into one that says what was being done with which file.
    pub(super) fn io<'a>(
        what: &'a str,
        path: &'a std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<'a> {
        move |error| {
            let what = format!("{what} {}", path.display());
            if error.kind() == std::io::ErrorKind::StorageFull {
                Self::DiskFull { what }
            } else {
                Self::of(format!("cannot {what}: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use enclave_keys::process::Frame;

    fn requests() -> Vec<EngineRequest> {
        let project = ProjectId(Sha256Digest::of(b"a project"));
        vec![
            EngineRequest::Begin {},
            EngineRequest::Start { project },
            EngineRequest::Stop {},
            EngineRequest::Kill {},
        ]
    }

    /// Reads requests to the first that is none. Each is written as it was understood and read again.
    fn read(mut bytes: &[u8]) -> Vec<EngineRequest> {
        let mut requests = Vec::new();
        while let Ok(Some(frame)) = Frame::read(&mut bytes, MAX_ENGINE_FRAME) {
            let Ok(request) = frame.parse::<EngineRequest>() else { break };
            let again = Frame::of(frame.number, &request).parse::<EngineRequest>();
            assert_eq!(again.expect("own words"), request);
            requests.push(request);
        }
        requests
    }

    #[test]
    fn every_bit_and_every_cut_of_a_request_is_read_as_another_or_none() {
        let mut written = Vec::new();
        for request in requests() {
            Frame::of(7, &request).write(&mut written, MAX_ENGINE_FRAME).expect("short");
        }
        assert_eq!(read(&written), requests());
        for length in 0..written.len() {
            assert!(read(&written[..length]).len() < requests().len(), "{length}");
        }
        for bit in 0..written.len() * 8 {
            let mut flipped = written.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            for request in read(&flipped) {
                // A flipped bit can make another project or number, and nothing that is not there.
                let known = matches!(request, EngineRequest::Start { .. }) || requests().contains(&request);
                assert!(known, "{bit}: {request:?}");
            }
        }
    }

    #[test]
    fn the_longest_end_fits_into_a_frame() {
        // 500 bytes of which each becomes six in JSON, ten times.
        let log = vec!["\u{1}".repeat(500); 10];
        let written =
            Frame::of(u64::MAX, &EngineAnswer::Ended { log }).write(&mut Vec::new(), MAX_ENGINE_FRAME);
        written.expect("short enough");
    }
}
