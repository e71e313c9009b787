//! `check`: whatever bit flips, it is found; a repair loses exactly what it says.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{clock, extend, open, options, queries, search, small_spec, texts, write_document};
use mnemon_memory::{Recall, ResumePoint};
use mnemon_memory_store::check::CheckReport;
use mnemon_memory_store::storage::Batch;
use mnemon_memory_store::{
    Error, InMemoryStorage, Memory, SledOptions, SledStorage, Storage, Store, check, check_folder,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Two memories: documents in several blobs, one with a truncated tail, sealed segments and a tail.
fn fill(storage: &Arc<dyn Storage>) {
    let store = open(Arc::clone(storage));
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write_document(&memory, "a", 9, 1);
    let metadata = BTreeMap::from([("title".to_owned(), "B".to_owned())]);
    let mut writer = memory.writer("b", metadata).unwrap();
    extend(&mut writer, memory.geometry(), 3, 100, false);
    extend(&mut writer, memory.geometry(), 2, 200, false);
    writer.truncate(4).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    extend(&mut writer, memory.geometry(), 1, 300, true);
    write_document(&store.create_memory("tenant", "other", small_spec()).unwrap(), "c", 2, 9);
    store.create_memory("tenant", "empty", small_spec()).unwrap();
}

/// Text of each chunk by memory, document and place.
type Contents = BTreeMap<(String, String, u64), String>;

/// Reads everything, through listings, searches and fetches.
fn contents(storage: &Arc<dyn Storage>) -> Contents {
    let store = open(Arc::clone(storage));
    let mut contents = Contents::new();
    for info in store.list_memories("tenant", None, 10).unwrap() {
        assert_eq!(info.damaged, None);
        let memory = store.memory("tenant", &info.name).unwrap();
        for document in memory.list_documents(None, 100).unwrap() {
            let chunks = memory.document_chunks(&document.id, 0, 100).unwrap();
            assert_eq!(chunks.len() as u64 + document.lost_chunks, document.chunks);
            for chunk in chunks {
                let place = chunk.span.token_start / 8;
                contents.insert((info.name.clone(), document.id.clone(), place), chunk.text);
            }
        }
        read_all(&memory);
    }
    contents
}

fn read_all(memory: &Memory) {
    let snapshot = memory.snapshot().unwrap();
    let ids = snapshot.chunks(1000).unwrap();
    assert_eq!(texts(&snapshot).len(), ids.len());
    for slot in 0..2 {
        snapshot.fetch(slot, &ids).unwrap();
        for exact in [true, false] {
            let found = search(&snapshot, slot, &queries(1, 2, 8, 1), 2, 500, exact);
            let mut hits: Vec<_> = found[0].iter().map(|hit| (hit.chunk, hit.start)).collect();
            hits.sort();
            assert!(hits.windows(2).all(|pair| pair[0] != pair[1]), "an entry was found twice");
            if exact {
                assert_eq!(hits.len(), ids.len() * 8, "every entry is found");
            }
        }
    }
}

/// What the report says is lost.
fn losses(report: &CheckReport) -> BTreeSet<(String, String, u64)> {
    let mut lost = BTreeSet::new();
    for finding in report.findings.iter().filter(|finding| !finding.lost.is_empty()) {
        let (memory, document) = (&finding.memory.as_ref().unwrap().1, finding.document.as_ref().unwrap());
        for range in &finding.lost {
            assert_eq!(range.tokens, range.chunks.start * 8..range.chunks.end * 8);
            lost.extend(range.chunks.clone().map(|chunk| (memory.clone(), document.clone(), chunk)));
        }
    }
    lost
}

/// Repairs, and checks that everything but the reported losses is there. Returns how many chunks were lost.
fn repair(storage: &Arc<dyn Storage>, whole: &Contents, name: &str) -> usize {
    let found = check(storage, false).unwrap();
    assert!(!found.is_sound() && !found.repaired, "{name}: not found");
    let report = check(storage, true).unwrap();
    assert_eq!(report.findings, found.findings, "{name}");
    assert!(report.repaired);
    let again = check(storage, false).unwrap();
    assert!(again.is_sound(), "{name}: {:#?} after {:#?}", again.findings, report.findings);
    let lost = losses(&report);
    let expected = whole.iter().filter(|(place, _)| !lost.contains(place));
    let expected: Contents = expected.map(|(place, text)| (place.clone(), text.clone())).collect();
    assert_eq!(contents(storage), expected, "{name}: {:#?}", report.findings);
    assert!(lost.len() <= 1, "{name}: {lost:?}");
    lost.len()
}

/// The same contents in another storage.
fn copy(of: &Arc<dyn Storage>) -> Arc<InMemoryStorage> {
    let copy = InMemoryStorage::new();
    let mut batch = Batch::default();
    for (key, value) in of.scan(b"", None, usize::MAX).unwrap() {
        batch.put(key, value);
    }
    copy.apply(&batch).unwrap();
    for blob in of.list_blobs().unwrap() {
        copy.write_blob(&blob.name, &[&of.read_blob(&blob.name, 0, blob.bytes as usize).unwrap()]).unwrap();
    }
    Arc::new(copy)
}

#[test]
fn a_store_without_damage_is_sound() {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    assert!(check(&storage, false).unwrap().is_sound());
    fill(&storage);
    let report = check(&storage, true).unwrap();
    assert!(report.is_sound() && !report.repaired, "{:#?}", report.findings);
    assert_eq!((report.memories, report.documents, report.unused_blobs), (3, 3, 0));
}

#[test]
fn any_flipped_bit_of_a_blob_is_found_and_the_rest_stays() {
    let origin: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    fill(&origin);
    let whole = contents(&origin);
    assert_eq!(whole.len(), 16);
    let (mut tried, mut lost) = (0, 0);
    for blob in origin.list_blobs().unwrap() {
        let first = (0..blob.bytes.min(8)).chain((8..blob.bytes).step_by(61));
        // The ends of blobs, byte by byte: paddings and footers.
        for at in first.chain(blob.bytes - 20..blob.bytes) {
            let damaged = copy(&origin);
            damaged.damage_blob(&blob.name, |bytes| bytes[at as usize] ^= 1 << (at % 8));
            let storage: Arc<dyn Storage> = damaged.clone();
            lost += repair(&storage, &whole, &format!("{} at {at}", blob.name));
            tried += 1;
            assert_eq!(damaged.aside().len(), usize::from(blob.name.starts_with("chunks")), "{:?}", damaged.aside());
        }
    }
    assert!(tried > 500 && lost > 100, "{lost} of {tried}");
}

#[test]
fn missing_and_shortened_blobs_are_told() {
    let origin: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    fill(&origin);
    let whole = contents(&origin);
    for blob in origin.list_blobs().unwrap() {
        for keep in [None, Some(0), Some(blob.bytes / 2), Some(blob.bytes - 1)] {
            let damaged = copy(&origin);
            match keep {
                None => damaged.delete_blob(&blob.name).unwrap(),
                Some(keep) => damaged.damage_blob(&blob.name, |bytes| bytes.truncate(keep as usize)),
            }
            let storage: Arc<dyn Storage> = damaged;
            let report = check(&storage, true).unwrap();
            assert!(report.findings.iter().any(|finding| finding.what.contains(&blob.name)), "{:#?}", report.findings);
            assert!(check(&storage, false).unwrap().is_sound());
            let left = contents(&storage);
            let lost = losses(&report);
            assert_eq!(left.len() + lost.len(), whole.len(), "{} {keep:?}: {:#?}", blob.name, report.findings);
            assert!(lost.iter().all(|place| !left.contains_key(place)));
        }
    }
}

#[test]
fn any_flipped_byte_of_a_record_is_found_and_nothing_is_lost() {
    let origin: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    fill(&origin);
    let mut whole = contents(&origin);
    for (key, value) in origin.scan(b"", None, usize::MAX).unwrap() {
        for at in (0..value.len()).step_by(3).chain(value.len().checked_sub(1)) {
            let storage: Arc<dyn Storage> = copy(&origin);
            let mut damaged = value.clone();
            damaged[at] ^= 1 << (at % 8);
            let mut batch = Batch::default();
            batch.put(key.clone(), damaged);
            storage.apply(&batch).unwrap();
            repair(&storage, &whole, &format!("record {} at {at}", key.escape_ascii()));
        }
    }
    // Without a trace of the catalog, blobs tell all but memories without chunks.
    let storage: Arc<dyn Storage> = copy(&origin);
    let mut batch = Batch::default();
    for (key, _) in storage.scan(b"n", None, usize::MAX).unwrap() {
        batch.delete(key);
    }
    storage.apply(&batch).unwrap();
    whole.retain(|(memory, ..), _| memory != "empty");
    check(&storage, true).unwrap();
    assert_eq!(contents(&storage), whole);
}

#[test]
fn what_lost_chunks_is_read_but_not_continued() {
    let storage = Arc::new(InMemoryStorage::new());
    fill(&(Arc::clone(&storage) as Arc<dyn Storage>));
    storage.damage_blob("chunks-0000000000000001", |bytes| {
        let body = u32::from_le_bytes(bytes[12..16].try_into().unwrap());
        bytes[body as usize + 40] ^= 4;
    });
    let shared: Arc<dyn Storage> = Arc::clone(&storage) as Arc<dyn Storage>;
    let report = check(&shared, true).unwrap();
    assert_eq!(losses(&report).len(), 1, "{:#?}", report.findings);
    let memory = open(shared).memory("tenant", "books").unwrap();
    let document = memory.document("a").unwrap();
    assert_eq!((document.chunks, document.lost_chunks, document.tokens), (9, 1, 72));
    let error = memory.writer("a", BTreeMap::new()).err().unwrap().to_string();
    assert!(error.contains("ingest it again"), "{error}");
    memory.delete_document("a").unwrap();
    write_document(&memory, "a", 2, 1);
}

#[test]
fn records_that_are_older_than_the_blobs_are_not_trusted() {
    let storage = Arc::new(InMemoryStorage::new());
    let shared: Arc<dyn Storage> = Arc::clone(&storage) as Arc<dyn Storage>;
    let store = open(Arc::clone(&shared));
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    extend(&mut writer, memory.geometry(), 2, 1, false);
    let before = storage.scan(b"", None, usize::MAX).unwrap();
    for seed in 2..5 {
        extend(&mut writer, memory.geometry(), 2, 100 * seed, true);
    }
    drop((writer, memory, store));
    let whole = contents(&shared);
    // What sled makes of a damaged log: the catalog of some time ago.
    let mut batch = Batch::default();
    for (key, _) in storage.scan(b"", None, usize::MAX).unwrap() {
        batch.delete(key);
    }
    for (key, value) in before {
        batch.put(key, value);
    }
    storage.apply(&batch).unwrap();
    let blobs = storage.list_blobs().unwrap().len();
    let error = open(Arc::clone(&shared)).memory("tenant", "books").unwrap().snapshot().err().unwrap().to_string();
    assert!(error.contains("blobs know of change"), "{error}");
    assert_eq!(storage.list_blobs().unwrap().len(), blobs);
    let report = check(&shared, true).unwrap();
    assert!(!report.is_sound() && check(&shared, false).unwrap().is_sound());
    assert_eq!(contents(&shared), whole);
    let document = open(shared).memory("tenant", "books").unwrap().document("a").unwrap();
    assert_eq!((document.chunks, document.complete), (8, false));
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

fn copy_folder(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
}

fn open_folder(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(SledStorage::open(folder, SledOptions::default()).unwrap())
}

/// Flips one bit of a copy of `origin`; returns how many chunks a repair lost.
fn flip(origin: &Path, whole: &Contents, name: &Path, bit: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(origin, folder.path());
    let mut damaged = std::fs::read(folder.path().join(name)).unwrap();
    damaged[bit as usize / 8] ^= 1 << (bit % 8);
    std::fs::write(folder.path().join(name), damaged).unwrap();
    let shown = format!("{} bit {bit}", name.display());
    let found = check_folder(folder.path(), false).unwrap();
    assert!(!found.is_sound(), "{shown}");
    if name.starts_with("catalog") {
        // A server needs no repair where there is a copy.
        let served = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), served.path());
        assert_eq!(contents(&open_folder(served.path())), *whole, "{shown}");
    }
    let repaired = check_folder(folder.path(), true).unwrap();
    assert_eq!(repaired.findings, found.findings, "{shown}");
    assert!(check_folder(folder.path(), false).unwrap().is_sound(), "{shown}");
    let lost = losses(&repaired);
    let left: Contents = whole.clone().into_iter().filter(|(place, _)| !lost.contains(place)).collect();
    assert_eq!(contents(&open_folder(folder.path())), left, "{shown}");
    assert!(lost.len() <= 1, "{shown}");
    lost.len()
}

