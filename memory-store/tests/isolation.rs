//! Snapshots, writers, deletion, sealing: who sees what, and when bytes go.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use common::{chunk, clock, extend, open, options, queries, search, small_spec, texts, write_document};
use mnemon_memory::{Recall, ResumePoint, SearchRequest, UnionRecall};
use mnemon_memory_store::{Error, InMemoryStorage, Memory, Sealing, Storage, Store, StoreOptions};

fn fresh() -> (Arc<InMemoryStorage>, Store, Memory) {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    (storage, store, memory)
}

fn blobs(storage: &InMemoryStorage) -> usize {
    storage.list_blobs().unwrap().len()
}

#[test]
fn a_snapshot_does_not_change() {
    let (_, _, memory) = fresh();
    write_document(&memory, "a", 5, 1);
    let before = memory.snapshot().unwrap();
    let (shown, queries) = (texts(&before), queries(2, 2, 8, 3));
    let found = search(&before, 0, &queries, 2, 7, true);
    write_document(&memory, "b", 40, 100);
    memory.delete_document("a").unwrap();
    assert_eq!(texts(&before), shown);
    assert_eq!(search(&before, 0, &queries, 2, 7, true), found);
    assert_eq!(before.fetch(1, &before.chunks(9).unwrap()).unwrap().len(), 5);
    let after = memory.snapshot().unwrap();
    assert_eq!(after.len(), 40);
    let gone = before.chunks(1).unwrap();
    assert!(matches!(after.fetch(0, &gone), Err(mnemon_memory::Error::UnknownChunk { .. })));
    assert!(matches!(after.describe(&gone), Err(mnemon_memory::Error::UnknownChunk { .. })));
}

#[test]
fn what_is_not_committed_is_not_seen_and_leaves_nothing() {
    let storage = Arc::new(InMemoryStorage::new());
    let options = StoreOptions { writer_buffer_bytes: 1, ..options() };
    let store = Store::open(Arc::clone(&storage) as Arc<dyn Storage>, options, clock()).unwrap();
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    let mut at = (0, 0);
    for seed in 0..4 {
        let chunk = chunk(memory.geometry(), at, 8, seed);
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk).unwrap();
    }
    assert_eq!(blobs(&storage), 3, "full buffers are written");
    assert!(memory.snapshot().unwrap().is_empty());
    assert!(matches!(memory.document("a"), Err(Error::UnknownDocument { .. })));
    drop(writer);
    assert_eq!(blobs(&storage), 0);
    assert_eq!(memory.writer("a", BTreeMap::new()).unwrap().state().chunks, 0);
}

#[test]
fn one_writer_for_a_document_many_for_a_memory() {
    let (_, store, memory) = fresh();
    let mut first = memory.writer("a", BTreeMap::new()).unwrap();
    assert!(matches!(memory.writer("a", BTreeMap::new()), Err(Error::DocumentBusy { .. })));
    assert!(matches!(memory.delete_document("a"), Err(Error::DocumentBusy { .. })));
    assert!(matches!(store.delete_memory("tenant", "books"), Err(Error::DocumentBusy { .. })));
    let mut second = memory.writer("b", BTreeMap::new()).unwrap();
    extend(&mut second, memory.geometry(), 2, 1, true);
    extend(&mut first, memory.geometry(), 3, 9, true);
    assert_eq!(memory.info().sequence, 2);
    drop(first);
    assert_eq!(memory.writer("a", BTreeMap::new()).unwrap().state().chunks, 3);
}

type Damage = fn(&mut mnemon_memory::KvChunk);

#[test]
fn appended_chunks_must_fit() {
    let (_, _, memory) = fresh();
    let geometry = memory.geometry().clone();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    let good = chunk(&geometry, (0, 0), 8, 1);
    let bad: [(&str, Damage); 8] = [
        ("a gap", |chunk| {
            chunk.span.token_start += 1;
            chunk.span.token_end += 1;
        }),
        ("no tokens", |chunk| {
            chunk.tokens.clear();
            chunk.span.token_end = 0;
        }),
        ("too many tokens", |chunk| {
            chunk.tokens.push(1);
            chunk.span.token_end = 9;
        }),
        ("short text", |chunk| _ = chunk.text.pop()),
        ("a missing layer", |chunk| _ = chunk.keys.pop()),
        ("short values", |chunk| _ = chunk.values[1].pop()),
        ("an infinite key", |chunk| chunk.keys[0][3] = f32::INFINITY),
        ("a NaN", |chunk| chunk.values[0][3] = f32::NAN),
    ];
    for (name, damage) in bad {
        let mut chunk = good.clone();
        damage(&mut chunk);
        assert!(matches!(writer.append(chunk), Err(Error::Invalid { .. })), "{name}");
    }
    writer.append(good).unwrap();
    let resume = ResumePoint { safe_byte: 10_000, safe_token: 0, complete: false };
    assert!(matches!(writer.commit(resume), Err(Error::Invalid { .. })));
    assert_eq!(writer.commit(ResumePoint::default()).unwrap().chunks, 1);
}

