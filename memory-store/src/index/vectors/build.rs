//! Building a graph: the upper levels by `hnsw_rs`, then every entry linked on level 0, many at a time (algorithms 1 and 4 of
//! the paper, by products of codes). A graph that exists already is extended: its links are taken over.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use mnemon_kernels::CodeDot;
use mnemon_memory::{ChunkId, Invalid};
use rayon::prelude::*;

use super::beam::{Codes, Links, Scratch};
use super::flat::FlatIndex;
use super::format::{Content, freeze};
use super::graph::{GraphIndex, MAX_GRAPH_ENTRIES};
use super::quantizer::{QuantizedQuery, ScalarQuantizer, Span};
use super::repair::{Rows, repair};
use super::upper_levels::UpperLevels;
use super::{EntryRef, VectorIndex, beam};
use crate::error::{Error, Result};
use crate::sync::lock;

/// Vectors widened at a time.
const BLOCK: usize = 4096;
/// Locks that the rows share.
const LOCKS: usize = 1 << 12;

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildParams {
    /// Links that a node makes when it comes; on level 0 it keeps at most twice as many.
    pub m: usize,
    /// Breadth of the search for neighbours.
    pub ef_construction: usize,
}

/// Builds the graph over the entries of `flat`, which point into `chunks` in ascending order. The chunks of `base` that
/// are among them keep the links that they have there. Uses rayon's current pool; takes about `20 m` bytes and `4 * dim`
/// for each entry while it runs. `None` when `stop` was set meanwhile.
pub fn build_graph(
    flat: FlatIndex,
    chunks: &[ChunkId],
    base: Option<&GraphIndex>,
    params: BuildParams,
    stop: &AtomicBool,
) -> Result<Option<GraphIndex>> {
    let n = flat.len();
    if n == 0 || n > MAX_GRAPH_ENTRIES {
        let why = format!("{n} entries; 1 to {MAX_GRAPH_ENTRIES} are accepted");
        return Err(Error::Invalid(Invalid { what: "graph", why }));
    }
    let firsts = first_entries(flat.entries(), chunks.len())?;
    let dim = flat.dim();
    let mut span = Span::new(dim);
    flat.for_each_block(BLOCK, |block| span.include(block));
    let quantizer = span.quantizer();
    let (mut coarse, mut fine) = (Vec::with_capacity(n * dim), Vec::with_capacity(n * dim));
    flat.for_each_block(BLOCK, |block| quantizer.encode(block, &mut coarse, &mut fine));
    let entries = flat.into_entries();

    let sampled: Vec<u32> = (0..n as u32).filter(|entry| UpperLevels::samples(*entry)).collect();
    let mut sample = Vec::with_capacity(sampled.len() * dim);
    let mut vector = Vec::new();
    for entry in &sampled {
        let row = *entry as usize * dim..(*entry as usize + 1) * dim;
        quantizer.decode(&coarse[row.clone()], &fine[row], &mut vector);
        sample.extend_from_slice(&vector);
    }
    let m = (params.m / 2).max(4);
    let Some(upper_levels) = UpperLevels::build(&sampled, &sample, m, params.ef_construction / 2, stop)? else {
        return Ok(None);
    };
    drop(sample);

    let width = 2 * params.m;
    let builder = Builder {
        quantizer: &quantizer,
        coarse: &coarse,
        fine: &fine,
        upper_levels: &upper_levels,
        rows: Growing::new(n, width + width / 4),
        params,
        stop,
    };
    let known = builder.take_over(base, chunks, &firsts);
    for (node, links) in upper_levels.levels.first().into_iter().flatten() {
        if builder.rows.is_empty(*node) {
            builder.rows.set(*node, &links[..links.len().min(width)]);
        }
    }
    (0..n as u32).into_par_iter().filter(|entry| !known[*entry as usize]).for_each(|entry| builder.insert(entry));
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let mut rows = builder.finish();
    repair(&mut rows, upper_levels.entry_point);
    let content = Content {
        quantizer,
        coarse,
        fine,
        entries,
        chunks: chunks.to_vec(),
        firsts,
        rows,
        upper_levels,
        upper_width: 2 * m,
    };
    freeze(&content).map(Some)
}

/// First entry of each chunk.
fn first_entries(entries: &[EntryRef], chunks: usize) -> Result<Vec<u32>> {
    let mut firsts = Vec::with_capacity(chunks);
    for (at, entry) in entries.iter().enumerate() {
        if entry.chunk as usize + 1 == firsts.len() {
            continue;
        }
        if entry.chunk as usize != firsts.len() {
            let why = format!("entry {at} points into chunk {} of {chunks}, out of turn", entry.chunk);
            return Err(Error::Invalid(Invalid { what: "graph", why }));
        }
        firsts.push(at as u32);
    }
    if firsts.len() != chunks {
        let why = format!("entries point into {} of {chunks} chunks", firsts.len());
        return Err(Error::Invalid(Invalid { what: "graph", why }));
    }
    Ok(firsts)
}

