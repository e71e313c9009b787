//! Servers, clients and texts for the tests.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mnemon_client::{Client, Code, ConnectOptions, Error, IngestMode, IngestOptions, v1};
use mnemon_memory::{ChunkId, Recall as _, SourceSpan};
use mnemon_memory_store::storage::{FaultyStorage, InMemoryStorage, SledOptions, SledStorage};
use mnemon_memory_store::{Sealing, Storage, Store, StoreOptions};
use mnemon_runtime::Model;
use mnemon_server::{Embedded, Server, Settings, bind};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::model;

/// Commits fall on the ends of segments, which are of 512 tokens: of 512 bytes, with the model of these tests. Text is
/// read once some 2 KiB of it are there, so documents that are to be interrupted are larger than that.
pub(crate) const SEGMENT_BYTES: usize = 512;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server with its data folder, and a client of it.
pub(crate) struct World {
    pub(crate) server: Embedded,
    pub(crate) client: Client,
    pub(crate) data: TempDir,
}

impl World {
    /// A server with default settings on an empty folder.
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with changed settings on an empty folder.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut settings = settings(data.path());
        change(&mut settings);
        let server = serve(settings).await;
        let client = connect(&server).await;
        Self { server, client, data }
    }

    /// Stops the server and starts another on the same folder.
    pub(crate) async fn restart(self) -> Self {
        drop(self.client);
        self.server.stop().await.unwrap();
        let server = serve(settings(self.data.path())).await;
        let client = connect(&server).await;
        Self { server, client, data: self.data }
    }

    /// Stops the server and opens what it stored.
    pub(crate) async fn stop(self) -> Stored {
        drop(self.client);
        self.server.stop().await.unwrap();
        let storage = Arc::new(SledStorage::open(self.data.path(), SledOptions::default()).unwrap());
        Stored { _data: Some(self.data), ..Stored::open(storage) }
    }
}

/// What a server left behind.
pub(crate) struct Stored {
    store: Store,
    /// Its folder, removed after it.
    _data: Option<TempDir>,
}

/// A chunk in full: where it stands, its tokens, its text, its keys and values.
pub(crate) type StoredChunk = (SourceSpan, Vec<u32>, String, Vec<f32>, Vec<f32>);

impl Stored {
    pub(crate) fn open(storage: Arc<dyn Storage>) -> Self {
        let options = StoreOptions { sealing: Sealing::Manual, ..StoreOptions::default() };
        Self { store: Store::open(storage, options, Arc::new(|| 1_700_000_000_000)).unwrap(), _data: None }
    }

    /// All chunks of a document, in order.
    pub(crate) fn chunks(&self, memory: &str, document: &str) -> Vec<StoredChunk> {
        let memory = self.store.memory("default", memory).unwrap();
        let infos = memory.document_chunks(document, 0, usize::MAX).unwrap();
        let ids: Vec<ChunkId> = infos.iter().map(|info| info.id).collect();
        let fetched = memory.snapshot().unwrap().fetch(0, &ids).unwrap();
        let whole = |(info, kv): (mnemon_memory::ChunkInfo, Arc<mnemon_memory::ChunkKv>)| {
            (info.span, info.tokens, info.text, kv.keys.to_f32(), kv.values.to_f32())
        };
        infos.into_iter().zip(fetched).map(whole).collect()
    }

    /// Asserts that a document holds `text`, and is the same, to the last bit, as another one.
    pub(crate) fn assert_same(&self, memory: &str, document: &str, other: &str, text: &str) {
        let chunks = self.chunks(memory, document);
        let stored: String = chunks.iter().map(|chunk| chunk.2.as_str()).collect();
        assert_eq!(stored, text, "{document}");
        assert!(chunks == self.chunks(memory, other), "{document} differs from {other}");
    }
}

pub(crate) fn settings(data: &Path) -> Settings {
    Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        data: data.to_owned(),
        commit_tokens: SEGMENT_BYTES as u32,
        shutdown_grace: Duration::from_secs(2),
        ..Settings::default()
    }
}

/// Serves the shared model over a folder.
pub(crate) async fn serve(settings: Settings) -> Embedded {
    let options = SledOptions { min_free_bytes: settings.limits.disk_free_bytes, ..SledOptions::default() };
    let storage = SledStorage::open(&settings.data, options).unwrap();
    serve_storage(settings, Arc::new(storage)).await
}

/// Serves the shared model over a storage.
pub(crate) async fn serve_storage(settings: Settings, storage: Arc<dyn Storage>) -> Embedded {
    serve_model(settings, storage, model::shared()).await
}

/// Serves a model over a storage.
pub(crate) async fn serve_model(settings: Settings, storage: Arc<dyn Storage>, model: Arc<Model>) -> Embedded {
    let listener = bind(&settings).await.unwrap();
    let server = Server::with_parts(settings, storage, model).await.unwrap();
    Embedded::serve(server, listener).unwrap()
}

