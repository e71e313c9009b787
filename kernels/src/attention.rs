//! Attention over a list of key/value segments.

use crate::{Data, Result};

/// Sizes shared by all segments of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query tokens.
    pub n_queries: usize,
    /// Query heads, a multiple of `n_kv_heads`; head `h` reads key/value head `h / (n_heads / n_kv_heads)`.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Values of one vector.
    pub head_dim: usize,
}

/// Which keys of a segment a query may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Every key.
    All,
    /// Key `j` of the segment stands at position `first_key + j`, query `i` at `first_query + i`; a query sees keys
    /// at its own position and before, and, with a window, only those less than `window` tokens back.
    Causal {
        /// Position of the segment's first key.
        first_key: usize,
        /// Position of the first query.
        first_query: usize,
        /// Tokens visible, the query's own included.
        window: Option<usize>,
    },
}

/// How a product of query and key becomes a logit: `scale[h] * (q . k) + bias[h]`, one of each per query head.
#[derive(Debug, Clone, Copy)]
pub struct LogitRule<'a> {
    /// Factors, `[n_heads]`.
    pub scale: &'a [f32],
    /// Offsets, `[n_heads]`; none means zero.
    pub bias: Option<&'a [f32]>,
}

/// Keys and values that are attended to together.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Queries as this segment wants them (rotated or not), `[n_heads, n_queries, head_dim]`.
    pub queries: &'a [f32],
    /// Keys, `[n_kv_heads, len, head_dim]`.
    pub keys: Data<'a>,
    /// Values, `[n_kv_heads, len, head_dim]`.
    pub values: Data<'a>,
    /// Keys in the segment.
    pub len: usize,
    /// Which of them each query sees.
    pub mask: Mask,
    /// How products become logits.
    pub logits: LogitRule<'a>,
}

/// What attention returns.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOutput {
    /// Softmax-weighted values over all segments together, `[n_heads, n_queries, head_dim]`; zero for a query that
    /// sees no key at all.
    pub context: Vec<f32>,
    /// Natural logarithm of the sum of exponentiated logits of each segment, `[n_segments, n_heads, n_queries]`;
    /// negative infinity where a query sees nothing of it.
    pub segment_lse: Vec<f32>,
    /// The same over all segments, `[n_heads, n_queries]`. `exp(segment_lse - lse)` is the attention mass of a segment.
    pub lse: Vec<f32>,
}

/// One softmax over the keys of all segments (`FlashAttention`'s online softmax within a segment, log-sum-exp merge
/// between them): never holds more than a tile of the score matrix. Runs on rayon's current thread pool.
pub fn attention(shape: AttentionShape, segments: &[Segment<'_>]) -> Result<AttentionOutput> {
    let _ = (shape, segments);
    Err(crate::Error::Shape("not written yet".into()))
}
