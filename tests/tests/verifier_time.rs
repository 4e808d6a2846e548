//! When a build was signed: timestamps made with `openssl ts`, each check of them failed by one change, and what judging
//! as of a proven time means. NOT HARDWARE: reports are the software TEE's.

#[path = "verifier_support/stamps.rs"]
mod stamps;
#[path = "verifier_support/mod.rs"]
mod support;
#[path = "verifier_support/world.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod world;

use provenance::digest::Sha256Digest;
use provenance::sigstore::parse_bundle;
use provenance::timestamp::Timestamp;
use sealwright_tests::timestamping::{
    Info, KeyKind, PROPER_PURPOSE, PROPER_USAGE, TimestampAuthority, der, response,
};
use verifier::policy::PolicyError;
use verifier::time::{MAX_TIMESTAMP, SigningTime, TimeError};
use verifier::verdict::{Link, Outcome};
use verifier::x509::CertificateError;
use verifier::{Class, Policy, Reason, Verdict, verify_image};
use world::{Made, World, now};

use stamps::*;

/// A build with a timestamp of now, under a policy that demands one.
fn stamped(world: &World) -> Made {
    let made = world.make();
    let (authority, signer) = authority();
    let timestamp = authority.stamp(signer, "-sha256", &imprint(&made).hex()).expect("a timestamp");
    with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"))
}

/// A build with TSTInfo of a test's own, changed before it is signed.
fn made_info(world: &World, change: impl FnOnce(&mut Info)) -> Made {
    let made = world.make();
    // Before the clock is read: its certificates are valid from when they were made.
    let (authority, signer) = authority();
    let mut info = Info::new(imprint(&made).as_bytes(), now());
    change(&mut info);
    let timestamp = authority.sign(signer, &info.encode(), &["-cades"]).expect("a timestamp");
    with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"))
}

fn time_error(made: &Made) -> TimeError {
    match refused_at(made, later(0)) {
        Reason::Time(error) => error,
        other => panic!("refused for another reason: {other}"),
    }
}

/// Judged a little later, because a timestamp of now may be rounded up.
fn accepted(made: &Made) -> Verdict {
    let verdict = verdict_at(made, Timestamp::from_unix(now().unix() + 60).expect("near now"));
    assert_eq!(verdict.report().outcome(), Outcome::BlobsNotChecked, "{}", verdict.report());
    verdict
}

#[test]
fn a_timestamp_of_a_named_authority_proves_that_the_build_existed() {
    let world = World::new();
    let before = now();
    let made = stamped(&world);
    let verdict = accepted(&made);
    let Some(SigningTime::ExistedBefore { time, authority }) = verdict.report().facts().signing_time.clone()
    else {
        panic!("{}", verdict.report())
    };
    assert_eq!(authority, "clock tower");
    // Its accuracy is a second and a half, rounded up.
    assert!(before.unix() + 2 <= time.unix() && time.unix() <= now().unix() + 3, "{time}");
    let text = verdict.report().to_string();
    assert!(text.contains(&format!("existed before {time}, says \"clock tower\"")), "{text}");
    assert!(text.contains("judged today"), "{text}");
    let json = serde_json::to_value(verdict.report()).expect("JSON");
    assert_eq!(json["facts"]["signing_time"]["kind"], "existed-before");
    // The intermediate may be named in place of the root.
    let made = made.with_policy(|_| demanding(world.policy(), "intermediate", "today"));
    accepted(&made);
}

