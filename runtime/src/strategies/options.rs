//! How recalled chunks are chosen and placed.

use std::sync::Arc;

use mnemon_memory::{Invalid, Recall};

use crate::attention::LocalMask;
use crate::error::{Error, Result};
use crate::model::Model;

/// Where recalled keys stand for queries, in models without trained memory parameters. Trained ones use no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PositionScheme {
    /// At their index in the document; right only while that document itself is being continued.
    True,
    /// All at one distance (`InfLLM`, section 3.3).
    Fixed {
        /// Tokens between a query and every recalled key.
        distance: usize,
    },
    /// In document order between the sinks and the local window (`ReAttention`, section 3), so that no distance
    /// exceeds sinks + recalled + window.
    #[default]
    Contiguous,
}

/// What a query recalls.
#[derive(Debug, Clone, PartialEq)]
pub struct RecallOptions {
    /// Chunks attended to by a block of queries, at each memory layer.
    pub top_k_chunks: usize,
    /// Entries searched for each query and head.
    pub entries_per_query: usize,
    /// Query tokens that share one recalled set while a prompt or document is read.
    pub block_tokens: usize,
    /// Breadth of the graph search; the store's default when `None`.
    pub ef: Option<usize>,
    /// Scan every entry instead of walking the graph.
    pub exact: bool,
    /// Recall every chunk, whatever the query: the oracle of the identity test.
    pub everything: bool,
    /// Where recalled keys stand.
    pub positions: PositionScheme,
}

impl Default for RecallOptions {
    fn default() -> Self {
        Self {
            top_k_chunks: 16,
            entries_per_query: 16,
            block_tokens: 16,
            ef: None,
            exact: false,
            everything: false,
            positions: PositionScheme::Contiguous,
        }
    }
}

impl RecallOptions {
    /// The defaults with the number of chunks that the model was trained with.
    pub fn for_model(model: &Model) -> Self {
        Self { top_k_chunks: model.config().memory.recall_top_k, ..Self::default() }
    }

    /// Refuses zeros and numbers that no machine serves: at most 4096 chunks, 4096 entries, 4096 tokens of a block.
    pub fn validate(&self) -> Result<()> {
        for (what, value) in [
            ("top_k_chunks", self.top_k_chunks),
            ("entries_per_query", self.entries_per_query),
            ("block_tokens", self.block_tokens),
        ] {
            if value == 0 || value > 4096 {
                return Err(Error::Invalid(Invalid { what, why: format!("{value}; 1 to 4096 is accepted") }));
            }
        }
        Ok(())
    }
}

/// A memory and how to recall from it.
pub type RecallFrom = (Arc<dyn Recall>, RecallOptions);

/// How a document is read.
#[derive(Clone)]
pub struct CaptureOptions {
    /// Tokens of the local window.
    pub window: usize,
    /// First tokens of the document that stay visible; only with [`LocalMask::Sliding`].
    pub sinks: usize,
    /// What is visible locally.
    pub local: LocalMask,
    /// Memory that is recalled while reading.
    pub recall: Option<RecallFrom>,
}

/// Keys and values of tokens that left the window, for the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Captured {
    /// Index of the first token in the document.
    pub token_start: u64,
    /// Tokens.
    pub len: usize,
    /// Keys before rotary encoding, one vector per memory layer, each `[kv_heads, len, head_dim]`.
    pub keys: Vec<Vec<f32>>,
    /// Values, shaped as `keys`.
    pub values: Vec<Vec<f32>>,
    /// Attention that each token received while it was local (softmax weights summed over the query heads of its
    /// key/value head and over queries), one vector per memory layer, each `[kv_heads, len]`; empty unless the entry
    /// policy is [`Representative`](mnemon_memory::EntryPolicy).
    pub importance: Vec<Vec<f32>>,
    /// Keys before rotary encoding of the key heads of other layers
    /// ([lone ones](mnemon_memory::KvGeometry::lone_key_heads)), one vector for each, `[len, head_dim]`.
    pub lone_keys: Vec<Vec<f32>>,
}
