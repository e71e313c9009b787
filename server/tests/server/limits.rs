//! Times to live and quotas, as callers meet them.

use std::time::Duration;

use mnemon_client::{Client, Code, Error, IngestMode, IngestOptions, v1};
use mnemon_server::Tenant;

use crate::world::*;

/// Long enough to look at what is there, short enough to wait for.
const SHORT: Duration = Duration::from_millis(1500);

// As the fields of the contract are.
#[allow(clippy::unnecessary_wraps)]
fn span(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap())
}

async fn ingest_for(client: &Client, document: &str, mode: IngestMode, text: &str, ttl: Duration) {
    let options = IngestOptions { mode, ttl: Some(ttl), ..IngestOptions::default() };
    client.ingest("m", document, options, text.as_bytes(), |_| {}).await.unwrap();
}

#[track_caller]
fn assert_quota(error: &Error, part: &str) {
    assert_status(error, Code::ResourceExhausted, part, "");
    assert!(matches!(error, Error::Status { reason, .. } if reason == "QUOTA"), "{error:?}");
}

#[tokio::test]
async fn documents_expire() {
    let world = World::new().await;
    let client = &world.client;
    client.create_memory("m", "").await.unwrap();
    let (short, long) = (text(1, 600), text(2, 600));
    ingest_for(client, "long", IngestMode::Create, &long, Duration::from_secs(3600)).await;
    ingest_for(client, "short", IngestMode::Create, &short, SHORT).await;
    let document = client.get_document("m", "short").await.unwrap();
    let (updated, expires) = (document.updated_at.unwrap(), document.expires_at.unwrap());
    assert_eq!(document.ttl, span(SHORT));
    let ms = |at: prost_types::Timestamp| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000;
    assert_eq!(ms(expires) - ms(updated), 1500);

    eventually(async || client.get_document("m", "short").await.err()).await;
    let gone = client.get_document("m", "short").await.unwrap_err();
    assert_status(&gone, Code::NotFound, "document 'short' does not exist", "");
    let left = client.list_documents("m").await.unwrap();
    assert_eq!(left.iter().map(|document| document.document_id.as_str()).collect::<Vec<_>>(), ["long"]);
    let hits = client.search(&["m"], &short[100..160], 50, true).await.unwrap();
    assert!(hits.iter().all(|hit| hit.chunk.as_ref().unwrap().document_id == "long"));
    assert_eq!(client.get_memory("m").await.unwrap().documents, 1);

    // Anew under the same name; another time to live is set also when there is nothing new to read.
    ingest_for(client, "short", IngestMode::Create, &short, Duration::from_secs(60)).await;
    ingest_for(client, "short", IngestMode::Resume, &short, Duration::from_secs(120)).await;
    assert_eq!(client.get_document("m", "short").await.unwrap().ttl, span(Duration::from_secs(120)));
    ingest_for(client, "short", IngestMode::Append, &long, Duration::ZERO).await;
    let document = client.get_document("m", "short").await.unwrap();
    assert_eq!((document.ttl, document.expires_at), (None, None));
}

#[tokio::test]
async fn a_sweep_deletes_what_nobody_asks_for() {
    let world = World::with(|settings| settings.limits.expiry_sweep_s = 1).await;
    world.client.create_memory("m", "").await.unwrap();
    ingest_for(&world.client, "d", IngestMode::Create, &text(3, 600), Duration::from_millis(10)).await;
    let blobs = world.data.path().join("blobs");
    eventually(async || std::fs::read_dir(&blobs).unwrap().next().is_none().then_some(())).await;
}

