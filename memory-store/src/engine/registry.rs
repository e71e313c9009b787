//! The memories of a store, by tenant and name, and what all handles of one share.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::engine::active_writers::ActiveWriters;
use crate::engine::quota::{Account, Growth, Held, check_memories, check_memory, check_tenant};
use crate::engine::state::MemoryState;
use crate::engine::ttl::{Times, TtlState};
use crate::error::{Error, Result};
use crate::format::records::NameRecord;
use crate::sync::{lock, read, write};
use crate::types::info::MemorySpec;

/// One memory, shared by its handles.
pub(crate) struct MemoryEntry {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) created_unix_ms: u64,
    pub(crate) spec: MemorySpec,
    pub(crate) state: RwLock<Arc<MemoryState>>,
    /// Its limits, and what is due when.
    pub(crate) ttl: TtlState,
    /// What its tenant holds.
    pub(crate) account: Arc<Account>,
    /// Held from reading the state to replacing it: commits, deletions and sealings of a memory take turns.
    pub(crate) commit_lock: Mutex<()>,
    /// Documents with a living writer.
    pub(crate) active_writers: ActiveWriters,
    pub(crate) deleted: AtomicBool,
    /// Why nothing can be done with it: its records are damaged.
    pub(crate) damaged: Option<String>,
    /// Held while segments are built: one builder for each memory.
    pub(crate) sealing: Mutex<()>,
    /// Whether it waits for the sealing thread.
    pub(crate) queued: AtomicBool,
}

impl MemoryEntry {
    /// A memory of `account`'s tenant, whose holdings it joins.
    pub(crate) fn new(
        account: Arc<Account>,
        (tenant, name): (String, String),
        record: NameRecord,
        state: impl Into<Arc<MemoryState>>,
        times: Times,
    ) -> Self {
        let state = state.into();
        account.moved(Held::default(), Held::of(&state.totals));
        Self {
            ttl: TtlState::new(times),
            account,
            tenant,
            name,
            number: record.number,
            created_unix_ms: record.created_unix_ms,
            spec: record.spec,
            state: RwLock::new(state),
            commit_lock: Mutex::default(),
            active_writers: ActiveWriters::default(),
            deleted: AtomicBool::new(false),
            damaged: None,
            sealing: Mutex::default(),
            queued: AtomicBool::new(false),
        }
    }

    pub(crate) fn state(&self) -> Arc<MemoryState> {
        Arc::clone(&read(&self.state))
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.is_deleted() {
            return Err(Error::UnknownMemory { name: self.name.clone() });
        }
        if let Some(why) = &self.damaged {
            return Err(Error::Damaged { what: format!("memory {}", self.name), why: why.clone() });
        }
        Ok(())
    }

    /// Whether anything bounds what it may hold.
    pub(crate) fn is_bounded(&self) -> bool {
        let (limits, quota) = (self.ttl.limits(), self.account.quota());
        [limits.max_tokens, limits.max_bytes, quota.max_tokens, quota.max_bytes].iter().any(Option::is_some)
    }

    /// Refuses what would not fit it when it holds `held`, or its tenant.
    pub(crate) fn check_quotas(&self, held: Held, growth: Growth) -> Result<()> {
        check_memory(&self.name, &self.ttl.limits(), held, growth)?;
        check_tenant(&self.tenant, &self.account.quota(), self.account.held(), growth)
    }

    /// Documents that expired, which readers hide until they are deleted; those that are being written live on. For a memory
    /// that was deleted, or that expired as a whole while nothing is written, [`Error::UnknownMemory`]. A damaged memory does not
    /// expire before it is repaired.
    pub(crate) fn expired(&self, now_unix_ms: u64) -> Result<Vec<Arc<str>>> {
        self.where_due(now_unix_ms, |written| {
            let mut documents = self.ttl.due_documents(now_unix_ms);
            documents.retain(|id| !written.contains(id));
            documents
        })
    }

    /// Whether a document is one of those that [`expired`](Self::expired) returns.
    pub(crate) fn hides(&self, document_id: &str, now_unix_ms: u64) -> Result<bool> {
        self.where_due(now_unix_ms, |written| {
            self.ttl.document_is_due(document_id, now_unix_ms) && !written.contains(document_id)
        })
    }

    /// Calls `look` with what is being written, if anything of the memory is due.
    fn where_due<T: Default>(&self, now_unix_ms: u64, look: impl FnOnce(&HashSet<Arc<str>>) -> T) -> Result<T> {
        let unknown = || Error::UnknownMemory { name: self.name.clone() };
        if self.is_deleted() {
            return Err(unknown());
        }
        if !self.ttl.is_due(now_unix_ms) || self.damaged.is_some() {
            return Ok(T::default());
        }
        self.active_writers.while_written(|written| {
            if written.is_empty() && self.ttl.memory_is_due(now_unix_ms) { Err(unknown()) } else { Ok(look(written)) }
        })
    }

    /// Whether it expired as a whole, and nothing of it is being written.
    pub(crate) fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.active_writers.while_written(|written| written.is_empty() && self.ttl.memory_is_due(now_unix_ms))
    }

    /// What readers see: the state without documents that expired.
    pub(crate) fn shown(&self, now_unix_ms: u64) -> Result<Arc<MemoryState>> {
        let mut hidden = self.expired(now_unix_ms)?;
        loop {
            let state = self.state();
            // Deleted, or begun again, since they were looked up.
            let again = self.expired(now_unix_ms)?;
            if again == hidden {
                return Ok(if hidden.is_empty() { state } else { Arc::new(state.without(&hidden)) });
            }
            hidden = again;
        }
    }

    /// Counts again what it holds, after embeddings came, of which no commit tells.
    pub(crate) fn recount(&self) {
        let _commit = lock(&self.commit_lock);
        if self.check_alive().is_err() {
            return;
        }
        self.replace_state(Arc::new(self.state().recounted()));
    }

    /// Shows another state from now on, and counts what it holds instead of the old one, which is returned.
    pub(crate) fn replace_state(&self, state: Arc<MemoryState>) -> Arc<MemoryState> {
        let holds = Held::of(&state.totals);
        let old = std::mem::replace(&mut *write(&self.state), state);
        self.account.moved(Held::of(&old.totals), holds);
        old
    }
}

