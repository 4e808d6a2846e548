//! `sealwright get|list|logs|cancel|download`.

use std::sync::{Arc, Mutex, PoisonError};

use client::download;
use client::progress::{Display, build_json, clean_text};
use client::session::{Session, SessionError, is_terminal};
use client::spec::{self, DEFAULT_LAYOUT, Destination};
use proto::v1;
use provenance::timestamp::Timestamp;
use serde_json::{Value, json};

use super::args::{DownloadArgs, ListArgs, LogsArgs};
use super::build::{Shown, check_stdout, fetch, runtime, style};
use super::failure::Failure;
use super::output::{Output, terminal_size};
use super::setup::Setup;
use super::summary;

fn state(build: &v1::Build) -> String {
    build.state().as_str_name().to_ascii_lowercase()
}

fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| Timestamp::from_unix(time.seconds).ok())
        .map_or_else(|| "-".to_owned(), |time| time.to_string())
}

fn describe(build: &v1::Build) -> String {
    let mut text = String::new();
    let mut line = |word: &str, value: &str| {
        if !value.is_empty() && value != "-" {
            text.push_str(&format!("{word:<10} {}\n", clean_text(value, "           ")));
        }
    };
    line("build", summary::id(&build.name));
    line("state", &state(build));
    build.names.iter().for_each(|name| line("name", name));
    line("created", &time(build.create_time.as_ref()));
    line("started", &time(build.start_time.as_ref()));
    line("ended", &time(build.end_time.as_ref()));
    line("request", &build.request_digest);
    line("caller", &build.caller);
    if let Some(failure) = &build.failure {
        line("failure", &format!("{}: {}", failure.reason, failure.message));
        line("advice", &failure.advice);
    }
    if let Some(result) = &build.result {
        line("image", result.image.as_ref().map_or("", |image| &image.digest));
        result.pushed.iter().for_each(|name| line("pushed", name));
        line("statement", &result.statement_digest);
        for class in &result.materials {
            let reason = if class.reason.is_empty() { String::new() } else { format!(": {}", class.reason) };
            line("materials", &format!("{} {}, {}{reason}", class.count, class.material_class, class.state));
        }
    }
    text
}

/// A build id, or a full resource name: the server judges that.
fn check_id(text: &str) -> Result<(), Failure> {
    if text.starts_with("projects/") {
        return Ok(());
    }
    provenance::request::BuildId::try_from(text.to_owned())
        .map(drop)
        .map_err(|e| Failure::usage(e).advise("`sealwright list` shows the ids of your builds"))
}

/// `sealwright get`.
pub(crate) fn get(build: &str, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    check_id(build)?;
    let connector = setup.connector()?;
    runtime()?.block_on(async {
        let session = Session::open(connector).await?;
        let build = session.get(&session.build_name(build)).await?;
        match output.is_json() {
            true => output.document(&build_json(&build)),
            false => output.data(&describe(&build)),
        }
        Ok(0)
    })
}

/// `sealwright list`.
pub(crate) fn list(args: &ListArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let connector = setup.connector()?;
    let filter = args
        .state
        .as_ref()
        .map_or_else(String::new, |state| format!("state = {}", state.to_ascii_uppercase()));
    runtime()?.block_on(async {
        let session = Session::open(connector).await?;
        let mut builds = Vec::new();
        let mut token = String::new();
        let limit = usize::try_from(args.limit.get()).unwrap_or(usize::MAX);
        let more = loop {
            let wanted = limit.saturating_sub(builds.len()).min(100);
            if wanted == 0 {
                break true;
            }
            let page = i32::try_from(wanted).expect("at most 100");
            let (mut found, next) = session.list(page, &token, &filter).await?;
            builds.append(&mut found);
            if next.is_empty() {
                break false;
            }
            token = next;
        };
        if output.is_json() {
            output.document(&json!({"builds": builds.iter().map(build_json).collect::<Vec<Value>>()}));
        } else {
            let mut text = String::new();
            for build in &builds {
                let name = clean_text(build.names.first().map_or("-", String::as_str), "");
                let created = time(build.create_time.as_ref());
                text.push_str(&format!(
                    "{:<28} {:<10} {created:<21} {name}\n",
                    summary::id(&build.name),
                    state(build)
                ));
            }
            output.data(&text);
            if builds.is_empty() {
                output.say("no builds");
            }
        }
        if more {
            output.say(&format!("older builds are not shown; --limit N shows more than {limit}"));
        }
        Ok(0)
    })
}

