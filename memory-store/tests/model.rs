//! Random operations against a plain map.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{chosen, chunk, geometry, keys_only, open, queries, search_at, spec, texts};
use mnemon_memory::{EntryPolicy, KvDtype, Recall, ResumePoint};
use mnemon_memory_store::{InMemoryStorage, Snapshot, Storage};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Operation {
    /// Keeps some chunks of a document, appends others, commits or gives up.
    Write {
        document: u8,
        drop_tail: u8,
        append: Vec<u8>,
        commit: bool,
    },
    Delete {
        document: u8,
    },
    Snapshot,
    DropSnapshots,
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..4_u8, 0..3_u8, prop::collection::vec(1..9_u8, 0..6), prop::bool::weighted(0.85))
            .prop_map(|(document, drop_tail, append, commit)| Operation::Write { document, drop_tail, append, commit }),
        2 => (0..4_u8).prop_map(|document| Operation::Delete { document }),
        2 => Just(Operation::Snapshot),
        1 => Just(Operation::DropSnapshots),
        1 => Just(Operation::Reopen),
    ]
}

type Model = BTreeMap<String, Vec<String>>;

fn check(snapshot: &Snapshot, model: &Model) {
    let mut shown = texts(snapshot);
    let mut wanted: Vec<_> = model.values().flatten().cloned().collect();
    // Documents are ordered by number, which depends on when they came.
    shown.sort();
    wanted.sort();
    assert_eq!(shown, wanted);
    let ids = snapshot.chunks(usize::MAX).unwrap();
    for exact in [true, false] {
        for hits in search_at(snapshot, &[1, 2], &queries(2, 2, 8, 4), 6, exact) {
            assert!(hits.iter().all(|hit| ids.contains(&hit.chunk)));
            assert!(hits.len() >= 6.min(ids.len()));
        }
    }
    assert!(snapshot.fetch_layers(&ids).unwrap().iter().all(|layer| layer.len() == ids.len()));
    let around = snapshot.neighbours(&ids, 9, 9).unwrap();
    assert!(ids.iter().zip(&around).all(|(id, around)| around.contains(id)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(operations in prop::collection::vec(operation(), 1..30), shape in 0..3_usize) {
        let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
        let mut store = open(Arc::clone(&storage));
        let policy = EntryPolicy::PerToken;
        let geometry = [geometry, chosen, keys_only][shape](KvDtype::F32, policy);
        let mut memory = store.create_memory("tenant", "books", spec(geometry)).unwrap();
        let mut model = Model::new();
        let mut held: Vec<(Snapshot, Model)> = Vec::new();
        for (step, operation) in operations.into_iter().enumerate() {
            match operation {
                Operation::Write { document, drop_tail, append, commit } => {
                    let id = format!("document {document}");
                    let mut texts = model.get(&id).cloned().unwrap_or_default();
                    let mut writer = memory.writer(&id, BTreeMap::new()).unwrap();
                    prop_assert_eq!(writer.state().chunks, texts.len() as u64);
                    let keep = texts.len().saturating_sub(drop_tail as usize);
                    writer.truncate(keep as u64).unwrap();
                    texts.truncate(keep);
                    let infos = memory.document_chunks(&id, 0, keep).unwrap_or_default();
                    let mut at = infos.last().map_or((0, 0), |info| (info.span.token_end, info.span.byte_end));
                    for (index, tokens) in append.iter().enumerate() {
                        let tokens = (*tokens).min(8) as usize;
                        let chunk = chunk(memory.geometry(), at, tokens, (step * 100 + index) as u64);
                        at = (chunk.span.token_end, chunk.span.byte_end);
                        texts.push(chunk.text.clone());
                        writer.append(chunk).unwrap();
                    }
                    if commit {
                        let committed = writer.commit(ResumePoint::default()).unwrap();
                        prop_assert_eq!(committed.chunks, texts.len() as u64);
                        prop_assert_eq!(committed.document_bytes, at.1);
                        model.insert(id, texts);
                    }
                }
                Operation::Delete { document } => {
                    let id = format!("document {document}");
                    prop_assert_eq!(memory.delete_document(&id).is_ok(), model.remove(&id).is_some());
                }
                Operation::Snapshot => held.push((memory.snapshot().unwrap(), model.clone())),
                Operation::DropSnapshots => held.clear(),
                Operation::Reopen => {
                    // Snapshots belong to the store that made them.
                    held.clear();
                    drop((memory, store));
                    store = open(Arc::clone(&storage));
                    memory = store.memory("tenant", "books").unwrap();
                }
            }
            prop_assert_eq!(memory.info().documents, model.len() as u64);
        }
        held.push((memory.snapshot().unwrap(), model));
        for (snapshot, model) in &held {
            check(snapshot, model);
        }
        held.drain(..held.len() - 1);
        let bytes: u64 = storage.list_blobs().unwrap().iter().map(|blob| blob.bytes).sum();
        let info = memory.info();
        drop(held);
        prop_assert_eq!(bytes, info.stored_bytes + info.index_bytes);
    }
}