/// `MNEMON_FLIPS=1000 cargo test --release -p mnemon-memory-store --test check closed_folder -- --nocapture` flips as many
/// bits of each kind of file, wherever they fall.
#[test]
fn any_flipped_bit_of_a_closed_folder_is_found() {
    let origin = tempfile::tempdir().unwrap();
    fill(&open_folder(origin.path()));
    let report = check_folder(origin.path(), false).unwrap();
    assert!(report.is_sound(), "{:#?}", report.findings);
    let whole = contents(&open_folder(origin.path()));
    let mut kinds: BTreeMap<String, Vec<(PathBuf, u64)>> = BTreeMap::new();
    for file in files(origin.path()) {
        let name = file.strip_prefix(origin.path()).unwrap();
        let kind = name.to_str().unwrap().split('-').next().unwrap();
        let kind = if kind.starts_with("catalog/") { "files of sled" } else { kind };
        let bits = 8 * std::fs::metadata(&file).unwrap().len();
        // The lock is empty.
        if bits > 0 {
            kinds.entry(kind.to_owned()).or_default().push((name.to_owned(), bits));
        }
    }
    let names: Vec<_> = kinds.keys().map(String::as_str).collect();
    assert_eq!(names, ["blobs/chunks", "blobs/graph", "catalog.copy", "files of sled"]);
    let flips = std::env::var("MNEMON_FLIPS").ok().and_then(|flips| flips.parse::<u64>().ok());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (kind, files) in kinds {
        let places: Vec<(&Path, u64)> = match flips {
            Some(flips) => (0..flips)
                .map(|_| {
                    let (name, bits) = &files[rng.random_range(0..files.len())];
                    (name.as_path(), rng.random_range(0..*bits))
                })
                .collect(),
            None => files
                .iter()
                .flat_map(|(name, bits)| [0, bits / 3, bits * 2 / 3, bits - 1].map(|bit| (name.as_path(), bit)))
                .collect(),
        };
        let lost: usize = places.iter().map(|(name, bit)| flip(origin.path(), &whole, name, *bit)).sum();
        println!("{kind}: {} bits flipped, {} found, {lost} of them cost a chunk", places.len(), places.len());
    }
}

