//! A memory gets a name, or takes that of another, in one step.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::core::{Cell, Core, Names};
use crate::life::Times;
use crate::names::check_name;
use crate::quota::Held;
use crate::records::{COPY_KIND, NameRecord, memory_key, name_key};
use crate::state::MemoryState;
use crate::storage::Batch;
use crate::store::{new_cell, remove_memory_records};
use crate::sync::{lock, write};
use crate::{Error, Memory, Result, Store};

/// Removes the records of a memory that was deleted, and frees its blobs. May be cut short: opening the store does the rest.
pub(crate) fn retire(core: &Core, cell: &Cell) {
    if let Err(error) = remove_memory_records(core, cell.number) {
        tracing::warn!(%error, "records of a deleted memory stay until the store is opened again");
    }
    let state = cell.replace_state(Arc::new(MemoryState::new(0, 0, Vec::new(), [])));
    for extent in &state.extents {
        extent.extent.file.doom();
    }
    for segment in &state.segments {
        segment.segment.doom();
    }
}

/// Gives a memory the name `key` with one commit, which `batch` may begin. What has the name makes place if it is to be
/// `replaced`; its change `expected` must then be its last one, if that is given. Returns both: the one that made place
/// is to be [retired](retire) when the names are free again.
pub(super) fn put_in_place(
    core: &Core,
    names: &mut Names,
    key: (String, String),
    (record, state, times): (NameRecord, Arc<MemoryState>, Times),
    mut batch: Batch,
    replaced: bool,
    expected: Option<u64>,
) -> Result<(Arc<Cell>, Option<Arc<Cell>>)> {
    let old = names.get(&key).map(Arc::clone);
    match &old {
        Some(_) if !replaced => return Err(Error::MemoryExists { name: key.1 }),
        Some(_) => {}
        None => core.check_memory_limit(names)?,
    }
    batch.put(name_key(&key.0, &key.1), record.encode());
    let Some(old) = old else {
        core.commit(&batch)?;
        let cell = Arc::new(new_cell(core, key.clone(), record, state, times));
        names.insert(key, Arc::clone(&cell));
        return Ok((cell, None));
    };
    old.check_alive()?;
    let turn = lock(&old.commit);
    // Held until the old one is marked, so that no writer starts meanwhile.
    let busy = lock(&old.busy);
    if let Some(document) = busy.iter().next() {
        return Err(Error::DocumentBusy { document: document.clone() });
    }
    if expected.is_some_and(|expected| expected != old.state().sequence) {
        return Err(Error::MemoryChanged { memory: key.1 });
    }
    batch.put(memory_key(b'g', old.number), Vec::new());
    core.commit(&batch)?;
    old.deleted.store(true, Ordering::Release);
    drop((turn, busy));
    let cell = Arc::new(new_cell(core, key.clone(), record, state, times));
    names.insert(key, Arc::clone(&cell));
    Ok((cell, Some(old)))
}

impl Store {
    /// Lets memory `from` take the name and the place of memory `to`, which is deleted, in one step. Refused with
    /// [`Error::MemoryChanged`] if the last change of `to` is not `expected`, and with [`Error::DocumentBusy`] while a
    /// document of either is being written. Handles to both answer [`Error::UnknownMemory`] afterwards; snapshots that
    /// are held keep working.
    pub fn replace_memory(&self, tenant: &str, from: &str, to: &str, expected: Option<u64>) -> Result<Memory> {
        let core = &self.shared.core;
        check_name("memory name", to)?;
        if from == to {
            return Err(Error::Invalid { what: "memory name", why: "a memory cannot take its own place".into() });
        }
        let mut names = write(&core.names);
        let find = |name: &str| names.get(&(tenant.to_owned(), name.to_owned())).map(Arc::clone);
        let unknown = |name: &str| Error::UnknownMemory { name: name.chars().take(128).collect() };
        let new = find(from).ok_or_else(|| unknown(from))?;
        find(to).ok_or_else(|| unknown(to))?;
        // Held until the handles of the old name are dead: afterwards another cell speaks for its records.
        let _turn = lock(&new.commit);
        let busy = lock(&new.busy);
        new.check_alive()?;
        if let Some(document) = busy.iter().next() {
            return Err(Error::DocumentBusy { document: document.clone() });
        }
        let times = new.life.times().clone();
        let record = NameRecord {
            number: new.number,
            created_unix_ms: new.created_unix_ms,
            spec: new.spec.clone(),
            limits: times.limits,
        };
        let mut batch = Batch::default();
        batch.delete(name_key(tenant, from));
        batch.delete(memory_key(COPY_KIND, new.number));
        let key = (tenant.to_owned(), to.to_owned());
        let (cell, old) = put_in_place(core, &mut names, key, (record, new.state(), times), batch, true, expected)?;
        // It is counted under its new name.
        new.account.moved(Held::of(&new.state().totals), Held::default());
        new.deleted.store(true, Ordering::Release);
        names.remove(&(tenant.to_owned(), from.to_owned()));
        drop((names, busy));
        if let Some(old) = old {
            retire(core, &old);
        }
        self.shared.sealer.notify(core, &cell);
        Ok(Memory::new(Arc::clone(&self.shared), cell))
    }
}
