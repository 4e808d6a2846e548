//! The software TEE's reports and certificates look like the hardware's to tools that are not ours.

use std::process::Command;

use enclave_keys::Attester as _;
use provenance::binding::ReportData;
use provenance::evidence::certificate_table;
use provenance::timestamp::Timestamp;
use sealwright_tests::software_tee::{
    ASK_SERIAL, DANGEROUS_SOFTWARE_MEASUREMENT, Product, REPORT_LEN, SIGNATURE_PART_LEN, SIGNED_LEN,
    SoftwareTee, Tcb, Validity,
};

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is a prerequisite");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn openssl_accepts_the_chain_of_every_kind_of_chip() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let vcek = |product| tee.new_chip(product, Tcb::of(product), |_| ()).expect("a chip");
    let vlek = tee.new_vlek(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a VLEK");
    let chips = [
        ("persistent VCEK", tee.chip(), certificate_table::VCEK),
        ("Milan VCEK", &vcek(Product::Milan), certificate_table::VCEK),
        ("Genoa VCEK", &vcek(Product::Genoa), certificate_table::VCEK),
        ("Turin VCEK", &vcek(Product::Turin), certificate_table::VCEK),
        ("Milan VLEK", &vlek, certificate_table::VLEK),
    ];
    for (name, chip, guid) in chips {
        let table = certificate_table::parse(&chip.endorsements()).expect("a certificate table");
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, der: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, pem(der)).expect("written");
            path.to_str().expect("text").to_owned()
        };
        let root = file("ark.pem", &table[&certificate_table::ARK]);
        let intermediate = file("ask.pem", &table[&certificate_table::ASK]);
        let vek = file("vek.pem", &table[&guid]);
        let (good, said) = openssl(&["verify", "-CAfile", &root, "-untrusted", &intermediate, &vek]);
        assert!(good, "{name}: {said}");
    }
}

#[test]
fn openssl_accepts_revocation_lists_of_the_root() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let moment = |text| Timestamp::parse(text).expect("a time");
    let updates =
        Validity { not_before: moment("2026-01-01T00:00:00Z"), not_after: moment("2040-01-01T00:00:00Z") };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    std::fs::write(path("ark.pem"), pem(tee.root_certificate())).expect("written");
    for revoked in [&[][..], &[ASK_SERIAL]] {
        std::fs::write(path("list"), tee.revocation_list(revoked, updates)).expect("written");
        let (good, said) = openssl(&[
            "crl",
            "-inform",
            "DER",
            "-in",
            &path("list"),
            "-CAfile",
            &path("ark.pem"),
            "-noout",
            "-text",
        ]);
        assert!(good && said.contains("verify OK"), "{said}");
        assert_eq!(said.contains("Serial Number: 010001"), !revoked.is_empty(), "{said}");
    }
}

#[test]
fn openssl_accepts_the_signature_over_the_signed_bytes() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let report = tee.evidence(&ReportData([7; 64])).expect("Evidence").report;
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();

    std::fs::write(path("vek.pem"), pem(&tee.chip().certificate)).expect("written");
    let (good, public) = openssl(&["x509", "-in", &path("vek.pem"), "-noout", "-pubkey"]);
    assert!(good, "{public}");
    std::fs::write(path("public.pem"), public).expect("written");

    // The report carries R and S little-endian; openssl reads an ASN.1 ECDSA-Sig-Value.
    let integer = |at: usize| {
        let mut big: Vec<u8> = report[at..at + SIGNATURE_PART_LEN].iter().rev().copied().collect();
        let zeros = big.iter().take_while(|byte| **byte == 0).count();
        big.drain(..zeros);
        if big[0] & 0x80 != 0 {
            big.insert(0, 0);
        }
        [&[0x02, big.len() as u8][..], &big].concat()
    };
    let both = [integer(SIGNED_LEN), integer(SIGNED_LEN + SIGNATURE_PART_LEN)].concat();
    std::fs::write(path("signature"), [&[0x30, both.len() as u8][..], &both].concat()).expect("written");
    for (flip, wanted) in [(None, true), (Some(0x90), false)] {
        let mut signed = report[..SIGNED_LEN].to_vec();
        if let Some(at) = flip {
            signed[at] ^= 1;
        }
        std::fs::write(path("signed"), signed).expect("written");
        let (good, said) = openssl(&[
            "dgst",
            "-sha384",
            "-verify",
            &path("public.pem"),
            "-signature",
            &path("signature"),
            &path("signed"),
        ]);
        assert_eq!(good, wanted, "{said}");
    }
}

#[test]
fn a_report_has_the_length_and_the_fields_of_the_abi() {
    let tee = SoftwareTee::shared().expect("a software TEE");
    let report = tee.evidence(&ReportData([9; 64])).expect("Evidence").report;
    assert_eq!(report.len(), REPORT_LEN);
    assert_eq!(report[..4], [3, 0, 0, 0]);
    assert_eq!(report[0x50..0x90], [9; 64]);
    assert_eq!(report[0x90..0xc0], DANGEROUS_SOFTWARE_MEASUREMENT);
    assert_eq!(report[0x180..0x188], Tcb::of(Product::Milan).encode());
    assert!(
        report[0x330..].iter().all(|byte| *byte == 0),
        "bytes after S are outside the signature and zero"
    );
}

#[test]
fn opening_a_second_time_gives_the_same_root_and_private_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let first = SoftwareTee::open(dir.path()).expect("made");
    let second = SoftwareTee::open(dir.path()).expect("read");
    assert_eq!(first.root_spki_sha256(), second.root_spki_sha256());
    assert_ne!(first.root_spki_sha256(), SoftwareTee::shared().expect("another").root_spki_sha256());
    let homes: Vec<_> =
        std::fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(homes.len(), 1, "nothing is left behind beside the PKI: {homes:?}");
    for entry in std::fs::read_dir(&homes[0]).expect("listed") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", entry.path().display());
    }
}
