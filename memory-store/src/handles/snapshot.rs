//! An immutable view of one memory: search and fetch.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, EmbeddingHits, EmbeddingRequest, Hit, Invalid, KvGeometry, MAX_NEIGHBOURS, Recall,
    SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};

use crate::engine::Engine;
use crate::engine::extent::{Extent, read_chunk_header};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::error::{Error, Result};
use crate::format::records::{DocumentRecord, document_key};
use crate::index::vectors::data_bytes;
use crate::search::entries::EntrySearch;
use crate::search::{embeddings, terms, words};

/// An immutable view of one memory. Clones share it. While it is held, the blobs that it shows stay.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) engine: Arc<Engine>,
    pub(crate) memory_entry: Arc<MemoryEntry>,
    pub(crate) state: Arc<MemoryState>,
}

impl Snapshot {
    pub(crate) fn new(engine: Arc<Engine>, memory_entry: Arc<MemoryEntry>, state: Arc<MemoryState>) -> Self {
        Self { engine, memory_entry, state }
    }

    /// Sequence number of the last change that it shows.
    pub fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// Name of the memory.
    pub fn memory_name(&self) -> &str {
        &self.memory_entry.name
    }

    fn find(&self, chunk: ChunkId) -> Result<(&LiveExtent, usize)> {
        self.state.find(chunk.0).ok_or(Error::UnknownChunk { chunk: chunk.0 })
    }

    /// Of the document that an extent belongs to.
    pub(crate) fn metadata(&self, extent: &Extent) -> Result<BTreeMap<String, String>> {
        let (id, storage) = (&extent.document_id, self.engine.storage.as_ref());
        if let Some(record) = storage.get(&document_key(self.memory_entry.number, id))? {
            let record = DocumentRecord::decode(&record, &format!("the record of document {id}"))?;
            if record.number == extent.document {
                return Ok(record.metadata);
            }
        }
        // Deleted since: its blobs stay as long as this is held.
        read_chunk_header(storage, &extent.file.name, extent.file.bytes).map(|header| header.metadata)
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

impl Recall for Snapshot {
    fn geometry(&self) -> &KvGeometry {
        &self.memory_entry.spec.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory::Result<Vec<Vec<Hit>>> {
        let (engine, memory, state) = (self.engine.as_ref(), self.memory_entry.as_ref(), self.state.as_ref());
        Ok(EntrySearch { engine, memory, state }.search(request)?)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<Arc<ChunkKv>>> {
        if slot >= self.geometry().layers.len() {
            let why = format!("slot {slot}; the memory has {}", self.geometry().layers.len());
            return Err(Invalid { what: "fetch", why }.into());
        }
        let fetch = |chunk: &ChunkId| {
            // Also keeps what is cached from being seen by snapshots that must not.
            let (extent, index) = self.find(*chunk)?;
            if let Some(kv) = self.engine.chunk_cache.get(&(*chunk, slot)) {
                return Ok(kv);
            }
            let kv = Arc::new(extent.extent.read_kv(self.geometry(), slot, index)?);
            let bytes = data_bytes(&kv.keys) + data_bytes(&kv.values) + 160;
            self.engine.chunk_cache.insert((*chunk, slot), Arc::clone(&kv), bytes);
            Ok(kv)
        };
        chunks.iter().map(fetch).collect()
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> mnemon_memory::Result<Vec<Vec<ChunkId>>> {
        if before.max(after) > MAX_NEIGHBOURS {
            let why = format!("{before} before and {after} after; at most {MAX_NEIGHBOURS} are accepted");
            return Err(Invalid { what: "neighbours", why }.into());
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

    fn search_terms(&self, request: &TermRequest<'_>) -> mnemon_memory::Result<TermHits> {
        Ok(terms::search(&self.engine, self.geometry(), &self.state, request)?)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> mnemon_memory::Result<WordHits> {
        Ok(words::search(&self.engine, self.geometry(), &self.state, request)?)
    }

    fn search_embeddings(&self, request: &EmbeddingRequest<'_>) -> mnemon_memory::Result<EmbeddingHits> {
        Ok(embeddings::search(&self.engine, &self.state, request)?)
    }

    fn describe(&self, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<ChunkInfo>> {
        let mut metadata: HashMap<u64, Arc<BTreeMap<String, String>>> = HashMap::new();
        let mut describe = |chunk: &ChunkId| -> Result<ChunkInfo> {
            let (extent, index) = self.find(*chunk)?;
            let metadata = match metadata.entry(extent.extent.document) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(Arc::new(self.metadata(&extent.extent)?)),
            };
            extent.extent.read_info(self.geometry(), &self.memory_entry.name, index, metadata)
        };
        Ok(chunks.iter().map(&mut describe).collect::<Result<_>>()?)
    }

    fn chunks(&self, limit: usize) -> mnemon_memory::Result<Vec<ChunkId>> {
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
