//! A block of few rows, as when one token is generated: keys and values are read once, as they are stored.

use super::block::{View, Workspace};

/// Keys of a tile. More than for many rows: nothing is converted, and scores are small.
const TILE_KEYS: usize = 128;

/// Leaves the segment's unfinished softmax in the workspace.
pub(super) fn attend(view: &View<'_>, workspace: &mut Workspace) {
    let dim = view.shape.head_dim;
    let rows = view.block.rows(view.shape);
    let n_queries = view.block.queries.len();
    if view.fresh {
        workspace.queries.clear();
        for (scale, query) in view.queries() {
            workspace.queries.extend(query.iter().map(|q| q * scale));
        }
    }
    let Workspace { queries, scores, context, max, sum, decay, visible, slopes, .. } = workspace;
    let (max, sum, decay) = (&mut max[..rows], &mut sum[..rows], &mut decay[..rows]);
    for start in view.keys.clone().step_by(TILE_KEYS) {
        let tile = start..(start + TILE_KEYS).min(view.keys.end);
        let stride = tile.len().next_multiple_of(view.isa.lanes());
        let stored = view.stored(&tile);
        scores.resize(rows * stride, 0.0);
        view.isa.dots_few(queries, dim, view.segment.keys.slice(stored.clone()), scores, stride);
        for (row, scores) in scores.chunks_exact_mut(stride).enumerate() {
            if let Some((slope, distance)) = slopes.get(row) {
                for (key, score) in tile.clone().zip(scores.iter_mut()) {
                    *score -= slope * (distance - key as f32);
                }
            }
            scores[tile.len()..].fill(f32::NEG_INFINITY);
            if let Some(visible) = visible.get(row % n_queries) {
                let from = visible.start.clamp(tile.start, tile.end) - tile.start;
                let to = visible.end.clamp(tile.start, tile.end) - tile.start;
                scores[..from].fill(f32::NEG_INFINITY);
                scores[to..].fill(f32::NEG_INFINITY);
            }
        }
        view.isa.online_rows(scores, stride, max, sum, decay);
        let values = view.segment.values.slice(stored);
        view.isa.weigh_few(scores, stride, values, dim, decay, context);
    }
}
