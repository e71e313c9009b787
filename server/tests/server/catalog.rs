//! Memories and documents: the calls, their errors, their pages; health and reflection.

use mnemon_client::{Code, v1};
use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::model::{self, CHUNK_TOKENS};
use crate::world::*;

#[tokio::test]
async fn memories_and_documents_live_and_die() {
    let world = World::new().await;
    let client = &world.client;
    let made = client.create_memory("novels", "Books").await.unwrap();
    assert_eq!((made.name.as_str(), made.description.as_str(), made.documents), ("novels", "Books", 0));
    assert_eq!(made.fingerprint, client.model().await.unwrap().fingerprint);
    assert!(made.created_at.unwrap().seconds > 1_600_000_000);

    let text = text(1, 1000);
    let done = ingest(client, "novels", "war", &text).await;
    assert!(done.complete);
    assert_eq!((done.bytes_received, done.durable_bytes, done.durable_tokens), (1000, 1000, 1000));
    assert_eq!(done.durable_chunks, 1000_u64.div_ceil(CHUNK_TOKENS));

    let memory = client.get_memory("novels").await.unwrap();
    assert_eq!((memory.documents, memory.tokens, memory.text_bytes), (1, 1000, 1000));
    assert!(memory.stored_bytes > 1000 && memory.entries > 0 && memory.sequence >= done.sequence);
    let document = client.get_document("novels", "war").await.unwrap();
    assert!(document.complete && document.bytes == 1000 && document.sequence == done.sequence);
    assert!(document.updated_at.unwrap().seconds >= document.created_at.unwrap().seconds);

    client.delete_document("novels", "war").await.unwrap();
    let gone = client.get_document("novels", "war").await.unwrap_err();
    assert_status(&gone, Code::NotFound, "document 'war' does not exist", "");
    assert!(client.search(&["novels"], &text[100..130], 10, true).await.unwrap().is_empty());
    let gone = client.delete_document("novels", "war").await.unwrap_err();
    assert_status(&gone, Code::NotFound, "does not exist", "");

    client.delete_memory("novels").await.unwrap();
    let gone = client.get_memory("novels").await.unwrap_err();
    assert_status(&gone, Code::NotFound, "memory 'novels' does not exist", "");
}

#[tokio::test]
async fn unknown_and_duplicate_names_are_refused() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let twice = client.create_memory("m", "").await.unwrap_err();
    assert_status(&twice, Code::AlreadyExists, "memory 'm' exists already", "");

    for name in ["", "a b", "a/b", &"x".repeat(129)] {
        let bad = client.create_memory(name, "").await.unwrap_err();
        assert_status(&bad, Code::InvalidArgument, "1 to 128", "name");
    }
    let long = client.create_memory("long", &"x".repeat(4097)).await.unwrap_err();
    assert_status(&long, Code::InvalidArgument, "at most 4096", "description");

    let unknown = [
        client.get_memory("no").await.unwrap_err(),
        client.delete_memory("no").await.unwrap_err(),
        client.list_documents("no").await.unwrap_err(),
        client.get_document("no", "d").await.unwrap_err(),
        client.delete_document("no", "d").await.unwrap_err(),
        client.search(&["no"], "text", 1, false).await.unwrap_err(),
        client.score("text", from(&["no"])).await.unwrap_err(),
        ingest_as(client, "no", "d", v1::IngestMode::Create, b"text").await.unwrap_err(),
        generate(client, "text", from(&["no"])).await.unwrap_err(),
    ];
    for error in &unknown {
        assert_status(error, Code::NotFound, "memory 'no' does not exist", "");
    }
}

async fn generate(
    client: &mnemon_client::Client,
    prompt: &str,
    memory: v1::MemoryOptions,
) -> mnemon_client::Result<Option<v1::GenerateResponse>> {
    let request = v1::GenerateRequest { prompt: prompt.into(), memory: Some(memory), ..Default::default() };
    client.generate(request).await?.message().await
}

