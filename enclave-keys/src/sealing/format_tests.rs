use super::*;
use crate::sealing::{RootKind, RootMeasurement};

const VECTORS: &str = include_str!("../../vectors/sealed-epoch-v1.json");

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    #[serde(rename = "what")]
    _what: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    root: String,
    epoch: u64,
    created_at: Timestamp,
    nonce: String,
    epoch_secret: String,
    root_id: String,
    header: String,
    info: String,
    key: String,
    aad: String,
    file: String,
}

fn cases() -> Vec<Case> {
    serde_json::from_str::<Vectors>(VECTORS).expect("vectors").cases
}

fn array<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).expect("hex of this length");
    bytes
}

impl Case {
    fn root(&self) -> SealingRoot {
        let header: SealedHeader = serde_json::from_str(&self.header).expect("a header");
        SealingRoot::new(Zeroizing::new(array(&self.root)), header.under)
    }

    fn file(&self) -> Vec<u8> {
        hex::decode(&self.file).expect("hex")
    }

    /// Offset of the nonce.
    fn header_end(&self) -> usize {
        PREFIX_LEN + self.header.len()
    }

    /// The file with a header of another text, its length told.
    fn with_header(&self, header: &str) -> Vec<u8> {
        let length = u32::try_from(header.len()).expect("short");
        let file = self.file();
        let rest = &file[self.header_end()..];
        [&file[..PREFIX_LEN - 4], &length.to_be_bytes(), header.as_bytes(), rest].concat()
    }
}

fn snp() -> Case {
    cases().remove(0)
}

fn refusal(bytes: &[u8]) -> SealedFileError {
    SealedFile::parse(bytes).map(|_| ()).expect_err("refused")
}

#[test]
fn keys_and_files_are_those_of_the_vectors() {
    for case in cases() {
        let root = case.root();
        let platform = root.under().platform;
        assert_eq!(hex::encode(root_id(&root).as_bytes()), case.root_id, "{}", case.name);
        let info = key_info(case.epoch, platform);
        assert_eq!(hex::encode(&info), case.info, "{}", case.name);
        assert_eq!(hex::encode(*derive(&root, &info)), case.key, "{}", case.name);
        assert_eq!(hex::encode(aad(case.header.as_bytes())), case.aad, "{}", case.name);
        let secret = EpochSecret::fixed(array(&case.epoch_secret));
        let file = seal(&root, case.epoch, case.created_at, array(&case.nonce), &secret);
        assert_eq!(hex::encode(&file), case.file, "{}", case.name);

        let parsed = SealedFile::parse(&file).expect("a sealed file");
        assert_eq!((parsed.header().epoch, parsed.header().created_at), (case.epoch, case.created_at));
        assert_eq!(&parsed.header().under, root.under());
        let opened = parsed.open(&root).expect("its own root");
        assert!(opened.is(&array(&case.epoch_secret)), "{}", case.name);
    }
}

#[test]
fn root_epoch_and_platform_each_give_another_key() {
    let keys: std::collections::BTreeSet<_> = cases().into_iter().map(|case| case.key).collect();
    // "another TCB" has the key of "SEV-SNP": there the hardware gives another root.
    assert_eq!(keys.len(), cases().len() - 1);
}

