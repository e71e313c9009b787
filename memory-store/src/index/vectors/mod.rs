//! Search by inner product over the entries of one key head.
//!
//! | module | what | when |
//! |---|---|---|
//! | `flat` | exact scan | unsealed tail, the oracle of tests |
//! | `quantizer` | vectors in codes of 16 bits, of which the upper 8 are looked at first | building, each search |
//! | `upper_levels` | `hnsw_rs` makes the upper levels | sealing, in the pool of the store |
//! | `build` | links on level 0; a graph that exists is extended | sealing |
//! | `repair` | links to unreachable nodes | sealing |
//! | `graph`, `aligned` | the frozen graph: its blob, read in place | after sealing |
//! | `format` | the bytes of the blob | sealing, first use after opening |
//! | `beam` | best-first walk over links | building, each search |
//! | `search` | greedy descent, then the beam; or all codes in turn | each search |
//!
//! Names as in the paper (Malkov and Yashunin, 2016): `m` links that an entry makes, at most `2 m` that it keeps on level
//! 0, `ef` the breadth of the beam.

mod aligned;
mod beam;
mod build;
mod flat;
mod format;
mod graph;
mod quantizer;
mod repair;
mod search;
mod upper_levels;

pub use build::{BuildParams, build_graph};
pub use flat::FlatIndex;
pub(crate) use flat::data_bytes;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use format::decode_graph_of_anyone;
pub(crate) use format::{GraphOwner, graph_blob_name, read_graph, write_graph};
pub use graph::{GraphIndex, MAX_GRAPH_ENTRIES};

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRef {
    /// Index of its chunk in the extent (flat) or segment (graph).
    pub chunk: u32,
    /// First token of its block, within the chunk.
    pub start: u16,
    /// Tokens of its block.
    pub len: u16,
}

/// An entry found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Inner product.
    pub score: f32,
    /// Number of the entry in its index.
    pub entry: u32,
}

/// How wide and where a search looks.
#[derive(Clone, Copy)]
pub struct SearchParams<'a> {
    /// Entries wanted for each query, at least 1.
    pub top_k: usize,
    /// Breadth of a graph search; at least `top_k` is used. Exact searches ignore it.
    pub ef: usize,
    /// Entries that may be returned; all when `None`.
    pub live: Option<&'a (dyn Fn(u32) -> bool + Sync)>,
}

/// Top-k by inner product.
pub trait VectorIndex: Send + Sync {
    /// Entries.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What entry `entry` stands for.
    fn entry(&self, entry: u32) -> EntryRef;

    /// For each query of `queries` (`[n, dim]` row-major, finite) the entries with the largest inner products, at
    /// most `top_k`, sorted by descending score.
    fn search(&self, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>>;
}
