//! Measures building, searching and appending on synthetic keys, side by side:
//! `cargo run --release -p mnemon-memory-store --example measure -- [ENTRIES] [DIM]`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use mnemon_memory_store::index::{BuildParams, EntryRef, FlatIndex, SearchParams, VectorIndex, build_graph};
use mnemon_memory_store::{
    ChunkId, EntryPolicy, Fingerprint, KvChunk, KvData, KvDtype, KvGeometry, MemorySpec, Recall, ResumePoint, Sealing,
    SearchRequest, SledOptions, SledStorage, SourceSpan, Store, StoreOptions,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn vectors(n: usize, dim: usize, spread: f32, noise: f32, seeds: (u64, u64)) -> Vec<f32> {
    let normal = |rng: &mut ChaCha8Rng| (0..6).map(|_| rng.random_range(-1.0_f32..1.0)).sum::<f32>() / 1.4;
    let mut of_centres = ChaCha8Rng::seed_from_u64(seeds.0);
    let centres: Vec<f32> = (0..1024 * dim).map(|_| normal(&mut of_centres)).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(seeds.1);
    let mut all = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let centre = rng.random_range(0..1024);
        let vector: Vec<f32> = centres[centre * dim..][..dim].iter().map(|c| c + noise * normal(&mut rng)).collect();
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        let wanted = spread.powf(rng.random_range(-0.5..0.5));
        all.extend(vector.iter().map(|value| value / length * wanted));
    }
    all
}

