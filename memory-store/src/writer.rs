//! The only way to change a document.
use crate::{Committed, Error, KvChunk, Result, ResumePoint, WriterState};

/// Appends to one document.
pub struct Writer { state: WriterState }

fn later<T>() -> Result<T> { Err(Error::Catalog("not built yet".into())) }

impl Writer {
    /// Buffers a chunk.
    pub fn append(&mut self, _chunk: KvChunk) -> Result<()> { later() }
    /// Drops all but the first `keep_chunks` chunks of the document, counted over what is durable and what is
    /// appended; takes effect with the next commit.
    pub fn truncate(&mut self, _keep_chunks: u64) -> Result<()> { later() }
    /// Makes everything appended and truncated so far durable and visible.
    pub fn commit(&mut self, _resume: ResumePoint) -> Result<Committed> { later() }
    /// What is durable.
    pub fn state(&self) -> WriterState { self.state }
}
