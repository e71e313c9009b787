//! Search by terms against BM25 written down once more.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{keys_only, open, small_spec, spec};
use mnemon_memory::{ChunkId, EntryPolicy, KvDtype, Recall, ResumePoint, TermHit, TermRequest, UnionRecall};
use mnemon_memory_store::{InMemoryStorage, Memory, Snapshot, Storage};
use proptest::prelude::*;

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Appends chunks of these tokens.
fn write(memory: &Memory, id: &str, chunks: &[Vec<u32>]) {
    let mut writer = memory.writer(id, BTreeMap::new()).unwrap();
    let mut at = (writer.state().tokens, writer.state().bytes);
    for tokens in chunks {
        let mut chunk = common::chunk(memory.geometry(), at, tokens.len(), 1);
        chunk.tokens.clone_from(tokens);
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk).unwrap();
    }
    writer.commit(ResumePoint::default()).unwrap();
}

fn search(view: &dyn Recall, terms: &[Vec<u32>], top_k: usize) -> Vec<TermHit> {
    view.search_terms(&TermRequest { terms, top_k, k1: K1 as f32, b: B as f32 }).unwrap().hits
}

/// Robertson and Zaragoza 2009, equation 3.15, with 1 added in the logarithm.
fn oracle(view: &Snapshot, terms: &[Vec<u32>]) -> Vec<(ChunkId, f64)> {
    let infos = view.describe(&view.chunks(usize::MAX).unwrap()).unwrap();
    let count = infos.len() as f64;
    let mean = infos.iter().map(|info| info.tokens.len()).sum::<usize>() as f64 / count;
    let occurrences = |tokens: &[u32], term: &[u32]| tokens.iter().filter(|token| term.contains(token)).count() as f64;
    let mut scored = Vec::new();
    for info in &infos {
        let mut score = 0.0;
        for term in terms {
            let with = infos.iter().filter(|info| occurrences(&info.tokens, term) > 0.0).count() as f64;
            let found = occurrences(&info.tokens, term);
            let length = 1.0 - B + B * info.tokens.len() as f64 / mean;
            score += (1.0 + (count - with + 0.5) / (with + 0.5)).ln() * found * (K1 + 1.0) / (found + K1 * length);
        }
        if score > 0.0 {
            scored.push((info.id, score));
        }
    }
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored
}

