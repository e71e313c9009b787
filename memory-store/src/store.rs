//! The store: memories of many tenants over one storage.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::archive::retire;
use crate::core::{Cell, Core, Number};
use crate::embeddings::chunk_blob_of;
use crate::expiry::{make_room, settle};
use crate::extent::{BlobFile, Extent};
use crate::life::{Life, Times};
use crate::names::check_name;
use crate::quota::{Held, check_memories};
use crate::records::{
    COPY_KIND, ChangeRecord, DocumentRecord, ExtentRecord, FORMAT_VERSION, NameRecord, OLD_SEGMENT_KIND, SEGMENT_KIND,
    SegmentRecord, VERSION_KEY, decode_version, encode_sequence, encode_version, memory_key, name_key, names_of,
    number_in_key,
};
use crate::seal::Sealer;
use crate::state::{LiveExtent, MemoryState, Segment};
use crate::storage::{Batch, BlobInfo, Record, Storage};
use crate::sync::{lock, read, write};
use crate::{
    EntryPolicy, Error, Fingerprint, KvDtype, KvGeometry, Memory, MemoryInfo, MemoryLimits, MemorySpec, Quota, Result,
    StoreOptions,
};

/// Records read at once.
const PAGE: usize = 1024;
/// Records removed at once when a memory is deleted.
const SWEEP: usize = 64;
/// Value of a record `g` once the other records of the memory are gone.
const DELETED: [u8; 1] = [1];

/// All memories of one data folder. Clones share everything; the last handle (memories and writers count) ends the
/// sealing thread.
///
/// In memory the store keeps, besides its two caches, 12 bytes for each chunk, about 300 bytes for each commit and
/// about 1 KiB for each memory.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    // Ends before the core is dropped.
    pub(crate) sealer: Sealer,
    pub(crate) core: Arc<Core>,
}

