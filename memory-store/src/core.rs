//! What all handles of a store share: storage, numbers, caches, and the one way to commit.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::archive::Histories;
use crate::cache::Cache;
use crate::embeddings::EmbeddingIndex;
use crate::extent::Extent;
use crate::geometry::KeySource;
use crate::index::{GraphIndex, GraphOwner, VectorIndex as _, read_graph};
use crate::life::Life;
use crate::quota::{Account, Accounts, Held};
use crate::records::{NUMBERS, RESERVED_KEY, decode_reserved, encode_reserved};
use crate::state::{MemoryState, Segment};
use crate::storage::{Batch, Storage};
use crate::sync::{lock, read, write};
use crate::tail::TailEntries;
use crate::words::WordIndex;
use crate::{ChunkId, ChunkKv, Error, Fingerprint, KvGeometry, MemorySpec, Result, StoreOptions, Turn};

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

/// One memory, shared by its handles.
pub(crate) struct Cell {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) created_unix_ms: u64,
    pub(crate) spec: MemorySpec,
    pub(crate) state: RwLock<Arc<MemoryState>>,
    /// Its limits, and what is due when.
    pub(crate) life: Life,
    /// What its tenant holds.
    pub(crate) account: Arc<Account>,
    /// Held from reading the state to replacing it: commits, deletions and sealings of a memory take turns.
    pub(crate) commit: Mutex<()>,
    /// Documents with a living writer.
    pub(crate) busy: Mutex<HashSet<String>>,
    pub(crate) deleted: AtomicBool,
    /// Why nothing can be done with it: its records are damaged.
    pub(crate) damaged: Option<String>,
    /// Held while segments are built: one builder for each memory.
    pub(crate) sealing: Mutex<()>,
    /// Whether it waits for the sealing thread.
    pub(crate) queued: AtomicBool,
}

impl Cell {
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

    /// Counts again what it holds, after embeddings came, of which no commit tells.
    pub(crate) fn recount(&self) {
        let _turn = lock(&self.commit);
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

/// Kinds of numbers; each is given out once in the life of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Memory,
    Document,
    Chunk,
    Blob,
    Segment,
}

/// Numbers reserved at a time: what a crash wastes of 2^64.
pub(crate) const RESERVE: u64 = 1 << 16;

#[derive(Default)]
pub(crate) struct Numbers {
    next: [u64; NUMBERS],
    reserved: [u64; NUMBERS],
}

/// Memories by tenant and name.
pub(crate) type Names = BTreeMap<(String, String), Arc<Cell>>;

/// Memories of a tenant, by name, those after `after`.
pub(crate) fn of_tenant<'a>(
    names: &'a Names,
    tenant: &'a str,
    after: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Cell>> {
    let start = (tenant.to_owned(), after.unwrap_or_default().to_owned());
    let start = if after.is_some() { Bound::Excluded(start) } else { Bound::Included(start) };
    let memories = names.range((start, Bound::Unbounded)).take_while(move |((owner, _), _)| owner == tenant);
    memories.map(|(_, cell)| cell)
}

pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: StoreOptions,
    pub(crate) names: RwLock<Names>,
    pub(crate) accounts: Accounts,
    pub(crate) index_cache: Cache<IndexKey, IndexPart>,
    pub(crate) chunk_cache: Cache<(ChunkId, usize), ChunkKv>,
    /// What exports under way have to know of commits.
    pub(crate) histories: Histories,
    /// Threads that build graphs: in rayon's global pool they would hold up searches.
    pub(crate) pool: rayon::ThreadPool,
    numbers: Mutex<Numbers>,
    /// Set when records may differ from the states in memory.
    broken: AtomicBool,
}

impl Core {
    pub(crate) fn new(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self> {
        let mut numbers = Numbers { next: [1; NUMBERS], reserved: [1; NUMBERS] };
        if let Some(bytes) = storage.get(RESERVED_KEY)? {
            let reserved = decode_reserved(&bytes).or_else(|error| {
                tracing::warn!(%error, "numbers are given out from far above all that are in use");
                crate::check::unused_numbers(storage.as_ref())
            })?;
            numbers = Numbers { next: reserved, reserved };
        }
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
            names: RwLock::default(),
            accounts: Accounts::new(options.tenant_quota),
            index_cache: Cache::for_rounds(options.index_cache_bytes),
            chunk_cache: Cache::new(options.chunk_cache_bytes),
            options,
            numbers: Mutex::new(numbers),
            broken: AtomicBool::new(false),
        })
    }

    /// `count` consecutive numbers that were never given out; returns the first.
    pub(crate) fn number(&self, kind: Number, count: u64) -> Result<u64> {
        let mut numbers = lock(&self.numbers);
        let kind = kind as usize;
        let end = numbers.next[kind] + count;
        if end > numbers.reserved[kind] {
            let mut reserved = numbers.reserved;
            reserved[kind] = end + RESERVE;
            let mut batch = Batch::default();
            batch.put(RESERVED_KEY.to_vec(), encode_reserved(reserved));
            self.commit(&batch)?;
            numbers.reserved = reserved;
        }
        let first = numbers.next[kind];
        numbers.next[kind] = end;
        Ok(first)
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
    pub(crate) fn graph(&self, cell: &Cell, segment: &Segment, at: usize) -> Result<Arc<GraphIndex>> {
        let key = IndexKey::Graph(segment.number, at);
        if let Some(IndexPart::Graph(graph)) = self.index_cache.get(&key).as_deref() {
            return Ok(Arc::clone(graph));
        }
        let graph = Arc::new(self.read_graph(cell, segment, at)?);
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
    pub(crate) fn read_graph(&self, cell: &Cell, segment: &Segment, at: usize) -> Result<GraphIndex> {
        let file = &segment.graphs[at];
        let owner = GraphOwner::new(cell.number, segment.number, &cell.spec.geometry, at);
        let what = format!("blob {} in {}", file.name, self.storage.location());
        let graph = read_graph(self.storage.as_ref(), &file.name, file.bytes, &what, owner)?;
        let (dim, entries) = (graph.dim(), graph.len());
        if dim != cell.spec.geometry.head_dim as usize || entries != segment.entries as usize {
            return Err(file.damaged(format!("it has {entries} entries of {dim} values")));
        }
        Ok(graph)
    }

    /// Memories of a tenant, by name, those after `after`.
    pub(crate) fn cells_of(&self, tenant: &str, after: Option<&str>) -> Vec<Arc<Cell>> {
        of_tenant(&read(&self.names), tenant, after).cloned().collect()
    }

    /// Refuses another memory, of whatever tenant, when there are as many as there may be.
    pub(crate) fn check_memory_limit(&self, names: &Names) -> Result<()> {
        let limit = self.options.max_memories;
        if names.len() as u64 >= limit {
            let advice = "delete a memory that is no longer needed".into();
            return Err(Error::Limit { what: "memories", limit, advice });
        }
        Ok(())
    }

    pub(crate) fn now_unix_ms(&self) -> u64 {
        (self.options.clock)()
    }
}
