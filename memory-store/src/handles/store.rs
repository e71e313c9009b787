//! The store: memories of many tenants over one storage.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mnemon_memory::Invalid;

use crate::engine::Engine;
use crate::engine::deletion::{DELETED, delete_memory, remove_memory_records};
use crate::engine::ids::IdKind;
use crate::engine::load::{
    check_version, find_stale, load_memories, remove_old_segments, trailing_number, unused_blobs,
};
use crate::engine::publish::{publish_free, replace};
use crate::engine::registry::MemoryEntry;
use crate::engine::state::MemoryState;
use crate::engine::ttl::Times;
use crate::error::{Error, Result};
use crate::format::records::{COPY_KIND, ChangeRecord, NameRecord, encode_sequence, memory_key};
use crate::handles::memory::{Memory, info_of};
use crate::handles::shared::Shared;
use crate::maintenance::compact::Compacted;
use crate::maintenance::expire::{Expired, expire_all, make_room};
use crate::maintenance::seal::{Sealer, seal_due};
use crate::storage::{Batch, Storage};
use crate::types::info::{MemoryInfo, MemorySpec, check_spec};
use crate::types::limits::{MemoryLimits, Quota};
use crate::types::names::check_name;
use crate::types::options::{Clock, StoreOptions};

/// All memories of one data folder. Clones share everything; the last handle (memories and writers count) ends the
/// sealing thread.
///
/// In memory the store keeps, besides its two caches, 12 bytes for each chunk, about 300 bytes for each commit and
/// about 1 KiB for each memory.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

impl Store {
    /// Opens what `storage` holds, finishes interrupted deletions and removes blobs that no record refers to. Reads
    /// the catalog, but neither chunks nor graphs. Refuses formats that it does not know.
    ///
    /// A memory whose records are damaged, or older than its blobs, is listed as such and can do nothing before it was
    /// [repaired](mod@crate::check); the others are as always. Then no blob is removed: it may be of use to the repair.
    pub fn open(storage: Arc<dyn Storage>, options: StoreOptions, clock: Clock) -> Result<Self> {
        options.validate()?;
        check_version(storage.as_ref())?;
        let engine = Arc::new(Engine::new(storage, options, clock)?);
        let mut deleted = HashSet::new();
        for (key, value) in engine.storage.scan(b"g", None, usize::MAX)? {
            let number = trailing_number(&key)?;
            if value != DELETED {
                remove_memory_records(&engine, number)?;
            }
            deleted.insert(number);
        }
        remove_old_segments(&engine)?;
        // What was read must survive before anything is removed because of it: a process that failed to flush may have
        // left records that a loss of power would take back.
        engine.storage.flush()?;
        let mut memories = load_memories(&engine)?;
        let unused = unused_blobs(&engine, &memories)?;
        let known = find_stale(engine.storage.as_ref(), &unused, &mut memories, &deleted)?;
        if known && memories.iter().all(|memory_entry| memory_entry.damaged.is_none()) {
            for blob in unused {
                tracing::info!(blob = blob.name, bytes = blob.bytes, "removing a blob that no record refers to");
                engine.storage.delete_blob(&blob.name)?;
            }
        }
        for memory_entry in memories {
            if let Some(why) = &memory_entry.damaged {
                tracing::error!(tenant = memory_entry.tenant, memory = memory_entry.name, why, "a memory is damaged");
            }
            engine.registry.insert(Arc::new(memory_entry));
        }
        let sealer = Sealer::start(&engine)?;
        let store = Self { shared: Arc::new(Shared { sealer, engine }) };
        for memory_entry in store.shared.engine.registry.all() {
            store.shared.sealer.notify(&store.shared.engine, &memory_entry);
        }
        Ok(store)
    }

    /// Creates a memory without limits. Names and tenants are 1 to 128 of `[A-Za-z0-9._-]`.
    pub fn create_memory(&self, tenant: &str, name: &str, spec: MemorySpec) -> Result<Memory> {
        self.create_memory_with(tenant, name, spec, MemoryLimits::default())
    }

    /// Creates a memory with limits. [`Error::Quota`] if the tenant may have no more memories.
    pub fn create_memory_with(
        &self,
        tenant: &str,
        name: &str,
        spec: MemorySpec,
        limits: MemoryLimits,
    ) -> Result<Memory> {
        self.create(tenant, name, spec, limits, None)
    }

    /// Creates a memory; one that becomes a copy names the number of what it is made from.
    pub(crate) fn create(
        &self,
        tenant: &str,
        name: &str,
        spec: MemorySpec,
        limits: MemoryLimits,
        from: Option<u64>,
    ) -> Result<Memory> {
        check_name("tenant", tenant)?;
        check_name("memory name", name)?;
        check_spec(&spec)?;
        limits.validate()?;
        let engine = &self.shared.engine;
        // What is due makes room, and its name is free.
        make_room(engine, tenant);
        let key = (tenant.to_owned(), name.to_owned());
        let account = engine.accounts.of(tenant);
        let reserved = engine.registry.reserve(&key, &account)?;
        let created_unix_ms = engine.now_unix_ms();
        let record = NameRecord { number: engine.new_ids(IdKind::Memory, 1)?, created_unix_ms, spec, limits };
        let mut batch = Batch::default();
        let changed_unix_ms = limits.ttl_ms.map_or(0, |_| created_unix_ms);
        batch.put(memory_key(b'm', record.number), ChangeRecord { sequence: 0, changed_unix_ms }.encode());
        if let Some(from) = from {
            batch.put(memory_key(COPY_KIND, record.number), encode_sequence(from));
        }
        let times = Times { limits, changed_unix_ms: created_unix_ms, ..Times::default() };
        let new = (record, Arc::new(MemoryState::new(0, 0, Vec::new(), [])), times);
        let memory_entry = publish_free(engine, reserved, &account, &key, new, batch)?;
        Ok(Memory::new(Arc::clone(&self.shared), memory_entry))
    }

