use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A disk on which a crash happens after a number of bytes and operations. What was not synced may be lost: names in
/// the order in which they changed, contents from any byte on.
#[derive(Default)]
struct Disk {
    /// Contents by inode, and how much of each is surely on the disk.
    inodes: RefCell<Vec<(Vec<u8>, usize)>>,
    /// Names as the running system sees them.
    names: RefCell<BTreeMap<PathBuf, usize>>,
    /// Names as they were at the last sync of the directory, and after each change since then.
    history: RefCell<Vec<BTreeMap<PathBuf, usize>>>,
    /// Bytes and operations until the crash.
    left: Cell<usize>,
}

impl Disk {
    fn with(path: &Path, content: Option<&[u8]>) -> Self {
        let disk = Self::default();
        if let Some(content) = content {
            disk.inodes.borrow_mut().push((content.to_vec(), content.len()));
            disk.names.borrow_mut().insert(path.to_owned(), 0);
        }
        disk.history.borrow_mut().push(disk.names.borrow().clone());
        disk
    }

    /// One operation, if there is still power for it.
    fn spend(&self) -> io::Result<()> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| io::Error::other("crash"))?;
        self.left.set(left);
        Ok(())
    }

    fn rename_names(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, usize>)) {
        change(&mut self.names.borrow_mut());
        self.history.borrow_mut().push(self.names.borrow().clone());
    }

    /// What `path` may hold after the crash.
    fn outcomes(&self, path: &Path) -> Vec<Option<Vec<u8>>> {
        let inodes = self.inodes.borrow();
        let mut outcomes = Vec::new();
        for names in self.history.borrow().iter() {
            match names.get(path) {
                None => outcomes.push(None),
                Some(inode) => {
                    let (content, synced) = &inodes[*inode];
                    outcomes.extend((*synced..=content.len()).map(|length| Some(content[..length].to_vec())));
                }
            }
        }
        outcomes
    }
}

impl Files for Disk {
    type File = usize;

    fn create(&self, path: &Path) -> io::Result<usize> {
        self.spend()?;
        assert!(!self.names.borrow().contains_key(path), "only a file that is not there is made");
        let inode = self.inodes.borrow().len();
        self.inodes.borrow_mut().push((Vec::new(), 0));
        self.rename_names(|names| {
            names.insert(path.to_owned(), inode);
        });
        Ok(inode)
    }

    fn write(&self, file: &mut usize, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.spend()?;
            self.inodes.borrow_mut()[*file].0.push(*byte);
        }
        Ok(())
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        self.spend()?;
        let (content, synced) = &mut self.inodes.borrow_mut()[*file];
        *synced = content.len();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend()?;
        self.rename_names(|names| {
            let inode = names.remove(from).expect("the file is there");
            names.insert(to.to_owned(), inode);
        });
        Ok(())
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.spend()?;
        self.history.borrow_mut().clear();
        self.history.borrow_mut().push(self.names.borrow().clone());
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.spend()?;
        self.rename_names(|names| {
            names.remove(path);
        });
        Ok(())
    }
}

#[test]
fn a_crash_at_any_byte_or_operation_leaves_the_old_file_or_the_new_one() {
    let directory = Path::new("/keys");
    let path = directory.join(SEALED);
    let new = vec![2; 64];
    for old in [None, Some([1; 48].as_slice())] {
        for stale in [None, Some([3; 16].as_slice())] {
            let mut old_seen = 0;
            let mut budget = 0;
            loop {
                let disk = Disk::with(&path, old);
                if let Some(stale) = stale {
                    let inode = disk.inodes.borrow().len();
                    disk.inodes.borrow_mut().push((stale.to_vec(), 0));
                    disk.rename_names(|names| {
                        names.insert(directory.join(TEMPORARY), inode);
                    });
                }
                disk.left.set(budget);
                let result = replace(&disk, directory, SEALED, &new);
                let outcomes = disk.outcomes(&path);
                for outcome in &outcomes {
                    assert!(
                        outcome.as_deref() == old || outcome.as_deref() == Some(&new[..]),
                        "crash after {budget}: {outcome:?}"
                    );
                }
                old_seen += usize::from(outcomes.iter().any(|outcome| outcome.as_deref() == old));
                if result.is_ok() {
                    // Done is done: no crash brings the old one back.
                    assert_eq!(outcomes, [Some(new.clone())]);
                    break;
                }
                budget += 1;
            }
            // remove, create, 64 bytes, sync, rename, sync_directory: every number below that crashes.
            assert_eq!((budget, old_seen), (69, 69));
        }
    }
}

