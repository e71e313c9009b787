//! Times to live: what is due is not shown, by the injected clock, whatever fails.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{extend, options, queries, search, small_spec, texts, write_document};
use mnemon_memory::{Recall, ResumePoint};
use mnemon_memory_store::storage::{Fault, FaultPlan, FaultyStorage};
use mnemon_memory_store::{Error, Expired, InMemoryStorage, MAX_TTL_MS, Memory, MemoryLimits, Storage, Store};

const START: u64 = 1_700_000_000_000;

/// A store on a storage, with a clock that a test moves.
struct World {
    storage: Arc<dyn Storage>,
    clock: Arc<AtomicU64>,
    store: Store,
}

impl World {
    fn new() -> (Arc<InMemoryStorage>, Self) {
        let storage = Arc::new(InMemoryStorage::new());
        (Arc::clone(&storage), Self::on(storage))
    }

    fn on(storage: Arc<dyn Storage>) -> Self {
        let clock = Arc::new(AtomicU64::new(START));
        let store = open(&storage, &clock);
        Self { storage, clock, store }
    }

    fn reopen(self) -> Self {
        let Self { storage, clock, store } = self;
        drop(store);
        let store = open(&storage, &clock);
        Self { storage, clock, store }
    }

    fn set(&self, ms: u64) {
        self.clock.store(START + ms, Ordering::Relaxed);
    }

    fn create(&self, limits: MemoryLimits) -> Memory {
        self.store.create_memory_with("tenant", "books", small_spec(), limits).unwrap()
    }

    fn memory(&self) -> Memory {
        self.store.memory("tenant", "books").unwrap()
    }
}

fn open(storage: &Arc<dyn Storage>, clock: &Arc<AtomicU64>) -> Store {
    let clock = Arc::clone(clock);
    Store::open(Arc::clone(storage), options(), Arc::new(move || clock.load(Ordering::Relaxed))).unwrap()
}

fn write_for(memory: &Memory, id: &str, chunks: usize, seed: u64, ttl_ms: u64) {
    let mut writer = memory.writer(id, BTreeMap::new()).unwrap();
    writer.set_ttl_ms(Some(ttl_ms)).unwrap();
    extend(&mut writer, memory.geometry(), chunks, seed, true);
}

fn ids(memory: &Memory) -> Vec<String> {
    memory.list_documents(None, 100).unwrap().into_iter().map(|document| document.id).collect()
}

fn document_ttl(ms: u64) -> MemoryLimits {
    MemoryLimits { document_ttl_ms: Some(ms), ..MemoryLimits::default() }
}

#[test]
fn a_document_goes_exactly_at_its_time() {
    let (storage, world) = World::new();
    let memory = world.create(MemoryLimits::default());
    write_document(&memory, "stays", 2, 1);
    write_for(&memory, "goes", 20, 50, 1000);
    let document = memory.document("goes").unwrap();
    assert_eq!((document.ttl_ms, document.expires_unix_ms), (Some(1000), Some(START + 1000)));
    assert_eq!(memory.document("stays").unwrap().expires_unix_ms, None);

    world.set(999);
    assert_eq!(world.store.expire().unwrap(), Expired::default());
    let held = memory.snapshot().unwrap();
    assert_eq!(held.len(), 22);
    let (shown, queries) = (texts(&held), queries(2, 2, 8, 3));
    let found = search(&held, 0, &queries, 2, 7, false);
    let before = memory.info().sequence;

    world.set(1000);
    assert!(matches!(memory.document("goes"), Err(Error::UnknownDocument { .. })));
    assert!(matches!(memory.document_chunks("goes", 0, 9), Err(Error::UnknownDocument { .. })));
    assert!(matches!(memory.delete_document("goes"), Err(Error::UnknownDocument { .. })));
    assert_eq!(ids(&memory), ["stays"]);
    let info = memory.info();
    assert_eq!((info.documents, info.chunks, info.sequence), (1, 2, before), "reads do not write");
    assert_eq!(world.store.expire().unwrap(), Expired { memories: 0, documents: 1 });
    let info = memory.info();
    assert_eq!((info.documents, info.chunks, info.sequence), (1, 2, before + 1));
    let after = memory.snapshot().unwrap();
    assert_eq!(after.len(), 2);
    let live = after.chunks(100).unwrap();
    for exact in [true, false] {
        assert!(search(&after, 1, &queries, 2, 9, exact).iter().flatten().all(|hit| live.contains(&hit.chunk)));
    }
    // What is held keeps what it shows, and the bytes with it.
    assert_eq!(texts(&held), shown);
    assert_eq!(search(&held, 0, &queries, 2, 7, false), found);
    drop((held, after));
    let bytes: u64 = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
    let info = memory.info();
    assert_eq!(bytes, info.stored_bytes + info.index_bytes);
    // The name is free.
    assert_eq!(memory.writer("goes", BTreeMap::new()).unwrap().state().sequence, 0);
    write_document(&memory, "goes", 1, 90);
    assert_eq!(memory.document("goes").unwrap().expires_unix_ms, None);
}

