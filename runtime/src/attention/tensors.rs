//! Attention with tensor operations, for devices other than the CPU: the mathematics of `mnemon-kernels`, computed in
//! f32, with the whole score matrix of a call in memory. Callers keep calls short (a block of the prompt).

use candle_core::{D, DType, Device, Tensor};
use mnemon_kernels::Mask;

use super::backend::{Output, Part, Source};
use crate::error::Result;

/// Stands in for the largest logit of a query that sees nothing, so that no infinity is subtracted from another.
const NOTHING: f64 = -1e30;

/// One softmax over all parts; `queries` gives shape and device.
pub(super) fn attention(n_kv_heads: usize, queries: &Tensor, parts: &[Part<'_>]) -> Result<Output> {
    let (n_heads, n, head_dim) = queries.dims3()?;
    let device = queries.device();
    let shape = (n_heads, n, head_dim);
    if parts.iter().all(|part| part.len == 0) {
        return Ok(Output {
            context: Tensor::zeros(shape, DType::F32, device)?,
            part_lse: vec![f32::NEG_INFINITY; parts.len() * n_heads * n],
            lse: vec![f32::NEG_INFINITY; n_heads * n],
        });
    }
    let filled: Vec<&Part<'_>> = parts.iter().filter(|part| part.len > 0).collect();
    let logits = filled.iter().map(|part| logits(n_kv_heads, part, device)).collect::<Result<Vec<_>>>()?;
    let logits = Tensor::cat(&logits, D::Minus1)?;
    let largest = logits.max_keepdim(D::Minus1)?.maximum(NOTHING)?;
    let weights = logits.broadcast_sub(&largest)?.exp()?;
    let total = weights.sum_keepdim(D::Minus1)?;
    let mut context = Tensor::zeros(shape, DType::F32, device)?;
    let mut lse = Vec::with_capacity(filled.len());
    let mut start = 0;
    let group = n_heads / n_kv_heads;
    for part in &filled {
        let share = weights.narrow(D::Minus1, start, part.len)?;
        start += part.len;
        lse.push((share.sum_keepdim(D::Minus1)?.log()? + &largest)?.flatten_all()?.to_vec1::<f32>()?);
        let values = tensor(&part.values, n_kv_heads, part.len, head_dim, device)?;
        let rows = share.contiguous()?.reshape((n_kv_heads, group * n, part.len))?;
        context = (context + rows.matmul(&values)?.reshape(shape)?)?;
    }
    let context = context.broadcast_div(&total.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    let mut lse = lse.into_iter();
    let part_lse = parts
        .iter()
        .flat_map(|part| match part.len {
            0 => vec![f32::NEG_INFINITY; n_heads * n],
            _ => lse.next().unwrap_or_default(),
        })
        .collect();
    Ok(Output { context, part_lse, lse: (total.log()? + largest)?.flatten_all()?.to_vec1()? })
}

/// Masked logits of a part, `[n_heads, n, len]`.
fn logits(n_kv_heads: usize, part: &Part<'_>, device: &Device) -> Result<Tensor> {
    let (n_heads, n, head_dim) = part.queries.dims3()?;
    let queries = part.queries.to_dtype(DType::F32)?.contiguous()?;
    let rows = queries.reshape((n_kv_heads, n_heads / n_kv_heads * n, head_dim))?;
    let keys = tensor(&part.keys, n_kv_heads, part.len, head_dim, device)?;
    let products = rows.matmul(&keys.t()?)?.reshape((n_heads, n, part.len))?;
    let per_head = |values: &[f32]| Tensor::from_slice(values, (n_heads, 1, 1), device);
    let mut logits = products.broadcast_mul(&per_head(part.logits.scale)?)?;
    if let Some(bias) = part.logits.bias {
        logits = logits.broadcast_add(&per_head(bias)?)?;
    }
    if let (Some(slope), Mask::Causal { first_key, first_query, .. }) = (part.logits.slope, part.mask) {
        let rows = (0..n).flat_map(|i| (0..part.len).map(move |j| (first_query + i) as f32 - (first_key + j) as f32));
        let distance = Tensor::from_vec(rows.collect(), (1, n, part.len), device)?;
        logits = (logits - per_head(slope)?.broadcast_mul(&distance)?)?;
    }
    match mask(part.mask, n, part.len) {
        None => Ok(logits),
        Some(mask) => Ok(logits.broadcast_add(&Tensor::from_vec(mask, (1, n, part.len), device)?)?),
    }
}

/// Zero where a query sees a key, negative infinity elsewhere, `[n, len]`; none where all is seen.
fn mask(mask: Mask, n: usize, len: usize) -> Option<Vec<f32>> {
    let Mask::Causal { first_key, first_query, window } = mask else { return None };
    let sees = |query: usize, key: usize| key <= query && window.is_none_or(|window| query - key < window);
    let (last_key, last_query) = (first_key + len - 1, first_query + n - 1);
    if last_key <= first_query && window.is_none_or(|window| last_query - first_key < window) {
        return None;
    }
    let rows = (0..n).flat_map(|i| (0..len).map(move |j| (first_query + i, first_key + j)));
    Some(rows.map(|(query, key)| if sees(query, key) { 0.0 } else { f32::NEG_INFINITY }).collect())
}

/// Keys or values in f32 on the device.
fn tensor(source: &Source<'_>, heads: usize, len: usize, head_dim: usize, device: &Device) -> Result<Tensor> {
    let shape = (heads, len, head_dim);
    let tensor = source.to_tensor(shape, device)?;
    Ok(tensor.to_dtype(DType::F32)?.contiguous()?)
}