#[tokio::test]
async fn lists_come_in_pages() {
    let world = World::new().await;
    let client = &world.client;
    for i in 0..7 {
        client.create_memory(&format!("m{i}"), "").await.unwrap();
    }
    let first = client.list_memories_page(3, "").await.unwrap();
    let names: Vec<_> = first.memories.iter().map(|memory| memory.name.as_str()).collect();
    assert_eq!(names, ["m0", "m1", "m2"]);
    let second = client.list_memories_page(4, &first.next_page_token).await.unwrap();
    assert_eq!(second.memories.len(), 4);
    assert_eq!(second.next_page_token, "");
    assert_eq!(client.list_memories().await.unwrap().len(), 7);
    let bad = client.list_memories_page(1001, "").await.unwrap_err();
    assert_status(&bad, Code::InvalidArgument, "at most 1000", "page_size");

    for i in 0..5 {
        ingest(client, "m0", &format!("d{i}"), "some text").await;
    }
    let first = client.list_documents_page("m0", 2, "").await.unwrap();
    let second = client.list_documents_page("m0", 2, &first.next_page_token).await.unwrap();
    let third = client.list_documents_page("m0", 2, &second.next_page_token).await.unwrap();
    let ids: Vec<_> = [&first, &second, &third]
        .iter()
        .flat_map(|page| page.documents.iter().map(|document| document.document_id.as_str()))
        .collect();
    assert_eq!(ids, ["d0", "d1", "d2", "d3", "d4"]);
    assert_eq!(third.next_page_token, "");
}

#[tokio::test]
async fn the_limit_on_memories_is_told() {
    let world = World::with(|settings| settings.limits.memories = 2).await;
    world.client.create_memory("a", "").await.unwrap();
    world.client.create_memory("b", "").await.unwrap();
    let error = world.client.create_memory("c", "").await.unwrap_err();
    assert_status(&error, Code::ResourceExhausted, "memories (at most 2)", "");
}

#[tokio::test]
async fn a_memory_of_another_model_is_refused() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(2, 600);
    ingest(&world.client, "m", "d", &text).await;
    let made_by = world.client.model().await.unwrap().fingerprint;
    world.server.stop().await.unwrap();

    let other = tempfile::tempdir().unwrap();
    model::write(other.path(), 2);
    let settings = mnemon_server::Settings { model: other.path().display().to_string(), ..settings(world.data.path()) };
    let server = mnemon_server::Embedded::start(settings).await.unwrap();
    let client = connect(&server).await;
    // A model with a profile reads memories of every shape, and has a fingerprint for each: here, that of `m`.
    let serving = model::load(2).fingerprint().to_hex();
    assert!(made_by != serving && made_by != client.model().await.unwrap().fingerprint);
    // Messages name the first 24 digits.
    let refused = [
        ingest_as(&client, "m", "e", v1::IngestMode::Create, b"text").await.unwrap_err(),
        client.search(&["m"], "text", 1, false).await.unwrap_err(),
        generate(&client, "text", from(&["m"])).await.unwrap_err(),
        client.score("text", from(&["m"])).await.unwrap_err(),
    ];
    for error in &refused {
        assert_status(error, Code::FailedPrecondition, &made_by[..24], "");
        assert_status(error, Code::FailedPrecondition, &serving[..24], "");
    }
    // What it is can still be seen.
    assert_eq!(client.get_memory("m").await.unwrap().fingerprint, made_by);
    assert!(client.get_document("m", "d").await.unwrap().complete);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_model_is_described() {
    let world = World::new().await;
    let model = world.client.model().await.unwrap();
    assert_eq!((model.architecture.as_str(), model.device.as_str()), ("llama", "cpu"));
    assert_eq!((model.window_tokens, model.prompt_tokens_max), (32, 32_768));
    let geometry = model.geometry.unwrap();
    assert_eq!((geometry.layers, geometry.kv_heads, geometry.head_dim), (vec![1], 2, 8));
    assert_eq!((geometry.dtype.as_str(), geometry.entry_policy.as_str()), ("int8", "per_token"));
    assert!(model.parameters > 10_000 && !model.server_version.is_empty());
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let world = World::new().await;
    let channel = channel(&world.server).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "mnemon.v1.MemoryService", "mnemon.v1.RecallService"] {
        let request = HealthCheckRequest { service: service.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"mnemon.v1.RecallService") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}