#[test]
fn any_reader_finds_it_gone() {
    type Read = fn(&World, &Memory) -> bool;
    let readers: [(&str, Read); 6] = [
        ("snapshot", |_, memory| memory.snapshot().unwrap().is_empty()),
        ("list", |_, memory| ids(memory).is_empty()),
        ("document", |_, memory| memory.document("d").is_err()),
        ("info", |_, memory| memory.info().documents == 0),
        ("memories", |world, _| world.store.list_memories("tenant", None, 9).unwrap()[0].documents == 0),
        ("writer", |_, memory| memory.writer("d", BTreeMap::new()).unwrap().state().chunks == 0),
    ];
    for (name, read) in readers {
        let (storage, world) = World::new();
        let memory = world.create(MemoryLimits::default());
        write_for(&memory, "d", 3, 1, 10);
        world.set(10);
        let (blobs, records) = (storage.list_blobs().unwrap(), storage.scan(b"", None, 100).unwrap());
        assert!(read(&world, &memory), "{name}");
        // A writer begins the document again; reads change nothing.
        if name != "writer" {
            assert_eq!(storage.list_blobs().unwrap(), blobs, "{name}");
            assert_eq!(storage.scan(b"", None, 100).unwrap(), records, "{name}");
            assert_eq!(world.store.expire().unwrap(), Expired { memories: 0, documents: 1 }, "{name}");
        }
        assert!(storage.list_blobs().unwrap().is_empty(), "{name}: it is deleted, not only hidden");
    }
}

#[test]
fn a_commit_renews() {
    let (_, world) = World::new();
    let memory = world.create(document_ttl(1000));
    write_document(&memory, "d", 2, 1);
    world.set(900);
    // Nothing new but the commit itself; another time to live is kept by later commits.
    let resume = memory.document("d").unwrap().resume;
    memory.writer("d", BTreeMap::new()).unwrap().commit(resume).unwrap();
    assert_eq!(memory.document("d").unwrap().expires_unix_ms, Some(START + 1900));
    world.set(1899);
    let mut writer = memory.writer("d", BTreeMap::new()).unwrap();
    writer.set_ttl_ms(Some(5000)).unwrap();
    assert_eq!(memory.document("d").unwrap().ttl_ms, None, "not before the commit");
    extend(&mut writer, memory.geometry(), 1, 9, true);
    drop(writer);
    world.set(2000);
    extend(&mut memory.writer("d", BTreeMap::new()).unwrap(), memory.geometry(), 1, 10, true);
    assert_eq!(memory.document("d").unwrap().expires_unix_ms, Some(START + 7000));
    let mut writer = memory.writer("d", BTreeMap::new()).unwrap();
    writer.set_ttl_ms(None).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    drop(writer);
    assert_eq!(memory.document("d").unwrap().expires_unix_ms, Some(START + 3000));
    world.set(3000);
    assert!(ids(&memory).is_empty());
}

#[test]
fn a_document_that_is_written_stays_until_the_writer_goes() {
    let (_, world) = World::new();
    let memory = world.create(MemoryLimits { ttl_ms: Some(500), ..document_ttl(100) });
    write_document(&memory, "quiet", 1, 1);
    write_document(&memory, "written", 1, 5);
    let writer = memory.writer("written", BTreeMap::new()).unwrap();
    world.set(100);
    assert_eq!(world.store.expire().unwrap(), Expired { memories: 0, documents: 1 });
    assert_eq!(ids(&memory), ["written"]);
    assert_eq!(memory.snapshot().unwrap().len(), 1);
    // Nor does its memory go.
    world.set(500);
    assert_eq!(world.store.expire().unwrap(), Expired::default());
    assert_eq!(ids(&memory), ["written"]);
    let mut writer = writer;
    extend(&mut writer, memory.geometry(), 1, 6, true);
    drop(writer);
    assert_eq!(memory.document("written").unwrap().expires_unix_ms, Some(START + 600));
    let writer = memory.writer("written", BTreeMap::new()).unwrap();
    world.set(600);
    assert_eq!(memory.snapshot().unwrap().len(), 2);
    drop(writer);
    assert!(memory.snapshot().unwrap().is_empty());
}

