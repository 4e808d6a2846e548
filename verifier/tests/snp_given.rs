//! AMD's own certificates as a folder that `endorsements fetch` filled for several machines: a genuine report is authentic
//! with whatever stands beside its chain.

mod se_support;

use provenance::evidence::{Evidence, Platform, certificate_table};
use provenance::timestamp::Timestamp;
use se_support::{cases, der, input, now, vectors};
use verifier::Endorsements;
use verifier::evidence::AuthenticationError;
use verifier::roots::{Anchors, Revocation};
use verifier::snp::{CertificateName, Product, SnpError};
use verifier::x509::CertificateError;

/// A genuine report and certificates, DER.
struct World {
    report: Vec<u8>,
    vcek: Vec<u8>,
    /// ASK and ARK.
    chain: Vec<Vec<u8>>,
    another_vcek: Vec<u8>,
    genoa: Vec<Vec<u8>>,
    now: Timestamp,
}

fn chain(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(pem).expect("PEM");
    let blocks = text.split_inclusive("-----END CERTIFICATE-----").filter(|part| part.contains("BEGIN"));
    blocks.map(|block| der(block.trim().as_bytes())).collect()
}

impl World {
    fn new() -> Option<Self> {
        let dir = vectors()?;
        let all = cases(&dir, "snp");
        let of = |id: &str| all.iter().find(|case| case["id"] == id).expect("the case");
        let case = of("snp-milan-v3");
        Some(Self {
            report: input(&dir, case, "report"),
            vcek: der(&input(&dir, case, "vek")),
            chain: chain(&input(&dir, case, "chain")),
            another_vcek: der(&input(&dir, of("snp-neg-swapped-vcek"), "vek")),
            genoa: chain(&input(&dir, of("snp-genoa-v3"), "chain")),
            now: now(case),
        })
    }

    fn table(&self, vcek: &[u8]) -> Vec<u8> {
        certificate_table::encode(&[
            (certificate_table::VCEK, vcek),
            (certificate_table::ASK, &self.chain[0]),
            (certificate_table::ARK, &self.chain[1]),
        ])
    }

    fn judge(&self, table: Vec<u8>, certificates: &[&Vec<u8>], crls: &[&Vec<u8>]) -> Result<(), SnpError> {
        self.judge_under(&Product::ALL, table, certificates, crls)
    }

    /// Where only the roots of these products are accepted.
    fn judge_under(
        &self,
        products: &[Product],
        table: Vec<u8>,
        certificates: &[&Vec<u8>],
        crls: &[&Vec<u8>],
    ) -> Result<(), SnpError> {
        let owned = |all: &[&Vec<u8>]| all.iter().map(|der| (*der).clone()).collect();
        let given =
            Endorsements { certificates: owned(certificates), crls: owned(crls), ..Endorsements::default() };
        let evidence =
            Evidence { platform: Platform::SevSnp, report: self.report.clone(), endorsements: table };
        let anchors = Anchors::vendor(products, Revocation::CrlIfPresent);
        match verifier::authenticate(&evidence, &given, &anchors, self.now) {
            Ok(_) => Ok(()),
            Err(AuthenticationError::Snp(error)) => Err(error),
            Err(other) => panic!("not an error of SEV-SNP: {other:?}"),
        }
    }
}

#[test]
fn a_genuine_report_is_authentic_with_its_chain_among_those_of_other_machines() {
    let Some(world) = World::new() else { return };
    let [ask, ark] = &world.chain[..] else { panic!("two certificates") };
    let [genoa_ask, genoa_ark] = &world.genoa[..] else { panic!("two certificates") };
    let mut folder = vec![genoa_ask, genoa_ark, &world.another_vcek, &world.vcek, ask, ark];
    assert_eq!(world.judge(Vec::new(), &folder, &[]), Ok(()));
    folder.reverse();
    assert_eq!(world.judge(Vec::new(), &folder, &[]), Ok(()));
    // A bare DER file is offered as certificate and as list.
    assert_eq!(world.judge(world.table(&world.vcek), &folder, &folder), Ok(()));
    // A table that is another chip's is healed by the right VCEK alone.
    let other = world.table(&world.another_vcek);
    let refused = world.judge(other.clone(), &[], &[]);
    assert!(matches!(refused, Err(SnpError::OtherChip { .. })), "{refused:?}");
    assert_eq!(world.judge(other, &[&world.vcek], &[]), Ok(()));
    // Only what is missing is missing.
    let missing = |which| Err(SnpError::MissingCertificate { which });
    let without = |left_out: &Vec<u8>| -> Vec<&Vec<u8>> {
        folder.iter().copied().filter(|der| *der != left_out).collect()
    };
    assert_eq!(world.judge(Vec::new(), &without(&world.vcek), &[]), missing(CertificateName::Vcek));
    assert_eq!(world.judge(Vec::new(), &without(ask), &[]), missing(CertificateName::Ask));
    assert_eq!(world.judge(Vec::new(), &without(ark), &[]), missing(CertificateName::Ark));
}

