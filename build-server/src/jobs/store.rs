//! The SQLite job store: builds, their events, and the project documents seen.
//!
//! WAL mode; every change of a build's state is synced before anybody is told of it, log lines are not (they
//! survive a crash of the process, which is the promise, and perhaps not one of the machine). An event's
//! number is the last one plus one inside the transaction that writes it, so numbers have neither gaps nor
//! doubles, and none follows the event that ends the build.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prost::Message;
use proto::v1;
use proto::v1::build_event::Event;
use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::project::{Project, ProjectId};
use provenance::request::BuildId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use tokio::sync::watch;

use super::record::{BuildRecord, Created, EventPage, NewBuild, State, Volatile, from_nanos, to_nanos};
use crate::api::names::BuildName;

/// Version of the tables below (`PRAGMA user_version`).
const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
CREATE TABLE projects (
    id       BLOB PRIMARY KEY NOT NULL,
    document BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE builds (
    row            INTEGER PRIMARY KEY AUTOINCREMENT,
    project        BLOB NOT NULL,
    build          TEXT NOT NULL,
    state          INTEGER NOT NULL,
    request_sha256 BLOB NOT NULL,
    envelope       BLOB NOT NULL,
    caller         BLOB NOT NULL,
    volatile       INTEGER NOT NULL,
    names          TEXT NOT NULL,
    attempts       INTEGER NOT NULL DEFAULT 0,
    created        INTEGER NOT NULL,
    started        INTEGER,
    ended          INTEGER,
    failure        BLOB,
    result         BLOB,
    last_event     INTEGER NOT NULL DEFAULT 0,
    event_bytes    INTEGER NOT NULL DEFAULT 0,
    result_bytes   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project, build)
);
CREATE INDEX builds_by_project ON builds (project, row);
CREATE INDEX builds_by_state ON builds (state, row);
CREATE TABLE events (
    build  INTEGER NOT NULL REFERENCES builds (row) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    event  BLOB NOT NULL,
    PRIMARY KEY (build, number)
) WITHOUT ROWID;
";
const COLUMNS: &str = "row, project, build, state, request_sha256, caller, volatile, names, attempts, created, \
                       started, ended, failure, result";

/// Why the job store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// Another process serves this state directory.
    #[error(
        "state directory {directory} is in use by process {pid}; stop it first, or choose another state directory"
    )]
    InUse {
        /// The directory.
        directory: String,
        /// The other process, as its lock file says; `?` when it does not.
        pid: String,
    },
    /// The lock file cannot be made.
    #[error("lock state directory {directory}: {source}")]
    Lock {
        /// The directory.
        directory: String,
        /// The failure.
        source: io::Error,
    },
    /// Tables of another version.
    #[error("job store has tables of version {got}, this program knows version {SCHEMA_VERSION}")]
    Version {
        /// Version found.
        got: i64,
    },
    /// No space left.
    #[error("no space left for the job store")]
    DiskFull,
    /// A stored row does not decode: the disk was changed or damaged.
    #[error("job store is damaged: {what}")]
    Damaged {
        /// What does not decode.
        what: String,
    },
    /// The build is not there any more (retention removed it).
    #[error("the build is not stored any more")]
    Gone,
    /// The build has ended, so it takes no more events.
    #[error("the build has ended")]
    Ended,
    /// Any other failure of SQLite.
    #[error("job store: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(error),
        }
    }
}

fn damaged(what: impl Into<String>) -> JobError {
    JobError::Damaged { what: what.into() }
}

/// Holds a state directory for this process.
#[must_use = "the directory is locked only while this lives"]
#[derive(Debug)]
pub struct StateLock {
    _file: File,
}

