//! The sealing root of a Secure Execution guest: a secret that its owner gave it. The platform has none of its own, so the
//! owner could unseal the keys as well; `key_origin` says so.
//!
//! 1. A retrievable secret of plain text (IBM z17) whose name is [`SECRET_NAME`]: the owner adds it at each boot.
//! 2. Else a secret in a file of the encrypted image.
//! 3. Else there is no root. An association secret is none: the guest cannot read it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use provenance::digest::{Sha256Digest, sha512};
use provenance::evidence::Platform;
use provenance::frame::FrameWriter;
use zeroize::Zeroizing;

use super::plain_text;
use crate::attester::AttesterError;
use crate::devices::uv::{SecretEntry, Ultravisor};
use crate::sealing::{RootKind, RootMeasurement, SealedUnder, SealingRoot};

/// Name of the retrievable secret. Its id is the SHA-256 of the name, as `pvsecret create retrievable` makes it.
const SECRET_NAME: &str = "sealwright-sealing-root-v1";
/// Secret type of plain text (s390-tools, `pvsecret list`): all others come back as keys under a wrapping key of the
/// machine, which differ from boot to boot.
const PLAIN_TEXT: u16 = 0x0003;
/// Shortest and longest secret in bytes, without what frames it.
const SHORTEST: usize = 32;
const LONGEST: usize = 8 << 10;

/// The root, if the owner gave one. `store`: the Ultravisor, where secrets can be read back.
pub(super) fn find(
    store: Option<&Ultravisor>,
    image_secret: &Path,
) -> Result<Option<SealingRoot>, AttesterError> {
    if let Some(store) = store
        && let Some(root) = retrievable(store)?
    {
        return Ok(Some(root));
    }
    of_image(image_secret)
}

fn retrievable(store: &Ultravisor) -> Result<Option<SealingRoot>, AttesterError> {
    let id = Sha256Digest::of(SECRET_NAME.as_bytes());
    let ours = |entry: &SecretEntry| entry.id == *id.as_bytes() && entry.kind == PLAIN_TEXT;
    let Some(entry) = store.list_secrets()?.into_iter().find(ours) else { return Ok(None) };
    let retrieved = store.retrieve_secret(&entry)?;
    let (path, name) = (store.path(), SECRET_NAME);
    let form = || AttesterError::SecretForm { path: path.to_owned(), name, got: retrieved.len() };
    let secret = plain_text::secret(&retrieved).ok_or_else(form)?;
    check_length(path, secret)?;
    Ok(Some(root(RootKind::RetrievableSecret, secret, id.as_bytes())))
}

fn of_image(path: &Path) -> Result<Option<SealingRoot>, AttesterError> {
    let failed = |operation, error: std::io::Error| AttesterError::Io {
        operation,
        path: path.to_owned(),
        kind: error.kind(),
        detail: error.to_string(),
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", error)),
    };
    let mut secret = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64 + 1).read_to_end(&mut secret).map_err(|error| failed("read", error))?;
    check_length(path, &secret)?;
    // A guest cannot read its own header; this names the image by the secret that is in it.
    let named = Zeroizing::new(FrameWriter::new("sealwright/image-secret/v1").framed(&secret).finish());
    Ok(Some(root(RootKind::ImageSecret, &secret, &sha512(&named))))
}

fn check_length(path: &Path, secret: &[u8]) -> Result<(), AttesterError> {
    let (got, least, most) = (secret.len(), SHORTEST, LONGEST);
    if (least..=most).contains(&got) {
        return Ok(());
    }
    Err(AttesterError::Length { path: path.to_owned(), what: "secret for sealing", got, least, most })
}

