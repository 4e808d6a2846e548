//! What goes wrong with the machine and its configuration: each gets its own clear error, and nothing is lost.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealwright_tests::harness::supervise::wait_for;
use sealwright_tests::harness::{DevServer, Settings};
use sealwright_tests::tools::base_image;

fn context(server: &DevServer, name: &str, dockerfile: &str) -> PathBuf {
    let directory = server.work().join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    std::fs::write(directory.join("Dockerfile"), dockerfile).expect("file");
    directory
}

/// A step takes every byte, so that neither the service nor BuildKit could write any more.
#[test]
fn a_disk_that_a_step_filled_is_emptied_again_without_anybody() {
    let server = DevServer::with(Settings { state_megabytes: Some(1000), ..Settings::default() });
    let base = format!("debian:bookworm=oci-layout://{}:bookworm", base_image().display());
    let fill = "FROM debian:bookworm\nRUN dd if=/dev/zero of=/full bs=1M; ls /full; exit 7\n";
    let fill = context(&server, "fill", fill).display().to_string();
    let output = |name: &str| format!("type=oci,dest={}", server.work().join(name).display());
    let filled =
        server.sealwright(["build", "--build-context", &base, "--output", &output("full.oci"), &fill]);
    assert!([1, 6].contains(&filled.code), "{}", filled.stderr);
    let small = context(&server, "small", "FROM scratch\nCOPY Dockerfile /\n").display().to_string();
    let again = ["build", "-q", "--output", &output("small.oci"), &small];
    wait_for("the space to come back", Duration::from_secs(120), || {
        (server.sealwright(again).code == 0).then_some(())
    });
}

#[test]
fn a_full_disk_is_named_and_what_was_there_stays() {
    let server = DevServer::with(Settings { state_megabytes: Some(40), ..Settings::default() });
    let source = context(&server, "small", "FROM scratch\nCOPY Dockerfile /\n");
    let output = |name: &str| format!("type=oci,dest={}", server.work().join(name).display());
    let small = source.display().to_string();
    server.sealwright(["build", "-q", "--build-id", "first", "--output", &output("first.oci"), &small]).ok();
    let big = context(&server, "big", "FROM scratch\nCOPY . /\n");
    let mut bytes = Vec::new();
    let mut state = 1_u32;
    for _ in 0..(15 << 20) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    std::fs::write(big.join("noise"), bytes).expect("file");
    // The upload meets the end of the disk, or the job store beside it: whichever writes first.
    let big = big.display().to_string();
    let said = server.sealwright([
        "build",
        "--progress",
        "plain",
        "--build-id",
        "big",
        "--output",
        &output("big.oci"),
        &big,
    ]);
    assert!([1, 6].contains(&said.code), "{}", said.stderr);
    said.says("no space left").says("what to do: ask the operator to free space");
    assert!(!server.work().join("big.oci").exists());
    // Nothing is lost, and what fits is built.
    server.sealwright(["download", "first", "--output", &output("again.oci")]).ok();
    server
        .sealwright(["verify", &server.work().join("again.oci").display().to_string()])
        .ok()
        .says("TRUSTED");
    let source = context(&server, "small", "FROM scratch\nCOPY Dockerfile /another\n");
    // The space of the upload comes back once the server has noticed that its client is gone.
    let source = source.display().to_string();
    let again = ["build", "-q", "--output", &output("second.oci"), &source];
    wait_for("the space to come back", Duration::from_secs(60), || {
        (server.sealwright(again).code == 0).then_some(())
    });
}

#[test]
fn a_context_beyond_the_limits_is_refused_with_the_limit() {
    let limits = "[contexts]\nblob_bytes = \"64 KiB\"\nentries = 20\n";
    let server = DevServer::with(Settings { operations: Some(limits), ..Settings::default() });
    let output = format!("type=oci,dest={}", server.work().join("x.oci").display());
    let large = context(&server, "large", "FROM scratch\nCOPY . /\n");
    std::fs::write(large.join("large"), vec![1_u8; (64 << 10) + 1]).expect("file");
    server
        .sealwright(["build", "--output", &output, &large.display().to_string()])
        .code(2)
        .says("65536")
        .says("what to do: leave the file out (.dockerignore), or ask the operator for a larger limit");
    let many = context(&server, "many", "FROM scratch\nCOPY . /\n");
    for number in 0..30 {
        std::fs::write(many.join(format!("file-{number}")), "").expect("file");
    }
    server
        .sealwright(["build", "--output", &output, &many.display().to_string()])
        .code(1)
        .says("the tree has more than 20 entries")
        .says("what to do: ");
}

#[test]
fn configuration_is_refused_with_file_key_and_what_is_wanted() {
    let operations = |text| Settings { operations: Some(text), ..Settings::default() };
    for (settings, wanted) in [
        (operations("parallell = 3\n"), vec!["parallell", "unknown"]),
        (operations("[builds]\nparallel = 0\n"), vec!["builds.parallel"]),
        (operations("[builds]\ndeadline = \"soon\"\n"), vec!["deadline", "soon"]),
        (
            Settings { trust: Some("builder_id = \"x\"\nadmit_everybody = true\n"), ..Settings::default() },
            vec!["admit_everybody"],
        ),
        (
            Settings {
                trust: Some("builder_id = \"https://example.test/b\"\n[build_policy]\n"),
                ..Settings::default()
            },
            vec!["admitted_projects", "is empty"],
        ),
    ] {
        let said = DevServer::refuses(&settings);
        assert!(said.contains("exit status 1"), "{said}");
        for word in wanted {
            assert!(said.contains(word), "`{word}` is missing: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn of_a_context_only_what_the_server_lacks_is_sent() {
    let server = DevServer::start();
    let context = context(&server, "sent", "FROM scratch\nCOPY . /all/\n");
    std::fs::create_dir(context.join("inner")).expect("directory");
    std::fs::write(context.join("inner/same"), "the same\n").expect("file");
    std::fs::write(context.join("changes"), "one\n").expect("file");
    let build = |round: &str| {
        let output = format!("type=oci,dest={}", server.work().join(round).display());
        let context = context.display().to_string();
        server.sealwright(["build", "--progress", "plain", "--output", &output, &context]).ok()
    };
    // Three files, two directories, and the one that holds only the Dockerfile.
    build("first").says("(6 new, ");
    // Digests of files that were written less than two seconds before a scan are not remembered.
    std::thread::sleep(Duration::from_millis(2100));
    build("unchanged").says("(nothing new)");
    // The file and the directory that names it.
    std::fs::write(context.join("changes"), "two\n").expect("file");
    build("changed").says("(2 new, ");

    // What the server had once it need not have for ever.
    let contexts = server.state().join("contexts");
    let mut removed = 0;
    for project in std::fs::read_dir(&contexts).expect("projects") {
        for top in ["blobs", "roots"] {
            removed += remove_files(&project.as_ref().expect("a project").path().join(top));
        }
    }
    assert!(removed >= 7, "{removed} files below {}", contexts.display());
    std::fs::write(context.join("changes"), "three\n").expect("file");
    build("again").says("(6 new, ");
    server.sealwright(["verify", &server.work().join("again").display().to_string()]).ok().says("TRUSTED");
}

/// Removes the files below a directory, and leaves directories.
fn remove_files(directory: &Path) -> usize {
    let mut removed = 0;
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            removed += remove_files(&entry.path());
        } else {
            std::fs::remove_file(entry.path()).expect("removed");
            removed += 1;
        }
    }
    removed
}
