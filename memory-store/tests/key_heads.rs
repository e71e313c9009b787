//! Memories of which only some key heads have entries, with or without stored layers; and what a view tells beside entries:
//! all layers at once, neighbours, metadata.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{
    chosen, extend, geometry, keys_at, keys_only, open, queries, search_at, small_spec, spec, texts, write_document,
};
use mnemon_memory::{ChunkId, EntryPolicy, KeyHead, KvChunk, KvDtype, KvGeometry, Recall, ResumePoint, UnionRecall};
use mnemon_memory_store::{Error, InMemoryStorage, Memory, Snapshot, Storage, bytes_per_token, check};

const DTYPES: [KvDtype; 5] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4];

fn geometries(dtype: KvDtype, policy: EntryPolicy) -> [KvGeometry; 2] {
    [chosen(dtype, policy), keys_only(dtype, policy)]
}

/// Best scores of each query at each of `key_heads`, from the chunks as they were written.
fn oracle(geometry: &KvGeometry, chunks: &[KvChunk], key_heads: &[usize], queries: &[f32], k: usize) -> Vec<Vec<f32>> {
    let dim = geometry.head_dim as usize;
    let list = |(at, query): (usize, &[f32])| {
        let keys = chunks.iter().flat_map(|chunk| keys_at(geometry, chunk, key_heads[at % key_heads.len()]));
        let keys: Vec<f32> = keys.copied().collect();
        let product = |key: &[f32]| key.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
        let mut scores: Vec<f32> = keys.chunks(dim).map(product).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        scores.truncate(k);
        scores
    };
    queries.chunks(dim).enumerate().map(list).collect()
}

fn assert_finds(view: &dyn Recall, chunks: &[KvChunk], tolerance: f32) {
    let geometry = view.geometry();
    for key_heads in [&[0, 1, 2][..], &[2, 0, 2], &[1]] {
        let queries = queries(3, key_heads.len(), 8, 9);
        let expected = oracle(geometry, chunks, key_heads, &queries, 4);
        for exact in [true, false] {
            let found = search_at(view, key_heads, &queries, 4, exact);
            assert_eq!(found.len(), expected.len());
            for (hits, scores) in found.iter().zip(&expected) {
                assert!(hits.iter().zip(scores).all(|(hit, score)| (hit.score - score).abs() < tolerance));
                assert_eq!(hits.len(), scores.len());
            }
        }
    }
}

#[test]
fn each_key_head_is_searched_wherever_its_keys_are() {
    for dtype in DTYPES {
        for geometry in geometries(dtype, EntryPolicy::PerToken) {
            let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
            let store = open(Arc::clone(&storage));
            let memory = store.create_memory("tenant", "books", spec(geometry.clone())).unwrap();
            let mut chunks = write_document(&memory, "a", 9, 1);
            chunks.extend(write_document(&memory, "b", 3, 40));
            assert!(memory.info().unsealed_entries > 0 && memory.info().index_bytes > 0, "graphs and a tail");
            let tolerance = if dtype == KvDtype::Int4 { 0.7 } else { 0.05 };
            assert_finds(&memory.snapshot().unwrap(), &chunks, tolerance);
            drop((memory, store));
            let report = check(&storage, false).unwrap();
            assert!(report.is_sound(), "{:?}", report.findings);
            let memory = open(storage).memory("tenant", "books").unwrap();
            assert_eq!(memory.geometry(), &geometry);
            assert_finds(&memory.snapshot().unwrap(), &chunks, tolerance);
        }
    }
}

#[test]
fn stored_layers_are_fetched_one_by_one_or_all_at_once() {
    for geometry in geometries(KvDtype::F32, EntryPolicy::PerToken) {
        let store = open(Arc::new(InMemoryStorage::new()));
        let memory = store.create_memory("tenant", "books", spec(geometry.clone())).unwrap();
        let chunks = write_document(&memory, "a", 4, 1);
        let view = memory.snapshot().unwrap();
        let ids = view.chunks(10).unwrap();
        let layers = view.fetch_layers(&ids).unwrap();
        assert_eq!(layers.len(), geometry.layers.len());
        for (slot, layer) in layers.iter().enumerate() {
            assert_eq!(*layer, view.fetch(slot, &ids).unwrap());
            for (kv, chunk) in layer.iter().zip(&chunks) {
                assert_eq!(
                    (kv.keys.to_f32(), kv.values.to_f32()),
                    (chunk.keys[slot].clone(), chunk.values[slot].clone())
                );
            }
        }
        assert!(matches!(view.fetch(geometry.layers.len(), &ids), Err(mnemon_memory::Error::Invalid(_))));
    }
}

