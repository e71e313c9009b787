//! The write side of a memory, local or remote: what the encoder asks of it while a document is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::chunk::{ChunkId, ChunkInfo, KvChunk};
use crate::error::{Error, Result};
use crate::geometry::{Fingerprint, KvGeometry};
use crate::recall::Recall;

/// From where a reader of the source text goes on after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResumePoint {
    /// Byte of the document up to which tokenisation is final.
    pub safe_byte: u64,
    /// Token of the document up to which tokenisation is final.
    pub safe_token: u64,
    /// Whether the whole document was committed.
    pub complete: bool,
}

/// Acknowledgement of a commit: what it tells survives the death of the process and loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Sequence number of the memory.
    pub sequence: u64,
    /// Tokens of the document.
    pub document_tokens: u64,
    /// Bytes of text of the document.
    pub document_bytes: u64,
    /// Chunks of the document.
    pub chunks: u64,
}

/// What is durable of the document that a writer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriterState {
    /// Chunks.
    pub chunks: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// The resume point of the last commit.
    pub resume: ResumePoint,
    /// Sequence number of the last commit of this document; 0 when there is none.
    pub sequence: u64,
    /// The last durable chunk.
    pub last_chunk: Option<ChunkId>,
}

/// A memory that documents are read into: one of a store in this process, or one on another machine.
pub trait OpenMemory: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// The only model whose keys and values it accepts.
    fn fingerprint(&self) -> Fingerprint;

    /// Shape of what is stored.
    fn geometry(&self) -> &KvGeometry;

    /// Creates or continues a document. It comes into being with its first commit. Metadata that is not empty replaces
    /// what the document has, with the next commit. Refused while another writer of it lives.
    fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Box<dyn DocumentWriter>>;

    /// Tokens and text of a document's chunks in order, from chunk `from_ordinal` on, at most `limit`; fewer only where
    /// the document ends.
    fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>>;

    /// Refuses, by quota, when not even one token more can be stored: what can be known before any work is done for
    /// `document_id`.
    fn check_room(&self, document_id: &str) -> Result<()>;

    /// An immutable view of what is committed now.
    fn view(&self) -> Result<Arc<dyn Recall>>;

    /// Refuses a model other than the one it was created for, naming both.
    fn require_fingerprint(&self, given: &Fingerprint) -> Result<()> {
        let stored = self.fingerprint();
        if stored == *given {
            return Ok(());
        }
        Err(Error::FingerprintMismatch { memory: self.name().to_owned(), stored, given: *given })
    }
}

/// Appends to one document. Nothing of it is visible or durable before [`commit`](Self::commit) returns; dropping it
/// loses only what was not committed.
pub trait DocumentWriter: Send {
    /// What is durable.
    fn state(&self) -> WriterState;

    /// Gives the document a time to live, in milliseconds after its last commit, from the next commit on. `None` takes it
    /// away: that of the memory is in force then, if it has one.
    fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()>;

    /// Takes a chunk, which must start where the document ends and fit the geometry. After an error the writer is as
    /// before the call.
    fn append(&mut self, chunk: KvChunk) -> Result<()>;

    /// Drops all but the first `keep_chunks` chunks of the document, counted over what is durable and what was appended.
    /// Takes effect with the next commit, together with what is appended until then.
    fn truncate(&mut self, keep_chunks: u64) -> Result<()>;

    /// Makes everything appended and truncated so far durable, then visible. After an error nothing of it is visible;
    /// call again, or drop the writer.
    fn commit(&mut self, resume: ResumePoint) -> Result<Committed>;
}

/// Makes a memory in this process that holds one document and is gone with its last handle: its name, the model, the shape. For
/// prompts that do not fit a context, and for probes.
pub type CreateScratch = fn(&str, Fingerprint, &KvGeometry) -> Result<Arc<dyn OpenMemory>>;
