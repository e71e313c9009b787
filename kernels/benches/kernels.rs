//! Ratios of things run side by side, and the machine's ceilings: `cargo bench -p mnemon-kernels [-- attention|top-k|graph]`.
//!
//! Each line gives the best of several runs. Nothing is asserted; cargo's test mode runs nothing.

// Printed tables and unwrapped arguments are what a bench is for.
#![allow(clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::f16;
use mnemon_kernels::{
    AttentionShape, Data, Dot, Isa, LogitRule, Mask, Segment, attention_with, reference, top_k_inner_product_with,
};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        println!("nothing is measured without --bench");
        return;
    }
    let wanted = |name: &str| {
        let mut names = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
        names.peek().is_none() || names.any(|arg| arg == name)
    };
    let bandwidth = ceilings();
    if wanted("attention") {
        attention_benches(bandwidth);
    }
    if wanted("top-k") {
        top_k_benches(bandwidth);
    }
    if wanted("graph") {
        graph_benches();
    }
}

/// Best of runs that take at least 0.3 s together.
fn best(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(300) {
        let run_start = Instant::now();
        run();
        best = best.min(run_start.elapsed());
    }
    best
}

fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&x| f16::from_f32(x)).collect()
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Bytes read per second by all threads together, from memory.
fn ceilings() -> f64 {
    use rayon::prelude::*;
    let memory = vec![1_u64; 32 << 20];
    let part = memory.len() / rayon::current_num_threads();
    let time = best(|| {
        black_box(memory.par_chunks(part).map(|part| part.iter().fold(0_u64, |a, &b| a.wrapping_add(b))).sum::<u64>());
    });
    let bandwidth = size_of_val(&memory[..]) as f64 / time.as_secs_f64();
    println!("{} threads, reading memory at {:.1} GB/s\n", rayon::current_num_threads(), bandwidth / 1e9);
    bandwidth
}

struct Setting {
    name: &'static str,
    shape: AttentionShape,
    segments: usize,
    len: usize,
    causal: bool,
}

fn attention_benches(bandwidth: f64) {
    let heads = |n_queries, n_heads, n_kv_heads, head_dim| AttentionShape { n_queries, n_heads, n_kv_heads, head_dim };
    let shapes = [
        Setting { name: "prefill 512, causal", shape: heads(512, 9, 3, 64), segments: 1, len: 512, causal: true },
        Setting { name: "prefill 64 x 4096", shape: heads(64, 9, 3, 64), segments: 1, len: 4096, causal: false },
        Setting { name: "prefill 256, 32 chunks", shape: heads(256, 9, 3, 64), segments: 32, len: 64, causal: false },
        Setting { name: "prefill 256, d 128", shape: heads(256, 8, 2, 128), segments: 1, len: 1024, causal: false },
        Setting { name: "decode, 1 chunk", shape: heads(1, 9, 3, 64), segments: 1, len: 64, causal: false },
        Setting { name: "decode, 8 chunks", shape: heads(1, 9, 3, 64), segments: 8, len: 64, causal: false },
        Setting { name: "decode, 32 chunks", shape: heads(1, 9, 3, 64), segments: 32, len: 64, causal: false },
        Setting { name: "decode, 4096 keys", shape: heads(1, 9, 3, 64), segments: 1, len: 4096, causal: false },
        Setting { name: "decode, 64 chunks, 1 head", shape: heads(1, 1, 1, 64), segments: 64, len: 64, causal: false },
        Setting {
            name: "decode, 32 k keys, d 128",
            shape: heads(1, 32, 8, 128),
            segments: 8,
            len: 4096,
            causal: false,
        },
        Setting { name: "decode 4, 32 chunks", shape: heads(4, 9, 3, 64), segments: 32, len: 64, causal: false },
        Setting { name: "decode 8, 32 chunks", shape: heads(8, 9, 3, 64), segments: 32, len: 64, causal: false },
    ];
    println!(
        "{:26} {:5} {:>9} {:>10} {:>8} {:>8} {:>9}",
        "attention", "", "us", "x f64", "GFLOP/s", "GB/s", "of memory"
    );
    for Setting { name, shape, segments, len, causal } in shapes {
        let AttentionShape { n_queries, n_heads, n_kv_heads, head_dim } = shape;
        let queries = numbers(1, n_heads * n_queries * head_dim);
        let n = n_kv_heads * len * head_dim;
        let (keys, values) = (numbers(2, segments * n), numbers(3, segments * n));
        let (keys_half, values_half) = (halves(&keys), halves(&values));
        let scale = vec![0.125; n_heads];
        let mask = if causal { Mask::Causal { first_key: 0, first_query: 0, window: None } } else { Mask::All };
        let logits = LogitRule { scale: &scale, bias: None, slope: None };
        let of = |i: usize| i * n..(i + 1) * n;
        let single: Vec<Segment<'_>> = (0..segments)
            .map(|i| {
                let (keys, values) = (Data::F32(&keys[of(i)]), Data::F32(&values[of(i)]));
                Segment { queries: &queries, keys, values, len, mask, logits }
            })
            .collect();
        let half: Vec<Segment<'_>> = (0..segments)
            .map(|i| Segment {
                keys: Data::F16(&keys_half[of(i)]),
                values: Data::F16(&values_half[of(i)]),
                ..single[i]
            })
            .collect();
        let start = Instant::now();
        black_box(reference::attention(shape, &single).expect("valid"));
        let plain = start.elapsed();
        for isa in Isa::available() {
            for (dtype, bytes, segments) in [("f32", 4, &single), ("f16", 2, &half)] {
                let time = best(|| {
                    black_box(attention_with(isa, shape, segments).expect("valid"));
                });
                let visible = if causal { 0.5 } else { 1.0 };
                let flops = 4.0 * (n_heads * n_queries * head_dim * len * segments.len()) as f64 * visible;
                let rate = (2 * n * segments.len() * bytes) as f64 / time.as_secs_f64();
                println!(
                    "{name:26} {dtype:5} {:9.1} {:10.1} {:8.1} {:8.1} {:8.0}% {}",
                    us(time),
                    plain.as_secs_f64() / time.as_secs_f64(),
                    flops / time.as_secs_f64() / 1e9,
                    rate / 1e9,
                    100.0 * rate / bandwidth,
                    isa.name()
                );
            }
        }
    }
}