#[test]
fn a_flipped_bit_after_a_crash_costs_at_most_what_is_told() {
    let origin = tempfile::tempdir().unwrap();
    let storage = open_folder(origin.path());
    fill(&storage);
    let store = open(Arc::clone(&storage));
    let memory = store.memory("tenant", "books").unwrap();
    // Commits later than those that are looked for: the last one of a memory may vanish without a trace.
    for (seed, name) in ["books", "other"].into_iter().enumerate() {
        write_document(&store.memory("tenant", name).unwrap(), "late", 1, 900 + seed as u64);
    }
    drop((memory, store));
    let mut whole = contents(&storage);
    whole.retain(|(_, document, _), _| document != "late");
    // As a crash leaves it: not closed.
    let crashed = tempfile::tempdir().unwrap();
    copy_folder(origin.path(), crashed.path());
    let log = std::fs::read(crashed.path().join("catalog/db")).unwrap();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap();
    let mut told = 0;
    for at in (20..end).step_by(end / 40) {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(crashed.path(), folder.path());
        let mut damaged = log.clone();
        damaged[at] ^= 1;
        std::fs::write(folder.path().join("catalog/db"), damaged).unwrap();
        told += usize::from(!check_folder(folder.path(), true).unwrap().is_sound());
        let left = contents(&open_folder(folder.path()));
        let missing: Vec<_> = whole.iter().filter(|(place, text)| left.get(*place) != Some(text)).collect();
        assert!(missing.is_empty(), "{at} of {end}: {missing:?}");
    }
    assert!(told > 5, "{told}");
}

