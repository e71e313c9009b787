//! Searching a frozen graph: greedily down its upper levels, then with a beam over level 0; or all of it in turn.
//!
//! Both look at upper halves of codes, and at the lower ones only of what may be among the best.

use std::cell::RefCell;
use std::ops::Range;

use super::beam::Scratch;
use super::quantizer::QuantizedQuery;
use super::{GraphIndex, Scored, SearchParams, VectorIndex, beam};

/// Rows of codes that a scan compares at once: what fits into the first cache beside the products.
const TILE: usize = 256;

/// Buffers that a thread keeps from search to search.
#[derive(Default)]
struct ThreadScratch {
    query: QuantizedQuery,
    scratch: Scratch,
    rows: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<ThreadScratch> = RefCell::default();
}

fn with_scratch<T>(work: impl FnOnce(&mut ThreadScratch) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => work(&mut scratch),
        // A search within a search: only `live` could start one.
        Err(_) => work(&mut ThreadScratch::default()),
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
    with_scratch(|ThreadScratch { query: ready, scratch, rows }| {
        let walk = |query: &[f32]| {
            graph.quantizer.prepare(query, ready);
            let start = descend(graph, &ready.values, rows);
            beam::search(&ready.values, &[start], ef, codes, graph, params.live, scratch);
            let live = || scratch.candidates.iter().filter(|candidate| candidate.live());
            let Some(last) = live().take(params.top_k).last() else { return Vec::new() };
            let floor = last.product.saturating_sub(ready.error_bound(false));
            let close = live().take_while(|candidate| candidate.product >= floor);
            let scored = close.map(|candidate| {
                let (coarse, fine) = graph.row(candidate.entry());
                Scored { score: ready.score(coarse, fine), entry: candidate.entry() }
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
    let mut scans: Vec<ScanState> = queries
        .chunks_exact(dim)
        .map(|query| {
            let mut ready = QuantizedQuery::default();
            graph.quantizer.prepare(query, &mut ready);
            ScanState { floor: i32::MIN, candidates: Vec::new(), most: 2 * params.top_k + 256, query: ready }
        })
        .collect();
    let values: Vec<i16> = scans.iter().flat_map(|scan| scan.query.values.iter().copied()).collect();
    let codes = graph.codes();
    let mut products = vec![0; scans.len() * TILE];
    let (first, last) = (range.start.min(graph.len() as u32), range.end.min(graph.len() as u32));
    let rows = &codes.rows[first as usize * dim..last.max(first) as usize * dim];
    for (tile, rows) in rows.chunks(TILE * dim).enumerate() {
        let n = rows.len() / dim;
        codes.dot.tile(&values, dim, rows, &mut products[..scans.len() * n]);
        for (scan, products) in scans.iter_mut().zip(products.chunks_exact(n)) {
            scan.look(products, first + (tile * TILE) as u32, params);
        }
    }
    let finish = |mut scan: ScanState| {
        scan.narrow(params.top_k);
        let scored = scan.candidates.iter().map(|&(_, entry)| {
            let (coarse, fine) = graph.row(entry);
            Scored { score: scan.query.score(coarse, fine), entry }
        });
        rank(scored.collect(), params.top_k)
    };
    scans.into_iter().map(finish).collect()
}

/// A scan for one query: the candidates so far.
struct ScanState {
    query: QuantizedQuery,
    /// Products below it cannot be among the best any more.
    floor: i32,
    /// Coarse product, entry.
    candidates: Vec<(i32, u32)>,
    /// So many candidates are kept before they are narrowed down.
    most: usize,
}

impl ScanState {
    fn look(&mut self, products: &[i32], first: u32, params: &SearchParams<'_>) {
        // Counting has no early exit, so the compiler makes vector instructions of it.
        if products.iter().filter(|product| **product >= self.floor).count() == 0 {
            return;
        }
        for (entry, &product) in (first..).zip(products) {
            if product >= self.floor && params.live.is_none_or(|live| live(entry)) {
                self.candidates.push((product, entry));
            }
        }
        if self.candidates.len() >= self.most {
            self.narrow(params.top_k);
            self.most = self.most.max(2 * self.candidates.len());
        }
    }

    /// Forgets what cannot be among the best `top_k`.
    fn narrow(&mut self, top_k: usize) {
        if self.candidates.len() > top_k {
            let (_, worst, _) = self.candidates.select_nth_unstable_by(top_k - 1, |a, b| b.0.cmp(&a.0));
            self.floor = worst.0.saturating_sub(self.query.error_bound(true));
            self.candidates.retain(|(product, _)| *product >= self.floor);
        }
    }
}
