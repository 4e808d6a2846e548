//! What the Secure Execution tests share: the vectors, and answers of a made-up Ultravisor.
#![allow(dead_code, unused_imports, reason = "each test file uses a part")]

#[path = "../../../tests/src/software_tee/se/fixture.rs"]
mod fixture;
#[path = "../../../tests/src/vectors/folder.rs"]
mod folder;
pub(crate) mod policy;

use std::fs;
use std::path::Path;

use base64::Engine as _;
use provenance::digest::Sha256Digest;
use provenance::timestamp::Timestamp;
use serde_json::Value;
use verifier::Endorsements;
use verifier::secure_execution::request::flag;
use verifier::secure_execution::{
    AuthenticMeasurement, HostKeyAnchors, OwnRequest, ProtectionKey, SeError, authenticate_own_request,
    host_key,
};

pub(crate) use fixture::{ALL_FLAGS, Answer, NONCE, PROTECTION_KEY, exchange, make_request};
pub(crate) use folder::folder as vectors;

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

pub(crate) fn own(request: &[u8]) -> OwnRequest {
    OwnRequest::open(request, &ProtectionKey::new(PROTECTION_KEY)).expect("the key opens it")
}

/// A name of the test PKI, as messages show it.
pub(crate) fn ibm_name(locality: &str, unit: &str) -> String {
    let ibm = "International Business Machines Corporation";
    format!("CN={ibm}, C=US, L={locality}, ST=New York, O={ibm}, OU={unit}")
}

pub(crate) const UID: [u8; 16] = [0x14; 16];
pub(crate) const REPORT_DATA: [u8; 64] = [0x15; 64];

/// A machine whose host key is the test PKI's.
pub(crate) struct Machine {
    pub(crate) document: Vec<u8>,
    pub(crate) extra: Endorsements,
    pub(crate) hash: Sha256Digest,
    pub(crate) header: Vec<u8>,
}

impl Machine {
    pub(crate) fn new() -> Option<Self> {
        let dir = vectors()?;
        let cases = cases(&dir, "se-hkd");
        let case = cases.iter().find(|case| case["id"] == "se-pki-ok").expect("the case");
        let (document, extra) = (der(&input(&dir, case, "hkd")), endorsements(&dir, case));
        let hash =
            host_key::authenticate(&document, &extra, &test_anchors(), judged_at()).expect("good").hash();
        Some(Self { document, extra, hash, header: read(&dir, "se/z16/se_header.bin") })
    }

    pub(crate) fn answer(&self, flags: u64) -> Answer {
        let mut additional = [self.hash.as_bytes().as_slice(); 2].concat();
        additional.extend(vec![0x51; if flags & flag::SECRET_STORE_HASH == 0 { 0 } else { 64 }]);
        additional.extend(vec![0x52; if flags & flag::FIRMWARE_STATE == 0 { 0 } else { 320 }]);
        Answer {
            request: make_request(flags, &[self.hash]),
            header: self.header.clone(),
            user_data: [REPORT_DATA.as_slice(), b"more"].concat(),
            additional,
            config_uid: UID.to_vec(),
            nonce: if flags & flag::NONCE == 0 { Vec::new() } else { NONCE.to_vec() },
        }
    }

    pub(crate) fn judge(&self, response: &[u8], own: &OwnRequest) -> Result<AuthenticMeasurement, SeError> {
        let documents = [self.document.clone()];
        authenticate_own_request(
            response,
            &self.header,
            own,
            &documents,
            &self.extra,
            &test_anchors(),
            judged_at(),
        )
    }
}
