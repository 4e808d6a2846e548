//! Reading sealed files under the roots of the committed vectors: for [`crate::fuzzing`] alone.

use std::sync::LazyLock;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::format::{SealedFile, SealedHeader};
use super::root::SealingRoot;

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    root: String,
    header: String,
    file: String,
}

/// Root and file of each case.
static KNOWN: LazyLock<Vec<(SealingRoot, Vec<u8>)>> = LazyLock::new(|| {
    let vectors: Vectors =
        serde_json::from_str(include_str!("../../vectors/sealed-epoch-v1.json")).expect("vectors");
    vectors
        .cases
        .into_iter()
        .map(|case| {
            let mut key = Zeroizing::new([0; 32]);
            hex::decode_to_slice(&case.root, key.as_mut()).expect("32 bytes in hex");
            let header: SealedHeader = serde_json::from_str(&case.header).expect("a header");
            (SealingRoot::new(key, header.under), hex::decode(&case.file).expect("hex"))
        })
        .collect()
});

/// The files.
pub(crate) fn sealed_files() -> Vec<Vec<u8>> {
    KNOWN.iter().map(|(_, file)| file.clone()).collect()
}

/// Whether the form is right. What opens under a root is a file that was sealed under it, to the bit.
pub(crate) fn read_sealed_file(bytes: &[u8]) -> bool {
    let Ok(parsed) = SealedFile::parse(bytes) else { return false };
    let opens = KNOWN.iter().any(|(root, _)| parsed.open(root).is_ok());
    assert!(!opens || KNOWN.iter().any(|(_, sealed)| sealed == bytes), "an altered file opens");
    true
}