#[test]
fn without_a_proof_the_time_is_a_claim_and_a_policy_can_demand_one() {
    let world = World::new();
    let made = world.make();
    let verdict = accepted(&made);
    let claimed = made.statement.predicate.run_details.metadata.finished_on;
    assert_eq!(verdict.report().facts().signing_time, Some(SigningTime::Unproven { claimed }));
    assert!(verdict.report().to_string().contains("judged today (no proof of the signing time attached)"));

    let made = made.with_policy(|policy| demanding(policy, "root", "today"));
    let line = made.policy.line_of("proof = ");
    let reason = refused_at(&made, now());
    assert_eq!(reason, Reason::Time(TimeError::Missing { line }));
    assert_eq!((reason.class(), reason.link()), (Class::RefusedByPolicy, Link::Hardware));

    // A timestamp that nobody is believed about is not believed, and yet must hold in itself.
    let not_asked = stamped(&world).with_policy(|_| world.policy());
    let verdict = accepted(&not_asked);
    assert_eq!(verdict.report().facts().signing_time, Some(SigningTime::Unproven { claimed }));
    assert!(verdict.report().to_string().contains("is attached and not believed"), "{}", verdict.report());
    let broken = with_timestamp(not_asked, b"no timestamp".to_vec());
    assert!(matches!(time_error(&broken), TimeError::Malformed { .. }));
}

#[test]
fn keys_and_hashes_of_other_kinds_are_read() {
    let world = World::new();
    let (authority, proper) = authority();
    for (kind, hash) in [(KeyKind::Rsa, "-sha512"), (KeyKind::P384, "-sha384")] {
        let signer = authority.signer(kind).expect("a signer");
        let made = world.make();
        let algorithm = if hash == "-sha512" { &ring::digest::SHA512 } else { &ring::digest::SHA384 };
        let digest = hex::encode(ring::digest::digest(algorithm, &message(&made)));
        let timestamp = authority.stamp(&signer, hash, &digest).expect("a timestamp");
        let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
        accepted(&made);
    }
    // A hash that is not the usual one of the key.
    let rsa = authority.signer(KeyKind::Rsa).expect("a signer");
    for signer in [proper, &rsa] {
        let made = world.make();
        let info = Info::new(imprint(&made).as_bytes(), now()).encode();
        let timestamp = authority.sign(signer, &info, &["-cades", "-md", "sha384"]).expect("a timestamp");
        let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
        accepted(&made);
    }
}

#[test]
fn a_timestamp_is_over_this_evidence_leaf_and_signature() {
    let world = World::new();
    let good = stamped(&world);
    let timestamp = good.bundle.timestamp.clone().expect("a timestamp");
    // Another build by the same people: other Evidence, other signature.
    let other = with_timestamp(world.make(), timestamp.clone());
    let wanted = TimeError::Imprint { got: imprint(&good).hex(), looked_at: 2 };
    assert_eq!(time_error(&other), wanted);
    for change in [(|made: &mut Made| made.bundle.evidence.report[0x2a0] ^= 1) as fn(&mut Made), |made| {
        made.bundle.leaf[60] ^= 1
    }] {
        let mut made = stamped(&world);
        let got = imprint(&made).hex();
        change(&mut made);
        let made = made.with_bundle(|_| ());
        assert_eq!(time_error(&made), TimeError::Imprint { got, looked_at: 2 });
    }
    // Over cosign's statement instead of the provenance: attached, but not what was accepted.
    let made = world.make();
    let cosign = parse_bundle(&made.input.envelopes[1]).expect("a bundle").envelope;
    let digest = Sha256Digest::of(&made.bundle.timestamp_message(&cosign)).hex();
    let (authority, signer) = authority();
    let timestamp = authority.stamp(signer, "-sha256", &digest).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    let reason = refused_at(&made, Timestamp::from_unix(now().unix() + 60).expect("near now"));
    assert_eq!(reason, Reason::Time(TimeError::OtherStatement));
    assert_eq!(reason.class(), Class::NotAuthentic);
}

