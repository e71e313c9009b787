//! How much attention each token receives while it is local.

use mnemon_kernels::{Dot, Mask};

use crate::attention::LayerContext;
use crate::attention::sequence::{Queries, Sequence};
use crate::error::Result;
use crate::host::host_values;

/// Adds to `importance` (one vector per key/value head, its first value for position `start`) the softmax weights
/// that the queries of a call give to local tokens, summed over queries and the query heads of a key/value head.
///
/// `InfLLM` (section 3.2) takes the mean product with the queries that follow within the window; weights rank the
/// tokens of a chunk alike and are comparable between heads.
pub(super) fn add_importance(
    sequence: &Sequence,
    layer: &LayerContext<'_>,
    queries: &Queries,
    start: usize,
    importance: &mut [Vec<f32>],
) -> Result<()> {
    let (heads, n, head_dim) = queries.raw.dims3()?;
    let scale = vec![layer.scale; heads];
    let parts = sequence.parts(layer, queries, &scale, false)?;
    let (kv_heads, device) = (sequence.kv_heads, queries.raw.device());
    let parts = parts
        .iter()
        .map(|part| {
            let keys = part.keys.to_tensor((kv_heads, part.len, head_dim), device)?;
            Ok((host_values(&part.queries, <[f32]>::to_vec)?, host_values(&keys, <[f32]>::to_vec)?, part))
        })
        .collect::<Result<Vec<_>>>()?;
    let product = Dot::detect();
    let mut seen: Vec<(usize, f32)> = Vec::new();
    for head in 0..heads {
        let kv_head = head / (heads / kv_heads);
        let slope = layer.slopes.and_then(|slopes| slopes.get(head)).copied().unwrap_or_default();
        for i in 0..n {
            seen.clear();
            for (q, k, part) in &parts {
                let Mask::Causal { first_key, window, .. } = part.mask else { continue };
                let position = queries.first + i;
                let query = &q[(head * n + i) * head_dim..][..head_dim];
                for j in 0..part.len {
                    let key = first_key + j;
                    if key <= position && window.is_none_or(|window| position - key < window) {
                        let key_values = &k[(kv_head * part.len + j) * head_dim..][..head_dim];
                        let logit = layer.scale * product.dot(query, key_values) - slope * (position - key) as f32;
                        seen.push((key, logit));
                    }
                }
            }
            let largest = seen.iter().fold(f32::NEG_INFINITY, |largest, (_, logit)| largest.max(*logit));
            let total: f32 = seen.iter().map(|(_, logit)| (logit - largest).exp()).sum();
            for (key, logit) in &seen {
                let received = importance.get_mut(kv_head).and_then(|head| head.get_mut(key.checked_sub(start)?));
                if let Some(received) = received {
                    *received += (logit - largest).exp() / total;
                }
            }
        }
    }
    Ok(())
}
