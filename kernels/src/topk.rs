//! Exact search for the largest inner products.
//!
//! Keys are read once, tile by tile, and each tile serves all queries while it is in the cache; a bounded heap per query
//! keeps the best. Threads take ranges of keys, whose results are merged.

mod heap;

use std::ops::Range;

use rayon::prelude::*;

use self::heap::{Best, rank};
use crate::data::Data;
use crate::error::{Error, Result};
use crate::simd::Isa;

/// Keys of a tile: in f32 and with 64 dimensions, half a first-level cache of 32 KB.
const TILE_KEYS: usize = 64;

/// Up to so many queries, products row by row beat a product with transposed queries (measured: even at eight).
const FEW_QUERIES: usize = 8;

/// Queries of one transposed block: as wide as the widest register block.
const BLOCK_QUERIES: usize = 64;

/// Below so many multiply-adds one thread finishes before a second one has woken up.
const SEQUENTIAL_PRODUCTS: usize = 1 << 20;

/// Refuses arguments that make no sense; returns the number of keys.
pub(crate) fn check_top_k(queries: &[f32], dim: usize, keys: Data<'_>, k: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::Shape("dim is 0: give the number of values of one key".into()));
    }
    if k == 0 {
        return Err(Error::Shape("k is 0: ask for at least one key, or do not search".into()));
    }
    whole_rows("queries", queries.len(), dim)?;
    let n_keys = whole_rows("keys", keys.len(), dim)?;
    if u32::try_from(n_keys).is_err() {
        let message = format!("{n_keys} keys, but indices have 32 bits: search in parts of at most {} keys", u32::MAX);
        return Err(Error::Shape(message));
    }
    Ok(n_keys)
}

fn whole_rows(what: &'static str, got: usize, dim: usize) -> Result<usize> {
    let rows = got / dim;
    if rows * dim == got { Ok(rows) } else { Err(Error::Size { what, expected: rows * dim, got }) }
}

/// For each of `queries`, `[n_queries, dim]`, the `k` of `keys`, `[n_keys, dim]`, with the largest inner products, as
/// pairs of score and index: descending score, then ascending index. Fewer than `k` if there are fewer keys for which
/// `skip`, called with an index and only for keys that would otherwise be returned, is false.
///
/// Exact, up to the rounding of f32, which may differ between batches of few and of many queries; equal keys have equal
/// scores. A NaN is never returned. Runs on rayon's current thread pool.
pub fn top_k_inner_product(
    queries: &[f32],
    dim: usize,
    keys: Data<'_>,
    k: usize,
    skip: Option<&(dyn Fn(usize) -> bool + Sync)>,
) -> Result<Vec<Vec<(f32, u32)>>> {
    top_k_inner_product_with(Isa::detect(), queries, dim, keys, k, skip)
}

/// [`top_k_inner_product`] with an instruction set of the caller's choice, for tests and measurements.
pub fn top_k_inner_product_with(
    isa: Isa,
    queries: &[f32],
    dim: usize,
    keys: Data<'_>,
    k: usize,
    skip: Option<&(dyn Fn(usize) -> bool + Sync)>,
) -> Result<Vec<Vec<(f32, u32)>>> {
    let n_keys = check_top_k(queries, dim, keys, k)?;
    let n_queries = queries.len() / dim;
    let search = Search { isa, dim, n_queries, queries: Queries::new(isa, queries, dim), keys, k, skip };
    let products = queries.len().saturating_mul(n_keys);
    let parts = if products < SEQUENTIAL_PRODUCTS { 1 } else { rayon::current_num_threads() };
    // Whole tiles, so that where a part ends does not depend on anything else.
    let part = n_keys.div_ceil(parts).next_multiple_of(TILE_KEYS).max(TILE_KEYS);
    let ranges: Vec<Range<usize>> = (0..n_keys).step_by(part).map(|start| start..(start + part).min(n_keys)).collect();
    let found: Vec<Vec<Best>> = if ranges.len() > 1 {
        ranges.into_par_iter().map(|range| search.range(range)).collect()
    } else {
        ranges.into_iter().map(|range| search.range(range)).collect()
    };
    let mut merged: Vec<Vec<(f32, u32)>> = vec![Vec::new(); n_queries];
    for of_range in found {
        for (best, out) in of_range.into_iter().zip(&mut merged) {
            best.append_to(out);
        }
    }
    for out in &mut merged {
        rank(out, k);
    }
    Ok(merged)
}