#[test]
fn a_memory_goes_after_its_last_change() {
    let (storage, world) = World::new();
    let memory = world.create(MemoryLimits { ttl_ms: Some(1000), ..MemoryLimits::default() });
    assert_eq!(memory.info().expires_unix_ms, Some(START + 1000));
    write_for(&memory, "short", 1, 1, 10);
    world.set(500);
    // That something expired is no change that anybody asked for.
    assert!(ids(&memory).is_empty());
    assert_eq!(memory.info().expires_unix_ms, Some(START + 1000));
    write_document(&memory, "a", 30, 1);
    world.set(600);
    write_document(&memory, "b", 2, 100);
    memory.delete_document("b").unwrap();
    assert_eq!(memory.info().expires_unix_ms, Some(START + 1600));
    let world = world.reopen();
    let memory = world.memory();
    assert_eq!(memory.info().expires_unix_ms, Some(START + 1600));
    world.store.seal_all().unwrap();
    memory.compact().unwrap();
    assert_eq!(memory.info().expires_unix_ms, Some(START + 1600), "upkeep is no change");
    let held = memory.snapshot().unwrap();

    world.set(1599);
    assert_eq!(world.store.list_memories("tenant", None, 9).unwrap().len(), 1);
    world.set(1600);
    assert!(world.store.list_memories("tenant", None, 9).unwrap().is_empty());
    assert!(matches!(world.store.memory("tenant", "books"), Err(Error::UnknownMemory { .. })));
    assert!(matches!(world.store.delete_memory("tenant", "books"), Err(Error::UnknownMemory { .. })));
    assert!(matches!(memory.snapshot(), Err(Error::UnknownMemory { .. })));
    assert!(matches!(memory.writer("c", BTreeMap::new()), Err(Error::UnknownMemory { .. })));
    assert!(matches!(memory.update_limits(|limits| limits.ttl_ms = None), Err(Error::UnknownMemory { .. })));
    assert_eq!(held.len(), 30);
    drop(held);
    assert!(storage.list_blobs().unwrap().is_empty());
    let anew = world.create(MemoryLimits::default());
    assert_eq!((anew.info().documents, anew.limits()), (0, MemoryLimits::default()));
}

#[test]
fn limits_change_and_stay() {
    let (_, world) = World::new();
    let memory = world.create(MemoryLimits::default());
    write_document(&memory, "old", 1, 1);
    write_for(&memory, "own", 1, 2, 50_000);
    world.set(1000);
    write_document(&memory, "new", 1, 3);
    let sequence = memory.info().sequence;
    let info = memory
        .update_limits(|limits| {
            limits.document_ttl_ms = Some(1500);
            limits.max_tokens = Some(1000);
        })
        .unwrap();
    assert_eq!(info.sequence, sequence + 1);
    let expected = MemoryLimits { max_tokens: Some(1000), ..document_ttl(1500) };
    assert_eq!(info.limits, expected);
    let world = world.reopen();
    let memory = world.memory();
    assert_eq!(memory.limits(), expected);
    world.set(1500);
    assert_eq!(ids(&memory), ["new", "own"]);
    memory.update_limits(|limits| *limits = MemoryLimits::default()).unwrap();
    world.set(49_999);
    assert_eq!(ids(&memory), ["new", "own"]);
    world.set(50_000);
    assert_eq!(ids(&memory), ["new"]);
    // A new time to live of the memory begins with the update.
    memory.update_limits(|limits| limits.ttl_ms = Some(10)).unwrap();
    assert_eq!(ids(&memory), ["new"]);
    for wrong in [0, MAX_TTL_MS + 1] {
        assert!(memory.update_limits(|limits| limits.ttl_ms = Some(wrong)).is_err());
        assert!(memory.update_limits(|limits| limits.document_ttl_ms = Some(wrong)).is_err());
        assert!(memory.writer("w", BTreeMap::new()).unwrap().set_ttl_ms(Some(wrong)).is_err());
    }
    assert!(memory.update_limits(|limits| limits.max_bytes = Some(0)).is_err());
    world.set(50_010);
    assert!(world.store.memory("tenant", "books").is_err());
}

