//! Plain f64 versions of every kernel: obvious, slow, and the oracle that the fast ones are tested against.
//!
//! They take the same arguments, check them the same way and return the same types, so that a caller who doubts a
//! fast kernel can swap one for the other.

use crate::attention::{AttentionOutput, AttentionShape, Segment, check, distance_to_first_key, visible_keys};
use crate::data::Data;
use crate::error::Result;
use crate::topk::check_top_k;

/// [`attention`](crate::attention()) with the whole score matrix in f64.
pub fn attention(shape: AttentionShape, segments: &[Segment<'_>]) -> Result<AttentionOutput> {
    let sizes = check(shape, segments)?;
    let AttentionShape { n_queries, n_heads, n_kv_heads, head_dim } = shape;
    let group = n_heads / n_kv_heads;
    let mut context = vec![0.0_f32; sizes.context];
    let mut segment_lse = vec![f32::NEG_INFINITY; sizes.segment_lse];
    let mut lse = vec![f32::NEG_INFINITY; sizes.lse];

    for head in 0..n_heads {
        for query in 0..n_queries {
            let row = head * n_queries + query;
            // One list of logits per segment; an empty one where nothing is visible.
            let mut logits: Vec<Vec<(usize, f64)>> = Vec::with_capacity(segments.len());
            for segment in segments {
                let scale = f64::from(segment.logits.scale[head]);
                let bias = segment.logits.bias.map_or(0.0, |bias| f64::from(bias[head]));
                let slope = segment.logits.slope.map_or(0.0, |slope| f64::from(slope[head]));
                let first = distance_to_first_key(segment.mask, query);
                let q = &segment.queries[row * head_dim..(row + 1) * head_dim];
                let score = |key: usize| {
                    let start = ((head / group) * segment.len + key) * head_dim;
                    let distance = first.map_or(0, |first| first - key as i64);
                    (start, scale * product(q, segment.keys, start) + bias - slope * distance as f64)
                };
                logits.push(visible_keys(segment.mask, segment.len, query).map(score).collect());
            }
            for (index, of_segment) in logits.iter().enumerate() {
                segment_lse[index * n_heads * n_queries + row] = log_sum_exp(of_segment.iter().map(|l| l.1)) as f32;
            }
            let total = log_sum_exp(logits.iter().flatten().map(|l| l.1));
            lse[row] = total as f32;
            if total == f64::NEG_INFINITY {
                continue;
            }
            for (d, out) in context[row * head_dim..(row + 1) * head_dim].iter_mut().enumerate() {
                let mut sum = 0.0;
                for (segment, of_segment) in segments.iter().zip(&logits) {
                    for &(start, logit) in of_segment {
                        sum += (logit - total).exp() * f64::from(segment.values.value(start + d));
                    }
                }
                *out = sum as f32;
            }
        }
    }
    Ok(AttentionOutput { context, segment_lse, lse })
}

/// [`top_k_inner_product`](crate::top_k_inner_product) by sorting every product, computed in f64 and rounded to f32.
pub fn top_k_inner_product(
    queries: &[f32],
    dim: usize,
    keys: Data<'_>,
    k: usize,
    skip: Option<&(dyn Fn(usize) -> bool + Sync)>,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let n_keys = check_top_k(queries, dim, keys, k)?;
    let rank = |query: &[f32]| {
        let mut found: Vec<(f32, u32)> = (0..n_keys)
            .filter(|&key| !skip.is_some_and(|skip| skip(key)))
            .map(|key| (product(query, keys, key * dim) as f32, key as u32))
            .filter(|(score, _)| !score.is_nan())
            .collect();
        // Stable: equal scores stay in ascending order of index.
        found.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(std::cmp::Ordering::Equal));
        found.truncate(k);
        found
    };
    Ok(queries.chunks_exact(dim).map(rank).collect())
}

/// Inner product of `query` and the values of `keys` from `start` on.
fn product(query: &[f32], keys: Data<'_>, start: usize) -> f64 {
    query.iter().enumerate().map(|(d, &q)| f64::from(q) * f64::from(keys.value(start + d))).sum()
}

fn log_sum_exp(logits: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = logits.clone().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + logits.map(|logit| (logit - max).exp()).sum::<f64>().ln()
}