impl Store {
    /// Opens what `storage` holds, finishes interrupted deletions and removes blobs that no record refers to. Reads
    /// the catalog, but neither chunks nor graphs. Refuses formats that it does not know.
    ///
    /// A memory whose records are damaged, or older than its blobs, is listed as such and can do nothing before it was
    /// [repaired](mod@crate::check); the others are as always. Then no blob is removed: it may be of use to the repair.
    pub fn open(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self> {
        options.validate()?;
        check_version(storage.as_ref())?;
        let core = Arc::new(Core::new(storage, options)?);
        let mut deleted = HashSet::new();
        for (key, value) in core.storage.scan(b"g", None, usize::MAX)? {
            let number = trailing_number(&key)?;
            if value != DELETED {
                remove_memory_records(&core, number)?;
            }
            deleted.insert(number);
        }
        remove_old_segments(&core)?;
        // What was read must survive before anything is removed because of it: a process that failed to flush may have
        // left records that a loss of power would take back.
        core.storage.flush()?;
        let mut cells = load_memories(&core)?;
        let unused = unused_blobs(&core, &cells)?;
        let known = crate::blob::find_stale(core.storage.as_ref(), &unused, &mut cells, &deleted)?;
        if known && cells.iter().all(|cell| cell.damaged.is_none()) {
            for blob in unused {
                tracing::info!(blob = blob.name, bytes = blob.bytes, "removing a blob that no record refers to");
                core.storage.delete_blob(&blob.name)?;
            }
        }
        for cell in cells {
            if let Some(why) = &cell.damaged {
                tracing::error!(tenant = cell.tenant, memory = cell.name, why, "a memory is damaged");
            }
            write(&core.names).insert((cell.tenant.clone(), cell.name.clone()), Arc::new(cell));
        }
        let sealer = Sealer::start(&core)?;
        let store = Self { shared: Arc::new(Shared { sealer, core }) };
        for cell in read(&store.shared.core.names).values() {
            store.shared.sealer.notify(&store.shared.core, cell);
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
        let core = &self.shared.core;
        // What is due makes room, and its name is free.
        make_room(core, tenant);
        let mut names = write(&core.names);
        let key = (tenant.to_owned(), name.to_owned());
        if names.contains_key(&key) {
            return Err(Error::MemoryExists { name: name.to_owned() });
        }
        core.check_memory_limit(&names)?;
        check_memories(tenant, &core.accounts.of(tenant).quota(), &names)?;
        let created_unix_ms = core.now_unix_ms();
        let record = NameRecord { number: core.number(Number::Memory, 1)?, created_unix_ms, spec, limits };
        let mut batch = Batch::default();
        batch.put(name_key(tenant, name), record.encode());
        let changed_unix_ms = limits.ttl_ms.map_or(0, |_| created_unix_ms);
        batch.put(memory_key(b'm', record.number), ChangeRecord { sequence: 0, changed_unix_ms }.encode());
        if let Some(from) = from {
            batch.put(memory_key(COPY_KIND, record.number), encode_sequence(from));
        }
        core.commit(&batch)?;
        let times = Times { limits, changed_unix_ms: created_unix_ms, ..Times::default() };
        let cell = Arc::new(new_cell(core, key.clone(), record, MemoryState::new(0, 0, Vec::new(), []), times));
        names.insert(key, Arc::clone(&cell));
        Ok(Memory::new(Arc::clone(&self.shared), cell))
    }

    /// Opens a memory.
    pub fn memory(&self, tenant: &str, name: &str) -> Result<Memory> {
        let cell = self.cell(tenant, name)?;
        Ok(Memory::new(Arc::clone(&self.shared), cell))
    }

    /// Every memory of every tenant, but for damaged ones: for maintenance.
    pub fn memories(&self) -> Vec<Memory> {
        let cells: Vec<Arc<Cell>> = read(&self.shared.core.names).values().cloned().collect();
        let sound = cells.into_iter().filter(|cell| cell.check_alive().is_ok());
        sound.map(|cell| Memory::new(Arc::clone(&self.shared), cell)).collect()
    }

    /// Sets what a tenant may hold in all its memories, instead of [`StoreOptions::tenant_quota`]. A quota below what is
    /// held is accepted: nothing can be added then.
    pub fn set_quota(&self, tenant: &str, quota: Quota) {
        self.shared.core.accounts.set_quota(tenant, quota);
    }

    fn cell(&self, tenant: &str, name: &str) -> Result<Arc<Cell>> {
        let names = read(&self.shared.core.names);
        let cell = names.get(&(tenant.to_owned(), name.to_owned())).map(Arc::clone);
        drop(names);
        let cell = cell.ok_or_else(|| Error::UnknownMemory { name: name.chars().take(128).collect() })?;
        settle(&self.shared.core, &cell)?;
        Ok(cell)
    }

    /// Memories of a tenant, ascending by name, those after `after`, at most `limit`.
    pub fn list_memories(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<MemoryInfo>> {
        let core = &self.shared.core;
        // Those that are due now are left out.
        let info = |cell: &Arc<Cell>| Some(crate::memory::info(cell, &settle(core, cell).ok()?));
        Ok(core.cells_of(tenant, after).iter().filter_map(info).take(limit).collect())
    }

    /// Deletes a memory with all its documents. Handles to it then answer [`Error::UnknownMemory`]; snapshots that
    /// are held keep working. Refused with [`Error::DocumentBusy`] while one of its documents is being written.
    pub fn delete_memory(&self, tenant: &str, name: &str) -> Result<()> {
        let cell = self.cell(tenant, name)?;
        remove_memory(&self.shared.core, &cell, |busy| match busy {
            Some(document) => Err(Error::DocumentBusy { document: document.to_owned() }),
            None => Ok(true),
        })?;
        Ok(())
    }

    /// Builds every graph that is due and returns when all are durable. Deleted halves of segments are indexed anew.
    pub fn seal_all(&self) -> Result<()> {
        let cells: Vec<_> = read(&self.shared.core.names).values().cloned().collect();
        let cells: Vec<_> = cells.into_iter().filter(|cell| cell.damaged.is_none()).collect();
        cells.iter().try_for_each(|cell| crate::seal::seal_due(&self.shared.core, cell, &AtomicBool::new(false)))
    }
}

/// Deletes a memory that is due still and in which nothing is being written; returns whether it did.
pub(crate) fn remove_due_memory(core: &Core, cell: &Cell, now_unix_ms: u64) -> Result<bool> {
    remove_memory(core, cell, |busy| Ok(busy.is_none() && cell.life.memory_is_due(now_unix_ms)))
}

/// Deletes a memory if `wanted` says so when nobody can change it any more; `wanted` is given a document that is being
/// written, if there is one.
fn remove_memory(core: &Core, cell: &Cell, wanted: impl FnOnce(Option<&str>) -> Result<bool>) -> Result<bool> {
    let mut names = write(&core.names);
    cell.check_alive()?;
    let _turn = lock(&cell.commit);
    let busy = lock(&cell.busy);
    if !wanted(busy.iter().next().map(String::as_str))? {
        return Ok(false);
    }
    let mut batch = Batch::default();
    batch.delete(name_key(&cell.tenant, &cell.name));
    batch.put(memory_key(b'g', cell.number), Vec::new());
    core.commit(&batch)?;
    // From here on it is gone; what remains is tidying, and opening the store does what is not done here.
    cell.deleted.store(true, Ordering::Release);
    names.remove(&(cell.tenant.clone(), cell.name.clone()));
    drop((busy, names));
    retire(core, cell);
    Ok(true)
}

pub(crate) fn check_spec(spec: &MemorySpec) -> Result<()> {
    spec.geometry.validate()?;
    for (what, text, limit) in [("model name", &spec.model_name, 256), ("description", &spec.description, 4096)] {
        if text.len() > limit {
            return Err(Error::Invalid { what, why: format!("{} bytes; at most {limit} are accepted", text.len()) });
        }
    }
    Ok(())
}

fn check_version(storage: &dyn Storage) -> Result<()> {
    let Some(bytes) = storage.get(VERSION_KEY)? else {
        if !storage.scan(b"", None, 1)?.is_empty() {
            return Err(Error::Damaged {
                what: format!("the catalog in {}", storage.location()),
                why: "it has no version of its format".into(),
            });
        }
        let mut batch = Batch::default();
        batch.put(VERSION_KEY.to_vec(), encode_version());
        storage.apply(&batch)?;
        return storage.flush();
    };
    match decode_version(&bytes)? {
        FORMAT_VERSION => Ok(()),
        version => {
            let found = version.to_string();
            Err(Error::UnknownFormat { path: storage.location(), found, known: FORMAT_VERSION })
        }
    }
}

/// All records under `prefix`, page by page.
pub(crate) fn for_each_record(
    storage: &dyn Storage,
    prefix: &[u8],
    mut visit: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = storage.scan(prefix, after.as_deref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        page.into_iter().try_for_each(&mut visit)?;
    }
}

/// Segments whose graphs are of an older version are built anew: their records go, and so do their blobs, which no record
/// refers to then.
fn remove_old_segments(core: &Core) -> Result<()> {
    loop {
        let page = core.storage.scan(&[OLD_SEGMENT_KIND], None, SWEEP)?;
        let mut batch = Batch::default();
        for (key, _) in page {
            batch.delete(key);
        }
        if batch.is_empty() {
            return Ok(());
        }
        core.commit(&batch)?;
    }
}

pub(crate) fn remove_memory_records(core: &Core, memory: u64) -> Result<()> {
    for kind in [b'd', b'e', OLD_SEGMENT_KIND, SEGMENT_KIND, COPY_KIND, b'm'] {
        loop {
            let page = core.storage.scan(&memory_key(kind, memory), None, SWEEP)?;
            let mut batch = Batch::default();
            for (key, _) in page {
                batch.delete(key);
            }
            if batch.is_empty() {
                break;
            }
            core.commit(&batch)?;
        }
    }
    // It stays: blobs of a memory that is neither known nor deleted tell that records were lost.
    let mut batch = Batch::default();
    // Gone already: it tells the storage that this is a deletion, for which some space is kept.
    batch.delete(memory_key(b'm', memory));
    batch.put(memory_key(b'g', memory), DELETED.to_vec());
    core.commit(&batch)
}

fn trailing_number(key: &[u8]) -> Result<u64> {
    let number = key.len().checked_sub(8).and_then(|at| number_in_key(key, at));
    number.ok_or_else(|| Error::Damaged { what: "a key of the catalog".into(), why: "its number is missing".into() })
}

pub(crate) fn new_cell(
    core: &Core,
    (tenant, name): (String, String),
    record: NameRecord,
    state: impl Into<Arc<MemoryState>>,
    times: Times,
) -> Cell {
    let (account, state) = (core.accounts.of(&tenant), state.into());
    account.moved(Held::default(), Held::of(&state.totals));
    Cell {
        life: Life::new(times),
        account,
        tenant,
        name,
        number: record.number,
        created_unix_ms: record.created_unix_ms,
        spec: record.spec,
        state: RwLock::new(state),
        commit: Mutex::default(),
        busy: Mutex::default(),
        deleted: AtomicBool::new(false),
        damaged: None,
        sealing: Mutex::default(),
        queued: AtomicBool::new(false),
    }
}

fn load_memories(core: &Core) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for_each_record(core.storage.as_ref(), b"n", |(key, value)| {
        let Some(names) = names_of(&key) else {
            tracing::error!(key = %key.escape_ascii(), "a record of the catalog names no memory");
            return Ok(());
        };
        let what = format!("the record of memory {}", names.1);
        let (record, loaded) = match NameRecord::decode(&value, &what) {
            Ok(record) => {
                let state = load_state(core, &names.1, &record);
                (record, state)
            }
            Err(error) => (unknown_memory(), Err(error)),
        };
        let cell = match loaded {
            Ok((state, times)) => new_cell(core, names, record, state, times),
            Err(Error::Damaged { what, why }) => {
                let empty = MemoryState::new(0, 0, Vec::new(), []);
                let times = Times { limits: record.limits, ..Times::default() };
                Cell { damaged: Some(format!("{what}: {why}")), ..new_cell(core, names, record, empty, times) }
            }
            Err(error) => return Err(error),
        };
        cells.push(cell);
        Ok(())
    })?;
    Ok(cells)
}

/// Stands for a record that cannot be read.
fn unknown_memory() -> NameRecord {
    let geometry = KvGeometry {
        layers: Vec::new(),
        key_heads: Vec::new(),
        kv_heads: 0,
        head_dim: 0,
        dtype: KvDtype::F32,
        chunk_tokens: 0,
        entry_policy: EntryPolicy::PerToken,
    };
    let (model_name, description) = (String::new(), String::new());
    let spec = MemorySpec { fingerprint: Fingerprint([0; 32]), geometry, model_name, description };
    NameRecord { number: 0, created_unix_ms: 0, spec, limits: MemoryLimits::default() }
}

/// Blobs that no record refers to. Embeddings are given to the chunks that they belong to, and counted.
fn unused_blobs(core: &Core, cells: &[Cell]) -> Result<Vec<BlobInfo>> {
    let mut used = HashSet::new();
    for cell in cells {
        let state = cell.state();
        used.extend(state.extents.iter().map(|extent| extent.extent.file.name.clone()));
        for segment in state.segments() {
            used.extend(segment.graphs.iter().map(|graph| graph.name.clone()));
        }
    }
    let mut blobs = core.storage.list_blobs()?;
    let states: Vec<_> = cells.iter().map(Cell::state).collect();
    let extents = states.iter().flat_map(|state| &state.extents).map(|extent| (extent.extent.number, &extent.extent));
    let extents: HashMap<u64, &Arc<Extent>> = extents.collect();
    blobs.retain(|blob| {
        if used.contains(&blob.name) {
            return false;
        }
        let extent = chunk_blob_of(&blob.name).and_then(|number| extents.get(&number));
        if let Some(extent) = extent {
            extent.attach_embeddings(&core.storage, &blob.name, blob.bytes);
        }
        extent.is_none()
    });
    cells.iter().filter(|cell| cell.state().has_embeddings()).for_each(Cell::recount);
    Ok(blobs)
}

fn load_state(core: &Core, name: &str, record: &NameRecord) -> Result<(MemoryState, Times)> {
    let (storage, memory) = (core.storage.as_ref(), record.number);
    let damaged = |why: String| Error::Damaged { what: format!("the catalog of memory {name}"), why };
    let sequence = storage.get(&memory_key(b'm', memory))?;
    let sequence = sequence.ok_or_else(|| damaged("its sequence number is missing".into()))?;
    let last = ChangeRecord::decode(&sequence, &format!("the sequence number of memory {name}"))?;
    let mut times = Times { limits: record.limits, changed_unix_ms: last.changed_unix_ms, ..Times::default() };

    let mut documents: HashMap<u64, (Arc<str>, DocumentRecord)> = HashMap::new();
    for_each_record(storage, &memory_key(b'd', memory), |(key, value)| {
        let id = str::from_utf8(&key[9..]).map_err(|_| damaged("a document id is not UTF-8".into()))?;
        let document = DocumentRecord::decode(&value, &format!("the record of document {id} in memory {name}"))?;
        documents.insert(document.number, (Arc::from(id), document));
        Ok(())
    })?;

    let mut extents = Vec::new();
    let mut chunks: HashMap<u64, u64> = HashMap::new();
    for_each_record(storage, &memory_key(b'e', memory), |(key, value)| {
        let first_chunk = trailing_number(&key)?;
        let extent = ExtentRecord::decode(&value, &format!("the record of chunk {first_chunk} in memory {name}"))?;
        let live = extent.live;
        if extent.longest_chunk() > record.spec.geometry.chunk_tokens {
            return Err(damaged(format!("chunk {first_chunk} or one after it is longer than a chunk may be")));
        }
        let Some((id, _)) = documents.get(&extent.document) else {
            return Err(damaged(format!("chunk {first_chunk} belongs to no document")));
        };
        *chunks.entry(extent.document).or_default() += live as u64;
        let extent = Arc::new(Extent::from_record(&core.storage, first_chunk, Arc::clone(id), extent));
        extents.push(LiveExtent::new(&record.spec.geometry, extent, live));
        Ok(())
    })?;
    for (id, document) in documents.values() {
        times.documents.set(Arc::clone(id), document.expires_unix_ms(record.limits.document_ttl_ms));
        let found = chunks.get(&document.number).copied().unwrap_or(0);
        if found + document.lost_chunks != document.chunks {
            return Err(damaged(format!("document {id} should have {} chunks, but has {found}", document.chunks)));
        }
    }

    let mut segments = Vec::new();
    let graphs = record.spec.geometry.key_heads.len();
    for_each_record(storage, &memory_key(SEGMENT_KIND, memory), |(key, value)| {
        let number = trailing_number(&key)?;
        let segment = SegmentRecord::decode(&value, &format!("the record of segment {number} in memory {name}"))?;
        if segment.graphs.len() != graphs {
            return Err(damaged(format!("segment {number} has {} graphs, not {graphs}", segment.graphs.len())));
        }
        segments.push(Arc::new(load_segment(core, number, segment)));
        Ok(())
    })?;
    Ok((MemoryState::new(last.sequence, documents.len() as u64, extents, segments), times))
}

pub(crate) fn load_segment(core: &Core, number: u64, record: SegmentRecord) -> Segment {
    let file = |graph: &crate::records::GraphRecord| {
        BlobFile::new(Arc::clone(&core.storage), crate::index::graph_blob_name(graph.blob), graph.blob_bytes)
    };
    Segment {
        number,
        chunks: record.chunks,
        entries: record.entries,
        graphs: record.graphs.iter().map(file).collect(),
        extents: record.extents,
    }
}
