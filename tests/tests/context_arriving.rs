//! Blobs that are read while they are being uploaded.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use build_server::context_store::{
    ArrivingReader, BlobSource as _, Chunk, Completeness, ContextStore, Gone, ProjectStore, StoreLimits,
    UploadSession,
};
use bytes::Bytes;
use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use provenance::project::ProjectId;

fn store(directory: &tempfile::TempDir) -> ProjectStore {
    let store = ContextStore::open(directory.path(), StoreLimits::default()).expect("opens");
    store.project(&ProjectId(Sha256Digest::of(b"project")))
}

fn wanted() -> Gone {
    Box::new(|| false)
}

fn blob() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n % 251) as u8).collect()
}

fn chunk(blob: &[u8], digest: Sha256Digest, from: usize, to: usize) -> Chunk {
    let data = Bytes::copy_from_slice(&blob[from..to]);
    Chunk { digest, size: blob.len() as u64, offset: from as u64, data }
}

fn add(store: &ProjectStore, blob: &[u8], digest: Sha256Digest, from: usize, to: usize) {
    store.upload_session().add(chunk(blob, digest, from, to)).expect("taken");
}

/// The next `count` bytes of a reader, or all that are left.
async fn read(mut reader: ArrivingReader, count: usize) -> (ArrivingReader, io::Result<Vec<u8>>) {
    let read = move || {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match reader.next((count - bytes.len()).min(70_000)) {
                Ok(more) if more.is_empty() => break,
                Ok(more) => bytes.extend_from_slice(&more),
                Err(error) => return (reader, Err(error)),
            }
        }
        (reader, Ok(bytes))
    };
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

async fn read_all(reader: ArrivingReader) -> io::Result<Vec<u8>> {
    read(reader, usize::MAX).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_every_byte_of_a_blob_that_arrives_in_pieces() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let blob = blob();
    let digest = Sha256Digest::of(&blob);
    let reader = store.open_arriving(&digest, blob.len() as u64, wanted());
    let mut read = tokio::spawn(read_all(reader));
    // Cut and taken up again, and begun anew.
    add(&store, &blob, digest, 0, 1_000_000);
    add(&store, &blob, digest, 1_000_000, 2_000_000);
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut read).await;
    assert!(early.is_err(), "a part is not the whole");
    add(&store, &blob, digest, 0, 500_000);
    add(&store, &blob, digest, 500_000, 3_000_000);
    assert!(read.await.expect("no panic").expect("whole") == blob);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_blob_may_come_at_any_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let read = tokio::spawn(read_all(store.open_arriving(&Sha256Digest::of(b"late"), 4, wanted())));
    store.put_small(&[b"other"]).expect("stored");
    store.put_small(&[b"late"]).expect("stored");
    assert_eq!(read.await.expect("no panic").expect("whole"), b"late");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_under_the_reader_are_an_error_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let blob = blob();
    let digest = Sha256Digest::of(&blob);
    let mut other = blob.clone();
    other[0] ^= 1;
    add(&store, &other, digest, 0, 1_000_000);
    let reader = store.open_arriving(&digest, blob.len() as u64, wanted());
    let (reader, first) = read(reader, 1_000_000).await;
    assert!(first.expect("what is there is given") == other[..1_000_000]);
    // The second chunk follows other bytes than those that the reader has, so that it must not go on with it.
    add(&store, &blob, digest, 0, 1_000_000);
    add(&store, &blob, digest, 1_000_000, 3_000_000);
    assert_eq!(read_all(reader).await.expect_err("another digest").kind(), ErrorKind::InvalidData);
}

