//! A change of one memory: records and the state that goes with them, committed as one.

use std::collections::HashSet;
use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::blob_file::BlobFile;
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, LiveSegment, MemoryState, Segment};
use crate::engine::ttl::Expiries;
use crate::error::Result;
use crate::format::records::{
    ChangeRecord, GraphRecord, SegmentRecord, document_key, extent_key, memory_key, segment_key,
};
use crate::storage::Batch;
use crate::types::limits::MemoryLimits;

/// A change of a memory in the making: records and the state that goes with them. The commit lock of the memory is held.
pub(crate) struct Transaction<'a> {
    memory_entry: &'a MemoryEntry,
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

impl<'a> Transaction<'a> {
    pub(crate) fn new(memory_entry: &'a MemoryEntry, state: &MemoryState) -> Self {
        Self {
            memory_entry,
            batch: Batch::default(),
            sequence: state.sequence + 1,
            documents: state.documents,
            changed_unix_ms: memory_entry.ttl.times().changed_unix_ms,
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
        let key = extent_key(self.memory_entry.number, extent.extent.first_chunk);
        self.batch.put(key, extent.extent.record(extent.live).encode());
        self.extents.push(extent);
    }

    /// Takes documents, by identifier and number, with all that is theirs.
    pub(crate) fn remove_documents(&mut self, state: &MemoryState, documents: &[(Arc<str>, u64)]) {
        for (id, _) in documents {
            self.batch.delete(document_key(self.memory_entry.number, id));
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
        self.batch.delete(extent_key(self.memory_entry.number, first_chunk));
        self.removed.insert(first_chunk);
    }

    /// Puts `new` in the place of `old`, which are neighbours of one segment: the chunks are the same.
    pub(crate) fn replace_extents(&mut self, old: &[LiveExtent], new: LiveExtent) {
        let is_old = |extent: &LiveExtent| old.iter().any(|old| Arc::ptr_eq(&old.extent, &extent.extent));
        for extent in old {
            self.batch.delete(extent_key(self.memory_entry.number, extent.extent.first_chunk));
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
            self.batch.put(segment_key(self.memory_entry.number, number), record.encode());
            *segment = Arc::new(changed);
        }
        self.add_extent(new);
    }

    /// Keeps the first `live` chunks of an extent.
    pub(crate) fn shorten_extent(&mut self, first_chunk: u64, live: u32) {
        if let Some(old) = self.extents.iter_mut().find(|extent| extent.extent.first_chunk == first_chunk) {
            *old = LiveExtent::new(&self.memory_entry.spec.geometry, Arc::clone(&old.extent), live);
            self.batch.put(extent_key(self.memory_entry.number, first_chunk), old.extent.record(live).encode());
        }
    }

    /// Puts `segment` in the place of those that it absorbed.
    pub(crate) fn replace_segments(
        &mut self,
        absorbed: &[Arc<Segment>],
        segment: Arc<Segment>,
        record: &SegmentRecord,
    ) {
        self.batch.put(segment_key(self.memory_entry.number, segment.number), record.encode());
        self.absorbed.extend(absorbed.iter().map(|segment| segment.number));
        self.segments.push(segment);
    }

    /// Makes the change durable, then visible. After an error nothing has changed.
    pub(crate) fn commit(mut self, engine: &Engine) -> Result<Arc<MemoryState>> {
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
            self.batch.delete(segment_key(self.memory_entry.number, segment.number));
        }
        let limits = self.limits.as_ref().map_or_else(|| self.memory_entry.ttl.limits(), |(limits, _)| *limits);
        // The time is stored only where the memory has a time to live.
        let changed_unix_ms = limits.ttl_ms.map_or(0, |_| self.changed_unix_ms);
        let record = ChangeRecord { sequence: self.sequence, changed_unix_ms };
        self.batch.put(memory_key(b'm', self.memory_entry.number), record.encode());
        engine.commit(&self.batch)?;
        let state = Arc::new(state);
        let old = self.memory_entry.replace_state(Arc::clone(&state));
        self.memory_entry.ttl.change(|times| {
            times.changed_unix_ms = self.changed_unix_ms;
            if let Some((limits, documents)) = self.limits {
                (times.limits, times.documents) = (limits, documents);
            }
            for (id, unix_ms) in self.expiries {
                times.documents.set(id, unix_ms);
            }
        });
        for extent in removed_extents.iter().chain(&self.replaced) {
            extent.extent.file.mark_for_deletion();
        }
        for segment in &removed {
            segment.mark_for_deletion();
        }
        drop(old);
        Ok(state)
    }
}

/// The segment with the first chunk of `new` instead of those of `old`.
pub(crate) fn with_merged(segment: &Segment, old: &[LiveExtent], new: u64) -> Segment {
    let is_old = |first: &u64| old.iter().any(|extent| extent.extent.first_chunk == *first);
    let mut extents: Vec<u64> = segment.extents.iter().copied().filter(|first| !is_old(first)).collect();
    extents.push(new);
    extents.sort_unstable();
    Segment {
        number: segment.number,
        chunks: segment.chunks,
        entries: segment.entries,
        extents,
        graphs: Arc::clone(&segment.graphs),
    }
}
