//! One memory: its documents, its snapshots.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::compact::with_merged;
use crate::core::{Cell, Core};
use crate::extent::BlobFile;
use crate::names::{check_document_id, check_metadata};
use crate::records::{
    DocumentRecord, GraphRecord, SegmentRecord, document_key, encode_sequence, extent_key, memory_key, segment_key,
};
use crate::state::{LiveExtent, LiveSegment, MemoryState, Segment};
use crate::storage::Batch;
use crate::store::Shared;
use crate::sync::{lock, write};
use crate::{
    ChunkInfo, DocumentInfo, Error, Fingerprint, KvGeometry, MemoryInfo, MemorySpec, Result, Snapshot, Writer,
};

/// A memory of a [`Store`](crate::Store). Clones share everything.
#[derive(Clone)]
pub struct Memory {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cell: Arc<Cell>,
}

pub(crate) fn info(cell: &Cell) -> MemoryInfo {
    let state = cell.state();
    let totals = state.totals;
    MemoryInfo {
        name: cell.name.clone(),
        model_name: cell.spec.model_name.clone(),
        description: cell.spec.description.clone(),
        fingerprint: cell.spec.fingerprint,
        geometry: cell.spec.geometry.clone(),
        created_unix_ms: cell.created_unix_ms,
        documents: state.documents,
        chunks: totals.chunks,
        tokens: totals.tokens,
        text_bytes: totals.text_bytes,
        stored_bytes: totals.stored_bytes,
        index_bytes: totals.index_bytes,
        entries: totals.entries,
        unsealed_entries: totals.tail_entries,
        sequence: state.sequence,
        damaged: cell.damaged.clone(),
    }
}

impl Memory {
    pub(crate) fn new(shared: Arc<Shared>, cell: Arc<Cell>) -> Self {
        Self { shared, cell }
    }

    fn core(&self) -> &Core {
        &self.shared.core
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.cell.name
    }

    /// What it is made for.
    pub fn spec(&self) -> &MemorySpec {
        &self.cell.spec
    }

    /// Shape of what is stored.
    pub fn geometry(&self) -> &KvGeometry {
        &self.cell.spec.geometry
    }

    /// What it holds now.
    pub fn info(&self) -> MemoryInfo {
        info(&self.cell)
    }

    /// Entries, of one slot and head, that no graph indexes yet.
    pub fn unsealed_entries(&self) -> u64 {
        self.cell.state().totals.tail_entries
    }

    /// Refuses a model other than the one it was created for, naming both.
    pub fn require_fingerprint(&self, given: &Fingerprint) -> Result<()> {
        let stored = self.cell.spec.fingerprint;
        if stored == *given {
            return Ok(());
        }
        Err(Error::FingerprintMismatch { memory: self.cell.name.clone(), stored, given: *given })
    }

