//! The development server: the shipped service with a software TEE. **NOT HARDWARE.**
//!
//! It makes what a newcomer needs to use it (caller key, appraisal policy, Reference Values) in its state
//! directory and prints one JSON line on stdout once it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use build_server::assembly::{Assembled, Parts, assemble, runtime};
use build_server::config::{Operations, Trust};
use build_server::engine::{EngineConfig, EngineProcess};
use build_server::launcher::{Connections, Programs, launch};
use build_server::pipeline::{Boundary, Step};
use build_server::{privileges, state_directory};
use clap::{Parser, ValueEnum};
use client::key::{CallerKey, public_pem};
use enclave_keys::Attester;
use enclave_keys::process::{KeyClient, KeyProcess, confine, own_socket, protect};
use provenance::dsse::REFERENCE_VALUES_PAYLOAD_TYPE;
use provenance::key::KeyAlgorithm;
use sealwright_tests::reference_values::SoftwareRelease;
use sealwright_tests::software_tee::se::SoftwareSe;
use sealwright_tests::software_tee::tdx::SoftwareTdx;
use sealwright_tests::software_tee::{Product, SoftwareTee, Tcb};
use tokio::signal::unix::{SignalKind, signal};
use verifier::policy::{PolicyTemplate, ReferenceValues, policy_from_reference_values};

/// Environment variable that names a pipeline step after which the server kills itself, once. For crash tests.
const CRASH_AT: &str = "SEALWRIGHT_DEV_CRASH_AT";

/// Environment variable with another launch measurement (96 hex digits), as a new guest image has.
const MEASUREMENT: &str = "SEALWRIGHT_DEV_MEASUREMENT";

/// Environment variable with another security version of the microcode (0 to 255), as a firmware update brings.
const MICROCODE: &str = "SEALWRIGHT_DEV_MICROCODE";

/// Sealwright's development server: a software TEE, NOT HARDWARE.
#[derive(Parser)]
struct Arguments {
    /// Directory for everything the server keeps.
    #[arg(long)]
    state: PathBuf,
    /// Address to listen on; port 0 chooses a free one.
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "IP:PORT", value_parser = listen_address)]
    listen: SocketAddr,
    /// Directory of buildkitd and runc.
    #[arg(long)]
    tools: PathBuf,
    /// Platform that the software TEE stands for.
    #[arg(long, value_enum, default_value_t = Platform::Snp)]
    tee: Platform,
    /// Operations configuration to use instead of the built-in one; `listen`, `state_directory` and the engine's
    /// programs are set from the arguments all the same.
    #[arg(long)]
    operations: Option<PathBuf>,
    /// Trust configuration to use instead of the built-in one.
    #[arg(long)]
    trust: Option<PathBuf>,
    /// Start the service again, with the same keys, when it was killed.
    #[arg(long)]
    restart: bool,
    /// Which of its processes this is; the launcher sets it.
    #[arg(long, value_enum, hide = true)]
    role: Option<Role>,
}

/// What the launcher starts.
#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// The key process.
    Keys,
    /// The engine process.
    Engine,
    /// The service.
    Service,
}

/// File in the state directory with what the software TD's vendor says about its platform.
const TDX_ENDORSEMENTS: &str = "tdx-endorsements";

/// File in the state directory with the header of the software Secure Execution image.
const SE_HEADER: &str = "secure-execution-header";

/// Folder in the state directory with what the software machine's vendor says about its host key.
const HOST_KEY_DOCUMENTS: &str = "host-key-documents";

/// A platform of the software TEE.
#[derive(Clone, Copy, ValueEnum)]
enum Platform {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// IBM Secure Execution.
    Se,
}

impl Platform {
    /// The software TEE whose keys lie in the state directory, and what a release for it measures to.
    fn open(self, state: &Path) -> Result<(Box<dyn Attester>, SoftwareRelease)> {
        let directory = state.join("software-tee");
        Ok(match self {
            Self::Snp => {
                let tee = snp(&directory)?;
                let release = SoftwareRelease::snp(&tee);
                (Box::new(tee), release)
            }
            Self::Tdx => {
                let tee = SoftwareTdx::open(&directory)?;
                // What the operator of a real guest fetches from Intel.
                replace(&state.join(TDX_ENDORSEMENTS), &tee.endorsements().encode())?;
                let release = SoftwareRelease::tdx(&tee);
                (Box::new(tee), release)
            }
            Self::Se => {
                let guest = SoftwareSe::open(&directory)?;
                // What its operator takes from the image, and its users from IBM.
                replace(&state.join(SE_HEADER), guest.header())?;
                guest.write_documents(&state.join(HOST_KEY_DOCUMENTS))?;
                let release = SoftwareRelease::se(&guest);
                (Box::new(guest), release)
            }
        })
    }
}

