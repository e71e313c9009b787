//! Ingest: modes, limits, bad input, full disks.

use std::collections::HashMap;

use mnemon_client::v1::ingest_request::Message;
use mnemon_client::{Code, IngestMode, IngestOptions, v1};
use mnemon_memory_store::storage::{Fault, FaultPlan};

use crate::world::*;

#[tokio::test]
async fn progress_is_told_and_metadata_kept() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(3, 5000);
    let metadata = HashMap::from([("author".to_owned(), "Tolstoy".to_owned())]);
    let options = IngestOptions { metadata: metadata.clone(), ..Default::default() };
    let mut seen: Vec<v1::IngestProgress> = Vec::new();
    let done = world.client.ingest("m", "d", options, text.as_bytes(), |now| seen.push(*now)).await.unwrap();
    assert!(done.complete && done.durable_bytes == 5000);
    assert!(seen.len() >= 2, "{seen:?}");
    for pair in seen.windows(2) {
        assert!(pair[0].durable_bytes <= pair[1].durable_bytes && pair[0].sequence <= pair[1].sequence);
    }
    assert_eq!(world.client.get_document("m", "d").await.unwrap().metadata, metadata);
}

#[tokio::test]
async fn characters_may_be_split_between_messages() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = "Война и мир: 😀 ".repeat(40);
    let mut pieces = Pieces::start(channel(&world.server).await, start("m", "d")).await;
    for byte in text.as_bytes().chunks(7) {
        pieces.text(byte).await;
    }
    let Pieces { sender, mut answers } = pieces;
    drop(sender);
    let mut last = None;
    while let Some(progress) = patiently(answers.message()).await.unwrap() {
        last = Some(progress);
    }
    assert!(last.unwrap().complete);
    ingest(&world.client, "m", "at-once", &text).await;
    world.stop().await.assert_same("m", "d", "at-once", &text);
}

#[tokio::test]
async fn documents_are_created_appended_and_resumed() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let (first, second) = (text(4, 700), text(5, 900));
    ingest(client, "m", "d", &first).await;
    let twice = ingest_as(client, "m", "d", IngestMode::Create, b"text").await.unwrap_err();
    assert_status(&twice, Code::AlreadyExists, "document 'd' exists already", "");

    let appended = ingest_as(client, "m", "d", IngestMode::Append, second.as_bytes()).await.unwrap();
    assert_eq!((appended.durable_bytes, appended.complete), (1600, true));
    let whole = format!("{first}{second}");
    ingest(client, "m", "at-once", &whole).await;
    let resumed = ingest_as(client, "m", "d", IngestMode::Resume, whole.as_bytes()).await.unwrap();
    assert_eq!((resumed.bytes_received, resumed.durable_bytes, resumed.complete), (1600, 1600, true));
    let differs = ingest_as(client, "m", "d", IngestMode::Resume, second.as_bytes()).await.unwrap_err();
    assert_status(&differs, Code::InvalidArgument, "differs at byte", "text");
    world.stop().await.assert_same("m", "d", "at-once", &whole);
}

#[tokio::test]
async fn bad_documents_are_refused() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let empty = ingest_as(client, "m", "d", IngestMode::Create, b"").await.unwrap_err();
    assert_status(&empty, Code::InvalidArgument, "the document is empty", "text");
    let invalid = ingest_as(client, "m", "d", IngestMode::Create, b"good \xff bad").await.unwrap_err();
    assert_status(&invalid, Code::InvalidArgument, "byte 5", "text");
    let cut = ingest_as(client, "m", "d", IngestMode::Create, "ends in a cut ü".as_bytes().split_last().unwrap().1);
    assert_status(&cut.await.unwrap_err(), Code::InvalidArgument, "UTF-8", "text");
    for id in ["", "a\nb", &"x".repeat(513)] {
        let bad = ingest_as(client, "m", id, IngestMode::Create, b"text").await.unwrap_err();
        assert_status(&bad, Code::InvalidArgument, "1 to 512 bytes", "document_id");
    }
    // Nothing of these is left behind.
    assert!(client.list_documents("m").await.unwrap().is_empty());

    // What was durable before the bad byte stays, and says that it is not all.
    let mut late = Pieces::start(channel(&world.server).await, start("m", "late")).await;
    late.text(text(6, 9000)).await;
    late.until(|progress| progress.durable_bytes > 0).await;
    late.text([0xff]).await;
    assert_status(&late.error().await, Code::InvalidArgument, "byte 9000", "text");
    assert!(!client.get_document("m", "late").await.unwrap().complete);
}