    /// An immutable view of what is committed now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.cell.check_alive()?;
        Ok(Snapshot::new(Arc::clone(&self.shared.core), Arc::clone(&self.cell), self.cell.state()))
    }

    /// Creates or continues a document. A document comes into being with its first commit. Metadata that is not
    /// empty replaces what the document has, with the next commit. [`Error::DocumentBusy`] while another writer of
    /// it lives; different documents may be written at the same time.
    pub fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Writer> {
        check_document_id(document_id)?;
        check_metadata(&metadata)?;
        Writer::open(self.clone(), document_id, metadata)
    }

    pub(crate) fn document_record(&self, id: &str) -> Result<Option<DocumentRecord>> {
        self.core().check_whole()?;
        let bytes = self.core().storage.get(&document_key(self.cell.number, id))?;
        let what = || format!("the record of document {id} in memory {}", self.cell.name);
        bytes.map(|bytes| DocumentRecord::decode(&bytes, &what())).transpose()
    }

    fn existing(&self, id: &str) -> Result<DocumentRecord> {
        self.cell.check_alive()?;
        check_document_id(id)?;
        let unknown = || Error::UnknownDocument { memory: self.cell.name.clone(), document: id.to_owned() };
        self.document_record(id)?.ok_or_else(unknown)
    }

    /// Documents, ascending by identifier, those after `after`, at most `limit`.
    pub fn list_documents(&self, after: Option<&str>, limit: usize) -> Result<Vec<DocumentInfo>> {
        self.cell.check_alive()?;
        self.core().check_whole()?;
        let prefix = memory_key(b'd', self.cell.number);
        let after = after.map(|id| document_key(self.cell.number, id));
        let records = self.core().storage.scan(&prefix, after.as_deref(), limit)?;
        let decode = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            let record = DocumentRecord::decode(&value, &format!("the record of document {id}"))?;
            Ok(record.info(id))
        };
        records.into_iter().map(decode).collect()
    }

    /// One document.
    pub fn document(&self, id: &str) -> Result<DocumentInfo> {
        Ok(self.existing(id)?.info(id.to_owned()))
    }

    /// Tokens and text of a document's chunks in order, from chunk `from_ordinal` on, at most `limit`.
    pub fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        let number = self.existing(id)?.number;
        let state = self.cell.state();
        let mut chunks = Vec::new();
        for LiveExtent { extent, live, .. } in state.document_extents(number) {
            let skip = from_ordinal.saturating_sub(extent.first_ordinal).min(*live as u64);
            for index in skip as usize..*live as usize {
                if chunks.len() >= limit {
                    return Ok(chunks);
                }
                chunks.push(extent.read_info(self.geometry(), &self.cell.name, index)?);
            }
        }
        Ok(chunks)
    }

    /// Deletes a document, durably, and returns what it was. New snapshots do not show it; its bytes are freed when
    /// no snapshot shows them any more. [`Error::DocumentBusy`] while a writer of it lives.
    pub fn delete_document(&self, id: &str) -> Result<DocumentInfo> {
        let _turn = lock(&self.cell.commit);
        // Held to the end, so that no writer starts meanwhile.
        let busy = lock(&self.cell.busy);
        if busy.contains(id) {
            return Err(Error::DocumentBusy { document: id.to_owned() });
        }
        let record = self.existing(id)?;
        let state = self.cell.state();
        let mut change = Change::new(&self.cell, &state);
        change.batch.delete(document_key(self.cell.number, id));
        change.documents -= 1;
        for extent in state.document_extents(record.number) {
            change.remove_extent(extent.extent.first_chunk);
        }
        change.commit(self.core())?;
        Ok(record.info(id.to_owned()))
    }
}

/// A change of a memory in the making: records and the state that goes with them. The cell's turn is held.
pub(crate) struct Change<'a> {
    cell: &'a Cell,
    pub(crate) batch: Batch,
    pub(crate) sequence: u64,
    pub(crate) documents: u64,
    extents: Vec<LiveExtent>,
    segments: Vec<Arc<Segment>>,
    /// First chunks of extents that go.
    removed: HashSet<u64>,
    /// Numbers of segments that another one covers.
    absorbed: HashSet<u64>,
    /// Extents whose chunks are in others now.
    replaced: Vec<LiveExtent>,
}

impl<'a> Change<'a> {
    pub(crate) fn new(cell: &'a Cell, state: &MemoryState) -> Self {
        Self {
            cell,
            batch: Batch::default(),
            sequence: state.sequence + 1,
            documents: state.documents,
            extents: state.extents.clone(),
            segments: state.segments().collect(),
            removed: HashSet::new(),
            absorbed: HashSet::new(),
            replaced: Vec::new(),
        }
    }

    pub(crate) fn add_extent(&mut self, extent: LiveExtent) {
        let key = extent_key(self.cell.number, extent.extent.first_chunk);
        self.batch.put(key, extent.extent.record(extent.live).encode());
        self.extents.push(extent);
    }

    pub(crate) fn remove_extent(&mut self, first_chunk: u64) {
        self.batch.delete(extent_key(self.cell.number, first_chunk));
        self.removed.insert(first_chunk);
    }

