//! Archives: what is imported is what was exported, and whatever goes wrong leaves what was.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::archive::{described, export, import, import_in_pieces, sample};
use common::{clock, extend, geometry, open, options, small_spec, spec, write_document};
use mnemon_memory::{EntryPolicy, KvDtype, Recall, ResumePoint};
use mnemon_memory_store::archive::{ArchiveReader, Section, verify};
use mnemon_memory_store::check::Finding;
use mnemon_memory_store::storage::{SimulatedStorage, Trouble};
use mnemon_memory_store::{Error, InMemoryStorage, Memory, Result, Storage, Store, StoreOptions};
use proptest::prelude::*;

fn store() -> (Arc<InMemoryStorage>, Store) {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    (storage, store)
}

/// Bytes of all blobs, and those that the memories say they take.
fn blob_bytes(storage: &dyn Storage, store: &Store) -> (u64, u64) {
    let blobs = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
    let infos = store.list_memories("tenant", None, 100).unwrap();
    (blobs, infos.iter().map(|info| info.stored_bytes + info.index_bytes).sum())
}

#[test]
fn a_round_trip_is_the_same_to_the_last_bit() {
    let policies =
        [EntryPolicy::PerToken, EntryPolicy::BlockMean { tokens: 3 }, EntryPolicy::Representative { count: 2 }];
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4] {
        for policy in policies {
            let (_, from) = store();
            let memory = sample(&from, "books", geometry(dtype, policy));
            let archive = export(&memory).unwrap();
            let totals = verify(&archive).unwrap();
            let info = memory.info();
            assert_eq!((totals.documents, totals.chunks), (info.documents, info.chunks));
            assert_eq!((totals.tokens, totals.text_bytes), (info.tokens, info.text_bytes));

            let (storage, to) = store();
            write_document(&to.create_memory("tenant", "other", small_spec()).unwrap(), "other", 2, 7);
            let imported = import_in_pieces(&to, Some("copy"), false, &archive, 777).unwrap();
            assert_eq!(described(&imported), described(&memory), "{dtype:?} {policy:?}");
            assert_eq!(imported.spec(), memory.spec());
            let (before, now) = (memory.info(), imported.info());
            assert_eq!((now.sequence, now.created_unix_ms), (before.sequence, before.created_unix_ms));
            // And once more, from blobs that were divided otherwise.
            drop(to);
            let to = open(Arc::clone(&storage) as Arc<dyn Storage>);
            to.seal_all().unwrap();
            let reopened = to.memory("tenant", "copy").unwrap();
            let second = import(&to, Some("second"), false, &export(&reopened).unwrap()).unwrap();
            assert_eq!(described(&second), described(&memory));
            // It goes on like any other.
            let mut writer = second.writer("grows/and shrinks", BTreeMap::new()).unwrap();
            extend(&mut writer, second.geometry(), 2, 900, true);
            drop(writer);
            second.delete_document("whole").unwrap();
            let (stored, known) = blob_bytes(storage.as_ref(), &to);
            assert_eq!(stored, known);
            let storage: Arc<dyn Storage> = storage;
            drop((reopened, imported, second, to));
            assert!(mnemon_memory_store::check(&storage, false).unwrap().is_sound());
        }
    }
}

#[test]
fn an_empty_memory_and_many_documents_make_the_trip() {
    let (_, from) = store();
    let (_, to) = store();
    let empty = from.create_memory("tenant", "empty", small_spec()).unwrap();
    let imported = import(&to, None, false, &export(&empty).unwrap()).unwrap();
    assert_eq!((imported.name(), imported.info().documents), ("empty", 0));
    // More than a page of records, and more than a batch.
    let many = from.create_memory("tenant", "many", small_spec()).unwrap();
    for index in 0..200 {
        write_document(&many, &format!("d{index:03}"), 1, index);
    }
    let imported = import(&to, None, false, &export(&many).unwrap()).unwrap();
    assert_eq!(described(&imported), described(&many));
}

