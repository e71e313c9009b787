//! An immutable view of one memory: search and fetch.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::core::{Cell, Core};
use crate::index::{Scored, SearchParams, VectorIndex};
use crate::state::{LiveExtent, LiveSegment, MemoryState};
use crate::union::best_first;
use crate::{ChunkId, ChunkInfo, ChunkKv, Error, Hit, KvGeometry, Recall, Result, SearchRequest};

/// Most entries asked for at once: the size of a segment.
const MAX_TOP_K: usize = 65_536;
/// Unsealed entries that one task scans.
const TAIL_TASK_ENTRIES: u32 = 8192;
/// Sealed entries that one task scans.
const SCAN_TASK_ENTRIES: u32 = 1 << 16;
/// Hits, over all parts, that a block of queries may have in memory at once: 24 bytes each.
const BLOCK_HITS: usize = 1 << 20;

/// An immutable view of one memory. Clones share it. While it is held, the blobs that it shows stay.
#[derive(Clone)]
pub struct Snapshot {
    core: Arc<Core>,
    cell: Arc<Cell>,
    state: Arc<MemoryState>,
}

/// What one task of a search looks through.
enum Part<'a> {
    /// Its graph.
    Graph(&'a LiveSegment),
    /// A range of its entries, one by one.
    Scan(&'a LiveSegment, Range<u32>),
    Tail(Vec<&'a LiveExtent>),
}

/// Queries of one head that a task looks for in a part.
struct Task<'a> {
    head: usize,
    part: &'a Part<'a>,
    /// Of the queries of this head.
    first: usize,
    queries: &'a [f32],
}

impl Snapshot {
    pub(crate) fn new(core: Arc<Core>, cell: Arc<Cell>, state: Arc<MemoryState>) -> Self {
        Self { core, cell, state }
    }

    /// Sequence number of the last change that it shows.
    pub fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// Name of the memory.
    pub fn memory_name(&self) -> &str {
        &self.cell.name
    }

    fn find(&self, chunk: ChunkId) -> Result<(&LiveExtent, usize)> {
        self.state.find(chunk.0).ok_or(Error::UnknownChunk { chunk: chunk.0 })
    }

    fn check_request(&self, request: &SearchRequest<'_>) -> Result<()> {
        let geometry = self.geometry();
        let invalid = |why: String| Err(Error::Invalid { what: "search", why });
        if request.slot >= geometry.layers.len() {
            return invalid(format!("slot {}; the memory has {}", request.slot, geometry.layers.len()));
        }
        if request.n_heads == 0 || !request.n_heads.is_multiple_of(geometry.kv_heads as usize) {
            return invalid(format!(
                "{} query heads; a multiple of {} is accepted",
                request.n_heads, geometry.kv_heads
            ));
        }
        let row = request.n_heads * geometry.head_dim as usize;
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

    /// Queries of each key/value head, `[n_queries, group, head_dim]`.
    fn queries_by_head(&self, request: &SearchRequest<'_>) -> Vec<Vec<f32>> {
        let (heads, dim) = (self.geometry().kv_heads as usize, self.geometry().head_dim as usize);
        let group = request.n_heads / heads * dim;
        let mut by_head = vec![Vec::with_capacity(request.queries.len() / heads); heads];
        for row in request.queries.chunks_exact(request.n_heads * dim) {
            for (head, part) in by_head.iter_mut().zip(row.chunks_exact(group)) {
                head.extend_from_slice(part);
            }
        }
        by_head
    }

    fn parts(&self, exact: bool) -> Vec<Part<'_>> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for segment in &self.state.segments {
            if exact {
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
        let (heads, dim) = (self.geometry().kv_heads as usize, self.geometry().head_dim as usize);
        let group = request.n_heads / heads;
        let n_queries = request.queries.len() / (request.n_heads * dim);
        let by_head = self.queries_by_head(request);
        let mut tasks = Vec::new();
        for (head, queries) in by_head.iter().enumerate() {
            for part in parts {
                // Scanning serves all queries with one pass over the keys; walks are better shared out.
                let block = match part {
                    Part::Graph(_) => (n_queries * group).div_ceil(2 * rayon::current_num_threads()) * dim,
                    Part::Scan(..) | Part::Tail(_) => queries.len(),
                };
                let blocks = queries.chunks(block.max(1)).enumerate();
                tasks.extend(blocks.map(|(at, queries)| Task { head, part, first: at * block / dim, queries }));
            }
        }
        let run = |task: &Task<'_>| self.search_part(request, task);
        let found: Vec<_> = if tasks.len() > 1 {
            tasks.par_iter().map(run).collect::<Result<_>>()?
        } else {
            tasks.iter().map(run).collect::<Result<_>>()?
        };
        let mut answers = vec![Vec::new(); n_queries * request.n_heads];
        for (task, lists) in tasks.iter().zip(found) {
            for (at, hits) in (task.first..).zip(lists) {
                answers[at / group * request.n_heads + task.head * group + at % group].extend(hits);
            }
        }
        for hits in &mut answers {
            keep_best(hits, request.top_k);
            hits.sort_unstable_by(best_first);
        }
        Ok(answers)
    }

    fn search_part(&self, request: &SearchRequest<'_>, task: &Task<'_>) -> Result<Vec<Vec<Hit>>> {
        let ef = request.ef.unwrap_or(self.core.options.ef_search).max(request.top_k);
        let params = SearchParams { top_k: request.top_k, ef, live: None };
        match task.part {
            Part::Graph(segment) => self.search_segment(request.slot, task, segment, None, params),
            Part::Scan(segment, range) => self.search_segment(request.slot, task, segment, Some(range.clone()), params),
            Part::Tail(extents) => {
                let mut hits = vec![Vec::new(); task.queries.len() / self.geometry().head_dim as usize];
                for extent in extents {
                    self.search_extent(request.slot, task.head, task.queries, extent, params, &mut hits)?;
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
        slot: usize,
        task: &Task<'_>,
        segment: &LiveSegment,
        scanned: Option<Range<u32>>,
        params: SearchParams<'_>,
    ) -> Result<Vec<Vec<Hit>>> {
        let graph = self.core.graph(&self.cell, &segment.segment, slot, task.head)?;
        // Only deletion needs the look-up for each result.
        let live = |entry: u32| self.state.find(graph.chunk_of(entry).0).is_some();
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
        slot: usize,
        head: usize,
        queries: &[f32],
        LiveExtent { extent, live: live_chunks, .. }: &LiveExtent,
        params: SearchParams<'_>,
        hits: &mut [Vec<Hit>],
    ) -> Result<()> {
        let entries = self.core.tail_entries(self.geometry(), slot, extent, true)?;
        let flat = &entries.heads[head];
        let live = |entry: u32| flat.entry(entry).chunk < *live_chunks;
        let whole = *live_chunks == extent.chunks();
        let params = SearchParams { live: if whole { None } else { Some(&live) }, ..params };
        for (hits, found) in hits.iter_mut().zip(flat.search(queries, &params)) {
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

impl Recall for Snapshot {
    fn geometry(&self) -> &KvGeometry {
        &self.cell.spec.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        self.check_request(request)?;
        let row = request.n_heads * self.geometry().head_dim as usize;
        let few = self.state.totals.entries <= self.core.options.scan_entries;
        let parts = self.parts(request.exact || request.ef.is_none() && few);
        let hits_of_query = request.n_heads * request.top_k * parts.len().max(1);
        let block = (BLOCK_HITS / hits_of_query).max(1);
        let mut answers = Vec::with_capacity(request.queries.len() / row * request.n_heads);
        for queries in request.queries.chunks(block * row) {
            answers.append(&mut self.search_block(&SearchRequest { queries, ..*request }, &parts)?);
        }
        Ok(answers)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        if slot >= self.geometry().layers.len() {
            let why = format!("slot {slot}; the memory has {}", self.geometry().layers.len());
            return Err(Error::Invalid { what: "fetch", why });
        }
        let fetch = |chunk: &ChunkId| {
            // Also keeps what is cached from being seen by snapshots that must not.
            let (extent, index) = self.find(*chunk)?;
            if let Some(kv) = self.core.chunk_cache.get(&(*chunk, slot)) {
                return Ok(kv);
            }
            let kv = Arc::new(extent.extent.read_kv(self.geometry(), slot, index)?);
            let bytes = crate::index::data_bytes(&kv.keys) + crate::index::data_bytes(&kv.values) + 160;
            self.core.chunk_cache.insert((*chunk, slot), Arc::clone(&kv), bytes);
            Ok(kv)
        };
        chunks.iter().map(fetch).collect()
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        let describe = |chunk: &ChunkId| {
            let (extent, index) = self.find(*chunk)?;
            extent.extent.read_info(self.geometry(), &self.cell.name, index)
        };
        chunks.iter().map(describe).collect()
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        let mut extents: Vec<_> = self.state.extents.iter().collect();
        extents.sort_by_key(|extent| (extent.extent.document, extent.extent.first_ordinal));
        let ids = |extent: &&LiveExtent| {
            let first = extent.extent.first_chunk;
            (first..first + extent.live as u64).map(ChunkId)
        };
        Ok(extents.iter().flat_map(ids).take(limit).collect())
    }

    fn len(&self) -> u64 {
        self.state.totals.chunks
    }
}