/// The state of a build that was asked to end: its steps may need a moment.
fn ending(build: &v1::Build) -> String {
    if is_terminal(build) { state(build) } else { "cancelling".to_owned() }
}

/// `sealwright cancel`.
pub(crate) fn cancel(build: &str, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    check_id(build)?;
    let connector = setup.connector()?;
    runtime()?.block_on(async {
        let session = Session::open(connector).await?;
        let build = session.cancel(&session.build_name(build)).await?;
        match output.is_json() {
            true => output.document(&build_json(&build)),
            false => output.status("build", &format!("{} {}", summary::id(&build.name), ending(&build))),
        }
        Ok(0)
    })
}

/// `sealwright logs`: a build's progress, on standard output because here it is the data.
pub(crate) fn logs(args: &LogsArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let style = match args.progress.as_deref() {
        _ if output.is_json() => client::progress::Style::RawJson,
        None | Some("auto") => client::progress::Style::Plain,
        wish => style(wish)?,
    };
    check_id(&args.build)?;
    let connector = setup.connector()?;
    runtime()?.block_on(async {
        let mut session = Session::open(connector).await?;
        let name = session.build_name(&args.build);
        let display = Arc::new(Mutex::new(Display::new(
            style,
            output.color_stdout(),
            terminal_size,
            std::io::stdout(),
        )));
        let build = if args.follow {
            // Standard output holds the log and nothing else.
            let mut shown = Shown { display: display.clone(), chatty: false };
            session.watch(&name, 0, &mut shown).await?
        } else {
            so_far(&session, &name, &display).await?
        };
        display.lock().unwrap_or_else(PoisonError::into_inner).finish();
        if let Some(failure) = &build.failure {
            let message = clean_text(&failure.message, "  ");
            output.say(&format!("build {} {}: {message}", summary::id(&name), state(&build)));
        }
        Ok(0)
    })
}

/// Shows what there is now: events until the stream has none left, or until a pause that only waits for more.
async fn so_far<W: std::io::Write>(
    session: &Session,
    name: &str,
    display: &Mutex<Display<W>>,
) -> Result<v1::Build, SessionError> {
    let build = session.get(name).await?;
    let request = v1::WatchBuildRequest { name: name.to_owned(), after: 0 };
    let mut stream = session.channel().builds().watch_build(request).await?.into_inner();
    let wait = match is_terminal(&build) {
        true => std::time::Duration::from_secs(60),
        false => std::time::Duration::from_millis(300),
    };
    while let Ok(message) = tokio::time::timeout(wait, stream.message()).await {
        match message? {
            Some(event) => display.lock().unwrap_or_else(PoisonError::into_inner).event(&event),
            None => break,
        }
    }
    Ok(build)
}

/// `sealwright download`.
pub(crate) fn download(args: &DownloadArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let asked = match &args.output {
        Some(text) => Some(spec::parse_output(text).map_err(Failure::usage)?.destination),
        None => None,
    };
    if asked == Some(Destination::Nowhere) {
        return Err(Failure::usage(
            "--output names no destination; wanted type=oci,dest=PATH or a directory",
        ));
    }
    check_id(&args.build)?;
    if let Some(destination) = &asked {
        check_stdout(destination, output)?;
        download::check_destination(destination)?;
    }
    let connector = setup.connector()?;
    runtime()?.block_on(async {
        let mut session = Session::open(connector).await?;
        let build = session.get(&session.build_name(&args.build)).await?;
        let id = summary::id(&build.name);
        let Some(result) = &build.result else {
            return Err(Failure::failed(format!("build {id} has no result: its state is {}", state(&build)))
                .advise(format!("sealwright get {id}")));
        };
        let usual = match result.files {
            Some(_) => Destination::FilesTar(format!("{id}.tar").into()),
            None => Destination::LayoutDirectory(DEFAULT_LAYOUT.into()),
        };
        let destination = asked.unwrap_or(usual);
        let wants_files = matches!(destination, Destination::FilesDirectory(_) | Destination::FilesTar(_));
        if wants_files != result.files.is_some() {
            let (has, advice) = match wants_files {
                true => ("an image, not files", "give --output type=oci,dest=PATH"),
                false => ("files, not an image", "give --output type=local,dest=DIR or type=tar,dest=FILE"),
            };
            return Err(Failure::usage(format!("build {id} gave {has}")).advise(advice));
        }
        fetch(&mut session, &build.name, result, &destination).await?;
        summary::success(&build, result, (&destination, None), true, output);
        if output.is_json() {
            output.document(
                &json!({"build": build_json(&build), "output": summary::destination_json(&destination)}),
            );
        }
        Ok(0)
    })
}
