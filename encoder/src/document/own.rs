//! One document's own chunks, as a memory of their own.

use std::collections::HashSet;
use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvGeometry, Recall, Result, SearchRequest, TermHits, TermRequest, WordHits,
    WordRequest,
};

/// How many times more entries are searched than wanted, where a memory holds more than this document.
const OVERSAMPLING: usize = 8;

/// The chunks of `own` among those of a view: what a document may recall while it is read, so that deleting
/// another leaves no trace in it.
pub(super) struct OwnChunks {
    view: Arc<dyn Recall>,
    /// In the order of the document.
    ordered: Vec<ChunkId>,
    set: HashSet<ChunkId>,
}

impl OwnChunks {
    pub(super) fn new(view: Arc<dyn Recall>, ordered: Vec<ChunkId>) -> Self {
        let set = ordered.iter().copied().collect();
        Self { view, ordered, set }
    }
}

/// Chunks to ask the whole memory for where `top_k` of one document are wanted.
fn oversampled(top_k: usize) -> usize {
    top_k.saturating_mul(OVERSAMPLING).min(4096).max(top_k)
}

impl Recall for OwnChunks {
    fn geometry(&self) -> &KvGeometry {
        self.view.geometry()
    }

    /// Exact while the document is alone in its memory; among others, entries of this document may be missed that do
    /// not belong to the best few of the whole memory.
    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        let alone = self.view.len() == self.ordered.len() as u64;
        let top_k = if alone { request.top_k } else { request.top_k.saturating_mul(OVERSAMPLING) };
        let mut found = self.view.search(&SearchRequest { top_k, ..*request })?;
        for hits in &mut found {
            hits.retain(|hit| self.set.contains(&hit.chunk));
            hits.truncate(request.top_k);
        }
        Ok(found)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        self.view.fetch(slot, chunks)
    }

    fn fetch_layers(&self, chunks: &[ChunkId]) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        self.view.fetch_layers(chunks)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        let mut lists = self.view.neighbours(chunks, before, after)?;
        for list in &mut lists {
            list.retain(|chunk| self.set.contains(chunk));
        }
        Ok(lists)
    }

    /// Statistics are those of the whole memory; chunks of this document may be missed as in [`search`](Self::search).
    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        let top_k = oversampled(request.top_k);
        let mut found = self.view.search_terms(&TermRequest { top_k, ..*request })?;
        found.hits.retain(|hit| self.set.contains(&hit.chunk));
        found.hits.truncate(request.top_k);
        Ok(found)
    }

    /// As [`search_terms`](Self::search_terms).
    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits> {
        let top_k = oversampled(request.top_k);
        let mut found = self.view.search_words(&WordRequest { top_k, ..*request })?;
        found.hits.retain(|hit| self.set.contains(&hit.chunk));
        found.hits.truncate(request.top_k);
        Ok(found)
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        self.view.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        Ok(self.ordered.iter().copied().take(limit).collect())
    }

    fn len(&self) -> u64 {
        self.ordered.len() as u64
    }
}
