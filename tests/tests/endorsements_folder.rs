//! `verify --endorsements DIR` with a folder that is as full as it may be. NOT HARDWARE: reports are the software TEE's.

#[path = "verifier_support/layout.rs"]
mod layout;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use std::path::Path;

use client::endorsements::pem;
use layout::write_layout;
use provenance::evidence::certificate_table;
use provenance::timestamp::Timestamp;
use sealwright_tests::harness::sealwright;
use sealwright_tests::software_tee::tdx::SoftwareTdx;
use sealwright_tests::software_tee::{Product, SoftwareTee, Tcb, Validity};
use verifier::given::{MAX_FILES, MAX_LISTS};
use world::World;

/// What `endorsements fetch` writes for a chip of AMD: VCEK, ASK, ARK, revocation list.
fn fetched(tee: &SoftwareTee) -> String {
    let chip = tee.new_chip(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a chip");
    let table = certificate_table::parse(&chip.endorsements()).expect("a table");
    let mut text = pem::block("CERTIFICATE", &chip.certificate);
    for guid in [certificate_table::ASK, certificate_table::ARK] {
        text.push_str(&pem::block("CERTIFICATE", &table[&guid]));
    }
    text + &list(tee)
}

fn list(tee: &SoftwareTee) -> String {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let now = i64::try_from(since_epoch).expect("before 9999");
    let day = |days: i64| Timestamp::from_unix(now + days * 86_400).expect("before 9999");
    let updates = Validity { not_before: day(-1), not_after: day(30) };
    pem::block("X509 CRL", &tee.revocation_list(&[], updates))
}

fn verify(home: &Path) -> (Option<i32>, String) {
    let output = std::process::Command::new(sealwright())
        .env("HOME", home)
        .current_dir(home)
        .args(["--policy", "policy.toml", "verify", "app", "--endorsements", "folder"])
        .output()
        .expect("runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_folder_full_of_fetched_files_is_taken_and_one_file_or_list_more_is_an_error() {
    let world = World::new();
    let made = world.make();
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    write_layout(&world, &made, &path("app"));
    let policy = made.policy.with("crl-if-present", "crl-required");
    std::fs::write(path("policy.toml"), policy.0).expect("written");
    std::fs::create_dir(path("folder")).expect("made");
    let (code, said) = verify(directory.path());
    assert_eq!(code, Some(8), "no list: {said}");

    let write = |index: usize, text: &[u8]| {
        std::fs::write(path(&format!("folder/{index:02}")), text).expect("written");
    };
    for index in 0..MAX_FILES {
        write(index, fetched(&world.tee).as_bytes());
    }
    let (code, said) = verify(directory.path());
    assert_eq!(code, Some(0), "{said}");
    // Another vendor's in place of one of them.
    write(0, &SoftwareTdx::shared().expect("a software TD").endorsements().encode());
    let (code, said) = verify(directory.path());
    assert_eq!(code, Some(0), "{said}");

    write(0, (fetched(&world.tee) + &list(&world.tee)).as_bytes());
    let (code, said) = verify(directory.path());
    assert_eq!(code, Some(8), "{said}");
    let wanted = format!("{} revocation lists are given, at most {MAX_LISTS} are looked at", MAX_LISTS + 1);
    assert!(said.contains(&wanted), "{said}");
    assert!(said.contains("from a folder of their own") && !said.contains("do not use it"), "{said}");

    write(0, b"");
    write(MAX_FILES, b"");
    let (code, said) = verify(directory.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("folder has more than 64 files of endorsements"), "{said}");
}
