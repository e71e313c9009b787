//! An immutable view of one memory: search and fetch.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::blob::ChunkHeader;
use crate::core::{Cell, Core};
use crate::extent::Extent;
use crate::geometry::KeySource;
use crate::index::{Scored, SearchParams, VectorIndex};
use crate::records::{DocumentRecord, document_key};
use crate::state::{LiveExtent, LiveSegment, MemoryState};
use crate::union::best_first;
use crate::{
    ChunkId, ChunkInfo, ChunkKv, EmbeddingHits, EmbeddingRequest, Error, Hit, KvGeometry, MAX_NEIGHBOURS, Recall,
    Result, SearchRequest, TermHits, TermRequest, WordHits, WordRequest, embeddings, terms, words,
};

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
    pub(crate) core: Arc<Core>,
    pub(crate) cell: Arc<Cell>,
    pub(crate) state: Arc<MemoryState>,
}

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

    /// Of the document that an extent belongs to.
    pub(crate) fn metadata(&self, extent: &Extent) -> Result<BTreeMap<String, String>> {
        let (id, storage) = (&extent.document_id, self.core.storage.as_ref());
        if let Some(record) = storage.get(&document_key(self.cell.number, id))? {
            let record = DocumentRecord::decode(&record, &format!("the record of document {id}"))?;
            if record.number == extent.document {
                return Ok(record.metadata);
            }
        }
        // Deleted since: its blobs stay as long as this is held.
        ChunkHeader::read(storage, &extent.file.name, extent.file.bytes).map(|header| header.metadata)
    }

    fn check_request(&self, request: &SearchRequest<'_>) -> Result<()> {
        let geometry = self.geometry();
        let invalid = |why: String| Err(Error::Invalid { what: "search", why });
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
        let ef = request.ef.unwrap_or(self.core.options.ef_search).max(request.top_k);
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
        let graph = self.core.graph(&self.cell, &segment.segment, task.of.key_head)?;
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
        let entries = self.core.tail_entries(self.geometry(), task.of.source, extent, true)?;
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

/// The chunks of a document (`extents`, in order) from `before` before to `after` after the one at `ordinal`, as far as they
/// follow each other without a gap.
fn run_around(extents: &[&LiveExtent], ordinal: u64, before: usize, after: usize) -> Vec<ChunkId> {
    let (first, last) = (ordinal.saturating_sub(before as u64), ordinal.saturating_add(after as u64));
    let from = extents.partition_point(|extent| extent.extent.first_ordinal + u64::from(extent.live) <= first);
    let mut run: Vec<(u64, ChunkId)> = Vec::new();
    for LiveExtent { extent, live, .. } in &extents[from..] {
        let end = (extent.first_ordinal + u64::from(*live)).min(last.saturating_add(1));
        for at in extent.first_ordinal.max(first)..end {
            if run.last().is_some_and(|(previous, _)| previous + 1 != at) {
                if at > ordinal {
                    break;
                }
                run.clear();
            }
            run.push((at, ChunkId(extent.first_chunk + (at - extent.first_ordinal))));
        }
        if end > last {
            break;
        }
    }
    run.into_iter().map(|(_, chunk)| chunk).collect()
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
        let row = request.key_heads.len() * self.geometry().head_dim as usize;
        let few = self.state.totals.entries <= self.core.options.scan_entries;
        let parts = self.parts(request.exact || request.ef.is_none() && few);
        let hits_of_query = request.key_heads.len() * request.top_k * parts.len().max(1);
        let block = (BLOCK_HITS / hits_of_query).max(1);
        let mut answers = Vec::with_capacity(request.queries.len() / row * request.key_heads.len());
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

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        if before.max(after) > MAX_NEIGHBOURS {
            let why = format!("{before} before and {after} after; at most {MAX_NEIGHBOURS} are accepted");
            return Err(Error::Invalid { what: "neighbours", why });
        }
        let mut documents: HashMap<u64, Vec<&LiveExtent>> = HashMap::new();
        for chunk in chunks {
            documents.entry(self.find(*chunk)?.0.extent.document).or_default();
        }
        for extent in &self.state.extents {
            if let Some(extents) = documents.get_mut(&extent.extent.document) {
                extents.push(extent);
            }
        }
        for extents in documents.values_mut() {
            extents.sort_by_key(|extent| extent.extent.first_ordinal);
        }
        let around = |chunk: &ChunkId| {
            let (extent, index) = self.find(*chunk)?;
            let extents = documents.get(&extent.extent.document).map_or(&[][..], Vec::as_slice);
            Ok(run_around(extents, extent.extent.first_ordinal + index as u64, before, after))
        };
        chunks.iter().map(around).collect()
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        terms::search(&self.core, self.geometry(), &self.state, request)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits> {
        words::search(&self.core, self.geometry(), &self.state, request)
    }

    fn search_embeddings(&self, request: &EmbeddingRequest<'_>) -> Result<EmbeddingHits> {
        embeddings::search(&self.core, &self.state, request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        let mut metadata: HashMap<u64, Arc<BTreeMap<String, String>>> = HashMap::new();
        let mut describe = |chunk: &ChunkId| {
            let (extent, index) = self.find(*chunk)?;
            let metadata = match metadata.entry(extent.extent.document) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(Arc::new(self.metadata(&extent.extent)?)),
            };
            extent.extent.read_info(self.geometry(), &self.cell.name, index, metadata)
        };
        chunks.iter().map(&mut describe).collect()
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        let mut extents: Vec<_> = self.state.extents.iter().collect();
        extents.sort_by_key(|extent| (extent.extent.document, extent.extent.first_ordinal));
        let ids = extents
            .iter()
            .flat_map(|extent| extent.shown().map(|index| ChunkId(extent.extent.first_chunk + index as u64)));
        Ok(ids.take(limit).collect())
    }

    fn len(&self) -> u64 {
        self.state.totals.chunks
    }
}
