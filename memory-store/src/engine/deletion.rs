//! Deletion of memories and documents, by users and by expiry.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::active_writers::TakenDocuments;
use crate::engine::registry::MemoryEntry;
use crate::engine::state::MemoryState;
use crate::engine::transaction::Transaction;
use crate::engine::{Engine, document_record};
use crate::error::{Error, Result};
use crate::format::records::{COPY_KIND, DocumentRecord, OLD_SEGMENT_KIND, SEGMENT_KIND, memory_key, name_key};
use crate::storage::Batch;
use crate::sync::lock;

/// Records removed at once when a memory is deleted.
pub(crate) const SWEEP: usize = 64;
/// Value of a record `g` once the other records of the memory are gone.
pub(crate) const DELETED: [u8; 1] = [1];

/// Deletes a memory, durably. [`Error::DocumentBusy`](crate::Error::DocumentBusy) while one of its documents is being written.
pub(crate) fn delete_memory(engine: &Engine, memory_entry: &MemoryEntry) -> Result<()> {
    delete_memory_if(engine, memory_entry, || true).map(|_| ())
}

/// Deletes a memory that expired and in which nothing is being written; returns whether it did.
pub(crate) fn delete_expired_memory(engine: &Engine, memory_entry: &MemoryEntry, now_unix_ms: u64) -> Result<bool> {
    match delete_memory_if(engine, memory_entry, || memory_entry.ttl.memory_is_due(now_unix_ms)) {
        // Deleted by another call, or written since.
        Err(Error::DocumentBusy { .. } | Error::UnknownMemory { .. }) => Ok(false),
        other => other,
    }
}

/// Deletes a memory if `wanted` says so once it is closed to writers.
fn delete_memory_if(engine: &Engine, memory_entry: &MemoryEntry, wanted: impl FnOnce() -> bool) -> Result<bool> {
    {
        let _commit = lock(&memory_entry.commit_lock);
        memory_entry.check_alive()?;
        let _closed = memory_entry.active_writers.close()?;
        if !wanted() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.delete(name_key(&memory_entry.tenant, &memory_entry.name));
        batch.put(memory_key(b'g', memory_entry.number), Vec::new());
        engine.commit(&batch)?;
        // From here on it is deleted; what remains is tidying, and opening the store does what is not done here.
        memory_entry.deleted.store(true, Ordering::Release);
        engine.registry.remove(memory_entry);
    }
    delete(engine, memory_entry);
    Ok(true)
}

/// Deletes those documents of `taken` that `wanted` accepts, in one commit, and returns their records. A record that cannot be read
/// does not hold up the others; its error comes with them. `changed_unix_ms` is given where a user asked for it.
pub(crate) fn delete_documents(
    engine: &Engine,
    memory_entry: &MemoryEntry,
    taken: &TakenDocuments<'_>,
    changed_unix_ms: Option<u64>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<DocumentRecord>, Result<()>)> {
    let _commit = lock(&memory_entry.commit_lock);
    memory_entry.check_alive()?;
    let (mut ids, mut records, mut outcome) = (Vec::new(), Vec::new(), Ok(()));
    for id in taken.documents.iter().filter(|id| wanted(id)) {
        match document_record(engine, memory_entry, id) {
            Ok(Some(record)) => {
                ids.push((Arc::clone(id), record.number));
                records.push(record);
            }
            Ok(None) => {}
            Err(error) => outcome = Err(error),
        }
    }
    if !ids.is_empty() {
        let state = memory_entry.state();
        let mut transaction = Transaction::new(memory_entry, &state);
        if let Some(changed_unix_ms) = changed_unix_ms {
            transaction.changed_unix_ms = changed_unix_ms;
        }
        transaction.remove_documents(&state, &ids);
        transaction.commit(engine)?;
    }
    Ok((records, outcome))
}

/// Removes the records of a memory that was deleted, and frees its blobs. May be cut short: opening the store does the rest.
pub(crate) fn delete(engine: &Engine, memory_entry: &MemoryEntry) {
    if let Err(error) = remove_memory_records(engine, memory_entry.number) {
        tracing::warn!(%error, "records of a deleted memory stay until the store is opened again");
    }
    let state = memory_entry.replace_state(Arc::new(MemoryState::new(0, 0, Vec::new(), [])));
    for extent in &state.extents {
        extent.extent.file.mark_for_deletion();
    }
    for segment in &state.segments {
        segment.segment.mark_for_deletion();
    }
}

pub(crate) fn remove_memory_records(engine: &Engine, memory: u64) -> Result<()> {
    for kind in [b'd', b'e', OLD_SEGMENT_KIND, SEGMENT_KIND, COPY_KIND, b'm'] {
        loop {
            let page = engine.storage.scan(&memory_key(kind, memory), None, SWEEP)?;
            let mut batch = Batch::default();
            for (key, _) in page {
                batch.delete(key);
            }
            if batch.is_empty() {
                break;
            }
            engine.commit(&batch)?;
        }
    }
    // It stays: blobs of a memory that is neither known nor deleted tell that records were lost.
    let mut batch = Batch::default();
    // Gone already: it tells the storage that this is a deletion, for which some space is kept.
    batch.delete(memory_key(b'm', memory));
    batch.put(memory_key(b'g', memory), DELETED.to_vec());
    engine.commit(&batch)
}