    /// Puts `new` in the place of `old`, which are neighbours of one segment: the chunks are the same.
    pub(crate) fn replace_extents(&mut self, old: &[LiveExtent], new: LiveExtent) {
        let is_old = |extent: &LiveExtent| old.iter().any(|old| Arc::ptr_eq(&old.extent, &extent.extent));
        for extent in old {
            self.batch.delete(extent_key(self.cell.number, extent.extent.first_chunk));
        }
        let (replaced, kept) = std::mem::take(&mut self.extents).into_iter().partition(is_old);
        (self.replaced, self.extents) = (replaced, kept);
        let number = self.replaced.first().map_or(0, |extent| extent.segment);
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) {
            let changed = with_merged(segment, old, new.extent.first_chunk);
            let graph = |file: &BlobFile| GraphRecord { blob: file.number(), blob_bytes: file.bytes };
            let record = SegmentRecord {
                chunks: changed.chunks,
                entries: changed.entries,
                extents: changed.extents.clone(),
                graphs: changed.graphs.iter().map(graph).collect(),
            };
            self.batch.put(segment_key(self.cell.number, number), record.encode());
            *segment = Arc::new(changed);
        }
        self.add_extent(new);
    }

    /// Keeps the first `live` chunks of an extent.
    pub(crate) fn shorten_extent(&mut self, first_chunk: u64, live: u32) {
        if let Some(old) = self.extents.iter_mut().find(|extent| extent.extent.first_chunk == first_chunk) {
            *old = LiveExtent::new(&self.cell.spec.geometry, Arc::clone(&old.extent), live);
            self.batch.put(extent_key(self.cell.number, first_chunk), old.extent.record(live).encode());
        }
    }

    /// Puts `segment` in the place of those that it absorbed.
    pub(crate) fn replace_segments(
        &mut self,
        absorbed: &[Arc<Segment>],
        segment: Arc<Segment>,
        record: &SegmentRecord,
    ) {
        self.batch.put(segment_key(self.cell.number, segment.number), record.encode());
        self.absorbed.extend(absorbed.iter().map(|segment| segment.number));
        self.segments.push(segment);
    }

    /// Makes the change durable, then visible. After an error nothing has changed.
    pub(crate) fn commit(mut self, core: &Core) -> Result<Arc<MemoryState>> {
        let segments = std::mem::take(&mut self.segments);
        let is_removed = |extent: &LiveExtent| self.removed.contains(&extent.extent.first_chunk);
        let (removed_extents, extents): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.extents).into_iter().partition(is_removed);
        let alone = segments.iter().filter(|segment| !self.absorbed.contains(&segment.number));
        let state = MemoryState::new(self.sequence, self.documents, extents, alone.cloned());
        // Segments without life are gone from the state; worn ones give their extents back to the tail.
        let worn = state.segments.iter().filter(|segment| segment.worn()).map(|segment| segment.segment.number);
        let worn: Vec<u64> = worn.collect();
        let keep = |segment: &LiveSegment| !worn.contains(&segment.segment.number);
        let kept: Vec<_> =
            state.segments.iter().filter(|segment| keep(segment)).map(|s| Arc::clone(&s.segment)).collect();
        let state = if worn.is_empty() {
            state
        } else {
            MemoryState::new(self.sequence, self.documents, state.extents, kept.iter().cloned())
        };
        let removed: Vec<_> =
            segments.iter().filter(|segment| !kept.iter().any(|kept| kept.number == segment.number)).collect();
        for segment in &removed {
            self.batch.delete(segment_key(self.cell.number, segment.number));
        }
        self.batch.put(memory_key(b'm', self.cell.number), encode_sequence(self.sequence));
        core.commit(&self.batch)?;
        let state = Arc::new(state);
        let old = std::mem::replace(&mut *write(&self.cell.state), Arc::clone(&state));
        for extent in removed_extents.iter().chain(&self.replaced) {
            extent.extent.file.doom();
        }
        for segment in &removed {
            segment.doom();
        }
        drop(old);
        Ok(state)
    }
}
