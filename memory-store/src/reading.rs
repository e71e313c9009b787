//! All that whoever reads documents into a memory may ask of it, wherever the memory is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    ChunkInfo, Committed, Error, Fingerprint, KvChunk, KvGeometry, Memory, Recall, Result, ResumePoint, Writer,
    WriterState,
};

/// A memory that documents are read into: a [`Memory`] of a store in this process, or one on another machine.
pub trait OpenMemory: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// The only model whose keys and values it accepts.
    fn fingerprint(&self) -> Fingerprint;

    /// Shape of what is stored.
    fn geometry(&self) -> &KvGeometry;

    /// Creates or continues a document. It comes into being with its first commit. Metadata that is not empty replaces
    /// what the document has, with the next commit. [`Error::DocumentBusy`] while another writer of it lives.
    fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Box<dyn DocumentWriter>>;

    /// Tokens and text of a document's chunks in order, from chunk `from_ordinal` on, at most `limit`; fewer only where
    /// the document ends.
    fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>>;

    /// Refuses with [`Error::Quota`] when not even one token more can be stored: what can be known before any work is done for
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

impl OpenMemory for Memory {
    fn name(&self) -> &str {
        self.name()
    }

    fn fingerprint(&self) -> Fingerprint {
        self.spec().fingerprint
    }

    fn geometry(&self) -> &KvGeometry {
        self.geometry()
    }

    fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Box<dyn DocumentWriter>> {
        Ok(Box::new(self.writer(document_id, metadata)?))
    }

    fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        self.document_chunks(id, from_ordinal, limit)
    }

    fn check_room(&self, _document_id: &str) -> Result<()> {
        self.check_room()
    }

    fn view(&self) -> Result<Arc<dyn Recall>> {
        Ok(Arc::new(self.snapshot()?))
    }
}

impl DocumentWriter for Writer {
    fn state(&self) -> WriterState {
        self.state()
    }

    fn set_ttl_ms(&mut self, ttl_ms: Option<u64>) -> Result<()> {
        self.set_ttl_ms(ttl_ms)
    }

    fn append(&mut self, chunk: KvChunk) -> Result<()> {
        self.append(chunk)
    }

    fn truncate(&mut self, keep_chunks: u64) -> Result<()> {
        self.truncate(keep_chunks)
    }

    fn commit(&mut self, resume: ResumePoint) -> Result<Committed> {
        self.commit(resume)
    }
}
