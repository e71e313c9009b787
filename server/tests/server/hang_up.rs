//! Clients that leave in the middle: work stops, what was acknowledged stays, the server stays healthy.

use std::time::Duration;

use bytes::Bytes;
use mnemon_client::v1::ingest_request::Message;
use mnemon_client::{Client, IngestMode, IngestOptions, v1};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::world::*;

/// Tokens whose reading takes far longer than a test waits: only work that stops lets the test go on.
const ENDLESS_TOKENS: usize = 2 << 20;

/// Asserts that `document` is as far as acknowledged and not complete; resumes it, and ingests the same text without
/// interruption, to be compared.
async fn resume(client: &Client, document: &str, text: &str, acknowledged_bytes: u64) {
    // The stream that was left may hold the document for another moment.
    let resumed = eventually(|| async {
        match client.get_document("m", document).await {
            Ok(stored) => {
                assert!(!stored.complete, "{document} was left in the middle");
                assert!(stored.bytes >= acknowledged_bytes, "{document}: {} < {acknowledged_bytes}", stored.bytes);
            }
            Err(error) => assert_eq!(acknowledged_bytes, 0, "{error}"),
        }
        match ingest_as(client, "m", document, IngestMode::Resume, text.as_bytes()).await {
            Ok(resumed) => Some(resumed),
            Err(error) => {
                assert_eq!(error.code(), Some(mnemon_client::Code::Aborted), "{error}");
                None
            }
        }
    })
    .await;
    assert!(resumed.complete && resumed.durable_bytes == text.len() as u64);
    ingest(client, "m", &format!("{document}-at-once"), text).await;
}

#[tokio::test]
async fn an_ingest_that_is_dropped_is_not_complete() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(40, 20_000);
    // A source that stalls after half of the text.
    let (mut feed, source) = tokio::io::duplex(64 << 10);
    feed.write_all(&text.as_bytes()[..10_000]).await.unwrap();
    let (told, mut progress) = tokio::sync::watch::channel(0);
    let ingest = world.client.ingest("m", "d", IngestOptions::default(), source, |now| {
        told.send_replace(now.durable_bytes);
    });
    tokio::select! {
        _ = ingest => panic!("the text has not ended"),
        durable = patiently(progress.wait_for(|bytes| *bytes >= 1024)) => drop(durable.unwrap()),
    }
    let acknowledged = *progress.borrow();
    resume(&world.client, "d", &text, acknowledged).await;
    world.stop().await.assert_same("m", "d", "d-at-once", &text);
}

#[tokio::test]
async fn a_source_that_fails_does_not_complete_the_document() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(41, 10_000);
    let broken = broken_source(text.as_bytes());
    let failed = world.client.ingest("m", "d", IngestOptions::default(), broken, |_| {}).await.unwrap_err();
    assert!(matches!(failed, mnemon_client::Error::Source(_)), "{failed}");
    resume(&world.client, "d", &text, 0).await;
    world.stop().await.assert_same("m", "d", "d-at-once", &text);
}

/// Reads all of `bytes`, then fails.
fn broken_source(bytes: &[u8]) -> impl tokio::io::AsyncRead + Unpin {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk was pulled out")))
        }
    }
    tokio::io::AsyncReadExt::chain(std::io::Cursor::new(bytes.to_vec()), Broken)
}

/// A call made frame by frame.
struct RawCall {
    send: h2::SendStream<Bytes>,
    receive: h2::RecvStream,
    connection: tokio::task::JoinHandle<()>,
}