#[test]
fn every_changed_byte_of_a_timestamp_is_noticed() {
    let world = World::new();
    let made = stamped(&world);
    let policy = made.parsed_policy();
    let timestamp = made.bundle.timestamp.clone().expect("a timestamp");
    let at = Timestamp::from_unix(now().unix() + 60).expect("near now");
    let mut unnoticed = Vec::new();
    for offset in 0..timestamp.len() {
        for bit in [0, 3, 7] {
            let mut bytes = timestamp.clone();
            bytes[offset] ^= 1 << bit;
            let mut bundle = made.bundle.clone();
            bundle.timestamp = Some(bytes);
            let input = verifier::ImageInput { evidence: vec![bundle.to_json()], ..made.input.clone() };
            let verdict = verify_image(&policy, &input, at);
            match verdict.report().rejection().map(verifier::Rejection::reason) {
                Some(Reason::Time(_)) => {}
                None => unnoticed.push((offset, bit)),
                Some(other) => panic!("byte {offset:#x}: {other}"),
            }
        }
    }
    // PKIStatusInfo is signed by nobody: 0 and 1 both mean granted.
    assert_eq!(unnoticed, [(8, 0)], "of {} bytes", timestamp.len());
    assert_eq!(timestamp[4..9], [0x30, 3, 2, 1, 0]);
    for cut in [0, 1, timestamp.len() / 2, timestamp.len() - 1] {
        let made = with_timestamp(stamped(&world), timestamp[..cut].to_vec());
        assert!(matches!(time_error(&made), TimeError::Malformed { .. }), "{cut} bytes");
    }
    let made = with_timestamp(stamped(&world), [timestamp.as_slice(), &[0]].concat());
    assert!(matches!(time_error(&made), TimeError::Malformed { .. }));
    let got = MAX_TIMESTAMP + 1;
    let made = with_timestamp(stamped(&world), vec![0; got]);
    assert_eq!(time_error(&made), TimeError::TooLarge { got, limit: MAX_TIMESTAMP });
}

#[test]
fn what_the_authority_says_is_read_strictly() {
    let world = World::new();
    accepted(&made_info(&world, |_| ()));
    let field = |field, got: &str, wanted| TimeError::Field { field, got: got.to_owned(), wanted };
    assert_eq!(
        time_error(&made_info(&world, |info| info.version = 2)),
        field("version of TSTInfo", "2", "1")
    );
    // SHA-1 as imprint, over the right bytes.
    let sha1 = vec![0x30, 0x07, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a];
    let got = hex::encode(&sha1);
    assert_eq!(
        time_error(&made_info(&world, |info| info.hash = sha1)),
        TimeError::Algorithm { field: "imprint algorithm", got, wanted: "SHA-256, SHA-384 or SHA-512" }
    );
    let made = made_info(&world, |info| info.imprint[31] ^= 1);
    assert!(matches!(time_error(&made), TimeError::Imprint { looked_at: 2, .. }));
    let made = made_info(&world, |info| {
        info.imprint.pop();
    });
    assert!(matches!(time_error(&made), TimeError::Imprint { looked_at: 2, .. }));
    for time in
        ["20261122010203", "202611220102Z", "20261122010203.50Z", "20261122010203.Z", "20261322010203Z"]
    {
        let made = made_info(&world, |info| info.time = time.to_owned());
        assert_eq!(time_error(&made), field("genTime", time, "YYYYMMDDhhmmss[.f]Z"));
    }
    let hour = der(0x30, &der(0x02, &[0x0e, 0x11]));
    assert_eq!(
        time_error(&made_info(&world, |info| info.rest = hour)),
        TimeError::Accuracy { got: 3601, limit: 3600 }
    );
    let extensions = der(0xa1, &der(0x30, &[]));
    assert_eq!(
        time_error(&made_info(&world, |info| info.rest = extensions)),
        TimeError::Unread { what: "extensions of TSTInfo" }
    );
    let out_of_order = [der(0x02, &[9]), der(0x01, &[0xff])].concat();
    assert!(matches!(
        time_error(&made_info(&world, |info| info.rest = out_of_order)),
        TimeError::Malformed { .. }
    ));
    let millis = der(0x30, &der(0x80, &[0x03, 0xe8]));
    assert!(matches!(time_error(&made_info(&world, |info| info.rest = millis)), TimeError::Malformed { .. }));
    // Tomorrow's timestamp.
    let made = made_info(&world, |info| *info = Info::new(&info.imprint, later(1)));
    assert!(matches!(time_error(&made), TimeError::Future { .. }));
}

