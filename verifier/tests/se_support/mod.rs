//! What the Secure Execution tests share: the vectors, and answers of a made-up Ultravisor.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use ring::{aead, hmac};
use serde_json::Value;
use verifier::Endorsements;
use verifier::secure_execution::{HostKeyAnchors, OwnRequest, ProtectionKey, request};

/// Directory of the vectors, `../../shared/vectors` beside the repository unless `SEALWRIGHT_VECTORS` names another.
pub(crate) fn vectors() -> Option<PathBuf> {
    let dir = std::env::var_os("SEALWRIGHT_VECTORS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors"), PathBuf::from);
    if dir.join("index.json").is_file() {
        return Some(dir);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "no vectors at {}; set SEALWRIGHT_VECTORS to the directory that holds index.json",
        dir.display()
    );
    eprintln!("SKIPPED: no vectors at {}; set SEALWRIGHT_VECTORS", dir.display());
    None
}

pub(crate) fn read(dir: &Path, path: &str) -> Vec<u8> {
    fs::read(dir.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A file of one PEM block, or of DER, as DER.
pub(crate) fn der(bytes: &[u8]) -> Vec<u8> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN ")) else {
        return bytes.to_vec();
    };
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).expect("base64")
}

pub(crate) fn cases(dir: &Path, platform: &str) -> Vec<Value> {
    let index: Value = serde_json::from_slice(&read(dir, "index.json")).expect("JSON");
    let cases = index["cases"].as_array().expect("cases").iter();
    cases.filter(|case| case["platform"] == platform).cloned().collect()
}

pub(crate) fn input(dir: &Path, case: &Value, name: &str) -> Vec<u8> {
    read(dir, case["inputs"][name].as_str().expect("a path"))
}

pub(crate) fn now(case: &Value) -> Timestamp {
    Timestamp::parse(case["now"].as_str().expect("a time")).expect("a time")
}

/// Chain and CRLs of a case about host key documents.
pub(crate) fn endorsements(dir: &Path, case: &Value) -> Endorsements {
    let crls = case["inputs"]["crls"].as_array().expect("CRLs").iter();
    Endorsements {
        certificates: ["root", "intermediate", "signing_key"].map(|name| der(&input(dir, case, name))).into(),
        crls: crls.map(|path| der(&read(dir, path.as_str().expect("a path")))).collect(),
        ..Endorsements::default()
    }
}

/// SHA-256 of the SPKI of the test PKI's root: what `openssl pkey -pubin -outform DER` gives for it.
pub(crate) fn test_anchors() -> HostKeyAnchors {
    HostKeyAnchors::vendor().dangerous_with_roots(&[test_root()])
}

pub(crate) fn test_root() -> Sha256Digest {
    Sha256Digest::from_hex("8667c3d5906739da1488a60611b631e74aa28e8e36baa49802e5669aaa661d7c")
        .expect("a digest")
}

pub(crate) fn judged_at() -> Timestamp {
    Timestamp::parse("2026-07-01T00:00:00Z").expect("a time")
}

pub(crate) const ALL_FLAGS: u64 = request::flag::KNOWN;
pub(crate) const PROTECTION_KEY: [u8; 32] = [0x17; 32];
pub(crate) const MEASUREMENT_KEY: [u8; 64] = [0x77; 64];
pub(crate) const NONCE: [u8; 16] = [0xab; 16];

/// A request for host keys with these hashes, as a requester makes it.
pub(crate) fn make_request(flags: u64, slots: &[Sha256Digest]) -> Vec<u8> {
    let nonce = if flags & request::flag::NONCE == 0 { 0 } else { NONCE.len() };
    let encrypted = MEASUREMENT_KEY.len() + nonce;
    let length = 0xe0 + slots.len() * 80 + encrypted + 16;
    let mut bytes = vec![0; 8];
    bytes.extend(0x100_u32.to_be_bytes());
    bytes.extend(u32::try_from(length).expect("small").to_be_bytes());
    bytes.extend([0x11; 12]);
    bytes.extend([0; 11]);
    bytes.push(u8::try_from(slots.len()).expect("few"));
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(encrypted).expect("small").to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(1_u32.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([0x22; 160]);
    for slot in slots {
        bytes.extend(slot.as_bytes());
        bytes.extend([0x33; 48]);
    }
    let mut sealed = MEASUREMENT_KEY.to_vec();
    sealed.extend(&NONCE[..nonce]);
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, &PROTECTION_KEY).expect("32 bytes");
    aead::LessSafeKey::new(key)
        .seal_in_place_append_tag(
            aead::Nonce::assume_unique_for_key([0x11; 12]),
            aead::Aad::from(&bytes),
            &mut sealed,
        )
        .expect("short enough");
    bytes.extend(sealed);
    assert_eq!(bytes.len(), length);
    bytes
}

pub(crate) fn own(request: &[u8]) -> OwnRequest {
    OwnRequest::open(request, &ProtectionKey::new(PROTECTION_KEY)).expect("the key opens it")
}

/// What an Ultravisor answers with.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) request: Vec<u8>,
    pub(crate) header: Vec<u8>,
    pub(crate) user_data: Vec<u8>,
    pub(crate) additional: Vec<u8>,
    pub(crate) config_uid: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
}

impl Answer {
    pub(crate) fn measurement(&self) -> Vec<u8> {
        let mut measured = self.header[0xe0..0x1a0].to_vec();
        measured.extend(&self.header[self.header.len() - 16..]);
        measured.extend(&self.config_uid);
        measured.extend(u16::try_from(self.user_data.len()).expect("short").to_be_bytes());
        measured.extend([0; 2]);
        measured.extend(u32::try_from(self.additional.len()).expect("short").to_be_bytes());
        measured.extend(&self.user_data);
        measured.extend(&self.nonce);
        measured.extend(&self.additional);
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, &MEASUREMENT_KEY), &measured).as_ref().to_vec()
    }

    pub(crate) fn response(&self) -> Vec<u8> {
        exchange(&[&self.request, &self.measurement(), &self.additional, &self.user_data, &self.config_uid])
    }
}

/// The exchange format around five parts.
pub(crate) fn exchange(parts: &[&[u8]; 5]) -> Vec<u8> {
    let word = |value: usize| u32::try_from(value).expect("small").to_be_bytes();
    let total = 0x40 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = b"pvattest\x00\x00\x01\x00".to_vec();
    bytes.extend(word(total));
    bytes.extend([0; 8]);
    let mut next = 0x40;
    for part in parts {
        bytes.extend(word(part.len()));
        bytes.extend(word(if part.is_empty() { 0 } else { next }));
        next += part.len();
    }
    bytes.extend(parts.concat());
    bytes
}

/// A name of the test PKI, as messages show it.
pub(crate) fn ibm_name(locality: &str, unit: &str) -> String {
    let ibm = "International Business Machines Corporation";
    format!("CN={ibm}, C=US, L={locality}, ST=New York, O={ibm}, OU={unit}")
}
