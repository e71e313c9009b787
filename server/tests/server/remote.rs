//! A server whose memories another server keeps: it does what one does that keeps them itself, whatever happens to the
//! connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mnemon_client::{Client, Code, IngestMode, v1};
use mnemon_memory_store::{SledOptions, SledStorage};
use mnemon_server::{Embedded, Server, Settings, bind};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use mnemon_client::v1::import_memory_request::Message;
use tokio_stream::wrappers::ReceiverStream;

use crate::model;
use crate::world::*;

/// A store, a server with the model in front of it, and a client of that.
struct Pair {
    store: Embedded,
    front: Embedded,
    client: Client,
    data: TempDir,
}

async fn start_store(data: &TempDir) -> Embedded {
    Embedded::start(Settings { store_only: true, ..settings(data.path()) }).await.unwrap()
}

async fn start_front(endpoint: String) -> Embedded {
    // Nothing is written there.
    let settings = Settings { store: Some(endpoint), ..settings("/nowhere".as_ref()) };
    let listener = bind(&settings).await.unwrap();
    let server = Server::with_model(settings, model::shared()).await.unwrap();
    Embedded::serve(server, listener).unwrap()
}

impl Pair {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let store = start_store(&data).await;
        let front = start_front(store.endpoint()).await;
        let client = connect(&front).await;
        Self { store, front, client, data }
    }
}

/// Everything that an answer says but for times.
async fn generated(client: &Client, prompt: &str) -> (String, Vec<(String, u32)>) {
    let request = v1::GenerateRequest {
        prompt: prompt.into(),
        memory: Some(from(&["m"])),
        max_tokens: Some(16),
        ..Default::default()
    };
    let mut answer = client.generate(request).await.unwrap();
    let (mut text, mut cited) = (String::new(), Vec::new());
    while let Some(message) = patiently(answer.message()).await.unwrap() {
        text.push_str(&message.text);
        for citation in message.finish.into_iter().flat_map(|finish| finish.citations) {
            cited.push((citation.chunk.unwrap().text, (citation.weight * 1e4).round() as u32));
        }
    }
    (text, cited)
}

#[tokio::test]
async fn memories_elsewhere_are_as_memories_here() {
    let (pair, world) = (Pair::new().await, World::new().await);
    let text = text(70, 6000);
    let mut seen = Vec::new();
    for client in [&pair.client, &world.client] {
        client.create_memory("m", "somewhere").await.unwrap();
        ingest(client, "m", "d", &text[..5000]).await;
        ingest_as(client, "m", "d", IngestMode::Append, &text.as_bytes()[5000..]).await.unwrap();
        ingest(client, "m", "gone", &text[..900]).await;
        client.delete_document("m", "gone").await.unwrap();
        let memory = client.get_memory("m").await.unwrap();
        let hits = client.search(&["m"], &text[2048..2080], 5, true).await.unwrap();
        let hits: Vec<_> = hits.into_iter().map(|hit| (hit.chunk.unwrap().text, hit.score)).collect();
        let score = client.score(&text[3000..3200], from(&["m"])).await.unwrap();
        seen.push((
            (memory.description, memory.fingerprint, memory.tokens, memory.documents),
            client.get_document("m", "d").await.unwrap().bytes,
            hits,
            generated(client, &text[1000..1100]).await,
            (score.log_probability, score.recalled_chunks),
        ));
    }
    assert_eq!(seen[0], seen[1]);
    assert!(!seen[0].3.1.is_empty(), "something is cited");
    let Pair { store, front, client, data } = pair;
    drop(client);
    front.stop().await.unwrap();
    store.stop().await.unwrap();
    let storage = SledStorage::open(data.path(), SledOptions::default()).unwrap();
    let elsewhere = Stored::open(Arc::new(storage));
    assert!(elsewhere.chunks("m", "d") == world.stop().await.chunks("m", "d"), "stored to the last bit");
}

#[tokio::test]
async fn errors_of_the_store_are_told() {
    let pair = Pair::new().await;
    let client = &pair.client;
    let error = client.search(&["nothing"], "text", 1, false).await.unwrap_err();
    assert_status(&error, Code::NotFound, "'nothing' does not exist", "");
    let error = ingest_as(client, "nothing", "d", IngestMode::Create, b"text").await.unwrap_err();
    assert_status(&error, Code::NotFound, "'nothing' does not exist", "");
    client.create_memory("m", "").await.unwrap();
    let error = client.create_memory("m", "").await.unwrap_err();
    assert_status(&error, Code::AlreadyExists, "'m' exists already", "");
    let error = client.create_memory("m/n", "").await.unwrap_err();
    assert_status(&error, Code::InvalidArgument, "1 to 128", "name");
    // The same document twice at one time.
    let mut pieces = Pieces::start(channel(&pair.front).await, start("m", "d")).await;
    pieces.text(text(71, 4000)).await;
    pieces.until(|progress| progress.durable_bytes > 0).await;
    let error = ingest_as(client, "m", "d", IngestMode::Append, b"text").await.unwrap_err();
    assert_status(&error, Code::Aborted, "being written", "");
}

#[tokio::test]
async fn a_store_that_is_not_there_is_told_at_once() {
    let settings = Settings { store: Some("http://127.0.0.1:9".into()), ..settings("/nowhere".as_ref()) };
    let error = Server::with_model(settings, model::shared()).await.err().unwrap();
    assert!(error.to_string().contains("http://127.0.0.1:9"), "{error}");
}

/// A connection to the store that breaks now and then.
struct Bridge {
    address: SocketAddr,
    /// Where the store is now.
    store: Arc<Mutex<SocketAddr>>,
    /// Connections cut so far.
    cuts: Arc<AtomicU64>,
}