fn assert_agrees(view: &Snapshot, terms: &[Vec<u32>]) {
    let (found, expected) = (search(view, terms, 4096), oracle(view, terms));
    assert_eq!(found.len(), expected.len());
    let scores: BTreeMap<_, _> = expected.into_iter().collect();
    assert!(found.iter().all(|hit| (f64::from(hit.score) - scores[&hit.chunk]).abs() < 1e-4));
    let ordered =
        |pair: &[TermHit]| pair[1].score.total_cmp(&pair[0].score).then(pair[0].chunk.cmp(&pair[1].chunk)).is_lt();
    assert!(found.windows(2).all(ordered), "{found:?}");
    for top_k in [1, 3] {
        assert_eq!(search(view, terms, top_k), found[..top_k.min(found.len())]);
    }
    let infos = view.describe(&view.chunks(usize::MAX).unwrap()).unwrap();
    let with =
        |term: &Vec<u32>| infos.iter().filter(|info| info.tokens.iter().any(|t| term.contains(t))).count() as u64;
    let request = TermRequest { terms, top_k: 1, k1: 1.2, b: 0.75 };
    assert_eq!(view.search_terms(&request).unwrap().chunks_with, terms.iter().map(with).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_formula(
        documents in prop::collection::vec(prop::collection::vec(prop::collection::vec(0..30_u32, 1..9), 1..8), 1..6),
        terms in prop::collection::vec(prop::collection::vec(prop_oneof![0..30_u32, Just(7 + (1 << 16))], 0..4), 0..5),
        keep in 1..4_u64,
    ) {
        let store = open(Arc::new(InMemoryStorage::new()));
        let keys = spec(keys_only(KvDtype::Int8, EntryPolicy::BlockMean { tokens: 4 }));
        let memory = store.create_memory("tenant", "books", if keep == 1 { keys } else { small_spec() }).unwrap();
        for (at, chunks) in documents.iter().enumerate() {
            write(&memory, &format!("{at}"), chunks);
        }
        let before = memory.snapshot().unwrap();
        // What is truncated or deleted counts no more, but in the view that was there before.
        let mut writer = memory.writer("0", BTreeMap::new()).unwrap();
        writer.truncate(keep.min(documents[0].len() as u64)).unwrap();
        writer.commit(ResumePoint::default()).unwrap();
        drop(writer);
        memory.delete_document("1").ok();
        for view in [before, memory.snapshot().unwrap()] {
            assert_agrees(&view, &terms);
        }
        memory.compact().unwrap();
        assert_agrees(&memory.snapshot().unwrap(), &terms);
    }
}

#[test]
fn spellings_of_a_word_count_as_one() {
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    let store = open(storage);
    let memory = store.create_memory("tenant", "books", small_spec()).unwrap();
    write(&memory, "a", &[vec![1, 2, 3], vec![11, 2, 3], vec![4, 5, 6], vec![7, 8]]);
    let view = memory.snapshot().unwrap();
    let ids = view.chunks(10).unwrap();
    let hits = search(&view, &[vec![1, 11]], 10);
    assert_eq!(hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>(), ids[..2]);
    assert!((hits[0].score - hits[1].score).abs() < f32::EPSILON, "equal ones go by identifier");
    for nothing in [&[][..], &[Vec::new()], &[vec![99]]] {
        assert!(search(&view, nothing, 10).is_empty());
    }
    let empty = store.create_memory("tenant", "empty", small_spec()).unwrap();
    assert!(search(&empty.snapshot().unwrap(), &[vec![1]], 10).is_empty());

    // Two memories as one, one of them twice.
    write(&empty, "b", &[vec![1], vec![5]]);
    let other = empty.snapshot().unwrap();
    let members: Vec<Arc<dyn Recall>> = vec![Arc::new(view.clone()), Arc::new(other.clone()), Arc::new(view.clone())];
    let union = UnionRecall::new(members).unwrap();
    let mut expected = [search(&view, &[vec![1, 11]], 10), search(&other, &[vec![1, 11]], 10)].concat();
    expected.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
    assert_eq!(search(&union, &[vec![1, 11]], 10), expected);
    assert_eq!(search(&union, &[vec![1, 11]], 2), expected[..2]);
    let request = TermRequest { terms: &[vec![1, 11], vec![5]], top_k: 2, k1: 1.2, b: 0.75 };
    let members = [&view, &other, &view].map(|member| member.search_terms(&request).unwrap().chunks_with);
    let sums: Vec<u64> = (0..2).map(|term| members.iter().map(|counts| counts[term]).sum()).collect();
    assert_eq!(union.search_terms(&request).unwrap().chunks_with, sums);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let store = open(Arc::new(InMemoryStorage::new()));
    let view = store.create_memory("tenant", "books", small_spec()).unwrap().snapshot().unwrap();
    let (few, many, long) = (vec![vec![1]], vec![vec![1]; 1025], vec![vec![1; 70_000]]);
    let request = TermRequest { terms: &few, top_k: 1, k1: 1.2, b: 0.75 };
    assert!(view.search_terms(&request).is_ok());
    for wrong in [
        TermRequest { top_k: 0, ..request },
        TermRequest { top_k: 4097, ..request },
        TermRequest { k1: -1.0, ..request },
        TermRequest { k1: f32::NAN, ..request },
        TermRequest { b: 1.5, ..request },
        TermRequest { b: f32::INFINITY, ..request },
        TermRequest { terms: &many, ..request },
        TermRequest { terms: &long, ..request },
    ] {
        assert!(matches!(view.search_terms(&wrong), Err(mnemon_memory::Error::Invalid(_))));
    }
}
