//! `sealwright verify`: gather, judge, read every blob, print. For a layout nothing but this machine's files
//! is touched, and neither runtime nor network is started.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::docker_config::{DockerConfig, docker_config_folder};
use client::endorsements::pem;
use client::image::{Blobs, ImageError, LocalImage, gather, open_local, registry};
use client::image_name::ImageName;
use client::progress::clean_text;
use client::session::now;
use proto::v1::RegistryCredential;
use provenance::digest::Sha256Digest;
use provenance::tdx_endorsements::TdxEndorsements;
use serde_json::json;
use verifier::given::MAX_FILES;
use verifier::image::{Blob, BlobChecks, BlobError, BlobHasher, CheckedBlob, ImageInput};
use verifier::secure_execution::OwnRequest;
use verifier::verdict::Report;
use verifier::{Endorsements, Policy, verify_image_with_own_requests};

use super::appraise::{own_request, write_ear};
use super::args::VerifyArgs;
use super::build::runtime;
use super::failure::{Failure, exit};
use super::output::Output;
use super::setup::{Setup, read_file, variable};

/// Bytes read at once.
const READ_SIZE: usize = 1 << 20;
/// Largest endorsement file in bytes.
const MAX_ENDORSEMENT: usize = 4 << 20;

/// What an argument names.
pub(crate) enum Target {
    /// A layout directory or tar file, and a tag or digest in it.
    Local(PathBuf, Option<String>),
    /// An image of a registry.
    Remote(ImageName),
}

const WANTED: &str = "give an image name, or the path of an OCI layout or its uncompressed tar file";

impl Target {
    /// A failure with the hint that a mistyped path may have been taken for an image name.
    pub(crate) fn taken_for_name(text: &str, name: &ImageName, failure: Failure) -> Failure {
        let named = text.starts_with(name.registry());
        match failure.exit {
            exit::FAILED | exit::UNAVAILABLE if !named => {
                failure.advise(format!("there is no path `{text}` here, so this was taken for {name}"))
            }
            _ => failure,
        }
    }
}

/// Reads the argument: `oci-layout://PATH[:TAG|@DIGEST]`, a path that exists, or an image name.
pub(crate) fn target(text: &str) -> Result<Target, Failure> {
    if let Some(rest) = text.strip_prefix("oci-layout://") {
        let (path, selector) = match rest.split_once('@') {
            Some((path, digest)) => (path, Some(digest)),
            None if Path::new(rest).exists() => (rest, None),
            None => rest.rsplit_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag))),
        };
        return Ok(Target::Local(PathBuf::from(path), selector.map(str::to_owned)));
    }
    let looks_like_path = text.starts_with('/') || text.starts_with("./") || text.starts_with("../");
    if looks_like_path || Path::new(text).exists() {
        return Ok(Target::Local(PathBuf::from(text), None));
    }
    text.parse().map(Target::Remote).map_err(|e| Failure::usage(e).advise(WANTED))
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let with = |exit, reason: &str| Self::new(exit, reason, &error);
        match &error {
            ImageError::Read { .. } => with(exit::USAGE, "UNREADABLE").advise(WANTED),
            ImageError::NotALayout { .. } => with(exit::USAGE, "USAGE").advise(WANTED),
            ImageError::Archive { .. } => with(exit::USAGE, "ARCHIVE").advise(
                "pack the layout's directory with `tar -C DIRECTORY -cf FILE .`, and verify that file",
            ),
            ImageError::Selection { .. } | ImageError::Name(_) | ImageError::Login(_) => {
                with(exit::USAGE, "USAGE")
            }
            ImageError::OtherIndex { name, .. } => with(exit::USAGE, "OTHER_INDEX").advise(format!(
                "take the layout without `{name}`: `sealwright build` and `docker buildx build -o type=oci` write none"
            )),
            ImageError::Index { .. }
            | ImageError::MissingBlob { .. }
            | ImageError::BadBlob { .. }
            | ImageError::DescriptorSize { .. }
            | ImageError::Manifest { .. } => {
                with(exit::NOT_AUTHENTIC, "DAMAGED").advise("fetch it again from where it came from")
            }
            ImageError::NotFound { .. } => with(exit::FAILED, "NOT_FOUND")
                .advise("check the name; a private registry may need `docker login`"),
            ImageError::Denied { .. } => {
                with(exit::AUTH, "REGISTRY_DENIED").advise("log in with `docker login`")
            }
            _ => with(exit::UNAVAILABLE, "REGISTRY").advise("check the registry's name and the network"),
        }
    }
}

