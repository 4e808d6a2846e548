//! Several endorsements of one TDX platform at hand: which is used, and that each list among them counts. Evidence is made
//! under a fixture root. NOT HARDWARE.

#[path = "../../tests/src/software_tee/tdx/fixture.rs"]
mod tdx_fixture;

use provenance::evidence::{Evidence, Platform};
use provenance::tdx_endorsements::TdxEndorsements;
use serde_json::json;
use tdx_fixture::{Keys, PCK_CA_SERIAL, PCK_SERIAL, Recipe, SIGNER_SERIAL, now};
use verifier::evidence::{AuthenticationError, TooManyEndorsements};
use verifier::given::MAX_TDX;
use verifier::rejection::Class;
use verifier::roots::{Anchors, Revocation};
use verifier::tdx::{CertificateName, CrlName, Document, TcbStatus, TdxError};
use verifier::x509::CertificateError;
use verifier::{Endorsements, Reason};

/// Seconds of a day long before the fixture's time.
const LAST_YEAR: (u64, u64) = (1_735_689_600, 1_738_281_600);

/// One platform under a root of its own.
struct World {
    keys: Keys,
    quote: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let recipe = Recipe::default();
        let keys = Keys::generate(recipe.pck_key);
        let quote = recipe.quote(&keys, &recipe.issue(&keys).pck_chain);
        Self { keys, quote }
    }

    /// Endorsements that change one thing of the usual recipe.
    fn set(&self, change: impl FnOnce(&mut Recipe)) -> TdxEndorsements {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        recipe.issue(&self.keys).endorsements
    }

    /// Endorsements in which Intel says something else of the platform than in the usual recipe.
    fn outdated(&self, change: impl FnOnce(&mut Recipe)) -> TdxEndorsements {
        self.set(|recipe| {
            recipe.tcb_info["tcbLevels"][0]["tcbStatus"] = json!("OutOfDate");
            change(recipe);
        })
    }

    fn status(
        &self,
        sent: Option<&TdxEndorsements>,
        given: &[&TdxEndorsements],
    ) -> Result<TcbStatus, TdxError> {
        let evidence = Evidence {
            platform: Platform::Tdx,
            report: self.quote.clone(),
            endorsements: sent.map(TdxEndorsements::encode).unwrap_or_default(),
        };
        let extra =
            Endorsements { tdx: given.iter().map(|set| (*set).clone()).collect(), ..Endorsements::default() };
        let root = self.keys.root_spki_sha256();
        let anchors = Anchors::vendor(&[], Revocation::CrlIfPresent).dangerous_with_roots(&[root]);
        match verifier::authenticate(&evidence, &extra, &anchors, now()) {
            Ok(authentic) => Ok(authentic.tdx().expect("a TDX quote").tcb().status),
            Err(AuthenticationError::Tdx(error)) => Err(error),
            Err(other) => panic!("not an error of TDX: {other:?}"),
        }
    }
}

/// Another evaluation number in both documents.
fn numbered(recipe: &mut Recipe, number: u32) {
    for document in [&mut recipe.tcb_info, &mut recipe.qe_identity] {
        document["tcbEvaluationDataNumber"] = json!(number);
    }
}

#[test]
fn the_newest_given_is_used_in_whatever_order_they_are_given() {
    let world = World::new();
    let usual = world.set(|_| ());
    for (newer, what) in [
        (world.outdated(|recipe| numbered(recipe, 19)), "evaluation number"),
        (world.outdated(|recipe| recipe.tcb_info["issueDate"] = json!("2026-02-19T00:00:00Z")), "issue date"),
        (
            world.outdated(|recipe| recipe.qe_identity["issueDate"] = json!("2026-02-19T00:00:00Z")),
            "issue date of the QE identity",
        ),
        (
            world.outdated(|recipe| recipe.qe_identity["tcbEvaluationDataNumber"] = json!(19)),
            "evaluation number of the QE identity",
        ),
    ] {
        assert_eq!(world.status(None, &[&usual, &newer]), Ok(TcbStatus::OutOfDate), "{what}");
        assert_eq!(world.status(None, &[&newer, &usual]), Ok(TcbStatus::OutOfDate), "{what}");
    }
    let older = world.outdated(|recipe| numbered(recipe, 17));
    assert_eq!(world.status(None, &[&older, &usual]), Ok(TcbStatus::UpToDate));
    // A lower number of a later day is what Intel says to those who have not updated yet.
    let late = world.outdated(|recipe| {
        numbered(recipe, 17);
        recipe.tcb_info["issueDate"] = json!("2026-02-28T00:00:00Z");
    });
    assert_eq!(world.status(None, &[&late, &usual]), Ok(TcbStatus::UpToDate));
}

#[test]
fn where_the_newest_knows_no_level_for_the_platform_no_older_one_is_asked() {
    let world = World::new();
    let usual = world.set(|_| ());
    let newest = world.set(|recipe| {
        numbered(recipe, 19);
        recipe.tcb_info["tcbLevels"][0]["tcb"]["pcesvn"] = json!(12);
    });
    for given in [[&usual, &newest], [&newest, &usual]] {
        let answer = world.status(Some(&usual), &given);
        assert!(matches!(answer, Err(TdxError::NoTcbLevel { .. })), "{answer:?}");
    }
}

