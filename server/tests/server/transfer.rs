//! Export and import: between servers, refused, hung up, limited.

use std::collections::HashMap;

use mnemon_client::v1::export_memory_response::Message as Exported;
use mnemon_client::v1::import_memory_request::Message as Imported;
use mnemon_client::{Client, Code, IngestOptions, v1};
use mnemon_memory_store::Storage as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::world::*;

/// The archive of a memory.
pub(crate) async fn export(client: &Client, memory: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let bytes = client.export_memory(memory, &mut archive, |_, _| {}).await.unwrap();
    assert_eq!(bytes, archive.len() as u64);
    archive
}

async fn generated(client: &Client, memory: &str) -> (String, Vec<(String, f32)>) {
    let request = v1::GenerateRequest {
        prompt: text(3, 200),
        memory: Some(from(&[memory])),
        max_tokens: Some(24),
        ..Default::default()
    };
    let mut answer = client.generate(request).await.unwrap();
    let (mut text, mut citations) = (String::new(), Vec::new());
    while let Some(piece) = answer.message().await.unwrap() {
        text.push_str(&piece.text);
        if let Some(finish) = piece.finish {
            citations = finish.citations;
        }
    }
    let cited = |citation: v1::Citation| (citation.chunk.unwrap().text, citation.weight);
    (text, citations.into_iter().map(cited).collect())
}

async fn found(client: &Client, memory: &str) -> Vec<(String, f32)> {
    let hits = client.search(&[memory], &text(3, 120), 10, false).await.unwrap();
    hits.into_iter().map(|hit| (hit.chunk.unwrap().text, hit.score)).collect()
}

#[tokio::test]
async fn another_server_answers_the_same() {
    let (one, other) = (World::new().await, World::new().await);
    one.client.create_memory("m", "what it is about").await.unwrap();
    let metadata = HashMap::from([("author".to_owned(), "Tolstoy".to_owned())]);
    let options = IngestOptions { metadata: metadata.clone(), ..Default::default() };
    one.client.ingest("m", "a", options, text(3, 9000).as_bytes(), |_| {}).await.unwrap();
    ingest(&one.client, "m", "b", &text(4, 3000)).await;
    let archive = export(&one.client, "m").await;

    let mut sent = 0;
    let memory = other.client.import_memory(None, false, &archive[..], |bytes| sent = bytes).await.unwrap();
    assert_eq!((memory.name.as_str(), sent), ("m", archive.len() as u64));
    let before = one.client.get_memory("m").await.unwrap();
    assert_eq!((&memory.description, memory.created_at), (&before.description, before.created_at));
    assert_eq!((memory.documents, memory.tokens, memory.chunks), (before.documents, before.tokens, before.chunks));
    assert_eq!(other.client.list_documents("m").await.unwrap(), one.client.list_documents("m").await.unwrap());
    assert_eq!(other.client.get_document("m", "a").await.unwrap().metadata, metadata);
    assert_eq!(found(&other.client, "m").await, found(&one.client, "m").await);
    assert_eq!(generated(&other.client, "m").await, generated(&one.client, "m").await);

    // It can be exported again, and replaced, and goes on.
    let taken = other.client.import_memory(None, false, &archive[..], |_| {}).await.unwrap_err();
    assert_status(&taken, Code::AlreadyExists, "exists already", "");
    ingest(&other.client, "m", "c", &text(5, 700)).await;
    other.client.import_memory(Some("m"), true, &archive[..], |_| {}).await.unwrap();
    assert_eq!(other.client.list_documents("m").await.unwrap().len(), 2);
    other.client.import_memory(Some("n"), false, &archive[..], |_| {}).await.unwrap();
    let other = other.restart().await;
    assert_eq!(found(&other.client, "n").await, found(&one.client, "m").await);
    let (one, other) = (one.stop().await, other.stop().await);
    assert!(one.chunks("m", "a") == other.chunks("n", "a"), "the same to the last bit");
}

