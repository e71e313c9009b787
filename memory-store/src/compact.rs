//! Compaction: gives back what deleted and truncated chunks still take, and makes few blobs of many.
//!
//! Ids of chunks stay, so that nobody who holds one notices. Blobs are rewritten beside readers and writers; only the
//! commit of each takes a turn of the memory. Snapshots keep what they show: replaced blobs go with their last reader.

use std::sync::Arc;

use crate::blob::{inspect, restored_chunk};
use crate::core::{Core, Number};
use crate::embeddings::EmbeddingIndex;
use crate::expiry::expire;
use crate::extent::{Extent, ExtentBuilder, ExtentOwner};
use crate::memory::Change;
use crate::state::{LiveExtent, MemoryState, Segment};
use crate::sync::lock;
use crate::{Error, Memory, Result, Store};

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

impl Store {
    /// Compacts the memory `name` of a tenant, or all of them, and rewrites the catalog: afterwards no file has a byte
    /// of what was deleted before the call, except those that a snapshot still shows. While the catalog is rewritten,
    /// other calls wait.
    pub fn compact(&self, tenant: &str, name: Option<&str>) -> Result<Compacted> {
        let names = if let Some(name) = name {
            vec![name.to_owned()]
        } else {
            let memories = self.list_memories(tenant, None, usize::MAX)?;
            memories.into_iter().filter(|memory| memory.damaged.is_none()).map(|memory| memory.name).collect()
        };
        let mut all = Compacted::default();
        for memory in names {
            let one = match self.memory(tenant, &memory).and_then(|memory| memory.compact()) {
                // Deleted meanwhile.
                Err(Error::UnknownMemory { .. }) if name.is_none() => continue,
                other => other?,
            };
            all.bytes_before += one.bytes_before;
            all.bytes_after += one.bytes_after;
            all.blobs_before += one.blobs_before;
            all.blobs_after += one.blobs_after;
        }
        self.shared.core.storage.compact()?;
        Ok(all)
    }
}

impl Memory {
    /// Writes graphs and blobs with dead chunks anew, and joins small blobs of neighbouring chunks. What was deleted may still be in the catalog:
    /// [`Store::compact`] rewrites that as well.
    pub fn compact(&self) -> Result<Compacted> {
        let (core, cell) = (&self.shared.core, &self.cell);
        expire(core, cell)?;
        cell.check_alive()?;
        let before = sizes(&cell.state());
        {
            // Segments are built from extents that must not be replaced meanwhile.
            let _builder = lock(&cell.sealing);
            crate::seal::renew_worn(core, cell)?;
            for group in groups(core, &cell.state()) {
                self.rewrite(&group)?;
            }
        }
        self.shared.sealer.notify(core, cell);
        let after = sizes(&cell.state());
        Ok(Compacted { bytes_before: before.0, bytes_after: after.0, blobs_before: before.1, blobs_after: after.1 })
    }