/// Rows of links that many threads read and change: a change takes the row's lock, reading does not, and may see a row
/// half changed, which is as good as any.
struct Growing {
    /// `[nodes, 1 + width]`: length, then links.
    memories: Vec<AtomicU32>,
    width: usize,
    locks: Vec<Mutex<()>>,
}

impl Growing {
    fn new(nodes: usize, width: usize) -> Self {
        let memories = (0..nodes * (width + 1)).map(|_| AtomicU32::new(0)).collect();
        Self { memories, width, locks: (0..LOCKS).map(|_| Mutex::new(())).collect() }
    }

    fn entries_of_tenant(&self, node: u32) -> (&AtomicU32, &[AtomicU32]) {
        let start = node as usize * (self.width + 1);
        (&self.memories[start], &self.memories[start + 1..start + 1 + self.width])
    }

    fn lock_of(&self, node: u32) -> &Mutex<()> {
        &self.locks[node as usize % LOCKS]
    }

    fn is_empty(&self, node: u32) -> bool {
        self.entries_of_tenant(node).0.load(Ordering::Acquire) == 0
    }

    /// The caller holds the lock, or is alone.
    fn set(&self, node: u32, links: &[u32]) {
        let (len, memories) = self.entries_of_tenant(node);
        for (memory_entry, link) in memories.iter().zip(links) {
            memory_entry.store(*link, Ordering::Relaxed);
        }
        len.store(links.len().min(self.width) as u32, Ordering::Release);
    }
}

impl Links for Growing {
    fn append_links(&self, node: u32, to: &mut Vec<u32>) {
        let (len, memories) = self.entries_of_tenant(node);
        let len = len.load(Ordering::Acquire) as usize;
        to.extend(memories[..len].iter().map(|memory_entry| memory_entry.load(Ordering::Relaxed)));
    }
}

struct Builder<'a> {
    quantizer: &'a ScalarQuantizer,
    coarse: &'a [u8],
    fine: &'a [u8],
    upper_levels: &'a UpperLevels,
    rows: Growing,
    params: BuildParams,
    stop: &'a AtomicBool,
}

/// Buffers that a thread keeps from entry to entry.
#[derive(Default)]
struct ThreadScratch {
    walk: Scratch,
    vector: Vec<f32>,
    query: QuantizedQuery,
    /// Of neighbours already chosen.
    chosen: Vec<QuantizedQuery>,
    candidates: Vec<(f32, u32)>,
    row: Vec<u32>,
    products: Vec<i32>,
}

thread_local! {
    static SCRATCH: RefCell<ThreadScratch> = RefCell::default();
}