fn root(kind: RootKind, secret: &[u8], measurement: &[u8]) -> SealingRoot {
    let label = FrameWriter::new("sealwright/secure-execution-root/v1");
    let framed = Zeroizing::new(label.framed(kind.to_string().as_bytes()).framed(secret).finish());
    let under = SealedUnder {
        guest_policy: None,
        kind,
        measurement: RootMeasurement::from_bytes(measurement).expect("32 or 64 bytes"),
        platform: Platform::SecureExecution,
        tcb: None,
    };
    SealingRoot::new(Zeroizing::new(*Sha256Digest::of(&framed).as_bytes()), under)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::devices::tests::{Scripted, answer};
    use crate::devices::uv::layout;

    /// A secret as the store holds it.
    fn framed(secret: &[u8]) -> Vec<u8> {
        let length = u16::try_from(secret.len()).expect("short").to_be_bytes();
        let mut framed = [length.as_slice(), secret].concat();
        framed.resize(framed.len().next_multiple_of(16), 0);
        framed
    }

    /// A store with these entries of kind, id, bytes.
    fn store(entries: Vec<(u16, [u8; 32], Vec<u8>)>) -> Ultravisor {
        let scripted = Scripted::new([answer(move |call| {
            call.block_mut(0)[layout::CONTROL_CODE..][..2].copy_from_slice(&1_u16.to_ne_bytes());
            let argument = call.target(0, layout::CONTROL_ARGUMENT).expect("an address");
            let number = call.number();
            let block = call.block_mut(argument);
            if number == layout::LIST_SECRETS {
                let count = u16::try_from(entries.len()).expect("few").to_ne_bytes();
                block[..4].copy_from_slice(&[count, count].concat());
                for (index, (kind, id, secret)) in entries.iter().enumerate() {
                    let at = layout::LIST_HEADER_LEN + index * layout::LIST_ENTRY_LEN;
                    let index = u16::try_from(index).expect("few").to_ne_bytes();
                    let length = u32::try_from(secret.len()).expect("short").to_ne_bytes();
                    let entry = [&index[..], &kind.to_ne_bytes(), &length, &[0; 8], id].concat();
                    block[at..at + entry.len()].copy_from_slice(&entry);
                }
            } else {
                assert_eq!(number, layout::RETRIEVE_SECRET);
                let index = usize::from(u16::from_ne_bytes([block[0], block[1]]));
                block.copy_from_slice(&entries[index].2);
            }
            Ok(())
        })]);
        Ultravisor::new(Path::new("/dev/uv"), Box::new(scripted))
    }

    fn own_id() -> [u8; 32] {
        *Sha256Digest::of(SECRET_NAME.as_bytes()).as_bytes()
    }

    fn found(
        entries: Vec<(u16, [u8; 32], Vec<u8>)>,
        image: Option<&[u8]>,
    ) -> Result<Option<SealingRoot>, AttesterError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        if let Some(image) = image {
            fs::write(&path, image).expect("written");
        }
        find(Some(&store(entries)), &path)
    }

    fn key(root: Result<Option<SealingRoot>, AttesterError>) -> (RootKind, [u8; 32]) {
        let root = root.expect("no error").expect("a root");
        (root.under().kind, *root.key())
    }

    #[test]
    fn a_secret_of_the_image_that_cannot_be_opened_is_an_error_and_not_missing() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(matches!(find(None, &directory.path().join("missing")), Ok(None)));
        let file = directory.path().join("file");
        fs::write(&file, "").expect("written");
        let below = find(None, &file.join("secret")).map(|_| ()).expect_err("no directory");
        assert!(matches!(below, AttesterError::Io { operation: "open", .. }), "{below}");
    }

    #[test]
    fn a_retrievable_secret_of_the_right_name_and_type_comes_before_that_of_the_image() {
        let (secret, image) = (vec![7; 48], [8; 32]);
        let own = (PLAIN_TEXT, own_id(), framed(&secret));
        let others = [(PLAIN_TEXT, [1; 32], vec![9; 48]), (0x0002, own_id(), vec![9; 48])];
        let (kind, root) = key(found(others.iter().cloned().chain([own]).collect(), Some(&image)));
        assert_eq!(kind, RootKind::RetrievableSecret);
        assert_eq!(
            key(found(vec![(PLAIN_TEXT, own_id(), framed(&secret))], None)).1,
            root,
            "the same at each boot"
        );
        assert_ne!(
            key(found(vec![(PLAIN_TEXT, own_id(), framed(&[6; 48]))], None)).1,
            root,
            "another secret"
        );

        let (kind, of_image) = key(found(others.to_vec(), Some(&image)));
        assert_eq!(kind, RootKind::ImageSecret);
        let (_directory, path) = written(&image);
        assert_eq!(key(find(None, &path)).1, of_image, "without a store");
        assert_ne!(of_image, root);
        assert!(found(others.to_vec(), None).expect("no error").is_none());
    }

    fn written(secret: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        fs::write(&path, secret).expect("written");
        (directory, path)
    }

    #[test]
    fn the_same_bytes_as_image_secret_and_as_retrievable_secret_are_two_roots() {
        let secret = vec![7; 48];
        let (_, retrieved) = key(found(vec![(PLAIN_TEXT, own_id(), framed(&secret))], None));
        assert_ne!(key(found(vec![], Some(&secret))).1, retrieved);
    }

    #[test]
    fn secrets_that_are_too_short_or_too_long_are_refused() {
        for (got, entries, image) in [
            // With length and zeros it would be long enough.
            (31, vec![(PLAIN_TEXT, own_id(), framed(&[7; 31]))], None),
            (17, vec![(PLAIN_TEXT, own_id(), framed(&[7; 17]))], None),
            (31, vec![], Some(vec![7; 31])),
            (LONGEST + 1, vec![], Some(vec![7; LONGEST + 2])),
        ] {
            let refused = found(entries, image.as_deref()).map(|_| ()).expect_err("refused");
            let AttesterError::Length { what, got: seen, .. } = refused else { panic!("{refused}") };
            assert_eq!((what, seen), ("secret for sealing", got));
        }
    }

    #[test]
    fn a_secret_in_another_form_is_refused_and_not_taken_as_it_stands() {
        let refused = found(vec![(PLAIN_TEXT, own_id(), vec![7; 48])], Some(&[8; 32])).map(|_| ());
        let path = Path::new("/dev/uv").to_owned();
        assert_eq!(refused, Err(AttesterError::SecretForm { path, name: SECRET_NAME, got: 48 }));
    }
}
