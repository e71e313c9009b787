//! Start and stop.

use std::net::TcpListener;
use std::time::Duration;

use mnemon_client::{Code, IngestMode, v1};
use mnemon_server::{Embedded, Error, bind};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::model;
use crate::world::*;

#[tokio::test]
async fn a_port_in_use_is_told() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut settings = settings(data.path());
    settings.listen = taken.local_addr().unwrap();
    let refused = bind(&settings).await.unwrap_err();
    assert!(matches!(refused, Error::PortInUse { .. }));
    assert!(refused.to_string().contains(&settings.listen.to_string()), "{refused}");
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    model::write(folder.path(), 1);
    let mut settings = settings(world.data.path());
    settings.model = folder.path().display().to_string();
    let refused = Embedded::start(settings.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    assert!(refused.to_string().contains(&world.data.path().display().to_string()), "{refused}");

    // Once the first has stopped, its folder is free.
    world.server.stop().await.unwrap();
    Embedded::start(settings).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn models_that_cannot_be_loaded_are_told() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    model::write(folder.path(), 1);
    let start = || {
        let mut settings = settings(data.path());
        settings.model = folder.path().display().to_string();
        Embedded::start(settings)
    };
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let truncated = start().await.unwrap_err();
    assert!(truncated.to_string().contains("truncated"), "{truncated}");
    std::fs::remove_file(&weights).unwrap();
    let missing = start().await.unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    std::fs::write(folder.path().join("config.json"), r#"{"architectures": ["MambaForCausalLM"]}"#).unwrap();
    let unsupported = start().await.unwrap_err();
    assert!(unsupported.to_string().contains("MambaForCausalLM"), "{unsupported}");
}

#[tokio::test]
async fn a_shutdown_commits_what_was_read() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(50, 20_000);
    let mut pieces = Pieces::start(channel(&world.server).await, start("m", "d")).await;
    pieces.text(&text[..10_000]).await;
    let seen = pieces.until(|progress| progress.tokens_encoded >= 5120).await;

    let stopping = world.server.stop();
    let (stopped, error) = tokio::join!(patiently(stopping), pieces.error());
    stopped.unwrap();
    assert_status(&error, Code::Unavailable, "shutting down", "");
    let gone = world.client.get_memory("m").await.unwrap_err();
    assert!(gone.code().is_some(), "{gone}");

    let server = serve(settings(world.data.path())).await;
    let client = connect(&server).await;
    let document = client.get_document("m", "d").await.unwrap();
    assert!(!document.complete && document.bytes >= seen.durable_bytes && document.bytes >= 5000, "{document:?}");
    let resumed = ingest_as(&client, "m", "d", IngestMode::Resume, text.as_bytes()).await.unwrap();
    assert!(resumed.complete && resumed.durable_bytes == 20_000);
    ingest(&client, "m", "at-once", &text).await;
    World { server, client, data: world.data }.stop().await.assert_same("m", "d", "at-once", &text);
}

#[tokio::test]
async fn a_shutdown_lets_answers_finish_and_tells_health() {
    let world = World::with(|settings| settings.shutdown_grace = PATIENCE).await;
    let mut health = HealthClient::new(channel(&world.server).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let request = v1::GenerateRequest {
        prompt: "go on".into(),
        memory: Some(without_memory()),
        max_tokens: Some(400),
        ..Default::default()
    };
    let mut answer = world.client.generate(request).await.unwrap();
    answer.message().await.unwrap();
    let stopping = tokio::spawn(world.server.stop());
    assert_eq!(patiently(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    drop((watch, health));
    let mut finish = None;
    while let Some(message) = patiently(answer.message()).await.unwrap() {
        finish = message.finish;
    }
    assert_eq!(finish.unwrap().usage.unwrap().generated_tokens, 400);
    drop((answer, world.client));
    patiently(stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_cuts_what_does_not_finish() {
    let world = World::with(|settings| {
        settings.shutdown_grace = Duration::from_millis(300);
        settings.limits.prompt_tokens = 4 << 20;
    })
    .await;
    // A watcher that never hangs up, and a prompt that takes longer than anyone waits.
    let mut health = HealthClient::new(channel(&world.server).await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();
    let request =
        v1::GenerateRequest { prompt: text(51, 2 << 20), memory: Some(without_memory()), ..Default::default() };
    let mut answer = world.client.generate(request).await.unwrap();
    let (stopped, cut) = tokio::join!(patiently(world.server.stop()), answer.message());
    stopped.unwrap();
    assert!(cut.unwrap_err().code().is_some());
    // The folder is free.
    let server = serve(settings(world.data.path())).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let world = World::new().await;
    world.client.create_memory("m", "kept").await.unwrap();
    let text = text(52, 3000);
    ingest(&world.client, "m", "d", &text).await;
    ingest(&world.client, "m", "gone", &text).await;
    world.client.delete_document("m", "gone").await.unwrap();
    let world = world.restart().await;
    assert_eq!(world.client.get_memory("m").await.unwrap().description, "kept");
    let hits = world.client.search(&["m"], &text[..100], 1000, true).await.unwrap();
    assert!(!hits.is_empty() && hits.iter().all(|hit| hit.chunk.as_ref().unwrap().document_id == "d"));
    let ids: Vec<_> =
        world.client.list_documents("m").await.unwrap().into_iter().map(|document| document.document_id).collect();
    assert_eq!(ids, ["d"]);
    let chunks = world.stop().await.chunks("m", "d");
    assert_eq!(chunks.iter().map(|chunk| chunk.2.as_str()).collect::<String>(), text);
}