#[test]
fn accuracy_and_fractions_only_make_the_time_later() {
    let world = World::new();
    for (fraction, rest, later) in [
        ("", vec![], 0),
        (".5", vec![], 1),
        ("", der(0x30, &der(0x02, &[5])), 5),
        (".5", der(0x30, &[der(0x02, &[5]), der(0x80, &[1]), der(0x81, &[2])].concat()), 7),
    ] {
        let mut made_at = String::new();
        let made = made_info(&world, |info| {
            made_at.clone_from(&info.time);
            info.time = info.time.replace('Z', &format!("{fraction}Z"));
            info.rest = rest;
        });
        let verdict = accepted(&made);
        let Some(SigningTime::ExistedBefore { time, .. }) = &verdict.report().facts().signing_time else {
            panic!("{}", verdict.report())
        };
        let earlier = Timestamp::from_unix(time.unix() - later).expect("near now");
        let digits: String = earlier.to_string().chars().filter(char::is_ascii_digit).collect();
        assert_eq!(format!("{digits}Z"), made_at, "{fraction}");
    }
}

#[test]
fn the_signature_is_of_one_certificate_for_time_stamping_alone() {
    let world = World::new();
    let (authority, proper) = authority();
    let made = world.make();
    let info = Info::new(imprint(&made).as_bytes(), now()).encode();
    let judge = |timestamp: Vec<u8>| {
        let made = with_timestamp(world.make(), timestamp);
        // The imprint is of another build: all that is looked at before is right where that is the answer.
        time_error(&made.with_policy(|policy| demanding(policy, "root", "today")))
    };
    let by = |name: &str, extensions: &[&str]| {
        let signer =
            authority.signer_with(name, KeyKind::P256, "intermediate", 3650, extensions).expect("a signer");
        judge(authority.sign(&signer, &info, &["-cades"]).expect("a timestamp"))
    };
    assert!(matches!(by("good", &[PROPER_PURPOSE, PROPER_USAGE]), TimeError::Imprint { .. }));
    assert!(matches!(by("bare", &[PROPER_PURPOSE]), TimeError::Imprint { .. }));
    let both = "keyUsage=critical,digitalSignature,nonRepudiation";
    assert!(matches!(by("signs", &[PROPER_PURPOSE, both]), TimeError::Imprint { .. }));
    for (name, extensions, problem) in [
        ("none", &[PROPER_USAGE][..], "has no extended key usage, wanted time stamping"),
        ("tls", &["extendedKeyUsage=critical,serverAuth", PROPER_USAGE], "is not for time stamping"),
        ("both", &["extendedKeyUsage=critical,timeStamping,codeSigning"], "is for more than time stamping"),
        ("lax", &["extendedKeyUsage=timeStamping"], "has an extended key usage that is not critical"),
        (
            "ca",
            &[PROPER_PURPOSE, "keyUsage=critical,digitalSignature,keyCertSign"],
            "has a key usage that is not digital signature alone",
        ),
        // Its one bit stands in the second byte of the usage.
        (
            "idle",
            &[PROPER_PURPOSE, "keyUsage=critical,decipherOnly"],
            "has a key usage that is not digital signature alone",
        ),
    ] {
        let name_shown = format!("NOT A TRUSTED AUTHORITY: {name}");
        assert_eq!(by(name, extensions), TimeError::Purpose { name: name_shown, problem });
    }

    // Without ESSCertIDv2, without certificates, with another certificate than the one named.
    let unbound = authority.sign(proper, &info, &[]).expect("a timestamp");
    assert_eq!(judge(unbound), TimeError::Attribute { name: "signingCertificateV2", got: 0 });
    let bare = authority.sign(proper, &info, &["-noattr"]).expect("a timestamp");
    assert_eq!(judge(bare), TimeError::Attribute { name: "messageDigest", got: 0 });
    let without = authority.sign(proper, &info, &["-cades", "-nocerts"]).expect("a timestamp");
    assert!(matches!(judge(without), TimeError::NoSignerCertificate { looked_at: 1, .. }));
    let by_key = authority.sign(proper, &info, &["-cades", "-keyid"]).expect("a timestamp");
    assert!(matches!(judge(by_key.clone()), TimeError::Imprint { .. }));
    // Of the two places where the key identifier stands, the one outside of the certificate.
    let mut other = by_key;
    let certificate = authority.der("signer-p256").expect("DER");
    let id = certificate.windows(4).position(|part| part == [6, 3, 0x55, 0x1d].as_slice());
    assert!(id.is_some(), "the certificate has extensions");
    let marker = [0x80, 0x14];
    let at = other.windows(2).rposition(|part| part == marker).expect("the signer identifier");
    other[at + 2] ^= 1;
    assert_eq!(judge(other), TimeError::SignerIdentifier);

    // A response that says no, and one with a second signer.
    let good = authority.sign(proper, &info, &["-cades"]).expect("a timestamp");
    let token = &good[4 + 5..];
    assert_eq!(response(0, token), good);
    assert_eq!(judge(response(2, token)), TimeError::Status { got: 2 });
    let more =
        authority.signer_with("second", KeyKind::P256, "root", 30, &[PROPER_PURPOSE]).expect("a signer");
    let (certificate, key) = more.files();
    let twice = authority.sign(proper, &info, &["-cades", "-signer", &certificate, "-inkey", &key]);
    assert_eq!(judge(twice.expect("a timestamp")), TimeError::Unread { what: "more than one signer" });
    // SHA-1 in the signature.
    let weak = authority.sign(proper, &info, &["-cades", "-md", "sha1"]).expect("a timestamp");
    assert!(matches!(judge(weak), TimeError::Algorithm { field: "digest algorithm", .. }));
}

