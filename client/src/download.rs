//! Results: an OCI layout as directory or tar file, or the files of the last stage. Every blob's digest and
//! size are checked while it arrives; a directory appears whole or not at all.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use proto::v1;
use provenance::digest::{Sha256Digest, Sha256Hasher};
use serde::Deserialize;

use crate::session::{Session, SessionError};
use crate::spec::Destination;

const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Attempts for one blob; each goes on where the last one stopped.
const ATTEMPTS: u32 = 5;

/// Why a result cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The server or the connection failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The target is there and is no OCI layout.
    #[error("{} exists and is no OCI layout; nothing was written there", path.display())]
    NotALayout {
        /// The target.
        path: PathBuf,
    },
    /// Files are to be written below something that is no directory.
    #[error("{} exists and is no directory; nothing was written there", path.display())]
    NotADirectory {
        /// The target.
        path: PathBuf,
    },
    /// An archive is to be written in place of a directory.
    #[error("{} is a directory, wanted the path of a file", path.display())]
    Directory {
        /// The target.
        path: PathBuf,
    },
    /// The target holds several images, which a replacement would lose.
    #[error("layout {} holds {images} images; it would be replaced by this one", path.display())]
    SeveralImages {
        /// The target.
        path: PathBuf,
        /// How many.
        images: usize,
    },
    /// A blob is not what its descriptor says. Fault: the server.
    #[error("blob {digest}: got {got}, wanted {size} bytes of that digest")]
    Mismatch {
        /// Digest wanted.
        digest: Sha256Digest,
        /// Size wanted.
        size: u64,
        /// What came.
        got: String,
    },
    /// The build's result is malformed. Fault: the server.
    #[error("the build's result is malformed: {0}")]
    Malformed(String),
    /// An archive of files has an entry that leaves its directory.
    #[error("archive entry `{0}` leaves the target directory")]
    Outside(String),
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> DownloadError {
    let path = path.to_owned();
    move |source| DownloadError::Write { path: path.clone(), source }
}

fn descriptor(descriptor: &v1::Descriptor) -> Result<(Sha256Digest, u64), DownloadError> {
    let digest = descriptor.digest.parse().map_err(|e| DownloadError::Malformed(format!("{e}")))?;
    Ok((digest, descriptor.size))
}

/// Checks that a result may be written to its destination. Call it before the build, so that nothing is built in vain.
pub fn check_destination(destination: &Destination) -> Result<(), DownloadError> {
    match destination {
        Destination::LayoutDirectory(target) => check_target(target),
        Destination::FilesDirectory(target) if target.exists() && !target.is_dir() => {
            Err(DownloadError::NotADirectory { path: target.clone() })
        }
        Destination::LayoutTar(target) | Destination::FilesTar(target) if target.is_dir() => {
            Err(DownloadError::Directory { path: target.clone() })
        }
        Destination::FilesDirectory(_)
        | Destination::LayoutTar(_)
        | Destination::FilesTar(_)
        | Destination::Nowhere => Ok(()),
    }
}

