//! Re-encoding: a memory of another model, interrupted, resumed, changed meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use mnemon_client::{Client, Code, IngestMode, IngestOptions, v1};
use mnemon_memory::KvDtype;
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use mnemon_runtime::{LoadOptions, Model};
use tempfile::TempDir;

use crate::world::*;

/// Another model than [`model::shared`](crate::model::shared): other weights, chunks and numbers.
fn other_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let options = LoadOptions { chunk_tokens: Some(8), kv_dtype: Some(KvDtype::F16), ..LoadOptions::default() };
    Arc::clone(MODEL.get_or_init(|| Arc::new(crate::model::load_with(2, &options))))
}

/// A folder with memory `m`, made by another model: documents `a`, with metadata, and `b`.
async fn made_by_another() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let storage = Arc::new(SledStorage::open(data.path(), SledOptions::default()).unwrap());
    let server = serve_model(settings(data.path()), storage, other_model()).await;
    let client = connect(&server).await;
    client.create_memory("m", "about").await.unwrap();
    ingest_turns(&client, "m", "a", &text(1, 9000)).await;
    ingest(&client, "m", "b", &text(2, 20_000)).await;
    drop(client);
    server.stop().await.unwrap();
    data
}

/// A document in three parts, of which one is of no turn.
async fn ingest_turns(client: &Client, memory: &str, id: &str, text: &str) {
    for (speaker, part) in [("Anna", 0..3333), ("", 3333..5000), ("Ben", 5000..text.len())] {
        let turn = HashMap::from([("speaker".to_owned(), speaker.to_owned())]);
        let turn = if speaker.is_empty() { HashMap::new() } else { turn };
        let options = IngestOptions { mode: v1::IngestMode::Append, metadata: metadata(), turn, ..Default::default() };
        client.ingest(memory, id, options, &text.as_bytes()[part], |_| {}).await.unwrap();
    }
}

fn metadata() -> HashMap<String, String> {
    HashMap::from([("author".to_owned(), "Tolstoy".to_owned())])
}

/// The shared model over a folder.
async fn serve_on(data: TempDir) -> World {
    let server = serve(settings(data.path())).await;
    let client = connect(&server).await;
    World { server, client, data }
}

fn request(into: &str, replace: bool) -> v1::ReencodeMemoryRequest {
    v1::ReencodeMemoryRequest { name: "m".into(), into: into.into(), replace }
}

async fn reencode(client: &Client, into: &str, replace: bool) -> v1::ReencodeProgress {
    client.reencode_memory(request(into, replace), |_| {}).await.unwrap()
}

#[tokio::test]
async fn kept_text_is_read_by_the_model_being_served() {
    let world = serve_on(made_by_another().await).await;
    let client = &world.client;
    let refused = client.search(&["m"], "text", 3, false).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "re-encode the memory", "");
    let (stored, served) = (other_model().fingerprint(), crate::model::shared().fingerprint());
    assert_status(&refused, Code::FailedPrecondition, &stored.to_string(), "");
    assert_status(&refused, Code::FailedPrecondition, &served.to_string(), "");

    let mut seen = Vec::new();
    let done = client.reencode_memory(request("v2", false), |now| seen.push(now.clone())).await.unwrap();
    assert!(seen.len() > 2, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].text_bytes_done <= pair[1].text_bytes_done), "{seen:?}");
    assert_eq!((done.documents, done.documents_done, done.documents_skipped), (2, 2, 0));
    assert_eq!((done.text_bytes, done.text_bytes_done, done.tokens_done), (29_000, 29_000, 29_000));
    // The old one is as it was, the new one as if the texts had been ingested.
    assert_eq!(client.get_memory("m").await.unwrap().fingerprint, stored.to_hex());
    let new = client.get_memory("v2").await.unwrap();
    assert_eq!((new.fingerprint, new.description.as_str()), (served.to_hex(), "about"));
    let (a, b) = (client.get_document("v2", "a").await.unwrap(), client.get_document("v2", "b").await.unwrap());
    assert!(a.complete && b.complete && a.metadata == metadata() && b.metadata.is_empty());
    ingest_turns(client, "v2", "a-again", &text(1, 9000)).await;
    ingest(client, "v2", "b-again", &text(2, 20_000)).await;

    let taken = client.reencode_memory(request("v2", false), |_| {}).await.unwrap_err();
    assert_status(&taken, Code::AlreadyExists, "exists already", "");
    let done = reencode(client, "", true).await;
    assert!(done.complete && done.documents_done == 2);
    assert_eq!(client.get_memory("m").await.unwrap().fingerprint, served.to_hex());
    let hits = client.search(&["m"], &text(1, 100), 3, false).await.unwrap();
    assert!(!hits.is_empty() && hits[0].chunk.as_ref().unwrap().memory == "m");
    let names: Vec<_> = client.list_memories().await.unwrap().into_iter().map(|memory| memory.name).collect();
    assert_eq!(names, ["m", "v2"]);
    let again = client.reencode_memory(request("", true), |_| {}).await.unwrap_err();
    assert_status(&again, Code::FailedPrecondition, "nothing to re-encode", "");

    let stored = world.stop().await;
    stored.assert_same("v2", "a", "a-again", &text(1, 9000));
    stored.assert_same("v2", "b", "b-again", &text(2, 20_000));
    assert!(stored.chunks("m", "b") == stored.chunks("v2", "b"));
}

