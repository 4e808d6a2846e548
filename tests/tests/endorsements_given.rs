//! A folder of endorsements given beside SEV-SNP Evidence: what is right heals, what is of other machines or vendors does
//! no harm, and nothing of it makes anything accepted that is not. NOT HARDWARE: reports are the software TEE's.

use provenance::binding::ReportData;
use provenance::evidence::{Evidence, certificate_table};
use provenance::timestamp::Timestamp;
use sealwright_tests::software_tee::se::SoftwareSe;
use sealwright_tests::software_tee::tdx::SoftwareTdx;
use sealwright_tests::software_tee::{ASK_SERIAL, Chip, Product, SoftwareTee, Tcb, Validity, VekContents};
use verifier::evidence::{AuthenticationError, TooManyEndorsements};
use verifier::given::{MAX_CERTIFICATES, MAX_LISTS};
use verifier::roots::{Anchors, Revocation};
use verifier::snp::{CertificateName, SnpError};
use verifier::x509::CertificateError;
use verifier::{Class, Endorsements, Reason, authenticate};

const DATA: ReportData = ReportData([5; 64]);

fn now() -> Timestamp {
    let seconds = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    Timestamp::from_unix(i64::try_from(seconds).expect("before 9999")).expect("before 9999")
}

fn days_from_now(days: i64) -> Timestamp {
    Timestamp::from_unix(now().unix() + days * 86_400).expect("before 9999")
}

fn fresh() -> Validity {
    Validity { not_before: days_from_now(-1), not_after: days_from_now(30) }
}

/// The persistent chip's report, and certificates to give.
struct World {
    tee: SoftwareTee,
    report: Vec<u8>,
    vcek: Vec<u8>,
    ask: Vec<u8>,
    ark: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let tee = SoftwareTee::shared().expect("a software TEE");
        let evidence = tee.chip().evidence(&DATA, |_| ());
        let [vcek, ask, ark] = certificates(tee.chip());
        Self { tee, report: evidence.report, vcek, ask, ark }
    }

    /// A certificate that somebody else's chip has, or that is altered.
    fn other(&self, alter: impl FnOnce(&mut VekContents)) -> Vec<u8> {
        let tcb = Tcb::of(Product::Milan);
        self.tee.new_chip(Product::Milan, tcb, alter).expect("a chip").certificate
    }

    /// What the same chip had before its firmware was updated.
    fn outdated(&self) -> Vec<u8> {
        let tcb = Tcb { snp: 0x17, ..Tcb::of(Product::Milan) };
        let tee = SoftwareTee::shared().and_then(|tee| tee.with_tcb(tcb)).expect("a software TEE");
        tee.chip().certificate.clone()
    }

    /// The same names, chip and TCB as the persistent chip's VCEK has, with another key.
    fn forged(&self) -> Vec<u8> {
        let hwid = self.tee.chip().fields(&DATA).chip_id.to_vec();
        self.other(|contents| {
            let id = contents.extensions.iter_mut().find(|(oid, _)| oid.ends_with("3704.1.4"));
            id.expect("hwID").1 = hwid;
        })
    }

    fn whole_table(&self) -> Vec<u8> {
        self.table(&self.vcek)
    }

    fn table(&self, vcek: &[u8]) -> Vec<u8> {
        certificate_table::encode(&[
            (certificate_table::VCEK, vcek),
            (certificate_table::ASK, &self.ask),
            (certificate_table::ARK, &self.ark),
        ])
    }

    fn judge(&self, table: &[u8], extra: &Endorsements, rule: Revocation) -> Result<(), SnpError> {
        self.judge_report(&self.report, table, extra, rule)
    }

    fn judge_report(
        &self,
        report: &[u8],
        table: &[u8],
        extra: &Endorsements,
        rule: Revocation,
    ) -> Result<(), SnpError> {
        let template = self.tee.chip().evidence(&DATA, |_| ());
        let evidence = Evidence { report: report.to_vec(), endorsements: table.to_vec(), ..template };
        let anchors = Anchors::vendor(&[], rule).dangerous_with_roots(&[self.tee.root_spki_sha256()]);
        match authenticate(&evidence, extra, &anchors, now()) {
            Ok(_) => Ok(()),
            Err(AuthenticationError::Snp(error)) => Err(error),
            Err(other) => panic!("not an error of SEV-SNP: {other:?}"),
        }
    }

    fn with(&self, table: &[u8], certificates: &[&[u8]]) -> Result<(), SnpError> {
        self.judge(table, &given(certificates), Revocation::CrlIfPresent)
    }
}

