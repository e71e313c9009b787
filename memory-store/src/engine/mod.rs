//! What all handles of a store share: memories and their states, and the one way to change them.
//!
//! | module | idea |
//! |---|---|
//! | `blob_file` | a blob that is deleted with its last reader |
//! | `cache` | values bounded by bytes |
//! | `extent`, `extent_builder` | consecutive chunks of a document in one blob: read, written |
//! | `inspection` | every byte of a chunk blob verified |
//! | `catalog_scan` | all records and the headers of all chunk blobs, parsed or not |
//! | `ids` | numbers, given out once |
//! | `state` | what a memory consists of at one moment |
//! | `tail` | entries that no graph indexes yet |
//! | `active_writers` | which documents are being written |
//! | `ttl` | when a memory and its documents expire |
//! | `quota` | what tenants hold, and may hold |
//! | `history` | records of documents as they were when an export began |
//! | `registry` | memories by tenant and name |
//! | this module | storage, caches, the one way to commit |
//! | `transaction` | a change of one memory |
//! | `update` | limits |
//! | `deletion` | memories and documents are deleted |
//! | `publish` | a memory gets a name, or takes that of another |
//! | `load` | the catalog of a store that is being opened |

pub(crate) mod active_writers;
pub(crate) mod blob_file;
pub(crate) mod cache;
pub(crate) mod catalog_scan;
pub(crate) mod deletion;
pub(crate) mod extent;
pub(crate) mod extent_builder;
pub(crate) mod history;
pub(crate) mod ids;
pub(crate) mod inspection;
pub(crate) mod load;
pub(crate) mod publish;
pub(crate) mod quota;
pub(crate) mod registry;
pub(crate) mod state;
pub(crate) mod tail;
pub(crate) mod transaction;
pub(crate) mod ttl;
pub(crate) mod update;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mnemon_memory::{ChunkId, ChunkKv, Fingerprint, KvGeometry, Turn};

use crate::engine::cache::Cache;
use crate::engine::extent::Extent;
use crate::engine::history::Histories;
use crate::engine::ids::{IdKind, Ids};
use crate::engine::quota::Accounts;
use crate::engine::registry::{MemoryEntry, Registry};
use crate::engine::state::Segment;
use crate::engine::tail::TailEntries;
use crate::error::{Error, Result};
use crate::format::geometry::KeySource;
use crate::format::records::{DocumentRecord, RESERVED_KEY, document_key, encode_reserved};
use crate::index::embeddings::EmbeddingIndex;
use crate::index::vectors::{GraphIndex, GraphOwner, VectorIndex as _, read_graph};
use crate::index::words::WordIndex;
use crate::storage::{Batch, Storage};
use crate::sync::lock;
use crate::types::options::{Clock, StoreOptions};

/// What the index cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IndexKey {
    /// A graph, by its segment and its place in it.
    Graph(u64, usize),
    /// The entries of an unsealed extent (by the number of its blob) whose keys are at a source.
    Tail(u64, KeySource),
    /// The tokens of an extent (by the number of its blob).
    Tokens(u64),
    /// Its words.
    Words(u64),
    /// Its embeddings by one embedder.
    Embeddings(u64, Fingerprint),
    /// Its turns.
    Turns(u64),
}

#[derive(Clone)]
pub(crate) enum IndexPart {
    Graph(Arc<GraphIndex>),
    Tail(Arc<TailEntries>),
    Tokens(Arc<Vec<u32>>),
    Words(Arc<WordIndex>),
    Embeddings(Arc<EmbeddingIndex>),
    Turns(Arc<ChunkTurns>),
}

/// The turns of those chunks of an extent that are of some, by the chunks' indices.
pub(crate) type ChunkTurns = Vec<(u32, Vec<Turn>)>;

pub(crate) struct Engine {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: StoreOptions,
    clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) accounts: Accounts,
    pub(crate) index_cache: Cache<IndexKey, IndexPart>,
    pub(crate) chunk_cache: Cache<(ChunkId, usize), ChunkKv>,
    /// What exports under way have to know of commits.
    pub(crate) histories: Histories,
    /// Threads that build graphs: in rayon's global pool they would hold up searches.
    pub(crate) pool: rayon::ThreadPool,
    ids: Mutex<Ids>,
    /// Held while ids are reserved.
    reserving: Mutex<()>,
    /// Set when records may differ from the states in memory.
    broken: AtomicBool,
}

