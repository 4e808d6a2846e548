//! A registry that fails: each failure its own error, and never a tag without its signature and Evidence.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod publish_fixture;

use std::time::Duration;

use build_server::publish::oci::{IMAGE_INDEX, IMAGE_MANIFEST};
use build_server::publish::registry::{Anonymous, Credential, CredentialSource, Login};
use build_server::publish::{ImageName, PublisherConfig, PushError, Pushed, ResultLayout};
use http::Method;
use publish_fixture::{ExportedImage, Signer, image, index, name, publisher, publisher_with, result, sign};
use sealwright_tests::registry::{Fault, FaultRegistry, Guard};
use zeroize::Zeroizing;

/// Larger than one chunk of an upload, so that a cut comes in its middle.
const LARGE: usize = 3 << 20;

struct Case {
    directory: tempfile::TempDir,
    image: ExportedImage,
    layout: ResultLayout,
    names: Vec<ImageName>,
}

impl Case {
    fn new(registry: &FaultRegistry) -> Self {
        Self::with(registry, image)
    }

    fn with(registry: &FaultRegistry, make: fn(&std::path::Path, &[u8]) -> ExportedImage) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let names = vec![name(&format!("{}/team/app:1.4", registry.host()))];
        let image = make(directory.path(), &noise(LARGE));
        let parts = sign(&Signer::new(), &image, &[&names[0].without_tag()]);
        let layout = result(directory.path(), &image, &parts, &names);
        Self { directory, image, layout, names }
    }

    async fn push(&self) -> Result<Pushed, PushError> {
        publisher().push(&self.layout, &self.names, &Anonymous).await
    }

    async fn push_as(&self, login: Logins) -> Result<Pushed, PushError> {
        publisher().push(&self.layout, &self.names, &login).await
    }

    /// Path fragment of the image's layer.
    fn layer(&self) -> String {
        self.layout.image().blobs[1].digest.to_string()
    }

    /// Pushes without fault afterwards: nothing is lost, and what is there is not sent again.
    async fn succeeds_afterwards(&self, registry: &FaultRegistry) {
        self.push().await.unwrap();
        assert_complete(registry, &self.image);
    }
}

/// Bytes that do not compress (a linear congruential generator).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

struct Logins(Vec<(String, Kind)>);

#[derive(Clone)]
enum Kind {
    Password(&'static str, &'static str),
    IdentityToken(&'static str),
}

impl CredentialSource for Logins {
    fn credential(&self, host: &str) -> Option<Credential> {
        let (_, login) = self.0.iter().find(|(known, _)| known == host)?;
        Some(match login.clone() {
            Kind::Password(username, password) => Credential::Password {
                username: username.to_owned(),
                password: Zeroizing::new(password.to_owned()),
            },
            Kind::IdentityToken(token) => Credential::IdentityToken(Zeroizing::new(token.to_owned())),
        })
    }
}

fn login(registry: &FaultRegistry, login: Kind) -> Logins {
    Logins(vec![(registry.host(), login)])
}

fn assert_untagged(registry: &FaultRegistry) {
    assert!(!registry.tags("team/app").contains(&"1.4".to_owned()), "the image is tagged");
}

fn assert_complete(registry: &FaultRegistry, image: &ExportedImage) {
    let tags = registry.tags("team/app");
    for target in &image.targets {
        for suffix in ["sig", "att"] {
            assert!(tags.contains(&format!("sha256-{}.{suffix}", target.digest.hex())), "{tags:?}");
        }
    }
    assert!(tags.contains(&"1.4".to_owned()), "{tags:?}");
}

/// Fails `times` requests and gives the error and the number of requests that met the fault.
async fn with_fault(
    method: Method,
    path: &str,
    times: usize,
    fault: Fault,
) -> (FaultRegistry, Case, PushError, usize) {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let path = path.replace("LAYER", &case.layer());
    registry.fail(method.clone(), &path, times, fault);
    let error = case.push().await.unwrap_err();
    let met =
        registry.seen().iter().filter(|seen| seen.method == method && seen.path.contains(&path)).count();
    assert_untagged(&registry);
    (registry, case, error, met)
}

fn status(status: u16) -> Fault {
    Fault::Status(status, Vec::new())
}

#[tokio::test]
async fn a_whole_push_writes_the_image_tag_last() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::with(&registry, index);
    let pushed = case.push().await.unwrap();
    assert_eq!(pushed.names, [format!("{}/team/app:1.4", registry.host())]);
    assert_complete(&registry, &case.image);
    let last = registry.seen().pop().unwrap();
    assert_eq!((last.method, last.path.as_str()), (Method::PUT, "/v2/team/app/manifests/1.4"));
    assert_eq!(
        registry.manifest("team/app", "1.4"),
        registry.manifest("team/app", &case.image.root.digest.to_string())
    );
}