impl RawCall {
    async fn ingest(world: &World, document: &str) -> Self {
        let stream = TcpStream::connect(world.server.address()).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = http::Request::post(format!("{}/mnemon.v1.RecallService/Ingest", world.server.endpoint()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, send) = client.send_request(request, false).unwrap();
        let mut call = Self { send, receive: response_body(response).await, connection };
        call.message(Message::Start(start("m", document)));
        call
    }

    fn message(&mut self, message: Message) {
        let message = v1::IngestRequest { message: Some(message) }.encode_to_vec();
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        self.send.send_data(frame.into(), false).unwrap();
    }

    /// Reads answers until so many bytes are durable.
    async fn until_durable(&mut self, bytes: u64) -> u64 {
        let mut buffer = Vec::new();
        loop {
            let data = patiently(self.receive.data()).await.unwrap().unwrap();
            let _ = self.receive.flow_control().release_capacity(data.len());
            buffer.extend_from_slice(&data);
            while buffer.len() >= 5 {
                let len = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
                if buffer.len() < 5 + len {
                    break;
                }
                let progress = v1::IngestProgress::decode(&buffer[5..5 + len]).unwrap();
                buffer.drain(..5 + len);
                if progress.durable_bytes >= bytes {
                    return progress.durable_bytes;
                }
            }
        }
    }
}

async fn response_body(response: h2::client::ResponseFuture) -> h2::RecvStream {
    patiently(response).await.unwrap().into_body()
}

#[tokio::test]
async fn resets_and_lost_connections_are_not_the_end_of_a_document() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let text = text(42, 20_000);
    // Other clients cancel with these; to the handler, both look like the end of the stream.
    for reason in [h2::Reason::CANCEL, h2::Reason::NO_ERROR] {
        let document = format!("{reason:?}");
        let mut call = RawCall::ingest(&world, &document).await;
        call.message(Message::Text(text.as_bytes()[..10_000].to_vec()));
        let acknowledged = call.until_durable(1024).await;
        call.send.send_reset(reason);
        resume(&world.client, &document, &text, acknowledged).await;
    }
    // A client that is killed.
    let mut call = RawCall::ingest(&world, "lost").await;
    call.message(Message::Text(text.as_bytes()[..10_000].to_vec()));
    let acknowledged = call.until_durable(1024).await;
    call.connection.abort();
    resume(&world.client, "lost", &text, acknowledged).await;
    let stored = world.stop().await;
    for document in ["CANCEL", "NO_ERROR", "lost"] {
        stored.assert_same("m", document, &format!("{document}-at-once"), &text);
    }
}

#[tokio::test]
async fn a_piece_in_work_is_left_within_a_segment() {
    let world = World::new().await;
    world.client.create_memory("m", "").await.unwrap();
    let mut call = RawCall::ingest(&world, "d").await;
    let text = text(43, 1 << 20);
    // The connection's window is smaller than the piece: send as it opens.
    call.send.reserve_capacity(1 << 21);
    call.message(Message::Text(text.clone().into_bytes()));
    let acknowledged = call.until_durable(1024).await;
    call.send.send_reset(h2::Reason::CANCEL);
    let appended =
        eventually(|| async { ingest_as(&world.client, "m", "d", IngestMode::Append, b"the end").await.ok() }).await;
    let document = world.client.get_document("m", "d").await.unwrap();
    assert!(appended.durable_bytes >= acknowledged && document.bytes < text.len() as u64, "{document:?}");
}

#[tokio::test]
async fn a_generation_that_is_left_stops() {
    let world = World::with(|settings| {
        settings.limits.engine_queue = 1;
        settings.limits.prompt_tokens = 4 << 20;
    })
    .await;
    let request = |prompt: String| v1::GenerateRequest {
        prompt,
        memory: Some(without_memory()),
        max_tokens: Some(4),
        ..Default::default()
    };
    let mut answer = world.client.generate(request(text(44, ENDLESS_TOKENS))).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(500), answer.message()).await;
    assert!(nothing.is_err(), "the prompt is not read yet");
    drop(answer);
    let next = eventually(|| async {
        let mut answer = world.client.generate(request("a short one".into())).await.unwrap();
        answer.message().await.ok()
    })
    .await;
    assert!(!next.unwrap().token_ids.is_empty());
}

#[tokio::test]
async fn a_scoring_that_is_left_stops() {
    let world = World::with(|settings| {
        settings.limits.engine_queue = 1;
        settings.limits.score_tokens = 4 << 20;
    })
    .await;
    let text = text(45, ENDLESS_TOKENS);
    let scoring = world.client.score(&text, without_memory());
    assert!(tokio::time::timeout(Duration::from_millis(500), scoring).await.is_err(), "the text is not read yet");
    eventually(|| async { world.client.score("a short one", without_memory()).await.ok() }).await;
}