    /// Writes the live chunks of `group` to one blob that takes the place of all of theirs.
    fn rewrite(&self, group: &[LiveExtent]) -> Result<()> {
        let (core, cell) = (&self.shared.core, &self.cell);
        let [first, ..] = group else { return Ok(()) };
        let first = &first.extent;
        let Some(record) = self.document_record(&first.document_id)? else { return Ok(()) };
        let mut builder = ExtentBuilder::new(first.first_ordinal, first.token_start, first.byte_start);
        for LiveExtent { extent, live, .. } in group {
            self.collect(&mut builder, extent, *live)?;
        }
        let owner = ExtentOwner {
            tenant: &cell.tenant,
            memory: &cell.name,
            memory_number: cell.number,
            spec: &cell.spec,
            document: first.document,
            document_id: &first.document_id,
            metadata: &record.metadata,
            after: cell.state().sequence,
        };
        let blob = core.number(Number::Blob, 1)?;
        let extent = Arc::new(builder.write(&core.storage, &owner, blob, first.first_chunk)?);
        self.join_embeddings(group, &extent)?;
        let merged = LiveExtent::new(&cell.spec.geometry, Arc::clone(&extent), extent.chunks());

        let _turn = lock(&cell.commit);
        let state = cell.state();
        let unchanged = |old: &LiveExtent| {
            let now = state.find(old.extent.first_chunk).map(|(now, _)| now);
            now.is_some_and(|now| Arc::ptr_eq(&now.extent, &old.extent) && now.live == old.live)
        };
        if cell.check_alive().is_err() || !group.iter().all(unchanged) {
            // Deleted or truncated meanwhile: the next compaction will see it.
            extent.file.doom();
            return cell.check_alive();
        }
        let mut change = Change::new(cell, &state);
        // Readers see the same chunks as before.
        change.sequence = state.sequence;
        change.replace_extents(group, merged);
        // After an error, whether a record refers to the blob is for the next opening to tell.
        change.commit(core).map(|_| ())
    }

    /// Gives `joined` the embeddings of the blobs that it joins. Where chunks of these are dead there are none, to be made again: a
    /// sentence at the end of what lives may have been made of text that is deleted.
    fn join_embeddings(&self, group: &[LiveExtent], joined: &Extent) -> Result<()> {
        let [first, ..] = group else { return Ok(()) };
        if group.iter().any(|extent| extent.live < extent.extent.chunks()) {
            return Ok(());
        }
        for embedder in first.extent.embedders()? {
            let parts = group.iter().map(|extent| extent.extent.read_embeddings(&embedder));
            let parts: Option<Vec<_>> = parts.collect::<Result<_>>()?;
            if let Some(index) = parts.and_then(|parts| EmbeddingIndex::join(&parts)) {
                joined.write_embeddings(&self.shared.core.storage, &embedder, &index)?;
            }
        }
        Ok(())
    }

    /// Appends the first `live` chunks of `extent` as they are stored, after verifying all of its blob.
    fn collect(&self, builder: &mut ExtentBuilder, extent: &Extent, live: u32) -> Result<()> {
        let geometry = self.geometry();
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
}

/// Bytes of all blobs, and number of chunk blobs.
fn sizes(state: &MemoryState) -> (u64, u64) {
    (state.totals.bytes(), state.extents.len() as u64)
}

/// Extents that are better written anew: runs of neighbours that fit one blob, and those with dead chunks.
fn groups(core: &Core, state: &MemoryState) -> Vec<Vec<LiveExtent>> {
    let mut groups: Vec<Vec<LiveExtent>> = Vec::new();
    for extent in &state.extents {
        match groups.last_mut() {
            Some(group) if fits(core, group, extent) => group.push(extent.clone()),
            _ => groups.push(vec![extent.clone()]),
        }
    }
    groups.retain(|group| group.len() > 1 || group.iter().any(|extent| extent.live < extent.extent.chunks()));
    groups
}

/// Whether `next` goes on where `group` ends, and both together are no larger than what a writer makes.
fn fits(core: &Core, group: &[LiveExtent], next: &LiveExtent) -> bool {
    let Some(last) = group.last() else { return true };
    let follows = last.extent.document == next.extent.document
        && last.segment == next.segment
        && last.extent.first_chunk + last.live as u64 == next.extent.first_chunk
        && last.extent.first_ordinal + last.live as u64 == next.extent.first_ordinal;
    let all = || group.iter().chain([next]);
    let bytes: u64 = all().map(|extent| extent.extent.places[extent.live as usize].offset as u64).sum();
    // As a writer: a segment covers whole extents, and small ones fill it better.
    let entries: u64 = all().map(|extent| extent.entries as u64).sum();
    let room = (core.options.seal_entries / 4).max(1) as u64;
    follows && bytes <= core.options.writer_buffer_bytes as u64 && entries <= room
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
