//! Connections: accepting them within limits, the TLS handshake, and what a call may know of its connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use provenance::binding::{Nonce, SESSION_EXPORTER_LABEL};
use provenance::key::PublicKey;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::strangers::{Stranger, Strangers};
use super::tls::caller_key;

/// Limits on connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at the same time, handshakes included.
    pub connections: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Requests for Evidence that a connection may make at once; one more each second.
    pub evidence_burst: u32,
}

/// One TLS connection, as the gRPC server reads and writes it.
pub struct Connection {
    tls: Arc<Mutex<TlsStream<TcpStream>>>,
    info: ConnectionInfo,
    /// Ready when this connection has to give way to others.
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: OwnedSemaphorePermit,
}

/// What a call may know of the connection it came on.
#[derive(Clone)]
pub struct ConnectionInfo {
    caller: Option<PublicKey>,
    /// The exporter depends on the caller's nonce, so it is taken when Evidence is asked for. Weak, so that a
    /// call that is still running does not keep a closed connection open.
    tls: Weak<Mutex<TlsStream<TcpStream>>>,
    evidence: Arc<Mutex<Bucket>>,
    stranger: Arc<Stranger>,
}

impl ConnectionInfo {
    /// The key of the client certificate.
    #[must_use]
    pub fn caller(&self) -> Option<&PublicKey> {
        self.caller.as_ref()
    }

    /// The TLS exporter (RFC 8446 §7.5) of this connection under [`SESSION_EXPORTER_LABEL`] with the nonce as
    /// context, 32 bytes; `None` when the connection is gone.
    #[must_use]
    pub fn session_exporter(&self, nonce: &Nonce) -> Option<[u8; 32]> {
        let tls = self.tls.upgrade()?;
        let guard = tls.lock().unwrap_or_else(PoisonError::into_inner);
        guard.get_ref().1.export_keying_material([0; 32], SESSION_EXPORTER_LABEL, Some(&nonce.0)).ok()
    }

    /// A member of an admitted project has called: this connection gives way to no other any more.
    pub(super) fn member_called(&self) {
        self.stranger.leave();
    }

    /// Takes one request for Evidence from the connection's share, or says when there is one again.
    pub fn take_evidence_request(&self) -> Result<(), Duration> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

/// A token bucket: `burst` at once, one more each second.
struct Bucket {
    tokens: f64,
    burst: f64,
    filled: Instant,
}

impl Bucket {
    fn new(burst: u32) -> Self {
        Self { tokens: f64::from(burst), burst: f64::from(burst), filled: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let earned = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + earned).min(self.burst);
        self.filled = now;
        if self.tokens < 1.0 {
            return Err(Duration::from_secs_f64(1.0 - self.tokens));
        }
        self.tokens -= 1.0;
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Calls that are still running keep a share of it; nothing is gained any more by ending this connection.
        self.info.stranger.leave();
    }
}

impl Connection {
    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TlsStream<TcpStream>>) -> T) -> T {
        // Only this connection's task polls; the lock is contended for the moment of an exporter at most.
        poll(Pin::new(&mut *self.tls.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The HTTP/2 server always waits for the next bytes, so this wakes it.
        if self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.poll(|tls| tls.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|tls| tls.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|tls| tls.poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        self.poll(|tls| tls.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|tls| tls.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|tls| tls.poll_shutdown(cx))
    }
}

/// Accepts connections until `stop`, and sends those whose handshake succeeded to the gRPC server.
pub async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    limits: ConnectionLimits,
    ready: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let strangers = Strangers::default();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: others will be closed soon.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        // Above the limit one waits here and more in the kernel's backlog.
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = place(&permits, &strangers) => permit,
        };
        let (acceptor, ready, stranger) = (acceptor.clone(), ready.clone(), strangers.add());
        tokio::spawn(async move {
            let end = stranger.end().clone();
            let handshake = handshake(stream, acceptor, permit, stranger, &limits);
            let handshake = end.run_until_cancelled(tokio::time::timeout(limits.handshake, handshake));
            let Some(done) = handshake.await else { return };
            match done {
                Ok(Ok(connection)) => {
                    let _ = ready.send(Ok(connection)).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        });
    }
}

/// A place for one more connection, that of a stranger if no other is free.
async fn place(permits: &Arc<Semaphore>, strangers: &Strangers) -> OwnedSemaphorePermit {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return permit;
    }
    strangers.end_oldest();
    permits.clone().acquire_owned().await.expect("the semaphore is never closed")
}

async fn handshake(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    permit: OwnedSemaphorePermit,
    stranger: Stranger,
    limits: &ConnectionLimits,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let tls = acceptor.accept(stream).await?;
    let caller = match tls.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Some(caller_key(certificate).map_err(io::Error::other)?),
        None => None,
    };
    let tls = Arc::new(Mutex::new(tls));
    let evidence = Arc::new(Mutex::new(Bucket::new(limits.evidence_burst)));
    let end = Box::pin(stranger.end().clone().cancelled_owned());
    let info = ConnectionInfo { caller, tls: Arc::downgrade(&tls), evidence, stranger: Arc::new(stranger) };
    Ok(Connection { tls, info, end, _permit: permit })
}
