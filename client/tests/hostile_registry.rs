//! Registries that send what no registry should, or what strangers put into them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use client::image::registry::{RemoteImage, fetch};
use client::image::{ImageError, gather};
use client::key::{CallerKey, public_pem};
use provenance::digest::Sha256Digest;
use provenance::dsse::REFERENCE_VALUES_PAYLOAD_TYPE;
use provenance::evidence::CMW_MEDIA_TYPE;
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EVIDENCE: &[u8] = b"the Evidence";

/// A registry that answers `/v2/` and sends without end whatever else it is asked for. Gives its address.
fn endless() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let count = stream.read(&mut request).unwrap_or(0);
                if request[..count].starts_with(b"GET /v2/ ") {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
                // Ends when the other side has had enough.
                while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
            });
        }
    });
    address
}

#[test]
fn a_manifest_without_an_end_is_given_up_at_the_limit() {
    let output = Command::new(env!("CARGO_BIN_EXE_sealwright"))
        .args(["inspect", &format!("{}/some/image:1", endless())])
        .output()
        .expect("the command starts");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("manifests/1 has more than 4194304 bytes"), "{text}");
}

/// A registry with one image, which has Evidence beside it, and what strangers attached.
#[derive(Default)]
struct Registry {
    /// By path below the repository.
    documents: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Its list of referrers.
    list: Vec<Value>,
    image: Value,
    asked: AtomicUsize,
    sent: AtomicU64,
}

impl Registry {
    fn new() -> Self {
        let mut registry = Self::default();
        let config = registry.put("blobs", b"{}", "application/vnd.oci.image.config.v1+json");
        let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
        registry.image = registry.put("manifests", image.to_string().as_bytes(), MANIFEST);
        registry
            .documents
            .get_mut()
            .expect("documents")
            .insert("manifests/1".to_owned(), image.to_string().into_bytes());
        registry
    }

    /// Keeps a blob or manifest and gives its descriptor.
    fn put(&self, kind: &str, bytes: &[u8], media_type: &str) -> Value {
        let digest = Sha256Digest::of(bytes);
        self.documents.lock().expect("documents").insert(format!("{kind}/{digest}"), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn attach(&mut self, artifact_type: &str, layers: &[Value], padding: &str) {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": artifact_type, "layers": layers,
            "subject": self.image, "annotations": {"n": self.list.len().to_string(), "padding": padding}});
        let mut descriptor = self.put("manifests", manifest.to_string().as_bytes(), MANIFEST);
        descriptor["artifactType"] = json!(artifact_type);
        self.list.push(descriptor);
    }

    fn attach_evidence(&mut self) {
        let layer = self.put("blobs", EVIDENCE, CMW_MEDIA_TYPE);
        self.attach(CMW_MEDIA_TYPE, &[layer], "");
    }

    /// Answers on a port of this machine; gives the address.
    fn serve(self) -> (String, Arc<Self>) {
        let referrers = json!({"schemaVersion": 2, "manifests": self.list}).to_string().into_bytes();
        let path = format!("referrers/{}", self.image["digest"].as_str().expect("a digest"));
        self.documents.lock().expect("documents").insert(path, referrers);
        let registry = Arc::new(self);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let served = Arc::clone(&registry);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 4096];
                let count = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let found = match path {
                    "/v2/" => Some(Vec::new()),
                    path => {
                        served.asked.fetch_add(1, Ordering::Relaxed);
                        let path = path.strip_prefix("/v2/some/image/").unwrap_or_default();
                        served.documents.lock().expect("documents").get(path).cloned()
                    }
                };
                let status = if found.is_some() { "200 OK" } else { "404 Not Found" };
                let body = found.unwrap_or_default();
                served.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                // Ends when the other side has had enough.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            }
        });
        (address, registry)
    }
}

/// The image as it is fetched, and what the registry was asked for.
fn fetched(registry: Registry) -> (RemoteImage, Arc<Registry>) {
    let (address, registry) = registry.serve();
    let name = format!("{address}/some/image:1").parse().expect("a name");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    (runtime.block_on(fetch(&name, None)).expect("the image"), registry)
}

fn evidence(image: &RemoteImage) -> Vec<Vec<u8>> {
    gather(image, image.target, &image.attached).expect("the image").0.evidence
}

#[test]
fn entries_of_strangers_in_the_list_hide_nothing() {
    let mut registry = Registry::new();
    let digest = format!("sha256:{}", "ab".repeat(32));
    registry.list = vec![
        json!({"mediaType": MANIFEST, "digest": format!("sha512:{}", "ab".repeat(64)), "size": 3}),
        json!({"mediaType": MANIFEST, "digest": digest, "size": 3, "annotations": null}),
        json!({"mediaType": MANIFEST, "digest": digest, "size": -1}),
        json!(null),
    ];
    registry.attach_evidence();
    // A manifest that no registry should have taken.
    registry.attach(CMW_MEDIA_TYPE, &[], &"A".repeat(4 << 20));
    registry.attach_evidence();
    let (image, _) = fetched(registry);
    assert_eq!(evidence(&image), [EVIDENCE]);
    assert!(image.left_out.is_none(), "{:?}", image.left_out);
}

