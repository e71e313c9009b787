//! The graph against the exact scan.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use mnemon_memory::{ChunkId, KvData, KvDtype};
use mnemon_memory_store::index::vectors::{
    BuildParams, EntryRef, FlatIndex, GraphIndex, SearchParams, VectorIndex, build_graph,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Clustered vectors; `spread` is the ratio of the longest to the shortest length.
fn vectors(n: usize, dim: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = move || (0..6).map(|_| rng.random_range(-1.0_f32..1.0)).sum::<f32>() / 1.4;
    let centres: Vec<f32> = (0..n.div_ceil(50) * dim).map(|_| normal()).collect();
    let mut all = Vec::with_capacity(n * dim);
    for index in 0..n {
        let centre = index % (centres.len() / dim);
        let vector: Vec<f32> = centres[centre * dim..][..dim].iter().map(|c| c + 0.5 * normal()).collect();
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        let wanted = spread.powf((normal() * 0.5).clamp(-0.5, 0.5));
        all.extend(vector.iter().map(|value| value / length * wanted));
    }
    all
}

fn index(vectors: &[f32], dim: usize, dtype: KvDtype) -> (FlatIndex, GraphIndex) {
    let mut flat = FlatIndex::new(dim, dtype);
    let entries =
        (0..vectors.len() / dim).map(|index| EntryRef { chunk: index as u32 / 64, start: index as u16 % 64, len: 1 });
    flat.extend(&KvData::F32(vectors.to_vec()), 0..vectors.len(), entries);
    let chunks: Vec<ChunkId> = (0..flat.len().div_ceil(64) as u64).map(ChunkId).collect();
    let params = BuildParams { m: 16, ef_construction: 128 };
    let graph = build_graph(flat.clone(), &chunks, None, params, &AtomicBool::new(false)).unwrap().unwrap();
    (flat, graph)
}

fn recall(flat: &FlatIndex, graph: &GraphIndex, queries: &[f32], top_k: usize, ef: usize) -> f64 {
    let params = SearchParams { top_k, ef, live: None };
    let (exact, found) = (flat.search(queries, &params), graph.search(queries, &params));
    let mut hits = 0;
    for (exact, found) in exact.iter().zip(&found) {
        let exact: HashSet<u32> = exact.iter().map(|scored| scored.entry).collect();
        hits += found.iter().filter(|scored| exact.contains(&scored.entry)).count();
    }
    hits as f64 / (exact.len() * top_k) as f64
}

#[test]
fn finds_what_the_scan_finds() {
    for (spread, dtype) in [(1.0, KvDtype::F16), (3.0, KvDtype::F32), (3.0, KvDtype::Bf16)] {
        let dim = 32;
        let (flat, graph) = index(&vectors(5000, dim, spread, 1), dim, dtype);
        let recall = recall(&flat, &graph, &vectors(200, dim, 2.0, 2), 32, 128);
        println!("spread {spread} {dtype:?}: recall@32 {recall:.4}, unreachable {}", graph.unreachable());
        assert!(recall >= 0.95, "spread {spread} {dtype:?}: recall {recall}");
    }
}

#[test]
fn dead_entries_are_walked_through_but_not_returned() {
    let dim = 16;
    let (flat, graph) = index(&vectors(2000, dim, 2.0, 3), dim, KvDtype::F32);
    let queries = vectors(50, dim, 1.0, 4);
    let live = |entry: u32| entry.is_multiple_of(3);
    let params = SearchParams { top_k: 10, ef: 64, live: Some(&live) };
    let (exact, found) = (flat.search(&queries, &params), graph.search(&queries, &params));
    let mut same = 0;
    for (exact, found) in exact.iter().zip(&found) {
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|scored| scored.entry.is_multiple_of(3)));
        same += found.iter().filter(|scored| exact.iter().any(|other| other.entry == scored.entry)).count();
    }
    assert!(same >= 475, "{same} of 500");
}

#[test]
fn odd_inputs_make_a_graph_too() {
    // One entry; all equal; all zero; duplicates of a few; one huge.
    let mut huge = vectors(100, 8, 1.0, 5);
    huge[..8].fill(1e18);
    for (name, data) in [
        ("one", vec![1.0; 8]),
        ("equal", vec![0.5; 8 * 300]),
        ("zero", vec![0.0; 8 * 300]),
        ("few", vectors(3, 8, 1.0, 6).repeat(100)),
        ("huge", huge),
    ] {
        let (flat, graph) = index(&data, 8, KvDtype::F32);
        let params = SearchParams { top_k: 1, ef: 64, live: None };
        let query = vectors(1, 8, 1.0, 7);
        let (exact, found) = (flat.search(&query, &params), graph.search(&query, &params));
        assert_eq!(found[0].len(), 1, "{name}");
        // Beside a key 10^18 times as long as the others, these are all alike to the builder.
        let found = found[0][0].score;
        assert!(name == "huge" || (exact[0][0].score - found).abs() <= 1e-5 * exact[0][0].score.abs(), "{name}");
    }
}

#[test]
fn building_stops_when_told() {
    let mut flat = FlatIndex::new(2, KvDtype::F32);
    let data = KvData::F32(vectors(100, 2, 1.0, 8));
    flat.extend(&data, 0..200, (0..100).map(|_| EntryRef { chunk: 0, start: 0, len: 1 }));
    let params = BuildParams { m: 8, ef_construction: 16 };
    assert!(build_graph(flat, &[ChunkId(1)], None, params, &AtomicBool::new(true)).unwrap().is_none());
}
