//! The Dockerfile's own tree: a directory of the Dockerfile and, if there is one, `<Dockerfile>.dockerignore`.
//! Modes and times are fixed, so the tree's digest depends on names and contents only.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use provenance::context::{Directory, Entry, Kind, Name};
use provenance::digest::Sha256Digest;
use rustix::io::Errno;

use super::{Blob, BlobSource, ContextError, Tree};

/// Largest Dockerfile or ignore file in bytes.
const MAX_FILE: u64 = 4 << 20;
const CONTEXT_IGNORE: &str = ".dockerignore";

/// Where the Dockerfile comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// A file; links are followed, as the file is the caller's own choice.
    File(PathBuf),
    /// Contents that came over standard input.
    Contents(Vec<u8>),
}

/// A Dockerfile, ready for upload.
pub struct DockerfileTree {
    /// Name inside the tree.
    pub name: String,
    /// The tree.
    pub tree: Tree,
    /// Contents of the Dockerfile.
    pub contents: Vec<u8>,
    /// `<Dockerfile>.dockerignore`: where it is, and its contents.
    pub ignore: Option<(PathBuf, Vec<u8>)>,
}

/// Reads the Dockerfile and its own ignore file.
pub fn read_dockerfile(source: &DockerfileSource) -> Result<DockerfileTree, ContextError> {
    let (name, contents, ignore) = match source {
        DockerfileSource::Contents(contents) => ("Dockerfile".to_owned(), contents.clone(), None),
        DockerfileSource::File(path) => {
            let (path, contents) = read_with_fallback(path)?;
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.ok_or_else(|| ContextError::Read {
                path: path.clone(),
                source: std::io::Error::other("the name of a Dockerfile must be UTF-8"),
            })?;
            let ignore_path = path.with_file_name(format!("{name}.dockerignore"));
            let ignore = read_optional(&ignore_path)?.map(|contents| (ignore_path, contents));
            (name, contents, ignore)
        }
    };
    let mut blobs = HashMap::new();
    let mut entries = vec![entry(&name, &contents, &mut blobs)?];
    if let Some((_, contents)) = &ignore {
        entries.push(entry(&format!("{name}.dockerignore"), contents, &mut blobs)?);
    }
    let shown = || PathBuf::from(&name);
    let directory = Directory::new(entries)
        .map_err(|problem| ContextError::Directory { path: shown(), problem })?
        .encode();
    let root = Sha256Digest::of(&directory);
    let size = directory.len() as u64;
    blobs.insert(root, Blob { size, source: BlobSource::Memory(Arc::new(directory)) });
    let (files, bytes) = (1 + u64::from(ignore.is_some()), contents.len() as u64);
    let tree = Tree { files, bytes, ..Tree::new(root, blobs) };
    Ok(DockerfileTree { name, tree, contents, ignore })
}

/// The ignore file of a context's root, if there is one. As a link it counts as what it leads to inside the
/// context, as for Docker.
pub fn read_context_ignore(context: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, ContextError> {
    let path = context.join(CONTEXT_IGNORE);
    let file = match super::walk::open_in_root(super::walk::open_root(context)?.as_fd(), CONTEXT_IGNORE) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(ContextError::Read { path, source: errno.into() }),
    };
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(None);
    }
    let contents = read_limited(file, &path)?;
    Ok(Some((path, contents)))
}

fn entry(
    name: &str,
    contents: &[u8],
    blobs: &mut HashMap<Sha256Digest, Blob>,
) -> Result<Entry, ContextError> {
    let digest = Sha256Digest::of(contents);
    let size = contents.len() as u64;
    blobs.insert(digest, Blob { size, source: BlobSource::Memory(Arc::new(contents.to_vec())) });
    let name = Name::new(name.as_bytes())
        .map_err(|problem| ContextError::Directory { path: PathBuf::from(name), problem })?;
    Ok(Entry { name, mode: 0o644, mtime_ns: 0, xattrs: BTreeMap::new(), kind: Kind::File { size, digest } })
}

/// Like buildx, a missing `Dockerfile` may be a `dockerfile`.
fn read_with_fallback(path: &Path) -> Result<(PathBuf, Vec<u8>), ContextError> {
    if let Some(contents) = read_optional(path)? {
        return Ok((path.to_owned(), contents));
    }
    if path.file_name().is_some_and(|name| name == "Dockerfile") {
        let lower = path.with_file_name("dockerfile");
        if let Some(contents) = read_optional(&lower)? {
            return Ok((lower, contents));
        }
    }
    Err(ContextError::NoDockerfile { path: path.to_owned() })
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, ContextError> {
    let read = |source| ContextError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(read(e)),
    };
    read_limited(file, path).map(Some)
}

fn read_limited(file: File, path: &Path) -> Result<Vec<u8>, ContextError> {
    let mut contents = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut contents)
        .map_err(|source| ContextError::Read { path: path.to_owned(), source })?;
    if contents.len() as u64 > MAX_FILE {
        return Err(ContextError::LargeDockerfile { path: path.to_owned(), limit: MAX_FILE });
    }
    Ok(contents)
}
