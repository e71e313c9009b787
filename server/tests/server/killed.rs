//! A server process that is killed in the middle of an ingest: nothing acknowledged is missing, and resuming gives
//! the same as never having been interrupted.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mnemon_client::{Client, ConnectOptions, IngestMode};
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use tonic::transport::Channel;

use crate::world::*;

/// Where the server process finds its folder.
const FOLDER: &str = "MNEMON_TEST_FOLDER";

/// Not a test: what the server process runs.
#[tokio::test]
#[ignore = "the server process of the test below"]
async fn serve_until_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let folder = Path::new(&folder);
    let server = serve(settings(&folder.join("data"))).await;
    std::fs::write(folder.join("address.part"), server.endpoint()).unwrap();
    std::fs::rename(folder.join("address.part"), folder.join("address")).unwrap();
    std::future::pending::<()>().await;
}

/// A server process; killed when it is dropped.
struct Process(Child);

impl Process {
    async fn start(folder: &Path) -> (Self, String) {
        let address = folder.join("address");
        let _ = std::fs::remove_file(&address);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::serve_until_killed", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self(child);
        let endpoint = eventually(|| async { std::fs::read_to_string(&address).ok() }).await;
        (process, endpoint)
    }

    /// SIGKILL: no chance to write anything more.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn client(endpoint: &str) -> Client {
    Client::connect(ConnectOptions { endpoint: endpoint.into(), ..ConnectOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(60, 40_000);
    let (mut process, mut endpoint) = Process::start(folder.path()).await;
    client(&endpoint).await.create_memory("m", "").await.unwrap();
    let throw_away = client(&endpoint).await;
    ingest(&throw_away, "m", "deleted", &text[..2000]).await;
    throw_away.delete_document("m", "deleted").await.unwrap();

    // Killed at several points, each time a bit further.
    for durable_bytes in [1000, 5000, 12_000] {
        let channel = Channel::from_shared(endpoint.clone()).unwrap().connect().await.unwrap();
        let mode = IngestMode::Resume.into();
        let mut pieces = Pieces::start(channel, mnemon_client::v1::IngestStart { mode, ..start("m", "d") }).await;
        pieces.text(&text[..30_000]).await;
        let acknowledged = pieces.until(|progress| progress.durable_bytes >= durable_bytes).await;
        process.kill();

        (process, endpoint) = Process::start(folder.path()).await;
        let client = client(&endpoint).await;
        let document = client.get_document("m", "d").await.unwrap();
        assert!(!document.complete);
        assert!(document.bytes >= acknowledged.durable_bytes && document.chunks >= acknowledged.durable_chunks);
        assert!(document.sequence >= acknowledged.sequence);
        let hits = client.search(&["m"], &text[..100], 1000, true).await.unwrap();
        assert!(!hits.is_empty() && hits.iter().all(|hit| hit.chunk.as_ref().unwrap().document_id == "d"));
    }

    let client = client(&endpoint).await;
    let resumed = ingest_as(&client, "m", "d", IngestMode::Resume, text.as_bytes()).await.unwrap();
    assert!(resumed.complete && resumed.durable_bytes == 40_000);
    ingest(&client, "m", "at-once", &text).await;
    process.kill();
    let storage = SledStorage::open(folder.path().join("data"), SledOptions::default()).unwrap();
    Stored::open(Arc::new(storage)).assert_same("m", "d", "at-once", &text);
}
