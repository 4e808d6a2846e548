//! A built layout, altered in every way that somebody who holds it can think of: `sealwright verify` says what does not
//! hold, with the same exit code and reason each time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sealwright_tests::harness::altered::{Altered, EVIDENCE};
use sealwright_tests::harness::layout::{Layout, text};
use sealwright_tests::harness::{DevServer, Output};
use serde_json::Value;

/// A server, and layouts of three images that it built for the same caller and project.
struct Built {
    server: DevServer,
    ours: Layout,
    other: Layout,
    platforms: Layout,
    tar: PathBuf,
}

static BUILT: LazyLock<Built> = LazyLock::new(|| {
    let server = DevServer::start();
    let build = |name: &str, output: &str, flags: &[&str]| {
        let context = server.work().join(format!("context-{name}"));
        std::fs::create_dir_all(&context).expect("directory");
        std::fs::write(
            context.join("Dockerfile"),
            format!("FROM scratch\nCOPY Dockerfile /{name}\nLABEL name={name}\n"),
        )
        .expect("file");
        let path = server.work().join(output);
        let output = format!("type=oci,dest={}", path.display());
        let mut command = server.command(["build", "-q", "-t", "example.test/app:1", "--output", &output]);
        Output::of(command.args(flags).arg(context)).ok();
        path
    };
    let ours = Layout::at(build("ours", "ours", &[]));
    let other = Layout::at(build("other", "other", &[]));
    let platforms = Layout::at(build("platforms", "platforms", &["--platform", "linux/amd64,linux/arm64"]));
    let tar = build("ours", "ours.tar", &[]);
    Built { server, ours, other, platforms, tar }
});

/// What `verify --json` says: exit code, and link or reason.
fn judge(path: &Path) -> (i32, String) {
    let output = BUILT.server.sealwright(["verify", "--json", &path.display().to_string()]);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    let verdict: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let reason = match (&verdict["refusal"]["link"], &verdict["error"]["reason"]) {
        (Value::String(link), _) => format!("{link}: {}", text(&verdict["refusal"]["class"])),
        (_, Value::String(reason)) => reason.clone(),
        _ if verdict["outcome"] == "trusted" => "trusted".to_owned(),
        _ => panic!("no verdict: {}{}", output.stdout, output.stderr),
    };
    (output.code, reason)
}

fn copy_of(layout: &Layout) -> Altered {
    Altered::copy_of(layout, &BUILT.server.work())
}

const UNTRUSTED: i32 = 4;

/// Digests of the blobs of a layout, with what `verify` says when the blob is damaged.
fn roles(layout: &Layout) -> BTreeMap<String, &'static str> {
    let mut roles: BTreeMap<String, &'static str> = BTreeMap::new();
    for file in layout.all_files() {
        let name = file.file_name().expect("has a name").to_string_lossy().into_owned();
        if file.parent().is_some_and(|parent| parent.ends_with("sha256")) {
            roles.insert(format!("sha256:{name}"), "image: not-authentic");
        }
    }
    for entry in layout.index()["manifests"].as_array().expect("manifests").iter().skip(1) {
        let manifest = layout.json(&text(&entry["digest"]));
        for layer in
            manifest["layers"].as_array().into_iter().flatten().filter(|layer| layer["mediaType"] == EVIDENCE)
        {
            for digest in [&entry["digest"], &layer["digest"]] {
                roles.insert(text(digest), "hardware: not-authentic");
            }
        }
    }
    roles.insert(layout.image_digest(), "DAMAGED");
    roles
}

#[test]
fn what_is_not_altered_is_trusted() {
    for path in [BUILT.ours.root(), BUILT.other.root(), BUILT.platforms.root(), &BUILT.tar] {
        assert_eq!(judge(path), (0, "trusted".to_owned()), "{}", path.display());
    }
}