#[test]
fn a_vendors_root_counts_only_where_the_policy_accepts_it() {
    let Some(world) = World::new() else { return };
    let judge = |products: &[Product]| world.judge_under(products, world.table(&world.vcek), &[], &[]);
    assert_eq!(judge(&[Product::Milan]), Ok(()));
    let refused = Err(SnpError::RootNotAccepted { got: Product::Milan });
    assert_eq!(judge(&[Product::Genoa, Product::Turin]), refused);
    assert_eq!(judge(&[]), refused);
}

/// The same machine's certificate of another time, and the one that was given twice.
#[test]
fn of_several_certificates_of_the_chip_the_one_that_signed_is_taken() {
    let Some(world) = World::new() else { return };
    let [ask, ark] = &world.chain[..] else { panic!("two certificates") };
    // One bit of the key's last byte: chip and TCB are the same, the signature tells.
    let key = world.vcek.windows(2).position(|pair| pair == [0x00, 0x04]).expect("an uncompressed point");
    let mut namesake = world.vcek.clone();
    namesake[key + 1 + 96] ^= 1;
    for given in [[&namesake, &world.vcek], [&world.vcek, &namesake], [&world.vcek, &world.vcek]] {
        let certificates = [given[0], given[1], ask, ark];
        assert_eq!(world.judge(Vec::new(), &certificates, &[]), Ok(()));
        assert_eq!(world.judge(world.table(&namesake), &certificates, &[]), Ok(()));
    }
    assert_eq!(world.judge(world.table(&world.vcek), &[&namesake], &[]), Ok(()));
    // An intermediate of the same name and another key: one bit of its modulus.
    let modulus = ask.windows(4).position(|four| four == [0x02, 0x82, 0x02, 0x01]).expect("a modulus");
    let mut another_ask = ask.clone();
    another_ask[modulus + 100] ^= 1;
    assert_eq!(world.judge(Vec::new(), &[&world.vcek, &another_ask, ask, ark], &[]), Ok(()));
    let refused = world.judge(world.table(&namesake), &[], &[]);
    assert!(
        matches!(refused, Err(SnpError::Certificate { which: CertificateName::Vcek, .. })),
        "{refused:?}"
    );
}

/// A damaged copy has the key that signed the report or what is below, and its names.
#[test]
fn a_damaged_copy_of_a_certificate_hides_no_whole_one() {
    let Some(world) = World::new() else { return };
    let [ask, ark] = &world.chain[..] else { panic!("two certificates") };
    let damaged = |der: &Vec<u8>| {
        let mut copy = der.clone();
        *copy.last_mut().expect("a signature") ^= 1;
        copy
    };
    let vcek = damaged(&world.vcek);
    assert_eq!(world.judge(world.table(&world.vcek), &[&vcek], &[]), Ok(()));
    assert_eq!(world.judge(world.table(&vcek), &[&world.vcek], &[]), Ok(()));
    for given in [[&vcek, &world.vcek], [&world.vcek, &vcek]] {
        assert_eq!(world.judge(world.table(&vcek), &given, &[]), Ok(()));
        assert_eq!(world.judge(Vec::new(), &[given[0], given[1], ask, ark], &[]), Ok(()));
    }
    // Those above it too.
    let (other_ask, other_ark) = (damaged(ask), damaged(ark));
    let certificates = [&vcek, &world.vcek, &other_ask, &other_ark, ask, ark];
    assert_eq!(world.judge(Vec::new(), &certificates, &[]), Ok(()));
    let table = certificate_table::encode(&[
        (certificate_table::VCEK, &world.vcek),
        (certificate_table::ASK, &other_ask),
        (certificate_table::ARK, &other_ark),
    ]);
    assert_eq!(world.judge(table, &[ask, ark], &[]), Ok(()));
    // Where there is no whole one, that is what is wrong.
    let error = CertificateError::Signature { issuer: "SEV-Milan".to_owned() };
    let refused = Err(SnpError::Certificate { which: CertificateName::Vcek, error });
    assert_eq!(world.judge(world.table(&vcek), &[], &[]), refused);
    assert_eq!(world.judge(Vec::new(), &[&vcek, ask, ark], &[]), refused);
}

#[test]
fn a_vlek_names_the_cloud_provider() {
    let Some(dir) = vectors() else { return };
    let all = cases(&dir, "snp");
    let csp = |id: &str| {
        let case = all.iter().find(|case| case["id"] == id).expect("the case");
        let certificates =
            [vec![der(&input(&dir, case, "vek"))], chain(&input(&dir, case, "chain"))].concat();
        let given = Endorsements { certificates, ..Endorsements::default() };
        let report = input(&dir, case, "report");
        let evidence = Evidence { platform: Platform::SevSnp, report, endorsements: Vec::new() };
        let anchors = Anchors::vendor(&Product::ALL, Revocation::CrlIfPresent);
        let authentic = verifier::authenticate(&evidence, &given, &anchors, now(case)).expect("authentic");
        authentic.snp().expect("a report").csp_id().map(str::to_owned)
    };
    assert_eq!(csp("snp-milan-v3"), None);
    assert_eq!(csp("snp-milan-v3-vlek"), Some("CN=cc-us-east-2.amazonaws.com".to_owned()));
}