#[test]
fn chunks_of_another_shape_are_refused() {
    let store = open(Arc::new(InMemoryStorage::new()));
    for (name, geometry) in ["chosen", "keys"].into_iter().zip(geometries(KvDtype::F16, EntryPolicy::PerToken)) {
        let memory = store.create_memory("tenant", name, spec(geometry.clone())).unwrap();
        let mut writer = memory.writer("a", BTreeMap::new()).unwrap();
        let good = common::chunk(&geometry, (0, 0), 4, 1);
        let mut few = good.clone();
        few.lone_keys.pop();
        let mut short = good.clone();
        short.lone_keys[0].pop();
        let mut infinite = good.clone();
        infinite.lone_keys[0][3] = f32::INFINITY;
        for wrong in [few, short, infinite] {
            assert!(matches!(writer.append(wrong), Err(Error::Invalid { .. })));
        }
        writer.append(good).unwrap();
        writer.commit(ResumePoint::default()).unwrap();
    }
    let representative = chosen(KvDtype::F16, EntryPolicy::Representative { count: 2 });
    assert!(store.create_memory("tenant", "representative", spec(representative)).is_err());
}

#[test]
fn what_is_compacted_and_carried_over_is_found_as_before() {
    for policy in [EntryPolicy::PerToken, EntryPolicy::BlockMean { tokens: 3 }] {
        for geometry in geometries(KvDtype::Int8, policy) {
            let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
            let store = open(Arc::clone(&storage));
            let memory = store.create_memory("tenant", "books", spec(geometry.clone())).unwrap();
            write_document(&memory, "gone", 8, 200);
            for (seed, id) in [(1, "a"), (50, "b")] {
                let mut writer = memory.writer(id, BTreeMap::new()).unwrap();
                for at in 0..5 {
                    extend(&mut writer, &geometry, 2, seed + 2 * at, false);
                }
                writer.truncate(9).unwrap();
                writer.commit(ResumePoint::default()).unwrap();
            }
            memory.delete_document("gone").unwrap();
            let before = seen(&memory);
            memory.compact().unwrap();
            assert_eq!(seen(&memory), before);

            let mut export = memory.export().unwrap();
            let mut import = store.import("tenant", Some("copy"), false).unwrap();
            while let Some(piece) = export.piece().unwrap() {
                import.push(&piece).unwrap();
            }
            let copy = import.finish().unwrap();
            assert_eq!(copy.geometry(), &geometry);
            assert_eq!(seen(&copy), before);
            drop((memory, copy, export, store));
            let report = check(&storage, false).unwrap();
            assert!(report.is_sound(), "{:?}", report.findings);
        }
    }
}

/// Texts, and where the best entries of each key head stand.
fn seen(memory: &Memory) -> (Vec<String>, Vec<Vec<(u64, u16)>>) {
    let view = memory.snapshot().unwrap();
    let hits = search_at(&view, &[0, 1, 2], &queries(2, 3, 8, 3), 3, true);
    let token = |chunk| view.describe(&[chunk]).unwrap()[0].span.token_start;
    let places = hits.iter().map(|hits| hits.iter().map(|hit| (token(hit.chunk), hit.start)).collect());
    (texts(&view), places.collect())
}

#[test]
fn damaged_lone_keys_are_named() {
    let storage = Arc::new(InMemoryStorage::new());
    let store = open(Arc::clone(&storage) as Arc<dyn Storage>);
    let memory = store.create_memory("tenant", "books", spec(keys_only(KvDtype::F32, EntryPolicy::PerToken))).unwrap();
    write_document(&memory, "a", 2, 1);
    drop((memory, store));
    storage.damage_blob("chunks-0000000000000001", |bytes| {
        let body = u32::from_le_bytes(*bytes[12..].first_chunk().unwrap()) as usize;
        // The second of three key heads of the first chunk: 8 tokens, 8 values, 4 bytes; checksum and padding.
        bytes[body + 264 + 5] ^= 1;
    });
    let storage: Arc<dyn Storage> = storage;
    let report = check(&storage, false).unwrap();
    assert!(report.findings.iter().any(|finding| finding.why.contains("keys of head 0 of layer 1")), "{report:?}");
    let view = open(Arc::clone(&storage)).memory("tenant", "books").unwrap().snapshot().unwrap();
    let request = queries(1, 1, 8, 1);
    let search = |key_head: usize| {
        let key_heads = &[key_head];
        view.search(&mnemon_memory::SearchRequest { key_heads, queries: &request, top_k: 1, ef: None, exact: true })
    };
    assert!(matches!(search(1), Err(mnemon_memory::Error::Damaged { .. })) && search(0).is_ok() && search(2).is_ok());
    check(&storage, true).unwrap();
    assert!(check(&storage, false).unwrap().is_sound());
}

fn ordinals(view: &Snapshot, lists: &[Vec<ChunkId>]) -> Vec<Vec<u64>> {
    let start = |chunk: &ChunkId| view.describe(&[*chunk]).unwrap()[0].span.token_start / 8;
    lists.iter().map(|list| list.iter().map(start).collect()).collect()
}