#[tokio::test]
async fn a_second_push_sends_no_blob_again() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let first = case.push().await.unwrap();
    assert_eq!((first.present, first.uploaded), (0, registry.blobs("team/app")));
    let second = case.push().await.unwrap();
    assert_eq!((second.present, second.uploaded, second.uploaded_bytes), (first.uploaded, 0, 0));
}

#[tokio::test]
async fn another_repository_of_the_same_registry_lends_its_blobs() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let mut case = Case::new(&registry);
    case.names.push(name(&format!("{}/team/second:1.4", registry.host())));
    let pushed = case.push().await.unwrap();
    assert_eq!(pushed.mounted, pushed.uploaded);
    assert_eq!(registry.blobs("team/second"), registry.blobs("team/app"));
    assert_eq!(pushed.names.len(), 2);
}

#[tokio::test]
async fn status_401_without_login_says_that_none_was_sent() {
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let error = case.push().await.unwrap_err();
    assert!(matches!(error, PushError::Unauthorized { login: Login::Missing, .. }), "{error}");
    assert!(error.advice().contains("docker login"), "{}", error.advice());
    assert_untagged(&registry);
}

#[tokio::test]
async fn status_401_with_a_wrong_password_says_so_and_does_not_show_it() {
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let error = case.push_as(login(&registry, Kind::Password("ci", "wrong-password"))).await.unwrap_err();
    assert!(matches!(error, PushError::Unauthorized { login: Login::NotAccepted, .. }), "{error}");
    assert!(!format!("{error} {error:?} {}", error.advice()).contains("wrong-password"));
    assert_untagged(&registry);
}

#[tokio::test]
async fn basic_login_pushes() {
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    case.push_as(login(&registry, Kind::Password("ci", "secret"))).await.unwrap();
    assert_complete(&registry, &case.image);
}