/// Tenant and name of a memory.
pub(crate) type Key = (String, String);

/// The memories of a store by tenant and name. Its lock is never held while anything is made durable, so that creating
/// or deleting a memory makes no other caller wait for the disk.
pub(crate) struct Registry {
    memories_max: u64,
    names: RwLock<Names>,
}

#[derive(Default)]
struct Names {
    memories: BTreeMap<Key, Arc<MemoryEntry>>,
    /// Names of memories that are being created.
    reserved: BTreeSet<Key>,
}

impl Registry {
    /// At most `memories_max` memories, over all tenants, can be added by name.
    pub(crate) fn new(memories_max: u64) -> Self {
        Self { memories_max, names: RwLock::default() }
    }

    /// The memory that has a name.
    pub(crate) fn get(&self, tenant: &str, name: &str) -> Option<Arc<MemoryEntry>> {
        read(&self.names).memories.get(&(tenant.to_owned(), name.to_owned())).map(Arc::clone)
    }

    /// All memories.
    pub(crate) fn all(&self) -> Vec<Arc<MemoryEntry>> {
        read(&self.names).memories.values().cloned().collect()
    }

    /// Memories of a tenant, by name, those after `after`.
    pub(crate) fn of_tenant(&self, tenant: &str, after: Option<&str>) -> Vec<Arc<MemoryEntry>> {
        let start = (tenant.to_owned(), after.unwrap_or_default().to_owned());
        let start = if after.is_some() { Bound::Excluded(start) } else { Bound::Included(start) };
        let names = read(&self.names);
        let memories = names.memories.range((start, Bound::Unbounded));
        memories.take_while(|((owner, _), _)| owner == tenant).map(|(_, memory)| Arc::clone(memory)).collect()
    }

    /// Refuses a name that cannot be [reserved](Self::reserve) now.
    pub(crate) fn check_free(&self, key: &Key) -> Result<()> {
        read(&self.names).check_free(key, self.memories_max)
    }

    /// Takes a name for a memory that is being created, until the result is dropped: [`Error::MemoryExists`] if it is taken,
    /// [`Error::Limit`] and [`Error::Quota`] if there are as many memories as there may be.
    pub(crate) fn reserve(&self, key: &Key, account: &Account) -> Result<ReservedName<'_>> {
        let mut names = write(&self.names);
        names.check_free(key, self.memories_max)?;
        let is_of_tenant = |(tenant, _): &&Key| *tenant == key.0;
        let held = names.memories.keys().chain(&names.reserved).filter(is_of_tenant).count() as u64;
        check_memories(&key.0, &account.quota(), held)?;
        names.reserved.insert(key.clone());
        Ok(ReservedName { registry: self, key: key.clone(), is_taken: false })
    }

    /// Gives a memory its name, which another one loses.
    pub(crate) fn insert(&self, memory: Arc<MemoryEntry>) {
        write(&self.names).memories.insert((memory.tenant.clone(), memory.name.clone()), memory);
    }

    /// Whether another memory has the name of `memory`.
    pub(crate) fn has_other(&self, memory: &MemoryEntry) -> bool {
        self.get(&memory.tenant, &memory.name).is_some_and(|known| !std::ptr::eq(known.as_ref(), memory))
    }

    /// Gives a memory its name, which another one loses, and takes away the name that it had before.
    pub(crate) fn rename(&self, memory: Arc<MemoryEntry>, before: &MemoryEntry) {
        let mut names = write(&self.names);
        names.memories.insert((memory.tenant.clone(), memory.name.clone()), memory);
        names.remove(before);
    }

    /// Takes the name of a memory away, unless another one has it by now.
    pub(crate) fn remove(&self, memory: &MemoryEntry) {
        write(&self.names).remove(memory);
    }
}

impl Names {
    fn check_free(&self, key: &Key, memories_max: u64) -> Result<()> {
        if self.memories.contains_key(key) || self.reserved.contains(key) {
            return Err(Error::MemoryExists { name: key.1.clone() });
        }
        if (self.memories.len() + self.reserved.len()) as u64 >= memories_max {
            let advice = "delete a memory that is no longer needed".into();
            return Err(Error::Limit { what: "memories", limit: memories_max, advice });
        }
        Ok(())
    }

    fn remove(&mut self, memory: &MemoryEntry) {
        let key = (memory.tenant.clone(), memory.name.clone());
        if self.memories.get(&key).is_some_and(|known| std::ptr::eq(known.as_ref(), memory)) {
            self.memories.remove(&key);
        }
    }
}

/// A reserved name. Released when dropped, unless a memory took it.
pub(crate) struct ReservedName<'a> {
    registry: &'a Registry,
    key: Key,
    is_taken: bool,
}

impl ReservedName<'_> {
    /// Gives the name to a memory.
    pub(crate) fn take(mut self, memory: Arc<MemoryEntry>) {
        let mut names = write(&self.registry.names);
        names.reserved.remove(&self.key);
        names.memories.insert(self.key.clone(), memory);
        self.is_taken = true;
    }
}

impl Drop for ReservedName<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            write(&self.registry.names).reserved.remove(&self.key);
        }
    }
}
