//! `sealwright endorsements fetch`: what Evidence needs is read from it, AMD and Intel are asked, and what they say is written
//! where `verify --endorsements` takes it. Nothing is judged here.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use client::channel::UnappraisedChannel;
use client::config::{Setting, cache_folder};
use client::endorsements::{Base, Cache, Collected, Collector, FetchError, Patience, Services};
use client::image::{gather, open_local, registry};
use client::session::now;
use provenance::evidence::{EvidenceBundle, MAX_COLLECTION};
use serde_json::json;
use verifier::endorsements::{WantedEndorsements, wanted_endorsements};

use super::args::FetchArgs;
use super::build::runtime;
use super::failure::{Failure, exit};
use super::output::Output;
use super::setup::{Setup, read_file, variable};
use super::verify::{Target, credential, target};

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let (exit, reason) = match &error {
            FetchError::Refused { .. } | FetchError::NotCached { .. } => (exit::FAILED, "NOT_FOUND"),
            FetchError::Client { .. } => (exit::FAILED, "FAILED"),
            FetchError::RateLimited { .. } => (exit::UNAVAILABLE, "ENDORSEMENTS_RATE_LIMITED"),
            FetchError::Unreachable { .. } | FetchError::CutOff { .. } | FetchError::Failing { .. } => {
                (exit::UNAVAILABLE, "ENDORSEMENTS_UNREACHABLE")
            }
            _ => (exit::UNAVAILABLE, "ENDORSEMENTS_UNUSABLE"),
        };
        Self::new(exit, reason, &error).advise(error.advice())
    }
}

/// Fetches, writes the files and prints their paths.
pub(crate) fn fetch(args: &FetchArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let base = |flag: &Option<String>, setting: Setting| {
        let text = flag.as_deref().or_else(|| setup.settings.value(setting)).unwrap_or_default();
        Base::parse(text).map_err(|problem| Failure::usage(format!("{} {problem}", setting.name())))
    };
    let services = Services {
        amd_kds: base(&args.amd_kds, Setting::AmdKds)?,
        intel_pcs: base(&args.intel_pcs, Setting::IntelPcs)?,
        intel_root_crl: base(&args.intel_root_crl, Setting::IntelRootCrl)?,
    };
    let cache = cache_folder(&variable).map(|folder| Cache::new(folder.join("endorsements")));
    let collector = Collector::new(services, cache, Patience::default(), args.cached, now())?;
    let mut wanted: Vec<WantedEndorsements> = Vec::new();
    for bytes in collections(args.target.as_deref(), setup)? {
        let unreadable = |problem: String| {
            Failure::new(exit::NOT_AUTHENTIC, "EVIDENCE", problem)
                .advise("fetch the Evidence again from its source")
        };
        let bundle = EvidenceBundle::parse(&bytes).map_err(|e| unreadable(e.to_string()))?;
        let needs = wanted_endorsements(&bundle.evidence).map_err(|e| unreadable(e.to_string()))?;
        if !wanted.contains(&needs) {
            wanted.push(needs);
        }
    }
    if wanted.is_empty() {
        let failure = Failure::new(
            exit::NOT_AUTHENTIC,
            "NO_EVIDENCE",
            "there is no Evidence to fetch endorsements for",
        );
        return Err(failure.advise("copy the image with its referrers, or name a file of Evidence"));
    }
    let runtime = runtime()?;
    let mut files = Vec::new();
    for needs in &wanted {
        let collected = runtime.block_on(collector.collect(needs))?;
        files.push(write(&args.output, &collected, output)?);
    }
    if output.is_json() {
        output.document(&json!({"files": files}));
    } else {
        let paths: Vec<&str> = files.iter().filter_map(|file| file["path"].as_str()).collect();
        output.data(&(paths.join("\n") + "\n"));
    }
    Ok(0)
}

/// Evidence collections of the target, or of the build server in use.
fn collections(text: Option<&str>, setup: &Setup) -> Result<Vec<Vec<u8>>, Failure> {
    let Some(text) = text else {
        let (endpoint, key) = (setup.endpoint()?, setup.key_or_new()?);
        let evidence = runtime()?
            .block_on(async { UnappraisedChannel::connect(&endpoint, &key).await?.evidence().await })?;
        return Ok(vec![evidence.collection]);
    };
    match target(text)? {
        Target::Local(path, None) if is_json(&path) => {
            Ok(vec![read_file(&path, MAX_COLLECTION, "Evidence")?])
        }
        Target::Local(path, selector) => {
            let image = open_local(&path, selector.as_deref())?;
            Ok(gather(&image, image.image.digest, &image.attached)?.0.evidence)
        }
        Target::Remote(name) => {
            let credential = credential(&name)?;
            let gathered = runtime()?.block_on(async {
                let image = registry::fetch(&name, credential.as_ref()).await?;
                Ok::<_, Failure>(gather(&image, image.target, &image.attached)?.0.evidence)
            });
            gathered.map_err(|failure| Target::taken_for_name(text, &name, failure))
        }
    }
}

/// Whether a path is a file of JSON, as a collection is and neither a layout nor its tar file.
pub(super) fn is_json(path: &Path) -> bool {
    use std::io::Read as _;
    let mut first = [0];
    path.is_file()
        && std::fs::File::open(path)
            .is_ok_and(|mut file| file.read_exact(&mut first).is_ok() && first == *b"{")
}

fn write(folder: &Path, collected: &Collected, output: &Output) -> Result<serde_json::Value, Failure> {
    let path = folder.join(&collected.file_name);
    let failed = |e: std::io::Error| Failure::failed(format!("cannot write {}: {e}", path.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let readable = std::fs::Permissions::from_mode(0o644);
    // Whole or not at all: a server may read the file at this moment.
    let mut draft = tempfile::Builder::new()
        .prefix(".draft-")
        .permissions(readable)
        .tempfile_in(folder)
        .map_err(failed)?;
    draft.write_all(&collected.bytes).map_err(failed)?;
    draft.persist(&path).map_err(|e| failed(e.error))?;
    for asked in &collected.asked {
        match asked.cached {
            None => output.status("fetched", &asked.url),
            Some(when) => output.status("cached", &format!("{} of {when}", asked.url)),
        }
    }
    let asked: Vec<_> =
        collected.asked.iter().map(|asked| json!({"url": asked.url, "cached": asked.cached})).collect();
    Ok(json!({"path": path.display().to_string(), "asked": asked}))
}