#[tokio::test]
async fn bearer_login_asks_for_pull_and_push_of_its_repository_and_logs_in_once() {
    let registry = FaultRegistry::start(Guard::Bearer("ci", "secret"), true).await;
    let case = Case::new(&registry);
    case.push_as(login(&registry, Kind::Password("ci", "secret"))).await.unwrap();
    assert_complete(&registry, &case.image);
    let logins: Vec<_> = registry.seen().into_iter().filter(|seen| seen.path.starts_with("/token")).collect();
    assert_eq!(logins.len(), 1);
    assert!(logins[0].path.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"), "{}", logins[0].path);
    assert!(logins[0].path.contains("service=test"), "{}", logins[0].path);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_never_sent_to_the_registry_itself() {
    let registry = FaultRegistry::start(Guard::IdentityToken("refresh-me"), true).await;
    let case = Case::new(&registry);
    case.push_as(login(&registry, Kind::IdentityToken("refresh-me"))).await.unwrap();
    assert_complete(&registry, &case.image);
    for seen in registry.seen() {
        assert!(!format!("{seen:?}").contains("refresh-me"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_token_service_that_refuses_the_login_is_named() {
    let registry = FaultRegistry::start(Guard::Bearer("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let error = case.push_as(login(&registry, Kind::Password("ci", "wrong"))).await.unwrap_err();
    assert!(matches!(error, PushError::LoginRefused { status: 401, .. }), "{error}");
    assert_untagged(&registry);
}

#[tokio::test]
async fn a_token_that_expires_during_a_push_is_renewed() {
    let registry = FaultRegistry::start(Guard::Bearer("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let logins = login(&registry, Kind::Password("ci", "secret"));
    // The first answer to an upload makes the push wait; meanwhile the token expires.
    registry.fail(Method::PUT, "/blobs/uploads/", 1, status(500));
    let publisher = publisher_with(PublisherConfig {
        first_pause: Duration::from_millis(300),
        ..PublisherConfig::default()
    });
    let push = publisher.push(&case.layout, &case.names, &logins);
    let expire = async {
        while !registry.seen().iter().any(|seen| seen.method == Method::PUT) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        registry.expire_tokens();
    };
    let (pushed, ()) = tokio::join!(push, expire);
    pushed.unwrap();
    assert_complete(&registry, &case.image);
    assert!(registry.seen().iter().filter(|seen| seen.path.starts_with("/token")).count() >= 2);
}

#[tokio::test]
async fn a_login_is_never_sent_to_another_registry() {
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let other = Logins(vec![("other.example".to_owned(), Kind::Password("ci", "secret"))]);
    let error = case.push_as(other).await.unwrap_err();
    assert!(matches!(error, PushError::Unauthorized { login: Login::Missing, .. }), "{error}");
    assert!(registry.seen().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_the_login() {
    let elsewhere = FaultRegistry::start(Guard::Open, true).await;
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let target = format!("http://{}/v2/team/app/blobs/{}", elsewhere.host(), case.layer());
    let path = format!("/blobs/{}", case.layer());
    registry.fail_logged_in(Method::HEAD, &path, 1, Fault::Status(307, vec![("location", target)]));
    case.push_as(login(&registry, Kind::Password("ci", "secret"))).await.unwrap();
    let seen = elsewhere.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].authorization, None);
}

#[tokio::test]
async fn an_upload_that_continues_at_another_host_goes_there_without_the_login() {
    let elsewhere = FaultRegistry::start(Guard::Open, true).await;
    let registry = FaultRegistry::start(Guard::Basic("ci", "secret"), true).await;
    let case = Case::new(&registry);
    let target = format!("http://{}/v2/team/app/blobs/uploads/elsewhere", elsewhere.host());
    registry.fail_logged_in(Method::POST, "/uploads/", 1, Fault::Status(202, vec![("location", target)]));
    case.push_as(login(&registry, Kind::Password("ci", "secret"))).await.unwrap();
    let seen = elsewhere.seen();
    assert_eq!((seen.len(), elsewhere.blobs("team/app")), (1, 1));
    assert_eq!(seen[0].authorization, None);
}

#[tokio::test]
async fn a_redirect_to_plain_http_of_a_host_not_listed_is_refused() {
    let (registry, case, error, _) = with_fault(
        Method::HEAD,
        "/blobs/LAYER",
        1,
        Fault::Status(307, vec![("location", "http://storage.example/blob?signature=secret".to_owned())]),
    )
    .await;
    assert!(
        matches!(&error, PushError::Redirect { target, .. } if target == "http://storage.example"),
        "{error}"
    );
    assert!(!error.to_string().contains("signature"));
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn endless_redirects_end() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let path = format!("/v2/team/app/blobs/{}", case.layer());
    registry.fail(Method::HEAD, &path, 100, Fault::Status(307, vec![("location", path.clone())]));
    let error = case.push().await.unwrap_err();
    assert!(matches!(&error, PushError::Redirect { problem, .. } if problem.contains('5')), "{error}");
}

#[tokio::test]
async fn a_token_service_over_plain_http_of_another_host_gets_no_login() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let challenge = "Bearer realm=\"http://auth.example/token\"".to_owned();
    registry.fail(Method::HEAD, "", 1, Fault::Status(401, vec![("www-authenticate", challenge)]));
    let error = case.push_as(login(&registry, Kind::Password("ci", "secret"))).await.unwrap_err();
    assert!(
        matches!(&error, PushError::Redirect { target, .. } if target == "http://auth.example"),
        "{error}"
    );
}

#[tokio::test]
async fn status_401_without_challenge_is_its_own_error() {
    let (_, _, error, _) = with_fault(Method::POST, "/blobs/uploads/", 100, status(401)).await;
    assert!(matches!(error, PushError::Challenge { .. }), "{error}");
}

#[tokio::test]
async fn status_403_is_not_tried_again() {
    let (registry, case, error, met) = with_fault(Method::PUT, "/manifests/sha256:", 1, status(403)).await;
    assert!(matches!(&error, PushError::Forbidden { repository, .. } if repository == "team/app"), "{error}");
    assert_eq!(met, 1);
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn status_404_to_an_upload_is_its_own_error() {
    let (registry, case, error, _) = with_fault(Method::POST, "/blobs/uploads/", 100, status(404)).await;
    assert!(matches!(error, PushError::NotFound { .. }), "{error}");
    assert!(error.advice().contains("create"), "{}", error.advice());
    assert_eq!(registry.blobs("team/app"), 0);
    drop(case);
}

#[tokio::test]
async fn status_429_is_waited_for_as_long_as_the_registry_asks() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    registry.fail(Method::PUT, "/manifests/", 2, Fault::Status(429, vec![("retry-after", "1".to_owned())]));
    let begun = std::time::Instant::now();
    case.succeeds_afterwards(&registry).await;
    // Not a speed: less would mean that Retry-After was not honoured.
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn status_429_that_asks_for_too_long_fails_at_once_and_says_how_long() {
    let limited = Fault::Status(429, vec![("retry-after", "86400".to_owned())]);
    let (_, _, error, met) = with_fault(Method::POST, "/blobs/uploads/", 1, limited).await;
    let PushError::RateLimited { status: 429, retry_after, attempts: 1, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*retry_after, Some(Duration::from_secs(86400)));
    assert!(met >= 1);
}

#[tokio::test]
async fn a_retry_after_date_counts_from_the_date_of_the_answer() {
    let dates = vec![
        ("date", "Sat, 21 Nov 2026 10:00:00 GMT".to_owned()),
        ("retry-after", "Sat, 21 Nov 2026 11:00:00 GMT".to_owned()),
    ];
    let (_, _, error, _) = with_fault(Method::POST, "/blobs/uploads/", 1, Fault::Status(503, dates)).await;
    assert!(
        matches!(error, PushError::RateLimited { status: 503, retry_after: Some(wait), .. } if wait == Duration::from_secs(3600)),
        "{error}"
    );
}

#[tokio::test]
async fn status_500_is_tried_again_a_bounded_number_of_times() {
    let (registry, case, error, met) = with_fault(Method::PUT, "/manifests/sha256:", 5, status(500)).await;
    assert!(matches!(error, PushError::Server { status: 500, attempts: 5, .. }), "{error}");
    assert_eq!(met, 5);
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn a_few_answers_500_do_not_fail_the_push() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    for (method, path) in [
        (Method::HEAD, "/blobs/"),
        (Method::POST, "/uploads/"),
        (Method::PUT, "/uploads/"),
        (Method::PUT, "/manifests/"),
    ] {
        registry.fail(method, path, 2, status(500));
    }
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_blob_starts_the_blob_again() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    registry.fail(Method::PUT, &case.layer().replace(':', "%3A"), 2, Fault::Cut(1 << 20));
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn a_connection_cut_every_time_is_an_error_that_names_the_blob() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    registry.fail(Method::PUT, &case.layer().replace(':', "%3A"), 5, Fault::Cut(1 << 20));
    let error = case.push().await.unwrap_err();
    let PushError::ConnectionLost { action, attempts: 5, .. } = &error else { panic!("{error}") };
    assert!(action.contains(&case.layer()), "{action}");
    assert_untagged(&registry);
    case.succeeds_afterwards(&registry).await;
}

#[tokio::test]
async fn a_registry_that_does_not_answer_an_upload_is_given_up() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    registry.fail(Method::PUT, "/uploads/", 100, Fault::Silence);
    let config =
        PublisherConfig { stall: Duration::from_millis(200), attempts: 2, ..PublisherConfig::default() };
    let error = publisher_with(config).push(&case.layout, &case.names, &Anonymous).await.unwrap_err();
    assert!(matches!(error, PushError::Stalled { attempts: 2, .. }), "{error}");
    assert_untagged(&registry);
}

#[tokio::test]
async fn no_registry_at_the_address_is_its_own_error() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    drop(registry);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = case.push().await.unwrap_err();
    assert!(matches!(error, PushError::Unreachable { attempts: 5, .. }), "{error}");
}

#[tokio::test]
async fn a_registry_without_tls_that_is_not_listed_is_not_spoken_to_in_plain_http() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let publisher = build_server::publish::Publisher::new(PublisherConfig {
        first_pause: Duration::from_millis(1),
        ..PublisherConfig::default()
    })
    .unwrap();
    let error = publisher.push(&case.layout, &case.names, &Anonymous).await.unwrap_err();
    assert!(matches!(error, PushError::Unreachable { .. }), "{error}");
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_registry_that_stores_something_else_is_found_out() {
    for (method, path) in [(Method::PUT, "/uploads/"), (Method::PUT, "/manifests/sha256:")] {
        let (registry, case, error, _) = with_fault(method, path, 1, Fault::OtherDigest).await;
        assert!(matches!(error, PushError::OtherDigest { .. }), "{error}");
        case.succeeds_afterwards(&registry).await;
    }
}

#[tokio::test]
async fn an_upload_session_without_location_is_a_protocol_error() {
    let (_, _, error, _) = with_fault(Method::POST, "/blobs/uploads/", 1, status(202)).await;
    assert!(matches!(error, PushError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn any_other_status_is_an_error_with_the_registrys_words() {
    let (_, _, error, _) = with_fault(Method::PUT, "/manifests/sha256:", 1, status(418)).await;
    assert!(matches!(error, PushError::Rejected { status: 418, .. }), "{error}");
}

#[tokio::test]
async fn a_failing_tag_says_which_tags_are_written() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let mut case = Case::new(&registry);
    case.names.push(name(&format!("{}/team/app:1.5", registry.host())));
    registry.fail(Method::PUT, "/manifests/1.5", 1, status(403));
    let error = case.push().await.unwrap_err();
    let PushError::Tag { written, source, .. } = &error else { panic!("{error}") };
    assert_eq!(*written, [case.names[0].to_string()]);
    assert!(matches!(**source, PushError::Forbidden { .. }), "{source}");
    assert_eq!(error.reason(), "REGISTRY_FORBIDDEN");
    assert_complete(&registry, &case.image);
}

#[tokio::test]
async fn a_stored_blob_that_changed_is_never_sent_whole() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    let path = case.layout.blob_path(&case.layout.image().blobs[1].digest);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = case.push().await.unwrap_err();
    assert!(matches!(error, PushError::LocalBlob { .. }), "{error}");
    assert_untagged(&registry);
    let whole = registry
        .seen()
        .iter()
        .filter(|seen| seen.method == Method::HEAD && seen.path.contains(&case.layer()))
        .count();
    assert_eq!(whole, 1, "tried again although our own blob is at fault");
    drop(case.directory);
}

#[tokio::test]
async fn a_registry_that_keeps_subjects_gets_no_referrers_tag() {
    let registry = FaultRegistry::start(Guard::Open, true).await;
    let case = Case::new(&registry);
    case.push().await.unwrap();
    assert!(!registry.tags("team/app").contains(&format!("sha256-{}", case.image.root.digest.hex())));
}

fn referrers(registry: &FaultRegistry, case: &Case) -> Vec<serde_json::Value> {
    let tag = format!("sha256-{}", case.image.root.digest.hex());
    let index: serde_json::Value =
        serde_json::from_slice(&registry.manifest("team/app", &tag).unwrap()).unwrap();
    index["manifests"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_registry_without_referrers_gets_a_referrers_tag_with_artifact_types_and_keeps_what_others_put_there()
 {
    let registry = FaultRegistry::start(Guard::Open, false).await;
    let case = Case::new(&registry);
    let tag = format!("sha256-{}", case.image.root.digest.hex());
    let others = serde_json::json!({"mediaType": IMAGE_MANIFEST, "digest": format!("sha256:{}", "ab".repeat(32)), "size": 2, "artifactType": "application/x.sbom", "data": "e30="});
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": [others]});
    registry.put_manifest("team/app", &tag, IMAGE_INDEX, &serde_json::to_vec(&index).unwrap());
    case.push().await.unwrap();
    let entries = referrers(&registry, &case);
    assert_eq!(entries[0], others);
    let mut types: Vec<_> =
        entries[1..].iter().map(|entry| entry["artifactType"].as_str().unwrap()).collect();
    types.sort_unstable();
    let bundle = provenance::sigstore::BUNDLE_MEDIA_TYPE;
    assert_eq!(types, [provenance::evidence::CMW_MEDIA_TYPE, bundle, bundle]);
    // Once more: nothing is doubled.
    case.push().await.unwrap();
    assert_eq!(referrers(&registry, &case).len(), 4);
}

#[tokio::test]
async fn pushes_at_the_same_time_lose_no_referrer() {
    let registry = FaultRegistry::start(Guard::Open, false).await;
    let case = Case::new(&registry);
    let publisher = publisher();
    let mut layouts = Vec::new();
    for number in 0..4 {
        let parts = sign(&Signer::new(), &case.image, &[&case.names[0].without_tag()]);
        let directory = case.directory.path().join(number.to_string());
        std::fs::create_dir(&directory).unwrap();
        layouts.push(result(&directory, &case.image, &parts, &case.names));
    }
    let pushes = layouts.iter().map(|layout| publisher.push(layout, &case.names, &Anonymous));
    for pushed in futures_util::future::join_all(pushes).await {
        pushed.unwrap();
    }
    // Two bundles of each of four keys; the Evidence of the fixture is the same for all.
    assert_eq!(referrers(&registry, &case).len(), 4 * 2 + 1);
    let sig = format!("sha256-{}.sig", case.image.root.digest.hex());
    let sig: serde_json::Value =
        serde_json::from_slice(&registry.manifest("team/app", &sig).unwrap()).unwrap();
    assert_eq!(sig["layers"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_referrers_tag_that_is_no_index_is_left_alone() {
    let registry = FaultRegistry::start(Guard::Open, false).await;
    let case = Case::new(&registry);
    let tag = format!("sha256-{}", case.image.root.digest.hex());
    registry.put_manifest("team/app", &tag, IMAGE_MANIFEST, b"{}");
    let error = case.push().await.unwrap_err();
    assert!(matches!(&error, PushError::SharedTag { tag: got, .. } if *got == tag), "{error}");
    assert_eq!(registry.manifest("team/app", &tag).as_deref(), Some(b"{}".as_slice()));
    assert_untagged(&registry);
}
