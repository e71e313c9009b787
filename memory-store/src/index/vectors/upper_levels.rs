//! The upper levels of a graph: `hnsw_rs` builds a graph over a sample of the entries.
//!
//! It finds links as good as anyone's, but takes several times as long as it has to: an `Arc` for each candidate, a hash
//! map for each search, a lock for each node. So it gets one entry of [`SAMPLE`]; its graph leads every search close to
//! the goal, and the rest of the entries are linked by `build`, which walks codes.
//!
//! `hnsw_rs` looks for small distances that are never negative or NaN. Here the distance of two keys is
//! `C - a.b` with `C` just above the largest squared length: by Cauchy and Schwarz no product exceeds it, and the
//! order is that of the inner product, which normalising or adding a dimension would not keep as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use mnemon_kernels::Dot;

use crate::error::{Error, Result};

/// One entry of so many is on an upper level.
const SAMPLE: u32 = 64;
/// Levels that `hnsw_rs` may use; the chance to need more is `m` to the power of minus this.
const MAX_LEVELS: usize = 16;
/// Entries inserted between two looks at the stop flag.
const SLICE: usize = 1024;

struct InnerProduct {
    /// See the module.
    ceiling: f32,
    dot: Dot,
}

impl Distance<f32> for InnerProduct {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        // `max` also turns a NaN (from products beyond f32) into 0.
        (self.ceiling - self.dot.dot(a, b)).max(0.0)
    }
}

/// Links of one level, ascending by node.
pub(super) type Level = Vec<(u32, Vec<u32>)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct UpperLevels {
    /// From level 1 up.
    pub(super) levels: Vec<Level>,
    /// An entry of the highest level.
    pub(super) entry_point: u32,
}

impl UpperLevels {
    /// Whether entry `entry` is part of it. Spread by a multiplicative hash: consecutive tokens are alike.
    pub(super) fn samples(entry: u32) -> bool {
        entry == 0 || entry.wrapping_mul(0x9E37_79B1) >> 16 & (SAMPLE - 1) == 0
    }

    /// Builds the graph over `vectors`, `[entries, dim]`, with `m` links a node (twice as many on level 1); `None` when
    /// `stop` was set meanwhile. Uses rayon's current pool.
    pub(super) fn build(
        entries: &[u32],
        vectors: &[f32],
        m: usize,
        ef_construction: usize,
        stop: &AtomicBool,
    ) -> Result<Option<Self>> {
        let work = AssertUnwindSafe(|| link(entries, vectors, m, ef_construction, stop));
        let failed = |_| Error::Catalog("building a graph failed; its entries are searched one by one".into());
        catch_unwind(work).map_err(failed)
    }
}

fn link(entries: &[u32], vectors: &[f32], m: usize, ef_construction: usize, stop: &AtomicBool) -> Option<UpperLevels> {
    let dim = vectors.len() / entries.len().max(1);
    let rows: Vec<(&[f32], usize)> = vectors.chunks_exact(dim.max(1)).enumerate().map(|(id, row)| (row, id)).collect();
    let dot = Dot::detect();
    let largest = rows.iter().map(|(row, _)| dot.dot(row, row)).fold(0.0, f32::max);
    let distance = InnerProduct { ceiling: (largest * 1.0001 + 1e-6).min(f32::MAX), dot };
    let hnsw = Hnsw::new(m, rows.len(), MAX_LEVELS, ef_construction, distance);
    // The first one alone: it becomes the entry point of the others.
    let (first, rest) = rows.split_first()?;
    hnsw.insert_slice(*first);
    for slice in rest.chunks(SLICE) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        hnsw.parallel_insert_slice(&slice.to_vec());
    }
    let mut upper_levels = UpperLevels { levels: Vec::new(), entry_point: entries[0] };
    let mut highest = 0;
    for point in hnsw.get_point_indexation() {
        let own = entries[point.get_origin_id()];
        let level = usize::from(point.get_point_id().0);
        if level > highest {
            (highest, upper_levels.entry_point) = (level, own);
        }
        // What `hnsw_rs` keeps above a node's own level only helps inserting.
        for (at, neighbours) in point.get_neighborhood_id().into_iter().take(level + 1).enumerate() {
            let others = neighbours.iter().map(|neighbour| entries[neighbour.get_origin_id()]);
            let row = others.filter(|other| *other != own).take(2 * m).collect();
            upper_levels.levels.resize(upper_levels.levels.len().max(at + 1), Vec::new());
            upper_levels.levels[at].push((own, row));
        }
    }
    for level in &mut upper_levels.levels {
        level.sort_unstable_by_key(|(node, _)| *node);
    }
    Some(upper_levels)
}