impl StateLock {
    /// Locks `directory` (created when missing) for this process, or names the process that has it.
    pub fn acquire(directory: &Path) -> Result<Self, JobError> {
        let shown = directory.display().to_string();
        let failed = |source| JobError::Lock { directory: shown.clone(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = Read::take(&mut file, 32).read_to_string(&mut pid);
                let pid = pid.trim();
                let pid = if pid.is_empty() { "?" } else { pid }.to_owned();
                return Err(JobError::InUse { directory: shown, pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The job store. Calls block for a commit at most; use it from `spawn_blocking`.
pub struct JobStore {
    write: Mutex<Connection>,
    read: Mutex<Connection>,
    watchers: Mutex<HashMap<i64, watch::Sender<()>>>,
}

impl JobStore {
    /// Opens (and creates) the database at `path`.
    pub fn open(path: &Path) -> Result<Self, JobError> {
        let write = Connection::open(path)?;
        write.pragma_update(None, "journal_mode", "WAL")?;
        write.pragma_update(None, "synchronous", "FULL")?;
        write.pragma_update(None, "foreign_keys", true)?;
        write.pragma_update(None, "trusted_schema", false)?;
        match write.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            0 => write
                .execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"))?,
            SCHEMA_VERSION => {}
            got => return Err(JobError::Version { got }),
        }
        let read = Connection::open(path)?;
        read.pragma_update(None, "query_only", true)?;
        Ok(Self { write: Mutex::new(write), read: Mutex::new(read), watchers: Mutex::default() })
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Connection> {
        self.write.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a new build, or finds the one that has its id already. `queue_limit` is for all projects,
    /// `project_limit` for this one.
    pub fn create(&self, new: &NewBuild, queue_limit: u64, project_limit: u64) -> Result<Created, JobError> {
        let mut connection = self.writer();
        let transaction = immediate(&mut connection)?;
        if let Some(record) = select(&transaction, &new.name)? {
            let same = record.request_sha256 == new.request_sha256 && record.caller == new.caller;
            return Ok(if same { Created::Same(record) } else { Created::Taken });
        }
        let project = new.name.project.0;
        let count = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| -> Result<u64, JobError> {
            let count: i64 = transaction.query_row(sql, parameters, |row| row.get(0))?;
            Ok(u64::try_from(count).unwrap_or(0))
        };
        let queued = count("SELECT count(*) FROM builds WHERE state = 1", &[])?;
        let own = count(
            "SELECT count(*) FROM builds WHERE state = 1 AND project = ?1",
            &[&project.as_bytes().as_slice()],
        )?;
        if own >= project_limit {
            return Ok(Created::QueueFull { queued: own, limit: project_limit, of_project: true });
        }
        if queued >= queue_limit {
            return Ok(Created::QueueFull { queued, limit: queue_limit, of_project: false });
        }
        transaction.execute(
            "INSERT OR IGNORE INTO projects (id, document) VALUES (?1, ?2)",
            params![project.as_bytes().as_slice(), new.project.document()],
        )?;
        transaction.execute(
            "INSERT INTO builds (project, build, state, request_sha256, envelope, caller, volatile, names, created) \
             VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                project.as_bytes().as_slice(),
                new.name.build.to_string(),
                new.request_sha256.as_bytes().as_slice(),
                new.envelope,
                new.caller.spki_der(),
                new.volatile.to_bits(),
                serde_json::to_string(&new.names).map_err(|e| damaged(e.to_string()))?,
                to_nanos(SystemTime::now()),
            ],
        )?;
        let record = select(&transaction, &new.name)?.ok_or(JobError::Gone)?;
        append_in(&transaction, record.row, vec![state_changed(&record)])?;
        transaction.commit()?;
        Ok(Created::New(record))
    }

    /// One build.
    pub fn build(&self, name: &BuildName) -> Result<Option<BuildRecord>, JobError> {
        select(&self.reader(), name)
    }

    /// Builds of a project, newest first, with a row below `before`.
    pub fn list(
        &self,
        project: &ProjectId,
        state: Option<State>,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<BuildRecord>, JobError> {
        let connection = self.reader();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM builds WHERE project = ?1 AND row < ?2 AND (?3 = 0 OR state = ?3) \
             ORDER BY row DESC LIMIT ?4"
        ))?;
        let rows = statement.query_and_then(
            params![
                project.0.as_bytes().as_slice(),
                before.unwrap_or(i64::MAX),
                state.map_or(0, |state| state as i32),
                i64::try_from(limit).unwrap_or(i64::MAX),
            ],
            record,
        )?;
        rows.collect()
    }

    /// Builds that have not ended, oldest first, with their signed requests.
    pub fn unfinished(&self) -> Result<Vec<(BuildRecord, Vec<u8>)>, JobError> {
        let connection = self.reader();
        let mut statement = connection
            .prepare(&format!("SELECT {COLUMNS}, envelope FROM builds WHERE state IN (1, 2) ORDER BY row"))?;
        let rows = statement.query_and_then([], |row| Ok((record(row)?, row.get("envelope")?)))?;
        rows.collect()
    }

    /// Appends events; gives the number of the last. `Err(Ended)` when the build has ended.
    pub fn append(&self, row: i64, events: Vec<Event>) -> Result<u64, JobError> {
        let last = {
            let mut connection = self.writer();
            let durable = events.iter().any(|e| matches!(e, Event::Milestone(_) | Event::StateChanged(_)));
            if !durable {
                connection.pragma_update(None, "synchronous", "NORMAL")?;
            }
            let appended = append_now(&mut connection, row, events);
            if !durable {
                connection.pragma_update(None, "synchronous", "FULL")?;
            }
            appended?
        };
        self.notify(row, false);
        Ok(last)
    }

    /// A build begins to run; gives its record.
    pub fn begin(&self, row: i64) -> Result<BuildRecord, JobError> {
        self.change(row, |transaction| {
            transaction.execute(
                "UPDATE builds SET state = 2, attempts = attempts + 1, started = ?2 WHERE row = ?1",
                params![row, to_nanos(SystemTime::now())],
            )?;
            Ok(Vec::new())
        })
    }

    /// A build that a restart interrupted goes back to the queue, with an event that says so.
    pub fn requeue(&self, row: i64, text: &str) -> Result<BuildRecord, JobError> {
        let milestone = v1::Milestone { stage: "resumed".into(), text: text.into() };
        self.change(row, |transaction| {
            transaction.execute("UPDATE builds SET state = 1, started = NULL WHERE row = ?1", [row])?;
            Ok(vec![Event::Milestone(milestone)])
        })
    }

    /// A build ends with a result of `result_bytes` bytes on disk.
    pub fn succeed(&self, row: i64, result: &v1::Result, result_bytes: u64) -> Result<BuildRecord, JobError> {
        self.change(row, |transaction| {
            transaction.execute(
                "UPDATE builds SET state = 3, ended = ?2, result = ?3, result_bytes = ?4 WHERE row = ?1",
                params![
                    row,
                    to_nanos(SystemTime::now()),
                    result.encode_to_vec(),
                    i64::try_from(result_bytes).unwrap_or(i64::MAX)
                ],
            )?;
            Ok(Vec::new())
        })
    }

    /// A build ends without a result, FAILED or CANCELLED.
    pub fn fail(&self, row: i64, state: State, failure: &v1::Failure) -> Result<BuildRecord, JobError> {
        self.change(row, |transaction| {
            transaction.execute(
                "UPDATE builds SET state = ?2, ended = ?3, failure = ?4 WHERE row = ?1",
                params![row, state as i32, to_nanos(SystemTime::now()), failure.encode_to_vec()],
            )?;
            Ok(Vec::new())
        })
    }

    /// One change of state with its event, refused when the build has ended.
    fn change(
        &self,
        row: i64,
        change: impl FnOnce(&Transaction<'_>) -> Result<Vec<Event>, JobError>,
    ) -> Result<BuildRecord, JobError> {
        let changed = {
            let mut connection = self.writer();
            let transaction = immediate(&mut connection)?;
            if by_row(&transaction, row)?.state.is_final() {
                return Err(JobError::Ended);
            }
            let mut events = change(&transaction)?;
            let changed = by_row(&transaction, row)?;
            events.insert(0, state_changed(&changed));
            append_in(&transaction, row, events)?;
            transaction.commit()?;
            changed
        };
        self.notify(row, changed.state.is_final());
        Ok(changed)
    }

    /// At most `limit` events with a number above `after`.
    pub fn events(&self, row: i64, after: u64, limit: usize) -> Result<EventPage, JobError> {
        let mut connection = self.reader();
        // One transaction, so that "has ended" belongs to the same moment as the events.
        let transaction = connection.transaction()?;
        let head = transaction
            .query_row("SELECT state, last_event FROM builds WHERE row = ?1", [row], |r| {
                Ok((r.get::<_, i32>(0)?, r.get::<_, i64>(1)?))
            })
            .optional()?;
        let (state, last_event) = head.ok_or(JobError::Gone)?;
        let mut statement = transaction.prepare_cached(
            "SELECT event FROM events WHERE build = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
        )?;
        let after_signed = i64::try_from(after).unwrap_or(i64::MAX);
        let rows = statement.query_and_then(
            params![row, after_signed, i64::try_from(limit).unwrap_or(i64::MAX)],
            |r| {
                let bytes: Vec<u8> = r.get(0)?;
                v1::BuildEvent::decode(bytes.as_slice()).map_err(|e| damaged(format!("event: {e}")))
            },
        )?;
        let events = rows.collect::<Result<Vec<_>, JobError>>()?;
        let seen = events.last().map_or(after_signed, |e| i64::try_from(e.number).unwrap_or(i64::MAX));
        let ended = State::from_number(state).is_none_or(State::is_final);
        Ok(EventPage { events, last: ended && seen >= last_event })
    }

    /// Fires after new events of a build, and is closed when the build ends. Subscribe before reading.
    #[must_use]
    pub fn subscribe(&self, row: i64) -> watch::Receiver<()> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        // Watchers of builds that were asked for and have gone are dropped when a new one comes.
        watchers.retain(|_, sender| sender.receiver_count() > 0);
        watchers.entry(row).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    fn notify(&self, row: i64, ended: bool) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if ended {
            watchers.remove(&row);
        } else if let Some(sender) = watchers.get(&row) {
            sender.send_replace(());
        }
    }

    /// Keeps a project document that a member sent.
    pub fn remember_project(&self, project: &Project) -> Result<(), JobError> {
        self.writer().execute(
            "INSERT OR IGNORE INTO projects (id, document) VALUES (?1, ?2)",
            params![project.id().0.as_bytes().as_slice(), project.document()],
        )?;
        Ok(())
    }

    /// A project document kept earlier.
    pub fn project(&self, id: &ProjectId) -> Result<Option<Project>, JobError> {
        let document: Option<Vec<u8>> = self
            .reader()
            .query_row("SELECT document FROM projects WHERE id = ?1", [id.0.as_bytes().as_slice()], |r| {
                r.get(0)
            })
            .optional()?;
        let Some(document) = document else { return Ok(None) };
        // Self-certifying also against our own disk.
        match Project::parse(&document) {
            Ok(project) if project.id() == *id => Ok(Some(project)),
            _ => Err(damaged(format!("document of project {id}"))),
        }
    }
}

fn immediate(connection: &mut Connection) -> Result<Transaction<'_>, JobError> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

fn append_now(connection: &mut Connection, row: i64, events: Vec<Event>) -> Result<u64, JobError> {
    let transaction = immediate(connection)?;
    if by_row(&transaction, row)?.state.is_final() {
        return Err(JobError::Ended);
    }
    let last = append_in(&transaction, row, events)?;
    transaction.commit()?;
    Ok(last)
}

/// Numbers and inserts events; the caller has checked that the build may have more.
fn append_in(transaction: &Transaction<'_>, row: i64, events: Vec<Event>) -> Result<u64, JobError> {
    let mut number: i64 =
        transaction.query_row("SELECT last_event FROM builds WHERE row = ?1", [row], |r| r.get(0))?;
    let mut bytes = 0;
    let mut insert =
        transaction.prepare_cached("INSERT INTO events (build, number, event) VALUES (?1, ?2, ?3)")?;
    let time = Some(SystemTime::now().into());
    for event in events {
        number += 1;
        let event =
            v1::BuildEvent { number: number.unsigned_abs(), time, event: Some(event) }.encode_to_vec();
        bytes += i64::try_from(event.len()).unwrap_or(0);
        insert.execute(params![row, number, event])?;
    }
    transaction.execute(
        "UPDATE builds SET last_event = ?2, event_bytes = event_bytes + ?3 WHERE row = ?1",
        params![row, number, bytes],
    )?;
    Ok(number.unsigned_abs())
}

fn state_changed(record: &BuildRecord) -> Event {
    Event::StateChanged(v1::StateChanged { build: Some(record.to_wire()) })
}

fn select(connection: &Connection, name: &BuildName) -> Result<Option<BuildRecord>, JobError> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM builds WHERE project = ?1 AND build = ?2"))?;
    let mut rows = statement
        .query_and_then(params![name.project.0.as_bytes().as_slice(), name.build.to_string()], record)?;
    rows.next().transpose()
}

fn by_row(connection: &Connection, row: i64) -> Result<BuildRecord, JobError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM builds WHERE row = ?1"))?;
    let mut rows = statement.query_and_then([row], record)?;
    rows.next().ok_or(JobError::Gone)?
}

fn record(row: &Row<'_>) -> Result<BuildRecord, JobError> {
    let digest = |column: &str| -> Result<Sha256Digest, JobError> {
        let bytes: [u8; 32] = row.get(column)?;
        Ok(Sha256Digest::from_bytes(bytes))
    };
    let state: i32 = row.get("state")?;
    let caller: Vec<u8> = row.get("caller")?;
    let names: String = row.get("names")?;
    let attempts: i64 = row.get("attempts")?;
    let failure: Option<Vec<u8>> = row.get("failure")?;
    let result: Option<Vec<u8>> = row.get("result")?;
    let time = |column: &str| -> Result<Option<SystemTime>, JobError> {
        Ok(row.get::<_, Option<i64>>(column)?.map(from_nanos))
    };
    Ok(BuildRecord {
        row: row.get("row")?,
        name: BuildName {
            project: ProjectId(digest("project")?),
            build: BuildId::try_from(row.get::<_, String>("build")?).map_err(|e| damaged(e.to_string()))?,
        },
        state: State::from_number(state).ok_or_else(|| damaged(format!("state {state}")))?,
        request_sha256: digest("request_sha256")?,
        caller: PublicKey::from_spki_der(&caller).map_err(|e| damaged(e.to_string()))?,
        volatile: Volatile::from_bits(row.get("volatile")?),
        names: serde_json::from_str(&names).map_err(|e| damaged(e.to_string()))?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        created: time("created")?.unwrap_or(SystemTime::UNIX_EPOCH),
        started: time("started")?,
        ended: time("ended")?,
        failure: failure
            .map(|bytes| v1::Failure::decode(bytes.as_slice()).map_err(|e| damaged(format!("failure: {e}"))))
            .transpose()?,
        result: result
            .map(|bytes| v1::Result::decode(bytes.as_slice()).map_err(|e| damaged(format!("result: {e}"))))
            .transpose()?,
    })
}
