//! The read side of a memory: what attention, search and citations ask of it.

use std::sync::Arc;

use crate::chunk::{ChunkId, ChunkInfo, ChunkKv};
use crate::chunk_selection::ChunkSelection;
use crate::error::Result;
use crate::geometry::KvGeometry;
use crate::request::{
    EmbeddingHits, EmbeddingRequest, Hit, SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};

/// Most chunks before, and after, a chunk that [`Recall::neighbours`] returns.
pub const MAX_NEIGHBOURS: usize = 1024;

/// A view of one or several memories that answers searches and hands out chunks. It does not change while it is
/// held: documents written or deleted later neither appear in it nor vanish from it.
pub trait Recall: Send + Sync {
    /// Shape of what is stored.
    fn geometry(&self) -> &KvGeometry;

    /// The entries with the largest inner product, for each query and head: `n_queries * key_heads.len()` lists in the
    /// order of the queries, each sorted by descending score, at most `top_k` long.
    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>>;

    /// Keys and values of `chunks` at memory layer `slot` (an index into [`KvGeometry::layers`], not the decoder layer
    /// itself), in the order asked.
    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>>;

    /// Keys and values of `chunks` at every layer that keeps them: one list for each slot, in the order asked.
    fn fetch_layers(&self, chunks: &[ChunkId]) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        (0..self.geometry().layers.len()).map(|slot| self.fetch(slot, chunks)).collect()
    }

    /// Searches, chooses chunks for each block of queries by the share of attention that their hits promise, and fetches
    /// their keys and values at memory layer `slot`, the largest share first: all that a memory layer needs of one step, so that a memory on another machine
    /// can answer it in one round trip.
    fn recall(
        &self,
        slot: usize,
        request: &SearchRequest<'_>,
        selection: &ChunkSelection<'_>,
    ) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        selection.check(request)?;
        let hits = self.search(request)?;
        selection.blocks(&hits).iter().map(|chunks| self.fetch(slot, chunks)).collect()
    }

    /// For each of `chunks` itself and up to `before` and `after` chunks that stand next to it in its document, in the
    /// order of the document. [`Error::Invalid`](crate::Error::Invalid) for more than [`MAX_NEIGHBOURS`] before or after.
    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>>;

    /// Chunks that share terms with a query, by BM25 (Robertson and Zaragoza 2009, section 3.2). Over several memories, each has
    /// statistics of its own.
    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits>;

    /// Chunks that share words with a text, by BM25 over words as Unicode defines them, their stems and their parts. Over several
    /// memories, each has statistics of its own.
    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits>;

    /// Chunks whose sentence embeddings are like a vector. A view that has none finds nothing.
    fn search_embeddings(&self, request: &EmbeddingRequest<'_>) -> Result<EmbeddingHits> {
        request.validate()?;
        Ok(EmbeddingHits { also: vec![None; request.also.len()], ..EmbeddingHits::default() })
    }

    /// Text, span, document and its metadata of `chunks`, in the order asked.
    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>>;

    /// Every chunk, ordered by document and position, at most `limit` of them.
    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>>;

    /// Number of chunks.
    fn len(&self) -> u64;

    /// Whether there is nothing to recall.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
