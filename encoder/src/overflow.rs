//! The part of a prompt that does not fit, as a memory of the request's own: read like a document, kept in this process, gone with
//! the request.

use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, CreateScratch, Error as MemoryError, Hit, KvGeometry, OpenMemory, Recall,
    Result as MemoryResult, SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};
use mnemon_runtime::Model;

use crate::document::{DocumentEncoder, PUSH_BYTES_MAX};
use crate::error::Result;
use crate::scratch::scratch;

const DOCUMENT: &str = "prompt";
/// Identifiers of chunks begin here: those of stores are below.
const FIRST_CHUNK: u64 = 1 << 60;

/// See the module.
pub struct Overflow {
    memory: Arc<dyn OpenMemory>,
    encoder: DocumentEncoder,
    text: Vec<u8>,
    pushed: usize,
}

impl Overflow {
    /// Takes the text; reads nothing yet. What is kept has the shape of `geometry`.
    pub fn new(create: CreateScratch, model: &Arc<Model>, geometry: &KvGeometry, text: String) -> Result<Self> {
        let (memory, encoder) = scratch(create, model, geometry, DOCUMENT)?;
        Ok(Self { memory, encoder, text: text.into_bytes(), pushed: 0 })
    }

    /// Reads at most one segment; `false` when all is read.
    pub fn step(&mut self) -> Result<bool> {
        if self.pushed < self.text.len() && self.encoder.wants_input() {
            let end = (self.pushed + PUSH_BYTES_MAX).min(self.text.len());
            self.encoder.push(&self.text[self.pushed..end])?;
            self.pushed = end;
            if end == self.text.len() {
                self.encoder.begin_finish()?;
            }
        }
        Ok(self.encoder.step()?.is_some())
    }

    /// What was read.
    pub fn view(&self) -> Result<Arc<dyn Recall>> {
        Ok(Arc::new(OverflowView { inner: self.memory.view()? }))
    }

    /// Whether a chunk is of a prompt rather than of a memory.
    pub fn holds(chunk: ChunkId) -> bool {
        chunk.0 >= FIRST_CHUNK
    }
}

/// A view whose chunks have identifiers that no store gives: beside memories, they count as the latest.
struct OverflowView {
    inner: Arc<dyn Recall>,
}

fn outer(chunk: ChunkId) -> ChunkId {
    ChunkId(chunk.0 + FIRST_CHUNK)
}

fn inner(chunks: &[ChunkId]) -> MemoryResult<Vec<ChunkId>> {
    let of = |chunk: &ChunkId| chunk.0.checked_sub(FIRST_CHUNK).map(ChunkId);
    chunks.iter().map(|chunk| of(chunk).ok_or(MemoryError::UnknownChunk { chunk: chunk.0 })).collect()
}

impl Recall for OverflowView {
    fn geometry(&self) -> &KvGeometry {
        self.inner.geometry()
    }

    fn search(&self, request: &SearchRequest<'_>) -> MemoryResult<Vec<Vec<Hit>>> {
        let mut lists = self.inner.search(request)?;
        lists.iter_mut().flatten().for_each(|hit| hit.chunk = outer(hit.chunk));
        Ok(lists)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> MemoryResult<Vec<Arc<ChunkKv>>> {
        let found = self.inner.fetch(slot, &inner(chunks)?)?;
        Ok(found.into_iter().map(|kv| Arc::new(ChunkKv { id: outer(kv.id), ..ChunkKv::clone(&kv) })).collect())
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> MemoryResult<Vec<Vec<ChunkId>>> {
        let found = self.inner.neighbours(&inner(chunks)?, before, after)?;
        Ok(found.into_iter().map(|chunks| chunks.into_iter().map(outer).collect()).collect())
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> MemoryResult<TermHits> {
        let mut found = self.inner.search_terms(request)?;
        for hit in &mut found.hits {
            hit.chunk = outer(hit.chunk);
        }
        Ok(found)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> MemoryResult<WordHits> {
        let mut found = self.inner.search_words(request)?;
        for hit in &mut found.hits {
            hit.chunk = outer(hit.chunk);
        }
        Ok(found)
    }

    fn describe(&self, chunks: &[ChunkId]) -> MemoryResult<Vec<ChunkInfo>> {
        let mut infos = self.inner.describe(&inner(chunks)?)?;
        for info in &mut infos {
            info.id = outer(info.id);
        }
        Ok(infos)
    }

    fn chunks(&self, limit: usize) -> MemoryResult<Vec<ChunkId>> {
        Ok(self.inner.chunks(limit)?.into_iter().map(outer).collect())
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}
