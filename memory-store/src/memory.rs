//! One memory: its documents, its snapshots.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::compact::with_merged;
use crate::core::{Cell, Core};
use crate::expiry::{expire, make_room, settle};
use crate::extent::BlobFile;
use crate::life::Expiries;
use crate::names::{check_document_id, check_metadata};
use crate::quota::{Growth, Held, check_quotas};
use crate::records::{
    ChangeRecord, DocumentRecord, GraphRecord, SegmentRecord, document_key, extent_key, memory_key, segment_key,
};
use crate::state::{LiveExtent, LiveSegment, MemoryState, Segment};
use crate::storage::Batch;
use crate::store::Shared;
use crate::sync::lock;
use crate::{
    ChunkInfo, DocumentInfo, Error, Fingerprint, KvGeometry, MemoryInfo, MemoryLimits, MemorySpec, OpenMemory, Result,
    Snapshot, Writer,
};

/// A memory of a [`Store`](crate::Store). Clones share everything.
#[derive(Clone)]
pub struct Memory {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cell: Arc<Cell>,
}

/// What a memory holds, without the documents `hidden`.
pub(crate) fn info(cell: &Cell, hidden: &[Arc<str>]) -> MemoryInfo {
    let state = shown(cell, hidden);
    let totals = state.totals;
    let (limits, expires_unix_ms) = {
        let times = cell.life.times();
        (times.limits, times.expires_unix_ms())
    };
    MemoryInfo {
        limits,
        expires_unix_ms,
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
        word_bytes: totals.word_bytes,
        embedding_bytes: totals.embedding_bytes,
        entries: totals.entries,
        unsealed_entries: totals.tail_entries,
        sequence: state.sequence,
        damaged: cell.damaged.clone(),
    }
}

/// What readers see now, without the documents `hidden`.
fn shown(cell: &Cell, hidden: &[Arc<str>]) -> Arc<MemoryState> {
    let state = cell.state();
    if hidden.is_empty() { state } else { Arc::new(state.without(hidden)) }
}

fn is_among(id: &str, hidden: &[Arc<str>]) -> bool {
    hidden.iter().any(|hidden| **hidden == *id)
}

pub(crate) fn document_record(core: &Core, cell: &Cell, id: &str) -> Result<Option<DocumentRecord>> {
    core.check_whole()?;
    let bytes = core.storage.get(&document_key(cell.number, id))?;
    let what = || format!("the record of document {id} in memory {}", cell.name);
    bytes.map(|bytes| DocumentRecord::decode(&bytes, &what())).transpose()
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
        // Of a memory that went this tells nothing but its name, as of any that was deleted.
        let hidden = settle(self.core(), &self.cell).unwrap_or_default();
        info(&self.cell, &hidden)
    }

    /// How long it and its documents live, and how much it may hold.
    pub fn limits(&self) -> MemoryLimits {
        self.cell.life.limits()
    }

    /// Changes how long it and its documents live, and how much it may hold; durable when this returns. It counts as a
    /// change of the memory, so that a new time to live begins now. That of documents holds for those that are there,
    /// too: older ones go at once. A limit below what is held is accepted: nothing can be added then.
    pub fn update_limits(&self, change: impl FnOnce(&mut MemoryLimits)) -> Result<MemoryInfo> {
        settle(self.core(), &self.cell)?;
        crate::update::update_limits(self.core(), &self.cell, change)?;
        Ok(self.info())
    }

    /// Refuses with [`Error::Quota`] when not even one token more can be stored: what can be known before any work is
    /// done for a document.
    pub fn check_room(&self) -> Result<()> {
        self.cell.check_alive()?;
        // What is due in any memory of the tenant makes room.
        make_room(self.core(), &self.cell.tenant);
        check_quotas(&self.cell, Held::of(&self.cell.state().totals), Growth { tokens: 1, bytes: 1 })
    }

    /// Entries, of one key head, that no graph indexes yet.
    pub fn unsealed_entries(&self) -> u64 {
        self.cell.state().totals.tail_entries
    }

    /// Refuses a model other than the one it was created for, naming both.
    pub fn require_fingerprint(&self, given: &Fingerprint) -> Result<()> {
        OpenMemory::require_fingerprint(self, given)
    }

    /// An immutable view of what is committed now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let hidden = self.settle()?;
        Ok(Snapshot::new(Arc::clone(&self.shared.core), Arc::clone(&self.cell), shown(&self.cell, &hidden)))
    }

    /// Creates or continues a document. A document comes into being with its first commit. Metadata that is not
    /// empty replaces what the document has, with the next commit. [`Error::DocumentBusy`] while another writer of
    /// it lives; different documents may be written at the same time.
    pub fn writer(&self, document_id: &str, metadata: BTreeMap<String, String>) -> Result<Writer> {
        check_document_id(document_id)?;
        check_metadata(&metadata)?;
        // A document that is due is begun anew.
        if is_among(document_id, &self.settle()?) {
            expire(self.core(), &self.cell)?;
        }
        Writer::open(self.clone(), document_id, metadata)
    }

    pub(crate) fn document_record(&self, id: &str) -> Result<Option<DocumentRecord>> {
        document_record(self.core(), &self.cell, id)
    }

    /// Deletes what is due; returns the documents to hide because that failed. Not to be called in the memory's turn.
    pub(crate) fn settle(&self) -> Result<Vec<Arc<str>>> {
        self.cell.check_alive()?;
        settle(self.core(), &self.cell)
    }

    fn existing(&self, id: &str) -> Result<DocumentRecord> {
        let hidden = self.settle()?;
        if is_among(id, &hidden) {
            return Err(self.unknown(id));
        }
        self.stored(id)
    }

    /// As [`existing`](Self::existing), also when it is due.
    fn stored(&self, id: &str) -> Result<DocumentRecord> {
        self.cell.check_alive()?;
        check_document_id(id)?;
        self.document_record(id)?.ok_or_else(|| self.unknown(id))
    }

    fn unknown(&self, id: &str) -> Error {
        Error::UnknownDocument { memory: self.cell.name.clone(), document: id.to_owned() }
    }

    /// Documents, ascending by identifier, those after `after`, at most `limit`.
    pub fn list_documents(&self, after: Option<&str>, limit: usize) -> Result<Vec<DocumentInfo>> {
        let hidden = self.settle()?;
        self.core().check_whole()?;
        let prefix = memory_key(b'd', self.cell.number);
        let mut after = after.map(|id| document_key(self.cell.number, id));
        let limits = self.limits();
        let mut documents = Vec::new();
        while documents.len() < limit {
            let records = self.core().storage.scan(&prefix, after.as_deref(), limit - documents.len())?;
            let Some((last, _)) = records.last() else { break };
            after = Some(last.clone());
            for (key, value) in records {
                let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
                if is_among(&id, &hidden) {
                    continue;
                }
                let record = DocumentRecord::decode(&value, &format!("the record of document {id}"))?;
                documents.push(record.info(id, &limits));
            }
        }
        Ok(documents)
    }

    /// One document.
    pub fn document(&self, id: &str) -> Result<DocumentInfo> {
        Ok(self.existing(id)?.info(id.to_owned(), &self.limits()))
    }

    /// Tokens and text of a document's chunks in order, from chunk `from_ordinal` on, at most `limit`.
    pub fn document_chunks(&self, id: &str, from_ordinal: u64, limit: usize) -> Result<Vec<ChunkInfo>> {
        let record = self.existing(id)?;
        let (number, metadata) = (record.number, Arc::new(record.metadata));
        let state = self.cell.state();
        let mut chunks = Vec::new();
        for LiveExtent { extent, live, .. } in state.document_extents(number) {
            let skip = from_ordinal.saturating_sub(extent.first_ordinal).min(*live as u64);
            for index in skip as usize..*live as usize {
                if chunks.len() >= limit {
                    return Ok(chunks);
                }
                chunks.push(extent.read_info(self.geometry(), &self.cell.name, index, &metadata)?);
            }
        }
        Ok(chunks)
    }

    /// Deletes a document, durably, and returns what it was. New snapshots do not show it; its bytes are freed when
    /// no snapshot shows them any more. [`Error::DocumentBusy`] while a writer of it lives.
    pub fn delete_document(&self, id: &str) -> Result<DocumentInfo> {
        // What is due is not there any more.
        if is_among(id, &self.settle()?) {
            return Err(self.unknown(id));
        }
        let _turn = lock(&self.cell.commit);
        // Held to the end, so that no writer starts meanwhile.
        let busy = lock(&self.cell.busy);
        if busy.contains(id) {
            return Err(Error::DocumentBusy { document: id.to_owned() });
        }
        let record = self.stored(id)?;
        let state = self.cell.state();
        let mut change = Change::new(&self.cell, &state);
        change.changed_unix_ms = self.core().now_unix_ms();
        change.remove_documents(&state, &[(Arc::from(id), record.number)]);
        change.commit(self.core())?;
        Ok(record.info(id.to_owned(), &self.limits()))
    }
}

