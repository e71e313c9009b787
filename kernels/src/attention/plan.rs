//! Cuts one call into blocks that threads can work on, and puts their results together.

use std::ops::Range;

use rayon::prelude::*;

use super::block::{Block, Partial, Workspace};
use super::{AttentionOutput, AttentionShape, Segment};
use crate::simd::Isa;

/// Rows (queries times heads of one group) of a block: enough that converting a tile of keys is a small part of the
/// work, few enough that a tile of scores stays in the first-level cache.
const BLOCK_ROWS: usize = 64;

/// Below so many multiply-adds one thread finishes before a second one has woken up.
const SEQUENTIAL_PRODUCTS: usize = 1 << 20;

/// Computes everything and writes it to `output`, whose buffers have their final sizes.
pub(super) fn run(isa: Isa, shape: AttentionShape, segments: &[Segment<'_>], output: &mut AttentionOutput) {
    let n_keys: usize = segments.iter().map(|segment| segment.len).sum();
    let products = [shape.n_heads, shape.n_queries, shape.head_dim, n_keys];
    let products = products.iter().fold(2_usize, |all, &n| all.saturating_mul(n));
    let threads = if products < SEQUENTIAL_PRODUCTS { 1 } else { rayon::current_num_threads() };
    let blocks = cut(shape, segments, n_keys, threads);
    if threads == 1 {
        let mut workspace = Workspace::default();
        let mut pending = None;
        for block in blocks {
            let partial = block.run(isa, shape, segments, &mut workspace);
            collect(isa, shape, &block, partial, &mut pending, output);
        }
        finish(shape, pending, output);
    } else {
        let partials: Vec<Partial> = blocks
            .par_iter()
            .with_max_len(1)
            .map_init(Workspace::default, |workspace, block| block.run(isa, shape, segments, workspace))
            .collect();
        let mut pending = None;
        for (block, partial) in blocks.iter().zip(partials) {
            collect(isa, shape, block, partial, &mut pending, output);
        }
        finish(shape, pending, output);
    }
}

/// Blocks of the same rows stand next to each other.
fn cut(shape: AttentionShape, segments: &[Segment<'_>], n_keys: usize, threads: usize) -> Vec<Block> {
    let group = shape.n_heads / shape.n_kv_heads;
    let queries_per_block = (BLOCK_ROWS / group).clamp(1, shape.n_queries);
    let row_blocks = shape.n_kv_heads * shape.n_queries.div_ceil(queries_per_block);
    // With fewer rows than threads, the segments are divided too.
    let parts = cut_segments(segments, n_keys, threads.div_ceil(row_blocks));
    let mut blocks = Vec::with_capacity(row_blocks * parts.len());
    for kv_head in 0..shape.n_kv_heads {
        for start in (0..shape.n_queries).step_by(queries_per_block) {
            let queries = start..(start + queries_per_block).min(shape.n_queries);
            blocks.extend(parts.iter().map(|segments| Block {
                kv_head,
                queries: queries.clone(),
                segments: segments.clone(),
            }));
        }
    }
    blocks
}

/// Consecutive ranges of segments with about the same number of keys, `parts` of them at most.
fn cut_segments(segments: &[Segment<'_>], n_keys: usize, parts: usize) -> Vec<Range<usize>> {
    let enough = n_keys.div_ceil(parts.max(1)).max(1);
    let mut ranges = Vec::with_capacity(parts);
    let (mut start, mut keys) = (0, 0);
    for (index, segment) in segments.iter().enumerate() {
        keys += segment.len;
        if keys >= enough || index + 1 == segments.len() {
            ranges.push(start..index + 1);
            (start, keys) = (index + 1, 0);
        }
    }
    ranges
}

/// Writes what is final and merges the rest with what `pending` holds of the same rows.
fn collect(
    isa: Isa,
    shape: AttentionShape,
    block: &Block,
    partial: Partial,
    pending: &mut Option<(Block, Partial)>,
    output: &mut AttentionOutput,
) {
    let n_queries = block.queries.len();
    for (segment, lse) in block.segments.clone().zip(partial.segment_lse.chunks_exact(block.rows(shape))) {
        for (head, lse) in block.heads(shape).zip(lse.chunks_exact(n_queries)) {
            let start = (segment * shape.n_heads + head) * shape.n_queries + block.queries.start;
            output.segment_lse[start..start + n_queries].copy_from_slice(lse);
        }
    }
    match pending {
        Some((rows, earlier)) if rows.kv_head == block.kv_head && rows.queries == block.queries => {
            let Partial { context, mut max, mut sum, .. } = partial;
            earlier.merge(isa, shape.head_dim, &context, &mut max, &mut sum);
        }
        _ => {
            let before = pending.replace((block.clone(), partial));
            finish(shape, before, output);
        }
    }
}

/// Divides by the sums and writes context and total.
fn finish(shape: AttentionShape, pending: Option<(Block, Partial)>, output: &mut AttentionOutput) {
    let Some((block, partial)) = pending else { return };
    let dim = shape.head_dim;
    let rows = block.heads(shape).flat_map(|head| block.queries.clone().map(move |query| (head, query)));
    for (index, (head, query)) in rows.enumerate() {
        let sum = partial.sum[index];
        // A query that saw nothing keeps the zeros; a NaN sum is not zero and is passed on.
        if sum == 0.0 {
            continue;
        }
        let row = head * shape.n_queries + query;
        output.lse[row] = partial.max[index] + sum.ln();
        let from = &partial.context[index * dim..(index + 1) * dim];
        for (to, from) in output.context[row * dim..(row + 1) * dim].iter_mut().zip(from) {
            *to = from / sum;
        }
    }
}