/// Queries as the inner loop wants them.
enum Queries<'a> {
    /// As they came, `[n_queries, dim]`.
    Few(&'a [f32]),
    /// In blocks, each transposed, `[dim, rows]`, with zeros up to a whole number of vectors.
    Many(Vec<Transposed>),
}

struct Transposed {
    rows: usize,
    values: Vec<f32>,
}

impl<'a> Queries<'a> {
    fn new(isa: Isa, queries: &'a [f32], dim: usize) -> Self {
        if queries.len() / dim <= FEW_QUERIES {
            return Self::Few(queries);
        }
        let transpose = |block: &[f32]| {
            let rows = (block.len() / dim).next_multiple_of(isa.lanes());
            let mut values = vec![0.0; rows * dim];
            for (row, query) in block.chunks_exact(dim).enumerate() {
                for (to, &q) in values[row..].iter_mut().step_by(rows).zip(query) {
                    *to = q;
                }
            }
            Transposed { rows, values }
        };
        Self::Many(queries.chunks(BLOCK_QUERIES.saturating_mul(dim)).map(transpose).collect())
    }
}

struct Search<'a> {
    isa: Isa,
    dim: usize,
    n_queries: usize,
    queries: Queries<'a>,
    keys: Data<'a>,
    k: usize,
    skip: Option<&'a (dyn Fn(usize) -> bool + Sync)>,
}

impl Search<'_> {
    /// The best of a range of keys, for each query.
    fn range(&self, range: Range<usize>) -> Vec<Best> {
        let mut best: Vec<Best> = (0..self.n_queries).map(|_| Best::new(self.k)).collect();
        let mut scores = Vec::new();
        let mut tops = Vec::new();
        let mut buffer = Vec::new();
        for start in range.clone().step_by(TILE_KEYS) {
            let n_keys = (range.end - start).min(TILE_KEYS);
            let tile = self.keys.slice(start * self.dim..(start + n_keys) * self.dim);
            match &self.queries {
                Queries::Few(queries) => {
                    scores.resize(self.n_queries * TILE_KEYS, 0.0);
                    self.isa.dots_few(queries, self.dim, tile, &mut scores, TILE_KEYS);
                    for (best, scores) in best.iter_mut().zip(scores.chunks_exact(TILE_KEYS)) {
                        let scores = &scores[..n_keys];
                        if best.wants_any(scores) {
                            self.offer(best, start, scores.iter());
                        }
                    }
                }
                Queries::Many(blocks) => {
                    let tile = tile.in_f32(self.isa, &mut buffer);
                    for (block, best) in blocks.iter().zip(best.chunks_mut(BLOCK_QUERIES)) {
                        scores.resize(n_keys * block.rows, 0.0);
                        tops.resize(block.rows, 0.0);
                        self.isa.scores(tile, self.dim, &block.values, block.rows, &mut scores);
                        self.isa.column_max(&scores, &mut tops);
                        for (row, (best, &top)) in best.iter_mut().zip(&tops).enumerate() {
                            // One look at a query's best of the tile spares a look at each.
                            if best.wants(top) {
                                self.offer(best, start, scores[row..].iter().step_by(block.rows));
                            }
                        }
                    }
                }
            }
        }
        best
    }

    /// Offers scores of the keys from `start` on.
    #[inline]
    fn offer<'s>(&self, best: &mut Best, start: usize, scores: impl Iterator<Item = &'s f32>) {
        for (key, &score) in (start..).zip(scores) {
            if best.wants(score) && !self.skip.is_some_and(|skip| skip(key)) {
                best.offer(score, key as u32);
            }
        }
    }
}
