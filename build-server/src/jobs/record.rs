//! What the job store knows about a build, apart from its events.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::v1;
use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::project::Project;

use crate::api::names::BuildName;

/// State of a build; the numbers are those of the wire and of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum State {
    /// Waits for its contexts or for a free slot.
    Queued = 1,
    /// Runs.
    Running = 2,
    /// Has a result.
    Succeeded = 3,
    /// Ended with a reason.
    Failed = 4,
    /// Ended because somebody asked.
    Cancelled = 5,
}

impl State {
    /// Whether the build has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// From the wire's or database's number.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| *state as i32 == number)
    }
}

/// What a build has that a restart loses. Kept as a reason, never as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Volatile {
    /// Build secrets.
    pub secrets: bool,
    /// Registry logins.
    pub credentials: bool,
    /// Forwarded SSH agents.
    pub agents: bool,
}

impl Volatile {
    /// Whether a restart loses nothing of the build.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// `secrets, registry logins`, for messages.
    #[must_use]
    pub fn names(self) -> String {
        let parts =
            [(self.secrets, "secrets"), (self.credentials, "registry logins"), (self.agents, "SSH agents")];
        parts.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn to_bits(self) -> i64 {
        i64::from(self.secrets) | i64::from(self.credentials) << 1 | i64::from(self.agents) << 2
    }

    pub(super) fn from_bits(bits: i64) -> Self {
        Self { secrets: bits & 1 != 0, credentials: bits & 2 != 0, agents: bits & 4 != 0 }
    }
}

/// A build to be stored.
pub struct NewBuild {
    /// Its name.
    pub name: BuildName,
    /// The project document, kept so that members are known in later calls.
    pub project: Project,
    /// SHA-256 of the request document.
    pub request_sha256: Sha256Digest,
    /// The signed request, DSSE JSON.
    pub envelope: Vec<u8>,
    /// The caller's key.
    pub caller: PublicKey,
    /// What a restart would lose.
    pub volatile: Volatile,
    /// Image names asked for.
    pub names: Vec<String>,
}

/// Outcome of storing a build.
#[derive(Debug)]
pub enum Created {
    /// It is new and queued.
    New(BuildRecord),
    /// The same request of the same caller is here already.
    Same(BuildRecord),
    /// The id belongs to another request.
    Taken,
    /// The queue is full, of this project's builds or of all.
    QueueFull {
        /// Builds that wait.
        queued: u64,
        /// The limit.
        limit: u64,
        /// Whether it is the project's own limit.
        of_project: bool,
    },
}

/// A stored build.
#[derive(Debug, Clone)]
pub struct BuildRecord {
    /// Its number in the database; grows with time.
    pub row: i64,
    /// Its name.
    pub name: BuildName,
    /// Its state.
    pub state: State,
    /// SHA-256 of the request document.
    pub request_sha256: Sha256Digest,
    /// The caller's key.
    pub caller: PublicKey,
    /// What a restart would lose.
    pub volatile: Volatile,
    /// Image names asked for.
    pub names: Vec<String>,
    /// How often the build was begun.
    pub attempts: u32,
    /// When it was created, begun and ended.
    pub created: SystemTime,
    /// When it was begun (last).
    pub started: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// Why it has no result.
    pub failure: Option<v1::Failure>,
    /// Its result.
    pub result: Option<v1::Result>,
}

impl BuildRecord {
    /// The wire form.
    #[must_use]
    pub fn to_wire(&self) -> v1::Build {
        v1::Build {
            name: self.name.to_string(),
            state: self.state as i32,
            create_time: Some(self.created.into()),
            start_time: self.started.map(Into::into),
            end_time: self.ended.map(Into::into),
            request_digest: self.request_sha256.to_string(),
            caller: self.caller.spki_sha256().to_string(),
            failure: self.failure.clone(),
            result: self.result.clone(),
            names: self.names.clone(),
        }
    }
}

/// Some events of a build.
#[derive(Debug)]
pub struct EventPage {
    /// The events, by number.
    pub events: Vec<v1::BuildEvent>,
    /// Whether the build has ended and these are its last events.
    pub last: bool,
}

/// Nanoseconds since 1970, as times stand in the database (until the year 2262).
pub(super) fn to_nanos(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn from_nanos(nanos: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}
