//! Attention on the CPU: slices out of tensors, without copies where they are contiguous f32 already.

use candle_core::{Device, Tensor};
use mnemon_kernels::{AttentionShape, Data, Segment};

use super::backend::{Output, Part, Source};
use crate::error::Result;
use crate::host::Values;

/// One softmax over all parts; `shape` is that of the queries, `[n_heads, n, head_dim]`.
pub(super) fn attention(n_kv_heads: usize, shape: (usize, usize, usize), parts: &[Part<'_>]) -> Result<Output> {
    let (n_heads, n_queries, head_dim) = shape;
    // Borrowed first: the segments point into these.
    let held = parts
        .iter()
        .map(|part| Ok((Values::of(&part.queries)?, borrowed(&part.keys)?, borrowed(&part.values)?)))
        .collect::<Result<Vec<_>>>()?;
    let segments: Vec<Segment<'_>> = parts
        .iter()
        .zip(&held)
        .map(|(part, (queries, keys, values))| Segment {
            queries: queries.slice(),
            keys: data(&part.keys, keys.as_ref()),
            values: data(&part.values, values.as_ref()),
            len: part.len,
            mask: part.mask,
            logits: part.logits,
        })
        .collect();
    let shape = AttentionShape { n_queries, n_heads, n_kv_heads, head_dim };
    let output = mnemon_kernels::attention(shape, &segments)?;
    Ok(Output {
        context: Tensor::from_vec(output.context, (n_heads, n_queries, head_dim), &Device::Cpu)?,
        part_lse: output.segment_lse,
        lse: output.lse,
    })
}

fn borrowed<'a>(source: &'a Source<'_>) -> Result<Option<Values<'a>>> {
    match source {
        Source::Data(_) => Ok(None),
        Source::Tensor(tensor) => Values::of(tensor).map(Some),
    }
}

fn data<'a>(source: &Source<'a>, values: Option<&'a Values<'a>>) -> Data<'a> {
    match (source, values) {
        (Source::Data(data), _) => *data,
        (Source::Tensor(_), values) => Data::F32(values.map_or(&[], Values::slice)),
    }
}
