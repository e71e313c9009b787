//! Seeded schedules of writing, deleting, searching, failing and crashing, against a plain model.
//!
//! One seed is one schedule: which operations come, what fails, when the machine stops, what survives. After each crash,
//! what was acknowledged is there, what was not is there as a whole or not at all, searches answer as an oracle does, no
//! chunk id was used twice, and no blob is left without use. A schedule that fails is printed, shortened as far as it
//! still fails.
//!
//! `MNEMON_SCHEDULES=1000000 cargo test --release -p mnemon-memory-store --test simulation -- --nocapture` runs more and
//! tells how many; `MNEMON_SEED=7` runs one, `MNEMON_FIRST_SEED=1000000` begins there.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mnemon_memory::{ChunkId, EntryPolicy, KeyHead, KvDtype, KvGeometry, Recall, ResumePoint, SearchRequest};
use mnemon_memory_store::storage::{SimulatedStorage, Trouble};
use mnemon_memory_store::{Error, Memory, Sealing, Snapshot, Storage, Store, StoreOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIM: usize = 4;
/// Seeds are spread so that no two schedules share chunks.
const STEP: u64 = 1_000_000;

#[derive(Debug, Clone)]
enum Operation {
    Create {
        memory: u8,
    },
    DeleteMemory {
        memory: u8,
    },
    /// Keeps all but some chunks of a document, appends others, and commits or gives up.
    Write {
        memory: u8,
        document: u8,
        drop_tail: u8,
        append: Vec<u8>,
        commit: bool,
        /// Time to live that it gives the document.
        ttl_ms: Option<u64>,
        seed: u64,
    },
    /// Time passes.
    Wait {
        ms: u64,
    },
    Expire,
    Delete {
        memory: u8,
        document: u8,
    },
    Hold {
        memory: u8,
    },
    LetGo,
    Search {
        memory: u8,
        seed: u64,
    },
    Compact {
        memory: u8,
    },
    Reopen,
    Crash,
    Trouble(Trouble),
}

fn schedule(seed: u64) -> Vec<Operation> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let length = rng.random_range(5..40);
    let mut operations = vec![Operation::Create { memory: 0 }];
    for index in 0..length {
        let memory = rng.random_range(0..4_u8).saturating_sub(1);
        let document = rng.random_range(0..3);
        operations.push(match rng.random_range(0..100) {
            0..5 => Operation::Create { memory },
            5..7 => Operation::DeleteMemory { memory },
            7..55 => Operation::Write {
                memory,
                document,
                drop_tail: if rng.random_bool(0.3) { rng.random_range(0..4) } else { 0 },
                append: (0..rng.random_range(0..5)).map(|_| rng.random_range(1..=8)).collect(),
                commit: rng.random_bool(0.9),
                ttl_ms: rng.random_bool(0.3).then(|| rng.random_range(1..20_000)),
                seed: seed.wrapping_mul(STEP).wrapping_add(index * 100),
            },
            55..60 => Operation::Delete { memory, document },
            60..62 => Operation::Wait { ms: rng.random_range(0..20_000) },
            62..63 => Operation::Expire,
            63..68 => Operation::Hold { memory },
            68..70 => Operation::LetGo,
            70..78 => Operation::Search { memory, seed: rng.random() },
            78..82 => Operation::Compact { memory },
            82..85 => Operation::Reopen,
            85..90 => Operation::Crash,
            90..95 => Operation::Trouble(Trouble { fails_one_in: rng.random_range(2..12), stops_after: None }),
            95..98 => Operation::Trouble(Trouble { fails_one_in: 0, stops_after: Some(rng.random_range(0..25)) }),
            _ => Operation::Trouble(Trouble::default()),
        });
    }
    operations
}

/// Texts of the chunks of a document.
type Texts = Vec<String>;

/// A document, and when it goes.
type Document = (Texts, Option<u64>);