#[tokio::test]
async fn memories_are_updated_and_expire() {
    let world = World::new().await;
    let request = v1::CreateMemoryRequest {
        name: "m".into(),
        document_ttl: span(Duration::from_secs(60)),
        max_tokens: Some(1000),
        max_bytes: Some(0),
        ..Default::default()
    };
    let made = world.client.create_memory_with(request).await.unwrap();
    assert_eq!((made.document_ttl, made.ttl), (span(Duration::from_secs(60)), None));
    assert_eq!((made.max_tokens, made.max_bytes, made.expires_at), (Some(1000), None, None));
    ingest(&world.client, "m", "d", &text(4, 300)).await;
    assert!(world.client.get_document("m", "d").await.unwrap().expires_at.is_some());

    let none = v1::UpdateMemoryRequest {
        name: "m".into(),
        document_ttl: span(Duration::ZERO),
        max_bytes: Some(1 << 30),
        ..Default::default()
    };
    world.client.update_memory(none).await.unwrap();
    let world = world.restart().await;
    let client = &world.client;
    let memory = client.get_memory("m").await.unwrap();
    assert_eq!((memory.document_ttl, memory.max_tokens, memory.max_bytes), (None, Some(1000), Some(1 << 30)));
    assert!(client.get_document("m", "d").await.unwrap().expires_at.is_none());

    let update = |ttl| v1::UpdateMemoryRequest { name: "m".into(), ttl, ..Default::default() };
    for wrong in [Duration::from_secs(101 * 31_557_600), Duration::from_nanos(5)] {
        let refused = client.update_memory(update(span(wrong))).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "100 years", "ttl");
    }
    let options = IngestOptions { ttl: Some(Duration::from_nanos(5)), ..IngestOptions::default() };
    let refused = client.ingest("m", "e", options, &b"text"[..], |_| {}).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "milliseconds", "start.ttl");
    let unknown = v1::UpdateMemoryRequest { name: "no".into(), ..Default::default() };
    assert_status(&client.update_memory(unknown).await.unwrap_err(), Code::NotFound, "memory 'no'", "");

    assert!(client.update_memory(update(span(SHORT))).await.unwrap().expires_at.is_some());
    eventually(async || client.get_memory("m").await.err()).await;
    assert!(client.list_memories().await.unwrap().is_empty());
    client.create_memory("m", "again").await.unwrap();
}

#[tokio::test]
async fn a_memory_holds_no_more_than_its_quota_and_goes_on_when_it_is_raised() {
    let world = World::new().await;
    let client = &world.client;
    let request = v1::CreateMemoryRequest { name: "m".into(), max_tokens: Some(2000), ..Default::default() };
    client.create_memory_with(request).await.unwrap();
    let whole = text(5, 6000);
    let refused = ingest_as(client, "m", "d", IngestMode::Create, whole.as_bytes()).await.unwrap_err();
    assert_quota(&refused, "memory 'm' may hold at most 2000 tokens");
    assert!(refused.to_string().contains("raise max_tokens"), "{refused}");
    // What was acknowledged stays and can be read.
    let kept = client.get_document("m", "d").await.unwrap();
    assert!(!kept.complete && kept.tokens > 0 && kept.tokens <= 2000, "{kept:?}");
    assert!(!client.search(&["m"], &whole[100..140], 5, true).await.unwrap().is_empty());

    let raise = |tokens| v1::UpdateMemoryRequest { name: "m".into(), max_tokens: Some(tokens), ..Default::default() };
    client.update_memory(raise(6000)).await.unwrap();
    let done = ingest_as(client, "m", "d", IngestMode::Resume, whole.as_bytes()).await.unwrap();
    assert!(done.complete && done.durable_tokens == 6000);
    // It is full: told before any text is sent, but a whole document may be sent again, and deleting is always possible.
    let mut pieces = Pieces::start(channel(&world.server).await, start("m", "e")).await;
    assert_quota(&pieces.error().await, "at most 6000 tokens");
    assert!(ingest_as(client, "m", "d", IngestMode::Resume, whole.as_bytes()).await.unwrap().complete);
    ingest_as(client, "m", "d", IngestMode::Append, b"more").await.unwrap_err();
    client.delete_document("m", "d").await.unwrap();
    ingest(client, "m", "at-once", &whole).await;
}

#[tokio::test]
async fn tenants_have_quotas() {
    let world = World::with(|settings| {
        let tenant = |name: &str, token: &str| Tenant { name: name.into(), token: token.into(), ..Tenant::default() };
        settings.tenants = vec![
            Tenant { max_memories: Some(1), max_tokens: Some(1000), ..tenant("anna", "0123456789abcdef") },
            tenant("bert", "fedcba9876543210"),
        ];
        settings.limits.tenant_tokens = 100_000;
    })
    .await;
    let anna = connect_as(&world.server, "0123456789abcdef").await;
    let bert = connect_as(&world.server, "fedcba9876543210").await;
    anna.create_memory("m", "").await.unwrap();
    assert_quota(&anna.create_memory("n", "").await.unwrap_err(), "tenant 'anna' may hold at most 1 memories");
    ingest(&anna, "m", "d", &text(6, 900)).await;
    let refused = ingest_as(&anna, "m", "e", IngestMode::Create, text(7, 900).as_bytes()).await.unwrap_err();
    assert_quota(&refused, "tenant 'anna' may hold at most 1000 tokens");
    // The other is not affected.
    bert.create_memory("m", "").await.unwrap();
    bert.create_memory("n", "").await.unwrap();
    ingest(&bert, "m", "d", &text(8, 3000)).await;
    anna.delete_document("m", "d").await.unwrap();
    ingest(&anna, "m", "e", &text(7, 900)).await;
}
