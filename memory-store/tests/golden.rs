//! Data folders that earlier versions wrote are read as they were.
//!
//! `tests/golden/v1` was written at the last commit whose graphs were of version 1, by `writes_a_folder` of this file:
//! `MNEMON_GOLDEN=tests/golden/v1 cargo test -p mnemon-memory-store --test golden -- --ignored`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use common::archive::sample;
use common::{clock, geometry, queries, search};
use mnemon_memory::{EntryPolicy, KvData, KvDtype, Recall};
use mnemon_memory_store::{Memory, Sealing, SledOptions, SledStorage, Store, StoreOptions};

fn open(folder: &Path) -> Store {
    let options = StoreOptions { seal_entries: 32, sealing: Sealing::Inline, ..common::options() };
    Store::open(Arc::new(SledStorage::open(folder, SledOptions::default()).unwrap()), options, clock()).unwrap()
}

/// One memory for each type of numbers and each entry policy.
fn memories() -> Vec<(String, KvDtype, EntryPolicy)> {
    let types = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4];
    let mut memories: Vec<_> = types.map(|dtype| (dtype.to_string(), dtype, EntryPolicy::PerToken)).into();
    memories.push(("means".into(), KvDtype::F16, EntryPolicy::BlockMean { tokens: 3 }));
    memories.push(("representatives".into(), KvDtype::Int8, EntryPolicy::Representative { count: 2 }));
    memories
}

#[test]
#[ignore = "writes the golden folder, when the format changes"]
fn writes_a_folder() {
    let Some(folder) = std::env::var_os("MNEMON_GOLDEN") else { return };
    let store = open(Path::new(&folder));
    for (name, dtype, policy) in memories() {
        sample(&store, &name, geometry(dtype, policy));
    }
    store.delete_memory("tenant", "bf16").unwrap();
    let text: String = store
        .list_memories("tenant", None, 100)
        .unwrap()
        .iter()
        .map(|info| describe(&store.memory("tenant", &info.name).unwrap()))
        .collect();
    std::fs::write(Path::new(&folder).join("expected.txt"), text).unwrap();
}

/// Everything that a reader sees of a memory.
fn describe(memory: &Memory) -> String {
    let info = memory.info();
    let mut out = format!("memory {} {} {} {:?}\n", info.name, info.model_name, info.description, info.geometry);
    for document in memory.list_documents(None, 100).unwrap() {
        let resume = document.resume;
        writeln!(
            out,
            "document {} {:?} {} tokens {} bytes {resume:?}",
            document.id, document.metadata, document.tokens, document.bytes
        )
        .unwrap();
    }
    let snapshot = memory.snapshot().unwrap();
    let ids = snapshot.chunks(usize::MAX).unwrap();
    for info in snapshot.describe(&ids).unwrap() {
        writeln!(out, "chunk {} {} {:?} {:?} {:?}", info.id.0, info.document_id, info.span, info.tokens, info.text)
            .unwrap();
    }
    for slot in 0..2 {
        for kv in snapshot.fetch(slot, &ids).unwrap() {
            let hash = |data: &KvData| {
                data.to_f32().iter().fold(0_u64, |hash, value| {
                    hash.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(value.to_bits()) + 1)
                })
            };
            writeln!(out, "kv {slot} {} {} {:016x} {:016x}", kv.id.0, kv.len, hash(&kv.keys), hash(&kv.values))
                .unwrap();
        }
        for hits in search(&snapshot, slot, &queries(2, 2, 8, 5), 2, 4, true) {
            let hits: Vec<String> =
                hits.iter().map(|hit| format!("{}:{}+{} {:.3}", hit.chunk.0, hit.start, hit.len, hit.score)).collect();
            writeln!(out, "found {slot} {}", hits.join(", ")).unwrap();
        }
    }
    out
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Equal lines; of searches, scores may differ by the rounding of codes.
fn same(shown: &str, expected: &str) -> bool {
    let number = |word: &str| word.trim_end_matches(',').parse::<f32>().ok();
    shown == expected
        || shown.starts_with("found ")
            && shown.split(' ').count() == expected.split(' ').count()
            && shown.split(' ').zip(expected.split(' ')).all(|(shown, expected)| {
                match (number(shown), number(expected)) {
                    (Some(shown), Some(expected)) => (shown - expected).abs() < 2e-3,
                    _ => shown == expected,
                }
            })
}

#[test]
fn a_folder_of_version_1_is_read_as_it_was() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let folder = tempfile::tempdir().unwrap();
    copy(&golden, folder.path());
    let expected = std::fs::read_to_string(golden.join("expected.txt")).unwrap();
    // Opened twice: the first opening may bring it up to date.
    for _ in 0..2 {
        let store = open(folder.path());
        store.seal_all().unwrap();
        let infos = store.list_memories("tenant", None, 100).unwrap();
        let shown: String = infos.iter().map(|info| describe(&store.memory("tenant", &info.name).unwrap())).collect();
        for (shown, expected) in shown.lines().zip(expected.lines()) {
            assert!(same(shown, expected), "{shown}\ninstead of\n{expected}");
        }
        assert_eq!(shown.lines().count(), expected.lines().count());
        assert!(infos.iter().filter(|info| info.index_bytes > 0).count() >= 4, "graphs are built anew");
    }
}
