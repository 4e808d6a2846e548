//! `sealwright build`: attest, upload, create, watch, fetch.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::agent;
use client::attestation_request::NewAttestationRequest;
use client::channel::AttestedService;
use client::config::{Setting, cache_folder};
use client::docker_config::docker_config_folder;
use client::download;
use client::own_files::{attestation_request_files, attestation_request_names};
use client::progress::{Display, Style, build_json};
use client::request::{BuildOptions, Prepared, Surroundings, prepare};
use client::session::{Connector, Session, SessionError, Watcher, now};
use client::spec::{self, DEFAULT_LAYOUT, Destination, OutputSpec};
use proto::v1;
use proto::v1::build_service_client::BuildServiceClient;
use provenance::challenge::{AttestationRequest, MAX_ATTESTATION_REQUEST};
use provenance::evidence::Platform;
use provenance::request::BuildId;
use serde_json::json;

use super::args::BuildArgs;
use super::failure::{Failure, exit};
use super::interrupt::Interrupts;
use super::output::{Output, terminal_size};
use super::setup::{Setup, read_file, variable};
use super::summary::{self, Kept};

/// Builds, and gives the exit code.
pub(crate) fn run(args: &BuildArgs, setup: &Setup, output: &Output) -> Result<u8, Failure> {
    let options = options(args)?;
    download::check_destination(&options.output.destination)?;
    check_stdout(&options.output.destination, output)?;
    let connector = setup.connector()?;
    let style = match args.quiet {
        true => Style::Quiet,
        false => style(args.progress.as_deref().or_else(|| setup.settings.value(Setting::Progress)))?,
    };
    runtime()?.block_on(build(args, options, connector, style, output))
}

/// Standard output takes the result or a document, not both.
pub(crate) fn check_stdout(destination: &Destination, output: &Output) -> Result<(), Failure> {
    if output.is_json() && summary::is_stdout(destination) {
        return Err(Failure::usage("--json and the result are both for standard output")
            .advise("give another dest with --output"));
    }
    Ok(())
}

/// The runtime of commands that talk to a server.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4))
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start threads: {e}")))
}

/// The style that a wish means on this standard error.
pub(crate) fn style(wish: Option<&str>) -> Result<Style, Failure> {
    Ok(match wish.unwrap_or("auto") {
        "auto" if std::io::stderr().is_terminal() => Style::Terminal,
        "auto" | "plain" => Style::Plain,
        "tty" if std::io::stderr().is_terminal() => Style::Terminal,
        "tty" => {
            return Err(Failure::usage("progress is `tty`, and standard error is no terminal")
                .advise("use --progress plain"));
        }
        "rawjson" => Style::RawJson,
        "quiet" | "none" => Style::Quiet,
        other => {
            return Err(Failure::usage(format!(
                "progress is `{other}`, wanted auto, tty, plain, rawjson or quiet"
            )));
        }
    })
}

fn key_value(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("{flag} `{text}` has no value; wanted NAME=VALUE"))),
    }
}

fn annotation(text: &str) -> Result<(String, String), Failure> {
    let (name, value) = key_value("--annotation", text)?;
    match name.split_once(':') {
        None => Ok((name, value)),
        Some(("manifest", name)) => Ok((name.to_owned(), value)),
        Some((level, _)) => Err(Failure::usage(format!(
            "--annotation `{text}` is for `{level}`; only annotations of the manifest are supported"
        ))),
    }
}

