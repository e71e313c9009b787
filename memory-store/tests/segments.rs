//! Segments take smaller ones in: they stay few, and answers stay what they were.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use common::{clock, extend, options, queries, search, small_spec, write_document};
use mnemon_memory::Recall;
use mnemon_memory_store::storage::Batch;
use mnemon_memory_store::{InMemoryStorage, Memory, Sealing, Storage, Store, StoreOptions};

fn open(storage: &Arc<InMemoryStorage>) -> Store {
    let options = StoreOptions { seal_entries: 64, sealing: Sealing::Manual, ..options() };
    Store::open(Arc::clone(storage) as Arc<dyn Storage>, options, clock()).unwrap()
}

/// Graphs of the first slot and head.
fn graphs(storage: &InMemoryStorage) -> usize {
    let blobs = storage.list_blobs().unwrap();
    blobs.iter().filter(|blob| blob.name.starts_with("graph-")).count() / 4
}

/// How many of the best ten a walk finds, of 400.
fn found(memory: &Memory) -> usize {
    let snapshot = memory.snapshot().unwrap();
    let live: HashSet<_> = snapshot.chunks(usize::MAX).unwrap().into_iter().collect();
    let queries = queries(20, 2, 8, 3);
    let (exact, walked) = (search(&snapshot, 1, &queries, 2, 10, true), search(&snapshot, 1, &queries, 2, 10, false));
    let mut same = 0;
    for (exact, walked) in exact.iter().zip(&walked) {
        assert!(walked.iter().chain(exact).all(|hit| live.contains(&hit.chunk)));
        same += walked.iter().filter(|hit| exact.iter().any(|e| (e.chunk, e.start) == (hit.chunk, hit.start))).count();
    }
    same
}

#[test]
fn segments_stay_few_and_whole() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(&storage);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let mut most = 0;
    for round in 0..40 {
        write_document(&memory, &format!("d{round}"), 9, round * 100);
        store.seal_all().unwrap();
        most = most.max(graphs(&storage));
        assert_eq!(memory.info().unsealed_entries, 0);
    }
    // 40 times 72 entries: 2880, 720 at most behind it, 180, 45.
    assert!(most <= 4, "{most} segments");
    assert!(found(&memory) >= 390, "{}", found(&memory));

    // Taking in a segment some of whose chunks are gone leaves these out.
    for round in (0..40).step_by(3) {
        memory.delete_document(&format!("d{round}")).unwrap();
    }
    assert!(found(&memory) >= 385, "{}", found(&memory));
    for round in 40..60 {
        write_document(&memory, &format!("d{round}"), 9, round * 100);
    }
    store.seal_all().unwrap();
    assert!(found(&memory) >= 385, "{}", found(&memory));
    let before = search(&memory.snapshot().unwrap(), 0, &queries(5, 2, 8, 4), 2, 10, true);
    drop((memory, store));
    let memory = open(&storage).memory("tenant", "books").unwrap();
    assert_eq!(search(&memory.snapshot().unwrap(), 0, &queries(5, 2, 8, 4), 2, 10, true), before);
}

#[test]
fn a_held_snapshot_outlives_the_segments_that_were_taken_in() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(&storage);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 9, 1);
    store.seal_all().unwrap();
    let snapshot = memory.snapshot().unwrap();
    let queries = queries(5, 2, 8, 4);
    let before = search(&snapshot, 0, &queries, 2, 10, false);
    let mut writer = memory.writer("b", BTreeMap::new()).unwrap();
    extend(&mut writer, memory.geometry(), 9, 50, true);
    store.seal_all().unwrap();
    assert_eq!(graphs(&storage), 2, "the old one is still read");
    assert_eq!(search(&snapshot, 0, &queries, 2, 10, false), before);
    drop(snapshot);
    assert_eq!(graphs(&storage), 1);
}

#[test]
fn a_damaged_graph_is_built_anew_when_it_is_taken_in() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(&storage);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 9, 1);
    store.seal_all().unwrap();
    for blob in storage.list_blobs().unwrap().iter().filter(|blob| blob.name.starts_with("graph-")) {
        storage.damage_blob(&blob.name, |bytes| bytes[200] ^= 1);
    }
    write_document(&memory, "b", 9, 50);
    store.seal_all().unwrap();
    assert!(found(&memory) >= 390, "{}", found(&memory));
}

#[test]
fn segments_with_graphs_of_version_1_are_built_anew() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(&storage);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 9, 1);
    drop((memory, store));
    let mut batch = Batch::default();
    batch.put([&b"s"[..], &1_u64.to_be_bytes(), &1_u64.to_be_bytes()].concat(), b"of version 1".to_vec());
    storage.apply(&batch).unwrap();
    storage.write_blob("graph-0000000000000077", &[b"of version 1"]).unwrap();
    let store = open(&storage);
    assert_eq!(graphs(&storage), 0);
    assert!(storage.scan(b"s", None, 10).unwrap().is_empty());
    store.seal_all().unwrap();
    let memory = store.memory("tenant", "books").unwrap();
    assert_eq!((graphs(&storage), memory.info().unsealed_entries), (1, 0));
}