/// What may be on disk: the first is what readers see, others only a crash can bring.
type Maybe<T> = Vec<T>;

/// Documents of a memory; `None`: there is no such document.
type Documents = BTreeMap<String, Maybe<Option<Document>>>;

#[derive(Default)]
struct Model {
    /// `None`: there is no such memory.
    memories: BTreeMap<String, Maybe<Option<Documents>>>,
    /// Keys of every chunk that was ever written.
    keys: HashMap<String, Vec<f32>>,
    /// Which text each id stood for.
    ids: HashMap<ChunkId, String>,
}

struct World {
    disk: SimulatedStorage,
    clock: Arc<AtomicU64>,
    store: Option<Store>,
    held: Vec<(Snapshot, Vec<(ChunkId, String)>)>,
    model: Model,
    crashes: u64,
}

/// Of the memory with a name: keys and values of a layer; a key head of another layer beside them; that key head alone.
fn geometry(name: &str) -> KvGeometry {
    let (layers, key_head) = match name {
        "m0" => (vec![1], KeyHead { layer: 1, head: 0 }),
        "m1" => (vec![1], KeyHead { layer: 2, head: 0 }),
        _ => (Vec::new(), KeyHead { layer: 2, head: 0 }),
    };
    KvGeometry {
        layers,
        key_heads: vec![key_head],
        kv_heads: 1,
        head_dim: DIM as u32,
        dtype: KvDtype::F32,
        chunk_tokens: 8,
        entry_policy: EntryPolicy::PerToken,
    }
}

macro_rules! hold {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(format!($($message)*));
        }
    };
}

/// What an injected fault, or a core that gave up after one, answers.
fn injected(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::NoSpace { .. } | Error::Catalog(_))
}

impl World {
    fn new(seed: u64) -> Result<Self, String> {
        let mut world = Self {
            disk: SimulatedStorage::new(seed),
            clock: Arc::new(AtomicU64::new(1)),
            store: None,
            held: Vec::new(),
            model: Model::default(),
            crashes: 0,
        };
        world.open()?;
        Ok(world)
    }

    fn open(&mut self) -> Result<(), String> {
        let clock = Arc::clone(&self.clock);
        let options = StoreOptions {
            seal_entries: 32,
            m: 4,
            ef_construction: 16,
            sealing: Sealing::Inline,
            scan_entries: 0,
            writer_buffer_bytes: 1500,
            ..StoreOptions::default()
        };
        let storage: Arc<dyn Storage> = Arc::new(self.disk.clone());
        let store = Store::open(storage, options, Arc::new(move || clock.load(Ordering::Relaxed)))
            .map_err(|error| format!("opening failed: {error}"))?;
        self.store = Some(store);
        Ok(())
    }

    fn store(&self) -> Result<&Store, String> {
        self.store.as_ref().ok_or_else(|| "no store".to_owned())
    }

    fn memory(&self, name: &str) -> Result<Option<Memory>, String> {
        match self.store()?.memory("tenant", name) {
            Ok(memory) => Ok(Some(memory)),
            Err(Error::UnknownMemory { .. }) => Ok(None),
            Err(error) => Err(format!("memory {name}: {error}")),
        }
    }

    /// Power goes; what comes back must be one of the things that may be.
    fn crash(&mut self) -> Result<(), String> {
        self.crashes += 1;
        self.held.clear();
        self.store = None;
        self.disk = self.disk.restart();
        self.open()?;
        self.settle()?;
        self.check_all(true)
    }