fn options(args: &BuildArgs) -> Result<BuildOptions, Failure> {
    let usage = |e: spec::InvalidFlag| Failure::usage(e);
    let mut output = match &args.output {
        Some(text) => spec::parse_output(text).map_err(usage)?,
        None if args.push => OutputSpec::default(),
        None => OutputSpec {
            destination: Destination::LayoutDirectory(DEFAULT_LAYOUT.into()),
            ..OutputSpec::default()
        },
    };
    output.push |= args.push;
    output.beside = [&args.metadata_file, &args.iidfile].into_iter().flatten().cloned().collect();
    let names: Result<Vec<_>, _> = args.tags.iter().map(|text| text.parse()).collect();
    let build_arg = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
        None => (text.clone(), None),
    };
    let collect = |result: Vec<Result<(String, String), Failure>>| {
        result.into_iter().collect::<Result<BTreeMap<_, _>, _>>()
    };
    Ok(BuildOptions {
        context: spec::parse_context(&args.context).map_err(usage)?,
        dockerfile: args.file.clone(),
        names: names.map_err(Failure::usage)?,
        target: args.target.clone(),
        build_args: args.build_args.iter().map(build_arg).collect(),
        labels: collect(args.labels.iter().map(|text| key_value("--label", text)).collect())?,
        annotations: collect(args.annotations.iter().map(|text| annotation(text)).collect())?,
        platforms: spec::parse_platforms(&args.platforms).map_err(usage)?,
        secrets: args
            .secrets
            .iter()
            .map(|text| spec::parse_secret(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        ssh: args.ssh.iter().map(|text| spec::parse_ssh(text)).collect::<Result<_, _>>().map_err(usage)?,
        named_contexts: args
            .build_contexts
            .iter()
            .map(|text| spec::parse_named_context(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        add_hosts: args
            .add_hosts
            .iter()
            .map(|text| spec::parse_add_host(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        no_cache: args.no_cache,
        pull: args.pull,
        output,
        build_id: match &args.build_id {
            Some(id) => Some(BuildId::try_from(id.clone()).map_err(Failure::usage)?),
            None => None,
        },
        attestation_request: args.attestation_request.as_deref().map(given_request).transpose()?,
    })
}

/// The attestation request of somebody else.
fn given_request(path: &Path) -> Result<AttestationRequest, Failure> {
    let bytes = read_file(path, MAX_ATTESTATION_REQUEST, "attestation request")?;
    AttestationRequest::parse(&bytes).map_err(|error| Failure::usage(error).at(path.display()))
}

/// Reads and signs while the connection is made, so that neither waits for the other. Only where the server may be a guest
/// of Secure Execution the signed request waits for it, because it is to hold an attestation request then.
async fn prepare_and_open(
    mut options: BuildOptions,
    connector: Connector,
) -> Result<(Prepared, Session, Option<NewAttestationRequest>), Failure> {
    if let (Some(given), None) = (connector.host_keys.clone(), &options.attestation_request) {
        let policy = connector.policy.clone();
        let session = Session::open(connector.clone()).await?;
        if session.channel().accepted().attestation().platform() == Platform::SecureExecution {
            let own = NewAttestationRequest::make(&policy, &given, now())?;
            options.attestation_request = Some(own.request().clone());
            return Ok((preparing(options, &connector).await?, session, Some(own)));
        }
        return Ok((preparing(options, &connector).await?, session, None));
    }
    let (prepared, session) = tokio::join!(preparing(options, &connector), Session::open(connector.clone()));
    // A wrong flag is wrong whether the server answers or not.
    Ok((prepared?, session?, None))
}

async fn preparing(options: BuildOptions, connector: &Connector) -> Result<Prepared, Failure> {
    let (project, key) = (connector.project.clone(), connector.key.clone());
    let preparing = tokio::task::spawn_blocking(move || {
        let home = variable("HOME").map(std::path::PathBuf::from);
        let mut surroundings = Surroundings {
            variable: &variable,
            docker_config: docker_config_folder(variable("DOCKER_CONFIG").as_deref(), home.as_deref()),
            cache: cache_folder(&variable),
            stdin: &mut std::io::stdin().lock(),
            now: now(),
        };
        prepare(&options, &project, &key, &mut surroundings)
    });
    let prepared =
        preparing.await.map_err(|e| Failure::failed(format!("reading the context failed: {e}")))?;
    Ok(prepared?)
}

/// Request and key are kept before the build is created: without them nobody could ever verify it.
fn keep(own: Option<&NewAttestationRequest>, prepared: &Prepared) -> Result<Option<Kept>, Failure> {
    let Some(own) = own else { return Ok(None) };
    if matches!(prepared.destination, Destination::FilesDirectory(_) | Destination::FilesTar(_)) {
        return Ok(None);
    }
    let [request, key] = attestation_request_files(&prepared.destination)
        .unwrap_or_else(|| attestation_request_names(prepared.request.build_id.to_string().as_ref()));
    let kept = Kept { request, key };
    own.save(&kept.request, &kept.key)?;
    Ok(Some(kept))
}

async fn build(
    args: &BuildArgs,
    options: BuildOptions,
    connector: Connector,
    style: Style,
    output: &Output,
) -> Result<u8, Failure> {
    let chatty = matches!(style, Style::Plain | Style::Terminal);
    let policy = connector.policy.clone();
    let (prepared, mut session, own) = prepare_and_open(options, connector.clone()).await?;
    let kept = keep(own.as_ref(), &prepared)?;
    drop(own);
    // Before there is a build: an interrupt from here on must end it.
    let mut interrupts = Interrupts::listen()?;
    if chatty {
        output.status("endpoint", &format!("{}, TLS 1.3", session.channel().endpoint()));
        output.status("attested", &session.channel().accepted().summary());
        output.status("policy", &format!("{} accepts it", policy.file()));
        if let Some(text) = summary::left_out(&prepared.trees) {
            output.status("left out", &text);
        }
    }
    let mut uploader = session.uploader();
    let created = create(&mut session, &prepared, &connector, &mut interrupts, chatty, output).await?;
    let forwards: Vec<_> = prepared
        .agents
        .iter()
        .map(|(id, socket)| {
            tokio::spawn(agent::forward(
                session.channel().builds(),
                created.name.clone(),
                id.clone(),
                socket.clone(),
            ))
        })
        .collect();
    // The values are needed no more: the server has them, and a retry would be another request.
    let Prepared { destination, request, trees, blobs, .. } = prepared;
    let display = Arc::new(Mutex::new(Display::new(style, output.color(), terminal_size, std::io::stderr())));
    let timeout = args.timeout.map(|seconds| Duration::from_secs(seconds.get()));
    let mut watching = Watching { display: &display, interrupts: &mut interrupts, timeout, chatty };
    // The server begins as soon as it knows the directories, and waits for a file when a step wants it.
    let upload = async {
        let uploaded = uploader.upload(&trees, &blobs, Arc::new(AtomicU64::new(0))).await?;
        if chatty {
            let text = summary::context(&request, &trees, uploaded);
            display.lock().unwrap_or_else(PoisonError::into_inner).line("context", &text);
        }
        Ok(())
    };
    let ended = watching.run(&mut session, &connector, &created.name, upload).await;
    forwards.iter().for_each(tokio::task::JoinHandle::abort);
    let Ended { build, cause } = ended?;
    let failed_output = display.lock().unwrap_or_else(PoisonError::into_inner).failed_output();
    let Some(result) = build.result.as_ref().filter(|_| build.state() == v1::build::State::Succeeded) else {
        return Ok(summary::failure(&build, cause, &failed_output, output));
    };
    let document = provenance::digest::Sha256Digest::of(&request.document());
    if build.request_digest != document.to_string() {
        return Err(Failure::new(
            exit::NOT_AUTHENTIC,
            "OTHER_REQUEST",
            format!("the server built request {}, signed was {document}", build.request_digest),
        ));
    }
    tokio::select! {
        fetched = fetch(&mut session, &build.name, result, &destination) => fetched?,
        () = interrupts.next() => {
            return Err(interrupted("interrupted while the result was fetched; the build has succeeded")
                .advise(format!("sealwright download {}", summary::id(&build.name))));
        }
    }
    write_files(args, result)?;
    summary::success(&build, result, (&destination, kept.as_ref()), chatty, output);
    if output.is_json() {
        let mut document =
            json!({"build": build_json(&build), "output": summary::destination_json(&destination)});
        if let Some(kept) = &kept {
            document["attestationRequest"] = kept.json();
        }
        output.document(&document);
    } else if style == Style::Quiet && !summary::is_stdout(&destination) {
        // Files have no digest to print.
        if let Some(image) = &result.image {
            output.data(&format!("{}\n", image.digest));
        }
    }
    Ok(0)
}

/// Submits the build. An interrupt cannot take the request back, so the build it made is cancelled.
async fn create(
    session: &mut Session,
    prepared: &Prepared,
    connector: &Connector,
    interrupts: &mut Interrupts,
    chatty: bool,
    output: &Output,
) -> Result<v1::Build, Failure> {
    let mut ask = session.channel().builds();
    let id = &prepared.request.build_id;
    let creating = session.create(prepared);
    tokio::pin!(creating);
    tokio::select! {
        created = &mut creating => return Ok(created?),
        () = interrupts.next() => {}
    }
    if chatty {
        output.status("interrupt", CANCELLING);
    }
    let end = async {
        let created = creating.await?;
        cancel(&mut ask, connector, &created.name).await
    };
    tokio::select! {
        ended = end => ended?,
        () = interrupts.next() => {
            return Err(interrupted("interrupted twice while the build was requested; it may run")
                .advise(format!("sealwright cancel {id}")));
        }
    }
    Err(interrupted(&format!("interrupted while the build was requested; build {id} was cancelled")))
}

/// Brings a result to its destination.
pub(crate) async fn fetch(
    session: &mut Session,
    name: &str,
    result: &v1::Result,
    destination: &Destination,
) -> Result<(), Failure> {
    match destination {
        Destination::Nowhere => Ok(()),
        Destination::LayoutDirectory(target) => {
            download::layout_directory(session, name, result, target).await
        }
        Destination::LayoutTar(target) => download::layout_tar(session, name, result, target).await,
        Destination::FilesDirectory(target) => download::files_directory(session, name, result, target).await,
        Destination::FilesTar(target) => download::files_tar(session, name, result, target).await,
    }?;
    Ok(())
}

fn write_files(args: &BuildArgs, result: &v1::Result) -> Result<(), Failure> {
    let write = |path: &Path, contents: &[u8]| {
        std::fs::write(path, contents)
            .map_err(|e| Failure::failed(format!("cannot write {}: {e}", path.display())))
    };
    if let Some(path) = &args.metadata_file {
        write(path, &result.metadata_json)?;
    }
    if let Some(path) = &args.iidfile {
        // As with buildx: the config's digest, and for several platforms that of the index.
        let image = result.image.as_ref().map_or("", |image| image.digest.as_str());
        let id = if result.config_digest.is_empty() { image } else { &result.config_digest };
        write(path, id.as_bytes())?;
    }
    Ok(())
}

/// Asks the server to end a build.
async fn cancel(
    ask: &mut BuildServiceClient<AttestedService>,
    connector: &Connector,
    name: &str,
) -> Result<(), Failure> {
    let request = v1::CancelBuildRequest { name: name.to_owned() };
    if ask.cancel_build(request.clone()).await.is_err() {
        // The connection may have been made again since; a cancel deserves one of its own.
        let channel = connector.attest().await?;
        channel.builds().cancel_build(request).await.map_err(SessionError::from)?;
    }
    Ok(())
}

/// What an interrupt does, and what a second one would do.
const CANCELLING: &str = "cancelling the build; once more to leave without waiting";

fn interrupted(message: &str) -> Failure {
    Failure::new(exit::INTERRUPTED, "INTERRUPTED", message)
}

/// Why a build was asked to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It was not.
    None,
    /// Ctrl-C or a termination signal.
    Interrupt,
    /// `--timeout`.
    Timeout,
}

/// A build that has ended.
pub(crate) struct Ended {
    pub(crate) build: v1::Build,
    pub(crate) cause: Cause,
}

/// A display that is shown a build.
pub(crate) struct Shown<W: std::io::Write> {
    pub(crate) display: Arc<Mutex<Display<W>>>,
    /// Whether what is no event of the build is shown too.
    pub(crate) chatty: bool,
}

impl<W: std::io::Write + Send> Watcher for Shown<W> {
    fn event(&mut self, event: &v1::BuildEvent) {
        self.display.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }

    fn cut(&mut self, error: &SessionError) {
        if self.chatty {
            let text = format!("{error}; connecting again");
            self.display.lock().unwrap_or_else(PoisonError::into_inner).line("connection", &text);
        }
    }
}

/// Watches a build, redraws, and listens for signals.
pub(crate) struct Watching<'a> {
    pub(crate) display: &'a Arc<Mutex<Display<std::io::Stderr>>>,
    pub(crate) interrupts: &'a mut Interrupts,
    pub(crate) timeout: Option<Duration>,
    pub(crate) chatty: bool,
}

impl Watching<'_> {
    pub(crate) async fn run(
        &mut self,
        session: &mut Session,
        connector: &Connector,
        name: &str,
        beside: impl Future<Output = Result<(), SessionError>>,
    ) -> Result<Ended, Failure> {
        let lock = || self.display.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ask = session.channel().builds();
        let mut shown = Shown { display: self.display.clone(), chatty: self.chatty };
        let watch = session.watch(name, 0, &mut shown);
        tokio::pin!(watch, beside);
        let mut beside_runs = true;
        let mut redraw = tokio::time::interval(Duration::from_millis(100));
        let deadline = tokio::time::sleep(self.timeout.unwrap_or(Duration::from_secs(365 * 24 * 3600)));
        tokio::pin!(deadline);
        let mut cause = Cause::None;
        let build = loop {
            let stop = tokio::select! {
                result = &mut watch => break result?,
                done = &mut beside, if beside_runs => {
                    beside_runs = false;
                    let Err(error) = done else { continue };
                    lock().finish();
                    // The build would wait for what cannot come.
                    let _ = ask.cancel_build(v1::CancelBuildRequest { name: name.to_owned() }).await;
                    return Err(error.into());
                }
                _ = redraw.tick() => { lock().tick(); continue }
                () = self.interrupts.next() => Cause::Interrupt,
                () = &mut deadline, if cause == Cause::None => Cause::Timeout,
            };
            let leave = || {
                lock().finish();
                interrupted("interrupted twice; the build may still be ending")
                    .advise(format!("sealwright get {}", summary::id(name)))
            };
            if cause == Cause::Interrupt && stop == Cause::Interrupt {
                return Err(leave());
            }
            cause = stop;
            if self.chatty {
                let why = if stop == Cause::Timeout { "timeout" } else { "interrupt" };
                lock().line(why, CANCELLING);
            }
            tokio::select! {
                asked = cancel(&mut ask, connector, name) => asked?,
                () = self.interrupts.next() => return Err(leave()),
            }
        };
        // The server has all blobs when a build has succeeded; what is left is its answer and our line.
        if beside_runs && build.state() == v1::build::State::Succeeded {
            let _ = beside.await;
        }
        lock().finish();
        Ok(Ended { build, cause })
    }
}