#[test]
fn truncation_replaces_the_tail_with_the_next_commit() {
    let (storage, store, memory) = fresh();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    let old = extend(&mut writer, memory.geometry(), 3, 1, false);
    extend(&mut writer, memory.geometry(), 3, 10, false);
    let before = memory.snapshot().unwrap();
    assert!(matches!(writer.truncate(7), Err(Error::Invalid { .. })));
    writer.truncate(2).unwrap();
    assert_eq!(memory.snapshot().unwrap().len(), 6, "not before the commit");
    let end = (old[1].span.token_end, old[1].span.byte_end);
    let mut new = chunk(memory.geometry(), end, 5, 77);
    writer.append(new.clone()).unwrap();
    writer.truncate(2).unwrap();
    new.text.make_ascii_uppercase();
    writer.append(new.clone()).unwrap();
    let committed = writer.commit(ResumePoint::default()).unwrap();
    assert_eq!((committed.chunks, committed.document_tokens), (3, 21));
    let wanted = vec![old[0].text.clone(), old[1].text.clone(), new.text.clone()];
    assert_eq!(texts(&memory.snapshot().unwrap()), wanted);
    assert_eq!(before.len(), 6);
    assert_eq!(texts(&before).len(), 6);
    drop(before);
    assert_eq!(blobs(&storage), 2, "the second commit's blob went with its last reader");
    drop((writer, memory, store));
    let store = open(storage);
    let memory = store.memory("tenant", "books").unwrap();
    assert_eq!(texts(&memory.snapshot().unwrap()), wanted);
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    assert_eq!((writer.state().chunks, writer.state().tokens), (3, 21));
    writer.truncate(0).unwrap();
    assert_eq!(writer.commit(ResumePoint::default()).unwrap().chunks, 0);
    assert!(memory.snapshot().unwrap().is_empty());
}

#[test]
fn deleted_chunks_are_never_returned_and_their_bytes_go() {
    let (storage, store, memory) = fresh();
    for (index, id) in ["a", "b", "c"].iter().enumerate() {
        write_document(&memory, id, 30, index as u64 * 1000);
    }
    assert!(memory.info().index_bytes > 0, "sealed: {:?}", memory.info());
    let held = memory.snapshot().unwrap();
    let of_a: HashSet<_> = held.chunks(30).unwrap().into_iter().collect();
    let with_a = blobs(&storage);
    memory.delete_document("a").unwrap();
    assert_eq!(blobs(&storage), with_a, "the snapshot sees it");
    let check = |memory: &Memory| {
        let snapshot = memory.snapshot().unwrap();
        for exact in [true, false] {
            for hits in search(&snapshot, 1, &queries(20, 4, 8, 5), 4, 64, exact) {
                assert_eq!(hits.len(), 64);
                assert!(hits.iter().all(|hit| !of_a.contains(&hit.chunk)));
            }
        }
    };
    check(&memory);
    drop(held);
    let without_a = blobs(&storage);
    assert!(without_a < with_a);
    drop((memory, store));
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.memory("tenant", "books").unwrap();
    check(&memory);
    assert_eq!(blobs(&storage), without_a, "no orphan was left");
    memory.delete_document("b").unwrap();
    memory.delete_document("c").unwrap();
    assert_eq!(blobs(&storage), 0);
    assert_eq!((memory.info().entries, memory.info().index_bytes, memory.info().documents), (0, 0, 0));
}

#[test]
fn deleting_a_memory_keeps_its_snapshots() {
    let (storage, store, memory) = fresh();
    write_document(&memory, "a", 20, 1);
    let held = memory.snapshot().unwrap();
    store.delete_memory("tenant", "books").unwrap();
    assert!(matches!(store.memory("tenant", "books"), Err(Error::UnknownMemory { .. })));
    assert_eq!(texts(&held).len(), 20);
    assert!(!search(&held, 0, &queries(1, 2, 8, 5), 2, 3, false)[0].is_empty());
    drop(held);
    assert_eq!(blobs(&storage), 0);
    let again = store.create_memory("tenant", "books", small_spec()).unwrap();
    assert_eq!(again.info().chunks, 0);
    assert!(again.list_documents(None, 10).unwrap().is_empty());
}

#[test]
fn sealing_changes_nothing_that_is_seen() {
    let storage = Arc::new(InMemoryStorage::new());
    let manual = StoreOptions { sealing: Sealing::Manual, ..options() };
    let store = Store::open(Arc::clone(&storage) as Arc<dyn Storage>, manual, clock()).unwrap();
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
    for seed in 0..12 {
        extend(&mut writer, memory.geometry(), 3, seed * 10, false);
    }
    let before = memory.snapshot().unwrap();
    let queries = queries(10, 2, 8, 3);
    let flat = search(&before, 0, &queries, 2, 20, false);
    assert_eq!(memory.unsealed_entries(), 288);
    store.seal_all().unwrap();
    assert!(memory.unsealed_entries() < 64);
    let after = memory.snapshot().unwrap();
    assert_eq!(after.sequence(), before.sequence());
    assert_eq!(search(&after, 0, &queries, 2, 20, true).len(), flat.len());
    let same = |a: &[mnemon_memory::Hit], b: &[mnemon_memory::Hit]| {
        a.iter().zip(b).all(|(a, b)| (a.score - b.score).abs() < 1e-4)
    };
    for (exact, flat) in search(&after, 0, &queries, 2, 20, true).iter().zip(&flat) {
        assert!(same(exact, flat));
    }
    let wide = SearchRequest { key_heads: &[0, 1], queries: &queries, top_k: 20, ef: Some(300), exact: false };
    for (graph, flat) in after.search(&wide).unwrap().iter().zip(&flat) {
        assert!(same(graph, flat), "a walk as broad as the graph is exact");
    }
    assert_eq!(texts(&after), texts(&before));
}

