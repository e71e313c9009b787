//! Damaged and unknown files are refused by name; nothing panics.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{clock, open, options, queries, small_spec, write_document};
use mnemon_memory::{Recall, SearchRequest};
use mnemon_memory_store::storage::Batch;
use mnemon_memory_store::{Error, InMemoryStorage, Memory, SledOptions, SledStorage, Storage, Store};

/// Reads everything there is.
fn read_all(memory: &Memory) -> mnemon_memory::Result<()> {
    let snapshot = memory.snapshot()?;
    let ids = snapshot.chunks(1000)?;
    snapshot.describe(&ids)?;
    for slot in 0..2 {
        snapshot.fetch(slot, &ids)?;
        let queries = queries(2, 2, 8, 1);
        for exact in [true, false] {
            let key_heads = [2 * slot, 2 * slot + 1];
            snapshot.search(&SearchRequest { key_heads: &key_heads, queries: &queries, top_k: 5, ef: None, exact })?;
        }
    }
    Ok(())
}

#[test]
fn every_damaged_blob_is_named_or_unharmed() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 12, 1);
    drop((memory, store));
    let mut detected = 0;
    let mut tried = 0;
    for blob in storage.list_blobs().unwrap() {
        for at in (0..blob.bytes).step_by(97).chain([blob.bytes - 1]) {
            tried += 1;
            storage.damage_blob(&blob.name, |bytes| bytes[at as usize] ^= 0x10);
            let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
            match read_all(&store.memory("tenant", "books").unwrap()) {
                // Headers and footers of chunk blobs are only for rebuilding, and padding is for nothing.
                Ok(()) => assert!(blob.name.starts_with("chunks"), "{} at {at}", blob.name),
                Err(mnemon_memory::Error::Damaged { what, .. }) => {
                    assert!(what.contains(&blob.name), "{what} instead of {}", blob.name);
                    detected += 1;
                }
                Err(error) => panic!("{} at {at}: {error}", blob.name),
            }
            storage.damage_blob(&blob.name, |bytes| bytes[at as usize] ^= 0x10);
        }
        for keep in [0, 1, blob.bytes / 2] {
            let mut whole = Vec::new();
            storage.damage_blob(&blob.name, |bytes| {
                whole.clone_from(bytes);
                bytes.truncate(keep as usize);
            });
            let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
            let error = read_all(&store.memory("tenant", "books").unwrap()).unwrap_err();
            assert!(
                matches!(&error, mnemon_memory::Error::Damaged { what, .. } if what.contains(&blob.name)),
                "{error}"
            );
            storage.damage_blob(&blob.name, |bytes| *bytes = whole);
        }
    }
    assert!(detected * 10 > tried * 8, "{detected} of {tried}");
    read_all(&open(storage).memory("tenant", "books").unwrap()).unwrap();
}

#[test]
fn a_file_cut_short_on_disk_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let open_store = || {
        let storage = SledStorage::open(directory.path(), SledOptions::default()).unwrap();
        Store::open(Arc::new(storage), options(), clock()).unwrap()
    };
    let store = open_store();
    write_document(&store.create_memory("tenant", "books", small_spec()).unwrap(), "a", 2, 1);
    drop(store);
    let file = std::fs::read_dir(directory.path().join("blobs")).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = read_all(&open_store().memory("tenant", "books").unwrap()).unwrap_err().to_string();
    assert!(error.contains(file.file_name().unwrap().to_str().unwrap()), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = read_all(&open_store().memory("tenant", "books").unwrap()).unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
}

#[test]
fn a_damaged_record_costs_one_memory() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 12, 1);
    write_document(&store.create_memory("tenant", "other", small_spec()).unwrap(), "b", 12, 9);
    drop((memory, store));
    let blobs = storage.list_blobs().unwrap().len();
    for (key, value) in storage.scan(b"", None, 1000).unwrap() {
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 0x40;
            let mut batch = Batch::default();
            batch.put(key.clone(), damaged);
            storage.apply(&batch).unwrap();
            let name = format!("{} at {at}", key.escape_ascii());
            match Store::open(Arc::clone(&storage) as Arc<dyn Storage>, options(), clock()) {
                Ok(store) if key == b"r" => {
                    // Numbers are given out from elsewhere.
                    for name in ["books", "other"] {
                        read_all(&store.memory("tenant", name).unwrap()).unwrap();
                    }
                    continue;
                }
                Ok(store) => {
                    let all = store.list_memories("tenant", None, 10).unwrap();
                    let broken: Vec<_> = all.iter().filter(|memory| memory.damaged.is_some()).collect();
                    assert_eq!((all.len(), broken.len()), (2, 1), "{name}");
                    for memory in &all {
                        let opened = store.memory("tenant", &memory.name).unwrap();
                        let read = read_all(&opened);
                        if memory.damaged.is_none() {
                            read.unwrap();
                            continue;
                        }
                        let error = read.unwrap_err().to_string();
                        assert!(error.contains(&memory.name) && error.contains("a repair keeps"), "{name}: {error}");
                        let refused = [
                            opened.writer("new", BTreeMap::new()).err().unwrap(),
                            opened.list_documents(None, 1).unwrap_err(),
                            store.delete_memory("tenant", &memory.name).unwrap_err(),
                        ];
                        for error in refused {
                            assert!(matches!(error, Error::Damaged { .. }), "{name}: {error}");
                        }
                    }
                }
                Err(error) => {
                    assert_eq!(key, b"v", "{name}: {error}");
                    assert!(matches!(error, Error::Damaged { .. }), "{name}: {error}");
                }
            }
            assert_eq!(storage.list_blobs().unwrap().len(), blobs, "{name}: a blob of a damaged memory went");
        }
        let mut batch = Batch::default();
        batch.put(key, value);
        storage.apply(&batch).unwrap();
    }
    read_all(&open(storage).memory("tenant", "books").unwrap()).unwrap();
}

#[test]
fn an_unknown_format_is_refused_by_number() {
    let storage = Arc::new(InMemoryStorage::new());
    drop(open(Arc::clone(&storage) as Arc<dyn Storage>));
    let mut batch = Batch::default();
    batch.put(b"v".to_vec(), 99_u32.to_le_bytes().to_vec());
    storage.apply(&batch).unwrap();
    let error = Store::open(storage, options(), clock()).err().unwrap();
    assert!(matches!(&error, Error::UnknownFormat { found, .. } if found == "99"), "{error}");
}
