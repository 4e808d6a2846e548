//! FileSync: BuildKit asks for a tree by name and gets what its patterns leave of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::buildkit::fsutil::types::packet::PacketType;
use proto::buildkit::fsutil::types::{Packet, Stat};
use proto::buildkit::moby::filesync::v1::file_sync_server::FileSync;
use provenance::ignore::Filter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::tree::{Contents, Tree, TreeError, without_covered};

/// Bytes of one DATA packet (the receiver takes up to 16 MiB). With [`QUEUE`] it bounds the memory of a transfer to 4 MiB.
const CHUNK: usize = 128 << 10;
/// Files read at the same time, as in Docker's clients.
const READERS: usize = 4;
/// Transfers of one build at the same time; each keeps a few threads, which all builds share. More wait.
const MAX_TRANSFERS: usize = 16;
/// Packets on their way.
const QUEUE: usize = 32;
/// Most patterns or paths of one request.
const MAX_PATTERNS: usize = 100_000;

/// The trees of one build by the names under which BuildKit asks for them.
#[derive(Clone, Default)]
pub(super) struct Trees(pub(super) Arc<BTreeMap<String, Arc<Tree>>>);

/// Failures of the trees, kept for the error report: BuildKit passes on only their text.
pub(super) type Faults = Arc<watch::Sender<Vec<TreeError>>>;

pub(super) struct FileSyncService {
    trees: Trees,
    faults: Faults,
    turns: Arc<Semaphore>,
}

impl FileSyncService {
    pub(super) fn new(trees: Trees, faults: Faults) -> Self {
        Self { trees, faults, turns: Arc::new(Semaphore::new(MAX_TRANSFERS)) }
    }
}

/// Values of a metadata key; Docker query-escapes them all when one is not ASCII, and says so.
pub(super) fn metadata_values(metadata: &MetadataMap, key: &str) -> Result<Vec<Vec<u8>>, Status> {
    // Never only the first of them: what an exclude pattern keeps out must not get in.
    let got = metadata.get_all(key).iter().count();
    if got > MAX_PATTERNS {
        let text = format!("{got} values of {key:?} are sent, at most {MAX_PATTERNS} are read");
        return Err(Status::resource_exhausted(text));
    }
    let encoded = metadata
        .get(format!("{key}-encoded"))
        .is_some_and(|v| matches!(v.as_encoded_bytes(), b"1" | b"true"));
    let unescaped = metadata.get_all(key).iter().map(|value| {
        let bytes = value.as_encoded_bytes();
        if encoded { query_unescape(bytes) } else { bytes.to_vec() }
    });
    Ok(unescaped.collect())
}

fn query_unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let hex = text.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (text[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    out
}

type Sender = mpsc::Sender<Result<Packet, Status>>;

fn packet(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

/// One transfer: who may be asked for by which number.
struct Transfer {
    tree: Arc<Tree>,
    out: Sender,
    /// By index of the STAT packet; taken when requested.
    files: Mutex<Vec<Option<Contents>>>,
    faults: Faults,
    _turn: OwnedSemaphorePermit,
}

impl Transfer {
    fn fail(&self, error: TreeError) {
        let text = error.to_string();
        self.faults.send_modify(|faults| faults.push(error));
        let mut failed = packet(PacketType::PacketErr);
        failed.data = text.clone().into();
        // When the receiver is gone there is nobody left to tell.
        let _ = self.out.blocking_send(Ok(failed));
        let _ = self.out.blocking_send(Err(Status::failed_precondition(text)));
    }

    /// Sends the list of files. Blocks.
    fn list(&self, include: &[Vec<u8>], exclude: &[Vec<u8>], follow: &[Vec<u8>]) -> Result<(), TreeError> {
        let mut include = include.to_vec();
        if !follow.is_empty()
            && let Some(targets) = self.tree.follow_links(follow)?
        {
            include.extend(targets);
            include = without_covered(include).unwrap_or_default();
        }
        let filter = Filter::new(&include, exclude)?;
        self.tree.walk(&filter, &|| self.out.is_closed(), &mut |stat: Stat, contents| {
            // A symbolic link, device or directory has no contents; a hard link's are asked for by its first name.
            self.files.lock().unwrap_or_else(PoisonError::into_inner).push(contents);
            let mut entry = packet(PacketType::PacketStat);
            entry.stat = Some(stat);
            self.out.blocking_send(Ok(entry)).map_err(|_| TreeError::Closed)
        })?;
        self.out.blocking_send(Ok(packet(PacketType::PacketStat))).map_err(|_| TreeError::Closed)
    }

    /// Sends the contents of one file. Blocks.
    fn send(&self, id: u32) -> Result<(), TreeError> {
        let taken = {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.get_mut(id as usize).and_then(Option::take)
        };
        let Some(contents) = taken else {
            let _ =
                self.out.blocking_send(Err(Status::invalid_argument(format!("no file with number {id}"))));
            return Err(TreeError::Closed);
        };
        let out = self.out.clone();
        let gone = Box::new(move || out.is_closed());
        let mut reader = self.tree.store().open_arriving(&contents.digest, contents.size, gone)?;
        let unreadable =
            |problem: String| TreeError::Blob(super::blobs::BlobError { digest: contents.digest, problem });
        let mut left = contents.size;
        loop {
            let bytes = reader.next(CHUNK).map_err(|e| match e.kind() {
                std::io::ErrorKind::BrokenPipe => TreeError::Closed,
                _ => unreadable(e.to_string()),
            })?;
            if bytes.is_empty() {
                break;
            }
            left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
                unreadable(format!("is longer than the {} bytes its directory says", contents.size))
            })?;
            let mut data = packet(PacketType::PacketData);
            data.id = id;
            data.data = bytes;
            self.out.blocking_send(Ok(data)).map_err(|_| TreeError::Closed)?;
        }
        if left > 0 {
            return Err(unreadable(format!("is {left} bytes shorter than its directory says")));
        }
        let mut end = packet(PacketType::PacketData);
        end.id = id;
        self.out.blocking_send(Ok(end)).map_err(|_| TreeError::Closed)
    }
}