/// Verifies, prints the verdict and gives its exit code.
pub(crate) fn run(args: &VerifyArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let policy = setup.policy()?;
    let target = target(&args.target)?;
    let mut paths = args.endorsements.clone();
    if args.attestation_request.is_some() {
        paths.extend(setup.host_key_documents());
    }
    let endorsements = endorsements(&paths)?;
    let expected_request: Option<Sha256Digest> = match &args.request {
        Some(text) => Some(text.parse().map_err(Failure::usage)?),
        None => None,
    };
    let own: Vec<OwnRequest> = match (&args.attestation_request, &args.attestation_request_key) {
        (Some(request), Some(key)) => vec![own_request(request, key)?],
        _ => Vec::new(),
    };
    let repository = match (&args.repository, &target) {
        (Some(text), _) => Some(text.parse::<ImageName>().map_err(Failure::usage)?.repository()),
        (None, Target::Remote(name)) => Some(name.repository()),
        (None, Target::Local(..)) => None,
    };
    let complete = |input: ImageInput| ImageInput {
        repository: repository.clone(),
        expected_request,
        endorsements,
        ..input
    };
    let report = match target {
        Target::Local(path, selector) => local(&path, selector.as_deref(), &policy, &own, complete, output)?,
        Target::Remote(name) => remote(&name, &policy, &own, complete, output)
            .map_err(|failure| Target::taken_for_name(&args.target, &name, failure))?,
    };
    if let Some(file) = &args.ear {
        write_ear(file, &report.to_ear(), output)?;
    }
    if output.is_json() {
        output.document(&json!(report));
    } else {
        let text = clean_text(&report.to_string(), "") + "\n";
        output.data(&paint(&text, output.color_stdout()));
    }
    Ok(report.exit_code())
}

fn local(
    path: &Path,
    selector: Option<&str>,
    policy: &Policy,
    own: &[OwnRequest],
    complete: impl FnOnce(ImageInput) -> ImageInput,
    output: &Output,
) -> Result<Report, Failure> {
    let image = open_local(path, selector)?;
    let (input, _) = gather(&image, image.image.digest, &image.attached)?;
    let damaged = image.damage();
    let mut seen = std::collections::BTreeSet::new();
    for error in damaged.iter().map(ToString::to_string).filter(|error| seen.insert(error.clone())) {
        output.status("damaged", &error);
    }
    let verdict = verify_image_with_own_requests(policy, &complete(input), own, now());
    let checks = match verdict.into_blob_checks() {
        Ok(checks) => checks,
        Err(report) => return Ok(*report),
    };
    let checked = check_local(&image, checks).and_then(|checks| match damaged.first() {
        None => Ok(checks),
        Some(error) => Err(Box::new((checks, damaged_blob(error, image.image.digest)))),
    });
    Ok(finish(checked))
}

fn remote(
    name: &ImageName,
    policy: &Policy,
    own: &[OwnRequest],
    complete: impl FnOnce(ImageInput) -> ImageInput,
    output: &Output,
) -> Result<Report, Failure> {
    let credential = credential(name)?;
    runtime()?.block_on(async {
        let image = registry::fetch(name, credential.as_ref()).await?;
        let (input, damaged) = gather(&image, image.target, &image.attached)?;
        note_damage(&damaged, output);
        if let Some(limit) = &image.left_out {
            output.status("left out", &limit.to_string());
        }
        let verdict = verify_image_with_own_requests(policy, &complete(input), own, now());
        let mut checks = match verdict.into_blob_checks() {
            Ok(checks) => checks,
            Err(report) => return Ok(*report),
        };
        let pending: Vec<Blob> = checks.pending().cloned().collect();
        for blob in pending {
            let hasher = checks.hasher(&blob.digest).expect("the blob is pending");
            let checked = image.check_blob(blob.digest, blob.size, hasher).await?;
            if let Err(error) = checked.and_then(|checked| checks.accept(checked)) {
                return Ok(checks.refuse(error));
            }
        }
        Ok(finish(Ok(checks)))
    })
}

/// Damage beside an image as the verifier takes it.
fn damaged_blob(error: &ImageError, image: Sha256Digest) -> BlobError {
    let (digest, problem) = match error {
        ImageError::MissingBlob { digest } => (*digest, "it is missing".to_owned()),
        ImageError::BadBlob { digest, problem } | ImageError::Manifest { digest, problem } => {
            (*digest, problem.clone())
        }
        other => (image, other.to_string()),
    };
    BlobError::Missing { digest, problem }
}

fn note_damage(damaged: &[ImageError], output: &Output) {
    for error in damaged {
        output.status("left out", &format!("an attachment that cannot be read: {error}"));
    }
}

fn finish(checks: Result<BlobChecks, Box<(BlobChecks, BlobError)>>) -> Report {
    match checks {
        Ok(checks) => match checks.finish() {
            Ok(trusted) => trusted.report().clone(),
            Err(report) => *report,
        },
        Err(refused) => {
            let (checks, error) = *refused;
            checks.refuse(error)
        }
    }
}

