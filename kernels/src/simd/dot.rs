//! Inner products of a few queries with rows of keys, four keys at a time.
//!
//! Every product is summed in one vector, lane by lane, and then over the lanes in one order, whatever stands beside it:
//! equal rows give equal results to the bit.

use super::vector::{Element, Vector};
use crate::data::Data;

/// See [`Isa::dots_few`](super::Isa::dots_few).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn dots_few<V: Vector>(queries: &[f32], dim: usize, keys: Data<'_>, out: &mut [f32], stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match keys {
            Data::F32(keys) => dots_few_of::<V, _>(queries, dim, keys, out, stride),
            Data::F16(keys) => dots_few_of::<V, _>(queries, dim, keys, out, stride),
            Data::Bf16(keys) => dots_few_of::<V, _>(queries, dim, keys, out, stride),
        }
    }
}

#[inline(always)]
unsafe fn dots_few_of<V: Vector, E: Element>(queries: &[f32], dim: usize, keys: &[E], out: &mut [f32], stride: usize) {
    let n_rows = queries.len() / dim;
    let n_keys = keys.len() / dim;
    assert!(n_keys <= stride && out.len() >= n_rows * stride);
    let mut row = 0;
    // SAFETY: row blocks lie within `n_rows`, so within `queries` and `out`; features as promised by the caller.
    unsafe {
        while row < n_rows {
            let rest = (n_rows - row).min(V::MAX_QUERIES);
            let queries = queries.as_ptr().add(row * dim);
            let out = out.as_mut_ptr().add(row * stride);
            match rest {
                1 => dots_of_rows::<V, E, 1>(queries, dim, keys, out, stride),
                2 => dots_of_rows::<V, E, 2>(queries, dim, keys, out, stride),
                3 => dots_of_rows::<V, E, 3>(queries, dim, keys, out, stride),
                _ => dots_of_rows::<V, E, 4>(queries, dim, keys, out, stride),
            }
            row += rest.min(4);
        }
    }
}

/// `M` queries, all keys.
///
/// # Safety
/// `queries` is valid for `[M, dim]` and `out` for `[M, stride]`; the caller has enabled the features of `V`.
#[inline(always)]
unsafe fn dots_of_rows<V: Vector, E: Element, const M: usize>(
    queries: *const f32,
    dim: usize,
    keys: &[E],
    out: *mut f32,
    stride: usize,
) {
    /// Keys between the one asked for and the one in use. Left to itself, the processor stops at each page: with keys
    /// beyond its caches, asking halves the time (measured), with keys inside it costs a tenth.
    const AHEAD: usize = 16;
    let n_keys = keys.len() / dim;
    for first in (0..n_keys).step_by(4) {
        // SAFETY: rows `first..first + 4`, limited to the last one, lie within `keys`; the rest is the caller's promise.
        unsafe {
            prefetch(keys, (first + AHEAD) * dim, 4 * dim);
            let rows = std::array::from_fn(|i| keys.as_ptr().add((first + i).min(n_keys - 1) * dim));
            let products = four_keys::<V, E, M>(queries, dim, rows);
            let n = (n_keys - first).min(4);
            for (m, of_query) in products.iter().enumerate() {
                let out = out.add(m * stride + first);
                if n == 4 {
                    out.cast::<[f32; 4]>().write_unaligned(*of_query);
                } else {
                    std::ptr::copy_nonoverlapping(of_query.as_ptr(), out, n);
                }
            }
        }
    }
}

/// See [`Isa::dot_row`](super::Isa::dot_row).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn dot_row<V: Vector>(query: &[f32], keys: Data<'_>, row: usize) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        match keys {
            Data::F32(keys) => dot_row_of::<V, _>(query, keys, row),
            Data::F16(keys) => dot_row_of::<V, _>(query, keys, row),
            Data::Bf16(keys) => dot_row_of::<V, _>(query, keys, row),
        }
    }
}