/// VCEK or VLEK, intermediate and root of a chip.
fn certificates(chip: &Chip) -> [Vec<u8>; 3] {
    let table = certificate_table::parse(&chip.endorsements()).expect("a table");
    let of = |guid| table[guid].clone();
    [chip.certificate.clone(), of(&certificate_table::ASK), of(&certificate_table::ARK)]
}

fn given(certificates: &[&[u8]]) -> Endorsements {
    let certificates = certificates.iter().map(|der| der.to_vec()).collect();
    Endorsements { certificates, ..Endorsements::default() }
}

fn lists(crls: &[&[u8]]) -> Endorsements {
    Endorsements { crls: crls.iter().map(|der| der.to_vec()).collect(), ..Endorsements::default() }
}

fn class(error: SnpError) -> Class {
    Reason::from(AuthenticationError::from(error)).class()
}

#[test]
fn the_right_vcek_given_heals_a_table_with_another() {
    let world = World::new();
    for (what, vcek, error) in [
        ("of another chip", world.other(|_| ()), "OtherChip"),
        ("of an older TCB", world.outdated(), "OtherTcb"),
        ("no certificate", vec![1, 2, 3], "Certificate"),
    ] {
        let table = world.table(&vcek);
        let alone = world.with(&table, &[]).expect_err(what);
        assert!(format!("{alone:?}").starts_with(error), "{what}: {alone:?}");
        assert_eq!(world.with(&table, &[&world.vcek]), Ok(()), "{what}");
        // Given ones that do not fit leave today's error as it is.
        assert_eq!(world.with(&table, &[&world.other(|_| ())]), Err(alone), "{what}");
    }
}