#[tokio::test]
async fn streams_must_follow_the_contract() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let channel = channel(&world.server).await;

    let mut pieces = Pieces::open(channel.clone()).await;
    pieces.text("text first").await;
    assert_status(&pieces.error().await, Code::InvalidArgument, "the first message", "start");

    let mut pieces = Pieces::open(channel.clone()).await;
    drop(std::mem::replace(&mut pieces.sender, tokio::sync::mpsc::channel(1).0));
    assert_status(&pieces.error().await, Code::InvalidArgument, "the first message", "start");

    let mut pieces = Pieces::start(channel.clone(), start("m", "twice")).await;
    pieces.send(Message::Start(start("m", "twice"))).await;
    assert_status(&pieces.error().await, Code::InvalidArgument, "given already", "start");

    let mut pieces = Pieces::start(channel.clone(), start("m", "large")).await;
    pieces.text(vec![b'x'; (1 << 20) + 1]).await;
    assert_status(&pieces.error().await, Code::InvalidArgument, "at most 1048576", "text");

    let mut pieces = Pieces::start(channel.clone(), start("m", "huge")).await;
    pieces.text(vec![b'x'; 5 << 20]).await;
    assert_status(&pieces.error().await, Code::OutOfRange, "limit", "");

    let mut pieces = Pieces::start(channel.clone(), v1::IngestStart { mode: 9, ..start("m", "mode") }).await;
    assert_status(&pieces.error().await, Code::InvalidArgument, "not a known mode", "start.mode");

    let metadata = (0..65).map(|i| (i.to_string(), String::new())).collect();
    let mut pieces = Pieces::start(channel, v1::IngestStart { metadata, ..start("m", "meta") }).await;
    assert_status(&pieces.error().await, Code::InvalidArgument, "at most 64", "metadata");
}

#[tokio::test]
async fn limits_are_enforced() {
    let world = World::with(|settings| {
        settings.limits.document_bytes = 8000;
        settings.limits.ingests = 1;
    })
    .await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let large = ingest_as(client, "m", "large", IngestMode::Create, text(7, 8001).as_bytes()).await.unwrap_err();
    assert_status(&large, Code::ResourceExhausted, "more than 8000 bytes", "");
    ingest(client, "m", "fits", &text(7, 8000)).await;
    let appended = ingest_as(client, "m", "fits", IngestMode::Append, b"x").await.unwrap_err();
    assert_status(&appended, Code::ResourceExhausted, "more than 8000 bytes", "");

    let mut open = Pieces::start(channel(&world.server).await, start("m", "open")).await;
    open.text(text(8, 7000)).await;
    open.until(|progress| progress.tokens_encoded > 0).await;
    let second = ingest_as(client, "m", "second", IngestMode::Create, b"text").await.unwrap_err();
    assert_status(&second, Code::ResourceExhausted, "being read already", "");
}

#[tokio::test]
async fn one_document_has_one_writer() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let mut open = Pieces::start(channel(&world.server).await, start("m", "d")).await;
    open.text(text(9, 7000)).await;
    open.until(|progress| progress.tokens_encoded > 0).await;
    let second = ingest_as(&world.client, "m", "d", IngestMode::Append, b"text").await.unwrap_err();
    assert_status(&second, Code::Aborted, "being written by another stream", "");
    let busy = world.client.delete_memory("m").await.unwrap_err();
    assert_status(&busy, Code::Aborted, "being written", "");
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let world = World::with(|settings| settings.limits.ingest_idle_s = 1).await;
    world.client.create_memory("m", "").await.unwrap();
    let mut pieces = Pieces::start(channel(&world.server).await, start("m", "d")).await;
    pieces.text(text(10, 7000)).await;
    assert_status(&pieces.error().await, Code::DeadlineExceeded, "RESUME", "");
    assert!(!world.client.get_document("m", "d").await.unwrap().complete);
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let storage = faulty();
    let server = serve_storage(settings(data.path()), storage.clone()).await;
    let client = connect(&server).await;
    client.create_memory("m", "").await.unwrap();
    let text = text(11, 20_000);
    let mut pieces = Pieces::start(channel(&server).await, start("m", "d")).await;
    pieces.text(&text[..10_000]).await;
    let durable = pieces.until(|progress| progress.durable_bytes >= 1024).await.durable_bytes;

    storage.set_plan(Some(FaultPlan { at: 0, fault: Fault::NoSpace, sticky: true }));
    pieces.text(&text[10_000..]).await;
    assert_status(&pieces.error().await, Code::ResourceExhausted, "no space left", "");
    let refused = client.create_memory("n", "").await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "no space left", "");
    // Reading goes on.
    let document = client.get_document("m", "d").await.unwrap();
    assert!(!document.complete && document.bytes >= durable);
    assert!(!client.search(&["m"], &text[100..140], 5, false).await.unwrap().is_empty());

    storage.set_plan(None);
    let resumed = ingest_as(&client, "m", "d", IngestMode::Resume, text.as_bytes()).await.unwrap();
    assert!(resumed.complete && resumed.durable_bytes == 20_000);
    ingest(&client, "m", "at-once", &text).await;
    drop(client);
    server.stop().await.unwrap();
    Stored::open(storage).assert_same("m", "d", "at-once", &text);
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_not_filled() {
    let data = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    crate::model::write(folder.path(), 1);
    let mut settings = settings(data.path());
    settings.model = folder.path().display().to_string();
    settings.limits.disk_free_bytes = 1 << 60;
    let refused = mnemon_server::Embedded::start(settings).await.unwrap_err();
    assert!(refused.to_string().contains("no space left"), "{refused}");
}

#[tokio::test]
async fn a_failing_disk_is_an_internal_error_without_details() {
    let data = tempfile::tempdir().unwrap();
    let storage = faulty();
    let server = serve_storage(settings(data.path()), storage.clone()).await;
    let client = connect(&server).await;
    storage.set_plan(Some(FaultPlan { at: 0, fault: Fault::Refused, sticky: true }));
    let refused = client.create_memory("m", "").await.unwrap_err();
    assert_status(&refused, Code::Internal, "its log says why", "");
    server.stop().await.unwrap();
}
