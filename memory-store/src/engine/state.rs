//! What a memory consists of at one moment. Immutable: a change makes a new state, readers keep theirs.

use std::collections::HashSet;
use std::sync::Arc;

use mnemon_memory::{EntryPolicy, KvGeometry};

use crate::engine::blob_file::BlobFile;
use crate::engine::extent::Extent;

/// An extent of which the first `live` chunks are part of the document.
#[derive(Clone)]
pub(crate) struct LiveExtent {
    pub(crate) extent: Arc<Extent>,
    pub(crate) live: u32,
    /// Entries of the chunks that are shown, for each key head.
    pub(crate) entries: u32,
    /// Number of the segment that indexes it; 0 while it is in the tail.
    pub(crate) segment: u64,
    /// Of the live chunks, those that a view does not show; only of views of some turns.
    pub(crate) hidden: Option<Arc<[bool]>>,
}

impl LiveExtent {
    pub(crate) fn new(geometry: &KvGeometry, extent: Arc<Extent>, live: u32) -> Self {
        let entries = |index| entries_of(geometry.entry_policy, extent.chunk_tokens(index));
        let entries = (0..live as usize).map(entries).sum::<usize>() as u32;
        Self { extent, live, entries, segment: 0, hidden: None }
    }

    /// Shows no chunk whose place in `hidden`, `[live]`, says so.
    pub(crate) fn hide(&mut self, geometry: &KvGeometry, hidden: Vec<bool>) {
        if hidden.contains(&true) {
            self.hidden = Some(hidden.into());
            let entries = |index| entries_of(geometry.entry_policy, self.extent.chunk_tokens(index));
            self.entries = self.shown().map(entries).sum::<usize>() as u32;
        }
    }

    /// Whether the chunk at `index` is live and shown.
    pub(crate) fn shows(&self, index: usize) -> bool {
        index < self.live as usize && self.hidden.as_ref().is_none_or(|hidden| !hidden[index])
    }

    /// Indices of the chunks that are live and shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.live as usize).filter(|index| self.shows(*index))
    }
}

/// Of a segment of which less than one chunk in so many is shown all entries are compared.
const SPARSE: u64 = 8;

/// A sealed segment: one graph for each key head.
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// Chunks that were indexed, dead ones included.
    pub(crate) chunks: u64,
    pub(crate) entries: u32,
    /// First chunks of the extents that it covers, ascending.
    pub(crate) extents: Vec<u64>,
    /// One for each key head, in the order of the geometry. Shared when the segment changes although its graphs do not.
    pub(crate) graphs: Arc<[BlobFile]>,
}

impl Segment {
    pub(crate) fn bytes(&self) -> u64 {
        self.graphs.iter().map(|graph| graph.bytes).sum()
    }

    pub(crate) fn mark_for_deletion(&self) {
        for graph in self.graphs.iter() {
            graph.mark_for_deletion();
        }
    }
}

#[derive(Clone)]
pub(crate) struct LiveSegment {
    pub(crate) segment: Arc<Segment>,
    /// Chunks that are still part of a document.
    pub(crate) live_chunks: u64,
}

impl LiveSegment {
    pub(crate) fn all_live(&self) -> bool {
        self.live_chunks == self.segment.chunks
    }

    /// So little of it is shown that a walk would pass most of it before it met enough.
    pub(crate) fn is_sparse(&self) -> bool {
        self.live_chunks * SPARSE < self.segment.chunks
    }

    /// More than half of it is dead: better rebuilt.
    pub(crate) fn worn(&self) -> bool {
        self.live_chunks * 2 < self.segment.chunks
    }
}

/// Sums over the live chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) chunks: u64,
    pub(crate) tokens: u64,
    pub(crate) text_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) word_bytes: u64,
    pub(crate) embedding_bytes: u64,
    pub(crate) entries: u64,
    pub(crate) tail_entries: u64,
}

impl Totals {
    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.stored_bytes + self.index_bytes + self.embedding_bytes
    }
}

/// See the module.
pub(crate) struct MemoryState {
    pub(crate) sequence: u64,
    pub(crate) documents: u64,
    /// Ascending by first chunk.
    pub(crate) extents: Vec<LiveExtent>,
    pub(crate) segments: Vec<LiveSegment>,
    pub(crate) totals: Totals,
}

