//! Ids of memories, documents, chunks, blobs and segments: each is given out once in the life of a store.

use crate::engine::catalog_scan::CatalogScan;
use crate::error::Result;
use crate::format::records::{ID_KINDS, RESERVED_KEY, decode_reserved};
use crate::storage::Storage;

/// What an id is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IdKind {
    Memory,
    Document,
    Chunk,
    Blob,
    Segment,
}

/// Ids reserved at a time: what a crash wastes of 2^64.
pub(crate) const RESERVE: u64 = 1 << 16;
/// Further than any id that could have been given out above those that are seen.
pub(crate) const FAR: u64 = 1 << 32;

/// The next id of each kind, and up to where ids are durably reserved.
pub(crate) struct Ids {
    next: [u64; ID_KINDS],
    reserved: [u64; ID_KINDS],
}

impl Ids {
    /// Goes on above all ids that were reserved. If the record of these is damaged, far above all that are in use.
    pub(crate) fn load(storage: &dyn Storage) -> Result<Self> {
        let Some(bytes) = storage.get(RESERVED_KEY)? else {
            return Ok(Self { next: [1; ID_KINDS], reserved: [1; ID_KINDS] });
        };
        let reserved = decode_reserved(&bytes).or_else(|error| {
            tracing::warn!(%error, "ids are given out from far above all that are in use");
            Ok::<_, crate::error::Error>(CatalogScan::read(storage)?.used_ids().map(|used| used + FAR))
        })?;
        Ok(Self { next: reserved, reserved })
    }

    /// `count` consecutive ids that were never given out; returns the first. `None` if so many are not reserved.
    pub(crate) fn take(&mut self, kind: IdKind, count: u64) -> Option<u64> {
        let kind = kind as usize;
        let first = self.next[kind];
        if first + count > self.reserved[kind] {
            return None;
        }
        self.next[kind] = first + count;
        Some(first)
    }

    /// What has to be durable before `count` more can be [taken](Self::take).
    pub(crate) fn reservation(&self, kind: IdKind, count: u64) -> [u64; ID_KINDS] {
        let mut reserved = self.reserved;
        reserved[kind as usize] = self.next[kind as usize] + count + RESERVE;
        reserved
    }

    /// A reservation is durable.
    pub(crate) fn reserved(&mut self, reserved: [u64; ID_KINDS]) {
        self.reserved = reserved;
    }
}
