//! Limits and bounds of a store.

use std::sync::Arc;

use mnemon_memory::Invalid;

use crate::error::{Error, Result};
use crate::types::limits::Quota;

/// Source of time for creation and update times, and for times to live: milliseconds since 1970-01-01 UTC. Nothing below the server
/// reads a clock of its own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who builds the graphs, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// One thread of the store, beside readers and writers.
    Background,
    /// The writer, after its commit is durable and before it is acknowledged: for tests and tools.
    Inline,
    /// Only [`Store::seal_all`](crate::Store::seal_all); everything else is searched flat.
    Manual,
}

/// Limits and bounds; the defaults suit one machine with a few gigabytes of memory.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes of graphs and of unsealed entries kept in memory. One segment that is larger is used and dropped.
    pub index_cache_bytes: usize,
    /// Bytes of fetched keys and values kept in memory.
    pub chunk_cache_bytes: usize,
    /// Unsealed entries of one slot and head that are sealed into a segment: 16 to 65,536. Segments grow beyond, because
    /// sealing takes smaller ones in.
    pub seal_entries: usize,
    /// Most entries of a segment: 1,024 to 2^24. Its graphs also stay below a fourth of the index cache each.
    pub max_segment_entries: u64,
    /// Links that an entry makes in the graph; it keeps at most twice as many. 4 to 128.
    pub m: usize,
    /// Breadth of the search while building.
    pub ef_construction: usize,
    /// Breadth of the search when the request names none.
    pub ef_search: usize,
    /// Entries of one slot and head up to which a request that names no breadth is answered by a scan. Measured on two
    /// cores: from there on a walk that finds 0.99 of the same entries takes less time.
    pub scan_entries: u64,
    /// Threads of the pool that builds graphs.
    pub seal_threads: usize,
    /// Who builds graphs.
    pub sealing: Sealing,
    /// Bytes that a writer buffers before it writes a blob (the commit attaches all of them).
    pub writer_buffer_bytes: usize,
    /// Memories in the store, over all tenants.
    pub max_memories: u64,
    /// Documents in one memory.
    pub max_documents_per_memory: u64,
    /// What each tenant may hold in all its memories, unless [`Store::set_quota`](crate::Store::set_quota) says otherwise.
    pub tenant_quota: Quota,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            index_cache_bytes: 1 << 30,
            chunk_cache_bytes: 128 << 20,
            seal_entries: 65_536,
            max_segment_entries: 1 << 22,
            m: 32,
            ef_construction: 128,
            ef_search: 384,
            scan_entries: 1 << 16,
            seal_threads: 1,
            sealing: Sealing::Background,
            writer_buffer_bytes: 8 << 20,
            max_memories: 10_000,
            max_documents_per_memory: 1_000_000,
            tenant_quota: Quota::default(),
        }
    }
}

impl StoreOptions {
    /// Most entries of a segment of a memory: what [`max_segment_entries`](Self::max_segment_entries) and the cache allow.
    pub(crate) fn most_segment_entries(&self, head_dim: usize) -> u64 {
        // Codes, links as many as there may be, and what little is left.
        let entry_bytes = 2 * head_dim + 6 * self.m + 16;
        let fit = (self.index_cache_bytes / 4 / entry_bytes) as u64;
        self.max_segment_entries.min(fit).max(self.seal_entries as u64)
    }

    /// Refuses values outside of the ranges documented on the fields.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("seal_entries", self.seal_entries, 16, 65_536),
            ("max_segment_entries", self.max_segment_entries as usize, 1024, 1 << 24),
            ("m", self.m, 4, 128),
            ("ef_construction", self.ef_construction, 8, 4096),
            ("ef_search", self.ef_search, 1, 65_536),
            ("seal_threads", self.seal_threads, 1, 256),
            ("writer_buffer_bytes", self.writer_buffer_bytes, 1, 1 << 30),
        ];
        for (what, value, least, most) in ranges {
            if value < least || value > most {
                return Err(Error::Invalid(Invalid {
                    what: "store options",
                    why: format!("{what} is {value}; {least} to {most} is accepted"),
                }));
            }
        }
        Ok(())
    }
}