#[test]
fn the_chain_leads_to_an_authority_that_the_policy_names() {
    let world = World::new();
    let stranger = TimestampAuthority::new().expect("an authority");
    let signer = stranger.signer(KeyKind::P256).expect("a signer");
    let made = world.make();
    // The names are the same; the keys are not.
    let timestamp = stranger.stamp(&signer, "-sha256", &imprint(&made).hex()).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    let line = made.policy.line_of("authorities = ");
    let reason = refused_at(&made, Timestamp::from_unix(now().unix() + 60).expect("near now"));
    let issuer = "CN=NOT A TRUSTED AUTHORITY: root".to_owned();
    assert_eq!(reason, Reason::Time(TimeError::UnknownAuthority { issuer, line }));
    assert_eq!(reason.class(), Class::RefusedByPolicy);

    // With the certificate of the intermediate that bears the name, and did not sign.
    let (authority, _) = authority();
    stranger.adopt("genuine", &authority.pem("intermediate").expect("PEM")).expect("a certificate");
    let made = world.make();
    let info = Info::new(imprint(&made).as_bytes(), now()).encode();
    let timestamp = stranger.sign_with(&signer, &info, &["genuine"], &["-cades"]).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    let issuer = "CN=NOT A TRUSTED AUTHORITY: intermediate".to_owned();
    assert_eq!(time_error(&made), TimeError::UnknownAuthority { issuer, line });

    // An authority below the intermediate, which may have none.
    authority
        .signer_with(
            "sub",
            KeyKind::P256,
            "intermediate",
            3650,
            &["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"],
        )
        .expect("an authority");
    let signer =
        authority.signer_with("below", KeyKind::P256, "sub", 3650, &[PROPER_PURPOSE]).expect("a signer");
    let made = world.make();
    let info = Info::new(imprint(&made).as_bytes(), now()).encode();
    let timestamp =
        authority.sign_with(&signer, &info, &["sub", "intermediate"], &["-cades"]).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    let problem = "stands above more authorities than it allows";
    let name = "NOT A TRUSTED AUTHORITY: intermediate".to_owned();
    assert_eq!(time_error(&made), TimeError::Purpose { name, problem });
}