#[test]
fn the_system_writes_files_for_the_owner_alone_and_leaves_nothing_beside_them() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("made/keys");
    let store = Store::open(&directory).expect("made");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(store.read(), Ok(None));
    fs::write(directory.join(TEMPORARY), b"left by a crash, and readable by all").expect("written");
    store.replace(b"one").expect("written");
    store.replace(b"two").expect("written");
    store.keep("epoch-1.sealed", b"one").expect("written");
    assert_eq!(store.read(), Ok(Some(b"two".to_vec())));
    let mut names: Vec<_> =
        fs::read_dir(&directory).expect("there").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["epoch-1.sealed", SEALED, LOCK]);
    for name in names {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
}

#[test]
fn one_process_at_a_time() {
    let root = tempfile::tempdir().expect("a directory");
    let first = Store::open(root.path()).expect("free");
    let refused = Store::open(root.path()).map(|_| ()).expect_err("held");
    assert_eq!(refused, StoreError::InUse { directory: root.path().to_owned() });
    drop(first);
    Store::open(root.path()).expect("free again");
}

#[test]
fn what_is_no_file_is_not_read() {
    let root = tempfile::tempdir().expect("a directory");
    let store = Store::open(root.path()).expect("free");
    let path = root.path().join(SEALED);
    fs::create_dir(&path).expect("made");
    assert_eq!(store.read(), Err(StoreError::NoFile { path: path.clone() }));
    fs::remove_dir(&path).expect("removed");
    std::os::unix::fs::symlink("/dev/zero", &path).expect("made");
    assert_eq!(store.read(), Err(StoreError::NoFile { path }));
}

#[test]
fn no_more_than_one_byte_above_the_limit_is_read() {
    let root = tempfile::tempdir().expect("a directory");
    let store = Store::open(root.path()).expect("free");
    fs::write(root.path().join(SEALED), vec![0; 1 << 20]).expect("written");
    assert_eq!(store.read().expect("read").expect("there").len(), MAX_SEALED_FILE + 1);
}

#[test]
fn failures_name_the_operation_and_the_file() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("file");
    fs::write(&file, b"").expect("written");
    let directory = file.join("keys");
    let refused = Store::open(&directory).map(|_| ()).expect_err("a file is no directory");
    assert!(
        matches!(&refused, StoreError::Io { operation: "make", path, .. } if *path == directory),
        "{refused}"
    );
    let store = Store::open(root.path()).expect("free");
    fs::create_dir(root.path().join(SEALED)).expect("made");
    let refused = store.replace(b"new").expect_err("a directory is there");
    assert!(
        matches!(&refused, StoreError::Io { operation: "write", path, .. } if *path == store.path()),
        "{refused}"
    );
}

#[test]
fn what_the_system_refuses_is_an_error() {
    let root = tempfile::tempdir().expect("a directory");
    let null = File::open("/dev/null").expect("opened");
    SystemFiles.sync(&null).expect_err("a device that cannot be synced");
    SystemFiles.sync_directory(&root.path().join("missing")).expect_err("no directory");
    SystemFiles.remove(&root.path().join("missing")).expect("nothing to remove");
    SystemFiles.remove(root.path()).expect_err("a directory is no file");

    let store = Store::open(&root.path().join("store")).expect("free");
    fs::remove_dir_all(root.path().join("store")).expect("removed");
    fs::write(root.path().join("store"), "").expect("written");
    let read = store.read().expect_err("a file where the directory was");
    assert!(matches!(read, StoreError::Io { .. }), "{read}");
}
