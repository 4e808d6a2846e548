//! The rows, in groups that share their contexts.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sealwright_tests::harness::DevServer;
use sealwright_tests::registry::RegistryProcess;
use sealwright_tests::tools::tool;
use serde_json::Value;

use super::contexts::{self, Noise};
use super::measure::{median, processor_time, reset_peak, resident, settle, time, time_to_line, turns};
use super::report::{Aim, Report};

/// A signing configuration without services (protobuf-specs, SigningConfig v0.2): cosign then asks nobody.
const NO_SERVICES: &str = r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogUrls":[],"tsaUrls":[],"rekorTlogConfig":{"selector":"ANY"},"tsaConfig":{"selector":"ANY"}}"#;

/// Rounds of the rows of a gigabyte.
const ROUNDS: usize = 3;
/// Files above this size, in bytes, go after each of them.
const LARGE_FILE: u64 = 256 << 20;

/// The server, and where things lie.
pub(crate) struct Bench {
    server: DevServer,
    work: PathBuf,
    noise: Noise,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Bench {
    pub(crate) fn new() -> Result<Self> {
        let server = DevServer::start();
        let work = server.work();
        let bench = Self { server, work, noise: Noise::fresh() };
        // The first build starts the project's daemon, and the software TEE has made its keys by now.
        contexts::small(&bench.path("small"))?;
        bench.ours("small", "small", &[])?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// `sealwright build` of a context to a layout directory.
    fn build(&self, context: &str, output: &str, more: &[&str]) -> Command {
        let destination = format!("type=oci,dest={}", text(&self.path(&format!("out-{output}"))));
        let context = text(&self.path(context));
        let mut command = self.server.command(["build", &context, "--progress", "plain"]);
        if !more.contains(&"--push") {
            command.args(["--output", &destination]);
        }
        command.args(more);
        command
    }

    fn ours(&self, context: &str, output: &str, more: &[&str]) -> Result<Duration> {
        time(&mut self.build(context, output, more))
    }

    /// `buildctl build` of a context, with max provenance, to an archive unless `output` says otherwise.
    fn buildctl(&self, context: &str, output: Option<&str>, more: &[&str]) -> Command {
        let directory = text(&self.path(context));
        let (local, dockerfile) = (format!("context={directory}"), format!("dockerfile={directory}"));
        let archive = format!("type=oci,dest={}", text(&self.path("theirs.tar")));
        let mut command = self.server.buildctl([
            "build",
            "--progress",
            "plain",
            "--frontend",
            "dockerfile.v0",
            "--local",
            &local,
            "--local",
            &dockerfile,
            "--opt",
            "attest:provenance=mode=max",
            "--output",
            output.unwrap_or(&archive),
        ]);
        command.args(more);
        command
    }

    fn theirs(&self, context: &str, more: &[&str]) -> Result<Duration> {
        time(&mut self.buildctl(context, None, more))
    }

    pub(crate) fn start(&mut self, report: &mut Report) -> Result<()> {
        let mut times = Vec::new();
        let mut idle = 0.0_f64;
        for _ in 0..7 {
            if self.server.terminate() != 0 {
                bail!("the server did not end well\n{}", self.server.log());
            }
            let started = Instant::now();
            self.server.restart();
            times.push(started.elapsed());
            idle = idle.max(resident(self.server.service_pid())?.0);
        }
        eprintln!("   {times:.2?}");
        report.time("server start to ready, without buildkitd", median(times), Duration::from_millis(500));
        report.memory("resident memory, idle after start", idle, 64.0);
        // Starts the daemon again.
        self.ours("small", "small", &[])?;
        Ok(())
    }

    pub(crate) fn cached(&mut self, report: &mut Report) -> Result<()> {
        self.theirs("small", &[])?;
        let medians = turns(25, |_| self.ours("small", "small", &[]), |_| self.theirs("small", &[]))?;
        report.ratio("cached small build to a layout with signature and Evidence", medians, Aim::Ratio(1.3));
        Ok(())
    }

    pub(crate) fn push(&mut self, report: &mut Report) -> Result<()> {
        let registry = RegistryProcess::distribution();
        let predicate = self.path("predicate.json");
        self.theirs("small", &[])?;
        fs::write(&predicate, predicate_of(&self.path("theirs.tar"))?.to_string())?;
        let signing = self.path("signing-config.json");
        fs::write(&signing, NO_SERVICES)?;
        let home = self.path("home");
        fs::create_dir_all(&home)?;
        let cosign = |arguments: &[&str]| {
            let mut command = Command::new(tool("cosign"));
            command.args(arguments).current_dir(&home).env("HOME", &home).env("COSIGN_PASSWORD", "");
            command
        };
        if !home.join("cosign.key").exists() {
            time(&mut cosign(&["generate-key-pair"]))?;
        }
        let ours = |round: usize| {
            let name = format!("{}/ours/app-{round}:1", registry.host());
            self.ours("small", "", &["--push", "-t", &name])
        };
        let theirs = |round: usize| {
            let name = format!("{}/theirs/app-{round}", registry.host());
            let metadata = self.path("metadata.json");
            let output = format!("type=image,name={name}:1,push=true,registry.insecure=true");
            let more = ["--metadata-file", &text(&metadata)];
            let mut total = time(&mut self.buildctl("small", Some(&output), &more))?;
            let metadata: Value = serde_json::from_slice(&fs::read(&metadata)?)?;
            let digest = metadata["containerimage.digest"].as_str().context("buildctl names no digest")?;
            let reference = format!("{name}@{digest}");
            let (signing, predicate) = (text(&signing), text(&predicate));
            let common = ["-y", "--key", "cosign.key", "--signing-config", &signing, "--allow-http-registry"];
            total += time(cosign(&["sign"]).args(common).arg(&reference))?;
            let attest = ["attest", "--type", "slsaprovenance1", "--predicate", &predicate];
            total += time(cosign(&attest).args(common).arg(&reference))?;
            Ok(total)
        };
        let medians = turns(11, ours, theirs)?;
        report.ratio(
            "the same pushed, against buildctl, cosign sign and cosign attest",
            medians,
            Aim::Ratio(0.4),
        );
        Ok(())
    }

    pub(crate) fn many_files(&mut self, report: &mut Report) -> Result<()> {
        let mut first = (Vec::new(), Vec::new());
        for _ in 0..3 {
            for name in ["files-ours", "files-theirs"] {
                contexts::many_files(&self.path(name), &mut self.noise)?;
            }
            settle();
            first.0.push(time_to_line(&mut self.build("files-ours", "files", &[]), context_stored)?.0);
            settle();
            first.1.push(time_to_line(&mut self.buildctl("files-theirs", None, &[]), context_loaded())?.0);
        }
        eprintln!("   ours {:.2?}\n   theirs {:.2?}", first.0, first.1);
        report.ratio(
            "20,000 files, upload alone, first time",
            (median(first.0), median(first.1)),
            Aim::Ratio(0.5),
        );

        let mut upload = (Vec::new(), Vec::new());
        // Files that were written a moment ago are hashed again; in a real tree few are.
        std::thread::sleep(Duration::from_secs(2));
        self.ours("files-ours", "files", &[])?;
        let medians = turns(
            9,
            |_| {
                let (stored, end) =
                    time_to_line(&mut self.build("files-ours", "files", &[]), context_stored)?;
                upload.0.push(stored);
                Ok(end)
            },
            |_| {
                let (loaded, end) =
                    time_to_line(&mut self.buildctl("files-theirs", None, &[]), context_loaded())?;
                upload.1.push(loaded);
                Ok(end)
            },
        )?;
        report.ratio(
            "20,000 files, upload alone, unchanged",
            (median(upload.0), median(upload.1)),
            Aim::Ratio(0.5),
        );
        report.ratio("20,000 files, end to end, unchanged", medians, Aim::Ratio(0.85));

        let (ours, theirs) = (self.path("files-ours"), self.path("files-theirs"));
        let (mut one, mut other) = (Noise::fresh(), Noise::fresh());
        let medians = turns(
            7,
            |_| {
                contexts::change_one(&ours, &mut one)?;
                settle();
                self.ours("files-ours", "files", &[])
            },
            |_| {
                contexts::change_one(&theirs, &mut other)?;
                settle();
                self.theirs("files-theirs", &[])
            },
        )?;
        report.ratio("20,000 files, end to end, one file changed", medians, Aim::Ratio(1.0));
        Ok(())
    }

    pub(crate) fn gigabyte(&mut self, report: &mut Report) -> Result<()> {
        let server = self.server.service_pid();
        let (mut context, mut layer) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        let mut again = (Vec::new(), Vec::new());
        let mut used = (Vec::new(), Vec::new());
        let mut peak = 0.0_f64;
        for _ in 0..ROUNDS {
            // One after the other, with everything of the first removed: it is several gigabytes.
            contexts::gigabyte(&self.path("large"), &mut self.noise)?;
            reset_peak(server)?;
            settle();
            let before = processor_time(server)?;
            context.0.push(self.ours("large", "large", &["--target", "small"])?);
            used.0.push(processor_time(server)?.saturating_sub(before));
            for times in [&mut layer, &mut again] {
                settle();
                times.0.push(self.ours("large", "large", &["--target", "large"])?);
            }
            peak = peak.max(resident(server)?.1);
            self.make_room()?;

            contexts::gigabyte(&self.path("large"), &mut self.noise)?;
            settle();
            let before = processor_time(server)?;
            context.1.push(self.theirs("large", &["--opt", "target=small"])?);
            used.1.push(processor_time(server)?.saturating_sub(before));
            for times in [&mut layer, &mut again] {
                settle();
                times.1.push(self.theirs("large", &["--opt", "target=large"])?);
            }
            self.make_room()?;
        }
        for (name, (ours, theirs)) in [("context", &context), ("layer", &layer), ("again", &again)] {
            eprintln!("   {name}\n   ours {ours:.2?}\n   theirs {theirs:.2?}");
        }
        let medians = |(ours, theirs)| (median(ours), median(theirs));
        report.ratio("1 GiB context, first time, end to end", medians(context), Aim::Ratio(1.0));
        report.explain("processor time of the same", medians(used));
        report.ratio("1 GiB layer, solved build to finished layout", medians(layer), Aim::Ratio(0.7));
        report.ratio("the same once more, all cached", medians(again), Aim::Ratio(1.3));
        report.memory("resident memory, highest during a 1 GiB context and image", peak, 128.0);
        let idle = resident(server)?.0;
        report.memory("resident memory, idle after these builds", idle, 64.0);
        Ok(())
    }

    /// Removes what the last gigabyte left: the daemon's cache, and large files of the server, which knows how to
    /// live without them.
    fn make_room(&self) -> Result<()> {
        time(&mut self.server.buildctl(["prune", "--all"]))?;
        for top in ["contexts", "results"] {
            remove_large(&self.server.state().join(top))?;
        }
        Ok(())
    }

    pub(crate) fn verify(&mut self, report: &mut Report) -> Result<()> {
        let layout: OsString = self.path("out-small").into();
        let mut times = Vec::new();
        for _ in 0..25 {
            times.push(time(&mut self.server.command([OsString::from("verify"), layout.clone()]))?);
        }
        report.time(
            "`sealwright verify` of a layout, whole process",
            median(times),
            Duration::from_millis(30),
        );
        Ok(())
    }
}

fn remove_large(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            remove_large(&entry.path())?;
        } else if metadata.is_file() && metadata.len() > LARGE_FILE {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Our line about the uploaded context.
fn context_stored(line: &str) -> bool {
    line.trim_start().starts_with("context ")
}

/// The end of buildctl's step that loads the context.
fn context_loaded() -> impl FnMut(&str) -> bool {
    let mut step = None;
    move |line| {
        if step.is_none() && line.ends_with("[internal] load build context") {
            step = line.split(' ').next().map(|number| format!("{number} DONE"));
        }
        step.as_ref().is_some_and(|done| line.starts_with(done.as_str()))
    }
}

/// The predicate of BuildKit's provenance in an OCI archive.
fn predicate_of(archive: &Path) -> Result<Value> {
    let mut blobs = tar::Archive::new(fs::File::open(archive)?);
    for entry in blobs.entries()? {
        // Statements are small; layers are no JSON.
        let entry = entry?;
        if entry.size() < 1 << 20
            && let Ok(statement) = serde_json::from_reader::<_, Value>(entry)
            && statement["predicateType"]
                .as_str()
                .is_some_and(|kind| kind.starts_with("https://slsa.dev/provenance/"))
        {
            return Ok(statement["predicate"].clone());
        }
    }
    bail!("{} holds no provenance", archive.display())
}
