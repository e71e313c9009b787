//! Reading, asking and scoring in the demo's memory, with what each took.

use std::time::{Duration, Instant};

use anyhow::Result;
use mnemon_bench::history::rank_of;
use mnemon_client::{Client, IngestOptions, v1};
use serde_json::{Value, json};
use tokio::io::AsyncRead;

use crate::commands::ingest::progress_bar;
use crate::json;
use crate::render::{Ui, count};

/// The memory of the demo.
pub(super) const MEMORY: &str = "demo";

/// The demo's memory on its server.
pub(super) struct Session<'a> {
    pub(super) client: &'a Client,
    pub(super) ui: &'a Ui,
    pub(super) model: v1::Model,
}

/// What reading a document took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub(super) bytes: u64,
    pub(super) tokens: u64,
    pub(super) chunks: u64,
    pub(super) elapsed: Duration,
}

impl Reading {
    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "tokens": self.tokens,
            "chunks": self.chunks,
            "seconds": self.elapsed.as_secs_f64(),
            "tokens_per_second": self.tokens_per_second(),
        })
    }
}

/// What the model said.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) usage: v1::Usage,
    pub(super) citations: Vec<v1::Citation>,
}

impl Answer {
    /// Rank, from 1, of the first citation that overlaps these bytes of the document.
    pub(super) fn rank_of(&self, byte_start: u64, byte_end: u64) -> Option<usize> {
        let chunks = self.citations.iter().map(|c| c.chunk.as_ref());
        rank_of(chunks, byte_start, byte_end)
    }

    pub(super) fn as_json(&self) -> Value {
        json!({
            "text": self.text,
            "usage": json::usage(&self.usage),
            "citations": json::citations(&self.citations),
        })
    }
}

impl<'a> Session<'a> {
    /// Creates the memory.
    pub(super) async fn begin(client: &'a Client, ui: &'a Ui) -> Result<Self> {
        let model = client.model().await?;
        client.create_memory(MEMORY, "of mnemon demo").await?;
        Ok(Self { client, ui, model })
    }

    /// Reads a text of known length, showing progress.
    pub(super) async fn read(&self, document_id: &str, bytes: u64, text: impl AsyncRead + Unpin) -> Result<Reading> {
        let bar = progress_bar(self.ui, "reading", Some(bytes));
        let started = Instant::now();
        let on_progress = |progress: &v1::IngestProgress| {
            let rate = progress.tokens_encoded as f64 / started.elapsed().as_secs_f64().max(1e-9);
            bar.set_position(progress.durable_bytes);
            bar.set_message(format!("{} tokens  {} tokens/s", count(progress.tokens_encoded), count(rate as u64)));
        };
        let end = self.client.ingest(MEMORY, document_id, IngestOptions::default(), text, on_progress).await;
        bar.finish_and_clear();
        let end = end?;
        Ok(Reading {
            bytes: end.durable_bytes,
            tokens: end.durable_tokens,
            chunks: end.durable_chunks,
            elapsed: started.elapsed(),
        })
    }

    /// Continues a prompt with the most probable tokens, up to `stop` if that is given.
    pub(super) async fn ask(&self, prompt: &str, with_memory: bool, max_tokens: u32, stop: &[&str]) -> Result<Answer> {
        let request = v1::GenerateRequest {
            prompt: prompt.to_owned(),
            memory: Some(options(with_memory)),
            max_tokens: Some(max_tokens),
            stop: stop.iter().map(|&s| s.to_owned()).collect(),
            ..v1::GenerateRequest::default()
        };
        self.generate(request).await
    }

    /// Answers a question as a chat model does.
    pub(super) async fn ask_in_chat(&self, question: &str, with_memory: bool, max_tokens: u32) -> Result<Answer> {
        let message =
            v1::ChatMessage { role: "user".to_owned(), content: question.to_owned(), ..v1::ChatMessage::default() };
        let request = v1::GenerateRequest {
            messages: vec![message],
            memory: Some(options(with_memory)),
            max_tokens: Some(max_tokens),
            ..v1::GenerateRequest::default()
        };
        self.generate(request).await
    }

    async fn generate(&self, request: v1::GenerateRequest) -> Result<Answer> {
        let mut stream = self.client.generate(request).await?;
        let mut answer = Answer::default();
        while let Some(piece) = stream.message().await? {
            answer.text.push_str(&piece.text);
            if let Some(finish) = piece.finish {
                answer.usage = finish.usage.unwrap_or_default();
                answer.citations = finish.citations;
            }
        }
        Ok(answer)
    }

    /// Scores a text.
    pub(super) async fn score(&self, text: &str, with_memory: bool) -> Result<v1::ScoreResponse> {
        Ok(self.client.score(text, options(with_memory)).await?)
    }

    /// Bytes of text to score: enough to mean something, and within what the model takes.
    pub(super) fn score_bytes(&self) -> u64 {
        const BYTES_ENOUGH: u64 = 4_000;
        // Two bytes a token, so that even a dense text fits.
        BYTES_ENOUGH.min(u64::from(self.model.prompt_tokens_max) * 2).max(64)
    }
}

fn options(with_memory: bool) -> v1::MemoryOptions {
    v1::MemoryOptions { memories: vec![MEMORY.to_owned()], recall_off: !with_memory, ..v1::MemoryOptions::default() }
}