/// The software TEE of SEV-SNP as the environment wants it.
fn snp(directory: &Path) -> Result<SoftwareTee> {
    let mut tee = SoftwareTee::open(directory)?;
    if let Ok(text) = std::env::var(MICROCODE) {
        let microcode = text
            .parse()
            .with_context(|| format!("{MICROCODE} is `{text}`, wanted a number from 0 to 255"))?;
        tee = tee.with_tcb(Tcb { microcode, ..Tcb::of(Product::Milan) })?;
    }
    if let Ok(text) = std::env::var(MEASUREMENT) {
        let mut measurement = [0; 48];
        hex::decode_to_slice(&text, &mut measurement)
            .with_context(|| format!("{MEASUREMENT} is `{text}`, wanted 96 hex digits"))?;
        tee = tee.with_measurement(measurement);
    }
    Ok(tee)
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SEALWRIGHT_LOG").unwrap_or_else(|_| "warn".into()),
        )
        .without_time()
        .init();
    let arguments = Arguments::parse();
    let ended = match arguments.role {
        None => launch_all(&arguments),
        Some(Role::Keys) => hold_keys(&arguments).map(|()| ExitCode::SUCCESS),
        Some(Role::Engine) => run_engine(&arguments).map(|()| ExitCode::SUCCESS),
        Some(Role::Service) => start(&arguments).map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The shipped programs in one: this one four times.
fn launch_all(arguments: &Arguments) -> Result<ExitCode> {
    let operations = operations(arguments, &std::path::absolute(&arguments.state)?)?;
    let _ = trust(arguments)?;
    privileges::require_root(&operations)?;
    // Before the key process, which has its software TEE in there.
    state_directory::prepare(&operations)?;
    let own = std::env::current_exe().context("the own path is not known")?;
    let command = move |role: &str| {
        let mut command = Command::new(&own);
        command.args(std::env::args_os().skip(1)).args(["--role", role]);
        command
    };
    let (keys, engine) = (command("keys"), command.clone());
    let engine = Box::new(move || engine("engine"));
    let service = Box::new(move || command("service"));
    Ok(launch(Programs { keys, engine, service, operations, restart: arguments.restart }))
}

/// The key process, as shipped but for the device behind it.
fn hold_keys(arguments: &Arguments) -> Result<()> {
    let control = own_socket().context("the launcher's socket is stdin")?;
    protect()?;
    let state = arguments.state.canonicalize()?;
    let (attester, _) = arguments.tee.open(&state)?;
    let sealed = operations(arguments, &state)?.keys_directory();
    confine()?;
    KeyProcess::new(attester, Some(sealed)).run(control)?;
    Ok(())
}

/// The engine process, as shipped.
fn run_engine(arguments: &Arguments) -> Result<()> {
    let connection = own_socket().context("the launcher's socket is stdin")?;
    let operations = operations(arguments, &arguments.state.canonicalize()?)?;
    EngineProcess::new(EngineConfig::of(&operations, &trust(arguments)?), connection)?.serve()?;
    Ok(())
}

fn start(arguments: &Arguments) -> Result<()> {
    let connections = Connections::of_the_launcher().context("the launcher's socket is stdin")?;
    let state = arguments.state.canonicalize()?;
    let (_, release) = arguments.tee.open(&state)?;
    let (operations, trust) = (operations(arguments, &state)?, trust(arguments)?);
    let users = Users::open(&state)?;
    privileges::give_up(&operations)?;
    runtime(&operations)?.block_on(serve(connections, release, &users, &state, &operations, &trust))
}

fn trust(arguments: &Arguments) -> Result<Trust> {
    Ok(match &arguments.trust {
        Some(path) => Trust::read(path)?,
        None => Trust::parse(DEVELOPMENT_TRUST, "the development server's trust configuration")?,
    })
}

/// Keys of the people around the server; theirs, and so not the service's.
struct Users {
    caller_file: PathBuf,
    caller: CallerKey,
    release: CallerKey,
}

impl Users {
    fn open(state: &Path) -> Result<Self> {
        let caller_file = state.join("caller.key.pem");
        let caller = own_key(&caller_file)?;
        let release = own_key(&state.join("release.key.pem"))?;
        Ok(Self { caller_file, caller, release })
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "wanted IP:PORT, such as 127.0.0.1:8443 or [::1]:8443")
}

/// Anyone who can make a key may build here, and push anywhere: it is for development.
const DEVELOPMENT_TRUST: &str = r#"
builder_id = "https://sealwright.dev/builder/dangerous-software-tee/v1"
admit_any_project = true

[build_policy]
allow_push_to = ["*"]
allow_git_sources = true
"#;

fn operations(arguments: &Arguments, state: &Path) -> Result<Operations> {
    let tools = arguments
        .tools
        .canonicalize()
        .with_context(|| format!("there is no directory {} (run make engine)", arguments.tools.display()))?;
    let base = match &arguments.operations {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => String::new(),
    };
    let mut table: toml::Table = base.parse()?;
    table.insert("listen".into(), arguments.listen.to_string().into());
    table.insert("state_directory".into(), text(state)?.into());
    if matches!(arguments.tee, Platform::Tdx) {
        table.insert("tdx_endorsements".into(), text(&state.join(TDX_ENDORSEMENTS))?.into());
    }
    if matches!(arguments.tee, Platform::Se) {
        table.insert("secure_execution_header".into(), text(&state.join(SE_HEADER))?.into());
    }
    let engine = table.entry("engine").or_insert_with(|| toml::Table::new().into());
    let Some(engine) = engine.as_table_mut() else { bail!("`engine` must be a table") };
    engine.insert("buildkitd".into(), text(&tools.join("buildkitd"))?.into());
    engine.insert("runc".into(), text(&tools.join("runc"))?.into());
    Ok(Operations::parse(&table.to_string(), "the development server's operations configuration")?)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

async fn serve(
    Connections { keys, engine }: Connections,
    release: SoftwareRelease,
    users: &Users,
    state: &Path,
    operations: &Operations,
    trust: &Trust,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parts = Parts { keys, engine, boundary: boundary(state)?, plain_http_on_loopback: true };
    let Assembled { server, keys } = assemble(operations, trust, parts).await?;

    let values = release.values(keys.instance());
    publish_reference_values(state, &users.release, &values)?;
    let policy_file = state.join("policy.toml");
    let template = PolicyTemplate {
        callers: vec![("dev".to_owned(), users.caller.public().clone())],
        ..Default::default()
    };
    replace(&policy_file, policy_from_reference_values(&values, &template).as_bytes())?;

    announce(&keys, &server);
    let endpoint = server.local_addr().to_string();
    let sealwright = std::env::current_exe()?.with_file_name("sealwright");
    let mut ready = serde_json::json!({
        "endpoint": endpoint,
        "key_file": text(&users.caller_file)?,
        "policy_file": text(&policy_file)?,
        "sealwright": text(&sealwright)?,
    });
    if keys.instance().platform == provenance::evidence::Platform::SecureExecution {
        ready["host_key_documents"] = text(&state.join(HOST_KEY_DOCUMENTS))?.into();
    }
    {
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{ready}").and_then(|()| stdout.flush()).context("cannot write to stdout")?;
    }
    server
        .run_until(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("stopping   no new builds; running ones have {} to end", operations.drain);
        })
        .await?;
    Ok(())
}

fn announce(keys: &KeyClient, server: &build_server::service::Server) {
    let instance = keys.instance();
    let (resumed, failed) = server.recovered();
    eprintln!("platform   {} from a software TEE: NOT HARDWARE, for development only", instance.platform);
    eprintln!("key        epoch {}, {}", instance.epoch, keys.epoch_start());
    eprintln!("           {}", instance.key_origin.explanation());
    eprintln!(
        "engine     buildkitd {} {}, runc {} {}",
        instance.buildkitd.version,
        instance.buildkitd.sha256.short(),
        instance.runc.version,
        instance.runc.sha256.short()
    );
    eprintln!("state      {resumed} builds resumed, {failed} failed");
    eprintln!("listening  {} (attested TLS)", server.local_addr());
}

fn own_key(path: &Path) -> Result<CallerKey> {
    if path.exists() {
        return Ok(CallerKey::load(path)?);
    }
    let key = CallerKey::generate(KeyAlgorithm::EcdsaP256Sha256)?;
    key.save_new(path)?;
    Ok(key)
}

/// Signs Reference Values of exactly this server with a release key of this state directory: what `sealwright policy init` reads.
fn publish_reference_values(state: &Path, release: &CallerKey, values: &ReferenceValues) -> Result<()> {
    let envelope = release.sign_envelope(REFERENCE_VALUES_PAYLOAD_TYPE, values.document())?;
    replace(&state.join("reference-values.json"), &envelope.to_json())?;
    replace(&state.join("release.pub.pem"), public_pem(release.public()).as_bytes())
}

/// Writes a file so that a reader sees the old or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Kills the process after the step that [`CRASH_AT`] names, once per state directory.
fn boundary(state: &Path) -> Result<Boundary> {
    let Ok(wanted) = std::env::var(CRASH_AT) else { return Ok(Arc::new(|_| {})) };
    let steps = [
        Step::Created,
        Step::Permit,
        Step::Build,
        Step::Materials,
        Step::Release,
        Step::Sign,
        Step::Layout,
        Step::Push,
    ];
    let Some(step) = steps.into_iter().find(|step| format!("{step:?}").to_lowercase() == wanted) else {
        bail!(
            "{CRASH_AT} is `{wanted}`, wanted one of created, permit, build, materials, release, sign, layout, push"
        );
    };
    let marker = state.join("crashed");
    Ok(Arc::new(move |reached| {
        if reached == step && !marker.exists() {
            std::fs::write(&marker, b"").expect("the state directory is writable");
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL)
                .expect("a process may kill itself");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }))
}
