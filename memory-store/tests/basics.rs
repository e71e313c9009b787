//! The main path: write, read, search, open again.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{extend, geometry, open, queries, search, small_spec, spec, texts, write_document};
use mnemon_memory::{EntryPolicy, Fingerprint, KvData, KvDtype, Recall};
use mnemon_memory_store::{Error, InMemoryStorage, SledOptions, SledStorage, Storage};

fn storages(directory: &std::path::Path) -> Vec<Arc<dyn Storage>> {
    let sled = SledStorage::open(directory, SledOptions::default()).unwrap();
    vec![Arc::new(InMemoryStorage::new()), Arc::new(sled)]
}

#[test]
fn what_was_written_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    for storage in storages(directory.path()) {
        let store = open(Arc::clone(&storage));
        let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
        let mut metadata = BTreeMap::new();
        metadata.insert("title".to_owned(), "A book".to_owned());
        let mut writer = memory.writer("a/book", metadata.clone()).unwrap();
        let mut written = extend(&mut writer, memory.geometry(), 5, 1, false);
        written.extend(extend(&mut writer, memory.geometry(), 30, 100, true));
        drop(writer);
        drop((store, memory));

        let store = open(storage);
        let memory = store.memory("tenant", "books").unwrap();
        let document = memory.document("a/book").unwrap();
        assert_eq!((document.chunks, document.tokens, document.complete), (35, 280, true));
        assert_eq!(document.metadata, metadata);
        let info = memory.info();
        assert_eq!((info.documents, info.chunks, info.tokens, info.entries), (1, 35, 280, 280));
        assert_eq!(info.text_bytes, written.last().unwrap().span.byte_end);

        let snapshot = memory.snapshot().unwrap();
        let ids = snapshot.chunks(100).unwrap();
        for slot in 0..2 {
            for (kv, chunk) in snapshot.fetch(slot, &ids).unwrap().iter().zip(&written) {
                assert_eq!(kv.keys, KvData::F32(chunk.keys[slot].clone()));
                assert_eq!(kv.values, KvData::F32(chunk.values[slot].clone()));
                assert_eq!((kv.token_start, kv.len), (chunk.span.token_start, 8));
            }
        }
        for (info, chunk) in snapshot.describe(&ids).unwrap().iter().zip(&written) {
            assert_eq!((info.span, &info.tokens, &info.text), (chunk.span, &chunk.tokens, &chunk.text));
            assert_eq!((info.memory.as_str(), info.document_id.as_str()), ("books", "a/book"));
        }
        let infos = memory.document_chunks("a/book", 3, 10).unwrap();
        assert_eq!(infos.len(), 10);
        assert_eq!(infos[0].text, written[3].text);
    }
}

#[test]
fn search_equals_brute_force_for_every_policy_and_type() {
    let policies =
        [EntryPolicy::PerToken, EntryPolicy::BlockMean { tokens: 3 }, EntryPolicy::Representative { count: 2 }];
    for (dtype, policy) in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4]
        .into_iter()
        .flat_map(|d| policies.map(|p| (d, p)))
    {
        let store = open(Arc::new(InMemoryStorage::new()));
        let geometry = geometry(dtype, policy);
        let memory = store.create_memory("tenant", "books", spec(geometry.clone())).unwrap();
        let written = write_document(&memory, "a", 40, 1);
        let snapshot = memory.snapshot().unwrap();
        let ids = snapshot.chunks(100).unwrap();
        let queries = queries(3, 4, 8, 9);
        for slot in 0..2 {
            let found = search(&snapshot, slot, &queries, 4, 5, true);
            assert_eq!(found.len(), 12);
            for (at, hits) in found.iter().enumerate() {
                let (query, head) = (&queries[at * 8..at * 8 + 8], at % 4 / 2);
                assert_eq!(hits.len(), 5);
                assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
                for hit in hits {
                    let chunk = &written[ids.iter().position(|id| *id == hit.chunk).unwrap()];
                    let key = |token: usize| &chunk.keys[slot][(head * 8 + token) * 8..][..8];
                    let tokens = hit.start as usize..hit.start as usize + hit.len as usize;
                    let mean: f32 =
                        tokens.clone().map(|t| query.iter().zip(key(t)).map(|(a, b)| a * b).sum::<f32>()).sum();
                    let mean = mean / tokens.len() as f32;
                    let tolerance = match dtype {
                        KvDtype::F32 => 1e-4,
                        KvDtype::F16 | KvDtype::Bf16 | KvDtype::Int8 => 0.03,
                        KvDtype::Int4 => 0.4,
                    };
                    assert!((mean - hit.score).abs() < tolerance, "{dtype:?} {policy:?}: {mean} {}", hit.score);
                }
            }
        }
    }
}

#[test]
fn names_fingerprints_and_unknowns() {
    let store = open(Arc::new(InMemoryStorage::new()));
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    assert!(matches!(store.create_memory("tenant", "books", small_spec()), Err(Error::MemoryExists { .. })));
    assert!(matches!(store.create_memory("tenant", "b/ooks", small_spec()), Err(Error::Invalid { .. })));
    assert!(matches!(store.memory("other", "books"), Err(Error::UnknownMemory { .. })));
    store.create_memory("other", "books", small_spec()).unwrap();
    assert_eq!(store.list_memories("tenant", None, 10).unwrap().len(), 1);
    assert!(memory.require_fingerprint(&Fingerprint([7; 32])).is_ok());
    let refused = memory.require_fingerprint(&Fingerprint([8; 32])).unwrap_err().to_string();
    assert!(refused.contains("070707") && refused.contains("080808"), "{refused}");
    assert!(matches!(memory.document("x"), Err(Error::UnknownDocument { .. })));
    store.delete_memory("tenant", "books").unwrap();
    assert!(matches!(memory.snapshot(), Err(Error::UnknownMemory { .. })));
    assert!(matches!(memory.writer("x", BTreeMap::new()), Err(Error::UnknownMemory { .. })));
    assert_eq!(texts(&store.memory("other", "books").unwrap().snapshot().unwrap()).len(), 0);
}