#[test]
fn opening_deletes_nothing_before_the_clock_says_so() {
    let (storage, world) = World::new();
    let memory = world.create(document_ttl(1000));
    for n in 0..5 {
        write_document(&memory, &format!("d{n}"), 12, n * 100);
    }
    drop(memory);
    let world = world.reopen();
    assert_eq!(ids(&world.memory()).len(), 5);
    // A clock that stands, as the default does.
    let World { store, .. } = world;
    drop(store);
    let store = common::open(Arc::clone(&storage) as Arc<dyn Storage>);
    assert_eq!(ids(&store.memory("tenant", "books").unwrap()).len(), 5);
    drop(store);
    let world = World::on(Arc::clone(&storage) as Arc<dyn Storage>);
    world.set(1000);
    let world = world.reopen();
    assert!(!storage.list_blobs().unwrap().is_empty());
    assert_eq!(world.store.expire().unwrap(), Expired { memories: 0, documents: 5 });
    assert!(storage.list_blobs().unwrap().is_empty(), "graphs go with their chunks");
    assert!(world.memory().snapshot().unwrap().is_empty());
}

#[test]
fn many_go_at_once() {
    let (storage, world) = World::new();
    let memory = world.create(document_ttl(1000));
    for n in 0..150 {
        write_document(&memory, &format!("d{n:03}"), 1, n);
    }
    world.set(500);
    write_document(&memory, "late", 3, 1000);
    world.set(1000);
    assert_eq!(memory.snapshot().unwrap().len(), 3);
    assert_eq!(ids(&memory), ["late"]);
    assert_eq!(world.store.expire().unwrap(), Expired { memories: 0, documents: 150 });
    let bytes: u64 = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
    let info = memory.info();
    assert_eq!((bytes, info.documents), (info.stored_bytes + info.index_bytes, 1));
}

#[test]
fn a_clock_that_steps_back_loses_nothing() {
    let (_, world) = World::new();
    let memory = world.create(MemoryLimits { ttl_ms: Some(10_000), ..document_ttl(1000) });
    write_document(&memory, "a", 1, 1);
    for back in [1, START / 2, START] {
        world.clock.store(START - back, Ordering::Relaxed);
        assert_eq!(world.store.expire().unwrap(), Expired::default());
        assert!(ids(&memory).contains(&"a".to_owned()));
        write_document(&memory, &format!("b{back}"), 1, 2);
        world.set(0);
    }
    // Written when the clock said 0: not known when that was, so it does not go by itself.
    world.set(999);
    assert!(ids(&memory).contains(&format!("b{START}")));
    let world = world.reopen();
    assert!(ids(&world.memory()).contains(&"a".to_owned()));
}

#[test]
fn what_cannot_be_deleted_is_hidden() {
    for fault in [Fault::NoSpace, Fault::Refused] {
        let faulty = Arc::new(FaultyStorage::new(Arc::new(InMemoryStorage::new())));
        let world = World::on(Arc::clone(&faulty) as Arc<dyn Storage>);
        let memory = world.create(MemoryLimits { ttl_ms: Some(5000), ..document_ttl(1000) });
        write_document(&memory, "a", 9, 1);
        world.set(500);
        write_document(&memory, "b", 9, 100);
        write_document(&memory, "c", 9, 200);
        world.set(1000);
        faulty.set_plan(Some(FaultPlan { at: 0, fault, sticky: true }));
        assert!(world.store.expire().is_err());
        let snapshot = memory.snapshot().unwrap();
        assert_eq!(snapshot.len(), 18);
        let live = snapshot.chunks(100).unwrap();
        assert!(search(&snapshot, 0, &queries(1, 2, 8, 1), 2, 99, false)[0].iter().all(|h| live.contains(&h.chunk)));
        assert_eq!(ids(&memory), ["b", "c"]);
        assert_eq!(memory.list_documents(None, 1).unwrap()[0].id, "b", "pages are full");
        assert!(matches!(memory.document("a"), Err(Error::UnknownDocument { .. })));
        assert_eq!(memory.info().documents, 2);
        assert!(memory.writer("a", BTreeMap::new()).is_err(), "neither as it was nor anew");
        drop(snapshot);
        world.set(5500);
        assert!(matches!(memory.snapshot(), Err(Error::UnknownMemory { .. })));
        assert!(world.store.list_memories("tenant", None, 9).unwrap().is_empty());
        faulty.set_plan(None);
        assert_eq!(world.store.expire().unwrap(), Expired { memories: 1, documents: 0 });
        assert!(faulty.list_blobs().unwrap().is_empty());
    }
}