#[test]
fn an_intermediate_authority_that_names_purposes_names_time_stamping() {
    let world = World::new();
    let (authority, _) = authority();
    let below = |purpose: &str| {
        let name = purpose.to_lowercase();
        let extensions = [
            "basicConstraints=critical,CA:TRUE",
            "keyUsage=critical,keyCertSign",
            &format!("extendedKeyUsage={purpose}"),
        ];
        authority.signer_with(&name, KeyKind::P256, "root", 3650, &extensions).expect("an authority");
        let signer = authority
            .signer_with(&format!("by-{name}"), KeyKind::P256, &name, 3650, &[PROPER_PURPOSE])
            .expect("a signer");
        let made = world.make();
        let info = Info::new(imprint(&made).as_bytes(), now()).encode();
        let timestamp = authority.sign_with(&signer, &info, &[&name], &["-cades"]).expect("a timestamp");
        with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"))
    };
    accepted(&below("timeStamping"));
    accepted(&below("anyExtendedKeyUsage"));
    let problem = "names purposes, and time stamping is not among them";
    let name = "NOT A TRUSTED AUTHORITY: emailprotection".to_owned();
    assert_eq!(time_error(&below("emailProtection")), TimeError::Purpose { name, problem });
}

#[test]
fn the_authoritys_certificates_were_valid_then_and_are_today() {
    let world = World::new();
    let (authority, _) = authority();
    let signer = authority
        .signer_with("short", KeyKind::P256, "intermediate", 10, &[PROPER_PURPOSE])
        .expect("a signer");
    let made = world.make();
    let timestamp = authority.stamp(&signer, "-sha256", &imprint(&made).hex()).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    accepted(&made);
    let reason = refused_at(&made, later(11));
    let expired = matches!(
        &reason,
        Reason::Time(TimeError::NotValidToday { name, error: CertificateError::Expired { .. } })
            if name == "NOT A TRUSTED AUTHORITY: short"
    );
    assert!(expired, "{reason}");
    assert_eq!(reason.class(), Class::Endorsements);
    // Older than its certificate.
    let made = world.make();
    let info = Info::new(imprint(&made).as_bytes(), later(-1)).encode();
    let timestamp = authority.sign(&signer, &info, &["-cades"]).expect("a timestamp");
    let made = with_timestamp(made, timestamp).with_policy(|policy| demanding(policy, "root", "today"));
    let error = time_error(&made);
    assert!(
        matches!(error, TimeError::NotValidThen { error: CertificateError::NotYetValid { .. }, .. }),
        "{error}"
    );
}

#[test]
fn a_policy_says_how_time_is_proven_and_never_as_of_then_without_a_proof() {
    let good = World::new().policy();
    let error = |from: &str, to: &str| {
        Policy::parse(&good.clone().with(from, to).0, "test.toml").expect_err("not a policy")
    };
    assert!(matches!(
        error("[time]\nproof = \"none\"\nauthorities = []\n", ""),
        PolicyError::Missing { key, .. } if key == "time"
    ));
    assert!(matches!(
        error("authorities = []", ""),
        PolicyError::Missing { key, .. } if key == "time.authorities"
    ));
    let value = |from: &str, to: &str| match error(from, to) {
        PolicyError::Value { problem, .. } => problem,
        other => panic!("{other}"),
    };
    assert!(value("proof = \"none\"", "proof = \"rfc3161\"").contains("name at least one authority"));
    assert!(value("judged_at = \"today\"", "judged_at = \"signing\"").contains("never judged as of then"));
    assert!(
        value("judged_at = \"today\"", "judged_at = \"2026-01-01\"")
            .contains("wanted \"today\" or \"signing\"")
    );
    let pem = authority().0.pem("root").expect("PEM");
    let named = |pem: &str| format!("authorities = [{{ name = \"x\", certificate = \"\"\"\n{pem}\"\"\" }}]");
    assert!(value("authorities = []", &named(&pem)).contains("so it is not believed"));
    assert!(value("authorities = []", &named("?")).contains("neither PEM nor base64"));
    let signer = authority().0.pem("signer-p256").expect("PEM");
    assert!(value("authorities = []", &named(&signer)).contains("is no certificate authority's"));
}
