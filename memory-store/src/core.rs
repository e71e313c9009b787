//! What all handles of a store share: storage, numbers, caches, and the one way to commit.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crate::cache::Cache;
use crate::codec::{Decoder, Encoder};
use crate::index::GraphIndex;
use crate::records::RESERVED_KEY;
use crate::state::MemoryState;
use crate::storage::{Batch, Storage};
use crate::sync::{lock, read};
use crate::tail::TailEntries;
use crate::{ChunkId, ChunkKv, Error, MemorySpec, Result, StoreOptions};

/// What the index cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IndexKey {
    /// A graph, by the number of its blob.
    Graph(u64),
    /// The entries of an unsealed extent (by its first chunk) at a slot.
    Tail(u64, usize),
}

#[derive(Clone)]
pub(crate) enum IndexPart {
    Graph(Arc<GraphIndex>),
    Tail(Arc<TailEntries>),
}

/// One memory, shared by its handles.
pub(crate) struct Cell {
    pub(crate) tenant: String,
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) created_unix_ms: u64,
    pub(crate) spec: MemorySpec,
    pub(crate) state: RwLock<Arc<MemoryState>>,
    /// Held from reading the state to replacing it: commits, deletions and sealings of a memory take turns.
    pub(crate) commit: Mutex<()>,
    /// Documents with a living writer.
    pub(crate) busy: Mutex<HashSet<String>>,
    pub(crate) deleted: AtomicBool,
}

impl Cell {
    pub(crate) fn state(&self) -> Arc<MemoryState> {
        Arc::clone(&read(&self.state))
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            return Err(Error::UnknownMemory { name: self.name.clone() });
        }
        Ok(())
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

const KINDS: usize = 5;
/// Numbers reserved at a time: what a crash wastes of 2^64.
const RESERVE: u64 = 1 << 16;

#[derive(Default)]
pub(crate) struct Numbers {
    next: [u64; KINDS],
    reserved: [u64; KINDS],
}

/// Memories by tenant and name.
pub(crate) type Names = BTreeMap<(String, String), Arc<Cell>>;

pub(crate) struct Core {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: StoreOptions,
    pub(crate) names: RwLock<Names>,
    pub(crate) index_cache: Cache<IndexKey, IndexPart>,
    pub(crate) chunk_cache: Cache<(ChunkId, usize), ChunkKv>,
    numbers: Mutex<Numbers>,
    /// Set when records may differ from the states in memory.
    broken: AtomicBool,
}

impl Core {
    pub(crate) fn new(storage: Arc<dyn Storage>, options: StoreOptions) -> Result<Self> {
        let mut numbers = Numbers { next: [1; KINDS], reserved: [1; KINDS] };
        if let Some(bytes) = storage.get(RESERVED_KEY)? {
            let mut input = Decoder::checked(&bytes, "the record of reserved numbers")?;
            for (next, reserved) in numbers.next.iter_mut().zip(&mut numbers.reserved) {
                *reserved = input.u64()?;
                *next = *reserved;
            }
            input.end()?;
        }
        Ok(Self {
            storage,
            names: RwLock::default(),
            index_cache: Cache::new(options.index_cache_bytes),
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
            let mut record = Encoder::default();
            reserved.iter().for_each(|number| _ = record.u64(*number));
            let mut batch = Batch::default();
            batch.put(RESERVED_KEY.to_vec(), record.checked());
            self.commit(&batch)?;
            numbers.reserved = reserved;
        }
        let first = numbers.next[kind];
        numbers.next[kind] = end;
        Ok(first)
    }

    /// Makes `batch` durable. After an error the records are as before, for this process and (unless it ends before
    /// its next commit) for the next one.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<()> {
        if self.broken.load(Ordering::Acquire) {
            let why = "an earlier write could not be taken back; open the store again (nothing acknowledged is lost)";
            return Err(Error::Catalog(why.into()));
        }
        let mut inverse = Batch::default();
        for (key, _) in batch.changes() {
            match self.storage.get(key)? {
                Some(value) => inverse.put(key.clone(), value),
                None => inverse.delete(key.clone()),
            }
        }
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

    pub(crate) fn now_unix_ms(&self) -> u64 {
        (self.options.clock)()
    }
}