#[test]
fn of_many_certificates_given_the_ones_of_this_report_are_chosen_in_whatever_order() {
    let world = World::new();
    let [other_ask, other_ark] = world.tee.impostors().expect("other authorities");
    let vlek = world.tee.new_vlek(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a VLEK");
    let genoa = world.tee.new_chip(Product::Genoa, Tcb::of(Product::Genoa), |_| ()).expect("a chip");
    let [vlek, asvk, _] = certificates(&vlek);
    let (other, outdated, forged) = (world.other(|_| ()), world.outdated(), world.forged());
    let mut folder: Vec<&[u8]> = vec![
        &other,
        &outdated,
        &forged,
        &genoa.certificate,
        &vlek,
        &asvk,
        &other_ask,
        &other_ark,
        &world.vcek,
        &world.ask,
        &world.ark,
    ];
    assert_eq!(world.with(&[], &folder), Ok(()));
    folder.reverse();
    assert_eq!(world.with(&[], &folder), Ok(()));
    // Nor does the folder break what came whole, or lacks one.
    assert_eq!(world.with(&world.whole_table(), &folder), Ok(()));
    assert_eq!(world.with(&world.whole_table(), &[&forged, &other_ask, &other_ark]), Ok(()));
    let no_ask = certificate_table::encode(&[
        (certificate_table::VCEK, &world.vcek),
        (certificate_table::ARK, &world.ark),
    ]);
    assert_eq!(world.with(&no_ask, &folder), Ok(()));
    // What is missing among many is missing.
    let missing = |which| Err(SnpError::MissingCertificate { which });
    let (vcek, ask, ark) = (&world.vcek[..], &world.ask[..], &world.ark[..]);
    assert_eq!(world.with(&[], &[&other, &genoa.certificate, ask, ark]), missing(CertificateName::Vcek));
    assert_eq!(world.with(&[], &[vcek, &asvk, ark]), missing(CertificateName::Ask));
    assert_eq!(world.with(&[], &[vcek, ask, &asvk]), missing(CertificateName::Ark));
    assert_eq!(class(SnpError::MissingCertificate { which: CertificateName::Vcek }), Class::Endorsements);
}

#[test]
fn of_two_vleks_the_one_that_signed_the_report_is_chosen() {
    let world = World::new();
    let vlek = || world.tee.new_vlek(Product::Milan, Tcb::of(Product::Milan), |_| ()).expect("a VLEK");
    let (one, other) = (vlek(), vlek());
    let report = one.evidence(&DATA, |_| ()).report;
    let [own, asvk, ark] = certificates(&one);
    let judge = |certificates: &[&[u8]]| {
        world.judge_report(&report, &[], &given(certificates), Revocation::CrlIfPresent)
    };
    assert_eq!(judge(&[&other.certificate, &own, &world.ask, &asvk, &ark]), Ok(()));
    assert_eq!(judge(&[&own, &other.certificate, &asvk, &world.ask, &ark]), Ok(()));
    let missing = SnpError::MissingCertificate { which: CertificateName::Vlek };
    assert_eq!(judge(&[&world.vcek, &asvk, &ark]), Err(missing));
    let signature = SnpError::Signature { which: CertificateName::Vlek };
    assert_eq!(judge(&[&other.certificate, &asvk, &ark]), Err(signature));
}

#[test]
fn what_is_given_is_authenticated_like_any_other() {
    let world = World::new();
    let [other_ask, other_ark] = world.tee.impostors().expect("other authorities");
    let (vcek, ask, ark) = (&world.vcek[..], &world.ask[..], &world.ark[..]);
    let signature = |which| SnpError::Signature { which };
    assert_eq!(
        world.with(&[], &[&world.forged(), ask, ark]),
        Err(signature(CertificateName::Vcek)),
        "a certificate of this chip with another key"
    );
    let got = world.with(&[], &[&world.outdated(), ask, ark]).expect_err("an older TCB");
    assert!(matches!(got, SnpError::OtherTcb { .. }), "{got}");
    let by_issuer = |got: &Result<(), SnpError>, wanted: CertificateName| matches!(got, Err(SnpError::Certificate { which, error: CertificateError::Signature { .. } }) if *which == wanted);
    let got = world.with(&[], &[vcek, &other_ask, ark]);
    assert!(by_issuer(&got, CertificateName::Ask), "{got:?}");
    let got = world.with(&[], &[vcek, &other_ask, &other_ark]);
    assert!(matches!(got, Err(SnpError::UnknownRoot { .. })), "{got:?}");
    let got = world.with(&[], &[vcek, ask, &other_ark]);
    assert!(matches!(got, Err(SnpError::UnknownRoot { .. })), "{got:?}");
    let mut altered = world.report.clone();
    altered[0x90] ^= 1;
    let folder = given(&[vcek, ask, ark]);
    for table in [&world.whole_table()[..], &[]] {
        let got = world.judge_report(&altered, table, &folder, Revocation::CrlIfPresent);
        assert_eq!(got, Err(signature(CertificateName::Vcek)));
    }
}

#[test]
fn of_the_same_certificate_twice_the_valid_one_is_chosen() {
    let world = World::new();
    let validity = Validity { not_before: days_from_now(-9), not_after: days_from_now(-8) };
    let old = world.tee.reissued(|contents| contents.validity = validity);
    let expired = |got: &Result<(), SnpError>| {
        matches!(got, Err(SnpError::Certificate { error: CertificateError::Expired { .. }, .. }))
    };
    assert!(expired(&world.with(&world.table(&old), &[])));
    assert_eq!(world.with(&world.table(&old), &[&world.vcek]), Ok(()));
    assert_eq!(world.with(&world.whole_table(), &[&old]), Ok(()));
    assert_eq!(world.with(&[], &[&old, &world.vcek, &world.ask, &world.ark]), Ok(()));
    assert!(expired(&world.with(&[], &[&old, &world.ask, &world.ark])));
}

#[test]
fn lists_of_others_and_what_is_no_list_say_nothing() {
    let world = World::new();
    let (of_ask, revoking) = (
        world.tee.revocation_list_of_the_ask(&[ASK_SERIAL], fresh()),
        world.tee.revocation_list(&[ASK_SERIAL], fresh()),
    );
    let good = world.tee.revocation_list(&[], fresh());
    let tdx = SoftwareTdx::shared().expect("a software TD").endorsements().clone();
    let se = SoftwareSe::shared().expect("a software machine");
    let others: Vec<&[u8]> = vec![
        &of_ask,
        &tdx.root_ca_crl,
        &tdx.pck_crl,
        &se.documents.crls[0],
        // A bare DER file is offered as certificate and as list.
        &world.vcek,
        &world.ark,
        &[1, 2, 3],
    ];
    let table = world.whole_table();
    let judge = |crls: &[&[u8]], rule| world.judge(&table, &lists(crls), rule);
    for other in &others {
        assert_eq!(judge(&[other], Revocation::CrlIfPresent), Ok(()));
        assert_eq!(judge(&[other], Revocation::CrlRequired), Err(SnpError::CrlMissing));
    }
    let among = |list: &'_ [u8]| -> Vec<Vec<u8>> {
        others.iter().map(|der| der.to_vec()).chain([list.to_vec()]).collect()
    };
    let revoked = Err(SnpError::Revoked { which: CertificateName::Ask });
    for rule in [Revocation::CrlIfPresent, Revocation::CrlRequired] {
        let crls = |list| Endorsements { crls: among(list), ..Endorsements::default() };
        assert_eq!(world.judge(&table, &crls(&good), rule), Ok(()));
        assert_eq!(world.judge(&table, &crls(&revoking), rule), revoked);
        // One that names the root and is not signed by it is no matter of another machine.
        let mut altered = good.clone();
        *altered.last_mut().expect("not empty") ^= 1;
        let got = world.judge(&table, &crls(&altered), rule);
        assert!(matches!(got, Err(SnpError::Crl(CertificateError::Signature { .. }))), "{got:?}");
    }
}