impl Builder<'_> {
    fn codes(&self) -> Codes<'_> {
        Codes { dot: CodeDot::detect(), rows: self.coarse }
    }

    /// Copies what `base` knows; returns which entries need no linking. An entry that lost a link is linked again.
    fn take_over(&self, base: Option<&GraphIndex>, chunks: &[ChunkId], firsts: &[u32]) -> Vec<bool> {
        let n = self.coarse.len() / self.quantizer.dim();
        let mut known = vec![false; n];
        let Some(base) = base else { return known };
        let places: HashMap<ChunkId, usize> = chunks.iter().enumerate().map(|(at, chunk)| (*chunk, at)).collect();
        let end = |firsts: &[u32], at: usize, n: usize| firsts.get(at + 1).map_or(n as u32, |first| *first);
        let (old_chunks, old_firsts): (Vec<ChunkId>, Vec<u32>) = base.chunks().unzip();
        // Where each old entry is now.
        let mut moved = vec![u32::MAX; base.len()];
        for (at, (chunk, first)) in old_chunks.iter().zip(&old_firsts).enumerate() {
            let Some(place) = places.get(chunk) else { continue };
            let count = end(&old_firsts, at, base.len()) - first;
            if count == end(firsts, *place, n) - firsts[*place] {
                for entry in 0..count {
                    moved[(first + entry) as usize] = firsts[*place] + entry;
                }
            }
        }
        let mut row = Vec::new();
        for (old, new) in moved.iter().enumerate().filter(|(_, new)| **new != u32::MAX) {
            row.clear();
            base.append_links(old as u32, &mut row);
            let before = row.len();
            row.retain_mut(|link| {
                *link = moved[*link as usize];
                *link != u32::MAX
            });
            known[*new as usize] = row.len() == before && before > 0;
            self.rows.set(*new, &row);
        }
        known
    }

    /// Links `entry` and its neighbours.
    fn insert(&self, entry: u32) {
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        SCRATCH.with(|scratch| {
            // Nothing in here comes back to the scratch of this thread.
            let scratch = &mut *scratch.borrow_mut();
            self.prepare(entry, &mut scratch.vector, &mut scratch.query);
            let start = self.descend(&scratch.query.values);
            let ef = self.params.ef_construction;
            beam::search(&scratch.query.values, &[start], ef, self.codes(), &self.rows, None, &mut scratch.walk);
            scratch.candidates.clear();
            let others = scratch.walk.candidates.iter().filter(|candidate| candidate.entry() != entry);
            scratch.candidates.extend(others.map(|other| (scratch.query.rough(other.product), other.entry())));
            let links = self.choose(&scratch.candidates, self.params.m, &mut scratch.vector, &mut scratch.chosen);
            for link in &links {
                self.add(entry, *link, scratch);
                self.add(*link, entry, scratch);
            }
        });
    }

    fn prepare(&self, entry: u32, vector: &mut Vec<f32>, query: &mut QuantizedQuery) {
        let dim = self.quantizer.dim();
        let row = entry as usize * dim..(entry as usize + 1) * dim;
        self.quantizer.decode(&self.coarse[row.clone()], &self.fine[row], vector);
        self.quantizer.prepare(vector, query);
    }

    /// Greedily down the upper levels.
    fn descend(&self, query: &[i16]) -> u32 {
        let codes = self.codes();
        let mut best = (codes.product(query, self.upper_levels.entry_point), self.upper_levels.entry_point);
        for level in self.upper_levels.levels.iter().rev() {
            while let Ok(at) = level.binary_search_by_key(&best.1, |(node, _)| *node) {
                let before = best;
                for link in &level[at].1 {
                    let product = codes.product(query, *link);
                    if product > best.0 {
                        best = (product, *link);
                    }
                }
                if best == before {
                    break;
                }
            }
        }
        best.1
    }

    /// At most `most` of `candidates` (best first), leaving out those that are closer to one already chosen than to the
    /// entry itself (algorithm 4).
    fn choose(
        &self,
        candidates: &[(f32, u32)],
        most: usize,
        vector: &mut Vec<f32>,
        queries: &mut Vec<QuantizedQuery>,
    ) -> Vec<u32> {
        let codes = self.codes();
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        for &(score, candidate) in candidates {
            if chosen.len() == most {
                break;
            }
            let hidden = queries[..chosen.len()]
                .iter()
                .any(|query| query.rough(codes.product(&query.values, candidate)) > score);
            if !hidden {
                if queries.len() == chosen.len() {
                    queries.push(QuantizedQuery::default());
                }
                self.prepare(candidate, vector, &mut queries[chosen.len()]);
                chosen.push(candidate);
            }
        }
        chosen
    }

    /// Links `from` to `to`; when the row of `from` is full, it keeps the best choice.
    fn add(&self, from: u32, to: u32, scratch: &mut ThreadScratch) {
        let _turn = lock(self.rows.lock_of(from));
        scratch.row.clear();
        self.rows.append_links(from, &mut scratch.row);
        if scratch.row.contains(&to) {
            return;
        }
        scratch.row.push(to);
        if scratch.row.len() <= self.rows.width {
            self.rows.set(from, &scratch.row);
            return;
        }
        let kept = self.thin(from, scratch);
        self.rows.set(from, &kept);
    }

    /// The best choice of `scratch.row`, links of `entry`.
    fn thin(&self, entry: u32, scratch: &mut ThreadScratch) -> Vec<u32> {
        self.prepare(entry, &mut scratch.vector, &mut scratch.query);
        scratch.products.clear();
        self.codes().dot.rows(&scratch.query.values, self.coarse, &scratch.row, &mut scratch.products);
        scratch.candidates.clear();
        let scores = scratch.products.iter().map(|product| scratch.query.rough(*product));
        scratch.candidates.extend(scores.zip(scratch.row.iter().copied()));
        scratch.candidates.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        self.choose(&scratch.candidates, 2 * self.params.m, &mut scratch.vector, &mut scratch.chosen)
    }

    /// Brings every row down to its width.
    fn finish(&self) -> Rows {
        let width = 2 * self.params.m;
        let n = self.coarse.len() / self.quantizer.dim();
        let mut links = vec![0; n * width];
        let mut len = vec![0; n];
        links.par_chunks_exact_mut(width).zip(&mut len).enumerate().for_each(|(node, (row, len))| {
            SCRATCH.with(|scratch| {
                let scratch = &mut *scratch.borrow_mut();
                scratch.row.clear();
                self.rows.append_links(node as u32, &mut scratch.row);
                let kept =
                    if scratch.row.len() > width { self.thin(node as u32, scratch) } else { scratch.row.clone() };
                row[..kept.len()].copy_from_slice(&kept);
                *len = kept.len() as u32;
            });
        });
        Rows { links, width, len }
    }
}
