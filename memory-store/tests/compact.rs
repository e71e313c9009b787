//! Compaction: what was deleted is gone from every file; what stays is the same.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{chunk, clock, extend, open, options, queries, search, small_spec, texts, write_document};
use mnemon_memory::{KvChunk, Recall, ResumePoint};
use mnemon_memory_store::storage::{Fault, FaultPlan, FaultyStorage};
use mnemon_memory_store::{
    InMemoryStorage, Memory, Sealing, SledOptions, SledStorage, Storage, Store, StoreOptions, check, check_folder,
};

/// Appends a chunk that can be recognised: its text, and its keys.
fn write_secret(memory: &Memory, id: &str) -> KvChunk {
    let metadata = BTreeMap::from([("owner".to_owned(), "metadata-of-the-secret".to_owned())]);
    let mut writer = memory.writer(id, metadata).unwrap();
    let mut secret = chunk(memory.geometry(), (0, 0), 8, 4711);
    secret.text = "the recognisable text of a secret".into();
    secret.span.byte_end = secret.text.len() as u64;
    writer.append(secret.clone()).unwrap();
    writer.commit(ResumePoint { safe_byte: 0, safe_token: 0, complete: true }).unwrap();
    secret
}

/// Files below `folder` that contain one of `needles`.
fn files_with(folder: &Path, needles: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needles));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for needle in needles {
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(format!("{}: {}", path.display(), needle.escape_ascii()));
            }
        }
    }
    found
}

#[test]
fn what_was_deleted_is_gone_from_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let open_store = || {
        let storage = SledStorage::open(folder.path(), SledOptions::default()).unwrap();
        Store::open(Arc::new(storage), options(), clock()).unwrap()
    };
    let store = open_store();
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "before", 3, 1);
    let secret = write_secret(&memory, "id-of-the-secret");
    write_document(&memory, "after", 9, 50);
    assert!(memory.info().index_bytes > 0, "its keys are in a graph as well");
    let gone = store.create_memory("tenant", "memory-that-goes", small_spec()).unwrap();
    write_document(&gone, "id-that-goes", 1, 9);
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let needles = vec![
        secret.text.clone().into_bytes(),
        b"id-of-the-secret".to_vec(),
        b"metadata-of-the-secret".to_vec(),
        bytes(&secret.keys[0][..8]),
        bytes(&secret.values[1][8..16]),
        b"memory-that-goes".to_vec(),
        b"id-that-goes".to_vec(),
    ];
    assert!(files_with(folder.path(), &needles).len() >= needles.len());
    let held = memory.snapshot().unwrap();
    let shown = texts(&held);

    memory.delete_document("id-of-the-secret").unwrap();
    drop(gone);
    store.delete_memory("tenant", "memory-that-goes").unwrap();
    store.compact("tenant", None).unwrap();
    // A snapshot that was made before still shows it.
    assert_eq!(texts(&held), shown);
    assert!(shown.iter().any(|text| text.contains("recognisable")));
    drop(held);
    assert_eq!(files_with(folder.path(), &needles), Vec::<String>::new());
    assert_eq!(texts(&memory.snapshot().unwrap()).len(), 12);
    // The catalog that took its place is one to work with.
    write_document(&memory, "later", 2, 70);
    drop((memory, store));
    assert_eq!(files_with(folder.path(), &needles), Vec::<String>::new(), "after closing");
    assert!(check_folder(folder.path(), false).unwrap().is_sound());
    assert_eq!(open_store().memory("tenant", "books").unwrap().info().documents, 3);
}

/// Chunks with everything that belongs to them, and what a search finds.
fn everything(memory: &Memory) -> String {
    let snapshot = memory.snapshot().unwrap();
    let ids = snapshot.chunks(1000).unwrap();
    let (infos, kv) = (snapshot.describe(&ids).unwrap(), snapshot.fetch(1, &ids).unwrap());
    let mut found = search(&snapshot, 0, &queries(2, 2, 8, 3), 2, 20, true);
    found.sort_by(|a, b| a[0].score.total_cmp(&b[0].score));
    let documents = memory.list_documents(None, 100).unwrap();
    format!("{documents:?} {infos:?} {kv:?} {found:?}")
}

fn manual() -> StoreOptions {
    StoreOptions { sealing: Sealing::Manual, seal_entries: 256, ..options() }
}

/// Many small commits, some of them truncated later.
fn fill(store: &Store) -> Memory {
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    for seed in 0..20 {
        extend(&mut writer, memory.geometry(), 1, seed, false);
    }
    let mut other = memory.writer("b", BTreeMap::new()).unwrap();
    extend(&mut other, memory.geometry(), 3, 100, false);
    other.truncate(1).unwrap();
    other.commit(ResumePoint::default()).unwrap();
    memory
}

