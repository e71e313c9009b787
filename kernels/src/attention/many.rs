//! A block of many rows, as when a prompt is read: keys and values are converted tile by tile, scores are kept
//! transposed, so that a vector holds the scores of several rows with one key and no sum crosses its lanes.

use std::ops::Range;

use super::block::{View, Workspace};

/// Keys of a tile.
const TILE_KEYS: usize = 64;

/// Leaves the segment's unfinished softmax in the workspace.
pub(super) fn attend(view: &View<'_>, workspace: &mut Workspace) {
    let dim = view.shape.head_dim;
    // Rows beyond the block's have zeros for queries and see what the rows they repeat see.
    let rows = view.block.rows(view.shape).next_multiple_of(view.isa.lanes());
    let Workspace {
        queries,
        scores,
        keys: key_buffer,
        values: value_buffer,
        context,
        max,
        sum,
        decay,
        visible,
        slopes,
    } = workspace;
    if view.fresh {
        transpose(view, rows, queries);
    }
    for start in view.keys.clone().step_by(TILE_KEYS) {
        let tile = start..(start + TILE_KEYS).min(view.keys.end);
        let stored = view.stored(&tile);
        scores.resize(tile.len() * rows, 0.0);
        let keys = view.segment.keys.slice(stored.clone()).in_f32(view.isa, key_buffer);
        view.isa.scores(keys, dim, queries, rows, scores);
        tilt(scores, rows, &tile, slopes);
        hide(scores, rows, &tile, visible);
        view.isa.online_columns(scores, max, sum, decay);
        let values = view.segment.values.slice(stored).in_f32(view.isa, value_buffer);
        view.isa.weigh(scores, rows, values, dim, decay, context);
    }
}

/// Scaled queries, `[head_dim, rows]`.
fn transpose(view: &View<'_>, rows: usize, to: &mut Vec<f32>) {
    to.clear();
    to.resize(view.shape.head_dim * rows, 0.0);
    for (row, (scale, query)) in view.queries().enumerate() {
        for (to, q) in to[row..].iter_mut().step_by(rows).zip(query) {
            *to = q * scale;
        }
    }
}

/// Takes each row's slope times the distance of a key from the key's score.
fn tilt(scores: &mut [f32], rows: usize, tile: &Range<usize>, slopes: &[(f32, f32)]) {
    if slopes.is_empty() {
        return;
    }
    for (key, scores) in tile.clone().zip(scores.chunks_exact_mut(rows)) {
        for (score, (slope, distance)) in scores.iter_mut().zip(slopes) {
            *score -= slope * (distance - key as f32);
        }
    }
}

/// Sets the scores of keys that a row does not see to negative infinity. `visible` has one range per query of the block,
/// or none if every row sees every key.
fn hide(scores: &mut [f32], rows: usize, tile: &Range<usize>, visible: &[Range<usize>]) {
    let (Some(first), Some(last)) = (visible.first(), visible.last()) else { return };
    // Both ends grow from query to query: these two bounds say whether all of the tile is visible to all.
    if last.start <= tile.start && tile.end <= first.end {
        return;
    }
    for (row, visible) in visible.iter().cycle().take(rows).enumerate() {
        let from = visible.start.clamp(tile.start, tile.end) - tile.start;
        let to = visible.end.clamp(tile.start, tile.end) - tile.start;
        for key in (0..from).chain(to..tile.len()) {
            scores[key * rows + row] = f32::NEG_INFINITY;
        }
    }
}