#[test]
fn neighbours_stand_next_to_a_chunk_in_its_document() {
    let store = open(Arc::new(InMemoryStorage::new()));
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let [mut a, mut b] = ["a", "b"].map(|id| memory.writer(id, BTreeMap::new()).unwrap());
    // Extents of the two documents alternate.
    for at in 0..3 {
        extend(&mut a, memory.geometry(), 2, 10 * at, false);
        extend(&mut b, memory.geometry(), 1, 500 + 10 * at, false);
    }
    a.truncate(5).unwrap();
    a.commit(ResumePoint::default()).unwrap();
    let view = memory.snapshot().unwrap();
    let id = |document: &str, at: usize| memory.document_chunks(document, at as u64, 1).unwrap()[0].id;
    let around = |chunks: &[ChunkId], before, after| ordinals(&view, &view.neighbours(chunks, before, after).unwrap());
    assert_eq!(around(&[id("a", 2), id("b", 0), id("a", 4)], 1, 1), [vec![1, 2, 3], vec![0, 1], vec![3, 4]]);
    assert_eq!(around(&[id("a", 1)], 0, 0), [[1]]);
    assert_eq!(around(&[id("a", 3)], 9, 1024), [[0, 1, 2, 3, 4]]);
    assert_eq!(around(&[id("b", 2)], 1, 5), [[1, 2]]);
    assert!(around(&[], 1, 1).is_empty());
    assert!(matches!(view.neighbours(&[], 0, 1025), Err(mnemon_memory::Error::Invalid(_))));
    let lists = view.neighbours(&[id("b", 1)], 1, 1).unwrap();
    let document = view.describe(&lists[0]).unwrap();
    assert!(document.iter().all(|info| info.document_id == "b" && info.document == document[0].document));
    assert!(matches!(view.neighbours(&[ChunkId(999)], 1, 1), Err(mnemon_memory::Error::UnknownChunk { chunk: 999 })));

    let other = store.create_memory("tenant", "other", small_spec()).unwrap();
    write_document(&other, "c", 2, 900);
    let theirs = other.snapshot().unwrap();
    let union = UnionRecall::new(vec![Arc::new(view.clone()), Arc::new(theirs.clone())]).unwrap();
    let there = theirs.chunks(1).unwrap()[0];
    let lists = union.neighbours(&[there, id("b", 2)], 1, 1).unwrap();
    assert_eq!((lists[0].len(), lists[1].len()), (2, 2));
    assert_eq!(union.fetch_layers(&[there, id("a", 0)]).unwrap()[1][0].id, there);
}

#[test]
fn chunks_tell_the_metadata_of_their_document() {
    let store = open(Arc::new(InMemoryStorage::new()));
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    let metadata = |date: &str| BTreeMap::from([("date".to_owned(), date.to_owned())]);
    extend(&mut memory.writer("a", metadata("monday")).unwrap(), memory.geometry(), 2, 1, true);
    write_document(&memory, "b", 1, 9);
    let view = memory.snapshot().unwrap();
    let ids = view.chunks(10).unwrap();
    let dates = |view: &Snapshot| {
        let infos = view.describe(&ids).unwrap();
        infos.iter().map(|info| info.metadata.get("date").cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(dates(&view), ["monday", "monday", ""]);
    let mut writer = memory.writer("a", metadata("tuesday")).unwrap();
    writer.commit(ResumePoint::default()).unwrap();
    drop(writer);
    assert_eq!(dates(&view), ["tuesday", "tuesday", ""], "as it is now");
    assert_eq!(*memory.document_chunks("a", 0, 1).unwrap()[0].metadata, metadata("tuesday"));
    // Gone, and another of this name: a view that still shows it says what it was stored with.
    memory.delete_document("a").unwrap();
    assert_eq!(dates(&view), ["monday", "monday", ""]);
    extend(&mut memory.writer("a", metadata("friday")).unwrap(), memory.geometry(), 1, 1, true);
    assert_eq!(dates(&view), ["monday", "monday", ""]);
}

#[test]
fn all_key_heads_are_as_before() {
    let all = geometry(KvDtype::F16, EntryPolicy::PerToken);
    assert!(all.has_all_key_heads() && all.lone_key_heads().next().is_none());
    assert_eq!(all.searched_by(1, 4).unwrap(), [2, 2, 3, 3]);
    assert_eq!(all.key_head_index(KeyHead { layer: 3, head: 1 }), Some(3));
    // 8 tokens with 2 heads of 8 values of 2 bytes, keys and values, at 2 layers.
    assert_eq!(bytes_per_token(&all), 128);
    assert_eq!(bytes_per_token(&chosen(KvDtype::F16, EntryPolicy::PerToken)), 128 + 2 * 16);
    assert_eq!(bytes_per_token(&keys_only(KvDtype::F16, EntryPolicy::PerToken)), 3 * 16);
}
