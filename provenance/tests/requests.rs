//! Requests and projects: what the types cannot say, one thing changed at a time.

use std::collections::BTreeMap;

use provenance::binding::Nonce;
use provenance::canonical::CanonicalError;
use provenance::digest::Sha256Digest;
use provenance::key::PublicKey;
use provenance::project::{InvalidProject, MAX_MEMBERS, MAX_NAME, Project};
use provenance::request::{
    AddHost, BuildId, Compression, Dockerfile, InvalidRequest, MAX_BUILD_ID, MAX_ITEMS, MAX_TEXT, Output,
    REQUEST_TYPE, Request, SecretsCommitment, Source,
};
use provenance::timestamp::Timestamp;

fn digest() -> Sha256Digest {
    Sha256Digest::of(b"anything")
}

fn project(members: usize) -> Project {
    let members: Vec<_> = (0..members).map(|n| Sha256Digest::of(&n.to_be_bytes())).collect();
    Project::new("a project", members).expect("a project")
}

fn git(url: &str) -> Source {
    Source::Git { url: url.to_owned() }
}

fn text(map: &[(&str, &str)]) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn good() -> Request {
    Request {
        add_hosts: vec![AddHost { address: "10.0.0.1".to_owned(), name: "db".to_owned() }],
        annotations: BTreeMap::new(),
        attestation_request: None,
        build_args: text(&[("VERSION", "1=2")]),
        build_id: BuildId::try_from("build-1".to_owned()).expect("an id"),
        context: Source::Tree { root: digest() },
        dockerfile: Dockerfile { path: "docker/Dockerfile".to_owned(), root: Some(digest()) },
        issued_at: Timestamp::from_unix(1_800_000_000).expect("in range"),
        labels: BTreeMap::new(),
        named_contexts: BTreeMap::new(),
        no_cache: false,
        nonce: Nonce([7; 32]),
        output: image(1),
        platforms: Vec::new(),
        project: project(1),
        pull: false,
        secrets: Some(SecretsCommitment { commitment: digest(), ids: vec!["a".to_owned(), "b".to_owned()] }),
        ssh: vec!["default".to_owned(), "other".to_owned()],
        target: None,
        document_type: REQUEST_TYPE.to_owned(),
    }
}

fn image(names: usize) -> Output {
    let names = (0..names).map(|n| format!("registry.example/app:{n}")).collect();
    Output::Image { compression: Compression::Gzip, names, push: true, rewrite_timestamp: false }
}

fn rewriting() -> Output {
    Output::Image { compression: Compression::Zstd, names: Vec::new(), push: false, rewrite_timestamp: true }
}

/// Judges a request both as it was made and as it was parsed; gives the field at fault.
fn judged(change: impl FnOnce(&mut Request)) -> Result<(), String> {
    let mut request = good();
    change(&mut request);
    let parsed = Request::parse(&request.document());
    let checked = request.check();
    if let Ok(parsed) = &parsed {
        assert_eq!(*parsed, request);
    }
    let too_long = matches!(parsed, Err(InvalidRequest::Canonical(CanonicalError::TooLarge { .. })));
    assert!(too_long || parsed.map(|_| ()) == checked, "parsed and made are judged alike");
    match checked {
        Ok(()) => Ok(()),
        Err(InvalidRequest::Field { field, .. }) => Err(field),
        Err(other) => Err(other.to_string()),
    }
}

fn refused(field: &str, change: impl FnOnce(&mut Request)) {
    assert_eq!(judged(change), Err(field.to_owned()));
}

fn accepted(change: impl FnOnce(&mut Request)) {
    assert_eq!(judged(change), Ok(()));
}

#[test]
fn a_good_request_is_accepted_and_another_type_is_not() {
    accepted(|_| ());
    let mut other = good();
    other.document_type.push('x');
    assert_eq!(other.check(), Err(InvalidRequest::Type { got: format!("{REQUEST_TYPE}x") }));
    let mut other = good();
    other.project.name.clear();
    assert_eq!(other.check(), Err(InvalidRequest::Project(InvalidProject::Name { got: 0 })));
}

#[test]
fn every_list_and_map_has_a_limit() {
    let keys = |count: usize| -> BTreeMap<String, String> {
        (0..count).map(|n| (format!("k{n:05}"), String::new())).collect()
    };
    let names = |count: usize| -> Vec<String> { (0..count).map(|n| format!("n{n:05}")).collect() };
    let set = |request: &mut Request, field: &str, count: usize| match field {
        "add_hosts" => request.add_hosts = vec![good().add_hosts.remove(0); count],
        "annotations" => request.annotations = keys(count),
        "build_args" => request.build_args = keys(count),
        "labels" => request.labels = keys(count),
        "named_contexts" => {
            request.named_contexts =
                names(count).into_iter().map(|name| (name, git("https://a/b"))).collect();
        }
        "platforms" => request.platforms = vec!["linux/amd64".to_owned(); count],
        "ssh" => request.ssh = names(count),
        _ => request.secrets = Some(SecretsCommitment { commitment: digest(), ids: names(count) }),
    };
    for field in
        ["add_hosts", "annotations", "build_args", "labels", "named_contexts", "platforms", "ssh", "secrets"]
    {
        accepted(|request| set(request, field, MAX_ITEMS));
        refused(field, |request| set(request, field, MAX_ITEMS + 1));
    }
    accepted(|request| request.output = image(64));
    refused("output.names", |request| request.output = image(65));
}

