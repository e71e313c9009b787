//! Search against the reference, and single products against search.

// A test says by panicking that it failed, and some results have to be exact.
#![allow(clippy::expect_used, clippy::float_cmp)]

use half::{bf16, f16};
use mnemon_kernels::{Data, Dot, Error, Isa, dot, dot_data, reference, top_k_inner_product, top_k_inner_product_with};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

type Skip<'a> = Option<&'a (dyn Fn(usize) -> bool + Sync)>;

/// Small integers: every product and sum is exact in f32 (and in bf16 and f16), so results must be equal, ties included.
fn integers(seed: u64, n: usize, largest: i32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-largest..=largest) as f32).collect()
}

fn assert_agrees(queries: &[f32], dim: usize, keys: &[f32], k: usize, skip: Skip<'_>) {
    let half: Vec<f16> = keys.iter().map(|&x| f16::from_f32(x)).collect();
    let brain: Vec<bf16> = keys.iter().map(|&x| bf16::from_f32(x)).collect();
    for data in [Data::F32(keys), Data::F16(&half), Data::Bf16(&brain)] {
        let expected = reference::top_k_inner_product(queries, dim, data, k, skip).expect("a valid search");
        for isa in Isa::available() {
            let found = top_k_inner_product_with(isa, queries, dim, data, k, skip).expect("a valid search");
            assert_eq!(found, expected, "{isa:?}, {} queries, {dim} dims, k {k}", queries.len() / dim);
        }
    }
}

#[test]
fn agrees_with_sorting_everything() {
    // Few and many queries, one and several threads' worth of keys, more asked for than there are.
    for (n_queries, dim, n_keys, k) in [
        (1, 64, 5000, 10),
        (3, 33, 1000, 7),
        (8, 32, 65, 64),
        (9, 80, 3000, 32),
        (130, 16, 700, 3),
        (1, 128, 20_001, 100),
        (2, 1, 10, 50),
        (70, 5, 1, 1),
        (4, 8, 0, 5),
        (0, 8, 100, 5),
    ] {
        let (queries, keys) = (integers(1, n_queries * dim, 3), integers(2, n_keys * dim, 3));
        assert_agrees(&queries, dim, &keys, k, None);
        assert_agrees(&queries, dim, &keys, k, Some(&|key| key % 3 == 1));
        assert_agrees(&queries, dim, &keys, k, Some(&|_| true));
    }
}

#[test]
fn any_number_of_threads() {
    let (queries, keys) = (integers(1, 10 * 64, 3), integers(2, 3001 * 64, 3));
    for threads in [1, 2, 7, 100] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| assert_agrees(&queries, 64, &keys, 20, None));
    }
}

#[test]
fn equal_keys_come_in_order_even_when_products_are_rounded() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let dim = 96;
    let row: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
    let keys = row.repeat(50_000);
    for n_queries in [1, 5, 20] {
        let queries: Vec<f32> = (0..n_queries * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        for isa in Isa::available() {
            for found in top_k_inner_product_with(isa, &queries, dim, Data::F32(&keys), 9, None).expect("valid") {
                assert_eq!(found.iter().map(|f| f.1).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>(), "{isa:?}");
            }
        }
    }
}

#[test]
fn nan_is_never_returned() {
    let dim = 32;
    let mut keys = integers(5, 200 * dim, 2);
    for key in (0..200).step_by(2) {
        keys[key * dim + 7] = f32::NAN;
    }
    for n_queries in [1, 12] {
        let queries = integers(6, n_queries * dim, 2);
        for isa in Isa::available() {
            for found in top_k_inner_product_with(isa, &queries, dim, Data::F32(&keys), 150, None).expect("valid") {
                assert_eq!(found.len(), 100);
                assert!(found.iter().all(|f| f.0.is_finite() && f.1 % 2 == 1), "{isa:?}");
            }
        }
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let values = [0.0; 12];
    let search = |queries, dim, k| top_k_inner_product(queries, dim, Data::F32(&values), k, None);
    assert!(matches!(search(&values, 0, 1), Err(Error::Shape(message)) if message.contains("dim is 0")));
    assert!(matches!(search(&values, 4, 0), Err(Error::Shape(message)) if message.contains("at least one")));
    assert!(matches!(search(&values[..10], 4, 1), Err(Error::Size { what: "queries", .. })));
    assert!(matches!(search(&values[..10], 5, 1), Err(Error::Size { what: "keys", .. })));
    assert!(search(&values, 4, usize::MAX).is_ok_and(|found| found[0].len() == 3));
}

#[test]
fn single_products_agree_to_the_bit_and_missing_rows_are_nan() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for dim in [1, 16, 33, 64, 100, 128] {
        let query: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let keys: Vec<f32> = (0..dim * 30).map(|_| rng.random_range(-1.0..1.0)).collect();
        let half: Vec<f16> = keys.iter().map(|&x| f16::from_f32(x)).collect();
        for isa in Isa::available() {
            let products = Dot::with(isa);
            for data in [Data::F32(&keys), Data::F16(&half)] {
                let rows = [3, 29, 0, 3, 30, 17, 1, 2, 4, 8, u32::MAX, 16, 5, 6, 7];
                let mut out = vec![1.5];
                products.dots(&query, data, &rows, &mut out);
                assert_eq!(out.len(), 1 + rows.len());
                assert_eq!(out[0].to_bits(), 1.5_f32.to_bits(), "what was there stays");
                for (&row, product) in rows.iter().zip(&out[1..]) {
                    let single = products.dot_data(&query, data, row as usize);
                    assert_eq!(single.to_bits(), product.to_bits(), "{isa:?}, dim {dim}, row {row}");
                    assert_eq!(single.is_nan(), row >= 30);
                }
            }
            for row in keys.chunks_exact(dim) {
                let exact: f64 = query.iter().zip(row).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                assert!((f64::from(products.dot(&query, row)) - exact).abs() < 1e-6 * dim as f64, "{isa:?}, dim {dim}");
            }
        }
        assert_eq!(dot(&query, &keys[..dim]).to_bits(), dot_data(&query, Data::F32(&keys), 0).to_bits());
    }
    assert!(dot(&[1.0], &[1.0, 2.0]).is_nan());
    assert!(dot_data(&[], Data::F32(&[]), 0).is_nan());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_searches(
        n_queries in 0..40_usize, dim in 1..70_usize, n_keys in 0..400_usize, k in 1..60_usize, seed: u64, modulus in 1..5_usize,
    ) {
        let (queries, keys) = (integers(seed, n_queries * dim, 1), integers(!seed, n_keys * dim, 1));
        assert_agrees(&queries, dim, &keys, k, Some(&|key| modulus > 1 && key % modulus == 0));
    }
}