#[test]
fn small_blobs_are_joined_and_dead_chunks_go() {
    for sealed in [false, true] {
        let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
        let store = Store::open(Arc::clone(&storage), manual(), clock()).unwrap();
        let memory = fill(&store);
        if sealed {
            // With other boundaries than those of blobs.
            drop((memory, store));
            let store =
                Store::open(Arc::clone(&storage), StoreOptions { seal_entries: 80, ..manual() }, clock()).unwrap();
            store.seal_all().unwrap();
        } else {
            drop((memory, store));
        }
        let store = Store::open(Arc::clone(&storage), manual(), clock()).unwrap();
        let memory = store.memory("tenant", "books").unwrap();
        let (before, info) = (everything(&memory), memory.info());
        let held = memory.snapshot().unwrap();
        let done = memory.compact().unwrap();
        assert_eq!((done.blobs_before, done.bytes_before), (21, info.stored_bytes + info.index_bytes));
        // Blobs of at most 64 entries, within one segment each.
        assert!(done.blobs_after <= 6 && done.bytes_after < done.bytes_before, "{done:?}");
        assert_eq!(everything(&memory), before);
        assert_eq!(memory.info().index_bytes > 0, sealed);
        assert_eq!(held.fetch(0, &held.chunks(1000).unwrap()).unwrap().len(), 21);
        drop(held);
        let bytes: u64 = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
        assert_eq!(bytes, done.bytes_after);
        // Again: nothing to do.
        assert_eq!(memory.compact().unwrap().blobs_before, done.blobs_after);
        assert_eq!(memory.compact().unwrap().bytes_after, done.bytes_after);
        // Writers go on, and the next opening finds the same.
        drop((memory, store));
        let report = check(&storage, false).unwrap();
        assert!(report.is_sound() && report.unused_blobs == 0, "{:#?}", report.findings);
        let store = Store::open(Arc::clone(&storage), manual(), clock()).unwrap();
        let memory = store.memory("tenant", "books").unwrap();
        assert_eq!(everything(&memory), before);
        extend(&mut memory.writer("a", BTreeMap::new()).unwrap(), memory.geometry(), 2, 300, true);
        store.seal_all().unwrap();
        assert_eq!(memory.document_chunks("a", 0, 100).unwrap().len(), 22);
        // A repair without the catalog is not misled by merged blobs.
        drop((memory, store));
        let mut batch = mnemon_memory_store::storage::Batch::default();
        for (key, _) in storage.scan(b"n", None, 10).unwrap() {
            batch.delete(key);
        }
        storage.apply(&batch).unwrap();
        check(&storage, true).unwrap();
        let memory = open(storage).memory("tenant", "books").unwrap();
        assert_eq!(memory.document_chunks("a", 0, 100).unwrap().len(), 22);
    }
}

#[test]
fn a_writer_that_is_at_work_is_not_disturbed() {
    let store = Store::open(Arc::new(InMemoryStorage::new()), manual(), clock()).unwrap();
    let memory = fill(&store);
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    let state = writer.state();
    writer.append(chunk(memory.geometry(), (state.tokens, state.bytes), 8, 500)).unwrap();
    memory.compact().unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    memory.compact().unwrap();
    writer.truncate(5).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    assert_eq!(memory.document_chunks("a", 0, 100).unwrap().len(), 5);
    memory.compact().unwrap();
    assert_eq!(memory.info().chunks, 6);
    read(&memory);
}

fn read(memory: &Memory) {
    let snapshot = memory.snapshot().unwrap();
    snapshot.fetch(0, &snapshot.chunks(100).unwrap()).unwrap();
}

#[test]
fn a_compaction_that_fails_costs_nothing() {
    for fault in [Fault::Refused, Fault::NoSpace, Fault::Torn, Fault::LostAnswer] {
        for at in 0..12 {
            let inner: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
            let faulty = Arc::new(FaultyStorage::new(Arc::clone(&inner)));
            let store = Store::open(Arc::clone(&faulty) as Arc<dyn Storage>, manual(), clock()).unwrap();
            let memory = fill(&store);
            let before = everything(&memory);
            faulty.set_plan(Some(FaultPlan { at, fault, sticky: false }));
            let _ = store.compact("tenant", None);
            faulty.set_plan(None);
            assert_eq!(everything(&memory), before, "{fault:?} at {at}");
            drop((memory, store));
            faulty.crash();
            assert!(check(&inner, false).unwrap().is_sound(), "{fault:?} at {at}");
            let store = Store::open(Arc::clone(&inner), manual(), clock()).unwrap();
            let memory = store.memory("tenant", "books").unwrap();
            assert_eq!(everything(&memory), before, "{fault:?} at {at}");
            let bytes: u64 = inner.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
            assert_eq!(bytes, memory.info().stored_bytes, "{fault:?} at {at}");
        }
    }
}

#[test]
fn a_crash_while_the_catalog_is_replaced_leaves_one_of_the_two() {
    let folder = tempfile::tempdir().unwrap();
    let open_store =
        || Store::open(Arc::new(SledStorage::open(folder.path(), SledOptions::default()).unwrap()), manual(), clock());
    let store = open_store().unwrap();
    fill(&store);
    // A crash: the folder is not closed in order.
    drop(store);
    std::fs::remove_file(folder.path().join("catalog.copy")).unwrap();
    let (catalog, new, old) =
        (folder.path().join("catalog"), folder.path().join("catalog.new"), folder.path().join("catalog.old"));
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let is_whole = |when: &str| {
        let store = open_store().unwrap();
        assert_eq!(store.memory("tenant", "books").unwrap().info().chunks, 21, "{when}");
        drop(store);
        assert_eq!(names(), ["blobs", "catalog", "catalog.copy", "lock"], "{when}");
        std::fs::remove_file(folder.path().join("catalog.copy")).unwrap();
    };
    std::fs::create_dir(&new).unwrap();
    std::fs::write(new.join("db"), b"half").unwrap();
    is_whole("the new one is not whole");
    std::fs::rename(&catalog, &new).unwrap();
    std::fs::create_dir(&old).unwrap();
    is_whole("the old one has gone, the new one has not come");
    std::fs::create_dir(&old).unwrap();
    is_whole("the old one is not removed");
}