impl Bridge {
    /// Each connection carries so many bytes, one way or the other, before it is cut.
    async fn new(store: SocketAddr, bytes: impl Fn(u64) -> (u64, u64) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (store, cuts) = (Arc::new(Mutex::new(store)), Arc::new(AtomicU64::new(0)));
        let bridge = Self { address, store: Arc::clone(&store), cuts: Arc::clone(&cuts) };
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((near, _)) = listener.accept().await else { return };
                let to = *store.lock().unwrap();
                let (there, back) = bytes(connection);
                let cuts = Arc::clone(&cuts);
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = carry(near_in, far_out, there) => {}
                        () = carry(far_in, near_out, back) => {}
                    }
                    cuts.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        bridge
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn carry(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, mut bytes: u64) {
    let mut buffer = [0; 4096];
    while bytes > 0 {
        let most = buffer.len().min(bytes as usize);
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else { return };
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        bytes -= read as u64;
    }
}

#[tokio::test]
async fn broken_connections_neither_lose_nor_double() {
    let data = tempfile::tempdir().unwrap();
    let store = start_store(&data).await;
    // Some are cut while an append is sent, others while its answer comes back; the first one carries the greeting.
    let bridge = Bridge::new(store.address(), |connection| {
        if connection % 2 == 0 {
            (60_000 + 7919 * (connection % 11), u64::MAX)
        } else {
            (u64::MAX, 500 + 61 * (connection % 13))
        }
    })
    .await;
    let front = start_front(bridge.endpoint()).await;
    let (client, direct) = (connect(&front).await, connect(&store).await);
    eventually(|| async { client.create_memory("m", "").await.ok() }).await;
    let text = text(72, 30_000);
    let done = ingest(&client, "m", "d", &text).await;
    assert!(done.complete && done.durable_bytes == 30_000);
    assert!(bridge.cuts.load(Ordering::Relaxed) > 5, "{:?}", bridge.cuts);
    let document = direct.get_document("m", "d").await.unwrap();
    assert_eq!((document.tokens, document.complete), (30_000, true));
    // The same, over a connection that holds.
    let steady = start_front(store.endpoint()).await;
    ingest(&connect(&steady).await, "m", "at-once", &text).await;
    let answer = generated(&client, &text[1000..1100]).await;
    assert_eq!(answer, generated(&connect(&steady).await, &text[1000..1100]).await);
    drop((client, direct));
    for server in [front, steady, store] {
        server.stop().await.unwrap();
    }
    let storage = SledStorage::open(data.path(), SledOptions::default()).unwrap();
    Stored::open(Arc::new(storage)).assert_same("m", "d", "at-once", &text);
}

#[tokio::test]
async fn a_store_that_starts_again_is_waited_for() {
    let data = tempfile::tempdir().unwrap();
    let store = start_store(&data).await;
    let bridge = Bridge::new(store.address(), |_| (u64::MAX, u64::MAX)).await;
    let front = start_front(bridge.endpoint()).await;
    let client = connect(&front).await;
    client.create_memory("m", "").await.unwrap();
    let text = text(73, 12_000);
    let mut pieces = Pieces::start(channel(&front).await, start("m", "d")).await;
    pieces.text(&text.as_bytes()[..6000]).await;
    let durable = pieces.until(|progress| progress.durable_bytes > 2000).await.durable_bytes;
    store.stop().await.unwrap();
    pieces.text(&text.as_bytes()[6000..]).await;
    let store = start_store(&data).await;
    *bridge.store.lock().unwrap() = store.address();
    let Pieces { sender, mut answers } = pieces;
    drop(sender);
    let mut last = None;
    while let Some(progress) = patiently(answers.message()).await.unwrap() {
        last = Some(progress);
    }
    let last = last.unwrap();
    assert!(last.complete && last.durable_bytes == 12_000 && durable < 12_000);
    let hits = client.search(&["m"], &text[4096..4128], 1, true).await.unwrap();
    assert!(text[4096..4128].contains(&hits[0].chunk.as_ref().unwrap().text[..8]));
}

#[tokio::test]
async fn an_import_that_is_hung_up_on_is_none_elsewhere_either() {
    let pair = Pair::new().await;
    pair.client.create_memory("m", "").await.unwrap();
    ingest(&pair.client, "m", "a", &text(3, 5000)).await;
    let mut archive = Vec::new();
    pair.client.export_memory("m", &mut archive, |_, _| {}).await.unwrap();
    let blobs = || std::fs::read_dir(pair.data.path().join("blobs")).unwrap().count();
    let before = blobs();
    let (sender, outgoing) = tokio::sync::mpsc::channel(4);
    let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&pair.front).await);
    let call = tokio::spawn(async move { raw.import_memory(ReceiverStream::new(outgoing)).await });
    let message = |message| v1::ImportMemoryRequest { message: Some(message) };
    let start = v1::ImportStart { name: "n".into(), replace: false };
    sender.send(message(Message::Start(start))).await.unwrap();
    sender.send(message(Message::Data(archive.clone()))).await.unwrap();
    eventually(|| async { (blobs() > before).then_some(()) }).await;
    // After the last byte, without saying that it was the last.
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    eventually(|| async { (blobs() == before).then_some(()) }).await;
    assert!(pair.client.get_memory("n").await.is_err());
    pair.client.import_memory(Some("n"), false, &archive[..], |_| {}).await.unwrap();
    assert_eq!(pair.client.get_memory("n").await.unwrap().documents, 1);
}