#[test]
fn more_than_are_looked_at_is_an_error_and_the_last_one_counts() {
    let world = World::new();
    let table = world.whole_table();
    let judge = |extra: &Endorsements| world.judge(&table, extra, Revocation::CrlIfPresent);
    let good = world.tee.revocation_list(&[], fresh());
    let revoking = world.tee.revocation_list(&[ASK_SERIAL], fresh());
    let mut crls = vec![good; MAX_LISTS - 1];
    crls.push(revoking);
    let mut extra = Endorsements { crls, ..Endorsements::default() };
    assert_eq!(judge(&extra), Err(SnpError::Revoked { which: CertificateName::Ask }));
    extra.crls.push(vec![]);
    let too_many = |what, limit| SnpError::TooMany(TooManyEndorsements { what, got: limit + 1, limit });
    let error = too_many("revocation lists", MAX_LISTS);
    assert_eq!(judge(&extra), Err(error.clone()));
    let reason = Reason::from(AuthenticationError::from(error));
    assert_eq!(reason.class(), Class::Endorsements);
    assert_eq!(reason.advice(), ["give the endorsements of this platform alone, from a folder of their own"]);

    let mut certificates = vec![world.ask.clone(); MAX_CERTIFICATES - 1];
    certificates.push(world.vcek.clone());
    let mut extra = Endorsements { certificates, ..Endorsements::default() };
    let other = world.table(&world.outdated());
    assert_eq!(world.judge(&other, &extra, Revocation::CrlIfPresent), Ok(()), "the last is found");
    extra.certificates.push(vec![]);
    assert_eq!(judge(&extra), Err(too_many("certificates", MAX_CERTIFICATES)));
}