#[test]
fn a_catalog_that_is_gone_is_rebuilt_from_the_blobs() {
    let folder = tempfile::tempdir().unwrap();
    fill(&open_folder(folder.path()));
    let mut whole = contents(&open_folder(folder.path()));
    std::fs::remove_dir_all(folder.path().join("catalog")).unwrap();
    std::fs::remove_file(folder.path().join("catalog.copy")).unwrap();
    let report = check_folder(folder.path(), true).unwrap();
    assert!(report.repaired && losses(&report).is_empty(), "{:#?}", report.findings);
    whole.retain(|(memory, ..), _| memory != "empty");
    let storage = open_folder(folder.path());
    assert_eq!(contents(&storage), whole);
    let store = Store::open(storage, options(), clock()).unwrap();
    let memory = store.memory("tenant", "books").unwrap();
    let document = memory.document("b").unwrap();
    assert_eq!((document.metadata["title"].as_str(), document.complete), ("B", false));
    // Ids are not given out twice.
    let last = memory.snapshot().unwrap().chunks(1000).unwrap().into_iter().max().unwrap();
    write_document(&memory, "new", 1, 5);
    assert!(memory.snapshot().unwrap().chunks(1000).unwrap().into_iter().max().unwrap() > last);
}

#[test]
fn a_folder_in_use_and_one_without_memories_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(check_folder(folder.path(), false), Err(Error::Invalid { .. })));
    let storage = open_folder(folder.path());
    assert!(matches!(check_folder(folder.path(), false), Err(Error::InUse { .. })));
    drop(storage);
    assert!(check_folder(folder.path(), false).unwrap().is_sound());
}
