//! Search by inner product over the entries of one slot and head.
//!
//! | module | what |
//! |---|---|
//! | `flat` | exact scan: unsealed tail, `exact` searches, the oracle of tests |

pub(crate) use flat::data_bytes;
mod flat;

pub use flat::FlatIndex;

use crate::{KvData, KvDtype};

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
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
    /// Entries wanted for each query.
    pub top_k: usize,
    /// Breadth of a graph search; at least `top_k` is used.
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

pub(crate) fn empty_data(dtype: KvDtype) -> KvData {
    match dtype {
        KvDtype::F32 => KvData::F32(Vec::new()),
        KvDtype::F16 => KvData::F16(Vec::new()),
        KvDtype::Bf16 => KvData::Bf16(Vec::new()),
    }
}

pub(crate) fn graph_blob_name(number: u64) -> String {
    format!("graph-{number:016x}")
}

/// Placeholder.
pub struct GraphIndex;
