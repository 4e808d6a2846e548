//! What a daemon says: its last lines in memory, more of them in a file in its directory.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::protocol::StartFailure;

/// Bytes of a line in an error.
const LINE: usize = 500;
/// Bytes of a line that are read at once; what is longer counts as several.
const READ: u64 = 64 << 10;
/// Bytes of the log file; as many are kept of the one before.
const FILE: u64 = 4 << 20;
/// Log lines in an error.
const SHOWN: usize = 10;

/// The last lines.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<VecDeque<String>>>);

impl Log {
    /// The last lines, oldest first.
    pub(super) fn tail(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Keeps what comes until nothing comes any more.
    pub(super) fn keep(&self, from: impl Read, file: &mut LogFile) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(reader.by_ref().take(READ).read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line[..line.len().min(LINE)]).trim_end().to_owned();
            file.write(&line);
            line.clear();
            tracing::debug!(target: "buildkitd", "{text}");
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() >= SHOWN {
                log.pop_front();
            }
            log.push_back(text);
        }
    }
}

/// One file that is written and one before it.
pub(super) struct LogFile {
    path: PathBuf,
    file: fs::File,
    written: u64,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, StartFailure> {
        let file = fs::File::options().create(true).append(true).mode(0o600).open(&path);
        let file = file.map_err(StartFailure::io("open", &path))?;
        let written = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(Self { path, file, written })
    }

    /// Writes a line. A log that cannot be written ends no build.
    fn write(&mut self, line: &[u8]) {
        if self.written >= FILE {
            let renamed = fs::rename(&self.path, self.path.with_extension("log.1"));
            if let (Ok(()), Ok(next)) = (renamed, Self::open(self.path.clone())) {
                *self = next;
            }
        }
        if self.file.write_all(line).is_ok() {
            self.written += line.len() as u64;
        }
    }
}