#[test]
fn what_says_that_it_is_newest_and_is_not_authentic_or_current_is_passed_over() {
    let world = World::new();
    let usual = world.set(|_| ());
    let numbered_more = |recipe: &mut Recipe| numbered(recipe, 99);
    let mut altered = world.outdated(numbered_more);
    altered.tcb_info = String::from_utf8(altered.tcb_info).expect("JSON").replace(":99", ":98").into_bytes();
    for (what, newest) in [
        ("altered", altered),
        ("of another root", World::new().outdated(numbered_more)),
        (
            "expired",
            world.outdated(|recipe| {
                numbered_more(recipe);
                recipe.tcb_info["nextUpdate"] = json!("2026-02-20T00:00:00Z");
            }),
        ),
        (
            "with old lists",
            world.outdated(|recipe| {
                numbered_more(recipe);
                recipe.crl_updates = LAST_YEAR;
            }),
        ),
    ] {
        assert_eq!(world.status(None, &[&newest, &usual]), Ok(TcbStatus::UpToDate), "{what}");
        assert_eq!(world.status(None, &[&usual, &newest]), Ok(TcbStatus::UpToDate), "{what}");
        // Nor does it stand in the way of what came with the Evidence.
        assert_eq!(world.status(Some(&usual), &[&newest]), Ok(TcbStatus::UpToDate), "{what}");
        // Alone it is refused for what it is.
        assert!(world.status(None, &[&newest]).is_err(), "{what}");
    }
}

#[test]
fn what_was_sent_can_neither_replace_nor_break_what_is_given() {
    let world = World::new();
    let usual = world.set(|_| ());
    let newer = world.outdated(|recipe| numbered(recipe, 19));
    assert_eq!(world.status(Some(&newer), &[&usual]), Ok(TcbStatus::UpToDate));
    assert_eq!(world.status(Some(&usual), &[&newer]), Ok(TcbStatus::OutOfDate));
    let other_root = World::new().set(|_| ());
    let empty = TdxEndorsements {
        tcb_info: vec![],
        tcb_info_issuer_chain: vec![],
        qe_identity: vec![],
        qe_identity_issuer_chain: vec![],
        root_ca_crl: vec![],
        pck_crl: vec![],
    };
    let other_platform = world.set(|recipe| recipe.tcb_info["fmspc"] = json!("CDCDCDCDCDCD"));
    for sent in [&other_root, &empty, &other_platform] {
        assert_eq!(world.status(Some(sent), &[&usual]), Ok(TcbStatus::UpToDate));
        assert!(world.status(Some(sent), &[]).is_err());
    }
    // Where none is of use, the error is that of the newest given.
    let old = world.set(|recipe| recipe.crl_updates = LAST_YEAR);
    let answer = world.status(Some(&other_root), &[&old]);
    let expired = matches!(
        answer,
        Err(TdxError::Crl { which: CrlName::Root, error: CertificateError::Expired { .. } })
    );
    assert!(expired, "{answer:?}");
}

#[test]
fn every_list_at_hand_is_believed_about_each_certificate() {
    let world = World::new();
    let usual = world.set(|_| ());
    type Revoke = fn(&mut Recipe);
    let cases: [(CertificateName, Revoke); 3] = [
        (CertificateName::PckCa, |recipe| recipe.revoked_by_root = vec![PCK_CA_SERIAL]),
        (CertificateName::Pck, |recipe| recipe.revoked_by_pck_ca = vec![PCK_SERIAL]),
        (CertificateName::TcbSigning(Document::TcbInfo), |recipe| {
            recipe.revoked_by_root = vec![SIGNER_SERIAL];
        }),
    ];
    for (which, revoke) in cases {
        let revoked = Err(TdxError::Revoked { which });
        for (list, what) in [
            (world.set(revoke), "current"),
            (
                world.set(|recipe| {
                    revoke(recipe);
                    recipe.crl_updates = LAST_YEAR;
                }),
                "old",
            ),
            (
                world.set(|recipe| {
                    revoke(recipe);
                    recipe.tcb_info["fmspc"] = json!("CDCDCDCDCDCD");
                }),
                "beside another platform's documents",
            ),
        ] {
            assert_eq!(world.status(None, &[&usual, &list]), revoked, "{what}, given last");
            assert_eq!(world.status(None, &[&list, &usual]), revoked, "{what}, given first");
            assert_eq!(world.status(Some(&usual), &[&list]), revoked, "{what}, given beside what was sent");
            assert_eq!(world.status(Some(&list), &[&usual]), revoked, "{what}, sent beside what is given");
        }
    }
    // A list of another authority of the same name revokes nothing, and one of other serial numbers neither.
    let foreign = World::new().set(|recipe| recipe.revoked_by_root = vec![PCK_CA_SERIAL, SIGNER_SERIAL]);
    assert_eq!(world.status(Some(&usual), &[&foreign]), Ok(TcbStatus::UpToDate));
    assert_eq!(world.status(Some(&foreign), &[&usual]), Ok(TcbStatus::UpToDate));
}

#[test]
fn more_than_are_looked_at_is_an_error_and_the_last_one_counts() {
    let world = World::new();
    let usual = world.set(|_| ());
    let revoking = world.set(|recipe| recipe.revoked_by_pck_ca = vec![PCK_SERIAL]);
    let mut given = vec![&usual; MAX_TDX - 1];
    assert_eq!(world.status(None, &given), Ok(TcbStatus::UpToDate));
    given.push(&revoking);
    assert_eq!(world.status(None, &given), Err(TdxError::Revoked { which: CertificateName::Pck }));
    given.push(&usual);
    let (what, got, limit) = ("endorsements of TDX platforms", MAX_TDX + 1, MAX_TDX);
    let too_many = TdxError::TooMany(TooManyEndorsements { what, got, limit });
    assert_eq!(world.status(None, &given), Err(too_many.clone()));
    let reason = Reason::from(AuthenticationError::from(too_many));
    assert_eq!(reason.class(), Class::Endorsements);
    assert_eq!(reason.advice(), ["give the endorsements of this platform alone, from a folder of their own"]);
}