fn top_k_benches(bandwidth: f64) {
    println!(
        "\n{:26} {:5} {:>9} {:>10} {:>8} {:>8} {:>9}",
        "top 32 of 100k", "", "us", "x f64", "GFLOP/s", "GB/s", "of memory"
    );
    let n_keys = 100_000;
    for (n_queries, dim) in [(1, 64), (4, 64), (8, 64), (16, 64), (64, 64), (1, 128), (64, 128)] {
        let (queries, keys) = (numbers(1, n_queries * dim), numbers(2, n_keys * dim));
        let keys_half = halves(&keys);
        let start = Instant::now();
        black_box(reference::top_k_inner_product(&queries, dim, Data::F32(&keys), 32, None).expect("valid"));
        let plain = start.elapsed();
        for isa in Isa::available() {
            for (dtype, data, bytes) in [("f32", Data::F32(&keys), 4), ("f16", Data::F16(&keys_half), 2)] {
                let time = best(|| {
                    black_box(top_k_inner_product_with(isa, &queries, dim, data, 32, None).expect("valid"));
                });
                let rate = (n_keys * dim * bytes) as f64 / time.as_secs_f64();
                println!(
                    "{:26} {dtype:5} {:9.1} {:10.1} {:8.1} {:8.1} {:8.0}% {}",
                    format!("{n_queries} queries, d {dim}"),
                    us(time),
                    plain.as_secs_f64() / time.as_secs_f64(),
                    2.0 * (n_keys * dim * n_queries) as f64 / time.as_secs_f64() / 1e9,
                    rate / 1e9,
                    100.0 * rate / bandwidth,
                    isa.name()
                );
            }
        }
    }
}

fn graph_benches() {
    println!("\n{:26} {:5} {:>10} {:>9}", "ns per row, of 500k, random", "", "one by one", "together");
    let n_keys = 500_000;
    for dim in [64, 128] {
        let (query, keys) = (numbers(1, dim), numbers(2, n_keys * dim));
        let keys_half = halves(&keys);
        let mut rows: Vec<u32> = (0..n_keys as u32).collect();
        rows.shuffle(&mut ChaCha8Rng::seed_from_u64(3));
        for isa in Isa::available() {
            let products = Dot::with(isa);
            for (dtype, data) in [("f32", Data::F32(&keys)), ("f16", Data::F16(&keys_half))] {
                let single = best(|| {
                    for &row in &rows[..200_000] {
                        black_box(products.dot_data(&query, data, black_box(row) as usize));
                    }
                });
                let mut out = Vec::new();
                let together = best(|| {
                    for rows in rows[..200_000].chunks(32) {
                        out.clear();
                        products.dots(&query, data, rows, &mut out);
                        black_box(&out);
                    }
                });
                let per_row = |time: Duration| time.as_secs_f64() * 1e9 / 200_000.0;
                println!(
                    "{:26} {dtype:5} {:10.1} {:9.1} {}",
                    format!("d {dim}"),
                    per_row(single),
                    per_row(together),
                    isa.name()
                );
            }
        }
    }
}
