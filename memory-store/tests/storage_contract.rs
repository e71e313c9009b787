//! What every storage promises, run over all of them.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use mnemon_memory_store::storage::{Batch, Fault, FaultPlan, FaultyStorage};
use mnemon_memory_store::{Error, InMemoryStorage, SledOptions, SledStorage, Storage};

/// Runs `check` over each implementation, with an empty storage every time.
fn for_each_storage(check: impl Fn(&str, &dyn Storage)) {
    check("memory", &InMemoryStorage::new());
    let directory = tempfile::tempdir().unwrap();
    check("sled", &SledStorage::open(directory.path(), SledOptions::default()).unwrap());
    check("faulty over memory", &FaultyStorage::new(Arc::new(InMemoryStorage::new())));
    let directory = tempfile::tempdir().unwrap();
    let sled = SledStorage::open(directory.path(), SledOptions::default()).unwrap();
    check("faulty over sled", &FaultyStorage::new(Arc::new(sled)));
}

fn batch(changes: &[(&str, Option<&str>)]) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec()),
            None => batch.delete(key.as_bytes().to_vec()),
        }
    }
    batch
}

fn keys(storage: &dyn Storage, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let records = storage.scan(prefix.as_bytes(), after.map(str::as_bytes), limit).unwrap();
    records.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn records_are_ordered_and_batches_apply_at_once() {
    for_each_storage(|name, storage| {
        storage.apply(&batch(&[("b2", Some("x")), ("a1", Some("1")), ("b1", Some("y")), ("b10", Some("z"))])).unwrap();
        assert_eq!(storage.get(b"a1").unwrap().as_deref(), Some(&b"1"[..]), "{name}: visible before the flush");
        assert_eq!(keys(storage, "b", None, 10), ["b1", "b10", "b2"], "{name}");
        storage.flush().unwrap();
        assert_eq!(keys(storage, "b", Some("b1"), 1), ["b10"], "{name}");
        assert_eq!(keys(storage, "", None, 10), ["a1", "b1", "b10", "b2"], "{name}");
        assert_eq!(keys(storage, "b", Some("a1"), 10), ["b1", "b10", "b2"], "{name}: a bound before the prefix");
        assert!(keys(storage, "b", Some("c"), 10).is_empty(), "{name}: a bound after the prefix");
        assert!(keys(storage, "b", None, 0).is_empty(), "{name}");
        storage.apply(&batch(&[("b1", None), ("b2", Some("new")), ("b2", Some("newer")), ("none", None)])).unwrap();
        assert_eq!(keys(storage, "b", None, 1), ["b10"], "{name}: a deleted record does not use up the limit");
        assert_eq!(storage.get(b"b2").unwrap().as_deref(), Some(&b"newer"[..]), "{name}: the last change counts");
        assert_eq!(storage.get(b"b1").unwrap(), None, "{name}");
        storage.flush().unwrap();
        assert_eq!(keys(storage, "", None, 10), ["a1", "b10", "b2"], "{name}");
    });
}

#[test]
fn blobs_are_written_whole_and_read_in_part() {
    for_each_storage(|name, storage| {
        storage.write_blob("one-1", &[b"hello ", b"", b"world"]).unwrap();
        storage.write_blob("empty", &[]).unwrap();
        assert_eq!(storage.read_blob("one-1", 4, 4).unwrap(), b"o wo", "{name}");
        assert_eq!(storage.read_blob("empty", 0, 0).unwrap(), b"", "{name}");
        for (blob, offset, len) in [("one-1", 8, 4), ("one-1", u64::MAX, 4), ("one-1", 12, 0), ("none", 0, 1)] {
            let error = storage.read_blob(blob, offset, len).unwrap_err();
            assert!(matches!(&error, Error::Damaged { what, .. } if what.contains(blob)), "{name}: {error}");
        }
        let mut blobs = storage.list_blobs().unwrap();
        blobs.sort_by(|a, b| a.name.cmp(&b.name));
        let blobs: Vec<_> = blobs.iter().map(|blob| (blob.name.as_str(), blob.bytes)).collect();
        assert_eq!(blobs, [("empty", 0), ("one-1", 11)], "{name}");
        storage.write_blob("one-1", &[b"replaced"]).unwrap();
        assert_eq!(storage.read_blob("one-1", 0, 8).unwrap(), b"replaced", "{name}");
        storage.delete_blob("one-1").unwrap();
        storage.delete_blob("one-1").unwrap();
        assert_eq!(storage.list_blobs().unwrap().len(), 1, "{name}");
        for bad in ["", "a/b", "../x", ".x", "A", "a b", &"x".repeat(65)] {
            assert!(matches!(storage.write_blob(bad, &[b"x"]), Err(Error::Invalid { .. })), "{name}: {bad:?}");
        }
    });
}

#[test]
fn storages_are_shared_by_threads() {
    for_each_storage(|name, storage| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for index in 0..20 {
                        let key = format!("{thread}-{index:02}");
                        storage.apply(&batch(&[(&key, Some("value"))])).unwrap();
                        storage.write_blob(&format!("blob-{key}"), &[key.as_bytes()]).unwrap();
                        storage.flush().unwrap();
                    }
                });
            }
        });
        assert_eq!(keys(storage, "", None, 100).len(), 80, "{name}");
        assert_eq!(storage.list_blobs().unwrap().len(), 80, "{name}");
    });
}

