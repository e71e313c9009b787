//! Every instruction set gives the same integers, those of plain arithmetic.

#![allow(clippy::unwrap_used)]

use mnemon_kernels::CodeDot;
use proptest::prelude::*;

fn case() -> impl Strategy<Value = (usize, Vec<i16>, Vec<u8>)> {
    (1_usize..200, 1_usize..6, 0_usize..40).prop_flat_map(|(dim, n_queries, n)| {
        let limit = CodeDot::query_limit(dim);
        let queries = prop::collection::vec(-limit..=limit, n_queries * dim);
        (Just(dim), queries, prop::collection::vec(any::<u8>(), n * dim))
    })
}

fn product(query: &[i16], codes: &[u8]) -> i32 {
    let sum: i64 = query.iter().zip(codes).map(|(&q, &c)| i64::from(q) * i64::from(c)).sum();
    i32::try_from(sum).unwrap()
}

proptest! {
    #[test]
    fn all_levels_agree((dim, queries, codes) in case()) {
        let n = codes.len() / dim;
        let expected: Vec<i32> =
            queries.chunks_exact(dim).flat_map(|query| codes.chunks_exact(dim).map(|row| product(query, row))).collect();
        for level in CodeDot::available() {
            let mut tile = vec![0; expected.len()];
            level.tile(&queries, dim, &codes, &mut tile);
            prop_assert_eq!(&tile, &expected, "{:?}", level);
            let rows: Vec<u32> = (0..n as u32).rev().chain([n as u32, u32::MAX]).collect();
            let mut out = Vec::new();
            level.rows(&queries[..dim], &codes, &rows, &mut out);
            let mut wanted: Vec<i32> = expected[..n].iter().rev().copied().collect();
            wanted.extend([i32::MIN; 2]);
            prop_assert_eq!(out, wanted, "{:?}", level);
        }
    }
}

#[test]
fn the_limit_of_queries_leaves_no_overflow() {
    for dim in [1, 64, 128, 257, 258, 4096] {
        let limit = CodeDot::query_limit(dim);
        let (query, codes) = (vec![limit; dim], vec![255; dim]);
        let expected = 255 * i32::from(limit) * dim as i32;
        for level in CodeDot::available() {
            let mut out = [0];
            level.tile(&query, dim, &codes, &mut out);
            assert_eq!(out, [expected], "{level:?} {dim}");
        }
    }
}