#[test]
fn an_export_shows_one_moment() {
    let (storage, from) = store();
    let memory = from.create_memory("tenant", "books", small_spec()).unwrap();
    for index in 0..150 {
        let metadata = BTreeMap::from([("at".to_owned(), index.to_string())]);
        let mut writer = memory.writer(&format!("d{index:03}"), metadata).unwrap();
        extend(&mut writer, memory.geometry(), 2, index * 10, index % 2 == 0);
    }
    let before = described(&memory);
    let mut export = memory.export().unwrap();
    let mut archive = Vec::new();
    for _ in 0..20 {
        archive.append(&mut export.piece().unwrap().unwrap());
    }
    // Changes on both sides of what was exported: new, deleted, longer, shorter, other metadata.
    for index in (0..150).step_by(3) {
        memory.delete_document(&format!("d{index:03}")).unwrap();
    }
    for index in (1..150).step_by(3) {
        let metadata = BTreeMap::from([("changed".to_owned(), "yes".to_owned())]);
        let mut writer = memory.writer(&format!("d{index:03}"), metadata).unwrap();
        writer.truncate(1).unwrap();
        writer.commit(ResumePoint::default()).unwrap();
        extend(&mut writer, memory.geometry(), 3, 5000 + index, true);
    }
    for index in 0..150 {
        write_document(&memory, &format!("d{index:03}-new"), 1, 9000 + index);
        write_document(&memory, &format!("a{index:03}"), 1, 9500 + index);
    }
    memory.delete_document("d000-new").unwrap();
    memory.compact().unwrap();
    assert_ne!(described(&memory), before);
    while let Some(mut piece) = export.piece().unwrap() {
        archive.append(&mut piece);
    }
    drop(export);
    let (_, to) = store();
    assert_eq!(described(&import(&to, None, false, &archive).unwrap()), before);

    // A memory that is deleted meanwhile is exported to its end, and takes no space afterwards.
    let before = described(&memory);
    let mut export = memory.export().unwrap();
    let mut archive = export.piece().unwrap().unwrap();
    from.delete_memory("tenant", "books").unwrap();
    while let Some(mut piece) = export.piece().unwrap() {
        archive.append(&mut piece);
    }
    assert_eq!(described(&import(&to, Some("deleted"), false, &archive).unwrap()), before);
    drop((export, memory));
    assert_eq!(blob_bytes(storage.as_ref(), &from), (0, 0));
}

/// A small archive: no more than is needed to have every section.
fn small_archive() -> (Vec<u8>, Vec<String>) {
    let (_, from) = store();
    let spec = spec(mnemon_memory::KvGeometry {
        layers: vec![1],
        key_heads: mnemon_memory::KvGeometry::all_key_heads(&[1], 1),
        kv_heads: 1,
        head_dim: 4,
        chunk_tokens: 8,
        dtype: KvDtype::Int8,
        entry_policy: EntryPolicy::Representative { count: 2 },
    });
    let memory = from.create_memory("tenant", "books", spec).unwrap();
    write_document(&memory, "a", 2, 1);
    let metadata = BTreeMap::from([("author".to_owned(), "somebody".to_owned())]);
    extend(&mut memory.writer("b", metadata).unwrap(), memory.geometry(), 1, 5, false);
    (export(&memory).unwrap(), described(&memory))
}

#[test]
fn whatever_is_cut_or_flipped_is_refused_and_nothing_changes() {
    let (archive, described_before) = small_archive();
    let (storage, to) = store();
    let old = to.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&old, "old", 2, 70);
    let before = (described(&old), storage.list_blobs().unwrap());
    let refused = |bytes: &[u8], what: &str| {
        for error in [verify(bytes).err().unwrap(), import(&to, Some("books"), true, bytes).err().unwrap()] {
            assert!(matches!(error, Error::Archive { .. }), "{what}: {error}");
        }
    };
    for cut in 0..archive.len() {
        refused(&archive[..cut], &format!("cut at {cut}"));
    }
    refused(&[&archive[..], &[0]].concat(), "a byte more");
    for byte in 0..archive.len() {
        let mut flipped = archive.clone();
        flipped[byte] ^= 1 << (byte % 8);
        refused(&flipped, &format!("flipped at {byte}"));
    }
    assert_eq!((described(&old), storage.list_blobs().unwrap()), before);
    // Nothing of them is left in the catalog either, but for marks of memories that are gone.
    let left = storage.scan(b"", None, usize::MAX).unwrap();
    let known =
        |key: &[u8]| matches!(key[0], b'v' | b'r' | b'n' | b'g') || key.get(1..9) == Some(&[0, 0, 0, 0, 0, 0, 0, 1]);
    assert!(left.iter().all(|(key, _)| known(key)));
    assert_eq!(described(&import(&to, Some("books"), true, &archive).unwrap()), described_before);
    assert!(matches!(old.info().documents, 0), "the handle of what was replaced shows nothing");
    assert!(matches!(old.snapshot(), Err(Error::UnknownMemory { .. })));
}