/// A storage that can be told to fail.
pub(crate) fn faulty() -> Arc<FaultyStorage> {
    Arc::new(FaultyStorage::new(Arc::new(InMemoryStorage::new())))
}

pub(crate) async fn connect(server: &Embedded) -> Client {
    Client::connect(ConnectOptions { endpoint: server.endpoint(), ..ConnectOptions::default() }).await.unwrap()
}

pub(crate) async fn connect_as(server: &Embedded, token: &str) -> Client {
    let token = Some(token.to_owned());
    Client::connect(ConnectOptions { endpoint: server.endpoint(), token, ..ConnectOptions::default() }).await.unwrap()
}

/// A plain connection, for calls that the client library does not make.
pub(crate) async fn channel(server: &Embedded) -> Channel {
    Channel::from_shared(server.endpoint()).unwrap().connect().await.unwrap()
}

/// `bytes` bytes of text with words that do not repeat soon; the same for the same seed.
pub(crate) fn text(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word: String = (0..3 + state % 6).map(|i| char::from(b'a' + (state >> (i * 7) & 31) as u8 % 26)).collect();
        text.push_str(&word);
        text.push(if state & 0xf00 == 0 { '\n' } else { ' ' });
    }
    text.truncate(bytes);
    text
}

/// Ingests a whole text.
pub(crate) async fn ingest(client: &Client, memory: &str, document: &str, text: &str) -> v1::IngestProgress {
    ingest_as(client, memory, document, IngestMode::Create, text.as_bytes()).await.unwrap()
}

/// Ingests bytes in a mode.
pub(crate) async fn ingest_as(
    client: &Client,
    memory: &str,
    document: &str,
    mode: IngestMode,
    bytes: &[u8],
) -> Result<v1::IngestProgress, Error> {
    let options = IngestOptions { mode, ..IngestOptions::default() };
    client.ingest(memory, document, options, bytes, |_| {}).await
}

/// An ingest stream driven message by message.
pub(crate) struct Pieces {
    pub(crate) sender: mpsc::Sender<v1::IngestRequest>,
    pub(crate) answers: tonic::Streaming<v1::IngestProgress>,
}

impl Pieces {
    pub(crate) async fn start(channel: Channel, start: v1::IngestStart) -> Self {
        let mut pieces = Self::open(channel).await;
        pieces.send(v1::ingest_request::Message::Start(start)).await;
        pieces
    }

    /// A stream on which nothing was sent.
    pub(crate) async fn open(channel: Channel) -> Self {
        let (sender, outgoing) = mpsc::channel(4);
        let mut client = v1::recall_service_client::RecallServiceClient::new(channel);
        let answers = client.ingest(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { sender, answers }
    }

    pub(crate) async fn send(&mut self, message: v1::ingest_request::Message) {
        self.sender.send(v1::IngestRequest { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn text(&mut self, text: impl Into<Vec<u8>>) {
        self.send(v1::ingest_request::Message::Text(text.into())).await;
    }

    /// Reads answers until `enough`.
    pub(crate) async fn until(&mut self, enough: impl Fn(&v1::IngestProgress) -> bool) -> v1::IngestProgress {
        loop {
            let progress = patiently(self.answers.message()).await.unwrap().expect("progress");
            if enough(&progress) {
                return progress;
            }
        }
    }

    /// The error that ends the stream.
    pub(crate) async fn error(&mut self) -> Error {
        loop {
            match patiently(self.answers.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status.into(),
            }
        }
    }
}

pub(crate) fn start(memory: &str, document_id: &str) -> v1::IngestStart {
    v1::IngestStart { memory: memory.into(), document_id: document_id.into(), ..Default::default() }
}

/// Waits, but not for ever.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

/// Tries again until there is something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(mut attempt: impl FnMut() -> F) -> T {
    patiently(async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Asserts the status, part of the message, and that `field` is blamed (unless it is empty).
#[track_caller]
pub(crate) fn assert_status(error: &Error, code: Code, part: &str, field: &str) {
    assert_eq!(error.code(), Some(code), "{error}");
    assert!(error.to_string().contains(part), "'{part}' is not in: {error}");
    if !field.is_empty() {
        let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
        assert!(fields.contains(&field), "{field} is not blamed: {fields:?}");
    }
}

/// Recall from these memories.
pub(crate) fn from(memories: &[&str]) -> v1::MemoryOptions {
    v1::MemoryOptions { memories: memories.iter().map(|&name| name.into()).collect(), ..Default::default() }
}

/// Answer without memory.
pub(crate) fn without_memory() -> v1::MemoryOptions {
    v1::MemoryOptions { recall_off: true, ..Default::default() }
}
