//! One block: the rows of one key/value head and some queries, over some segments.

use std::ops::Range;

use super::{AttentionShape, Segment, distance_to_first_key, few, many, visible_keys};
use crate::simd::Isa;

/// Up to so many rows, inner products row by row beat a product with transposed queries (measured: even at eight).
const FEW_ROWS: usize = 8;

/// Which part of a call. Row `i * queries.len() + j` is the group's head `i` and the block's query `j`.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) kv_head: usize,
    pub(super) queries: Range<usize>,
    pub(super) segments: Range<usize>,
}

/// What a block found: an unfinished softmax, which can be merged with that of other segments.
pub(super) struct Partial {
    /// Weighted values, weights relative to `max`, `[rows, head_dim]`.
    pub(super) context: Vec<f32>,
    /// Largest logit, `[rows]`, and padding to whole vectors.
    pub(super) max: Vec<f32>,
    /// Sum of weights, likewise.
    pub(super) sum: Vec<f32>,
    /// `[segments, rows]`.
    pub(super) segment_lse: Vec<f32>,
}

/// Buffers of one thread, reused from block to block. Bounded by the rows of a block and the keys of a tile.
#[derive(Default)]
pub(super) struct Workspace {
    /// Scaled queries: `[rows, head_dim]`, or transposed, `[head_dim, rows]`.
    pub(super) queries: Vec<f32>,
    /// Scores, then weights, of one tile.
    pub(super) scores: Vec<f32>,
    /// Keys of one tile in f32, if they are not stored so.
    pub(super) keys: Vec<f32>,
    /// Values of one tile, likewise.
    pub(super) values: Vec<f32>,
    /// The current segment's context, and its softmax row by row.
    pub(super) context: Vec<f32>,
    pub(super) max: Vec<f32>,
    pub(super) sum: Vec<f32>,
    pub(super) decay: Vec<f32>,
    /// Keys of the current segment that each row sees.
    pub(super) visible: Vec<Range<usize>>,
    /// Slope of each row, and its query's distance from the current segment's first key; empty without slopes.
    pub(super) slopes: Vec<(f32, f32)>,
}

impl Workspace {
    /// Forgets the segment before; makes room for a context of `rows` and a softmax of `padded` rows.
    pub(super) fn start_segment(&mut self, rows: usize, padded: usize, head_dim: usize) {
        fill(&mut self.context, rows * head_dim, 0.0);
        fill(&mut self.max, padded, f32::NEG_INFINITY);
        fill(&mut self.sum, padded, 0.0);
        fill(&mut self.decay, padded, 0.0);
    }
}

fn fill(buffer: &mut Vec<f32>, len: usize, value: f32) {
    buffer.clear();
    buffer.resize(len, value);
}

impl Block {
    /// Query heads of the block.
    pub(super) fn heads(&self, shape: AttentionShape) -> Range<usize> {
        let group = shape.n_heads / shape.n_kv_heads;
        self.kv_head * group..(self.kv_head + 1) * group
    }

    /// Number of rows.
    pub(super) fn rows(&self, shape: AttentionShape) -> usize {
        self.heads(shape).len() * self.queries.len()
    }

