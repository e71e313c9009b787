//! Searching a frozen graph: greedily down its upper levels, then with a beam over level 0; or all of it in turn.
//!
//! Both look at upper halves of codes, and at the lower ones only of what may be among the best.

use std::cell::RefCell;
use std::ops::Range;

use super::beam::{self, Scratch};
use super::grid::GridQuery;
use super::{GraphIndex, Scored, SearchParams, VectorIndex};

/// Rows of codes that a scan compares at once: what fits into the first cache beside the products.
const TILE: usize = 256;

/// What a thread keeps from search to search.
#[derive(Default)]
struct Own {
    query: GridQuery,
    scratch: Scratch,
    rows: Vec<u32>,
}

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

fn with_own<T>(work: impl FnOnce(&mut Own) -> T) -> T {
    OWN.with(|own| match own.try_borrow_mut() {
        Ok(mut own) => work(&mut own),
        // A search within a search: only `live` could start one.
        Err(_) => work(&mut Own::default()),
    })
}

/// Descending by score, then ascending by entry; at most `top_k`.
fn rank(mut found: Vec<Scored>, top_k: usize) -> Vec<Scored> {
    found.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.entry.cmp(&b.entry)));
    found.truncate(top_k);
    found
}

pub(super) fn search(graph: &GraphIndex, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
    let ef = params.ef.max(params.top_k);
    let codes = graph.codes();
    with_own(|Own { query: ready, scratch, rows }| {
        let walk = |query: &[f32]| {
            graph.grid.prepare(query, ready);
            let start = descend(graph, &ready.values, rows);
            beam::search(&ready.values, &[start], ef, codes, graph, params.live, scratch);
            let live = || scratch.met.iter().filter(|met| met.live());
            let Some(last) = live().take(params.top_k).last() else { return Vec::new() };
            let floor = last.product.saturating_sub(ready.doubt(false));
            let close = live().take_while(|met| met.product >= floor);
            let scored = close.map(|met| {
                let (coarse, fine) = graph.row(met.entry());
                Scored { score: ready.score(coarse, fine), entry: met.entry() }
            });
            rank(scored.collect(), params.top_k)
        };
        queries.chunks_exact(graph.dim()).map(walk).collect()
    })
}

/// Greedily down to level 1; returns where level 0 begins.
fn descend(graph: &GraphIndex, query: &[i16], rows: &mut Vec<u32>) -> u32 {
    let codes = graph.codes();
    let mut best = (codes.product(query, graph.entry_point), graph.entry_point);
    for level in (0..graph.upper_levels()).rev() {
        loop {
            let before = best;
            rows.clear();
            graph.append_upper_links(level, best.1, rows);
            for &row in rows.iter() {
                let product = codes.product(query, row);
                if product > best.0 {
                    best = (product, row);
                }
            }
            if best == before {
                break;
            }
        }
    }
    best.1
}

/// The best of the entries `range`, up to the rounding of codes of 16 bits.
pub(super) fn scan(
    graph: &GraphIndex,
    range: Range<u32>,
    queries: &[f32],
    params: &SearchParams<'_>,
) -> Vec<Vec<Scored>> {
    let dim = graph.dim();
    let mut close: Vec<Close> = queries
        .chunks_exact(dim)
        .map(|query| {
            let mut ready = GridQuery::default();
            graph.grid.prepare(query, &mut ready);
            Close { floor: i32::MIN, met: Vec::new(), most: 2 * params.top_k + 256, query: ready }
        })
        .collect();
    let values: Vec<i16> = close.iter().flat_map(|close| close.query.values.iter().copied()).collect();
    let codes = graph.codes();
    let mut products = vec![0; close.len() * TILE];
    let (first, last) = (range.start.min(graph.len() as u32), range.end.min(graph.len() as u32));
    let rows = &codes.rows[first as usize * dim..last.max(first) as usize * dim];
    for (tile, rows) in rows.chunks(TILE * dim).enumerate() {
        let n = rows.len() / dim;
        codes.dot.tile(&values, dim, rows, &mut products[..close.len() * n]);
        for (close, products) in close.iter_mut().zip(products.chunks_exact(n)) {
            close.look(products, first + (tile * TILE) as u32, params);
        }
    }
    let finish = |mut close: Close| {
        close.narrow(params.top_k);
        let scored = close.met.iter().map(|&(_, entry)| {
            let (coarse, fine) = graph.row(entry);
            Scored { score: close.query.score(coarse, fine), entry }
        });
        rank(scored.collect(), params.top_k)
    };
    close.into_iter().map(finish).collect()
}

/// What a scan has to look at closer for one query.
struct Close {
    query: GridQuery,
    /// Products below it cannot be among the best any more.
    floor: i32,
    met: Vec<(i32, u32)>,
    /// So many are met before they are narrowed down.
    most: usize,
}

impl Close {
    fn look(&mut self, products: &[i32], first: u32, params: &SearchParams<'_>) {
        // Counting has no early exit, so the compiler makes vector instructions of it.
        if products.iter().filter(|product| **product >= self.floor).count() == 0 {
            return;
        }
        for (entry, &product) in (first..).zip(products) {
            if product >= self.floor && params.live.is_none_or(|live| live(entry)) {
                self.met.push((product, entry));
            }
        }
        if self.met.len() >= self.most {
            self.narrow(params.top_k);
            self.most = self.most.max(2 * self.met.len());
        }
    }

    /// Forgets what cannot be among the best `top_k`.
    fn narrow(&mut self, top_k: usize) {
        if self.met.len() > top_k {
            let (_, worst, _) = self.met.select_nth_unstable_by(top_k - 1, |a, b| b.0.cmp(&a.0));
            self.floor = worst.0.saturating_sub(self.query.doubt(true));
            self.met.retain(|(product, _)| *product >= self.floor);
        }
    }
}
