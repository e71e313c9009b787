//! Compaction: gives back what deleted and truncated chunks still take, and makes few blobs of many.
//!
//! Ids of chunks stay valid. Blobs are rewritten beside readers and writers; only the
//! commit of each takes a turn of the memory. Snapshots keep what they show: replaced blobs go with their last reader.

use std::sync::Arc;

use mnemon_memory::KvGeometry;

use crate::engine::extent::Extent;
use crate::engine::extent_builder::{ExtentBuilder, ExtentOwner};
use crate::engine::ids::IdKind;
use crate::engine::inspection::{inspect, restored_chunk};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::engine::transaction::Transaction;
use crate::engine::{Engine, document_record};
use crate::error::Result;
use crate::index::embeddings::EmbeddingIndex;
use crate::maintenance::expire::expire;
use crate::maintenance::seal::renew_worn;
use crate::sync::lock;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the blobs before, index and embeddings included.
    pub bytes_before: u64,
    /// Bytes of the blobs that are in use now. Those that a snapshot still shows go with it.
    pub bytes_after: u64,
    /// Blobs of chunks before.
    pub blobs_before: u64,
    /// Blobs of chunks now.
    pub blobs_after: u64,
}

impl Compacted {
    /// Adds what another compaction did.
    pub(crate) fn add(&mut self, other: Self) {
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.blobs_before += other.blobs_before;
        self.blobs_after += other.blobs_after;
    }
}

/// Rewrites graphs and blobs with dead chunks, and joins small blobs of neighbouring chunks.
pub(crate) fn compact(engine: &Engine, memory_entry: &Arc<MemoryEntry>) -> Result<Compacted> {
    expire(engine, memory_entry)?;
    memory_entry.check_alive()?;
    let before = sizes(&memory_entry.state());
    {
        // Segments are built from extents that must not be replaced meanwhile.
        let _builder = lock(&memory_entry.sealing);
        renew_worn(engine, memory_entry)?;
        for group in groups(engine, &memory_entry.state()) {
            rewrite(engine, memory_entry, &group)?;
        }
    }
    let after = sizes(&memory_entry.state());
    Ok(Compacted { bytes_before: before.0, bytes_after: after.0, blobs_before: before.1, blobs_after: after.1 })
}

/// Writes the live chunks of `group` to one blob that takes the place of all of theirs.
fn rewrite(engine: &Engine, memory_entry: &MemoryEntry, group: &[LiveExtent]) -> Result<()> {
    let [first, ..] = group else { return Ok(()) };
    let first = &first.extent;
    let Some(record) = document_record(engine, memory_entry, &first.document_id)? else { return Ok(()) };
    let mut builder = ExtentBuilder::new(first.first_ordinal, first.token_start, first.byte_start);
    for LiveExtent { extent, live, .. } in group {
        collect(&memory_entry.spec.geometry, &mut builder, extent, *live)?;
    }
    let owner = ExtentOwner {
        tenant: &memory_entry.tenant,
        memory: &memory_entry.name,
        memory_number: memory_entry.number,
        spec: &memory_entry.spec,
        document: first.document,
        document_id: &first.document_id,
        metadata: &record.metadata,
        after: memory_entry.state().sequence,
    };
    let blob = engine.new_ids(IdKind::Blob, 1)?;
    let extent = Arc::new(builder.write(&engine.storage, &owner, blob, first.first_chunk)?);
    join_embeddings(engine, group, &extent)?;
    let merged = LiveExtent::new(&memory_entry.spec.geometry, Arc::clone(&extent), extent.chunks());

    let _commit = lock(&memory_entry.commit_lock);
    let state = memory_entry.state();
    let unchanged = |old: &LiveExtent| {
        let now = state.find(old.extent.first_chunk).map(|(now, _)| now);
        now.is_some_and(|now| Arc::ptr_eq(&now.extent, &old.extent) && now.live == old.live)
    };
    if memory_entry.check_alive().is_err() || !group.iter().all(unchanged) {
        // Deleted or truncated meanwhile: the next compaction will see it.
        extent.file.mark_for_deletion();
        return memory_entry.check_alive();
    }
    let mut transaction = Transaction::new(memory_entry, &state);
    // Readers see the same chunks as before.
    transaction.sequence = state.sequence;
    transaction.replace_extents(group, merged);
    // After an error, whether a record refers to the blob is for the next opening to tell.
    transaction.commit(engine).map(|_| ())
}

