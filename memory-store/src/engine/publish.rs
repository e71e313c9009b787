//! A memory gets a name, or takes that of another, in one step.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::deletion::delete;
use crate::engine::quota::{Account, Held};
use crate::engine::registry::{Key, MemoryEntry, ReservedName};
use crate::engine::state::MemoryState;
use crate::engine::ttl::Times;
use crate::error::{Error, Result};
use crate::format::records::{COPY_KIND, NameRecord, memory_key, name_key};
use crate::storage::Batch;
use crate::sync::lock;

/// Pause before a name that is being created is looked up again.
const WAIT: Duration = Duration::from_millis(1);

/// A memory that is to get a name: its record, its state, and when it expires.
pub(crate) type NewMemory = (NameRecord, Arc<MemoryState>, Times);

/// Gives a new memory the name `key` with one commit, which `batch` may begin. The memory that has the name is deleted if it is to be
/// `replaced`. `check_room` is asked, with what that one holds, when nothing else can refuse. Returns the old memory as well,
/// whose records the caller [deletes](delete).
pub(crate) fn publish(
    engine: &Engine,
    key: &Key,
    new: NewMemory,
    batch: Batch,
    replaced: bool,
    check_room: impl Fn(Held) -> Result<()>,
) -> Result<(Arc<MemoryEntry>, Option<Arc<MemoryEntry>>)> {
    let account = engine.accounts.of(&key.0);
    loop {
        let Some(old) = engine.registry.get(&key.0, &key.1) else {
            let reserved = match engine.registry.reserve(key, &account) {
                // It is being created.
                Err(Error::MemoryExists { .. }) if replaced => {
                    std::thread::sleep(WAIT);
                    continue;
                }
                other => other?,
            };
            let _tenant = account.commit_lock();
            check_room(Held::default())?;
            return Ok((publish_free(engine, reserved, &account, key, new, batch)?, None));
        };
        if !replaced {
            return Err(Error::MemoryExists { name: key.1.clone() });
        }
        let _commit = lock(&old.commit_lock);
        if old.is_deleted() {
            continue;
        }
        old.check_alive()?;
        // Until the old one is marked, so that no writer starts meanwhile.
        let _closed = old.active_writers.close()?;
        // After the lock of the memory, as commits of writers.
        let _tenant = account.commit_lock();
        check_room(Held::of(&old.state().totals))?;
        let memory = commit_over(engine, &old, new, batch)?;
        engine.registry.insert(Arc::clone(&memory));
        old.deleted.store(true, Ordering::Release);
        return Ok((memory, Some(Arc::clone(&old))));
    }
}

/// Gives a memory a name that is reserved for it.
pub(crate) fn publish_free(
    engine: &Engine,
    name: ReservedName<'_>,
    account: &Arc<Account>,
    key: &Key,
    (record, state, times): NewMemory,
    mut batch: Batch,
) -> Result<Arc<MemoryEntry>> {
    batch.put(name_key(&key.0, &key.1), record.encode());
    engine.commit(&batch)?;
    let memory = Arc::new(MemoryEntry::new(Arc::clone(account), key.clone(), record, state, times));
    name.take(Arc::clone(&memory));
    Ok(memory)
}

/// Commits that a memory has the name of `old`, which is deleted. The commit lock of `old` is held, and it is closed to writers. The
/// caller gives the new memory its name, then marks the old one: the name is known at any time.
fn commit_over(
    engine: &Engine,
    old: &MemoryEntry,
    (record, state, times): NewMemory,
    mut batch: Batch,
) -> Result<Arc<MemoryEntry>> {
    batch.put(name_key(&old.tenant, &old.name), record.encode());
    batch.put(memory_key(b'g', old.number), Vec::new());
    engine.commit(&batch)?;
    let key = (old.tenant.clone(), old.name.clone());
    Ok(Arc::new(MemoryEntry::new(Arc::clone(&old.account), key, record, state, times)))
}

/// Lets memory `from` of a tenant take the name and the place of memory `to`, which is deleted, in one step. Refused if the
/// last change of `to` is not `expected`, and while a document of either is being written.
pub(crate) fn replace(
    engine: &Engine,
    tenant: &str,
    from: &str,
    to: &str,
    expected: Option<u64>,
) -> Result<Arc<MemoryEntry>> {
    let find = |name: &str| {
        let unknown = || Error::UnknownMemory { name: name.chars().take(128).collect() };
        engine.registry.get(tenant, name).ok_or_else(unknown)
    };
    let (memory, old) = loop {
        let (new, old) = (find(from)?, find(to)?);
        new.check_alive()?;
        // In the order of their numbers, so that two calls do not wait for each other.
        let (first, second) = if new.number < old.number { (&new, &old) } else { (&old, &new) };
        let (_first, _second) = (lock(&first.commit_lock), lock(&second.commit_lock));
        if [&new, &old].into_iter().any(|memory| memory.is_deleted() && engine.registry.has_other(memory)) {
            // Replaced meanwhile by another of its name.
            continue;
        }
        new.check_alive()?;
        old.check_alive()?;
        // Until the handles of the old name are dead: afterwards another entry speaks for its records.
        let (_new_closed, _old_closed) = (new.active_writers.close()?, old.active_writers.close()?);
        if expected.is_some_and(|expected| expected != old.state().sequence) {
            return Err(Error::MemoryChanged { memory: to.to_owned() });
        }
        let times = new.ttl.times().clone();
        let record = NameRecord {
            number: new.number,
            created_unix_ms: new.created_unix_ms,
            spec: new.spec.clone(),
            limits: times.limits,
        };
        let mut batch = Batch::default();
        batch.delete(name_key(tenant, from));
        batch.delete(memory_key(COPY_KIND, new.number));
        let memory = commit_over(engine, &old, (record, new.state(), times), batch)?;
        // It is counted under its new name.
        new.account.moved(Held::of(&new.state().totals), Held::default());
        engine.registry.rename(Arc::clone(&memory), &new);
        new.deleted.store(true, Ordering::Release);
        old.deleted.store(true, Ordering::Release);
        break (memory, Arc::clone(&old));
    };
    delete(engine, &old);
    Ok(memory)
}