#[test]
fn a_crash_at_any_write_of_an_expiry_brings_nothing_back() {
    let build = || {
        let inner = Arc::new(InMemoryStorage::new());
        let faulty = Arc::new(FaultyStorage::new(Arc::clone(&inner) as Arc<dyn Storage>));
        let world = World::on(Arc::clone(&faulty) as Arc<dyn Storage>);
        let memory = world.create(document_ttl(1000));
        for n in 0..4 {
            write_document(&memory, &format!("d{n}"), 10, n * 100);
        }
        let gone = MemoryLimits { ttl_ms: Some(1000), ..MemoryLimits::default() };
        let other = world.store.create_memory_with("tenant", "gone", small_spec(), gone).unwrap();
        write_document(&other, "x", 3, 900);
        world.set(500);
        write_document(&memory, "late", 10, 700);
        world.set(1000);
        (inner, faulty, world)
    };
    let (_, faulty, world) = build();
    let before = faulty.writes();
    assert_eq!(world.store.expire().unwrap(), Expired { memories: 1, documents: 4 });
    let writes = faulty.writes() - before;
    assert!(writes > 4, "{writes}");
    for fault in [Fault::Refused, Fault::Torn, Fault::LostAnswer] {
        for at in 0..writes {
            let (inner, faulty, world) = build();
            faulty.set_plan(Some(FaultPlan { at, fault, sticky: true }));
            let _ = world.store.expire();
            faulty.crash();
            let clock = Arc::clone(&world.clock);
            let storage: Arc<dyn Storage> = inner;
            let store = open(&storage, &clock);
            let memory = store.memory("tenant", "books").unwrap();
            assert_eq!(ids(&memory), ["late"], "{fault:?} at {at}");
            assert_eq!(memory.snapshot().unwrap().len(), 10);
            assert!(store.memory("tenant", "gone").is_err(), "{fault:?} at {at}");
            store.expire().unwrap();
            assert_eq!(memory.snapshot().unwrap().len(), 10);
            let info = memory.info();
            let bytes: u64 = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
            assert_eq!(bytes, info.stored_bytes + info.index_bytes, "{fault:?} at {at}");
        }
    }
}

#[test]
fn a_repair_keeps_the_limits_it_can_know() {
    let (storage, world) = World::new();
    let limits = MemoryLimits { ttl_ms: Some(9000), max_tokens: Some(5000), ..document_ttl(1000) };
    let memory = world.create(limits);
    write_for(&memory, "own", 2, 1, 2000);
    write_document(&memory, "rebuilt", 2, 50);
    drop(memory);
    let World { store, clock, .. } = world;
    drop(store);
    let mut batch = mnemon_memory_store::storage::Batch::default();
    for (key, _) in storage.scan(b"d", None, 9).unwrap() {
        if key.ends_with(b"rebuilt") {
            batch.put(key, b"damaged".to_vec());
        }
    }
    storage.apply(&batch).unwrap();
    let storage: Arc<dyn Storage> = storage;
    assert!(mnemon_memory_store::check(&storage, true).unwrap().repaired);
    let store = open(&storage, &clock);
    let memory = store.memory("tenant", "books").unwrap();
    assert_eq!((memory.limits(), memory.info().expires_unix_ms), (limits, Some(START + 9000)));
    assert_eq!(memory.document("own").unwrap().expires_unix_ms, Some(START + 2000));
    clock.store(START + 1500, Ordering::Relaxed);
    // Nobody knows when it was written, so it does not go by itself before its next commit.
    assert_eq!(memory.document("rebuilt").unwrap().expires_unix_ms, None);
    memory.writer("rebuilt", BTreeMap::new()).unwrap().commit(ResumePoint::default()).unwrap();
    assert_eq!(memory.document("rebuilt").unwrap().expires_unix_ms, Some(START + 2500));
}
