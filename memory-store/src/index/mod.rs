//! Search by inner product over the entries of one slot and head.
//!
//! | module | what | when |
//! |---|---|---|
//! | `flat` | exact scan | unsealed tail, `exact` searches, the oracle of tests |
//! | `build` | `hnsw_rs` makes the links | sealing, in the pool of the store |
//! | `repair` | links back, and to what nobody links to | sealing |
//! | `graph` | the frozen graph: links, vectors, entries side by side | after sealing |
//! | `format` | its bytes, as one blob | sealing, first use after opening |
//! | `search` | greedy descent, then a beam on the lowest level | each search |
//!
//! Names as in the paper (Malkov and Yashunin, 2016): `m` links of a node on upper levels, `m0 = 2 m` on level 0, `ef`
//! the breadth of the beam.

mod build;
mod flat;
mod format;
mod graph;
mod repair;
mod search;

pub use build::{BuildParams, build_graph};
pub use flat::FlatIndex;
pub(crate) use flat::{as_kernel_data, data_bytes, empty_data};
pub(crate) use format::{GraphOwner, decode_graph, encode_graph, graph_blob_name};
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
