//! Layouts made by somebody else: they cannot make the command wait, fill memory, show another image to
//! other programs, or drive the terminal.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use client::image::{ImageError, gather, open_local};
use provenance::digest::Sha256Digest;
use serde_json::{Value, json};
use verifier::image::MAX_ATTACHED;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const TAG: &str = "org.opencontainers.image.ref.name";

/// A layout of one image without layers, tagged `1`.
struct Layout {
    directory: tempfile::TempDir,
    index: Value,
}

impl Layout {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(directory.path().join("blobs/sha256")).expect("directory");
        fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("file");
        let mut layout = Self { directory, index: json!({"schemaVersion": 2, "manifests": []}) };
        let config = layout.blob(b"{}", "application/vnd.oci.image.config.v1+json");
        layout
            .image(&json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}), "1");
        layout
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Stores a blob and gives its descriptor.
    fn blob(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Sha256Digest::of(bytes);
        fs::write(self.path().join("blobs/sha256").join(digest.hex()), bytes).expect("blob");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn image(&mut self, manifest: &Value, tag: &str) {
        let mut descriptor = self.blob(manifest.to_string().as_bytes(), MANIFEST);
        descriptor["annotations"] = json!({TAG: tag});
        self.index["manifests"].as_array_mut().expect("manifests").push(descriptor);
        self.write(&self.index.to_string());
    }

    fn write(&self, index: &str) {
        fs::write(self.path().join("index.json"), index).expect("index");
    }
}

fn refusal(path: &Path, selector: Option<&str>) -> String {
    match open_local(path, selector) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error.to_string(),
    }
}

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

/// What `work` gives, if it ends at all.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    receive.recv_timeout(Duration::from_secs(10)).expect("it waits for ever")
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let layout = Layout::new();
    let path = layout.path().to_owned();
    let digest: Sha256Digest =
        layout.index["manifests"][0]["digest"].as_str().and_then(|text| text.parse().ok()).expect("a digest");
    fifo(&path.join("blobs/sha256").join(digest.hex()));
    let error = in_time({
        let path = path.clone();
        move || open_local(&path, None).err().expect("no manifest")
    });
    assert!(
        matches!(&error, ImageError::BadBlob { problem, .. } if problem == "it is no regular file"),
        "{error}"
    );
    fifo(&path.join("index.json"));
    let index = path.clone();
    assert!(in_time(move || refusal(&index, None)).contains("no readable `index.json`"));
    let target = path.join("fifo");
    fifo(&target);
    assert!(in_time(move || refusal(&target, None)).contains("it is no regular file"));
}

#[test]
fn an_index_that_others_read_otherwise_is_refused() {
    let layout = Layout::new();
    let manifests = &layout.index["manifests"];
    for key in ["Manifests", "MANIFESTS", "manifeſts"] {
        layout.write(&json!({"schemaVersion": 2, "manifests": manifests, key: []}).to_string());
        assert!(refusal(layout.path(), None).contains("in two spellings"), "{key}");
    }
    let mut other = manifests.clone();
    other[0]["Digest"] = json!(Sha256Digest::of(b"other"));
    layout.write(&json!({"schemaVersion": 2, "manifests": other}).to_string());
    assert!(refusal(layout.path(), None).contains("in two spellings"));
}

#[test]
fn a_tag_of_two_images_names_none() {
    let mut layout = Layout::new();
    let first = layout.index["manifests"][0].clone();
    // The same image twice is one image.
    layout.index["manifests"].as_array_mut().expect("manifests").push(first);
    layout.write(&layout.index.to_string());
    assert!(open_local(layout.path(), Some("1")).is_ok());
    assert!(open_local(layout.path(), None).is_ok());
    let config = layout.blob(b"{} ", "application/vnd.oci.image.config.v1+json");
    layout.image(&json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}), "1");
    assert!(refusal(layout.path(), Some("1")).contains("holds several images `1`"));
}

/// A second image, stored but not listed, whose manifest has more members besides.
fn other_image(layout: &Layout, more: &Value) -> Value {
    let config = layout.blob(b"{\"config\":{}}", "application/vnd.oci.image.config.v1+json");
    let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
    let members = manifest.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    layout.blob(manifest.to_string().as_bytes(), MANIFEST)
}