fn check_target(target: &Path) -> Result<(), DownloadError> {
    let metadata = match fs::symlink_metadata(target) {
        Ok(metadata) => metadata,
        // What has no name of its own (`..` of what is not there) cannot be made.
        Err(_) => return beside(target, "partial").map(drop),
    };
    let empty = metadata.is_dir() && fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if empty {
        return Ok(());
    }
    let index = fs::read(target.join("index.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Index>(&bytes).ok());
    let Some(index) = index.filter(|_| metadata.is_dir() && target.join("oci-layout").is_file()) else {
        return Err(DownloadError::NotALayout { path: target.to_owned() });
    };
    let attached = |m: &&IndexEntry| {
        let name = m.annotations.get("org.opencontainers.image.ref.name");
        m.artifact_type.is_some() || name.is_some_and(|name| name.starts_with("sha256-"))
    };
    let images: HashSet<&String> =
        index.manifests.iter().filter(|m| !attached(m)).map(|m| &m.digest).collect();
    if images.len() > 1 {
        return Err(DownloadError::SeveralImages { path: target.to_owned(), images: images.len() });
    }
    Ok(())
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry {
    digest: String,
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
}

/// Where a result is written: its destination, and the directory beside it in which a layout is put together.
#[must_use]
pub fn written(destination: &Destination) -> Vec<PathBuf> {
    match destination {
        Destination::Nowhere => Vec::new(),
        Destination::LayoutTar(target) | Destination::FilesTar(target) if target.as_os_str() == "-" => {
            Vec::new()
        }
        Destination::LayoutDirectory(target) | Destination::LayoutTar(target) => {
            [target.clone()].into_iter().chain(beside(target, "partial")).collect()
        }
        Destination::FilesDirectory(target) | Destination::FilesTar(target) => vec![target.clone()],
    }
}

/// Fetches the result as an OCI layout directory.
///
/// Blobs go into a directory beside the target that is renamed at the end; when it is cut short, the next
/// download of the same target goes on with what is there.
pub async fn layout_directory(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    target: &Path,
) -> Result<(), DownloadError> {
    check_target(target)?;
    let partial = beside(target, "partial")?;
    fill(session, name, result, &partial, Some(target)).await?;
    install(&partial, target)
}

/// Fetches the result as a tar file of an OCI layout; `-` is standard output.
pub async fn layout_tar(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    target: &Path,
) -> Result<(), DownloadError> {
    if target.as_os_str() == "-" {
        // Nobody's but ours, and gone however this ends: there is no name under which it could go on.
        let place = std::env::temp_dir();
        let temporary =
            tempfile::Builder::new().prefix("sealwright-").tempdir().map_err(write_error(&place))?;
        fill(session, name, result, temporary.path(), None).await?;
        let packed = pack(result, temporary.path(), std::io::stdout().lock());
        return packed.and_then(|mut out| out.flush()).map_err(write_error(target));
    }
    let partial = beside(target, "partial")?;
    fill(session, name, result, &partial, None).await?;
    let written = (|| {
        let mut file = tempfile::NamedTempFile::new_in(parent(target))?;
        pack(result, &partial, std::io::BufWriter::new(file.as_file_mut()))?
            .into_inner()
            .map_err(|e| e.into_error())?;
        file.as_file().sync_all()?;
        make_readable(file.as_file())?;
        file.persist(target).map_err(|e| e.error)?;
        Ok(())
    })();
    fs::remove_dir_all(&partial).map_err(write_error(&partial))?;
    written.map_err(write_error(target))
}

/// Temporary files are made for their owner only; a result is an ordinary file.
fn make_readable(file: &fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

fn pack<W: std::io::Write>(result: &v1::Result, layout: &Path, writer: W) -> std::io::Result<W> {
    let mut tar = tar::Builder::new(writer);
    let add = |tar: &mut tar::Builder<W>, name: &str| -> std::io::Result<()> {
        let mut file = fs::File::open(layout.join(name))?;
        let mut header = tar::Header::new_ustar();
        header.set_size(file.metadata()?.len());
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, name, &mut file)
    };
    add(&mut tar, "oci-layout")?;
    add(&mut tar, "index.json")?;
    let mut seen = HashSet::new();
    for blob in &result.blobs {
        let hex = blob.digest.trim_start_matches("sha256:");
        if seen.insert(hex) {
            add(&mut tar, &format!("blobs/sha256/{hex}"))?;
        }
    }
    tar.into_inner()
}

/// Fetches the files of the last stage into a directory.
pub async fn files_directory(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    target: &Path,
) -> Result<(), DownloadError> {
    fs::create_dir_all(target).map_err(write_error(target))?;
    let archive = fetch_archive(session, name, result, target).await?;
    let mut tar = tar::Archive::new(fs::File::open(archive.path()).map_err(write_error(archive.path()))?);
    tar.set_preserve_permissions(true);
    tar.set_preserve_mtime(true);
    for entry in tar.entries().map_err(write_error(target))? {
        let mut entry = entry.map_err(write_error(target))?;
        let path = entry.path().map_err(write_error(target))?.into_owned();
        // unpack_in refuses to follow links out of the target; a path it skips would be silently lost.
        if !entry.unpack_in(target).map_err(write_error(&target.join(&path)))? {
            return Err(DownloadError::Outside(path.display().to_string()));
        }
    }
    Ok(())
}

/// Fetches the files of the last stage as a tar file; `-` is standard output.
pub async fn files_tar(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    target: &Path,
) -> Result<(), DownloadError> {
    if target.as_os_str() == "-" {
        let archive = fetch_archive(session, name, result, &std::env::temp_dir()).await?;
        let mut file = fs::File::open(archive.path()).map_err(write_error(archive.path()))?;
        std::io::copy(&mut file, &mut std::io::stdout().lock()).map_err(write_error(target))?;
        return Ok(());
    }
    let archive = fetch_archive(session, name, result, parent(target)).await?;
    make_readable(archive.as_file()).map_err(write_error(target))?;
    archive.persist(target).map_err(|e| write_error(target)(e.error))?;
    Ok(())
}

async fn fetch_archive(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    folder: &Path,
) -> Result<tempfile::NamedTempFile, DownloadError> {
    let files =
        result.files.as_ref().ok_or_else(|| DownloadError::Malformed("it has no files".to_owned()))?;
    let (digest, size) = descriptor(files)?;
    let file = tempfile::NamedTempFile::new_in(folder).map_err(write_error(folder))?;
    blob(session, name, digest, size, file.path()).await?;
    Ok(file)
}

/// Writes a whole layout into `partial`, taking blobs from an earlier layout at `earlier` where it has them.
async fn fill(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    partial: &Path,
    earlier: Option<&Path>,
) -> Result<(), DownloadError> {
    let blobs = partial.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(write_error(&blobs))?;
    for item in &result.blobs {
        let (digest, size) = descriptor(item)?;
        let target = blobs.join(digest.hex());
        if let Some(earlier) = earlier.map(|layout| layout.join("blobs/sha256").join(digest.hex()))
            && !target.exists()
            && matches(&earlier, &digest, size)
        {
            fs::hard_link(&earlier, &target)
                .or_else(|_| fs::copy(&earlier, &target).map(drop))
                .map_err(write_error(&target))?;
            continue;
        }
        blob(session, name, digest, size, &target).await?;
    }
    for (file, contents) in [("oci-layout", LAYOUT_FILE.as_bytes()), ("index.json", &result.index_json)] {
        let path = partial.join(file);
        fs::write(&path, contents).map_err(write_error(&path))?;
    }
    Ok(())
}

fn matches(path: &Path, digest: &Sha256Digest, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
        && hash_file(path).is_ok_and(|hasher| hasher.finish() == *digest)
}

fn hash_file(path: &Path) -> std::io::Result<Sha256Hasher> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Fetches one blob into a file, going on from what the file already holds.
async fn blob(
    session: &mut Session,
    name: &str,
    digest: Sha256Digest,
    size: u64,
    target: &Path,
) -> Result<(), DownloadError> {
    for attempt in 0..ATTEMPTS {
        let error = match blob_once(session, name, digest, size, target).await {
            Ok(()) => return Ok(()),
            Err(DownloadError::Session(error)) if error.is_cut() => error,
            Err(DownloadError::Mismatch { .. }) if attempt == 0 => {
                // What an interrupted download left may be damaged: once more from the start.
                fs::remove_file(target).map_err(write_error(target))?;
                continue;
            }
            Err(error) => return Err(error),
        };
        if attempt + 1 == ATTEMPTS {
            return Err(error.into());
        }
        session.reconnect().await?;
    }
    Err(DownloadError::Mismatch { digest, size, got: "other bytes twice".to_owned() })
}

async fn blob_once(
    session: &Session,
    name: &str,
    digest: Sha256Digest,
    size: u64,
    target: &Path,
) -> Result<(), DownloadError> {
    let failed = write_error(target);
    let mut file = fs::OpenOptions::new().append(true).create(true).open(target).map_err(&failed)?;
    let mut hasher = hash_file(target).map_err(&failed)?;
    let mut offset = file.metadata().map_err(&failed)?.len();
    if offset < size || size == 0 {
        let request = v1::ReadBlobRequest { name: name.to_owned(), digest: digest.to_string(), offset };
        let answer = session.channel().builds().read_blob(request).await.map_err(SessionError::from)?;
        let mut stream = answer.into_inner();
        while let Some(piece) = stream.message().await.map_err(SessionError::from)? {
            offset += piece.data.len() as u64;
            if offset > size {
                return Err(DownloadError::Mismatch {
                    digest,
                    size,
                    got: format!("at least {offset} bytes"),
                });
            }
            hasher.update(&piece.data);
            file.write_all(&piece.data).map_err(&failed)?;
        }
    }
    let got = hasher.finish();
    if offset != size || got != digest {
        return Err(DownloadError::Mismatch { digest, size, got: format!("{offset} bytes of {got}") });
    }
    Ok(())
}

fn parent(target: &Path) -> &Path {
    target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A hidden name in the same directory, so that a rename stays on one file system.
fn beside(target: &Path, suffix: &str) -> Result<PathBuf, DownloadError> {
    let name = target.file_name().ok_or_else(|| DownloadError::NotALayout { path: target.to_owned() })?;
    Ok(parent(target).join(format!(".{}.{suffix}", name.to_string_lossy())))
}

/// Puts the finished directory in place of the target. At every moment one of the two is whole.
fn install(partial: &Path, target: &Path) -> Result<(), DownloadError> {
    let failed = write_error(target);
    match fs::rename(partial, target) {
        Ok(()) => return Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(code) if code == rustix::io::Errno::NOTEMPTY.raw_os_error() || code == rustix::io::Errno::EXIST.raw_os_error()) =>
            {}
        Err(e) => return Err(failed(e)),
    }
    check_target(target)?;
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, partial, rustix::fs::CWD, target, flags)
        .map_err(|e| failed(e.into()))?;
    // The old layout now has the hidden name.
    fs::remove_dir_all(partial).map_err(write_error(partial))
}