/// An upload of the first chunk, and a reader that has it.
async fn read_one_chunk(
    store: &ProjectStore,
    blob: &[u8],
    digest: Sha256Digest,
) -> (UploadSession, ArrivingReader) {
    let reader = store.open_arriving(&digest, blob.len() as u64, wanted());
    let mut session = store.upload_session();
    session.add(chunk(blob, digest, 0, 1_000_000)).expect("taken");
    let (reader, first) = read(reader, 1_000_000).await;
    assert!(first.expect("the first chunk") == blob[..1_000_000]);
    (session, reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_keeps_up_never_goes_to_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let blob = blob();
    let digest = Sha256Digest::of(&blob);
    let (mut session, reader) = read_one_chunk(&store, &blob, digest).await;
    let project = directory.path().join(ProjectId(Sha256Digest::of(b"project")).to_string());
    std::fs::remove_file(project.join("uploads").join(digest.hex())).expect("an upload");
    session.add(chunk(&blob, digest, 1_000_000, 3_000_000)).expect_err("its file is gone");
    assert!(read_all(reader).await.expect("from memory") == blob[1_000_000..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_falls_behind_goes_on_from_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let blob = blob();
    let digest = Sha256Digest::of(&blob);
    let (mut session, reader) = read_one_chunk(&store, &blob, digest).await;
    for start in (1_000_000..3_000_000).step_by(100_000) {
        session.add(chunk(&blob, digest, start, start + 100_000)).expect("taken");
    }
    assert!(read_all(reader).await.expect("whole") == blob[1_000_000..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_from_memory_that_do_not_have_the_digest_are_an_error_at_the_end() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let mut blob = blob();
    let digest = Sha256Digest::of(&blob);
    blob[2_999_999] ^= 1;
    let (mut session, reader) = read_one_chunk(&store, &blob, digest).await;
    session.add(chunk(&blob, digest, 1_000_000, 3_000_000)).expect_err("another digest");
    assert_eq!(read_all(reader).await.expect_err("another digest").kind(), ErrorKind::InvalidData);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_nobody_wants_any_more_stops_waiting() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let gone = Arc::new(AtomicBool::new(false));
    let asked = gone.clone();
    let reader =
        store.open_arriving(&Sha256Digest::of(b"never"), 5, Box::new(move || asked.load(Ordering::Relaxed)));
    let read = tokio::spawn(read_all(reader));
    gone.store(true, Ordering::Relaxed);
    assert_eq!(read.await.expect("no panic").expect_err("gone").kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_tree_can_be_walked_when_its_directories_are_stored_and_is_complete_with_its_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory);
    let name = |name: &str| Name::new(name.as_bytes()).expect("a name");
    let entry = |name, kind| Entry { name, mode: 0o644, mtime_ns: 0, xattrs: Default::default(), kind };
    let file = Kind::File { size: 3, digest: Sha256Digest::of(b"one") };
    let inner = Directory::new(vec![entry(name("a"), file)]).expect("valid");
    let root =
        Directory::new(vec![entry(name("d"), Kind::Directory { digest: inner.digest() })]).expect("valid");
    let structure = || store.structure(&root.digest()).expect("looked");
    store.put_small(&[root.encode()]).expect("stored");
    assert_eq!(structure(), Completeness::Missing(inner.digest()));
    store.put_small(&[inner.encode()]).expect("stored");
    assert_eq!(structure(), Completeness::Complete);
    let missing = Completeness::Missing(Sha256Digest::of(b"one"));
    assert_eq!(store.is_complete(&root.digest()).expect("looked"), missing);
    store.put_small(&[b"one"]).expect("stored");
    assert_eq!(store.is_complete(&root.digest()).expect("looked"), Completeness::Complete);

    // A marker of another boot counts for nothing: the machine may have lost what was not synced.
    let project = directory.path().join(ProjectId(Sha256Digest::of(b"project")).to_string());
    let marker = project.join("roots").join(root.digest().hex());
    assert!(marker.is_file());
    let hex = Sha256Digest::of(b"one").hex();
    std::fs::remove_file(project.join("blobs").join(&hex[..2]).join(&hex[2..])).expect("stored");
    assert_eq!(store.is_complete(&root.digest()).expect("looked"), Completeness::Complete);
    std::fs::write(&marker, "another boot").expect("writable");
    assert_eq!(store.is_complete(&root.digest()).expect("looked"), missing);
}
