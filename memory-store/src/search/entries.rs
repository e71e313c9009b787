//! Keys by inner product over one state of a memory: flat scans of what is not sealed, walks over graphs.

use std::collections::BTreeMap;
use std::ops::Range;

use mnemon_memory::{ChunkId, Hit, Invalid, KvGeometry, SearchRequest, best_first};
use rayon::prelude::*;

use crate::engine::Engine;
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, LiveSegment, MemoryState};
use crate::error::{Error, Result};
use crate::format::geometry::{KeySource, StoredGeometry as _};
use crate::index::vectors::{Scored, SearchParams, VectorIndex};

/// Most entries asked for at once: the size of a segment.
const MAX_TOP_K: usize = 65_536;
/// Unsealed entries that one task scans.
const TAIL_TASK_ENTRIES: u32 = 8192;
/// Sealed entries that one task scans.
const SCAN_TASK_ENTRIES: u32 = 1 << 16;
/// Hits, over all parts, that a block of queries may have in memory at once: 24 bytes each.
const BLOCK_HITS: usize = 1 << 20;

/// What one task of a search looks through.
enum Part<'a> {
    /// Its graph.
    Graph(&'a LiveSegment),
    /// A range of its entries, one by one.
    Scan(&'a LiveSegment, Range<u32>),
    Tail(Vec<&'a LiveExtent>),
}

/// Queries that search one key head.
struct KeyQueries {
    /// Its index.
    key_head: usize,
    /// Where its keys are, and its place among the key heads there.
    source: KeySource,
    place: usize,
    /// Query heads that search it.
    members: Vec<usize>,
    /// `[n_queries, members, head_dim]`.
    queries: Vec<f32>,
}

/// Queries of one key head that a task looks for in a part.
struct Task<'a> {
    of: &'a KeyQueries,
    part: &'a Part<'a>,
    /// Of the queries of this key head.
    first: usize,
    queries: &'a [f32],
}

/// Searches the entries of one state of a memory.
pub(crate) struct EntrySearch<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) memory: &'a MemoryEntry,
    pub(crate) state: &'a MemoryState,
}

