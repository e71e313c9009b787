//! Ingest, search, generate, score.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use mnemon_proto::v1;
use mnemon_proto::v1::ingest_request::Message;
use tokio::io::AsyncRead;
use tokio_stream::Stream;
use tonic::Streaming;

use crate::connect::Client;
use crate::error::{Error, Result};
use crate::upload::upload;

/// Bytes of text in one message; the contract allows 1 MiB.
const PIECE_BYTES: usize = 64 << 10;

/// How to ingest a document.
#[derive(Debug, Clone, Default)]
pub struct IngestOptions {
    /// What to do if there is such a document already. The default creates a new one.
    pub mode: v1::IngestMode,
    /// Kept with the document.
    pub metadata: HashMap<String, String>,
    /// The text is a turn of a conversation: who said it and when, say, in at most 16 pairs of 2048 bytes together. End its text with a
    /// line feed.
    pub turn: HashMap<String, String>,
    /// The document goes so long after its last commit: 1 ms to 100 years. `None` leaves it as it is, or to the memory's
    /// `document_ttl`; zero takes away what the document has of its own.
    pub ttl: Option<Duration>,
}

impl Client {
    /// Reads `source` to its end into a document; `on_progress` is called as text becomes durable. Returns the last
    /// progress, with `complete` set.
    ///
    /// If this fails, or is dropped before its end, the server keeps what it acknowledged and the document stays
    /// incomplete: ingest it again with [`IngestMode::Resume`](v1::IngestMode::Resume).
    pub async fn ingest<R, F>(
        &self,
        memory: &str,
        document_id: &str,
        options: IngestOptions,
        source: R,
        mut on_progress: F,
    ) -> Result<v1::IngestProgress>
    where
        R: AsyncRead + Unpin,
        F: FnMut(&v1::IngestProgress),
    {
        let ttl = options.ttl.map(v1_duration).transpose()?;
        let start = v1::IngestStart {
            ttl,
            memory: memory.into(),
            document_id: document_id.into(),
            metadata: options.metadata,
            mode: options.mode.into(),
            turn: options.turn,
        };
        let follow = async |call| {
            let mut answers = self.recalls.clone().ingest(call).await?.into_inner();
            while let Some(progress) = answers.message().await? {
                on_progress(&progress);
                if progress.complete {
                    return Ok(progress);
                }
            }
            Err(Error::EndedEarly)
        };
        let text = |piece| request(Message::Text(piece));
        upload(source, request(Message::Start(start)), PIECE_BYTES, text, |_| (), follow).await
    }

    /// The `k` passages that `query` asks for; `exact` scans every entry instead of walking the index.
    pub async fn search(&self, memories: &[&str], query: &str, k: u32, exact: bool) -> Result<Vec<v1::SearchHit>> {
        self.search_with(v1::SearchRequest {
            memories: memories.iter().map(|&name| name.to_owned()).collect(),
            query: query.into(),
            k: Some(k),
            exact,
            ..Default::default()
        })
        .await
    }

    /// As [`search`](Self::search), with all that a search can be asked for: what it goes by, and in which documents.
    pub async fn search_with(&self, request: v1::SearchRequest) -> Result<Vec<v1::SearchHit>> {
        Ok(self.recalls.clone().search(request).await?.into_inner().hits)
    }

    /// Generates. Dropping the answer stops the work within a token.
    pub async fn generate(&self, request: v1::GenerateRequest) -> Result<Generated> {
        Ok(Generated { inner: self.recalls.clone().generate(request).await?.into_inner(), finished: false })
    }

    /// Log-probability of a text, with or without memory.
    pub async fn score(&self, text: &str, memory: v1::MemoryOptions) -> Result<v1::ScoreResponse> {
        self.score_after("", text, memory).await
    }

    /// Log-probability of a text that follows on `context`, which is read but not scored.
    pub async fn score_after(&self, context: &str, text: &str, memory: v1::MemoryOptions) -> Result<v1::ScoreResponse> {
        let message = v1::ScoreRequest { text: text.into(), memory: Some(memory), context: context.into() };
        Ok(self.recalls.clone().score(message).await?.into_inner())
    }

    /// Describes the model being served.
    pub async fn model(&self) -> Result<v1::Model> {
        Ok(self.recalls.clone().get_model(v1::GetModelRequest {}).await?.into_inner())
    }
}

/// An answer as it comes: a stream of pieces, the last of which has `finish` set.
#[derive(Debug)]
pub struct Generated {
    inner: Streaming<v1::GenerateResponse>,
    /// Whether the last piece was seen: an end before it is an error.
    finished: bool,
}

impl Generated {
    /// The next piece; `None` after the last.
    pub async fn message(&mut self) -> Result<Option<v1::GenerateResponse>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await.transpose()
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<v1::GenerateResponse>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.inner).poll_next(cx).map(|piece| {
            let piece = match piece {
                Some(Ok(piece)) => Ok(piece),
                Some(Err(status)) => Err(status.into()),
                None => Err(Error::EndedEarly),
            };
            self.finished = piece.as_ref().map_or(true, |piece| piece.finish.is_some());
            Some(piece)
        })
    }
}

impl Stream for Generated {
    type Item = Result<v1::GenerateResponse>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_piece(cx)
    }
}

/// A time span for the wire.
fn v1_duration(span: Duration) -> Result<prost_types::Duration> {
    let why = |_| Error::Options { what: "ttl", why: format!("{span:?}; at most 100 years are accepted") };
    prost_types::Duration::try_from(span).map_err(why)
}

fn request(message: Message) -> v1::IngestRequest {
    v1::IngestRequest { message: Some(message) }
}