#[tokio::test]
async fn what_is_not_whole_leaves_no_trace() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    // The first is written when the second begins.
    ingest(client, "m", "a", &text(3, 5000)).await;
    ingest(client, "m", "b", &text(4, 700)).await;
    let archive = export(client, "m").await;
    let blobs = || std::fs::read_dir(world.data.path().join("blobs")).unwrap().count();
    let before = (client.list_documents("m").await.unwrap(), blobs());

    let cut = client.import_memory(Some("m"), true, &archive[..archive.len() - 1], |_| {}).await.unwrap_err();
    assert_status(&cut, Code::InvalidArgument, "cut short", "data");
    let mut flipped = archive.clone();
    flipped[archive.len() / 2] ^= 1;
    let flipped = client.import_memory(Some("m"), true, &flipped[..], |_| {}).await.unwrap_err();
    assert_status(&flipped, Code::InvalidArgument, "checksum", "data");
    let text = client.import_memory(Some("m"), true, &b"Once upon a time, long ago"[..], |_| {}).await.unwrap_err();
    assert_status(&text, Code::InvalidArgument, "not an archive", "data");
    let bad = client.import_memory(Some("a b"), false, &archive[..], |_| {}).await.unwrap_err();
    assert_status(&bad, Code::InvalidArgument, "letters", "start.name");
    let unknown = client.export_memory("x", Vec::new(), |_, _| {}).await.unwrap_err();
    assert_status(&unknown, Code::NotFound, "does not exist", "");
    // A client that hangs up when all but the end was sent, and one that never says that it is done.
    for len in [archive.len() - 40, archive.len()] {
        let (sender, outgoing) = mpsc::channel(4);
        let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&world.server).await);
        let call = tokio::spawn(async move { raw.import_memory(ReceiverStream::new(outgoing)).await });
        let message = |message| v1::ImportMemoryRequest { message: Some(message) };
        let start = v1::ImportStart { name: "m".into(), replace: true };
        sender.send(message(Imported::Start(start))).await.unwrap();
        sender.send(message(Imported::Data(archive[..len].to_vec()))).await.unwrap();
        eventually(|| async { (blobs() > before.1).then_some(()) }).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        eventually(|| async { (blobs() == before.1).then_some(()) }).await;
    }
    assert_eq!((client.list_documents("m").await.unwrap(), blobs()), before);
    client.import_memory(Some("m"), true, &archive[..], |_| {}).await.unwrap();
    assert_eq!(client.list_documents("m").await.unwrap().len(), 2);
}

#[tokio::test]
async fn exports_and_imports_are_limited_and_may_not_be_silent() {
    let world = World::with(|settings| {
        settings.limits.transfers = 1;
        settings.limits.ingest_idle_s = 1;
    })
    .await;
    world.client.create_memory("m", "").await.unwrap();
    ingest(&world.client, "m", "a", &text(3, 5000)).await;
    let (sender, outgoing) = mpsc::channel(4);
    let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&world.server).await);
    let silent = tokio::spawn(async move { raw.import_memory(ReceiverStream::new(outgoing)).await });
    let start = v1::ImportStart { name: "n".into(), replace: false };
    sender.send(v1::ImportMemoryRequest { message: Some(Imported::Start(start)) }).await.unwrap();
    let second = eventually(|| async { world.client.export_memory("m", Vec::new(), |_, _| {}).await.err() }).await;
    assert_status(&second, Code::ResourceExhausted, "under way already", "");
    let status = patiently(silent).await.unwrap().unwrap_err();
    assert_status(&status.into(), Code::DeadlineExceeded, "nothing was imported", "");
    export(&world.client, "m").await;
}

#[tokio::test]
async fn an_export_goes_on_while_the_memory_changes() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    for index in 0..70 {
        ingest(client, "m", &format!("d{index:02}"), &text(index, 600)).await;
    }
    let mut raw = v1::memory_service_client::MemoryServiceClient::new(channel(&world.server).await);
    let request = v1::ExportMemoryRequest { name: "m".into() };
    let mut answers = raw.export_memory(request).await.unwrap().into_inner();
    let first = patiently(answers.message()).await.unwrap().unwrap();
    assert!(matches!(first.message, Some(Exported::Start(start)) if start.documents == 70 && start.bytes_about > 0));
    client.delete_memory("m").await.unwrap();
    let mut archive = Vec::new();
    while let Some(answer) = patiently(answers.message()).await.unwrap() {
        match answer.message.unwrap() {
            Exported::Data(data) => archive.extend(data),
            Exported::End(end) => assert_eq!(end.bytes, archive.len() as u64),
            Exported::Start(_) => panic!("a second start"),
        }
    }
    assert_eq!(client.import_memory(None, false, &archive[..], |_| {}).await.unwrap().documents, 70);
}

#[tokio::test]
async fn damaged_bytes_are_told() {
    let data = tempfile::tempdir().unwrap();
    let storage = std::sync::Arc::new(mnemon_memory_store::InMemoryStorage::new());
    let server = serve_storage(settings(data.path()), storage.clone()).await;
    let client = connect(&server).await;
    client.create_memory("m", "").await.unwrap();
    ingest(&client, "m", "a", &text(3, 3000)).await;
    let blob = storage.list_blobs().unwrap().remove(0);
    let mut bytes = storage.read_blob(&blob.name, 0, blob.bytes as usize).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    storage.write_blob(&blob.name, &[&bytes]).unwrap();
    let damaged = client.export_memory("m", Vec::new(), |_, _| {}).await.unwrap_err();
    assert_status(&damaged, Code::DataLoss, "damaged", "");
}