#[tokio::test]
async fn an_interrupted_call_goes_on() {
    let world = serve_on(made_by_another().await).await;
    let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&world.server).await);
    let mut answers = raw.reencode_memory(request("", true)).await.unwrap().into_inner();
    // Into the second document.
    loop {
        let progress = patiently(answers.message()).await.unwrap().unwrap();
        assert!(!progress.complete);
        if progress.documents_done == 1 && progress.text_bytes_done > 9000 + 2048 {
            break;
        }
    }
    let second = world.client.reencode_memory(request("", true), |_| {}).await.unwrap_err();
    assert_status(&second, Code::Aborted, "being made by another call", "");
    drop((answers, raw));
    let half = eventually(|| async {
        let found = world.client.get_document("m.reencode", "b").await.ok()?;
        (found.bytes > 1000).then_some(found)
    })
    .await;
    assert!(!half.complete);

    let world = world.restart().await;
    // The old one is as it was.
    let old = world.client.get_memory("m").await.unwrap();
    assert_eq!((old.fingerprint, old.documents), (other_model().fingerprint().to_hex(), 2));
    let mut first = None;
    let done =
        world.client.reencode_memory(request("", true), |now| _ = first.get_or_insert(now.clone())).await.unwrap();
    assert_eq!((done.documents_done, done.documents_skipped), (2, 1), "{first:?}");
    ingest(&world.client, "m", "b-again", &text(2, 20_000)).await;
    assert_eq!(world.client.list_memories().await.unwrap().len(), 1);
    world.stop().await.assert_same("m", "b", "b-again", &text(2, 20_000));
}

#[tokio::test]
async fn an_interrupted_document_keeps_its_text_and_can_go_on() {
    let data = tempfile::tempdir().unwrap();
    let storage = Arc::new(SledStorage::open(data.path(), SledOptions::default()).unwrap());
    let server = serve_model(settings(data.path()), storage, other_model()).await;
    let client = connect(&server).await;
    client.create_memory("m", "").await.unwrap();
    let whole = text(7, 9000);
    let mut pieces = Pieces::start(channel(&server).await, start("m", "d")).await;
    pieces.text(&whole[..6000]).await;
    pieces.until(|progress| progress.durable_bytes > 0).await;
    drop((pieces, client));
    server.stop().await.unwrap();

    let world = serve_on(data).await;
    let client = &world.client;
    let old = client.get_document("m", "d").await.unwrap();
    assert!(!old.complete && old.bytes > 0 && old.bytes < 6000);
    let done = reencode(client, "", true).await;
    assert_eq!((done.documents_done, done.documents_interrupted, done.text_bytes_done), (1, 1, old.bytes));
    assert_eq!(client.get_document("m", "d").await.unwrap().bytes, old.bytes);
    let options = IngestOptions { mode: IngestMode::Resume, ..Default::default() };
    client.ingest("m", "d", options, whole.as_bytes(), |_| {}).await.unwrap();
    ingest(client, "m", "at-once", &whole).await;
    world.stop().await.assert_same("m", "d", "at-once", &whole);
}

#[tokio::test]
async fn what_is_deleted_meanwhile_does_not_come_back() {
    let world = serve_on(made_by_another().await).await;
    let client = &world.client;
    let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&world.server).await);
    let mut answers = raw.reencode_memory(request("", true)).await.unwrap().into_inner();
    while patiently(answers.message()).await.unwrap().unwrap().documents_done < 1 {}
    // Read already, and not read yet or half read.
    client.delete_document("m", "a").await.unwrap();
    client.delete_document("m", "b").await.unwrap();
    loop {
        let progress = patiently(answers.message()).await.unwrap().expect("the last message is complete");
        if progress.complete {
            break;
        }
    }
    let memory = client.get_memory("m").await.unwrap();
    assert_eq!(memory.fingerprint, crate::model::shared().fingerprint().to_hex());
    assert!(client.list_documents("m").await.unwrap().is_empty());
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let none = client.reencode_memory(request("", false), |_| {}).await.unwrap_err();
    assert_status(&none, Code::InvalidArgument, "or set replace", "into");
    let itself = client.reencode_memory(request("m", true), |_| {}).await.unwrap_err();
    assert_status(&itself, Code::InvalidArgument, "the memory itself", "into");
    let same = client.reencode_memory(request("n", false), |_| {}).await.unwrap_err();
    assert_status(&same, Code::FailedPrecondition, "the model being served already", "");
    let unknown = v1::ReencodeMemoryRequest { name: "x".into(), ..request("n", false) };
    let unknown = client.reencode_memory(unknown, |_| {}).await.unwrap_err();
    assert_status(&unknown, Code::NotFound, "does not exist", "");
    assert_eq!(client.list_memories().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_archive_of_another_model_is_kept_and_re_encoded() {
    let data = made_by_another().await;
    let storage = Arc::new(SledStorage::open(data.path(), SledOptions::default()).unwrap());
    let server = serve_model(settings(data.path()), storage, other_model()).await;
    let archive = crate::transfer::export(&connect(&server).await, "m").await;
    server.stop().await.unwrap();

    let world = World::new().await;
    let client = &world.client;
    let memory = client.import_memory(None, false, &archive[..], |_| {}).await.unwrap();
    assert_eq!(memory.fingerprint, other_model().fingerprint().to_hex());
    let refused = client.search(&["m"], "text", 3, false).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "re-encode the memory", "");
    assert!(reencode(client, "", true).await.complete);
    ingest(client, "m", "b-again", &text(2, 20_000)).await;
    world.stop().await.assert_same("m", "b", "b-again", &text(2, 20_000));
}