#[test]
fn platforms_are_some_that_images_are_built_for() {
    accepted(|request| request.platforms = vec!["linux/amd64".to_owned(), "linux/arm/v7".to_owned()]);
    for bad in ["nonsense", "foo/bar", "linux/bar", "windows/amd64", "linux/arm/v9"] {
        refused("platforms", |request| request.platforms = vec!["linux/amd64".to_owned(), bad.to_owned()]);
    }
    let mut request = good();
    request.platforms = vec!["linux/arm/v9".to_owned()];
    assert_eq!(
        request.check().map_err(|e| e.to_string()),
        Err("request field `platforms`: `linux/arm/v9`: variant of arm is `v9`, \
             wanted none or one of v5, v6, v7, v8"
            .to_owned())
    );
}

#[test]
fn keys_and_values_are_text_of_a_limited_length() {
    for (key, value, fits) in
        [("k", "", true), ("", "v", false), ("a=b", "v", false), ("a\0b", "v", false), ("k", "a\0b", false)]
    {
        let set = |request: &mut Request, name: &str| match name {
            "annotations" => request.annotations = text(&[(key, value)]),
            "build_args" => request.build_args = text(&[(key, value)]),
            _ => request.labels = text(&[(key, value)]),
        };
        for name in ["annotations", "build_args", "labels"] {
            let wanted = if fits { Ok(()) } else { Err(format!("{name}.{key}")) };
            assert_eq!(judged(|request| set(request, name)), wanted, "{name} {key:?}");
        }
    }
    let long = "v".repeat(MAX_TEXT - 3);
    accepted(|request| request.labels = text(&[("key", &long)]));
    refused("labels.four", |request| request.labels = text(&[("four", &long)]));
    refused("build_args.BUILDKIT_SYNTAX", |request| request.build_args = text(&[("BUILDKIT_SYNTAX", "x")]));
}

#[test]
fn ids_are_ascending_and_not_empty() {
    let ids = |ids: &[&str]| -> Vec<String> { ids.iter().map(|id| (*id).to_owned()).collect() };
    for wrong in [&["b", "a"][..], &["a", "a"]] {
        refused("ssh", |request| request.ssh = ids(wrong));
        refused("secrets.ids", |request| {
            request.secrets = Some(SecretsCommitment { commitment: digest(), ids: ids(wrong) });
        });
    }
    for wrong in [&[][..], &["", "a"]] {
        refused("secrets.ids", |request| {
            request.secrets = Some(SecretsCommitment { commitment: digest(), ids: ids(wrong) });
        });
    }
    accepted(|request| request.secrets = None);
    accepted(|request| request.ssh.clear());
}

#[test]
fn hosts_have_addresses() {
    refused("add_hosts", |request| request.add_hosts[0].address = "db.example".to_owned());
    accepted(|request| request.add_hosts[0].address = "fe80::1".to_owned());
}

#[test]
fn the_dockerfile_stays_inside_of_its_directory() {
    let with = |path: &str| judged(|request| request.dockerfile.path = path.to_owned());
    for path in ["Dockerfile", "a/b/c", &"a".repeat(4096)] {
        assert_eq!(with(path), Ok(()), "{path}");
    }
    for path in ["", "/a", "a/", "a//b", ".", "./a", "a/..", "../a", "a\0b", &"a".repeat(4097)] {
        assert_eq!(with(path), Err("dockerfile.path".to_owned()), "{path:?}");
    }
    refused("dockerfile.root", |request| request.dockerfile.root = None);
    accepted(|request| {
        request.context = git("https://a/b.git");
        request.dockerfile.root = None;
    });
}

#[test]
fn sources_are_short_words() {
    let image = |reference: &str| Source::Image { reference: reference.to_owned() };
    let layout = |media_type: &str| Source::OciLayout {
        manifest: digest(),
        size: 1,
        media_type: media_type.to_owned(),
    };
    refused("context", |request| request.context = image("registry.example/a"));
    refused("context", |request| request.context = layout("application/vnd.oci.image.index.v1+json"));
    let longest = "a".repeat(4096);
    for source in [git("https://a/b"), image("a:1"), layout("a/b"), good().context, git(&longest)] {
        accepted(|request| drop(request.named_contexts.insert("base".to_owned(), source)));
    }
    let longer = "a".repeat(4097);
    for wrong in ["", "a b", "a\nb", &longer] {
        for source in [git(wrong), image(wrong), layout(wrong)] {
            refused("base", |request| drop(request.named_contexts.insert("base".to_owned(), source)));
        }
        refused("context", |request| request.context = git(wrong));
    }
    refused("", |request| drop(request.named_contexts.insert(String::new(), git("https://a/b"))));
}

