//! The daemons: one buildkitd per project, asked of the engine process when a build wants it, ended when idle.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use provenance::project::ProjectId;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::client::ControlChannel;
use super::connection::{Connection, End, Lease};
use super::error::EngineError;
use super::layer_cache::LayerCache;
use crate::engine::Begun;

/// How long the kernel may take to end a daemon with all its steps, whose connection has broken already.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long a daemon may take to forget its builds before it is ended.
const FORGET_LIMIT: Duration = Duration::from_secs(2);
/// Compressed layers take this part of what a daemon's cache may take, beside it.
const LAYERS_PART: u64 = 8;
/// How often it is looked for a place for a daemon, when all are in use.
const PLACE_POLL: Duration = Duration::from_millis(100);

/// The service's settings of the engine; the others are the engine process's.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Directory for compressed layers, on the file system of the results; the service's own.
    pub layers: PathBuf,
    /// A daemon that has had no build for this long is ended.
    pub idle_stop: Duration,
    /// Cache of one daemon, in bytes.
    pub cache_limit_bytes: u64,
    /// Most daemons at the same time; when all run, the one that was idle longest is ended for another.
    pub max_daemons: usize,
}

/// A running daemon of one project.
pub struct Daemon {
    channel: ControlChannel,
    lease: Lease,
    socket: PathBuf,
    process_id: u32,
    stopping: AtomicBool,
    last_used: Mutex<Instant>,
    /// Trees that were transferred under each shared key, see [`super::shared_key`].
    pub(super) transfers: super::shared_key::Transfers,
    /// Compressed layers of its builds.
    pub(super) layers: Arc<LayerCache>,
    _place: OwnedSemaphorePermit,
}

impl Daemon {
    /// The control connection.
    #[must_use]
    pub fn channel(&self) -> &ControlChannel {
        &self.channel
    }

    /// The control socket, mode 0600 and this process's user's.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Process id of buildkitd, which is the first process of its namespace: everything there ends with it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Whether the daemon has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.lease.end().borrow().has_come()
    }

    /// Waits until the daemon has ended. Cancel safe.
    pub async fn ended(&self) {
        // An error means that nobody can tell any more: the engine process is gone, and all daemons with it.
        let _ = self.lease.end().clone().wait_for(End::has_come).await;
    }

    /// Whether a call failed because the daemon ends or has ended; waits until it has.
    ///
    /// A dying daemon's connections break before its end is known: the kernel first ends its steps, and on a busy
    /// machine that takes its time. Cancel safe.
    pub(super) async fn ended_with(&self, failed: &Status) -> bool {
        // A status that the daemon sent has no source; one that is made because the connection broke has.
        let cut = std::error::Error::source(failed).is_some();
        (cut || self.stopping.load(Ordering::Relaxed))
            && tokio::time::timeout(END_LIMIT, self.ended()).await.is_ok()
    }

    /// The error of a build that lost its daemon.
    pub(super) fn died(&self) -> EngineError {
        let log = match &*self.lease.end().borrow() {
            End::Ended(log) => log.clone(),
            End::NotYet => Vec::new(),
        };
        EngineError::DaemonDied { log }
    }

    fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_since(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = tokio::time::timeout(FORGET_LIMIT, super::record::forget_all(&self.channel)).await;
        self.lease.stop();
        self.ended().await;
    }
}

type Slot = Arc<AsyncMutex<Option<Arc<Daemon>>>>;

struct Inner {
    connection: Arc<Connection>,
    options: EngineOptions,
    slots: Mutex<HashMap<ProjectId, Slot>>,
    places: Arc<Semaphore>,
}

/// The daemons of all projects. Clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

