//! All that the runtime may ask of a memory.

use std::sync::Arc;

use crate::{Choice, ChunkId, ChunkInfo, ChunkKv, KvGeometry, Result};

/// A batch of queries of one memory layer: all heads of one or many tokens.
#[derive(Debug, Clone, Copy)]
pub struct SearchRequest<'a> {
    /// Index into [`KvGeometry::layers`] (not the decoder layer itself).
    pub slot: usize,
    /// Query vectors before rotary encoding, `[n_queries, n_heads, head_dim]` row-major. Query head `h` searches
    /// the entries of key/value head `h / (n_heads / kv_heads)` (grouped-query attention).
    pub queries: &'a [f32],
    /// Query heads, a multiple of the geometry's `kv_heads`.
    pub n_heads: usize,
    /// Entries wanted for each query and head, at least 1.
    pub top_k: usize,
    /// Breadth of the graph search, never below `top_k`. When `None`, small memories are scanned, and large ones are
    /// searched with the store's default ([`StoreOptions`](crate::StoreOptions)).
    pub ef: Option<usize>,
    /// Scan every entry instead of walking the graph.
    pub exact: bool,
}

/// One entry found by a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Inner product of query and entry.
    pub score: f32,
    /// Chunk that the entry points into.
    pub chunk: ChunkId,
    /// First token, within the chunk, of the block that the entry stands for.
    pub start: u16,
    /// Tokens of that block.
    pub len: u16,
}

/// A view of one or several memories that answers searches and hands out chunks. It does not change while it is
/// held: documents written or deleted later neither appear in it nor vanish from it.
pub trait Recall: Send + Sync {
    /// Shape of what is stored.
    fn geometry(&self) -> &KvGeometry;

    /// The entries with the largest inner product, for each query and head: `n_queries * n_heads` lists in the
    /// order of the queries, each sorted by descending score, at most `top_k` long.
    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>>;

    /// Keys and values of `chunks` at memory layer `slot`, in the order asked.
    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>>;

    /// Searches, chooses chunks for each block of queries by the share of attention that their hits promise, and fetches
    /// them, the largest share first: all that a memory layer needs of one step, so that a memory on another machine
    /// can answer it in one round trip.
    fn recall(&self, request: &SearchRequest<'_>, choice: &Choice<'_>) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        choice.check(request)?;
        let hits = self.search(request)?;
        choice.blocks(&hits).iter().map(|chunks| self.fetch(request.slot, chunks)).collect()
    }

    /// Text, span and document of `chunks`, in the order asked.
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