    /// Attends to the block's segments, one after the other.
    pub(super) fn run(
        &self,
        isa: Isa,
        shape: AttentionShape,
        segments: &[Segment<'_>],
        workspace: &mut Workspace,
    ) -> Partial {
        let rows = self.rows(shape);
        let padded = rows.next_multiple_of(isa.lanes());
        let mut partial = Partial {
            context: vec![0.0; rows * shape.head_dim],
            max: vec![f32::NEG_INFINITY; padded],
            sum: vec![0.0; padded],
            segment_lse: vec![f32::NEG_INFINITY; self.segments.len() * rows],
        };
        let few = rows <= FEW_ROWS;
        let mut packed = None;
        for (index, segment) in segments[self.segments.clone()].iter().enumerate() {
            let first = visible_keys(segment.mask, segment.len, self.queries.start);
            let last = visible_keys(segment.mask, segment.len, self.queries.end - 1);
            // Both ends of what is visible grow with the query.
            let union = first.start..last.end;
            if union.is_empty() {
                continue;
            }
            // Recalled chunks usually share their queries: transposing those again would cost as much as a chunk of 64.
            let source = (segment.queries.as_ptr(), segment.logits.scale.as_ptr());
            let fresh = packed.replace(source) != Some(source);
            // Empty where every row sees all of the union.
            workspace.visible.clear();
            if first != union || last != union {
                let of_queries = self.queries.clone().map(|query| visible_keys(segment.mask, segment.len, query));
                workspace.visible.extend(of_queries);
            }
            workspace.slopes.clear();
            if let Some(slope) = segment.logits.slope {
                let of_head = |head: usize| {
                    let distance = |query| distance_to_first_key(segment.mask, query).map(|distance| distance as f32);
                    self.queries.clone().filter_map(move |query| Some((slope[head], distance(query)?)))
                };
                workspace.slopes.extend(self.heads(shape).flat_map(of_head));
            }
            workspace.start_segment(if few { rows } else { padded }, padded, shape.head_dim);
            let view = View { isa, shape, block: self, segment, keys: union, fresh };
            if few {
                few::attend(&view, workspace);
            } else {
                many::attend(&view, workspace);
            }
            if let Some(bias) = segment.logits.bias {
                // A bias common to a segment's logits does not change its weights, only what the segment is worth.
                for (head, max) in self.heads(shape).zip(workspace.max.chunks_mut(self.queries.len())) {
                    for max in max {
                        *max += bias[head];
                    }
                }
            }
            let lse = &mut partial.segment_lse[index * rows..(index + 1) * rows];
            for ((lse, max), sum) in lse.iter_mut().zip(&workspace.max).zip(&workspace.sum) {
                *lse = max + sum.ln();
            }
            partial.merge(isa, shape.head_dim, &workspace.context, &mut workspace.max, &mut workspace.sum);
        }
        partial
    }
}

/// One segment as a block sees it.
pub(super) struct View<'a> {
    pub(super) isa: Isa,
    pub(super) shape: AttentionShape,
    pub(super) block: &'a Block,
    pub(super) segment: &'a Segment<'a>,
    /// Keys that any row sees.
    pub(super) keys: Range<usize>,
    /// Whether the workspace's queries are those of another segment.
    pub(super) fresh: bool,
}

impl View<'_> {
    /// Values of the stored arrays that belong to `keys` of the block's key/value head.
    pub(super) fn stored(&self, keys: &Range<usize>) -> Range<usize> {
        let first = self.block.kv_head * self.segment.len;
        (first + keys.start) * self.shape.head_dim..(first + keys.end) * self.shape.head_dim
    }

    /// The rows' queries in order, each with the scale of its head.
    pub(super) fn queries(&self) -> impl Iterator<Item = (f32, &[f32])> {
        let AttentionShape { n_queries, head_dim, .. } = self.shape;
        self.block.heads(self.shape).flat_map(move |head| {
            let scale = self.segment.logits.scale[head];
            let start = (head * n_queries + self.block.queries.start) * head_dim;
            let end = start + self.block.queries.len() * head_dim;
            self.segment.queries[start..end].chunks_exact(head_dim).map(move |query| (scale, query))
        })
    }
}

impl Partial {
    /// Adds an unfinished softmax of the same rows over other keys; what is left in its `max` and `sum` has no meaning.
    pub(super) fn merge(&mut self, isa: Isa, head_dim: usize, context: &[f32], max: &mut [f32], sum: &mut [f32]) {
        isa.merge_sums(&mut self.max, &mut self.sum, max, sum);
        let (old, new) = (max, sum);
        isa.mix_rows(&mut self.context, old, context, new, head_dim);
    }
}