#[test]
fn names_and_limits_are_kept() {
    let (archive, _) = small_archive();
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let few = StoreOptions { max_memories: 2, max_documents_per_memory: 1, ..options() };
    let to = Store::open(storage, few, clock()).unwrap();
    let error = import(&to, None, false, &archive).err().unwrap();
    assert!(matches!(error, Error::Limit { what: "documents in a memory", .. }), "{error}");
    for name in ["one", "two"] {
        to.create_memory("tenant", name, small_spec()).unwrap();
    }
    let error = import(&to, None, false, &archive).err().unwrap();
    assert!(matches!(error, Error::Limit { what: "memories", .. }), "{error}");
    let (_, to) = store();
    import(&to, None, false, &archive).unwrap();
    let error = import(&to, None, false, &archive).err().unwrap();
    assert!(matches!(error, Error::MemoryExists { .. }), "{error}");
    assert!(matches!(import(&to, Some("a b"), false, &archive).err().unwrap(), Error::Invalid { .. }));
    // Somebody else takes the name meanwhile.
    let mut late = to.import("tenant", Some("late"), false).unwrap();
    late.push(&archive).unwrap();
    to.create_memory("tenant", "late", small_spec()).unwrap();
    assert!(matches!(late.finish(), Err(Error::MemoryExists { .. })));
    // A document is being written in what is to be replaced.
    let books = to.memory("tenant", "books").unwrap();
    let writer = books.writer("open", BTreeMap::new()).unwrap();
    assert!(matches!(import(&to, None, true, &archive), Err(Error::DocumentBusy { .. })));
    drop(writer);
    import(&to, None, true, &archive).unwrap();
    assert!(matches!(books.delete_document("a"), Err(Error::UnknownMemory { .. })));
}

#[test]
fn damaged_bytes_stop_an_export() {
    let (storage, from) = store();
    let memory = from.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 3, 1);
    let blob = storage.list_blobs().unwrap().remove(0);
    let mut bytes = storage.read_blob(&blob.name, 0, blob.bytes as usize).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    storage.write_blob(&blob.name, &[&bytes]).unwrap();
    assert!(matches!(export(&memory), Err(Error::Damaged { .. })));
}

#[test]
fn a_document_that_lost_chunks_makes_the_trip() {
    let (storage, from) = store();
    let memory = from.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 5, 1);
    drop((memory, from));
    let blob = storage.list_blobs().unwrap().into_iter().find(|blob| blob.name.starts_with("chunks-")).unwrap();
    let mut bytes = storage.read_blob(&blob.name, 0, blob.bytes as usize).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    storage.write_blob(&blob.name, &[&bytes]).unwrap();
    let storage: Arc<dyn Storage> = storage;
    assert!(mnemon_memory_store::check(&storage, true).unwrap().repaired);
    let from = open(storage);
    let memory = from.memory("tenant", "books").unwrap();
    assert_eq!(memory.document("a").unwrap().lost_chunks, 1);
    let (_, to) = store();
    let imported = import(&to, None, false, &export(&memory).unwrap()).unwrap();
    assert_eq!(described(&imported), described(&memory));
}

/// What a crash may leave: nothing of the import, or all of it.
fn check_after_crash(disk: &SimulatedStorage, old: Option<&[String]>, new: &[String], done: bool, name: &str) {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    // A blob whose writing was cut short is all that a check may find.
    let report = mnemon_memory_store::check(&storage, false).unwrap();
    let torn = |finding: &Finding| finding.memory.is_none() && finding.remedy.contains("no record refers to it");
    assert!(report.findings.iter().all(torn), "{name}, before opening: {report:?}");
    let store = open(Arc::clone(&storage));
    let found = store.memory("tenant", "books").ok().map(|memory| {
        assert!(memory.info().damaged.is_none(), "{name}");
        described(&memory)
    });
    let complete = found.as_deref() == Some(new);
    assert!(complete || (!done && found.as_deref() == old), "{name}: {found:?}");
    let (stored, known) = blob_bytes(storage.as_ref(), &store);
    assert_eq!(stored, known, "{name}: orphans");
    drop(store);
    assert!(mnemon_memory_store::check(&storage, false).unwrap().is_sound(), "{name}");
}