#[test]
fn of_an_attachment_only_layers_of_the_kinds_that_are_read_are_asked_for_and_not_without_end() {
    let mut registry = Registry::new();
    let layer = |kind: &str, number: usize| {
        let digest = Sha256Digest::of(&number.to_be_bytes());
        json!({"mediaType": kind, "digest": digest, "size": 0})
    };
    let many: Vec<Value> = (0..20_000).map(|number| layer("x/y", number)).collect();
    registry.attach("x/y", &many, "");
    registry.attach_evidence();
    let (image, registry) = fetched(registry);
    assert_eq!(evidence(&image), [EVIDENCE]);
    assert!(image.left_out.is_none(), "{:?}", image.left_out);
    // The image, its list, the tags `.sig` and `.att`, two attachments and the Evidence.
    assert_eq!(registry.asked.load(Ordering::Relaxed), 7);

    let mut registry = Registry::new();
    let many: Vec<Value> = (0..20_000).map(|number| layer(CMW_MEDIA_TYPE, number)).collect();
    registry.attach(CMW_MEDIA_TYPE, &many, "");
    registry.attach_evidence();
    let (image, registry) = fetched(registry);
    assert!(evidence(&image).contains(&EVIDENCE.to_vec()));
    assert!(image.left_out.is_none(), "{:?}", image.left_out);
    assert_eq!(registry.asked.load(Ordering::Relaxed), 7 + 256);
}

#[test]
fn what_strangers_attach_is_looked_at_last_and_up_to_a_number_of_requests() {
    let mut registry = Registry::new();
    for _ in 0..1100 {
        registry.attach("x/y", &[], "");
    }
    registry.attach_evidence();
    let (image, registry) = fetched(registry);
    assert_eq!(evidence(&image), [EVIDENCE]);
    let left_out = image.left_out;
    assert!(matches!(left_out, Some(ImageError::TooManyRequests { limit: 1024 })), "{left_out:?}");
    // The list is not counted.
    assert_eq!(registry.asked.load(Ordering::Relaxed), 1024 + 1);
}

#[test]
fn what_strangers_attach_is_looked_at_last_and_up_to_a_number_of_bytes() {
    let mut registry = Registry::new();
    let padding = "A".repeat((4 << 20) - 1000);
    for _ in 0..70 {
        registry.attach("x/y", &[], &padding);
    }
    registry.attach_evidence();
    let (image, registry) = fetched(registry);
    assert_eq!(evidence(&image), [EVIDENCE]);
    let left_out = image.left_out;
    assert!(matches!(left_out, Some(ImageError::TooManyBytes { limit: 268_435_456 })), "{left_out:?}");
    assert!(registry.sent.load(Ordering::Relaxed) < (256 + 5) << 20);
}

/// The command with a home of its own: exit code, stdout and stderr.
fn sealwright(home: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealwright"));
    let output = command.env_clear().env("HOME", home).current_dir(home).args(arguments).output();
    let output = output.expect("the command starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Writes some policy.
fn policy(home: &Path, file: &str) {
    let (code, ..) = sealwright(home, &["key", "new", "key.pem"]);
    assert_eq!(code, Some(0));
    let key = CallerKey::load(&home.join("key.pem")).expect("a key");
    let digest = Sha256Digest::of(b"x");
    let values = json!({"build_policies": [digest], "builder_ids": ["https://b.example"], "guest_version": 1, "name": "some",
        "platforms": {"sev-snp": {"measurements": ["01".repeat(48)]}}, "trust_configurations": [digest],
        "type": "https://sealwright.dev/reference-values/v1"});
    let values = key.sign_envelope(REFERENCE_VALUES_PAYLOAD_TYPE, values.to_string().into_bytes());
    fs::write(home.join("values.json"), values.expect("signed").to_json()).expect("file");
    fs::write(home.join("public.pem"), public_pem(key.public())).expect("file");
    let arguments =
        ["policy", "init", "--from", "values.json", "--release-key", "public.pem", "--caller", "public.pem"];
    let (code, text, problem) = sealwright(home, &arguments);
    assert_eq!(code, Some(0), "{problem}");
    fs::write(home.join(file), text).expect("file");
}

#[test]
fn that_not_everything_was_looked_at_is_told() {
    let mut registry = Registry::new();
    for _ in 0..1100 {
        registry.attach("x/y", &[], "");
    }
    let (address, _) = registry.serve();
    let image = format!("{address}/some/image:1");
    let home = tempfile::tempdir().expect("a directory");
    policy(home.path(), "policy.toml");
    let wanted = "what is attached to the image takes more than 1024 requests to read; the rest is not looked at: remove";
    let (code, text, _) = sealwright(home.path(), &["inspect", &image]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(wanted), "{text}");
    let (code, text, told) = sealwright(home.path(), &["verify", "--policy", "policy.toml", &image]);
    assert_eq!(code, Some(4), "{told}");
    assert!(text.contains("no Evidence is attached"), "{text}");
    assert!(told.contains("left out") && told.contains(wanted), "{told}");
}
