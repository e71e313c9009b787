//! Deletion of what is past its time to live.
//!
//! Expired items are deleted like explicit deletes: durably, under the commit lock of their memory, while snapshots keep what
//! they show. [`Store::expire`](crate::Store::expire) does it periodically, and calls that write do it where it matters: a name, a document or room that
//! they need. Readers delete nothing; they filter expired items out ([`MemoryEntry::expired`]). A document with a living writer stays until
//! the writer is dropped, and so does its memory. A damaged memory stays until it is repaired.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::deletion::{delete_documents, delete_expired_memory};
use crate::engine::registry::MemoryEntry;
use crate::error::{Error, Result};

/// Documents deleted in one commit.
const BATCH: usize = 64;

/// What went because its time to live was over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Memories, each with everything in it.
    pub memories: u64,
    /// Documents of other memories.
    pub documents: u64,
}

/// Deletes what is due in `memories`, as far as that is possible.
pub(crate) fn expire_all(engine: &Engine, memories: &[Arc<MemoryEntry>]) -> Result<Expired> {
    let (mut all, mut outcome) = (Expired::default(), Ok(()));
    for memory_entry in memories {
        match expire(engine, memory_entry) {
            Ok(one) => {
                all.memories += one.memories;
                all.documents += one.documents;
            }
            Err(error) => outcome = outcome.and(Err(error)),
        }
    }
    outcome.map(|()| all)
}

/// Deletes what is due in the memories of a tenant, so that it does not count any more. Where that fails it counts.
pub(crate) fn make_room(engine: &Engine, tenant: &str) {
    if let Err(error) = expire_all(engine, &engine.registry.of_tenant(tenant, None)) {
        tracing::warn!(tenant, %error, "what expired cannot be deleted now; it counts");
    }
}

/// Deletes what expired in one memory, or the memory. Looks at two numbers when nothing did.
pub(crate) fn expire(engine: &Engine, memory_entry: &Arc<MemoryEntry>) -> Result<Expired> {
    let now = engine.now_unix_ms();
    let mut expired = Expired::default();
    if !memory_entry.ttl.is_due(now) || memory_entry.check_alive().is_err() {
        return Ok(expired);
    }
    if memory_entry.is_expired(now) && delete_expired_memory(engine, memory_entry, now)? {
        tracing::debug!(tenant = memory_entry.tenant, memory = memory_entry.name, "a memory expired");
        expired.memories = 1;
        return Ok(expired);
    }
    let mut outcome = Ok(());
    for ids in memory_entry.ttl.due_documents(now).chunks(BATCH) {
        let is_due = |id: &str| memory_entry.ttl.document_is_due(id, now);
        let taken = memory_entry.active_writers.take_free(ids);
        let (records, unread) = match delete_documents(engine, memory_entry, &taken, None, is_due) {
            // Deleted meanwhile.
            Err(Error::UnknownMemory { .. }) => break,
            other => other?,
        };
        outcome = outcome.and(unread);
        let documents = records.len();
        tracing::debug!(tenant = memory_entry.tenant, memory = memory_entry.name, documents, "documents expired");
        expired.documents += documents as u64;
    }
    outcome.map(|()| expired)
}