/// Entries of a chunk of `tokens` tokens, for each key head.
pub(crate) fn entries_of(policy: EntryPolicy, tokens: usize) -> usize {
    match policy {
        EntryPolicy::PerToken => tokens,
        EntryPolicy::BlockMean { tokens: block } => tokens.div_ceil(block as usize),
        EntryPolicy::Representative { count } => tokens.min(count as usize),
    }
}

impl MemoryState {
    /// Puts the parts together: order, membership of extents in segments, sums. Segments without a live chunk
    /// are left out.
    pub(crate) fn new(
        sequence: u64,
        documents: u64,
        mut extents: Vec<LiveExtent>,
        segments: impl IntoIterator<Item = Arc<Segment>>,
    ) -> Self {
        extents.sort_by_key(|extent| extent.extent.first_chunk);
        for extent in &mut extents {
            extent.segment = 0;
        }
        let mut totals = Totals::default();
        let mut live_segments = Vec::new();
        for segment in segments {
            let mut live_chunks = 0;
            for first_chunk in &segment.extents {
                let found = extents.binary_search_by_key(first_chunk, |extent| extent.extent.first_chunk);
                if let Some(extent) = found.ok().and_then(|at| extents.get_mut(at)) {
                    extent.segment = segment.number;
                    live_chunks += extent.shown().count() as u64;
                }
            }
            if live_chunks > 0 {
                totals.index_bytes += segment.bytes();
                live_segments.push(LiveSegment { segment, live_chunks });
            }
        }
        for live @ LiveExtent { extent, entries, segment, .. } in &extents {
            let entries = *entries as u64;
            for index in live.shown() {
                totals.chunks += 1;
                totals.tokens += extent.chunk_tokens(index) as u64;
                totals.text_bytes += extent.chunk_text_bytes(index) as u64;
            }
            totals.stored_bytes += extent.file.bytes;
            totals.word_bytes += extent.words_section().1;
            totals.embedding_bytes += extent.embedding_bytes();
            totals.entries += entries;
            if *segment == 0 {
                totals.tail_entries += entries;
            }
        }
        Self { sequence, documents, extents, segments: live_segments, totals }
    }

    pub(crate) fn has_embeddings(&self) -> bool {
        self.extents.iter().any(|extent| extent.extent.embedding_bytes() > 0)
    }

    /// The same, with sums that know the embeddings that came meanwhile.
    pub(crate) fn recounted(&self) -> Self {
        self.with_extents(self.extents.clone(), self.documents)
    }

    /// The same without some documents.
    pub(crate) fn without(&self, documents: &[Arc<str>]) -> Self {
        let hidden: HashSet<&str> = documents.iter().map(AsRef::as_ref).collect();
        let kept = self.extents.iter().filter(|extent| !hidden.contains(extent.extent.document_id.as_ref()));
        self.with_extents(kept.cloned().collect(), self.documents.saturating_sub(hidden.len() as u64))
    }

    /// The same with other extents, of so many documents.
    pub(crate) fn with_extents(&self, extents: Vec<LiveExtent>, documents: u64) -> Self {
        Self::new(self.sequence, documents, extents, self.segments())
    }

    /// The extent of a live chunk and the chunk's place in it.
    pub(crate) fn find(&self, chunk: u64) -> Option<(&LiveExtent, usize)> {
        let after = self.extents.partition_point(|extent| extent.extent.first_chunk <= chunk);
        let extent = self.extents.get(after.checked_sub(1)?)?;
        let index = chunk - extent.extent.first_chunk;
        (index < extent.live as u64).then_some((extent, index as usize))
    }

    /// Extents of a document in order.
    pub(crate) fn document_extents(&self, document: u64) -> Vec<&LiveExtent> {
        let mut extents: Vec<_> = self.extents.iter().filter(|extent| extent.extent.document == document).collect();
        extents.sort_by_key(|extent| extent.extent.first_ordinal);
        extents
    }

    /// Extents that no segment indexes.
    pub(crate) fn tail(&self) -> impl Iterator<Item = &LiveExtent> {
        self.extents.iter().filter(|extent| extent.segment == 0)
    }

    /// All segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Arc<Segment>> + '_ {
        self.segments.iter().map(|segment| Arc::clone(&segment.segment))
    }
}
