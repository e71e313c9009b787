//! A writer of a document in a store on another machine.
//!
//! Chunks are collected until the commit, which sends them in one stream that the store makes durable at once. If the answer
//! is lost, the same append is sent again: by the sequence number that it follows the store knows whether it was done.

use std::sync::Arc;

use mnemon_client::Transport;
use mnemon_memory::{Committed, DocumentWriter, Error, Invalid, KvChunk, Result, ResumePoint, WriterState};
use mnemon_proto::v1;
use mnemon_proto::v1::append_request::Message;
use mnemon_proto::v1::chunk_store_client::ChunkStoreClient;
use tonic::Status;

use super::driver::Driver;
use super::retry::RetryPolicy;
use super::{Place, remote};
use crate::{limits, wire};

/// See [`DocumentWriter`]. Holds what was appended since the last commit.
pub(super) struct RemoteWriter {
    store: ChunkStoreClient<Transport>,
    driver: Arc<Driver>,
    retry: RetryPolicy,
    /// What is durable.
    state: WriterState,
    /// How the next append begins.
    start: v1::AppendStart,
    /// Chunks that it brings.
    pending: Vec<v1::KvChunk>,
    /// No other writer of this process has the document.
    _permit: Place,
}

impl RemoteWriter {
    pub(super) fn open(
        store: ChunkStoreClient<Transport>,
        driver: Arc<Driver>,
        retry: RetryPolicy,
        mut start: v1::AppendStart,
        place: Place,
    ) -> Result<Self> {
        let open = || {
            let mut store = store.clone();
            let request = v1::OpenDocumentRequest {
                memory: start.memory.clone(),
                document_id: start.document_id.clone(),
                ..Default::default()
            };
            async move { store.open_document(request).await.map(tonic::Response::into_inner) }
        };
        let opened = retry.ask(&driver, open).map_err(remote)?;
        let state = wire::received_state(&opened.state.unwrap_or_default());
        (start.after_sequence, start.keep_chunks) = (state.sequence, state.chunks);
        Ok(Self { store, driver, retry, state, start, pending: Vec::new(), _permit: place })
    }

    fn messages(&self, resume: ResumePoint) -> Vec<v1::AppendRequest> {
        let start = Message::Start(self.start.clone());
        let commit = Message::Commit(v1::AppendCommit { resume: Some(wire::resume_to_send(resume)) });
        let chunks = self.pending.iter().cloned().map(Message::Chunk);
        let messages = std::iter::once(start).chain(chunks).chain([commit]);
        messages.map(|message| v1::AppendRequest { message: Some(message) }).collect()
    }
}

impl DocumentWriter for RemoteWriter {
    fn state(&self) -> WriterState {
        self.state
    }

    fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()> {
        self.start.ttl = Some(limits::duration(ttl_ms.unwrap_or(0)));
        Ok(())
    }

    fn append(&mut self, chunk: KvChunk) -> Result<()> {
        self.pending.push(wire::chunk_to_store(chunk));
        Ok(())
    }

    fn truncate(&mut self, keep_chunks: u64) -> Result<()> {
        let chunks = self.start.keep_chunks + self.pending.len() as u64;
        if keep_chunks > chunks {
            let why = format!("{keep_chunks} chunks are to be kept, but the document has {chunks}");
            return Err(Error::Invalid(Invalid { what: "truncation", why }));
        }
        self.pending.truncate(keep_chunks.saturating_sub(self.start.keep_chunks) as usize);
        self.start.keep_chunks = self.start.keep_chunks.min(keep_chunks);
        Ok(())
    }

    fn commit(&mut self, resume: ResumePoint) -> Result<Committed> {
        let append = || {
            let (mut store, messages) = (self.store.clone(), self.messages(resume));
            async move {
                let answer = store.append(tokio_stream::iter(messages)).await?.into_inner();
                wire::given("state", answer.state)
            }
        };
        let state: Result<v1::DocumentState, Status> = self.retry.ask(&self.driver, append);
        self.state = wire::received_state(&state.map_err(remote)?);
        self.pending.clear();
        (self.start.after_sequence, self.start.keep_chunks) = (self.state.sequence, self.state.chunks);
        // They are kept with the document now.
        self.start.metadata.clear();
        self.start.ttl = None;
        Ok(Committed {
            sequence: self.state.sequence,
            document_tokens: self.state.tokens,
            document_bytes: self.state.bytes,
            chunks: self.state.chunks,
        })
    }
}