    /// Opens a memory.
    pub fn memory(&self, tenant: &str, name: &str) -> Result<Memory> {
        let memory_entry = self.memory_entry(tenant, name)?;
        Ok(Memory::new(Arc::clone(&self.shared), memory_entry))
    }

    /// Every memory of every tenant, but for damaged ones: for maintenance.
    pub fn memories(&self) -> Vec<Memory> {
        let sound =
            self.shared.engine.registry.all().into_iter().filter(|memory_entry| memory_entry.check_alive().is_ok());
        sound.map(|memory_entry| Memory::new(Arc::clone(&self.shared), memory_entry)).collect()
    }

    /// Sets what a tenant may hold in all its memories, instead of [`StoreOptions::tenant_quota`]. A quota below what is
    /// held is accepted: nothing can be added then.
    pub fn set_quota(&self, tenant: &str, quota: Quota) {
        self.shared.engine.accounts.set_quota(tenant, quota);
    }

    fn memory_entry(&self, tenant: &str, name: &str) -> Result<Arc<MemoryEntry>> {
        let engine = &self.shared.engine;
        let unknown = || Error::UnknownMemory { name: name.chars().take(128).collect() };
        loop {
            let memory_entry = engine.registry.get(tenant, name).ok_or_else(unknown)?;
            match memory_entry.expired(engine.now_unix_ms()) {
                // Replaced since it was looked up.
                Err(_) if engine.registry.has_other(&memory_entry) => {}
                other => return other.map(|_| memory_entry),
            }
        }
    }

    /// Memories of a tenant, ascending by name, those after `after`, at most `limit`.
    pub fn list_memories(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<MemoryInfo>> {
        let engine = &self.shared.engine;
        let now_unix_ms = engine.now_unix_ms();
        let memories = engine.registry.of_tenant(tenant, after);
        // Those that expired are left out.
        let infos = memories.iter().filter_map(|memory| Some(info_of(memory, &*memory.shown(now_unix_ms).ok()?)));
        Ok(infos.take(limit).collect())
    }

    /// Deletes a memory with all its documents. Handles to it then answer [`Error::UnknownMemory`]; snapshots that
    /// are held keep working. Refused with [`Error::DocumentBusy`] while one of its documents is being written.
    pub fn delete_memory(&self, tenant: &str, name: &str) -> Result<()> {
        let engine = &self.shared.engine;
        loop {
            let memory_entry = self.memory_entry(tenant, name)?;
            match delete_memory(engine, &memory_entry) {
                // Replaced since it was looked up.
                Err(Error::UnknownMemory { .. }) if engine.registry.has_other(&memory_entry) => {}
                other => return other,
            }
        }
    }

    /// Builds every graph that is due and returns when all are durable. Half-deleted segments are rebuilt.
    pub fn seal_all(&self) -> Result<()> {
        let memories: Vec<_> = self.shared.engine.registry.all();
        let memories: Vec<_> = memories.into_iter().filter(|memory_entry| memory_entry.damaged.is_none()).collect();
        memories
            .iter()
            .try_for_each(|memory_entry| seal_due(&self.shared.engine, memory_entry, &AtomicBool::new(false)))
    }

    /// Deletes expired memories and documents, which readers do not see in any case. Call it periodically: it reclaims
    /// their space. An error in one memory does not stop the others; the first error is returned.
    pub fn expire(&self) -> Result<Expired> {
        let engine = &self.shared.engine;
        let memories: Vec<_> = engine.registry.all();
        expire_all(engine, &memories)
    }

    /// Compacts the memory `name` of a tenant, or all of them, and rewrites the catalog: afterwards no file has a byte
    /// of what was deleted before the call, except those that a snapshot still shows. While the catalog is rewritten,
    /// other calls wait.
    pub fn compact(&self, tenant: &str, name: Option<&str>) -> Result<Compacted> {
        let names = if let Some(name) = name {
            vec![name.to_owned()]
        } else {
            let memories = self.list_memories(tenant, None, usize::MAX)?;
            memories.into_iter().filter(|memory| memory.damaged.is_none()).map(|memory| memory.name).collect()
        };
        let mut all = Compacted::default();
        for memory in names {
            let one = match self.memory(tenant, &memory).and_then(|memory| memory.compact()) {
                // Deleted meanwhile.
                Err(Error::UnknownMemory { .. }) if name.is_none() => continue,
                other => other?,
            };
            all.add(one);
        }
        self.shared.engine.storage.compact()?;
        Ok(all)
    }

    /// Lets memory `from` take the name and the place of memory `to`, which is deleted, in one step. Refused with
    /// [`Error::MemoryChanged`] if the last change of `to` is not `expected`, and with [`Error::DocumentBusy`] while a
    /// document of either is being written. Handles to both answer [`Error::UnknownMemory`] afterwards; snapshots that
    /// are held keep working.
    pub fn replace_memory(&self, tenant: &str, from: &str, to: &str, expected: Option<u64>) -> Result<Memory> {
        let engine = &self.shared.engine;
        check_name("memory name", to)?;
        if from == to {
            return Err(Error::Invalid(Invalid {
                what: "memory name",
                why: "a memory cannot take its own place".into(),
            }));
        }
        let memory_entry = replace(engine, tenant, from, to, expected)?;
        self.shared.sealer.notify(engine, &memory_entry);
        Ok(Memory::new(Arc::clone(&self.shared), memory_entry))
    }
}