impl Engine {
    /// Has the engine process at the other end begin, which starts no daemon; tells with what it does. Blocks until then.
    /// Must be called in a Tokio runtime: idle daemons are ended by a task that ends with the engine.
    pub fn begin(engine_process: UnixStream, options: EngineOptions) -> Result<(Self, Begun), EngineError> {
        let problem = |problem: String| EngineError::Configuration { problem };
        if !options.layers.is_absolute() {
            return Err(problem(format!(
                "directory of layers {} must be absolute",
                options.layers.display()
            )));
        }
        // Layers are known in memory only.
        match std::fs::remove_dir_all(&options.layers) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(EngineError::io("empty", &options.layers)(error));
            }
            _ => {}
        }
        std::fs::create_dir_all(&options.layers).map_err(EngineError::io("create", &options.layers))?;
        let (connection, begun) = Connection::begin(engine_process)?;
        let places = Arc::new(Semaphore::new(options.max_daemons));
        let inner = Arc::new(Inner { connection, options, slots: Mutex::default(), places });
        tokio::spawn(stop_idle(Arc::downgrade(&inner), inner.options.idle_stop));
        Ok((Self(inner), begun))
    }

    fn slot(&self, project: &ProjectId) -> Slot {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(*project).or_default().clone()
    }

    /// The project's daemon, started when there is none. Calls at the same time get the same daemon. Cancel
    /// safe: a start that nobody waits for any more is undone.
    pub async fn daemon(&self, project: &ProjectId) -> Result<Arc<Daemon>, EngineError> {
        let slot = self.slot(project);
        let mut slot = slot.lock().await;
        if let Some(daemon) = slot.as_ref().filter(|daemon| !daemon.has_ended()) {
            daemon.touch();
            return Ok(daemon.clone());
        }
        *slot = None;
        let place = self.0.place().await;
        let daemon = Arc::new(start(&self.0, place, project).await?);
        *slot = Some(daemon.clone());
        Ok(daemon)
    }

    /// Ends every daemon and its steps; returns when none is left and the engine process has closed the connection.
    pub async fn shutdown(&self) {
        let slots = self.0.slots();
        let stops = slots.into_iter().map(|slot| async move {
            if let Some(daemon) = slot.lock().await.take() {
                daemon.stop().await;
            }
        });
        futures_util::future::join_all(stops).await;
        self.0.connection.end().await;
    }
}

impl Inner {
    fn slots(&self) -> Vec<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// One of the places for daemons. When none is free, the daemon that was idle longest is ended for it.
    async fn place(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(place) = self.places.clone().try_acquire_owned() {
                return place;
            }
            // A slot that is locked is being started, so it is not idle; one that somebody holds is in use.
            let idle = self.slots().into_iter().filter_map(|slot| slot.try_lock_owned().ok());
            let idle = idle.filter_map(|slot| {
                let since = slot.as_ref().filter(|daemon| Arc::strong_count(daemon) == 1)?.idle_since();
                Some((since, slot))
            });
            let longest = idle.min_by_key(|(since, _)| *since).and_then(|(_, mut slot)| slot.take());
            match longest {
                Some(daemon) => daemon.stop().await,
                // There are more places than builds, so one that is idle comes.
                None => tokio::time::sleep(PLACE_POLL).await,
            }
        }
    }
}

async fn stop_idle(inner: Weak<Inner>, idle: Duration) {
    let mut tick = tokio::time::interval((idle / 4).max(Duration::from_millis(50)));
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let slots = inner.slots();
        drop(inner);
        for slot in slots {
            // A slot that is locked is being started, so it is not idle.
            let Ok(mut slot) = slot.try_lock() else { continue };
            let Some(daemon) = slot.as_ref() else { continue };
            if Arc::strong_count(daemon) > 1 {
                daemon.touch();
                continue;
            }
            if daemon.idle_since().elapsed() >= idle
                && let Some(daemon) = slot.take()
            {
                daemon.stop().await;
            }
        }
    }
}

async fn start(
    inner: &Inner,
    place: OwnedSemaphorePermit,
    project: &ProjectId,
) -> Result<Daemon, EngineError> {
    let layers = inner.options.layers.join(project.0.hex());
    let layers = LayerCache::new(layers.clone(), inner.options.cache_limit_bytes / LAYERS_PART)
        .map_err(EngineError::io("make", &layers))?;
    let (started, lease) = inner.connection.start(*project).await?;
    let channel = ControlChannel::connect(&started.socket).await.map_err(|error| {
        let problem = format!("{}: {error}", started.socket.display());
        EngineError::DaemonStart { problem, log: Vec::new() }
    })?;
    super::record::forget_all(&channel).await?;
    Ok(Daemon {
        channel,
        lease,
        socket: started.socket,
        process_id: started.process_id,
        stopping: AtomicBool::new(false),
        last_used: Mutex::new(Instant::now()),
        transfers: super::shared_key::Transfers::default(),
        layers: Arc::new(layers),
        _place: place,
    })
}