    /// Makes what is found what readers see.
    fn settle(&mut self) -> Result<(), String> {
        let mut found = BTreeMap::new();
        for info in self.store()?.list_memories("tenant", None, 100).map_err(|error| error.to_string())? {
            hold!(info.damaged.is_none(), "memory {} is damaged: {:?}", info.name, info.damaged);
            let memory = self.memory(&info.name)?.ok_or("a listed memory is unknown")?;
            found.insert(info.name, documents(&memory)?);
        }
        for name in found.keys() {
            hold!(self.model.memories.contains_key(name), "memory {name} was never made");
        }
        for (name, maybe) in &mut self.model.memories {
            let shown = found.remove(name);
            let Some(shown) = shown else {
                hold!(maybe.iter().any(Option::is_none), "memory {name} is lost");
                *maybe = vec![None];
                continue;
            };
            let matches = maybe.iter().flatten().any(|documents| {
                let ids: BTreeSet<_> = shown.keys().chain(documents.keys()).collect();
                ids.into_iter().all(|id| {
                    let shown = shown.get(id).cloned();
                    documents.get(id).map_or(shown.is_none(), |maybe| maybe.contains(&shown))
                })
            });
            hold!(matches, "memory {name} holds {shown:?}, but it may hold {maybe:?}");
            let settled = shown.into_iter().map(|(id, document)| (id, vec![Some(document)])).collect();
            *maybe = vec![Some(settled)];
        }
        Ok(())
    }

    /// Everything that readers see is as the model says; and no blob is left over, unless something failed since opening.
    fn check_all(&mut self, nothing_failed: bool) -> Result<(), String> {
        if nothing_failed && self.held.is_empty() {
            // What expired takes space until it is deleted.
            self.expire()?;
        }
        let mut bytes = 0;
        for (name, maybe) in &self.model.memories {
            let memory = self.memory(name)?;
            let Some(Some(expected)) = maybe.first() else {
                hold!(memory.is_none(), "memory {name} is back");
                continue;
            };
            let memory = memory.ok_or_else(|| format!("memory {name} is gone"))?;
            let expected: BTreeMap<_, _> =
                expected.iter().filter_map(|(id, maybe)| Some((id.clone(), maybe.first()?.clone()?))).collect();
            let shown = documents(&memory)?;
            hold!(shown == expected, "memory {name} shows {shown:?} instead of {expected:?}");
            let info = memory.info();
            hold!(info.documents == expected.len() as u64, "memory {name} counts {} documents", info.documents);
            bytes += info.stored_bytes + info.index_bytes;
            let snapshot = memory.snapshot().map_err(|error| error.to_string())?;
            for (id, text) in listed(&snapshot)? {
                let known = self.model.ids.entry(id).or_insert_with(|| text.clone());
                hold!(*known == text, "chunk {} was {known:?} and is {text:?}", id.0);
            }
        }
        if nothing_failed && self.held.is_empty() {
            let blobs = self.disk.list_blobs().map_err(|error| error.to_string())?;
            let stored: u64 = blobs.iter().map(|blob| blob.bytes).sum();
            hold!(stored == bytes, "{stored} bytes of blobs, of which {bytes} are in use: {blobs:?}");
        }
        Ok(())
    }

    fn search(&self, memory: &Memory, seed: u64) -> Result<(), String> {
        let snapshot = memory.snapshot().map_err(|error| error.to_string())?;
        let query = common::queries(1, 1, DIM, seed);
        let mut scores = Vec::new();
        let listed = match listed(&snapshot) {
            // Deleting what was due met the end of the disk.
            Err(error) if error.contains("injected fault") => return Ok(()),
            other => other?,
        };
        for (_, text) in &listed {
            let keys = &self.model.keys[text];
            let product = |key: &[f32]| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>();
            scores.extend(keys.chunks_exact(DIM).map(product));
        }
        scores.sort_by(|a, b| b.total_cmp(a));
        for exact in [true, false] {
            let request = SearchRequest { key_heads: &[0], queries: &query, top_k: 5, ef: Some(64), exact };
            let found = match snapshot.search(&request) {
                Err(mnemon_memory::Error::Backend(error)) if error.downcast_ref().is_some_and(injected) => {
                    return Ok(());
                }
                other => other.map_err(|error| error.to_string())?,
            };
            hold!(found[0].len() == scores.len().min(5), "{} found of {}", found[0].len(), scores.len());
            for (hit, score) in found[0].iter().zip(&scores) {
                hold!(listed.iter().any(|(id, _)| *id == hit.chunk), "chunk {} is not live", hit.chunk.0);
                hold!(!exact || (hit.score - score).abs() < 1e-3, "score {} instead of {score}", hit.score);
            }
        }
        Ok(())
    }

