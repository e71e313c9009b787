//! Changes of the limits of a memory.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::registry::MemoryEntry;
use crate::engine::transaction::Transaction;
use crate::engine::ttl::Expiries;
use crate::error::{Error, Result};
use crate::format::records::{DocumentRecord, NameRecord, memory_key, name_key};
use crate::storage::for_each_record;
use crate::sync::lock;
use crate::types::limits::MemoryLimits;

/// Changes the limits of a memory, durably.
pub(crate) fn update_limits(
    engine: &Engine,
    memory_entry: &MemoryEntry,
    change: impl FnOnce(&mut MemoryLimits),
) -> Result<()> {
    let _commit = lock(&memory_entry.commit_lock);
    memory_entry.check_alive()?;
    let mut limits = memory_entry.ttl.limits();
    change(&mut limits);
    limits.validate()?;
    let spec = memory_entry.spec.clone();
    let record =
        NameRecord { number: memory_entry.number, created_unix_ms: memory_entry.created_unix_ms, spec, limits };
    let state = memory_entry.state();
    let mut transaction = Transaction::new(memory_entry, &state);
    transaction.changed_unix_ms = engine.now_unix_ms();
    transaction.batch.put(name_key(&memory_entry.tenant, &memory_entry.name), record.encode());
    transaction.limits = Some((limits, expiries(engine, memory_entry, &limits)?));
    transaction.commit(engine)?;
    Ok(())
}

/// When the documents of a memory go under `limits`.
fn expiries(engine: &Engine, memory_entry: &MemoryEntry, limits: &MemoryLimits) -> Result<Expiries> {
    engine.check_whole()?;
    let mut expiries = Expiries::default();
    for_each_record(engine.storage.as_ref(), &memory_key(b'd', memory_entry.number), |(key, value)| {
        let id = str::from_utf8(&key[9..]).map_err(|_| Error::Damaged {
            what: format!("the catalog of memory {}", memory_entry.name),
            why: "a document id is not UTF-8".into(),
        })?;
        let record =
            DocumentRecord::decode(&value, &format!("the record of document {id} in memory {}", memory_entry.name))?;
        expiries.set(Arc::from(id), record.expires_unix_ms(limits.document_ttl_ms));
        Ok(())
    })?;
    Ok(expiries)
}