#[test]
fn each_cut_is_truncated() {
    let case = snp();
    let file = case.file();
    for got in 0..file.len() {
        let wanted = if got < PREFIX_LEN { PREFIX_LEN } else { file.len() };
        assert_eq!(refusal(&file[..got]), SealedFileError::Truncated { wanted, got });
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    for extra in [1, 2] {
        let file = [snp().file(), vec![0; extra]].concat();
        assert_eq!(refusal(&file), SealedFileError::Trailing { extra });
    }
}

#[test]
fn a_file_longer_than_any_is_refused_before_it_is_read() {
    assert_eq!(refusal(&[0; MAX_SEALED_FILE + 1]), SealedFileError::TooLong);
    assert!(matches!(refusal(&[0; MAX_SEALED_FILE]), SealedFileError::Foreign { .. }));
}

#[test]
fn other_files_are_foreign() {
    let got = hex::encode(&b"-----BEGIN PRIVATE KEY"[..16]);
    assert_eq!(refusal(b"-----BEGIN PRIVATE KEY"), SealedFileError::Foreign { got });
    assert_eq!(refusal(b"x"), SealedFileError::Foreign { got: "78".to_owned() });
}

#[test]
fn older_and_newer_formats_are_told_apart() {
    let mut file = snp().file();
    file[19] = 0;
    assert_eq!(refusal(&file), SealedFileError::OlderFormat { got: 0 });
    file[19] = 2;
    assert_eq!(refusal(&file), SealedFileError::NewerFormat { got: 2 });
}

#[test]
fn a_header_has_a_limit() {
    let case = snp();
    let mut file = case.file();
    file[20..24].copy_from_slice(&2049u32.to_be_bytes());
    assert_eq!(refusal(&file), SealedFileError::HeaderLength { got: 2049 });
    // At the limit it is read, and is no JSON.
    let file = case.with_header(&" ".repeat(MAX_HEADER));
    assert!(matches!(refusal(&file), SealedFileError::Header(CanonicalError::Shape(_))));
}

#[test]
fn headers_of_another_shape_are_refused() {
    let case = snp();
    let shape = [
        ("\"epoch\":1", "\"epoch\":\"1\""),
        ("\"epoch\":1,", ""),
        ("\"epoch\":1", "\"epoch\":1,\"extra\":null"),
        ("\"tcb\":", "\"extra\":null,\"tcb\":"),
        ("\"epoch\":1", "\"epoch\":-1"),
        ("vcek-derived-key", "vmrk-derived-key"),
        ("\"tcb\":\"04000000000018db\"", "\"tcb\":\"04000000000018\""),
        ("\"tcb\":\"04000000000018db\"", "\"tcb\":\"04000000000018DB\""),
        ("\"guest_policy\":\"0000000000030000\"", "\"guest_policy\":\"30000\""),
        ("1111\"", "11\""),
        ("1111\"", "11AA\""),
        ("sev-snp", "sev-es"),
        ("15:06:38Z", "15:06:38+00:00"),
    ];
    for (from, to) in shape {
        assert!(case.header.contains(from), "{from}");
        let error = refusal(&case.with_header(&case.header.replacen(from, to, 1)));
        assert!(matches!(error, SealedFileError::Header(CanonicalError::Shape(_))), "{to}: {error}");
    }
    let spaced = case.header.replacen("\"epoch\":1", "\"epoch\": 1", 1);
    let error = refusal(&case.with_header(&spaced));
    assert!(matches!(error, SealedFileError::Header(CanonicalError::NotCanonical { .. })), "{error}");
}

#[test]
fn epochs_are_counted_from_1_to_the_largest_integer_of_json() {
    let case = snp();
    for got in [0, MAX_EPOCH + 1] {
        let header = case.header.replacen("\"epoch\":1", &format!("\"epoch\":{got}"), 1);
        let error = refusal(&case.with_header(&header));
        assert_eq!(error, SealedFileError::EpochNumber { got });
    }
}

#[test]
fn no_byte_can_be_changed_without_being_seen() {
    let case = snp();
    let (root, good) = (case.root(), case.file());
    let good_header = SealedFile::parse(&good).expect("good").header().clone();
    for offset in 0..good.len() {
        for bit in 0..8 {
            let mut file = good.clone();
            file[offset] ^= 1 << bit;
            match SealedFile::parse(&file) {
                Err(_) => {
                    assert!(offset < case.header_end(), "offset {offset}: beyond the header is no form")
                }
                // Whatever the header says now, it does not open.
                Ok(parsed) => {
                    let error = parsed.open(&root).map(|_| ()).expect_err("changed");
                    assert_eq!(error, SealedFileError::Authentication, "offset {offset} bit {bit}");
                    assert_eq!(
                        *parsed.header() == good_header,
                        offset >= case.header_end(),
                        "offset {offset}"
                    );
                }
            }
        }
    }
}

#[test]
fn another_root_does_not_open_it() {
    let case = snp();
    let parsed = SealedFile::parse(&case.file()).expect("good");
    let other = SealingRoot::new(Zeroizing::new([7; 32]), case.root().under().clone());
    assert_eq!(parsed.open(&other).map(|_| ()), Err(SealedFileError::Authentication));
}

#[test]
fn each_kind_of_root_has_its_name_and_origin() {
    use provenance::instance::KeyOrigin;
    for (kind, name, origin) in [
        (RootKind::VcekDerivedKey, "vcek-derived-key", KeyOrigin::SnpDerivedKey),
        (RootKind::ImageSecret, "image-secret", KeyOrigin::SecureExecutionImageSecret),
        (RootKind::RetrievableSecret, "retrievable-secret", KeyOrigin::SecureExecutionRetrievableSecret),
        (RootKind::DangerousSoftware, "dangerous-software", KeyOrigin::DangerousSoftware),
    ] {
        assert_eq!(serde_json::to_value(kind).expect("a name"), name);
        assert_eq!(kind.key_origin(), origin);
    }
}

#[test]
fn measurements_have_three_lengths() {
    for length in 0..=65 {
        let made = RootMeasurement::from_bytes(&vec![1; length]);
        assert_eq!(made.is_ok(), [32, 48, 64].contains(&length), "{length}");
    }
}
