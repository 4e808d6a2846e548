//! A server on loopback that answers like AMD's Key Distribution Service and Intel's Provisioning Certification Service:
//! their paths, status codes, headers and forms (DER, PEM, JSON). What it gives out is the software TEE's. NOT HARDWARE.
//!
//! HTTP/1.1 by hand, one answer for each connection, so that a test can have it break off at any byte.

use std::collections::{HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::evidence::certificate_table;
use provenance::tdx_endorsements::TdxEndorsements;

/// Longest request in bytes, and how long one is waited for.
const MAX_REQUEST: usize = 16 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// A good answer, or one of another status.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Headers beside Content-Length and Connection.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// How many bytes of the body are sent before the connection is closed; all when there are fewer.
    pub sent: usize,
}

impl Reply {
    /// 200 with this body.
    #[must_use]
    pub fn ok(content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("Content-Type", content_type.to_owned())];
        Self { status: 200, headers, body, sent: usize::MAX }
    }

    /// Another status, with the short text that such services send.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: b"{\"message\":\"error\"}".to_vec(), sent: usize::MAX }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The connection is closed after this many bytes of the body.
    #[must_use]
    pub fn cut_after(mut self, sent: usize) -> Self {
        self.sent = sent;
        self
    }
}

#[derive(Default)]
struct Shared {
    replies: Mutex<HashMap<String, Reply>>,
    /// What a path answers before its good reply, once each.
    troubles: Mutex<HashMap<String, VecDeque<Reply>>>,
    asked: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. It ends when it is dropped.
pub struct VendorServices {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Default for VendorServices {
    fn default() -> Self {
        Self::start()
    }
}

impl VendorServices {
    /// Starts it without anything to give out: it answers 404.
    ///
    /// # Panics
    /// When loopback has no port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared::default());
        let server = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if server.stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that goes away is its own trouble.
                let _ = stream.and_then(|stream| server.answer(stream));
            }
        });
        Self { address, shared }
    }

    /// Base URL of all services.
    #[must_use]
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Gives out what stands in a GHCB certificate table, and a revocation list. `product` is `vcek/v1/Milan` and the like,
    /// `vcek` the path of the chip's certificate with its query.
    ///
    /// # Panics
    /// When the table is none.
    pub fn amd(&self, product: &str, vcek: Option<&str>, table: &[u8], crl: Vec<u8>) {
        let mut table = certificate_table::parse(table).expect("a certificate table");
        if let Some(path) = vcek {
            let der = table.remove(&certificate_table::VCEK).expect("a VCEK");
            self.give(path, Reply::ok("application/x-x509-ca-cert", der));
        }
        let mut take = |guid| table.remove(&guid).expect("whole");
        let chain = [take(certificate_table::ASK), take(certificate_table::ARK)];
        let pem = chain.map(|der| pem("CERTIFICATE", &der)).concat();
        self.give(&format!("/{product}/cert_chain"), Reply::ok("application/x-pem-file", pem.into_bytes()));
        self.give(&format!("/{product}/crl"), Reply::ok("application/pkix-crl", crl));
    }

    /// Gives out endorsements of a platform, the root's revocation list at `/IntelSGXRootCA.der`.
    pub fn intel(&self, fmspc: &str, ca: &str, endorsements: &TdxEndorsements) {
        let json = |body: &[u8], header, chain: &[u8]| {
            Reply::ok("application/json", body.to_vec()).with(header, &percent_encoded(chain))
        };
        self.give(
            &format!("/tdx/certification/v4/tcb?fmspc={fmspc}"),
            json(&endorsements.tcb_info, "TCB-Info-Issuer-Chain", &endorsements.tcb_info_issuer_chain),
        );
        self.give(
            "/tdx/certification/v4/qe/identity",
            json(
                &endorsements.qe_identity,
                "SGX-Enclave-Identity-Issuer-Chain",
                &endorsements.qe_identity_issuer_chain,
            ),
        );
        let crl = |der: &[u8]| Reply::ok("application/pkix-crl", der.to_vec());
        self.give(&format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"), crl(&endorsements.pck_crl));
        self.give("/IntelSGXRootCA.der", crl(&endorsements.root_ca_crl));
    }

    /// What a path (with its query) answers from now on.
    pub fn give(&self, path: &str, reply: Reply) {
        locked(&self.shared.replies).insert(path.to_owned(), reply);
    }

    /// What a path answers once, before its good reply; several come one after the other.
    pub fn trouble(&self, path: &str, reply: Reply) {
        locked(&self.shared.troubles).entry(path.to_owned()).or_default().push_back(reply);
    }

    /// Paths asked for since the last call, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *locked(&self.shared.asked))
    }
}

impl Drop for VendorServices {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the server, which then ends.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = Vec::new();
        let mut piece = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                length => request.extend_from_slice(&piece[..length]),
            }
        }
        let text = String::from_utf8_lossy(&request);
        let path = text.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        locked(&self.asked).push(path.to_owned());
        let trouble = locked(&self.troubles).get_mut(path).and_then(VecDeque::pop_front);
        let reply = trouble.or_else(|| locked(&self.replies).get(path).cloned());
        let reply = reply.unwrap_or_else(|| Reply::status(404));
        let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", reply.body.len()));
        stream.write_all(head.as_bytes())?;
        stream.write_all(&reply.body[..reply.sent.min(reply.body.len())])
    }
}

/// A PEM block with lines of 64 characters.
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Percent encoding of all but unreserved characters (RFC 3986 §2.3), as Intel writes it into headers.
fn percent_encoded(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(*byte))
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