#[test]
fn no_blob_can_be_altered_cut_extended_or_dropped() {
    type Alteration = fn(&Path);
    let alterations: [(&str, Alteration); 4] = [
        ("one byte altered", |path| {
            let mut bytes = std::fs::read(path).expect("blob");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).expect("blob");
        }),
        ("one byte more", |path| {
            let mut bytes = std::fs::read(path).expect("blob");
            bytes.push(b'\n');
            std::fs::write(path, bytes).expect("blob");
        }),
        ("one byte less", |path| {
            let mut bytes = std::fs::read(path).expect("blob");
            bytes.pop();
            std::fs::write(path, bytes).expect("blob");
        }),
        ("dropped", |path| std::fs::remove_file(path).expect("blob")),
    ];
    for layout in [&BUILT.ours, &BUILT.platforms] {
        for (digest, wanted) in roles(layout) {
            for (what, alter) in &alterations {
                let copy = copy_of(layout);
                alter(&copy.layout().blob_path(&digest));
                assert_eq!(judge(copy.path()), (UNTRUSTED, wanted.to_owned()), "{digest} {what}");
            }
        }
    }
}

#[test]
fn an_image_in_the_place_of_another_is_refused() {
    // The index names the other image, whose blobs are all there, beside what was made for ours.
    let copy = copy_of(&BUILT.ours);
    for file in
        BUILT.other.all_files().iter().filter(|file| file.parent().is_some_and(|p| p.ends_with("sha256")))
    {
        std::fs::copy(
            file,
            copy.layout().root().join("blobs/sha256").join(file.file_name().expect("has a name")),
        )
        .expect("copy");
    }
    let image = BUILT.other.index()["manifests"][0].clone();
    copy.index(|manifests| manifests[0] = image);
    // What was made for ours counts as further images.
    assert_eq!(judge(copy.path()), (2, "USAGE".to_owned()));
    let named = format!("oci-layout://{}@{}", copy.path().display(), BUILT.other.image_digest());
    assert_eq!(judge(Path::new(&named)), (UNTRUSTED, "hardware: not-authentic".to_owned()));
    // The same, with everything that stands beside it made to refer to it.
    let (ours, theirs) = (BUILT.ours.image_digest(), BUILT.other.image_digest());
    relabel(&copy, &ours, &theirs, BUILT.other.blob(&theirs).len());
    assert_eq!(judge(copy.path()), (UNTRUSTED, "image: not-authentic".to_owned()));
}

/// Makes every artefact refer to another image.
fn relabel(copy: &Altered, from: &str, to: &str, size: usize) {
    let layout = copy.layout();
    let tag = |digest: &str| digest.replace(':', "-");
    copy.index(|manifests| {
        for entry in manifests.iter_mut().skip(1) {
            let mut manifest = layout.json(&text(&entry["digest"]));
            if manifest["subject"]["digest"] == *from {
                manifest["subject"]["digest"] = to.into();
                manifest["subject"]["size"] = size.into();
            }
            (entry["digest"], entry["size"]) = copy.store(manifest.to_string().as_bytes());
            if let Some(Value::String(name)) =
                entry.pointer_mut("/annotations/org.opencontainers.image.ref.name")
            {
                *name = name.replace(&tag(from), &tag(to));
            }
        }
    });
}

#[test]
fn an_image_altered_with_all_digests_set_right_is_refused() {
    let copy = copy_of(&BUILT.ours);
    let digest = BUILT.ours.image_digest();
    let mut manifest = BUILT.ours.json(&digest);
    let mut config = BUILT.ours.config(&manifest);
    config["config"]["Labels"]["name"] = "evil".into();
    (manifest["config"]["digest"], manifest["config"]["size"]) = copy.store(config.to_string().as_bytes());
    let bytes = manifest.to_string().into_bytes();
    let (evil, size) = copy.store(&bytes);
    copy.index(|manifests| (manifests[0]["digest"], manifests[0]["size"]) = (evil.clone(), size));
    relabel(&copy, &digest, &text(&evil), bytes.len());
    assert_eq!(judge(copy.path()), (UNTRUSTED, "image: not-authentic".to_owned()));
}