#[tonic::async_trait]
impl FileSync for FileSyncService {
    type DiffCopyStream = ReceiverStream<Result<Packet, Status>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let name = metadata_values(metadata, "dir-name")?.pop().unwrap_or_default();
        let include = metadata_values(metadata, "include-patterns")?;
        let exclude = metadata_values(metadata, "exclude-patterns")?;
        let follow = metadata_values(metadata, "followpaths")?;
        let name = String::from_utf8(name).map_err(|_| Status::not_found("directory name is not UTF-8"))?;
        let tree = self.trees.0.get(&name).cloned();
        let tree = tree.ok_or_else(|| Status::not_found(format!("no access allowed to dir {name:?}")))?;

        let turn = self.turns.clone().acquire_owned().await.map_err(|e| Status::internal(e.to_string()))?;
        let (out, packets) = mpsc::channel(QUEUE);
        let (files, faults) = (Mutex::default(), self.faults.clone());
        let transfer = Arc::new(Transfer { tree, out, files, faults, _turn: turn });
        let lister = transfer.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = lister.list(&include, &exclude, &follow)
                && error != TreeError::Closed
            {
                lister.fail(error);
            }
        });
        let (queue, queued) = mpsc::channel::<u32>(QUEUE);
        let queued = Arc::new(Mutex::new(queued));
        for _ in 0..READERS {
            let (transfer, queued) = (transfer.clone(), queued.clone());
            tokio::task::spawn_blocking(move || {
                loop {
                    let next = queued.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                    let Some(id) = next else { return };
                    match transfer.send(id) {
                        Ok(()) => {}
                        Err(TreeError::Closed) => return,
                        Err(error) => return transfer.fail(error),
                    }
                }
            });
        }
        tokio::spawn(serve_requests(
            request.into_inner(),
            queue,
            transfer.out.clone(),
            transfer.faults.clone(),
        ));
        Ok(Response::new(ReceiverStream::new(packets)))
    }
}

/// Passes the receiver's requests on until it says FIN, which is answered.
async fn serve_requests(
    mut requests: Streaming<Packet>,
    queue: mpsc::Sender<u32>,
    out: Sender,
    faults: Faults,
) {
    while let Ok(Some(request)) = requests.message().await {
        match request.r#type() {
            PacketType::PacketReq => {
                if queue.send(request.id).await.is_err() {
                    return;
                }
            }
            PacketType::PacketFin => {
                // The receiver may be gone already; it has all it wants.
                let _ = out.send(Ok(packet(PacketType::PacketFin))).await;
                return;
            }
            PacketType::PacketErr => {
                let problem = String::from_utf8_lossy(&request.data).into_owned();
                faults.send_modify(|faults| faults.push(TreeError::Receiver { problem }));
                return;
            }
            PacketType::PacketStat | PacketType::PacketData => {
                let _ = out.send(Err(Status::invalid_argument("unexpected packet"))).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "exclude-patterns";

    #[test]
    fn patterns_are_read_all_or_refused() {
        let mut metadata = MetadataMap::new();
        for index in 0..MAX_PATTERNS {
            metadata.append(KEY, format!("file-{index}").parse().expect("ASCII"));
        }
        let all = metadata_values(&metadata, KEY).expect("as many as are read");
        assert_eq!((all.len(), all.last()), (MAX_PATTERNS, Some(&b"file-99999".to_vec())));
        metadata.append(KEY, "secret".parse().expect("ASCII"));
        let refused = metadata_values(&metadata, KEY).expect_err("one more");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert_eq!(
            refused.message(),
            "100001 values of \"exclude-patterns\" are sent, at most 100000 are read"
        );
        assert_eq!(metadata_values(&metadata, "include-patterns").expect("none"), Vec::<Vec<u8>>::new());
    }
}