impl Engine {
    pub(crate) fn new(storage: Arc<dyn Storage>, options: StoreOptions, clock: Clock) -> Result<Self> {
        let ids = Mutex::new(Ids::load(storage.as_ref())?);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.seal_threads)
            .thread_name(|index| format!("mnemon-seal-{index}"))
            .start_handler(|_| {
                // On Linux this concerns the thread alone: who reads or writes goes first. Refusal costs only speed.
                let _ = rustix::process::nice(10);
            })
            .build()
            .map_err(|error| Error::Io { what: "start the sealing threads".into(), source: io::Error::other(error) })?;
        Ok(Self {
            pool,
            storage,
            histories: Histories::default(),
            registry: Registry::new(options.max_memories),
            accounts: Accounts::new(options.tenant_quota),
            index_cache: Cache::for_rounds(options.index_cache_bytes),
            chunk_cache: Cache::new(options.chunk_cache_bytes),
            options,
            clock,
            ids,
            reserving: Mutex::default(),
            broken: AtomicBool::new(false),
        })
    }

    /// `count` consecutive ids that were never given out; returns the first.
    pub(crate) fn new_ids(&self, kind: IdKind, count: u64) -> Result<u64> {
        if let Some(first) = lock(&self.ids).take(kind, count) {
            return Ok(first);
        }
        // Only callers that need a reservation wait while one is made durable.
        let _reserving = lock(&self.reserving);
        loop {
            let reserved = {
                let mut ids = lock(&self.ids);
                if let Some(first) = ids.take(kind, count) {
                    return Ok(first);
                }
                ids.reservation(kind, count)
            };
            let mut batch = Batch::default();
            batch.put(RESERVED_KEY.to_vec(), encode_reserved(reserved));
            self.commit(&batch)?;
            lock(&self.ids).reserved(reserved);
        }
    }

    /// Refuses to go by records that may differ from the states in memory.
    pub(crate) fn check_whole(&self) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            let why = "an earlier write could not be taken back; open the store again (nothing acknowledged is lost)";
            return Err(Error::Catalog(why.into()));
        }
        Ok(())
    }

    /// Makes `batch` durable. After an error the records are as before, for this process and (unless it ends before
    /// its next commit) for the next one.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<()> {
        self.check_whole()?;
        let mut inverse = Batch::default();
        for (key, _) in batch.changes() {
            match self.storage.get(key)? {
                Some(value) => inverse.put(key.clone(), value),
                None => inverse.delete(key.clone()),
            }
        }
        self.histories.note(&inverse);
        self.storage.apply(batch)?;
        let Err(error) = self.storage.flush() else { return Ok(()) };
        match self.storage.apply(&inverse) {
            // Later flushes make the inverse durable together with the batch.
            Ok(()) => _ = self.storage.flush(),
            Err(second) => {
                tracing::error!(%error, %second, "a failed write could not be taken back");
                self.broken.store(true, Ordering::Release);
            }
        }
        Err(error)
    }

    /// Entries of an unsealed extent whose keys are at `source`; kept in the cache when `keep`.
    pub(crate) fn tail_entries(
        &self,
        geometry: &KvGeometry,
        source: KeySource,
        extent: &Extent,
        keep: bool,
    ) -> Result<Arc<TailEntries>> {
        let key = IndexKey::Tail(extent.number, source);
        if let Some(IndexPart::Tail(entries)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(entries));
        }
        // Always the whole extent: a snapshot older than a truncation sees more of it than later ones.
        let entries = Arc::new(TailEntries::load(geometry, source, extent)?);
        if keep {
            self.index_cache.insert(key, Arc::new(IndexPart::Tail(Arc::clone(&entries))), entries.bytes());
        }
        Ok(entries)
    }

    /// Tokens of all chunks of an extent, truncated ones included; where each begins its places tell.
    pub(crate) fn tokens(&self, geometry: &KvGeometry, extent: &Extent) -> Result<Arc<Vec<u32>>> {
        let key = IndexKey::Tokens(extent.number);
        if let Some(IndexPart::Tokens(tokens)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(tokens));
        }
        let tokens = Arc::new(extent.read_tokens(geometry)?);
        self.index_cache.insert(key, Arc::new(IndexPart::Tokens(Arc::clone(&tokens))), 4 * tokens.len() + 96);
        Ok(tokens)
    }

    /// The words of all chunks of an extent, truncated ones included.
    pub(crate) fn words(&self, geometry: &KvGeometry, extent: &Extent) -> Result<Arc<WordIndex>> {
        let key = IndexKey::Words(extent.number);
        if let Some(IndexPart::Words(words)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(words));
        }
        let words = Arc::new(extent.read_words(geometry)?);
        self.index_cache.insert(key, Arc::new(IndexPart::Words(Arc::clone(&words))), words.bytes());
        Ok(words)
    }

    /// The turns of all chunks of an extent.
    pub(crate) fn turns(&self, geometry: &KvGeometry, extent: &Extent) -> Result<Arc<ChunkTurns>> {
        let key = IndexKey::Turns(extent.number);
        if let Some(IndexPart::Turns(turns)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(turns));
        }
        let turns = Arc::new(extent.read_turns(geometry)?);
        let of_turn = |turn: &Turn| -> usize {
            64 + turn.metadata.iter().map(|(key, value)| 96 + key.len() + value.len()).sum::<usize>()
        };
        let bytes = 64 + turns.iter().flat_map(|(_, turns)| turns).map(of_turn).sum::<usize>();
        self.index_cache.insert(key, Arc::new(IndexPart::Turns(Arc::clone(&turns))), bytes);
        Ok(turns)
    }

    /// The embeddings of all chunks of an extent by `embedder`, if there are any.
    pub(crate) fn embeddings(&self, extent: &Extent, embedder: &Fingerprint) -> Result<Option<Arc<EmbeddingIndex>>> {
        let key = IndexKey::Embeddings(extent.number, *embedder);
        if let Some(IndexPart::Embeddings(index)) = self.index_cache.get(&key).as_deref() {
            return Ok(Some(Arc::clone(index)));
        }
        let Some(index) = extent.read_embeddings(embedder)?.map(Arc::new) else { return Ok(None) };
        self.index_cache.insert(key, Arc::new(IndexPart::Embeddings(Arc::clone(&index))), index.bytes());
        Ok(Some(index))
    }

    /// The graph of a segment at the key head with index `at`.
    pub(crate) fn graph(&self, memory_entry: &MemoryEntry, segment: &Segment, at: usize) -> Result<Arc<GraphIndex>> {
        let key = IndexKey::Graph(segment.number, at);
        if let Some(IndexPart::Graph(graph)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(graph));
        }
        let graph = Arc::new(self.read_graph(memory_entry, segment, at)?);
        self.keep_graph(segment.number, at, &graph);
        Ok(graph)
    }

    /// Puts a graph into the cache; `at` is its place in its segment.
    pub(crate) fn keep_graph(&self, segment: u64, at: usize, graph: &Arc<GraphIndex>) {
        let part = Arc::new(IndexPart::Graph(Arc::clone(graph)));
        self.index_cache.insert(IndexKey::Graph(segment, at), part, graph.bytes());
    }

    /// Takes the graphs of a segment that is no longer searched out of the cache.
    pub(crate) fn forget_graphs(&self, segment: &Segment) {
        for at in 0..segment.graphs.len() {
            self.index_cache.remove(&IndexKey::Graph(segment.number, at));
        }
    }

    /// Reads and verifies the graph of a segment at the key head with index `at`.
    pub(crate) fn read_graph(&self, memory_entry: &MemoryEntry, segment: &Segment, at: usize) -> Result<GraphIndex> {
        let file = &segment.graphs[at];
        let owner = GraphOwner::new(memory_entry.number, segment.number, &memory_entry.spec.geometry, at);
        let what = format!("blob {} in {}", file.name, self.storage.location());
        let graph = read_graph(self.storage.as_ref(), &file.name, file.bytes, &what, owner)?;
        let (dim, entries) = (graph.dim(), graph.len());
        if dim != memory_entry.spec.geometry.head_dim as usize || entries != segment.entries as usize {
            return Err(file.damaged(format!("it has {entries} entries of {dim} values")));
        }
        Ok(graph)
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        (self.clock)()
    }
}

pub(crate) fn document_record(engine: &Engine, memory_entry: &MemoryEntry, id: &str) -> Result<Option<DocumentRecord>> {
    engine.check_whole()?;
    let bytes = engine.storage.get(&document_key(memory_entry.number, id))?;
    let what = || format!("the record of document {id} in memory {}", memory_entry.name);
    bytes.map(|bytes| DocumentRecord::decode(&bytes, &what())).transpose()
}
