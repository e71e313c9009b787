//! What is due goes: before anybody reads it, and by [`Store::expire`] so that its space comes back without readers.
//!
//! It goes as if somebody deleted it: durably, in the turn of its memory, with snapshots keeping what they show. Where that
//! fails (a full disk), readers do not see it all the same. A document with a living writer stays until the writer goes,
//! and so does its memory. A damaged memory stays until it was repaired.

use std::sync::Arc;

use crate::core::{Cell, Core};
use crate::memory::{Change, document_record};
use crate::sync::{lock, read};
use crate::{Error, Result, Store};

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

impl Store {
    /// Deletes everything that is due by the clock. To be called now and then: what nobody reads keeps its space
    /// otherwise. A memory where that fails does not hold up the others; the first error is returned.
    pub fn expire(&self) -> Result<Expired> {
        let core = &self.shared.core;
        let cells: Vec<_> = read(&core.names).values().cloned().collect();
        expire_all(core, &cells)
    }
}

/// Deletes what is due in `cells`, as far as that is possible.
fn expire_all(core: &Core, cells: &[Arc<Cell>]) -> Result<Expired> {
    let (mut all, mut outcome) = (Expired::default(), Ok(()));
    for cell in cells {
        match expire(core, cell) {
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
pub(crate) fn make_room(core: &Core, tenant: &str) {
    if let Err(error) = expire_all(core, &core.cells_of(tenant, None)) {
        tracing::warn!(tenant, %error, "what expired cannot be deleted now; it counts");
    }
}

/// Deletes what is due in one memory, or the memory. Looks at two numbers when nothing is.
pub(crate) fn expire(core: &Core, cell: &Arc<Cell>) -> Result<Expired> {
    let now = core.now_unix_ms();
    let mut expired = Expired::default();
    if !cell.life.is_due(now) || cell.check_alive().is_err() {
        return Ok(expired);
    }
    let due = Due::of(cell, now);
    if due.memory && crate::store::remove_due_memory(core, cell, now)? {
        tracing::debug!(tenant = cell.tenant, memory = cell.name, "a memory expired");
        expired.memories = 1;
        return Ok(expired);
    }
    for ids in due.documents.chunks(BATCH) {
        expired.documents += delete_due(core, cell, ids, now)?;
    }
    Ok(expired)
}

/// For readers: deletes what is due, and returns the documents that are to be hidden because that failed.
/// [`Error::UnknownMemory`] if the memory went, or is to be hidden; no other error.
pub(crate) fn settle(core: &Core, cell: &Arc<Cell>) -> Result<Vec<Arc<str>>> {
    let unknown = || Error::UnknownMemory { name: cell.name.clone() };
    if let Err(error) = expire(core, cell) {
        tracing::warn!(memory = cell.name, %error, "what expired cannot be deleted now; it is hidden");
        let due = Due::of(cell, core.now_unix_ms());
        return if due.memory { Err(unknown()) } else { Ok(due.documents) };
    }
    if cell.is_deleted() { Err(unknown()) } else { Ok(Vec::new()) }
}

/// What is due and not being written.
struct Due {
    memory: bool,
    documents: Vec<Arc<str>>,
}

impl Due {
    fn of(cell: &Cell, now_unix_ms: u64) -> Self {
        let mut documents = cell.life.due_documents(now_unix_ms);
        let busy = lock(&cell.busy);
        documents.retain(|id| !busy.contains(id.as_ref()));
        Self { memory: busy.is_empty() && cell.life.memory_is_due(now_unix_ms), documents }
    }
}

/// Deletes those of `ids` that are due still, in one commit.
fn delete_due(core: &Core, cell: &Cell, ids: &[Arc<str>], now_unix_ms: u64) -> Result<u64> {
    let _turn = lock(&cell.commit);
    // Held to the end, so that no writer starts meanwhile.
    let busy = lock(&cell.busy);
    if cell.is_deleted() {
        return Ok(0);
    }
    let (mut documents, mut outcome) = (Vec::new(), Ok(()));
    for id in ids.iter().filter(|id| !busy.contains(id.as_ref()) && cell.life.document_is_due(id, now_unix_ms)) {
        match document_record(core, cell, id) {
            Ok(Some(record)) => documents.push((Arc::clone(id), record.number)),
            Ok(None) => {}
            // The others go all the same.
            Err(error) => outcome = Err(error),
        }
    }
    if documents.is_empty() {
        return outcome.map(|()| 0);
    }
    let state = cell.state();
    let mut change = Change::new(cell, &state);
    change.remove_documents(&state, &documents);
    change.commit(core)?;
    tracing::debug!(tenant = cell.tenant, memory = cell.name, documents = documents.len(), "documents expired");
    outcome.map(|()| documents.len() as u64)
}