#[test]
fn a_second_image_does_not_hide_as_what_stands_beside_the_first() {
    let mut layout = Layout::new();
    let image = layout.index["manifests"][0].clone();
    let digest: Sha256Digest = serde_json::from_value(image["digest"].clone()).expect("a digest");
    let subject = json!({"mediaType": MANIFEST, "digest": digest, "size": image["size"]});
    let foreign = json!({"mediaType": MANIFEST, "digest": Sha256Digest::of(b"gone"), "size": 4});
    let tag = |name: String| json!({TAG: name});
    let hex = Sha256Digest::of(b"gone").hex();
    let cases = [
        (json!({}), json!({})),
        (json!({}), json!({"artifactType": ""})),
        (json!({"artifactType": "a/b"}), json!({"artifactType": "a/b"})),
        (json!({"subject": foreign}), json!({"artifactType": "a/b"})),
        (json!({}), json!({"annotations": tag(format!("sha256-{hex}"))})),
        (json!({}), json!({"annotations": tag(format!("sha256-{hex}.sig"))})),
        (json!({}), json!({"annotations": tag(format!("sha256-{}.sbom", digest.hex()))})),
        (json!({}), json!({"annotations": tag(format!("sha256-{}.", digest.hex()))})),
        // It refers to the image, and has a name of its own.
        (json!({"subject": subject}), json!({"annotations": tag("2".to_owned())})),
        (json!({"subject": subject}), json!({"annotations": {"io.containerd.image.name": "example/a:1"}})),
    ];
    let mut entries = Vec::new();
    for (members, listed) in cases {
        let mut entry = other_image(&layout, &members);
        entry.as_object_mut().expect("an object").extend(listed.as_object().expect("an object").clone());
        entries.push(entry);
    }
    // Two that stand beside each other.
    let pair = [other_image(&layout, &json!({"x": 1})), other_image(&layout, &json!({"x": 2}))];
    let hex = |entry: &Value| entry["digest"].as_str().expect("a digest")[7..].to_owned();
    let tags = [&pair[1], &pair[0]].map(|other| tag(format!("sha256-{}.sig", hex(other))));
    let [mut one, mut two] = pair;
    (one["annotations"], two["annotations"]) = (tags[0].clone(), tags[1].clone());
    for hidden in entries.into_iter().map(|entry| vec![entry]).chain([vec![one, two]]) {
        for manifests in
            [[hidden.clone(), vec![image.clone()]].concat(), [vec![image.clone()], hidden].concat()]
        {
            layout.index["manifests"] = json!(manifests);
            layout.write(&layout.index.to_string());
            let error = refusal(layout.path(), None);
            assert!(error.contains("holds several images: "), "{error} {manifests:?}");
            let named = open_local(layout.path(), Some(&digest.to_string())).expect("named by its digest");
            assert_eq!(named.image.digest, digest);
        }
    }
}

#[test]
fn of_several_images_those_are_named_and_not_what_stands_beside_them() {
    let mut layout = Layout::new();
    let image = layout.index["manifests"][0].clone();
    let other = other_image(&layout, &json!({}));
    let beside = other_image(&layout, &json!({"subject": image}));
    layout.index["manifests"] = json!([other, image, beside]);
    layout.write(&layout.index.to_string());
    let digest = |entry: &Value| entry["digest"].as_str().expect("a digest").to_owned();
    let wanted = format!(
        "{}: holds several images: {}, 1 ({}); name one as oci-layout://PATH:TAG or @DIGEST",
        layout.path().display(),
        digest(&other),
        digest(&image)
    );
    assert_eq!(refusal(layout.path(), None), wanted);
}

#[test]
fn what_refers_to_an_image_or_its_children_stands_beside_it() {
    let mut layout = Layout::new();
    let child = layout.index["manifests"][0].clone();
    let hex = |entry: &Value| entry["digest"].as_str().expect("a digest")[7..].to_owned();
    let mut image = layout.blob(
        json!({"schemaVersion": 2, "manifests": [child]}).to_string().as_bytes(),
        "application/vnd.oci.image.index.v1+json",
    );
    image["annotations"] = json!({TAG: "1"});
    let listed = |subject: &Value, x: u32| other_image(&layout, &json!({"subject": subject, "x": x}));
    let tagged = |target: &Value, suffix: &str, x: u32| {
        let mut entry = other_image(&layout, &json!({"x": x}));
        entry["annotations"] = json!({TAG: format!("sha256-{}{suffix}", hex(target))});
        entry
    };
    let of_image = listed(&image, 1);
    let manifests = vec![
        listed(&of_image, 2),
        tagged(&image, "", 3),
        tagged(&image, ".sig", 4),
        tagged(&child, ".att", 5),
        listed(&child, 6),
        of_image,
        image.clone(),
    ];
    layout.index["manifests"] = json!(manifests);
    layout.write(&layout.index.to_string());
    let opened = open_local(layout.path(), None).expect("one image");
    assert_eq!(json!(opened.image.digest), image["digest"]);
    assert_eq!(opened.attached.len(), 6);
    assert!(opened.damage().is_empty());
}

