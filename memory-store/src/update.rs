//! Changes of the limits of a memory.

use std::sync::Arc;

use crate::core::{Cell, Core};
use crate::life::Expiries;
use crate::memory::Change;
use crate::records::{DocumentRecord, NameRecord, memory_key, name_key};
use crate::store::for_each_record;
use crate::sync::lock;
use crate::{Error, MemoryLimits, Result};

/// Changes the limits of a memory, durably.
pub(crate) fn update_limits(core: &Core, cell: &Cell, change: impl FnOnce(&mut MemoryLimits)) -> Result<()> {
    let _turn = lock(&cell.commit);
    cell.check_alive()?;
    let mut limits = cell.life.limits();
    change(&mut limits);
    limits.validate()?;
    let spec = cell.spec.clone();
    let record = NameRecord { number: cell.number, created_unix_ms: cell.created_unix_ms, spec, limits };
    let state = cell.state();
    let mut change = Change::new(cell, &state);
    change.changed_unix_ms = core.now_unix_ms();
    change.batch.put(name_key(&cell.tenant, &cell.name), record.encode());
    change.limits = Some((limits, expiries(core, cell, &limits)?));
    change.commit(core)?;
    Ok(())
}

/// When the documents of a memory go under `limits`.
fn expiries(core: &Core, cell: &Cell, limits: &MemoryLimits) -> Result<Expiries> {
    core.check_whole()?;
    let mut expiries = Expiries::default();
    for_each_record(core.storage.as_ref(), &memory_key(b'd', cell.number), |(key, value)| {
        let id = str::from_utf8(&key[9..]).map_err(|_| Error::Damaged {
            what: format!("the catalog of memory {}", cell.name),
            why: "a document id is not UTF-8".into(),
        })?;
        let record = DocumentRecord::decode(&value, &format!("the record of document {id} in memory {}", cell.name))?;
        expiries.set(Arc::from(id), record.expires_unix_ms(limits.document_ttl_ms));
        Ok(())
    })?;
    Ok(expiries)
}
