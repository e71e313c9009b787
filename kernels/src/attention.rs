//! Attention over a list of key/value segments.

mod block;
mod few;
mod many;
mod plan;

use std::ops::Range;

use crate::data::Data;
use crate::error::{Error, Result};
use crate::simd::Isa;

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

/// How a product of query and key becomes a logit: `scale[h] * (q . k) + bias[h] - slope[h] * distance`, one of each per
/// query head.
#[derive(Debug, Clone, Copy)]
pub struct LogitRule<'a> {
    /// Factors, `[n_heads]`.
    pub scale: &'a [f32],
    /// Offsets, `[n_heads]`; none means zero.
    pub bias: Option<&'a [f32]>,
    /// Loss per token of distance between query and key, `[n_heads]` (ALiBi, arXiv 2108.12409, section 3); none means
    /// zero. Without effect under [`Mask::All`], where keys have no position.
    pub slope: Option<&'a [f32]>,
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
///
/// Keys, values and logits are expected to be finite. A NaN or an infinity among them makes the output of queries
/// NaN that see it, and may do so for those that share a tile of keys with it.
pub fn attention(shape: AttentionShape, segments: &[Segment<'_>]) -> Result<AttentionOutput> {
    attention_with(Isa::detect(), shape, segments)
}

/// [`attention`] with an instruction set of the caller's choice, for tests and measurements.
pub fn attention_with(isa: Isa, shape: AttentionShape, segments: &[Segment<'_>]) -> Result<AttentionOutput> {
    let sizes = check(shape, segments)?;
    let mut output = AttentionOutput {
        context: vec![0.0; sizes.context],
        segment_lse: vec![f32::NEG_INFINITY; sizes.segment_lse],
        lse: vec![f32::NEG_INFINITY; sizes.lse],
    };
    if sizes.lse > 0 && !segments.is_empty() {
        plan::run(isa, shape, segments, &mut output);
    }
    Ok(output)
}

/// Sizes of the output buffers.
pub(crate) struct OutputSizes {
    pub(crate) context: usize,
    pub(crate) segment_lse: usize,
    pub(crate) lse: usize,
}

/// Refuses shapes that make no sense and buffers that do not fit them; no later arithmetic on sizes can overflow.
pub(crate) fn check(shape: AttentionShape, segments: &[Segment<'_>]) -> Result<OutputSizes> {
    let AttentionShape { n_queries, n_heads, n_kv_heads, head_dim } = shape;
    if n_heads == 0 || n_kv_heads == 0 || head_dim == 0 {
        let message =
            format!("n_heads {n_heads}, n_kv_heads {n_kv_heads} and head_dim {head_dim} must all be positive");
        return Err(Error::Shape(message));
    }
    if n_heads % n_kv_heads != 0 {
        return Err(Error::Shape(format!("n_heads {n_heads} must be a multiple of n_kv_heads {n_kv_heads}")));
    }
    let lse = size(&[n_heads, n_queries])?;
    let context = size(&[n_heads, n_queries, head_dim])?;
    let segment_lse = size(&[segments.len(), n_heads, n_queries])?;
    for segment in segments {
        let kv = size(&[n_kv_heads, segment.len, head_dim])?;
        expect("queries", segment.queries.len(), context)?;
        expect("keys", segment.keys.len(), kv)?;
        expect("values", segment.values.len(), kv)?;
        expect("logits.scale", segment.logits.scale.len(), n_heads)?;
        if let Some(bias) = segment.logits.bias {
            expect("logits.bias", bias.len(), n_heads)?;
        }
        if let Some(slope) = segment.logits.slope {
            expect("logits.slope", slope.len(), n_heads)?;
        }
    }
    Ok(OutputSizes { context, segment_lse, lse })
}

fn expect(what: &'static str, got: usize, expected: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Size { what, expected, got }) }
}

/// Product of `factors`, as a number of values that an allocation can hold.
fn size(factors: &[usize]) -> Result<usize> {
    factors
        .iter()
        .try_fold(1_usize, |product, &factor| product.checked_mul(factor))
        .filter(|&values| values <= isize::MAX as usize / size_of::<f32>())
        .ok_or_else(|| Error::Shape(format!("{factors:?} multiply to more values than memory can hold")))
}

/// Tokens from the first key of a segment to query `query`: negative where the query stands before it.
pub(crate) fn distance_to_first_key(mask: Mask, query: usize) -> Option<i64> {
    match mask {
        Mask::All => None,
        Mask::Causal { first_key, first_query, .. } => {
            Some(first_query.saturating_add(query).wrapping_sub(first_key) as i64)
        }
    }
}

/// Keys of a segment of `len` that query `query` sees. Both ends grow with `query`.
pub(crate) fn visible_keys(mask: Mask, len: usize, query: usize) -> Range<usize> {
    match mask {
        Mask::All => 0..len,
        Mask::Causal { first_key, first_query, window } => {
            // One past the query's own position, relative to the segment's first key.
            let end = first_query.saturating_add(query).saturating_add(1).saturating_sub(first_key);
            let unseen = window.map_or(0, |window| {
                first_query.saturating_add(query).saturating_add(1).saturating_sub(window).saturating_sub(first_key)
            });
            let end = end.min(len);
            unseen.min(end)..end
        }
    }
}