/// Gives `joined` the embeddings of the blobs that it joins. Where chunks of these are dead there are none, to be made again: a
/// sentence at the end of what lives may have been made of text that is deleted.
fn join_embeddings(engine: &Engine, group: &[LiveExtent], joined: &Extent) -> Result<()> {
    let [first, ..] = group else { return Ok(()) };
    if group.iter().any(|extent| extent.live < extent.extent.chunks()) {
        return Ok(());
    }
    for embedder in first.extent.embedders()? {
        let parts = group.iter().map(|extent| extent.extent.read_embeddings(&embedder));
        let parts: Option<Vec<_>> = parts.collect::<Result<_>>()?;
        if let Some(index) = parts.and_then(|parts| EmbeddingIndex::join(&parts)) {
            joined.write_embeddings(&engine.storage, &embedder, &index)?;
        }
    }
    Ok(())
}

/// Appends the first `live` chunks of `extent` as they are stored, after verifying all of its blob.
fn collect(geometry: &KvGeometry, builder: &mut ExtentBuilder, extent: &Extent, live: u32) -> Result<()> {
    let bytes = extent.file.read(0, extent.file.bytes as usize)?;
    let found = inspect(&bytes, &extent.record(live), extent.first_chunk, geometry);
    if let Some(fault) = found.faults.into_iter().next() {
        return Err(extent.file.damaged(fault));
    }
    for pair in extent.places[..=live as usize].windows(2) {
        let tokens = pair[1].tokens - pair[0].tokens;
        let start = extent.body_start as usize;
        let stored = &bytes[start + pair[0].offset as usize..start + pair[1].offset as usize];
        let stored = restored_chunk(stored, tokens as usize, geometry)?;
        builder.push_stored(&stored, tokens, pair[1].bytes - pair[0].bytes);
    }
    Ok(())
}

/// Bytes of all blobs, and number of chunk blobs.
fn sizes(state: &MemoryState) -> (u64, u64) {
    (state.totals.bytes(), state.extents.len() as u64)
}

/// Extents to rewrite: runs of neighbours that fit one blob, and those with dead chunks.
fn groups(engine: &Engine, state: &MemoryState) -> Vec<Vec<LiveExtent>> {
    let mut groups: Vec<Vec<LiveExtent>> = Vec::new();
    for extent in &state.extents {
        match groups.last_mut() {
            Some(group) if fits(engine, group, extent) => group.push(extent.clone()),
            _ => groups.push(vec![extent.clone()]),
        }
    }
    groups.retain(|group| group.len() > 1 || group.iter().any(|extent| extent.live < extent.extent.chunks()));
    groups
}

/// Whether `next` goes on where `group` ends, and both together are no larger than what a writer makes.
fn fits(engine: &Engine, group: &[LiveExtent], next: &LiveExtent) -> bool {
    let Some(last) = group.last() else { return true };
    let follows = last.extent.document == next.extent.document
        && last.segment == next.segment
        && last.extent.first_chunk + last.live as u64 == next.extent.first_chunk
        && last.extent.first_ordinal + last.live as u64 == next.extent.first_ordinal;
    let all = || group.iter().chain([next]);
    let bytes: u64 = all().map(|extent| extent.extent.places[extent.live as usize].offset as u64).sum();
    // As a writer: a segment covers whole extents, and small ones fill it better.
    let entries: u64 = all().map(|extent| extent.entries as u64).sum();
    let room = (engine.options.seal_entries / 4).max(1) as u64;
    follows && bytes <= engine.options.writer_buffer_bytes as u64 && entries <= room
}
