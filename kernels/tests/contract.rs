//! What every implementation of attention (listed in `common::IMPLEMENTATIONS`) owes its callers, checked against the
//! f64 reference.

// A test says by panicking that it failed, and some results have to be exact.
#![allow(clippy::expect_used, clippy::float_cmp)]

mod common;

use common::{Case, Part, Storage, assert_agrees, for_each_implementation};
use mnemon_kernels::Mask;
use proptest::prelude::*;

#[test]
fn every_head_size_group_and_type() {
    for head_dim in [1, 7, 32, 64, 80, 128] {
        for (n_heads, n_kv_heads) in [(1, 1), (3, 3), (6, 2), (9, 3), (8, 1), (20, 1)] {
            for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
                for n_queries in [1, 5, 33] {
                    let parts = vec![Part::plain(70), Part::plain(64), Part::plain(3)];
                    let case = Case { n_queries, n_heads, n_kv_heads, head_dim, storage, ..Case::new(parts) };
                    assert_agrees(&case);
                }
            }
        }
    }
}

#[test]
fn one_token_and_nothing_else() {
    assert_agrees(&Case { n_queries: 1, n_heads: 1, n_kv_heads: 1, ..Case::new(vec![Part::plain(1)]) });
}

#[test]
fn causal_masks_with_and_without_window() {
    for window in [None, Some(0), Some(1), Some(17), Some(64), Some(1000)] {
        for (n_queries, first_query, first_key, len) in
            [(100, 0, 0, 100), (64, 100, 0, 164), (50, 30, 90, 200), (1, 300, 0, 301), (130, 7, 3, 65), (5, 0, 50, 10)]
        {
            for (n_heads, n_kv_heads) in [(2, 2), (6, 2)] {
                let mask = Mask::Causal { first_key, first_query, window };
                let parts = vec![Part { mask, ..Part::plain(len) }, Part::plain(10)];
                assert_agrees(&Case { n_queries, n_heads, n_kv_heads, ..Case::new(parts.clone()) });
                assert_agrees(&Case { n_queries, n_heads, n_kv_heads, ..Case::new(parts[..1].to_vec()) });
            }
        }
    }
}

#[test]
fn positions_at_the_end_of_the_integers() {
    let mask = Mask::Causal { first_key: usize::MAX - 5, first_query: usize::MAX - 3, window: Some(usize::MAX) };
    assert_agrees(&Case::new(vec![Part { mask, ..Part::plain(6) }, Part::plain(2)]));
}

#[test]
fn empty_segments_count_for_nothing() {
    assert_agrees(&Case::new(vec![]));
    assert_agrees(&Case::new(vec![Part::plain(0)]));
    assert_agrees(&Case::new(vec![Part::plain(0), Part::plain(9), Part::plain(0)]));
    assert_agrees(&Case { n_queries: 0, ..Case::new(vec![Part::plain(9)]) });
}

#[test]
fn what_sees_nothing_is_zero() {
    let future = Mask::Causal { first_key: 1000, first_query: 0, window: None };
    for n_queries in [1, 40] {
        let case = Case { n_queries, ..Case::new(vec![Part { mask: future, ..Part::plain(80) }]) };
        assert_agrees(&case);
        for_each_implementation(&case, |name, output| {
            assert!(output.context.iter().all(|&x| x == 0.0), "{name}");
            assert!(output.lse.iter().chain(&output.segment_lse).all(|&x| x == f32::NEG_INFINITY), "{name}");
        });
        let silenced = Part { bias: Some(f32::NEG_INFINITY), ..Part::plain(80) };
        assert_agrees(&Case { n_queries, ..Case::new(vec![silenced.clone()]) });
        assert_agrees(&Case { n_queries, ..Case::new(vec![silenced, Part::plain(3)]) });
    }
}

#[test]
fn many_segments_in_one_softmax() {
    for n_queries in [1, 4, 70] {
        for storage in [Storage::F32, Storage::F16] {
            let parts = (0..60).map(|i| Part { seed_of_queries: i / 20, ..Part::plain(64 - i as usize % 3) }).collect();
            assert_agrees(&Case { n_queries, storage, ..Case::new(parts) });
        }
    }
}

#[test]
fn any_number_of_threads() {
    let lens = [300, 1, 0, 64, 64, 500, 2, 64, 64, 200];
    for threads in [1, 2, 7, 40] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            for (n_queries, n_heads, n_kv_heads) in [(1, 8, 1), (70, 1, 1), (9, 6, 3)] {
                let parts = lens.map(|len| Part { bias: Some(len as f32 / 100.0), ..Part::plain(len) }).to_vec();
                assert_agrees(&Case { n_queries, n_heads, n_kv_heads, head_dim: 128, ..Case::new(parts) });
            }
        });
    }
}