#[inline(always)]
unsafe fn dot_row_of<V: Vector, E: Element>(query: &[f32], keys: &[E], row: usize) -> f32 {
    let dim = query.len();
    let key = &keys[row * dim..(row + 1) * dim];
    let whole = dim - dim % V::LANES;
    // SAFETY: vectors start below `whole`, within both slices; features as promised by the caller.
    unsafe {
        let mut sum = V::splat(0.0);
        for d in (0..whole).step_by(V::LANES) {
            sum = E::load::<V>(key.as_ptr().add(d)).mul_add(V::load(query.as_ptr().add(d)), sum);
        }
        let mut total = sum.sum();
        for d in whole..dim {
            total += query[d] * key[d].widen();
        }
        total
    }
}

/// See [`Isa::dot_rows`](super::Isa::dot_rows).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn dot_rows<V: Vector>(query: &[f32], keys: Data<'_>, rows: &[u32], out: &mut Vec<f32>) {
    // SAFETY: the caller's promise.
    unsafe {
        match keys {
            Data::F32(keys) => dot_rows_of::<V, _>(query, keys, rows, out),
            Data::F16(keys) => dot_rows_of::<V, _>(query, keys, rows, out),
            Data::Bf16(keys) => dot_rows_of::<V, _>(query, keys, rows, out),
        }
    }
}

#[inline(always)]
unsafe fn dot_rows_of<V: Vector, E: Element>(query: &[f32], keys: &[E], rows: &[u32], out: &mut Vec<f32>) {
    /// Rows whose cache lines are asked for before the first one is read: they arrive together instead of in turn.
    const AHEAD: usize = 8;
    let dim = query.len();
    let n_keys = keys.len().checked_div(dim).unwrap_or(0);
    out.reserve(rows.len());
    for row in rows.iter().take(AHEAD) {
        prefetch(keys, (*row as usize).wrapping_mul(dim), dim);
    }
    for (index, four) in rows.chunks(4).enumerate() {
        for row in rows.iter().skip(index * 4 + AHEAD).take(4) {
            prefetch(keys, (*row as usize).wrapping_mul(dim), dim);
        }
        if four.iter().any(|&row| row as usize >= n_keys) {
            for &row in four {
                let known = (row as usize) < n_keys;
                // SAFETY: features as promised by the caller.
                out.push(if known { unsafe { dot_row_of::<V, E>(query, keys, row as usize) } } else { f32::NAN });
            }
            continue;
        }
        // SAFETY: each row is below `n_keys`, so `dim` values of `keys` follow; features as promised by the caller.
        unsafe {
            let starts = std::array::from_fn(|i| keys.as_ptr().add(four[i.min(four.len() - 1)] as usize * dim));
            let [products] = four_keys::<V, E, 1>(query.as_ptr(), dim, starts);
            out.extend_from_slice(&products[..four.len()]);
        }
    }
}

/// Asks for the cache lines of `n` values from `start` on; no harm is done where there are none.
#[inline(always)]
pub(super) fn prefetch<E>(values: &[E], start: usize, n: usize) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..n * size_of::<E>()).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let address = values.as_ptr().wrapping_add(start).cast::<i8>().wrapping_add(offset);
        // SAFETY: every x86-64 processor has the instruction; it is a hint that takes any address and reads nothing as
        // far as the program can tell.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, start, n);
}

/// Products of `M` queries with four keys: one register block.
///
/// # Safety
/// `queries` is valid for `[M, dim]` and each of `rows` for `[dim]`; the caller has enabled the features of `V`.
#[inline(always)]
unsafe fn four_keys<V: Vector, E: Element, const M: usize>(
    queries: *const f32,
    dim: usize,
    rows: [*const E; 4],
) -> [[f32; 4]; M] {
    let whole = dim - dim % V::LANES;
    // SAFETY: vectors start below `whole`, single values below `dim`; the rest is the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); 4]; M];
        for d in (0..whole).step_by(V::LANES) {
            let mut keys = [V::splat(0.0); 4];
            for n in 0..4 {
                keys[n] = E::load::<V>(rows[n].add(d));
            }
            for m in 0..M {
                let query = V::load(queries.add(m * dim + d));
                for n in 0..4 {
                    sums[m][n] = keys[n].mul_add(query, sums[m][n]);
                }
            }
        }
        let mut products = [[0.0; 4]; M];
        for m in 0..M {
            products[m] = V::sum4(sums[m]);
            for d in whole..dim {
                for n in 0..4 {
                    products[m][n] += *queries.add(m * dim + d) * (*rows[n].add(d)).widen();
                }
            }
        }
        products
    }
}