/// Reads all blobs of a layout on all cores.
fn check_local(
    image: &LocalImage,
    mut checks: BlobChecks,
) -> Result<BlobChecks, Box<(BlobChecks, BlobError)>> {
    let mut work: Vec<Mutex<Option<BlobHasher>>> = Vec::new();
    let mut pending: Vec<Blob> = checks.pending().cloned().collect();
    // The largest first, so that no core is left alone with it at the end.
    pending.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    for blob in &pending {
        work.push(Mutex::new(checks.hasher(&blob.digest)));
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done: Vec<Result<CheckedBlob, BlobError>> = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(blob) = pending.get(index) else { return done };
            let hasher = work[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            done.push(check_blob(image, blob, hasher.expect("each blob is taken once")));
        }
    };
    let total: u64 = pending.iter().map(|blob| blob.size).sum();
    // A thread costs more than hashing a few megabytes.
    let threads = match total {
        0..=8_388_608 => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from).min(pending.len()),
    };
    let results: Vec<Result<CheckedBlob, BlobError>> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut all = run();
        for helper in helpers {
            all.extend(helper.join().expect("hashing does not panic"));
        }
        all
    });
    for result in results {
        if let Err(error) = result.and_then(|checked| checks.accept(checked)) {
            return Err(Box::new((checks, error)));
        }
    }
    Ok(checks)
}

fn check_blob(image: &LocalImage, blob: &Blob, mut hasher: BlobHasher) -> Result<CheckedBlob, BlobError> {
    let missing = |problem: String| BlobError::Missing { digest: blob.digest, problem };
    let mut reader = image.open(&blob.digest).map_err(|e| missing(e.to_string()))?;
    let mut buffer = vec![0; READ_SIZE.min(usize::try_from(blob.size).unwrap_or(READ_SIZE).max(4096))];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return hasher.finish(),
            Ok(length) => hasher.update(&buffer[..length])?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(missing(e.to_string())),
        }
    }
}

/// The caller's login for the registry of an image.
pub(crate) fn credential(name: &ImageName) -> Result<Option<RegistryCredential>, Failure> {
    let home = variable("HOME").map(PathBuf::from);
    let Some(folder) = docker_config_folder(variable("DOCKER_CONFIG").as_deref(), home.as_deref()) else {
        return Ok(None);
    };
    let registries = std::collections::BTreeSet::from([name.registry().to_owned()]);
    let found = DockerConfig::read(&folder).and_then(|config| config.credentials(&registries));
    Ok(found.map_err(ImageError::from)?.pop())
}

/// Certificates and revocation lists from files, or from all files of folders: PEM blocks, or DER; or framed TDX
/// endorsements.
pub(super) fn endorsements(paths: &[PathBuf]) -> Result<Endorsements, Failure> {
    let mut found = Endorsements::default();
    for path in paths {
        if path.is_dir() {
            for file in files_of(path)? {
                endorsements_of(&file, &mut found)?;
            }
        } else {
            endorsements_of(path, &mut found)?;
        }
    }
    Ok(found)
}

/// The files of a folder, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |e: std::io::Error| Failure::usage(format!("cannot read folder {}: {e}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !hidden {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            let problem = format!("folder has more than {MAX_FILES} files of endorsements");
            return Err(Failure::usage(problem).at(folder.display()));
        }
    }
    files.sort();
    Ok(files)
}

fn endorsements_of(file: &Path, found: &mut Endorsements) -> Result<(), Failure> {
    let bytes = read_file(file, MAX_ENDORSEMENT, "endorsements")?;
    if let Ok(Some(endorsements)) = TdxEndorsements::parse(&bytes) {
        found.tdx.push(endorsements);
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes);
    if !text.contains("-----BEGIN ") {
        // The first element of a certificate's TBS is a version or serial number, that of a CRL an algorithm;
        // the verifier tells them apart, so a bare DER file is offered as both.
        found.certificates.push(bytes.clone());
        found.crls.push(bytes);
        return Ok(());
    }
    for (label, der) in pem::blocks(&text).map_err(|problem| Failure::usage(problem).at(file.display()))? {
        match label.as_str() {
            "CERTIFICATE" => found.certificates.push(der),
            "X509 CRL" => found.crls.push(der),
            other => {
                let problem = format!("block `{other}` is neither CERTIFICATE nor X509 CRL");
                return Err(Failure::usage(problem).at(file.display()));
            }
        }
    }
    Ok(())
}

/// Colours the signs, which carry their meaning without it.
pub(super) fn paint(text: &str, color: bool) -> String {
    if !color {
        return text.to_owned();
    }
    text.replace('✓', "\u{1b}[32m✓\u{1b}[0m")
        .replace('✗', "\u{1b}[31m✗\u{1b}[0m")
        .replace("  TRUSTED", "  \u{1b}[1;32mTRUSTED\u{1b}[0m")
        .replace("  REFUSED", "  \u{1b}[1;31mREFUSED\u{1b}[0m")
}