#[test]
fn a_crash_at_any_step_leaves_nothing_or_everything() {
    let (_, from) = store();
    let memory = sample(&from, "books", geometry(KvDtype::Int8, EntryPolicy::PerToken));
    for index in 0..70 {
        write_document(&memory, &format!("d{index}"), 1, 300 + index);
    }
    let (archive, new) = (export(&memory).unwrap(), described(&memory));
    let begin = |seed: u64, with_old: bool| {
        let disk = SimulatedStorage::new(seed);
        let small = StoreOptions { writer_buffer_bytes: 4000, ..options() };
        let store = Store::open(Arc::new(disk.clone()), small, clock()).unwrap();
        let old = with_old.then(|| {
            let old = store.create_memory("tenant", "books", small_spec()).unwrap();
            write_document(&old, "old", 2, 70);
            described(&old)
        });
        (disk, store, old)
    };
    let work = |store: &Store, with_old: bool| import_in_pieces(store, None, with_old, &archive, 3000).map(|_| ());
    for with_old in [false, true] {
        let mut seed = 0;
        for stop in 0.. {
            seed += 1;
            let (disk, store, old) = begin(seed, with_old);
            disk.set_trouble(Trouble { fails_one_in: 0, stops_after: Some(stop) });
            let done = work(&store, with_old).is_ok();
            let stopped = disk.stopped();
            drop(store);
            check_after_crash(&disk.restart(), old.as_deref(), &new, done, &format!("stop after {stop}, {with_old}"));
            if !stopped {
                assert!(stop > 100, "{stop} steps");
                break;
            }
        }
        for seed in 1000..1200 {
            let (disk, store, old) = begin(seed, with_old);
            disk.set_trouble(Trouble { fails_one_in: 60, stops_after: None });
            let done = work(&store, with_old).is_ok();
            if !done && let Some(old) = &old {
                // Readers see what was.
                assert_eq!(described(&store.memory("tenant", "books").unwrap()), *old, "seed {seed}");
            }
            drop(store);
            check_after_crash(&disk.restart(), old.as_deref(), &new, done, &format!("seed {seed}, {with_old}"));
        }
    }
}

#[test]
fn a_memory_takes_the_place_of_another_at_once() -> Result<()> {
    let prepare = |seed: u64| {
        let disk = SimulatedStorage::new(seed);
        let store = open(Arc::new(disk.clone()));
        let old = store.create_memory("tenant", "books", small_spec()).unwrap();
        write_document(&old, "old", 2, 70);
        let new = store.create_copy("tenant", "new", small_spec(), &old).unwrap();
        write_document(&new, "new", 9, 80);
        (disk, store, old, new)
    };
    let (disk, store, old, new) = prepare(1);
    let (before, after) = (described(&old), described(&new));
    assert!(new.is_becoming(&old)? && !old.is_becoming(&new)?);
    let changed = store.replace_memory("tenant", "new", "books", Some(0));
    assert!(matches!(changed, Err(Error::MemoryChanged { .. })));
    let held = old.snapshot()?;
    let placed = store.replace_memory("tenant", "new", "books", Some(old.info().sequence))?;
    assert_eq!(described(&placed), after);
    assert!(matches!(store.memory("tenant", "new"), Err(Error::UnknownMemory { .. })));
    for handle in [&old, &new] {
        assert!(matches!(handle.writer("x", BTreeMap::new()), Err(Error::UnknownMemory { .. })));
    }
    let chunks = held.chunks(9).unwrap();
    assert_eq!(held.fetch(0, &chunks).unwrap().len(), 2, "a snapshot goes on showing what it showed");
    assert!(!placed.is_becoming(&old)?);
    write_document(&placed, "more", 1, 90);
    let after_more = described(&placed);
    drop((held, placed, old, new, store));
    let disk = disk.restart();
    let store = open(Arc::new(disk));
    assert_eq!(described(&store.memory("tenant", "books")?), after_more);
    drop(store);

    for stop in 0..40 {
        let (disk, store, old, new) = prepare(stop);
        disk.set_trouble(Trouble { fails_one_in: 0, stops_after: Some(stop) });
        let done = store.replace_memory("tenant", "new", "books", None).is_ok();
        drop((old, new, store));
        let store = open(Arc::new(disk.restart()));
        let books = described(&store.memory("tenant", "books")?);
        let other = store.memory("tenant", "new").ok().map(|memory| described(&memory));
        let as_before = books == before && other.as_ref() == Some(&after);
        assert!((books == after && other.is_none()) || (as_before && !done), "stop after {stop}");
    }
    Ok(())
}

