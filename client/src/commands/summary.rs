//! The words around a build: what was sent, how it ended, where it is.

use std::path::PathBuf;

use client::context::{Tree, Uploaded};
use client::progress::{build_json, clean_text, human_size};
use client::spec::Destination;
use proto::v1;
use provenance::request::{Request, Source};
use serde_json::{Value, json};

use super::build::Cause;
use super::failure::exit;
use super::output::{Output, counted};

/// Files of the attestation request of a build on Secure Execution, and of its key.
pub(crate) struct Kept {
    pub(crate) request: PathBuf,
    pub(crate) key: PathBuf,
}

impl Kept {
    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        json!({"file": self.request.display().to_string(), "keyFile": self.key.display().to_string()})
    }
}

/// Build id of a resource name.
pub(crate) fn id(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Whether a destination is standard output.
pub(crate) fn is_stdout(destination: &Destination) -> bool {
    matches!(destination, Destination::LayoutTar(path) | Destination::FilesTar(path) if path.as_os_str() == "-")
}

/// What was sent of the context.
pub(crate) fn context(request: &Request, trees: &[Tree], uploaded: Uploaded) -> String {
    let sent = match uploaded.blobs {
        0 => "nothing new".to_owned(),
        blobs => format!("{blobs} new, {} sent", human_size(uploaded.bytes)),
    };
    match (&request.context, trees.first()) {
        (Source::Git { url }, _) => format!("{url} ({sent})"),
        (_, Some(tree)) => {
            let files = counted(tree.files, "file");
            format!("{files}, {}, root {} ({sent})", human_size(tree.bytes), tree.root.short())
        }
        _ => sent,
    }
}

/// What of the contexts is not sent, because the build itself writes it.
pub(crate) fn left_out(trees: &[Tree]) -> Option<String> {
    let paths: Vec<String> = trees
        .iter()
        .flat_map(|tree| &tree.left_out)
        .map(|path| String::from_utf8_lossy(path).into_owned())
        .collect();
    let are = if paths.len() == 1 { "it is" } else { "they are" };
    let list = paths.join(", ");
    (!paths.is_empty()).then(|| format!("{list} of the context: {are} written by this build"))
}

/// The lines after a build that succeeded.
pub(crate) fn success(
    build: &v1::Build,
    result: &v1::Result,
    (destination, kept): (&Destination, Option<&Kept>),
    chatty: bool,
    output: &Output,
) {
    if !chatty {
        return;
    }
    for class in result.materials.iter().filter(|class| class.state == "incomplete") {
        output
            .status("incomplete", &format!("materials of class {}: {}", class.material_class, class.reason));
    }
    let digest = result.image.as_ref().map_or("", |image| image.digest.as_str());
    let layout = matches!(destination, Destination::LayoutDirectory(_) | Destination::LayoutTar(_))
        && !is_stdout(destination);
    // The names have been told by the build's milestones.
    if !result.pushed.is_empty() && !layout {
        output.status("image", &format!("{digest}   (signature, provenance, evidence attached)"));
    }
    let verify = match destination {
        Destination::LayoutDirectory(path) | Destination::LayoutTar(path) if layout => {
            output.status("image", digest);
            output.status(
                "written",
                &format!("{}   (signature, provenance, evidence beside the image)", path.display()),
            );
            Some(path.display().to_string())
        }
        Destination::FilesDirectory(path) | Destination::FilesTar(path) if !is_stdout(destination) => {
            output.status(
                "written",
                &format!("{}   (files only: no signature, provenance or evidence)", path.display()),
            );
            None
        }
        _ => None,
    };
    let pushed = result.pushed.first().map(|name| format!("{}@{digest}", without_tag(name)));
    match pushed.or(verify) {
        Some(target) => match kept {
            None => output.say(&format!("\nverify anywhere:  sealwright verify {target}")),
            Some(Kept { request, key }) => {
                output.status(
                    "kept",
                    &format!(
                        "{}   (whoever has it can forge the Evidence: keep it to yourself)",
                        key.display()
                    ),
                );
                output.say(&format!(
                    "\nconvincing for you alone:  sealwright verify {target} --attestation-request {} \
                     --attestation-request-key {}",
                    request.display(),
                    key.display()
                ));
            }
        },
        None => output.say(&format!("\nbuild {} finished", id(&build.name))),
    }
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Where a result went, for `--json`.
pub(crate) fn destination_json(destination: &Destination) -> Value {
    let (kind, path) = match destination {
        Destination::Nowhere => return Value::Null,
        Destination::LayoutDirectory(path) => ("oci-layout", path),
        Destination::LayoutTar(path) => ("oci-layout-tar", path),
        Destination::FilesDirectory(path) => ("files", path),
        Destination::FilesTar(path) => ("files-tar", path),
    };
    json!({"kind": kind, "path": path.display().to_string()})
}

/// Shows how a build failed and gives the exit code.
pub(crate) fn failure(build: &v1::Build, cause: Cause, failed_output: &[String], output: &Output) -> u8 {
    if output.is_json() {
        output.document(&json!({"build": build_json(build)}));
    }
    let failure = build.failure.clone().unwrap_or_default();
    for source in &failure.source {
        excerpt(source, output);
    }
    let build_id = id(&build.name);
    let word = if build.state() == v1::build::State::Cancelled { "cancelled" } else { "failed" };
    let late = cause == Cause::Timeout && word == "cancelled";
    let what = match (failure.step.is_empty(), failure.exit_code) {
        (false, code) if code != 0 => format!("step \"{}\" exited {code}", failure.step),
        _ if late => "it took longer than --timeout allows".to_owned(),
        _ => failure.message.clone(),
    };
    output.say(&format!("build {build_id} {word}: {}", clean_text(&what, "  ")));
    for line in failed_output.iter().rev().take(5).rev() {
        output.say(&format!("  {line}"));
    }
    let advice = if late { "give it more time with --timeout" } else { failure.advice.as_str() };
    if !advice.is_empty() {
        output.say(&format!("  what to do: {advice}"));
    }
    let outcome =
        if ends_before_signing(&failure.reason) { "      nothing was signed or published" } else { "" };
    output.say(&format!("logs: sealwright logs {build_id}{outcome}"));
    let (code, meaning) = match (cause, failure.reason.as_str()) {
        (Cause::Interrupt, _) => (exit::INTERRUPTED, "interrupted"),
        (Cause::Timeout, _) => (exit::TIMEOUT, "timeout"),
        (_, reason) if reason.contains("DEADLINE") || reason.contains("TIMEOUT") => {
            (exit::TIMEOUT, "timeout")
        }
        (_, reason) if reason.contains("POLICY") || reason == "SOURCE_REFUSED" => {
            (exit::REFUSED, "refused by the guest's build policy")
        }
        (Cause::None, _) if word == "cancelled" => (exit::FAILED, "build cancelled"),
        _ => (exit::FAILED, "build failed"),
    };
    output.say(&format!("exit {code}: {meaning}"));
    code
}

/// Whether a build that failed for this reason was signed by no key and wrote nothing to a registry. A push
/// begins after the signature and may have written tags; the others can happen at any time.
fn ends_before_signing(reason: &str) -> bool {
    let at_any_time = ["CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "STATE_STORE", "TOO_MANY_RESTARTS"];
    !["REGISTRY_", "RESULT_"].iter().any(|family| reason.starts_with(family))
        && !at_any_time.contains(&reason)
}

fn excerpt(source: &v1::SourceExcerpt, output: &Output) {
    let at = source.marked.first().map_or(String::new(), |line| format!(":{line}"));
    output.say("------");
    output.say(&format!(" {}{at}", source.file));
    for (offset, line) in (source.first_line..).zip(&source.lines) {
        let mark = if source.marked.contains(&offset) { ">>> " } else { "" };
        output.say(&format!("{offset:>4} | {mark}{line}"));
    }
    output.say("------");
}
