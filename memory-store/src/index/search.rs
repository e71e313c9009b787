//! Walking a frozen graph: algorithms 2 and 5 of the paper, for the largest inner product instead of the least
//! distance.
//!
//! Entries that may not be returned are walked through like all others, and left out of the results.

use std::cell::RefCell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use mnemon_kernels::{Data, Dot};

use super::{GraphIndex, Scored, SearchParams, as_kernel_data};

/// Ordered by score, then by entry, so that equal runs give equal answers.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ranked(Scored);

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.score.total_cmp(&other.0.score).then_with(|| other.0.entry.cmp(&self.0.entry))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a search needs besides the graph. Each thread keeps one: 8 KiB and some vectors of length `ef`.
#[derive(Default)]
struct Scratch {
    /// One bit for each entry.
    visited: Vec<u64>,
    /// Not yet expanded, best first.
    candidates: BinaryHeap<Ranked>,
    /// Best so far, worst first.
    results: BinaryHeap<Reverse<Ranked>>,
    rows: Vec<u32>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

pub(super) fn search(graph: &GraphIndex, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
    SCRATCH.with(|scratch| {
        // A search never starts another one on its thread: `live` is the only foreign code in it.
        let mut own = Scratch::default();
        let mut shared = scratch.try_borrow_mut();
        let scratch = shared.as_deref_mut().unwrap_or(&mut own);
        let walk = Walk { graph, vectors: as_kernel_data(&graph.vectors), dot: Dot::detect(), params };
        queries.chunks_exact(graph.dim).map(|query| walk.search(query, scratch)).collect()
    })
}

struct Walk<'a> {
    graph: &'a GraphIndex,
    vectors: Data<'a>,
    dot: Dot,
    params: &'a SearchParams<'a>,
}

impl Walk<'_> {
    fn search(&self, query: &[f32], scratch: &mut Scratch) -> Vec<Scored> {
        let start = self.descend(query, scratch);
        self.beam(query, start, scratch);
        let mut found: Vec<Scored> = scratch.results.drain().map(|Reverse(ranked)| ranked.0).collect();
        found.sort_unstable_by_key(|scored| Reverse(Ranked(*scored)));
        found.truncate(self.params.top_k);
        found
    }

    /// Greedily down to level 1; returns where level 0 begins.
    fn descend(&self, query: &[f32], scratch: &mut Scratch) -> Scored {
        let entry = self.graph.entry_point;
        let mut best = Scored { score: self.dot.dot_data(query, self.vectors, entry as usize), entry };
        for level in self.graph.upper.iter().rev() {
            loop {
                scratch.rows.clear();
                scratch.rows.extend(level.links_of(best.entry, self.graph.m).iter().map(|link| u32::from(*link)));
                self.score_rows(query, scratch);
                let before = best.entry;
                for (entry, score) in scratch.rows.iter().zip(&scratch.scores) {
                    if *score > best.score {
                        best = Scored { score: *score, entry: *entry };
                    }
                }
                if best.entry == before {
                    break;
                }
            }
        }
        best
    }

    fn score_rows(&self, query: &[f32], scratch: &mut Scratch) {
        scratch.scores.clear();
        self.dot.dots(query, self.vectors, &scratch.rows, &mut scratch.scores);
    }

    /// Best-first over level 0 until the best candidate is worse than the worst of `ef` results.
    fn beam(&self, query: &[f32], start: Scored, scratch: &mut Scratch) {
        let ef = self.params.ef.max(self.params.top_k);
        scratch.visited.clear();
        scratch.visited.resize(self.graph.entries.len().div_ceil(64), 0);
        scratch.candidates.clear();
        scratch.results.clear();
        visit(&mut scratch.visited, start.entry);
        scratch.candidates.push(Ranked(start));
        self.offer(start, ef, scratch);
        while let Some(Ranked(candidate)) = scratch.candidates.pop() {
            let worst = worst(scratch, ef);
            if candidate.score < worst {
                break;
            }
            scratch.rows.clear();
            for link in self.graph.links_of(candidate.entry) {
                let entry = u32::from(*link);
                if visit(&mut scratch.visited, entry) {
                    scratch.rows.push(entry);
                }
            }
            self.score_rows(query, scratch);
            for at in 0..scratch.rows.len() {
                let found = Scored { score: scratch.scores[at], entry: scratch.rows[at] };
                if found.score > self::worst(scratch, ef) {
                    scratch.candidates.push(Ranked(found));
                    self.offer(found, ef, scratch);
                }
            }
        }
    }

    fn offer(&self, found: Scored, ef: usize, scratch: &mut Scratch) {
        if self.params.live.is_some_and(|live| !live(found.entry)) {
            return;
        }
        scratch.results.push(Reverse(Ranked(found)));
        if scratch.results.len() > ef {
            scratch.results.pop();
        }
    }
}

/// What a candidate must exceed to matter.
fn worst(scratch: &Scratch, ef: usize) -> f32 {
    match scratch.results.peek() {
        Some(Reverse(ranked)) if scratch.results.len() >= ef => ranked.0.score,
        _ => f32::NEG_INFINITY,
    }
}

/// Whether this is the first visit.
fn visit(visited: &mut [u64], entry: u32) -> bool {
    let word = &mut visited[entry as usize / 64];
    let bit = 1 << (entry % 64);
    let first = *word & bit == 0;
    *word |= bit;
    first
}