#[test]
fn what_is_read_to_find_the_only_image_has_limits() {
    let mut layout = Layout::new();
    let image = layout.index["manifests"][0].clone();
    layout.index["manifests"] = json!(vec![image.clone(); 1025]);
    layout.write(&layout.index.to_string());
    assert!(refusal(layout.path(), None).contains("lists 1025 manifests, looked at are at most 1024"));
    assert!(open_local(layout.path(), Some("1")).is_ok());
    let long = json!({"subject": image, "x": "x".repeat(4_000_000)});
    layout.index["manifests"] = json!([vec![other_image(&layout, &long); 17], vec![image]].concat());
    layout.write(&layout.index.to_string());
    assert!(refusal(layout.path(), None).contains("more than 67108864 bytes of manifests"));
}

#[test]
fn the_index_gives_the_size_of_the_image() {
    let mut layout = Layout::new();
    let image = layout.index["manifests"][0].clone();
    let size = image["size"].as_u64().expect("a size");
    let mut other = image.clone();
    other["size"] = json!(size + 1);
    for manifests in [vec![other.clone()], vec![image, other]] {
        layout.index["manifests"] = json!(manifests);
        layout.write(&layout.index.to_string());
        for selector in [None, Some("1")] {
            let error = open_local(layout.path(), selector).err().expect("refused");
            let ImageError::DescriptorSize { said, got, .. } = error else { panic!("{error}") };
            assert_eq!((said, got), (size + 1, size));
        }
    }
}

#[test]
fn an_index_that_docker_load_reads_first_is_refused() {
    for name in ["manifest.json", "repositories"] {
        let layout = Layout::new();
        let path = layout.path().join("layout.tar");
        let tar = |path: &Path| {
            let mut command = Command::new("tar");
            command.arg("--exclude=layout.tar").arg("-C").arg(layout.path()).arg("-cf").arg(path).arg(".");
            assert!(command.status().expect("tar").success());
        };
        tar(&path);
        assert!(open_local(&path, None).is_ok());
        fs::write(layout.path().join(name), "[]").expect("file");
        tar(&path);
        for path in [layout.path(), &path] {
            let error = open_local(path, None).err().expect("refused");
            let ImageError::OtherIndex { name: got, .. } = error else { panic!("{error}") };
            assert_eq!(got, name);
        }
    }
}

#[test]
fn a_document_that_is_named_without_end_is_taken_in_once() {
    let mut layout = Layout::new();
    let image = layout.index["manifests"][0].clone();
    let evidence = layout.blob(&vec![b' '; 1 << 20], "application/cmw+json");
    let payload = layout.blob(b"{}", "application/vnd.dev.cosign.simplesigning.v1+json");
    let mut signature = payload;
    signature["annotations"] = json!({"dev.cosignproject.cosign/signature": "AAAA"});
    let layers = [vec![evidence; 5000], vec![signature; 500]].concat();
    let artefact = json!({"schemaVersion": 2, "mediaType": MANIFEST, "subject": image, "layers": layers});
    let mut descriptor = layout.blob(artefact.to_string().as_bytes(), MANIFEST);
    descriptor["artifactType"] = json!("application/cmw+json");
    layout.index["manifests"].as_array_mut().expect("manifests").push(descriptor);
    layout.write(&layout.index.to_string());
    let image = open_local(layout.path(), None).expect("opens");
    let (input, damaged) = gather(&image, image.image.digest, &image.attached).expect("gathers");
    assert!(damaged.is_empty(), "{damaged:?}");
    assert_eq!((input.evidence.len(), input.simple_signatures.len()), (1, MAX_ATTACHED));
}

#[test]
fn nothing_in_a_layout_reaches_the_terminal_as_a_control_character() {
    let mut layout = Layout::new();
    let config = layout.blob(b"{} ", "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []});
    let tag = "\u{1b}[2J\u{9b}31m\u{7}\u{202e}\n  TRUSTED";
    layout.image(&manifest, tag);
    for flags in [&["inspect"][..], &["inspect", "--json"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_sealwright"))
            .args(flags)
            .arg(layout.path())
            .env_clear()
            .env("HOME", layout.path())
            .output()
            .expect("runs");
        assert_eq!(output.status.code(), Some(2));
        let shown = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        assert!(shown.contains("TRUSTED"), "{shown:?}");
        let hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!shown.contains(hostile), "{shown:?}");
        assert!(!shown.lines().any(|line| line == "  TRUSTED"), "{shown:?}");
    }
}