fn median_us(mut run: impl FnMut(usize), times: usize) -> f64 {
    let mut all: Vec<f64> = (0..times)
        .map(|at| {
            let start = Instant::now();
            run(at);
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all[times / 2]
}

fn measure_index(n: usize, dim: usize, dtype: KvDtype, spread: f32, m: usize, ef_construction: usize) {
    let data = KvData::F32(vectors(n, dim, spread, 0.7, (1, 2)));
    let mut flat = FlatIndex::new(dim, dtype);
    flat.extend(&data, 0..n * dim, (0..n).map(|at| EntryRef { chunk: at as u32 / 64, start: at as u16 % 64, len: 1 }));
    let chunks = (0..n.div_ceil(64) as u64).map(ChunkId).collect();
    let start = Instant::now();
    let params = BuildParams { m, ef_construction };
    let graph = build_graph(flat.clone(), chunks, params, &AtomicBool::new(false)).unwrap().unwrap();
    println!(
        "{n} entries, {dim} dims, {dtype:?}, spread {spread}, m {m}, ef_construction {ef_construction}: built in {:.1} s, {} bytes an entry, {} unreachable",
        start.elapsed().as_secs_f64(),
        graph.bytes() / n,
        graph.unreachable()
    );
    // Queries like the keys, and queries from elsewhere.
    for (name, seeds) in [("near", (1, 7)), ("far", (8, 9))] {
        let queries = vectors(400, dim, 1.0, 0.7, seeds);
        let row = |at: usize| &queries[at % 400 * dim..][..dim];
        let params = |ef| SearchParams { top_k: 32, ef, live: None };
        let exact = flat.search(&queries, &params(1));
        let scan = median_us(|at| _ = flat.search(row(at), &params(1)), 100);
        print!("  {name}: scan {scan:.0} us; graph");
        for ef in [32, 64, 96, 128, 256] {
            let found = graph.search(&queries, &params(ef));
            let same = |(exact, found): (&Vec<_>, &Vec<mnemon_memory_store::index::Scored>)| {
                let exact: HashSet<u32> = exact.iter().map(|s: &mnemon_memory_store::index::Scored| s.entry).collect();
                found.iter().filter(|scored| exact.contains(&scored.entry)).count()
            };
            let recall = exact.iter().zip(&found).map(same).sum::<usize>() as f64 / (400.0 * 32.0);
            let time = median_us(|at| _ = graph.search(row(at), &params(ef)), 400);
            print!("  ef {ef}: {time:.0} us R@32 {recall:.3}");
        }
        println!();
    }
}

fn peak_mib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("unknown").to_owned()
}

fn measure_store(tokens: usize, dim: usize) {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { sealing: Sealing::Manual, seal_threads: 2, ..StoreOptions::default() };
    let open = || {
        let storage = SledStorage::open(folder.path(), SledOptions::default()).unwrap();
        Store::open(Arc::new(storage), options.clone()).unwrap()
    };
    let geometry = KvGeometry {
        layers: vec![4],
        kv_heads: 2,
        head_dim: dim as u32,
        dtype: KvDtype::F16,
        chunk_tokens: 64,
        entry_policy: EntryPolicy::PerToken,
    };
    let spec = MemorySpec {
        fingerprint: Fingerprint([0; 32]),
        geometry,
        model_name: String::new(),
        description: String::new(),
    };
    let store = open();
    let memory = store.create_memory("t", "m", spec).unwrap();
    let mut writer = memory.writer("doc", BTreeMap::new()).unwrap();
    let mut spent = 0.0;
    let text = "word ".repeat(64);
    for index in 0..tokens / 64 {
        let keys = vectors(128, dim, 2.0, 0.7, (1, index as u64));
        let (at, byte) = (index as u64 * 64, index as u64 * 320);
        let chunk = KvChunk {
            span: SourceSpan { byte_start: byte, byte_end: byte + 320, token_start: at, token_end: at + 64 },
            tokens: vec![1; 64],
            text: text.clone(),
            values: vec![keys.clone()],
            keys: vec![keys],
            importance: Vec::new(),
        };
        let start = Instant::now();
        writer.append(chunk).unwrap();
        if index % 16 == 15 {
            writer.commit(ResumePoint::default()).unwrap();
        }
        spent += start.elapsed().as_secs_f64();
    }
    writer.commit(ResumePoint::default()).unwrap();
    println!(
        "{tokens} tokens appended in {spent:.2} s, committed every 1024: {:.0} tokens/s; {}",
        tokens as f64 / spent,
        peak_mib()
    );
    let start = Instant::now();
    store.seal_all().unwrap();
    let info = memory.info();
    println!(
        "sealed in {:.1} s; {} stored bytes a token, {} index bytes a token, {} unsealed; {}",
        start.elapsed().as_secs_f64(),
        info.stored_bytes / info.tokens,
        info.index_bytes / info.tokens,
        memory.unsealed_entries(),
        peak_mib()
    );
    drop((writer, memory, store));
    let start = Instant::now();
    let store = open();
    let snapshot = store.memory("t", "m").unwrap().snapshot().unwrap();
    println!("opened in {:.3} s", start.elapsed().as_secs_f64());
    let queries = vectors(4 * 64, dim, 1.0, 0.7, (1, 77));
    let search = |at: usize, exact: bool, ef: usize| {
        let queries = &queries[at % 64 * 4 * dim..][..4 * dim];
        snapshot.search(&SearchRequest { slot: 0, queries, n_heads: 4, top_k: 32, ef: Some(ef), exact }).unwrap()
    };
    let start = Instant::now();
    search(0, false, 64);
    println!("first search {:.3} s", start.elapsed().as_secs_f64());
    let exact: Vec<_> = (0..64).map(|at| search(at, true, 64)).collect();
    let scan = median_us(|at| _ = search(at, true, 64), 64);
    for ef in [32, 64, 128] {
        let mut same = 0;
        for (at, exact) in exact.iter().enumerate() {
            for (exact, found) in exact.iter().zip(search(at, false, ef)) {
                same += found
                    .iter()
                    .filter(|hit| exact.iter().any(|e| (e.chunk, e.start) == (hit.chunk, hit.start)))
                    .count();
            }
        }
        let time = median_us(|at| _ = search(at, false, ef), 200);
        println!("4 heads, ef {ef}: {time:.0} us, scan {scan:.0} us, R@32 {:.4}", same as f64 / (64.0 * 4.0 * 32.0));
    }
    let hits = &search(0, false, 64)[0];
    let ids: Vec<_> = hits.iter().map(|hit| hit.chunk).collect();
    println!(
        "fetch of {} chunks: {:.0} us, again {:.0} us",
        ids.len(),
        median_us(|_| _ = snapshot.fetch(0, &ids), 1),
        median_us(|_| _ = snapshot.fetch(0, &ids), 20)
    );
    println!("{}", peak_mib());
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (n, dim) = (arguments.first().copied().unwrap_or(65_536), arguments.get(1).copied().unwrap_or(64));
    measure_index(n, dim, KvDtype::F16, 2.0, 16, 128);
    measure_index(n, dim, KvDtype::F16, 2.0, 12, 64);
    measure_store(arguments.get(2).copied().unwrap_or(262_144), dim);
}
