//! Building a graph with `hnsw_rs` and freezing it.
//!
//! `hnsw_rs` looks for small distances that are never negative or NaN. Here the distance of two keys is
//! `C - a.b` with `C` just above the largest squared length: by Cauchy and Schwarz no product exceeds it, and the
//! order is that of the inner product, which normalising or adding a dimension would not keep as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use hnsw_rs::prelude::{Distance, Hnsw};
use mnemon_kernels::Dot;

use super::graph::{GraphIndex, MAX_GRAPH_ENTRIES, UpperLevel};
use super::{FlatIndex, VectorIndex};
use crate::{ChunkId, Error, Result};

/// Levels that `hnsw_rs` may use; with `m` = 16 the chance to need more is 16^-16.
const MAX_LEVELS: usize = 16;
/// Entries inserted between two looks at the stop flag.
const SLICE: usize = 1024;

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildParams {
    /// Links of a node on upper levels.
    pub m: usize,
    /// Breadth of the search for neighbours.
    pub ef_construction: usize,
}

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

/// Builds the graph over the entries of `flat`, which point into `chunks`. Uses rayon's current pool; takes about 2 KB
/// for each entry while it runs. `None` when `stop` was set meanwhile.
pub fn build_graph(
    flat: FlatIndex,
    chunks: Vec<ChunkId>,
    params: BuildParams,
    stop: &AtomicBool,
) -> Result<Option<GraphIndex>> {
    let n = flat.len();
    if n == 0 || n > MAX_GRAPH_ENTRIES {
        let why = format!("{n} entries; 1 to {MAX_GRAPH_ENTRIES} are accepted");
        return Err(Error::Invalid { what: "graph", why });
    }
    let built = catch_unwind(AssertUnwindSafe(|| link(&flat, params, stop)));
    let failed = |_| Error::Catalog("building a graph failed; its entries are searched one by one".into());
    let Some(links) = built.map_err(failed)? else { return Ok(None) };
    let (dim, vectors, entries) = flat.into_parts();
    let m0 = 2 * params.m;
    let graph = GraphIndex {
        dim,
        m: params.m,
        m0,
        entry_point: links.entry_point,
        links: links.base,
        upper: links.upper,
        vectors,
        entries,
        chunks,
    };
    graph.check("a graph just built")?;
    Ok(Some(graph))
}

struct Links {
    entry_point: u32,
    base: Vec<u16>,
    upper: Vec<UpperLevel>,
}

fn link(flat: &FlatIndex, params: BuildParams, stop: &AtomicBool) -> Option<Links> {
    let (dim, vectors) = (flat.dim(), flat.vectors().to_f32());
    let rows: Vec<(&[f32], usize)> = vectors.chunks_exact(dim).enumerate().map(|(id, row)| (row, id)).collect();
    let dot = Dot::detect();
    let largest = rows.iter().map(|(row, _)| dot.dot(row, row)).fold(0.0, f32::max);
    let distance = InnerProduct { ceiling: (largest * 1.0001 + 1e-6).min(f32::MAX), dot };
    let hnsw = Hnsw::new(params.m, rows.len(), MAX_LEVELS, params.ef_construction, distance);
    // The first one alone: it becomes the entry point of the others.
    let (first, rest) = rows.split_first()?;
    hnsw.insert_slice(*first);
    for slice in rest.chunks(SLICE) {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        hnsw.parallel_insert_slice(&slice.to_vec());
    }
    Some(freeze(&hnsw, rows.len(), params.m))
}

fn freeze(hnsw: &Hnsw<'_, f32, InnerProduct>, n: usize, m: usize) -> Links {
    let m0 = 2 * m;
    let mut base = vec![0_u16; n * m0];
    let mut upper: Vec<Vec<(u16, Vec<u16>)>> = Vec::new();
    let mut entry_point = (0, 0_u32);
    for point in hnsw.get_point_indexation() {
        let node = point.get_origin_id();
        let level = usize::from(point.get_point_id().0);
        if level > entry_point.0 {
            entry_point = (level, node as u32);
        }
        // What `hnsw_rs` keeps above a node's own level only helps inserting.
        for (at, neighbours) in point.get_neighborhood_id().into_iter().take(level + 1).enumerate() {
            let width = if at == 0 { m0 } else { m };
            let own = node as u16;
            let others = neighbours.iter().map(|neighbour| neighbour.get_origin_id() as u16);
            let mut row: Vec<u16> = others.filter(|other| *other != own).take(width).collect();
            row.resize(width, own);
            if at == 0 {
                base[node * m0..(node + 1) * m0].copy_from_slice(&row);
            } else {
                upper.resize(upper.len().max(at), Vec::new());
                upper[at - 1].push((own, row));
            }
        }
    }
    let level = |mut nodes: Vec<(u16, Vec<u16>)>| {
        nodes.sort_unstable_by_key(|(node, _)| *node);
        let links = nodes.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        UpperLevel { nodes: nodes.into_iter().map(|(node, _)| node).collect(), links }
    };
    super::repair::repair(&mut base, m0, entry_point.1);
    Links { entry_point: entry_point.1, base, upper: upper.into_iter().map(level).collect() }
}
