//! The store: memories of many tenants over one storage.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::core::{Cell, Core, Number};
use crate::extent::{BlobFile, Extent};
use crate::names::check_name;
use crate::records::{
    DocumentRecord, ExtentRecord, FORMAT_VERSION, NameRecord, OLD_SEGMENT_KIND, SEGMENT_KIND, SegmentRecord,
    VERSION_KEY, decode_sequence, decode_version, encode_sequence, encode_version, memory_key, name_key, names_of,
    number_in_key,
};
use crate::seal::Sealer;
use crate::state::{LiveExtent, MemoryState, Segment};
use crate::storage::{Batch, BlobInfo, Record, Storage};
use crate::sync::{lock, read, write};
use crate::{
    EntryPolicy, Error, Fingerprint, KvDtype, KvGeometry, Memory, MemoryInfo, MemorySpec, Result, StoreOptions,
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

    /// Creates a memory. Names and tenants are 1 to 128 of `[A-Za-z0-9._-]`.
    pub fn create_memory(&self, tenant: &str, name: &str, spec: MemorySpec) -> Result<Memory> {
        check_name("tenant", tenant)?;
        check_name("memory name", name)?;
        check_spec(&spec)?;
        let core = &self.shared.core;
        let mut names = write(&core.names);
        let key = (tenant.to_owned(), name.to_owned());
        if names.contains_key(&key) {
            return Err(Error::MemoryExists { name: name.to_owned() });
        }
        if names.len() as u64 >= core.options.max_memories {
            let advice = "delete a memory that is no longer needed".into();
            return Err(Error::Limit { what: "memories", limit: core.options.max_memories, advice });
        }
        let record = NameRecord { number: core.number(Number::Memory, 1)?, created_unix_ms: core.now_unix_ms(), spec };
        let mut batch = Batch::default();
        batch.put(name_key(tenant, name), record.encode());
        batch.put(memory_key(b'm', record.number), encode_sequence(0));
        core.commit(&batch)?;
        let cell = Arc::new(new_cell(key.clone(), record, MemoryState::new(0, 0, Vec::new(), [])));
        names.insert(key, Arc::clone(&cell));
        Ok(Memory::new(Arc::clone(&self.shared), cell))
    }

    /// Opens a memory.
    pub fn memory(&self, tenant: &str, name: &str) -> Result<Memory> {
        let cell = self.cell(tenant, name)?;
        Ok(Memory::new(Arc::clone(&self.shared), cell))
    }

    fn cell(&self, tenant: &str, name: &str) -> Result<Arc<Cell>> {
        let names = read(&self.shared.core.names);
        let cell = names.get(&(tenant.to_owned(), name.to_owned())).map(Arc::clone);
        cell.ok_or_else(|| Error::UnknownMemory { name: name.chars().take(128).collect() })
    }

    /// Memories of a tenant, ascending by name, those after `after`, at most `limit`.
    pub fn list_memories(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<MemoryInfo>> {
        let names = read(&self.shared.core.names);
        let start = (tenant.to_owned(), after.unwrap_or("").to_owned());
        let start = if after.is_some() { Bound::Excluded(start) } else { Bound::Included(start) };
        let memories = names.range((start, Bound::Unbounded)).take_while(|((owner, _), _)| owner == tenant);
        Ok(memories.take(limit).map(|(_, cell)| crate::memory::info(cell)).collect())
    }

    /// Deletes a memory with all its documents. Handles to it then answer [`Error::UnknownMemory`]; snapshots that
    /// are held keep working. Refused with [`Error::DocumentBusy`] while one of its documents is being written.
    pub fn delete_memory(&self, tenant: &str, name: &str) -> Result<()> {
        let core = &self.shared.core;
        let mut names = write(&core.names);
        let key = (tenant.to_owned(), name.to_owned());
        let Some(cell) = names.get(&key).map(Arc::clone) else {
            return Err(Error::UnknownMemory { name: name.chars().take(128).collect() });
        };
        cell.check_alive()?;
        let _turn = lock(&cell.commit);
        let busy = lock(&cell.busy);
        if let Some(document) = busy.iter().next() {
            return Err(Error::DocumentBusy { document: document.clone() });
        }
        let mut batch = Batch::default();
        batch.delete(name_key(tenant, name));
        batch.put(memory_key(b'g', cell.number), Vec::new());
        core.commit(&batch)?;
        // From here on it is gone; what remains is tidying, and opening the store does what is not done here.
        cell.deleted.store(true, Ordering::Release);
        names.remove(&key);
        drop((busy, names));
        if let Err(error) = remove_memory_records(core, cell.number) {
            tracing::warn!(%error, "records of a deleted memory stay until the store is opened again");
        }
        let state = std::mem::replace(&mut *write(&cell.state), Arc::new(MemoryState::new(0, 0, Vec::new(), [])));
        for extent in &state.extents {
            extent.extent.file.doom();
        }
        for segment in &state.segments {
            segment.segment.doom();
        }
        Ok(())
    }

    /// Builds every graph that is due and returns when all are durable. Deleted halves of segments are indexed anew.
    pub fn seal_all(&self) -> Result<()> {
        let cells: Vec<_> = read(&self.shared.core.names).values().cloned().collect();
        let cells: Vec<_> = cells.into_iter().filter(|cell| cell.damaged.is_none()).collect();
        cells.iter().try_for_each(|cell| crate::seal::seal_due(&self.shared.core, cell, &AtomicBool::new(false)))
    }
}

fn check_spec(spec: &MemorySpec) -> Result<()> {
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
fn for_each_record(storage: &dyn Storage, prefix: &[u8], mut visit: impl FnMut(Record) -> Result<()>) -> Result<()> {
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

fn remove_memory_records(core: &Core, memory: u64) -> Result<()> {
    for kind in [b'd', b'e', OLD_SEGMENT_KIND, SEGMENT_KIND, b'm'] {
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
    batch.put(memory_key(b'g', memory), DELETED.to_vec());
    core.commit(&batch)
}

fn trailing_number(key: &[u8]) -> Result<u64> {
    let number = key.len().checked_sub(8).and_then(|at| number_in_key(key, at));
    number.ok_or_else(|| Error::Damaged { what: "a key of the catalog".into(), why: "its number is missing".into() })
}

fn new_cell((tenant, name): (String, String), record: NameRecord, state: MemoryState) -> Cell {
    Cell {
        tenant,
        name,
        number: record.number,
        created_unix_ms: record.created_unix_ms,
        spec: record.spec,
        state: RwLock::new(Arc::new(state)),
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
            Ok(state) => new_cell(names, record, state),
            Err(Error::Damaged { what, why }) => {
                let empty = MemoryState::new(0, 0, Vec::new(), []);
                Cell { damaged: Some(format!("{what}: {why}")), ..new_cell(names, record, empty) }
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
        kv_heads: 0,
        head_dim: 0,
        dtype: KvDtype::F32,
        chunk_tokens: 0,
        entry_policy: EntryPolicy::PerToken,
    };
    let (model_name, description) = (String::new(), String::new());
    let spec = MemorySpec { fingerprint: Fingerprint([0; 32]), geometry, model_name, description };
    NameRecord { number: 0, created_unix_ms: 0, spec }
}

/// Blobs that no record refers to.
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
    blobs.retain(|blob| !used.contains(&blob.name));
    Ok(blobs)
}

fn load_state(core: &Core, name: &str, record: &NameRecord) -> Result<MemoryState> {
    let (storage, memory) = (core.storage.as_ref(), record.number);
    let damaged = |why: String| Error::Damaged { what: format!("the catalog of memory {name}"), why };
    let sequence = storage.get(&memory_key(b'm', memory))?;
    let sequence = sequence.ok_or_else(|| damaged("its sequence number is missing".into()))?;
    let sequence = decode_sequence(&sequence, &format!("the sequence number of memory {name}"))?;

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
        let found = chunks.get(&document.number).copied().unwrap_or(0);
        if found + document.lost_chunks != document.chunks {
            return Err(damaged(format!("document {id} should have {} chunks, but has {found}", document.chunks)));
        }
    }

    let mut segments = Vec::new();
    let graphs = record.spec.geometry.layers.len() * record.spec.geometry.kv_heads as usize;
    for_each_record(storage, &memory_key(SEGMENT_KIND, memory), |(key, value)| {
        let number = trailing_number(&key)?;
        let segment = SegmentRecord::decode(&value, &format!("the record of segment {number} in memory {name}"))?;
        if segment.graphs.len() != graphs {
            return Err(damaged(format!("segment {number} has {} graphs, not {graphs}", segment.graphs.len())));
        }
        segments.push(Arc::new(load_segment(core, number, segment)));
        Ok(())
    })?;
    Ok(MemoryState::new(sequence, documents.len() as u64, extents, segments))
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