#[test]
fn biases_and_scales_of_each_segment() {
    for n_queries in [1, 20] {
        let parts = vec![
            Part { scale: 0.5, bias: Some(3.0), ..Part::plain(65) },
            Part { scale: 0.01, bias: Some(-4.0), ..Part::plain(64) },
            Part { scale: -0.1, bias: None, ..Part::plain(31) },
            Part { scale: 0.0, bias: Some(1.0), ..Part::plain(5) },
        ];
        assert_agrees(&Case { n_queries, ..Case::new(parts) });
    }
}

#[test]
fn slopes_lower_what_is_far() {
    for (n_queries, first_query, first_key) in [(1, 130, 0), (1, 5, 9), (40, 90, 3), (100, 0, 0)] {
        for window in [None, Some(50)] {
            let mask = Mask::Causal { first_key, first_query, window };
            let near = Part { mask, slope: Some(0.25), ..Part::plain(130) };
            let positionless = Part { slope: Some(9.0), ..Part::plain(20) };
            assert_agrees(&Case { n_queries, ..Case::new(vec![near.clone()]) });
            assert_agrees(&Case { n_queries, ..Case::new(vec![positionless, near, Part::plain(7)]) });
        }
    }
}

#[test]
fn extreme_logits() {
    for n_queries in [1, 20] {
        for (scale, bias) in [(0.1, 1e4), (0.1, -1e4), (1e3, 0.0), (1e3, 1e4)] {
            let extreme = Part { scale, bias: Some(bias), ..Part::plain(100) };
            assert_agrees(&Case { n_queries, ..Case::new(vec![extreme.clone()]) });
            assert_agrees(&Case { n_queries, ..Case::new(vec![Part::plain(64), extreme.clone(), Part::plain(5)]) });
            let opposite = Part { bias: Some(-bias), ..extreme.clone() };
            assert_agrees(&Case { n_queries, ..Case::new(vec![opposite, extreme]) });
        }
    }
}

#[test]
fn a_nan_reaches_the_queries_that_see_it_and_no_other_head() {
    for n_queries in [1, 20] {
        let case =
            Case { n_queries, n_heads: 2, n_kv_heads: 2, nan_in_last_head: true, ..Case::new(vec![Part::plain(70)]) };
        for_each_implementation(&case, |name, output| {
            let (first, last) = output.context.split_at(output.context.len() / 2);
            assert!(first.iter().all(|x| x.is_finite()), "{name}");
            assert!(last.iter().all(|x| x.is_nan()), "{name}");
            let (first, last) = output.lse.split_at(output.lse.len() / 2);
            assert!(first.iter().all(|x| x.is_finite()) && last.iter().all(|x| x.is_nan()), "{name}");
        });
    }
}

#[test]
fn segments_are_one_attention_over_their_concatenation() {
    for n_queries in [1, 6, 50] {
        let lens = [64, 1, 130, 64, 7];
        let case = Case { n_queries, ..Case::new(lens.map(Part::plain).to_vec()) };
        common::assert_segments_equal_concatenation(&case);
    }
}

fn part() -> impl Strategy<Value = Part> {
    let mask = prop_oneof![
        Just(Mask::All),
        (0..150_usize, 0..150_usize, proptest::option::of(0..100_usize))
            .prop_map(|(first_key, first_query, window)| Mask::Causal { first_key, first_query, window }),
    ];
    let (bias, slope) = (proptest::option::of(-20.0..20.0_f32), proptest::option::of(0.0..1.0_f32));
    (0..150_usize, mask, -1.0..1.0_f32, bias, slope, 0..2_u64).prop_map(
        |(len, mask, scale, bias, slope, seed_of_queries)| Part { len, mask, scale, bias, slope, seed_of_queries },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_shapes(
        parts in proptest::collection::vec(part(), 0..5),
        n_queries in 1..80_usize,
        group in 1..6_usize,
        n_kv_heads in 1..4_usize,
        head_dim in 1..100_usize,
        storage in prop_oneof![Just(Storage::F32), Just(Storage::F16), Just(Storage::Bf16)],
    ) {
        let n_heads = group * n_kv_heads;
        assert_agrees(&Case { n_queries, n_heads, n_kv_heads, head_dim, storage, ..Case::new(parts) });
    }
}