#[test]
fn evidence_and_signatures_of_another_build_are_refused() {
    let theirs = |wanted: &str| -> Vec<Vec<u8>> {
        let manifests = BUILT.other.index()["manifests"].as_array().expect("manifests").clone();
        let layers = manifests.iter().skip(1).flat_map(|entry| {
            BUILT.other.json(&text(&entry["digest"]))["layers"].as_array().cloned().unwrap_or_default()
        });
        layers
            .filter(|layer| layer["mediaType"] == wanted)
            .map(|layer| BUILT.other.blob(&text(&layer["digest"])))
            .collect()
    };
    let exchanged = |wanted: &[&str]| {
        let copy = copy_of(&BUILT.ours);
        let mut pools: BTreeMap<String, std::vec::IntoIter<Vec<u8>>> =
            wanted.iter().map(|kind| ((*kind).to_owned(), theirs(kind).into_iter())).collect();
        let mut exchanged = 0;
        copy.artefacts(|kind, bytes| {
            if let Some(pool) = pools.get_mut(kind) {
                *bytes = pool.next().expect("as many as ours");
                exchanged += 1;
            }
        });
        assert!(exchanged > 0, "{wanted:?} is there to be exchanged");
        judge(copy.path())
    };
    let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let (envelope, simple) =
        ("application/vnd.dsse.envelope.v1+json", "application/vnd.dev.cosign.simplesigning.v1+json");
    // Their report covers their statement, which is not here; ours is not covered by it.
    assert_eq!(exchanged(&[EVIDENCE]), (UNTRUSTED, "key: not-authentic".to_owned()));
    // Our report covers our statement, which is not here.
    assert_eq!(exchanged(&[bundle, envelope]), (UNTRUSTED, "key: not-authentic".to_owned()));
    assert_eq!(exchanged(&[bundle, envelope, simple]), (UNTRUSTED, "key: not-authentic".to_owned()));
    // All of it is theirs: whole, authentic, and about another image.
    assert_eq!(
        exchanged(&[bundle, envelope, simple, EVIDENCE]),
        (UNTRUSTED, "image: not-authentic".to_owned())
    );
}

#[test]
fn no_byte_of_the_evidence_can_be_altered_with_all_digests_set_right() {
    let mut size = 0;
    copy_of(&BUILT.ours).artefacts(|kind, bytes| {
        if kind == EVIDENCE {
            size = bytes.len()
        }
    });
    assert!(size > 4000, "a report and its certificates: {size} bytes");
    for at in (0..size).step_by(83) {
        let copy = copy_of(&BUILT.ours);
        copy.artefacts(|kind, bytes| {
            if kind == EVIDENCE {
                // Another letter of base64 or of JSON, so that most changes get past the first parser.
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            }
        });
        let (code, reason) = judge(copy.path());
        assert!([UNTRUSTED, 8].contains(&code), "byte {at} of the Evidence altered: exit {code}, {reason}");
    }
}

#[test]
fn an_altered_index_or_archive_never_shows_another_image_as_trusted() {
    let image = BUILT.ours.image_digest();
    let check = |path: &Path, what: &str| {
        let output = BUILT.server.sealwright(["verify", "--json", &path.display().to_string()]);
        assert!(!output.stderr.contains("panicked"), "{what}: {}", output.stderr);
        match output.code {
            // Not every byte means something: annotations, times and padding of the archive do not.
            0 => assert_eq!(output.json()["target"], *image, "{what}"),
            2 | 4 => {}
            code => panic!("{what}: exit {code}\n{}", output.stderr),
        }
    };
    let copy = copy_of(&BUILT.ours);
    let path = copy.layout().root().join("index.json");
    let index = std::fs::read(&path).expect("index");
    for at in (0..index.len()).step_by(17) {
        let mut altered = index.clone();
        altered[at] ^= 1;
        std::fs::write(&path, altered).expect("index");
        check(copy.path(), &format!("byte {at} of the index"));
    }
    let archive = std::fs::read(&BUILT.tar).expect("archive");
    let path = BUILT.server.work().join("altered.tar");
    for at in (0..archive.len()).step_by(archive.len() / 150) {
        let mut altered = archive.clone();
        altered[at] ^= 1;
        std::fs::write(&path, altered).expect("archive");
        check(&path, &format!("byte {at} of the archive"));
    }
    for length in (0..archive.len()).step_by(archive.len() / 40) {
        std::fs::write(&path, &archive[..length]).expect("archive");
        check(&path, &format!("the archive cut after {length} bytes"));
    }
}