#[test]
fn what_is_becoming_a_copy_is_known_after_a_crash() {
    let disk = SimulatedStorage::new(3);
    let store = open(Arc::new(disk.clone()));
    let old = store.create_memory("tenant", "books", small_spec()).unwrap();
    let new = store.create_copy("tenant", "new", small_spec(), &old).unwrap();
    write_document(&new, "a", 1, 1);
    drop((old, new, store));
    let storage: Arc<dyn Storage> = Arc::new(disk.restart());
    assert!(mnemon_memory_store::check(&storage, false).unwrap().is_sound());
    let store = open(storage);
    let find = |name: &str| store.memory("tenant", name).unwrap();
    assert!(find("new").is_becoming(&find("books")).unwrap());
    store.delete_memory("tenant", "books").unwrap();
    let other = store.create_memory("tenant", "books", small_spec()).unwrap();
    assert!(!find("new").is_becoming(&other).unwrap(), "another memory of the same name");
    find("new").end_copy().unwrap();
    assert_eq!(find("new").info().documents, 1);
}

/// Makes what the golden archive holds.
fn golden(store: &Store) -> Memory {
    let geometry = geometry(KvDtype::Int8, EntryPolicy::Representative { count: 2 });
    let memory = sample(store, "golden", geometry);
    let metadata = BTreeMap::from([("title".to_owned(), "Война и мир".to_owned())]);
    extend(&mut memory.writer("книга", metadata).unwrap(), memory.geometry(), 1, 5, true);
    memory
}

/// `MNEMON_GOLDEN=1 cargo test -p mnemon-memory-store --test archive -- --ignored` writes it, when the format changes.
#[test]
#[ignore = "writes the golden archive, when the format changes"]
fn writes_the_golden_archive() {
    if std::env::var_os("MNEMON_GOLDEN").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive-2.mnemon");
        std::fs::write(path, export(&golden(&store().1)).unwrap()).unwrap();
    }
}

#[test]
fn the_golden_archive_is_read_as_it_was() {
    let read = |format: u32| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/archive-{format}.mnemon"));
        std::fs::read(path).unwrap()
    };
    let (_, from) = store();
    let memory = golden(&from);
    let imported = |archive: &[u8]| {
        let (_, to) = store();
        described(&import(&to, None, false, archive).unwrap())
    };
    assert_eq!(imported(&read(2)), described(&memory));
    // And written as it was.
    assert!(export(&memory).unwrap() == read(2), "the bytes of archives changed: that needs a new format");
    // Format 1 has no turns.
    let without = |lines: Vec<String>| lines.into_iter().filter(|line| !line.starts_with("turns ")).collect::<Vec<_>>();
    let first = imported(&read(1));
    assert!(first.iter().filter(|line| line.starts_with("turns ")).all(|line| line == "turns []"));
    assert_eq!(without(first), without(described(&memory)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Checksums made right again, so that what is behind them is reached.
    #[test]
    fn a_parser_survives_anything(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let (mut archive, _) = small_archive();
        for (at, value) in changes {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        common::archive::mend(&mut archive);
        let mut reader = ArchiveReader::new();
        reader.push(&archive);
        while let Ok(Some(section)) = reader.section() {
            if let Section::Chunks(chunks) = &section {
                prop_assert!(chunks.len() > 0);
            }
        }
        // What is accepted can be imported, and works.
        if verify(&archive).is_ok() {
            let (_, to) = store();
            if let Ok(memory) = import(&to, Some("mended"), false, &archive) {
                described(&memory);
                to.seal_all().unwrap();
                let _ = export(&memory).unwrap();
            }
        }
    }
}