#[test]
fn the_background_thread_seals_while_others_read_and_write() {
    let storage = Arc::new(InMemoryStorage::new());
    let background = StoreOptions { sealing: Sealing::Background, ..options() };
    let store = Store::open(Arc::clone(&storage) as Arc<dyn Storage>, background, clock()).unwrap();
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let memory = memory.clone();
            scope.spawn(move || {
                let mut writer = memory.writer(&format!("doc-{thread}"), BTreeMap::new()).unwrap();
                for seed in 0..10 {
                    extend(&mut writer, memory.geometry(), 4, thread * 1000 + seed * 10, false);
                }
            });
        }
        let memory = memory.clone();
        scope.spawn(move || {
            for seed in 0..60 {
                let snapshot = memory.snapshot().unwrap();
                let chunks = snapshot.chunks(1000).unwrap();
                assert_eq!(chunks.len() as u64, snapshot.len());
                for hits in search(&snapshot, 0, &queries(1, 2, 8, seed), 2, 9, false) {
                    assert_eq!(hits.len(), 9.min(chunks.len() * 8));
                    assert!(hits.iter().all(|hit| chunks.contains(&hit.chunk)));
                }
            }
        });
    });
    store.seal_all().unwrap();
    assert_eq!(memory.info().chunks, 120);
    assert!(memory.unsealed_entries() < 64);
    assert_eq!(texts(&memory.snapshot().unwrap()).len(), 120);
}

#[test]
fn several_memories_as_one() {
    let (_, store, memory) = fresh();
    let other = store.create_memory("tenant", "more", small_spec()).unwrap();
    write_document(&memory, "a", 20, 1);
    write_document(&other, "b", 20, 500);
    let members: Vec<Arc<dyn Recall>> = vec![Arc::new(memory.snapshot().unwrap()), Arc::new(other.snapshot().unwrap())];
    let union = UnionRecall::new(members.clone()).unwrap();
    assert_eq!(union.len(), 40);
    let ids = union.chunks(100).unwrap();
    assert_eq!(ids.len(), 40);
    let names: HashSet<_> = union.describe(&ids).unwrap().into_iter().map(|info| info.memory).collect();
    assert_eq!(names.len(), 2);
    let queries = queries(4, 2, 8, 5);
    let found = search(&union, 0, &queries, 2, 16, true);
    for (at, hits) in found.iter().enumerate() {
        let mut all: Vec<_> =
            members.iter().flat_map(|member| search(member.as_ref(), 0, &queries, 2, 16, true)[at].clone()).collect();
        all.sort_by(|a, b| b.score.total_cmp(&a.score));
        all.truncate(16);
        let scores = |hits: &[mnemon_memory::Hit]| hits.iter().map(|hit| hit.score).collect::<Vec<_>>();
        assert_eq!(scores(hits), scores(&all));
        union.fetch(0, &hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>()).unwrap();
    }
    assert!(UnionRecall::new(Vec::new()).is_err());
}

#[test]
fn limits_are_enforced() {
    let options = StoreOptions { max_memories: 1, max_documents_per_memory: 2, ..options() };
    let store = Store::open(Arc::new(InMemoryStorage::new()), options, clock()).unwrap();
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    assert!(matches!(store.create_memory("tenant", "more", small_spec()), Err(Error::Limit { limit: 1, .. })));
    write_document(&memory, "a", 1, 1);
    write_document(&memory, "b", 1, 1);
    assert!(matches!(memory.writer("c", BTreeMap::new()), Err(Error::Limit { limit: 2, .. })));
    let ids: Vec<_> = memory.list_documents(None, 10).unwrap().into_iter().map(|document| document.id).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(memory.list_documents(Some("a"), 10).unwrap().len(), 1);
    let snapshot = memory.snapshot().unwrap();
    for (key_heads, top_k) in [(&[][..], 1), (&[0, 1], 0), (&[0, 1], 100_000), (&[0, 4], 1)] {
        let queries = queries(1, key_heads.len(), 8, 1);
        let request = SearchRequest { key_heads, queries: &queries, top_k, ef: None, exact: false };
        assert!(matches!(snapshot.search(&request), Err(mnemon_memory::Error::Invalid(_))), "{key_heads:?} {top_k}");
    }
    for (slot, heads) in [(0, 3), (0, 0), (2, 2)] {
        let refused = snapshot.geometry().searched_by(slot, heads).unwrap_err();
        assert_eq!(refused.what, "search", "{slot} {heads}");
    }
}
