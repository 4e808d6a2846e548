//! SSH agent forwarding: connections that the build opens are carried to the agent's socket on this machine.
//! Private keys never leave the agent; the build sees only what the agent signs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::v1;
use proto::v1::build_service_client::BuildServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::channel::AttestedService;

/// Most agent connections of one build at a time.
const MAX_CONNECTIONS: usize = 64;
/// Largest piece of agent traffic in one message; an agent message is at most 256 KiB.
const PIECE: usize = 64 << 10;

/// Serves the agent connections of one ssh id until the build ends or `forward` is dropped.
pub async fn forward(
    mut client: BuildServiceClient<AttestedService>,
    build: String,
    ssh_id: String,
    socket: PathBuf,
) -> Result<(), tonic::Status> {
    let (sender, receiver) = mpsc::channel::<v1::ForwardAgentRequest>(32);
    let first = v1::ForwardAgentRequest { name: build, ssh_id, ..v1::ForwardAgentRequest::default() };
    sender.send(first).await.expect("the receiver is held here");
    let mut stream = client.forward_agent(ReceiverStream::new(receiver)).await?.into_inner();
    let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    while let Some(message) = stream.message().await? {
        let number = message.connection;
        if !message.data.is_empty() || !message.closed {
            if !open.contains_key(&number) {
                open.retain(|_, sender| !sender.is_closed());
                let to_agent = match open.len() < MAX_CONNECTIONS {
                    true => connect(&socket, number, &sender).await,
                    false => None,
                };
                let Some(to_agent) = to_agent else {
                    let _ = sender.send(closed(number)).await;
                    continue;
                };
                open.insert(number, to_agent);
            }
            if let Some(to_agent) = open.get(&number)
                && !message.data.is_empty()
                && to_agent.send(message.data).await.is_err()
            {
                open.remove(&number);
            }
        }
        if message.closed {
            open.remove(&number);
        }
    }
    Ok(())
}

fn closed(connection: u32) -> v1::ForwardAgentRequest {
    v1::ForwardAgentRequest { connection, closed: true, ..v1::ForwardAgentRequest::default() }
}

/// Connects to the agent and gives the way to it; `None` when the agent does not answer.
async fn connect(
    socket: &Path,
    number: u32,
    sender: &mpsc::Sender<v1::ForwardAgentRequest>,
) -> Option<mpsc::Sender<Bytes>> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (from_agent, mut agent) = stream.into_split();
    let (to_agent, mut inbox) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        while let Some(data) = inbox.recv().await {
            if agent.write_all(&data).await.is_err() {
                break;
            }
        }
    });
    tokio::spawn(answers(from_agent, number, sender.clone()));
    Some(to_agent)
}

async fn answers(mut agent: OwnedReadHalf, number: u32, sender: mpsc::Sender<v1::ForwardAgentRequest>) {
    let mut buffer = vec![0; PIECE];
    loop {
        match agent.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                let data = Bytes::copy_from_slice(&buffer[..length]);
                let message = v1::ForwardAgentRequest {
                    connection: number,
                    data,
                    ..v1::ForwardAgentRequest::default()
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = sender.send(closed(number)).await;
}
