//! Answers of vendors' services, kept by their content: `<folder>/sha256/<hex of the body>` holds a body,
//! `<folder>/asked/<hex of SHA-256 of the URL>.json` says which body a URL had, and when.
//!
//! Nobody relies on it: a body is hashed when it is read, and what is damaged counts as not there.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Answer, MAX_ANSWER};

/// Largest record in bytes: a URL, a header, a time.
const MAX_RECORD: u64 = 64 << 10;

/// A folder of answers.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    url: String,
    fetched_at: Timestamp,
    sha256: Sha256Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<String>,
}

impl Cache {
    /// Below this folder, which is made when something is put there.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn record(&self, url: &str) -> PathBuf {
        self.folder.join("asked").join(format!("{}.json", Sha256Digest::of(url.as_bytes()).hex()))
    }

    fn body(&self, digest: &Sha256Digest) -> PathBuf {
        self.folder.join("sha256").join(digest.hex())
    }

    /// What a URL answered, and when; none when it is not there, or damaged.
    #[must_use]
    pub fn get(&self, url: &str) -> Option<(Answer, Timestamp)> {
        let record: Record = serde_json::from_slice(&read(&self.record(url), MAX_RECORD)?).ok()?;
        let body = read(&self.body(&record.sha256), MAX_ANSWER as u64)?;
        let whole = record.url == url && Sha256Digest::of(&body) == record.sha256;
        whole.then_some((Answer { body, chain: record.chain }, record.fetched_at))
    }

    /// Keeps an answer. Each file is written whole or not at all.
    pub fn put(&self, url: &str, answer: &Answer, now: Timestamp) -> std::io::Result<()> {
        let sha256 = Sha256Digest::of(&answer.body);
        write(&self.body(&sha256), &answer.body)?;
        let record = Record { url: url.to_owned(), fetched_at: now, sha256, chain: answer.chain.clone() };
        write(&self.record(url), &serde_json::to_vec(&record)?)
    }
}

fn read(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(limit + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= limit).then_some(bytes)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().expect("each file of the cache is in a folder of it");
    std::fs::create_dir_all(folder)?;
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(bytes)?;
    draft.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_until_a_byte_of_it_changes() {
        let folder = tempfile::tempdir().expect("folder");
        let cache = Cache::new(folder.path().join("cache"));
        let now = Timestamp::from_unix(1_000_000).expect("in range");
        let answer = Answer { body: b"body".to_vec(), chain: Some("chain".to_owned()) };
        assert_eq!(cache.get("https://a/"), None);
        cache.put("https://a/", &answer, now).expect("written");
        assert_eq!(cache.get("https://a/"), Some((answer.clone(), now)));
        assert_eq!(cache.get("https://b/"), None);
        let body = cache.body(&Sha256Digest::of(b"body"));
        std::fs::write(&body, b"bodY").expect("changed");
        assert_eq!(cache.get("https://a/"), None);
        cache.put("https://a/", &answer, now).expect("mended");
        assert_eq!(cache.get("https://a/"), Some((answer, now)));
        std::fs::write(cache.record("https://a/"), b"{}").expect("changed");
        assert_eq!(cache.get("https://a/"), None);
    }
}