impl EntrySearch<'_> {
    fn geometry(&self) -> &KvGeometry {
        &self.memory.spec.geometry
    }

    /// See [`Recall::search`](mnemon_memory::Recall::search).
    pub(crate) fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        self.check_request(request)?;
        let row = request.key_heads.len() * self.geometry().head_dim as usize;
        let few = self.state.totals.entries <= self.engine.options.scan_entries;
        let parts = self.parts(request.exact || request.ef.is_none() && few);
        let hits_of_query = request.key_heads.len() * request.top_k * parts.len().max(1);
        let block = (BLOCK_HITS / hits_of_query).max(1);
        let mut answers = Vec::with_capacity(request.queries.len() / row * request.key_heads.len());
        for queries in request.queries.chunks(block * row) {
            answers.append(&mut self.search_block(&SearchRequest { queries, ..*request }, &parts)?);
        }
        Ok(answers)
    }

    fn check_request(&self, request: &SearchRequest<'_>) -> Result<()> {
        let geometry = self.geometry();
        let invalid = |why: String| Err(Error::Invalid(Invalid { what: "search", why }));
        let known = geometry.key_heads.len();
        if request.key_heads.is_empty() {
            return invalid("no query head; at least one is needed".into());
        }
        if let Some(unknown) = request.key_heads.iter().find(|key_head| **key_head >= known) {
            return invalid(format!("key head {unknown}; the memory has {known}"));
        }
        let row = request.key_heads.len() * geometry.head_dim as usize;
        if !request.queries.len().is_multiple_of(row) {
            return invalid(format!("{} query values; a multiple of {row} is accepted", request.queries.len()));
        }
        if request.top_k == 0 || request.top_k > MAX_TOP_K {
            return invalid(format!("{} entries wanted; 1 to {MAX_TOP_K} are accepted", request.top_k));
        }
        if !request.queries.iter().all(|value| value.is_finite()) {
            return invalid("a query is not finite".into());
        }
        Ok(())
    }

    /// Queries of each key head that is searched.
    fn queries_by_key(&self, request: &SearchRequest<'_>) -> Vec<KeyQueries> {
        let (geometry, dim) = (self.geometry(), self.geometry().head_dim as usize);
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (head, key_head) in request.key_heads.iter().enumerate() {
            members.entry(*key_head).or_default().push(head);
        }
        let of_key = |(key_head, members): (usize, Vec<usize>)| {
            let source = geometry.source_of(key_head);
            let place = key_head - geometry.key_heads_at(source).start;
            let mut queries = Vec::with_capacity(request.queries.len() / request.key_heads.len() * members.len());
            for row in request.queries.chunks_exact(request.key_heads.len() * dim) {
                for head in &members {
                    queries.extend_from_slice(&row[head * dim..(head + 1) * dim]);
                }
            }
            KeyQueries { key_head, source, place, members, queries }
        };
        members.into_iter().map(of_key).collect()
    }

    fn parts(&self, exact: bool) -> Vec<Part<'_>> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for segment in &self.state.segments {
            if exact || segment.is_sparse() {
                let starts = (0..segment.segment.entries).step_by(SCAN_TASK_ENTRIES as usize);
                parts.extend(starts.map(|start| Part::Scan(segment, start..start.saturating_add(SCAN_TASK_ENTRIES))));
            } else {
                parts.push(Part::Graph(segment));
            }
        }
        let (mut group, mut entries) = (Vec::new(), 0);
        for extent in self.state.tail() {
            group.push(extent);
            entries += extent.entries;
            if entries >= TAIL_TASK_ENTRIES {
                parts.push(Part::Tail(std::mem::take(&mut group)));
                entries = 0;
            }
        }
        if !group.is_empty() {
            parts.push(Part::Tail(group));
        }
        parts
    }

    /// Searches few enough queries that the hits of all parts fit in memory.
    fn search_block(&self, request: &SearchRequest<'_>, parts: &[Part<'_>]) -> Result<Vec<Vec<Hit>>> {
        let (heads, dim) = (request.key_heads.len(), self.geometry().head_dim as usize);
        let n_queries = request.queries.len() / (heads * dim);
        let by_key = self.queries_by_key(request);
        let mut tasks = Vec::new();
        for of in &by_key {
            for part in parts {
                // Scanning serves all queries with one pass over the keys; walks are better shared out.
                let block = match part {
                    Part::Graph(_) => (n_queries * of.members.len()).div_ceil(2 * rayon::current_num_threads()) * dim,
                    Part::Scan(..) | Part::Tail(_) => of.queries.len(),
                };
                let blocks = of.queries.chunks(block.max(1)).enumerate();
                tasks.extend(blocks.map(|(at, queries)| Task { of, part, first: at * block / dim, queries }));
            }
        }
        let run = |task: &Task<'_>| self.search_part(request, task);
        let found: Vec<_> = if tasks.len() > 1 {
            tasks.par_iter().map(run).collect::<Result<_>>()?
        } else {
            tasks.iter().map(run).collect::<Result<_>>()?
        };
        let mut answers = vec![Vec::new(); n_queries * heads];
        for (task, lists) in tasks.iter().zip(found) {
            let members = &task.of.members;
            for (at, hits) in (task.first..).zip(lists) {
                answers[at / members.len() * heads + members[at % members.len()]].extend(hits);
            }
        }
        for hits in &mut answers {
            keep_best(hits, request.top_k);
            hits.sort_unstable_by(best_first);
        }
        Ok(answers)
    }

    fn search_part(&self, request: &SearchRequest<'_>, task: &Task<'_>) -> Result<Vec<Vec<Hit>>> {
        let ef = request.ef.unwrap_or(self.engine.options.ef_search).max(request.top_k);
        let params = SearchParams { top_k: request.top_k, ef, live: None };
        match task.part {
            Part::Graph(segment) => self.search_segment(task, segment, None, params),
            Part::Scan(segment, range) => self.search_segment(task, segment, Some(range.clone()), params),
            Part::Tail(extents) => {
                let mut hits = vec![Vec::new(); task.queries.len() / self.geometry().head_dim as usize];
                for extent in extents {
                    self.search_extent(task, extent, params, &mut hits)?;
                }
                for hits in &mut hits {
                    keep_best(hits, request.top_k);
                }
                Ok(hits)
            }
        }
    }

    /// Walks the graph of a segment, or scans a range of its entries.
    fn search_segment(
        &self,
        task: &Task<'_>,
        segment: &LiveSegment,
        scanned: Option<Range<u32>>,
        params: SearchParams<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        let graph = self.engine.graph(self.memory, &segment.segment, task.of.key_head)?;
        // Only deletion, and views of some turns, need the look-up for each result.
        let shows = |(extent, index): (&LiveExtent, usize)| extent.shows(index);
        let live = |entry: u32| self.state.find(graph.chunk_of(entry).0).is_some_and(shows);
        let params = SearchParams { live: if segment.all_live() { None } else { Some(&live) }, ..params };
        let found = match scanned {
            Some(range) => graph.search_exact(range, task.queries, &params),
            None => graph.search(task.queries, &params),
        };
        let hit = |found: Scored| {
            let entry = graph.entry(found.entry);
            Hit { score: found.score, chunk: graph.chunk_of(found.entry), start: entry.start, len: entry.len }
        };
        Ok(found.into_iter().map(|found| found.into_iter().map(hit).collect()).collect())
    }

    fn search_extent(
        &self,
        task: &Task<'_>,
        live_extent: &LiveExtent,
        params: SearchParams<'_>,
        hits: &mut [Vec<Hit>],
    ) -> Result<()> {
        let extent = &live_extent.extent;
        let entries = self.engine.tail_entries(self.geometry(), task.of.source, extent, true)?;
        let flat = &entries.heads[task.of.place];
        let live = |entry: u32| live_extent.shows(flat.entry(entry).chunk as usize);
        let whole = live_extent.live == extent.chunks() && live_extent.hidden.is_none();
        let params = SearchParams { live: if whole { None } else { Some(&live) }, ..params };
        for (hits, found) in hits.iter_mut().zip(flat.search(task.queries, &params)) {
            hits.extend(found.into_iter().map(|found| {
                let entry = flat.entry(found.entry);
                let chunk = ChunkId(extent.first_chunk + entry.chunk as u64);
                Hit { score: found.score, chunk, start: entry.start, len: entry.len }
            }));
        }
        Ok(())
    }
}

fn keep_best(hits: &mut Vec<Hit>, top_k: usize) {
    if hits.len() > top_k {
        hits.select_nth_unstable_by(top_k, best_first);
        hits.truncate(top_k);
    }
}
