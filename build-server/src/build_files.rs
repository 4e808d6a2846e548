//! Dockerfile and ignore file of a build, by digest: the files that decide what everything else means.

use std::sync::Arc;

use provenance::context::Kind;
use provenance::digest::Sha256Digest;
use provenance::request::{Request, Source};

use crate::buildkit::{BlobError, ContextBlobs, Tree};

/// A file that steers the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFile {
    /// What it is for.
    pub role: Role,
    /// Path in its tree.
    pub path: String,
    /// SHA-256 of its contents.
    pub digest: Sha256Digest,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The Dockerfile.
    Dockerfile,
    /// The ignore file that applies: the Dockerfile's own, otherwise the context's.
    IgnoreFile,
}

/// Finds the files in the trees that the request pins. Files of a git context are covered by its commit.
///
/// Reads the store, so it blocks. A missing Dockerfile is not an error here: the engine says so better.
pub fn build_files(request: &Request, store: &Arc<dyn ContextBlobs>) -> Result<Vec<BuildFile>, BlobError> {
    let find = |root: Option<Sha256Digest>, path: &str, role| -> Result<Option<BuildFile>, BlobError> {
        let Some(root) = root else { return Ok(None) };
        let entry = Tree::new(store.clone(), root).resolve(path.as_bytes())?;
        Ok(match entry.map(|entry| entry.kind) {
            Some(Kind::File { digest, .. } | Kind::HardLink { digest, .. }) => {
                Some(BuildFile { role, path: path.to_owned(), digest })
            }
            _ => None,
        })
    };
    let context = match request.context {
        Source::Tree { root } => Some(root),
        _ => None,
    };
    let (root, path) = (request.dockerfile.root, request.dockerfile.path.as_str());
    let own_ignore = find(root, &format!("{path}.dockerignore"), Role::IgnoreFile)?;
    let ignore = match own_ignore {
        Some(file) => Some(file),
        None => find(context, ".dockerignore", Role::IgnoreFile)?,
    };
    Ok(find(root, path, Role::Dockerfile)?.into_iter().chain(ignore).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};
    use std::io::Read;

    use provenance::binding::Nonce;
    use provenance::context::{Directory, Entry, Name};
    use provenance::project::Project;
    use provenance::request::{BuildId, Compression, Dockerfile, Output, REQUEST_TYPE};

    use super::*;
    use crate::context_store::{BlobSource, Gone};

    #[derive(Default)]
    struct Blobs(HashMap<Sha256Digest, Directory>);

    impl Blobs {
        fn tree(&mut self, files: &[(&str, &str)]) -> Sha256Digest {
            let entries = files.iter().map(|(name, contents)| Entry {
                name: Name::new(name.as_bytes()).unwrap(),
                mode: 0o644,
                mtime_ns: 0,
                xattrs: BTreeMap::new(),
                kind: Kind::File {
                    size: contents.len() as u64,
                    digest: Sha256Digest::of(contents.as_bytes()),
                },
            });
            let directory = Directory::new(entries.collect()).unwrap();
            let digest = directory.digest();
            self.0.insert(digest, directory);
            digest
        }
    }

    impl ContextBlobs for Blobs {
        fn directory(&self, digest: &Sha256Digest) -> Result<Directory, BlobError> {
            Ok(self.0[digest].clone())
        }

        fn open_blob(&self, _: &Sha256Digest) -> Result<Box<dyn Read + Send>, BlobError> {
            unreachable!("no contents are read")
        }

        fn blob_size(&self, _: &Sha256Digest) -> Result<Option<u64>, BlobError> {
            unreachable!("no contents are read")
        }

        fn open_arriving(&self, _: &Sha256Digest, _: u64, _: Gone) -> Result<Box<dyn BlobSource>, BlobError> {
            unreachable!("no contents are read")
        }
    }

    fn request(context: Source, dockerfile: Option<Sha256Digest>) -> Request {
        Request {
            add_hosts: vec![],
            annotations: BTreeMap::new(),
            attestation_request: None,
            build_args: BTreeMap::new(),
            build_id: BuildId::try_from("b-1".to_owned()).unwrap(),
            context,
            dockerfile: Dockerfile { path: "app.Dockerfile".to_owned(), root: dockerfile },
            issued_at: provenance::timestamp::Timestamp::parse("2026-11-21T10:00:00Z").unwrap(),
            labels: BTreeMap::new(),
            named_contexts: BTreeMap::new(),
            no_cache: false,
            nonce: Nonce([0; 32]),
            output: Output::Image {
                compression: Compression::Gzip,
                names: vec![],
                push: false,
                rewrite_timestamp: false,
            },
            platforms: vec![],
            project: Project::new("default", [Sha256Digest::of(b"a key")]).unwrap(),
            pull: false,
            secrets: None,
            ssh: vec![],
            target: None,
            document_type: REQUEST_TYPE.to_owned(),
        }
    }

    #[test]
    fn the_ignore_file_of_the_dockerfile_goes_before_that_of_the_context() {
        let mut blobs = Blobs::default();
        let context = blobs.tree(&[(".dockerignore", "a"), ("a", "")]);
        let plain = blobs.tree(&[("app.Dockerfile", "FROM scratch")]);
        let own = blobs.tree(&[("app.Dockerfile", "FROM scratch"), ("app.Dockerfile.dockerignore", "b")]);
        let git = Source::Git { url: "https://git.example/app.git".to_owned() };
        let store: Arc<dyn ContextBlobs> = Arc::new(blobs);
        let files = |context: Source, root| {
            let found = build_files(&request(context, root), &store).unwrap();
            found.into_iter().map(|file| (file.path, file.digest)).collect::<Vec<_>>()
        };
        let dockerfile = ("app.Dockerfile".to_owned(), Sha256Digest::of(b"FROM scratch"));
        let of_context = (".dockerignore".to_owned(), Sha256Digest::of(b"a"));
        let of_dockerfile = ("app.Dockerfile.dockerignore".to_owned(), Sha256Digest::of(b"b"));
        let tree = Source::Tree { root: context };
        assert_eq!(files(tree.clone(), Some(plain)), [dockerfile.clone(), of_context]);
        assert_eq!(files(tree, Some(own)), [dockerfile.clone(), of_dockerfile]);
        assert_eq!(files(git.clone(), Some(plain)), [dockerfile]);
        assert_eq!(files(git, None), []);
    }
}