#[test]
fn a_folder_is_opened_once_and_keeps_what_was_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let storage = SledStorage::open(directory.path(), SledOptions::default()).unwrap();
    let error = SledStorage::open(directory.path(), SledOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::InUse { path } if path.contains(directory.path().to_str().unwrap())), "{error}");
    storage.apply(&batch(&[("key", Some("value"))])).unwrap();
    storage.flush().unwrap();
    storage.write_blob("blob", &[b"bytes"]).unwrap();
    drop(storage);
    std::fs::write(directory.path().join("blobs/half.tmp"), b"cut sh").unwrap();
    let storage = SledStorage::open(directory.path(), SledOptions::default()).unwrap();
    assert_eq!(storage.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert_eq!(storage.read_blob("blob", 0, 5).unwrap(), b"bytes");
    assert_eq!(storage.list_blobs().unwrap().len(), 1);
    assert!(!directory.path().join("blobs/half.tmp").exists());
}

#[test]
fn too_little_free_space_refuses_writes_but_not_reads() {
    let directory = tempfile::tempdir().unwrap();
    let storage = SledStorage::open(directory.path(), SledOptions::default()).unwrap();
    storage.apply(&batch(&[("key", Some("value"))])).unwrap();
    storage.flush().unwrap();
    drop(storage);
    let full = SledOptions { min_free_bytes: u64::MAX / 2, ..SledOptions::default() };
    let storage = SledStorage::open(directory.path(), full).unwrap();
    assert!(matches!(storage.apply(&batch(&[("key", None)])), Err(Error::NoSpace { .. })));
    assert!(matches!(storage.write_blob("blob", &[b"x"]), Err(Error::NoSpace { .. })));
    assert_eq!(storage.get(b"key").unwrap().as_deref(), Some(&b"value"[..]));
    assert!(storage.list_blobs().unwrap().is_empty());
}

#[test]
fn faults_come_as_planned() {
    let inner = Arc::new(InMemoryStorage::new());
    let storage = FaultyStorage::new(Arc::clone(&inner) as Arc<dyn Storage>);
    storage.set_plan(Some(FaultPlan { at: 1, fault: Fault::NoSpace, sticky: false }));
    storage.apply(&batch(&[("a", Some("1"))])).unwrap();
    assert!(matches!(storage.flush(), Err(Error::NoSpace { .. })));
    storage.flush().unwrap();
    storage.set_plan(Some(FaultPlan { at: 0, fault: Fault::Torn, sticky: true }));
    assert!(storage.write_blob("blob", &[b"12345678"]).is_err());
    assert!(storage.apply(&batch(&[("b", Some("1"))])).is_err());
    assert_eq!(inner.read_blob("blob", 0, 4).unwrap(), b"1234");
    storage.set_plan(None);
    storage.apply(&batch(&[("lost", Some("1"))])).unwrap();
    storage.crash();
    assert!(storage.get(b"a").is_err());
    assert!(inner.get(b"a").unwrap().is_some(), "flushed");
    assert!(inner.get(b"lost").unwrap().is_none(), "not flushed");
}

#[test]
fn what_a_kill_leaves_of_the_catalog_does_not_stop_opening() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SledStorage::open(directory.path(), SledOptions::default());
    let storage = open().unwrap();
    let mut batch = Batch::default();
    batch.put(b"key".to_vec(), b"value".to_vec());
    storage.apply(&batch).unwrap();
    storage.flush().unwrap();
    drop(storage);
    // sled was killed while it wrote a snapshot.
    let catalog = directory.path().join("catalog");
    std::fs::write(catalog.join("snap.00000000000F0000.generating"), b"cut short").unwrap();
    std::fs::remove_file(directory.path().join("catalog.copy")).unwrap();
    assert_eq!(open().unwrap().get(b"key").unwrap().unwrap(), b"value");
    // And while the first catalog was made.
    std::fs::remove_dir_all(&catalog).unwrap();
    std::fs::remove_file(directory.path().join("catalog.copy")).unwrap();
    let first = directory.path().join("catalog.first");
    std::fs::create_dir(&first).unwrap();
    std::fs::write(first.join("conf"), b"segment_size: 524").unwrap();
    assert!(open().unwrap().get(b"key").unwrap().is_none());
    assert!(!first.exists());
}