#[test]
fn a_push_has_a_name_and_rewritten_times_an_epoch() {
    refused("output.push", |request| request.output = image(0));
    refused("output.rewrite_timestamp", |request| request.output = rewriting());
    accepted(|request| {
        request.output = rewriting();
        request.build_args = text(&[("SOURCE_DATE_EPOCH", "0")]);
    });
    accepted(|request| {
        request.output = rewriting();
        request.context = git("https://a/b.git");
    });
    accepted(|request| request.output = Output::Files {});
    for (epoch, fits) in [
        ("", true),
        ("context", true),
        ("253402300799", true),
        ("253402300800", false),
        ("-1", false),
        ("now", false),
    ] {
        let wanted = if fits { Ok(()) } else { Err("build_args.SOURCE_DATE_EPOCH".to_owned()) };
        let got = judged(|request| request.build_args = text(&[("SOURCE_DATE_EPOCH", epoch)]));
        assert_eq!(got, wanted, "{epoch}");
    }
}

#[test]
fn build_ids_are_resource_ids() {
    let id = |text: &str| BuildId::try_from(text.to_owned()).map(String::from);
    let longest = "a".repeat(MAX_BUILD_ID);
    for good in ["a", "a1", "a-1", &longest] {
        assert_eq!(id(good), Ok(good.to_owned()));
    }
    for bad in ["", "1a", "-a", "a-", "A", "aB", "a_b", "a.b", "ä", &format!("{longest}a")] {
        assert_eq!(id(bad), Err(InvalidRequest::BuildId { got: bad.to_owned() }));
    }
}

#[test]
fn projects_have_a_name_and_members_in_order() {
    let named = |name: &str| {
        let project = Project { name: name.to_owned(), ..project(2) };
        let parsed = Project::parse(&project.document());
        assert_eq!(parsed.map(|_| ()), project.check());
        project.check()
    };
    assert_eq!(named("a"), Ok(()));
    assert_eq!(named(&"a".repeat(MAX_NAME)), Ok(()));
    for (name, got) in [(String::new(), 0), ("a".repeat(MAX_NAME + 1), MAX_NAME + 1), ("a\nb".to_owned(), 3)]
    {
        assert_eq!(named(&name), Err(InvalidProject::Name { got }), "{name:?}");
    }
    let with = |members: Vec<Sha256Digest>| {
        let project = Project { members, ..project(1) };
        let parsed = Project::parse(&project.document());
        assert_eq!(parsed.map(|_| ()), project.check());
        project.check()
    };
    assert_eq!(with(project(MAX_MEMBERS).members), Ok(()));
    let mut many: Vec<_> = (0..=MAX_MEMBERS).map(|n| Sha256Digest::of(&n.to_be_bytes())).collect();
    many.sort();
    assert_eq!(with(many), Err(InvalidProject::Members { got: MAX_MEMBERS + 1 }));
    assert_eq!(with(Vec::new()), Err(InvalidProject::Members { got: 0 }));
    assert_eq!(with(vec![digest(), digest()]), Err(InvalidProject::Members { got: 2 }));
    let mut backwards = project(2).members;
    backwards.reverse();
    assert_eq!(with(backwards), Err(InvalidProject::Members { got: 2 }));
    let stranger = digest();
    assert!(!project(2).has_member(&stranger) && project(2).has_member(&project(2).members[1]));
}

#[test]
fn keys_are_whole_and_of_a_known_kind() {
    let p256 = PublicKey::from_p256_point(&[[0x04].as_slice(), &[1; 64]].concat()).expect("its shape");
    let ed25519 = PublicKey::from_ed25519(&[1; 32]).expect("its shape");
    for key in [p256, ed25519] {
        let good = key.spki_der().to_vec();
        assert_eq!(PublicKey::from_spki_der(&good).map(|key| key.spki_der().to_vec()), Ok(good.clone()));
        let longer = [&good[..], &[0]].concat();
        for (what, wrong) in [("shorter", &good[..good.len() - 1]), ("longer", &longer)] {
            assert!(PublicKey::from_spki_der(wrong).is_err(), "{what}");
        }
        let mut other = good;
        other[6] ^= 1;
        assert!(PublicKey::from_spki_der(&other).is_err(), "another algorithm");
    }
    assert!(PublicKey::from_p256_point(&[[0x05].as_slice(), &[1; 64]].concat()).is_err(), "no such form");
}
