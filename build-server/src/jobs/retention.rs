//! How long builds, their logs and their results are kept.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::params;

use super::record::to_nanos;
use super::store::{JobError, JobStore};

/// Limits on what ended builds keep.
#[derive(Debug, Clone, Copy)]
pub struct JobLimits {
    /// Results of all builds in bytes; the oldest go first.
    pub result_bytes: u64,
    /// Results older than this go.
    pub result_age: Duration,
    /// Events of all builds in bytes; the oldest builds go first, whole.
    pub log_bytes: u64,
    /// Builds that ended longer ago go, whole.
    pub build_age: Duration,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// Results whose files went.
    pub results: usize,
    /// Builds that went with all they had.
    pub builds: usize,
}

struct Ended {
    row: i64,
    directory: String,
    ended: i64,
    event_bytes: u64,
    result_bytes: u64,
}

impl JobStore {
    /// Removes what is too old or too much. `results` is the directory of all results.
    pub fn sweep(&self, limits: &JobLimits, results: &Path, now: SystemTime) -> Result<Retired, JobError> {
        let mut retired = Retired::default();
        let before = |age: Duration| to_nanos(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        let (result_limit, build_limit) = (before(limits.result_age), before(limits.build_age));
        let (mut results_kept, mut logs_kept) = (0_u64, 0_u64);
        // Newest first: what exceeds the bytes is then the oldest.
        for build in self.ended()? {
            let directory = results.join(&build.directory);
            logs_kept = logs_kept.saturating_add(build.event_bytes);
            if build.ended < build_limit || logs_kept > limits.log_bytes {
                // The files first: a row without files says so when it is asked, files without a row stay for ever.
                remove(&directory);
                self.writer().execute("DELETE FROM builds WHERE row = ?1", [build.row])?;
                retired.builds += 1;
                continue;
            }
            results_kept = results_kept.saturating_add(build.result_bytes);
            if build.result_bytes > 0 && (build.ended < result_limit || results_kept > limits.result_bytes) {
                remove(&directory);
                self.writer()
                    .execute("UPDATE builds SET result_bytes = 0 WHERE row = ?1", params![build.row])?;
                results_kept = results_kept.saturating_sub(build.result_bytes);
                retired.results += 1;
            }
        }
        Ok(retired)
    }

    fn ended(&self) -> Result<Vec<Ended>, JobError> {
        let connection = self.writer();
        let mut statement = connection.prepare_cached(
            "SELECT row, lower(hex(project)) || '/' || build, ended, event_bytes, result_bytes FROM builds \
             WHERE state NOT IN (1, 2) ORDER BY row DESC",
        )?;
        let unsigned = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let rows = statement.query_map([], |row| {
            Ok(Ended {
                row: row.get(0)?,
                directory: row.get(1)?,
                ended: row.get::<_, Option<i64>>(2)?.unwrap_or(0),
                event_bytes: unsigned(row.get(3)?),
                result_bytes: unsigned(row.get(4)?),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "an expired result cannot be removed");
    }
}