/// A change of a memory in the making: records and the state that goes with them. The cell's turn is held.
pub(crate) struct Change<'a> {
    cell: &'a Cell,
    pub(crate) batch: Batch,
    pub(crate) sequence: u64,
    pub(crate) documents: u64,
    /// Time of the last change that somebody asked for: this one, or an earlier one.
    pub(crate) changed_unix_ms: u64,
    /// When documents go from now on, if they do.
    pub(crate) expiries: Vec<(Arc<str>, Option<u64>)>,
    /// New limits, and when all documents go under them.
    pub(crate) limits: Option<(MemoryLimits, Expiries)>,
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
            changed_unix_ms: cell.life.times().changed_unix_ms,
            expiries: Vec::new(),
            limits: None,
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

    /// Takes documents, by identifier and number, with all that is theirs.
    pub(crate) fn remove_documents(&mut self, state: &MemoryState, documents: &[(Arc<str>, u64)]) {
        for (id, _) in documents {
            self.batch.delete(document_key(self.cell.number, id));
            self.expiries.push((Arc::clone(id), None));
        }
        self.documents = self.documents.saturating_sub(documents.len() as u64);
        let numbers: HashSet<u64> = documents.iter().map(|(_, number)| *number).collect();
        for LiveExtent { extent, .. } in state.extents.iter().filter(|extent| numbers.contains(&extent.extent.document))
        {
            self.remove_extent(extent.first_chunk);
        }
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
        let limits = self.limits.as_ref().map_or_else(|| self.cell.life.limits(), |(limits, _)| *limits);
        // Nobody asks for the time unless the memory has a time to live.
        let changed_unix_ms = limits.ttl_ms.map_or(0, |_| self.changed_unix_ms);
        let record = ChangeRecord { sequence: self.sequence, changed_unix_ms };
        self.batch.put(memory_key(b'm', self.cell.number), record.encode());
        core.commit(&self.batch)?;
        let state = Arc::new(state);
        let old = self.cell.replace_state(Arc::clone(&state));
        self.cell.life.change(|times| {
            times.changed_unix_ms = self.changed_unix_ms;
            if let Some((limits, documents)) = self.limits {
                (times.limits, times.documents) = (limits, documents);
            }
            for (id, unix_ms) in self.expiries {
                times.documents.set(id, unix_ms);
            }
        });
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