    fn write(&mut self, memory: &Memory, operation: &Operation) -> Result<(), String> {
        let Operation::Write { document, drop_tail, append, commit, ttl_ms, seed, .. } = operation else {
            return Ok(());
        };
        let (name, id) = (memory.name().to_owned(), format!("d{document}"));
        let Some(Some(documents)) = self.model.memories.get_mut(&name).and_then(|maybe| maybe.first_mut()) else {
            return Err(format!("memory {name} should not be"));
        };
        let maybe = documents.entry(id.clone()).or_insert_with(|| vec![None]);
        let (mut texts, _) = maybe[0].clone().unwrap_or_default();
        let mut writer = match memory.writer(&id, BTreeMap::new()) {
            Err(error) if injected(&error) => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        };
        hold!(writer.state().chunks == texts.len() as u64, "a writer finds {} chunks", writer.state().chunks);
        let keep = texts.len().saturating_sub(*drop_tail as usize);
        let kept = match memory.document_chunks(&id, 0, keep) {
            Err(Error::UnknownDocument { .. }) => Vec::new(),
            Err(error) if injected(&error) => return Ok(()),
            other => other.map_err(|error| error.to_string())?,
        };
        let mut at = kept.last().map_or((0, 0), |info| (info.span.token_end, info.span.byte_end));
        writer.truncate(keep as u64).map_err(|error| error.to_string())?;
        texts.truncate(keep);
        for (index, tokens) in append.iter().enumerate() {
            let seed = seed + index as u64;
            let mut chunk = common::chunk(memory.geometry(), at, *tokens as usize, seed);
            chunk.text = format!("{seed:020}");
            chunk.span.byte_end = chunk.span.byte_start + 20;
            at = (chunk.span.token_end, chunk.span.byte_end);
            self.model.keys.insert(chunk.text.clone(), common::keys_at(memory.geometry(), &chunk, 0).to_vec());
            let text = chunk.text.clone();
            match writer.append(chunk) {
                // Given up: nothing of it may show.
                Err(error) if injected(&error) => return Ok(()),
                other => other.map_err(|error| error.to_string())?,
            }
            texts.push(text);
        }
        if !commit {
            return Ok(());
        }
        writer.set_ttl_ms(*ttl_ms).map_err(|error| error.to_string())?;
        let expires = ttl_ms.map(|ttl_ms| self.clock.load(Ordering::Relaxed) + ttl_ms);
        match writer.commit(ResumePoint { safe_byte: at.1, safe_token: at.0, complete: false }) {
            Ok(committed) => {
                hold!(committed.chunks == texts.len() as u64, "{} chunks acknowledged", committed.chunks);
                *maybe = vec![Some((texts, expires))];
            }
            // Readers see what was; a crash may bring what was tried.
            Err(error) if injected(&error) => maybe.push(Some((texts, expires))),
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Time passes: what is due is not there any more, whatever becomes of its bytes.
    fn pass(&mut self, ms: u64) {
        let now = self.clock.fetch_add(ms, Ordering::Relaxed) + ms;
        for documents in self.model.memories.values_mut().flatten().flatten() {
            for document in documents.values_mut().flatten() {
                if document.as_ref().is_some_and(|(_, expires)| expires.is_some_and(|expires| expires <= now)) {
                    *document = None;
                }
            }
        }
    }

    fn expire(&self) -> Result<(), String> {
        match self.store()?.expire() {
            Err(error) if !injected(&error) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    fn run(&mut self, operation: &Operation) -> Result<(), String> {
        let ms = if let Operation::Wait { ms } = operation { *ms } else { 1000 };
        self.pass(ms);
        let name = |memory: &u8| format!("m{memory}");
        match operation {
            Operation::Create { memory } => {
                let maybe = self.model.memories.entry(name(memory)).or_insert_with(|| vec![None]);
                let exists = maybe[0].is_some();
                let store = self.store.as_ref().ok_or("no store")?;
                match store.create_memory("tenant", &name(memory), common::spec(geometry(&name(memory)))) {
                    Ok(_) => {
                        hold!(!exists, "a memory was made twice");
                        *maybe = vec![Some(BTreeMap::new())];
                    }
                    Err(Error::MemoryExists { .. }) => hold!(exists, "a memory exists that was not made"),
                    Err(error) if injected(&error) => {
                        if !exists {
                            maybe.push(Some(BTreeMap::new()));
                        }
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
            Operation::DeleteMemory { memory } => {
                let maybe = self.model.memories.entry(name(memory)).or_insert_with(|| vec![None]);
                let store = self.store.as_ref().ok_or("no store")?;
                match store.delete_memory("tenant", &name(memory)) {
                    Ok(()) => *maybe = vec![None],
                    Err(Error::UnknownMemory { .. }) => hold!(maybe[0].is_none(), "a memory is gone"),
                    Err(error) if injected(&error) => maybe.push(None),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Operation::Write { memory, .. } => {
                if let Some(memory) = self.memory(&name(memory))? {
                    self.write(&memory, operation)?;
                }
            }
            Operation::Delete { memory, document } => {
                let Some(memory) = self.memory(&name(memory))? else { return Ok(()) };
                let maybe = self.model.memories.get_mut(memory.name()).and_then(|maybe| maybe.first_mut());
                let Some(Some(documents)) = maybe else { return Err("a memory should not be".into()) };
                let id = format!("d{document}");
                let maybe = documents.entry(id.clone()).or_insert_with(|| vec![None]);
                match memory.delete_document(&id) {
                    Ok(_) => *maybe = vec![None],
                    Err(Error::UnknownDocument { .. }) => hold!(maybe[0].is_none(), "document {id} is gone"),
                    Err(error) if injected(&error) => maybe.push(None),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Operation::Hold { memory } => {
                if let Some(memory) = self.memory(&name(memory))? {
                    let snapshot = memory.snapshot().map_err(|error| error.to_string())?;
                    let Ok(listed) = listed(&snapshot) else { return Ok(()) };
                    self.held.push((snapshot, listed));
                }
            }
            Operation::Wait { .. } => {}
            Operation::Expire => self.expire()?,
            Operation::LetGo => self.held.clear(),
            Operation::Search { memory, seed } => {
                if let Some(memory) = self.memory(&name(memory))? {
                    self.search(&memory, *seed)?;
                }
            }
            Operation::Compact { memory } => {
                if let Some(memory) = self.memory(&name(memory))? {
                    match memory.compact() {
                        Err(error) if injected(&error) => {}
                        other => _ = other.map_err(|error| error.to_string())?,
                    }
                }
            }
            Operation::Reopen => {
                self.held.clear();
                self.store = None;
                // What was tried and failed may show now, and then for good.
                let opened = self.open().and_then(|()| {
                    self.disk.set_trouble(Trouble::default());
                    self.settle()?;
                    self.check_all(false)
                });
                let faults = ["injected fault", "no space left", "open the store again"];
                match opened {
                    // Opening met a fault, or sealing did.
                    Err(error) if faults.iter().any(|fault| error.contains(fault)) => self.crash()?,
                    other => other?,
                }
            }
            Operation::Crash => self.crash()?,
            Operation::Trouble(trouble) => self.disk.set_trouble(*trouble),
        }
        if self.disk.stopped() {
            return self.crash();
        }
        for (snapshot, before) in &self.held {
            let now = listed(snapshot)?;
            hold!(now == *before, "a held snapshot changed from {before:?} to {now:?}");
        }
        Ok(())
    }
}

/// Ids and texts of the chunks of a snapshot.
fn listed(snapshot: &Snapshot) -> Result<Vec<(ChunkId, String)>, String> {
    let ids = snapshot.chunks(usize::MAX).map_err(|error| error.to_string())?;
    let infos = snapshot.describe(&ids).map_err(|error| error.to_string())?;
    for fetched in snapshot.fetch_layers(&ids).map_err(|error| error.to_string())? {
        hold!(fetched.len() == ids.len(), "{} of {} chunks fetched", fetched.len(), ids.len());
    }
    Ok(infos.into_iter().map(|info| (info.id, info.text)).collect())
}

fn documents(memory: &Memory) -> Result<BTreeMap<String, Document>, String> {
    let text = |error: Error| error.to_string();
    let mut documents = BTreeMap::new();
    for info in memory.list_documents(None, 100).map_err(text)? {
        let chunks = memory.document_chunks(&info.id, 0, usize::MAX).map_err(text)?;
        hold!(chunks.len() as u64 == info.chunks, "document {} has {} chunks", info.id, chunks.len());
        documents.insert(info.id, (chunks.into_iter().map(|chunk| chunk.text).collect(), info.expires_unix_ms));
    }
    Ok(documents)
}

/// Runs a schedule; returns how often the machine stopped.
fn run(seed: u64, operations: &[Operation]) -> Result<u64, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed)?;
        for operation in operations {
            world.run(operation)?;
        }
        world.crash()?;
        for memory in 0..3 {
            world.run(&Operation::Search { memory, seed })?;
        }
        // And it can go on.
        world.run(&Operation::Create { memory: 0 })?;
        let append = vec![8; 6];
        let seed = seed.wrapping_mul(STEP).wrapping_add(STEP / 2);
        world.run(&Operation::Write {
            memory: 0,
            document: 0,
            drop_tail: 9,
            append,
            commit: true,
            ttl_ms: None,
            seed,
        })?;
        world.run(&Operation::Compact { memory: 0 })?;
        world.check_all(true)?;
        Ok(world.crashes)
    }));
    ran.unwrap_or_else(|_| Err("it panicked".into()))
}

/// Leaves out operations as long as the schedule still fails.
fn shorten(seed: u64, mut operations: Vec<Operation>) -> (Vec<Operation>, String) {
    let mut why = run(seed, &operations).err().unwrap_or_default();
    loop {
        let before = operations.len();
        let mut at = 0;
        while at < operations.len() {
            let mut fewer = operations.clone();
            fewer.remove(at);
            match run(seed, &fewer) {
                Err(error) => (operations, why) = (fewer, error),
                Ok(_) => at += 1,
            }
        }
        if operations.len() == before {
            return (operations, why);
        }
    }
}

#[test]
fn schedules_of_faults_and_crashes_lose_nothing() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("MNEMON_FIRST_SEED").unwrap_or(0);
    let seeds = match number("MNEMON_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("MNEMON_SCHEDULES").unwrap_or(10_000),
    };
    let (schedules, began) = (seeds.end - seeds.start, Instant::now());
    let (mut steps, mut crashes) = (0, 0);
    for seed in seeds {
        let operations = schedule(seed);
        steps += operations.len();
        if let Ok(stopped) = run(seed, &operations) {
            crashes += stopped;
            continue;
        }
        let (operations, why) = shorten(seed, operations);
        let lines: Vec<String> = operations.iter().map(|operation| format!("  {operation:?}")).collect();
        panic!("seed {seed}: {why}\n{}", lines.join("\n"));
    }
    let speed = schedules as f64 / began.elapsed().as_secs_f64();
    println!(
        "{schedules} schedules from seed {first}, {steps} operations, {crashes} crashes: nothing lost ({speed:.0}/s)"
    );
}
