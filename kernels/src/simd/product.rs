//! Matrix products of one tile, in register blocks: rows of the left factor are broadcast, rows of the right one loaded.

use super::vector::{Element, Vector};
use crate::data::Data;

/// See [`Isa::widen`](super::Isa::widen).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn widen<V: Vector>(from: Data<'_>, to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match from {
            Data::F32(from) => to.copy_from_slice(from),
            Data::F16(from) => widen_all::<V, _>(from, to),
            Data::Bf16(from) => widen_all::<V, _>(from, to),
        }
    }
}

#[inline(always)]
unsafe fn widen_all<V: Vector, E: Element>(from: &[E], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let whole = from.len() - from.len() % V::LANES;
    for start in (0..whole).step_by(V::LANES) {
        // SAFETY: `start + LANES <= whole`, within both slices; features as promised by the caller.
        unsafe { E::load::<V>(from.as_ptr().add(start)).store(to.as_mut_ptr().add(start)) };
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = from.widen();
    }
}

/// See [`Isa::scores`](super::Isa::scores).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn scores<V: Vector>(keys: &[f32], dim: usize, queries: &[f32], n_rows: usize, out: &mut [f32]) {
    let n_keys = keys.len() / dim;
    assert!(n_rows.is_multiple_of(V::LANES) && queries.len() >= dim * n_rows && out.len() >= n_keys * n_rows);
    let left = Left { start: keys.as_ptr(), rows: n_keys, row_step: dim, column_step: 1 };
    // SAFETY: `left` spans `n_keys * dim` values of `keys`, the right factor `dim * n_rows` of `queries` and the product
    // `n_keys * n_rows` of `out`, all checked above; features as promised by the caller.
    unsafe { multiply::<V, f32>(left, dim, queries.as_ptr(), n_rows, n_rows, None, out.as_mut_ptr()) };
}

/// See [`Isa::weigh`](super::Isa::weigh).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn weigh<V: Vector>(
    weights: &[f32],
    n_rows: usize,
    values: &[f32],
    dim: usize,
    decay: &[f32],
    out: &mut [f32],
) {
    let n_keys = values.len() / dim;
    assert!(weights.len() >= n_keys * n_rows && decay.len() >= n_rows && out.len() >= n_rows * dim);
    let left = Left { start: weights.as_ptr(), rows: n_rows, row_step: 1, column_step: n_rows };
    // SAFETY: `left` spans `n_keys * n_rows` values of `weights`, the right factor `n_keys * dim` of `values`, the product
    // `n_rows * dim` of `out`, all checked above as is `decay`; features as promised by the caller.
    unsafe {
        multiply::<V, f32>(left, n_keys, values.as_ptr(), dim, dim, Some(decay.as_ptr()), out.as_mut_ptr());
    }
}

/// See [`Isa::weigh_few`](super::Isa::weigh_few).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn weigh_few<V: Vector>(
    weights: &[f32],
    stride: usize,
    values: Data<'_>,
    dim: usize,
    decay: &[f32],
    out: &mut [f32],
) {
    let n_rows = decay.len();
    let n_keys = values.len() / dim;
    assert!(n_keys <= stride && weights.len() >= n_rows * stride && out.len() >= n_rows * dim);
    let left = Left { start: weights.as_ptr(), rows: n_rows, row_step: stride, column_step: 1 };
    let (decay, out) = (Some(decay.as_ptr()), out.as_mut_ptr());
    // SAFETY: `left` lies within `n_rows * stride` values of `weights`, the right factor spans `n_keys * dim` of `values`,
    // the product `n_rows * dim` of `out`, all checked above; features as promised by the caller.
    unsafe {
        match values {
            Data::F32(values) => multiply::<V, _>(left, n_keys, values.as_ptr(), dim, dim, decay, out),
            Data::F16(values) => multiply::<V, _>(left, n_keys, values.as_ptr(), dim, dim, decay, out),
            Data::Bf16(values) => multiply::<V, _>(left, n_keys, values.as_ptr(), dim, dim, decay, out),
        }
    }
}

/// The left factor of a product: `rows` rows, strided in both directions.
#[derive(Clone, Copy)]
struct Left {
    start: *const f32,
    rows: usize,
    row_step: usize,
    column_step: usize,
}

impl Left {
    /// # Safety
    /// `row <= self.rows`.
    #[inline(always)]
    unsafe fn rows_from(self, row: usize, rows: usize) -> Self {
        // SAFETY: the caller's promise keeps the pointer within, or one past, what `self` spans.
        Self { start: unsafe { self.start.add(row * self.row_step) }, rows, ..self }
    }
}

/// `out = left * right`, plus `decay * out` row by row if there is a decay; `right` is `[depth, columns]`, its rows
/// `stride` apart as are those of `out`.
///
/// # Safety
/// The factors and `out` are valid for their shapes; the caller has enabled the features of `V`.
#[inline(always)]
unsafe fn multiply<V: Vector, E: Element>(
    left: Left,
    depth: usize,
    right: *const E,
    columns: usize,
    stride: usize,
    decay: Option<*const f32>,
    out: *mut f32,
) {
    let vectors = columns / V::LANES;
    let blocks = vectors.div_ceil(V::MAX_COLUMNS);
    let mut done = 0;
    // SAFETY: column blocks lie within `vectors * LANES <= columns`; the rest is the caller's promise.
    unsafe {
        for block in 0..blocks {
            // As even as possible: a block of one vector has too few accumulators to hide latency.
            let width = (vectors - done).div_ceil(blocks - block);
            let (right, out) = (right.add(done * V::LANES), out.add(done * V::LANES));
            match width {
                1 => multiply_columns::<V, E, 1>(left, depth, right, stride, decay, out),
                2 => multiply_columns::<V, E, 2>(left, depth, right, stride, decay, out),
                3 => multiply_columns::<V, E, 3>(left, depth, right, stride, decay, out),
                _ => multiply_columns::<V, E, 4>(left, depth, right, stride, decay, out),
            }
            done += width;
        }
        for column in vectors * V::LANES..columns {
            for row in 0..left.rows {
                let out = out.add(row * stride + column);
                let mut sum = decay.map_or(0.0, |decay| *decay.add(row) * *out);
                for k in 0..depth {
                    let factor = *left.start.add(row * left.row_step + k * left.column_step);
                    sum += factor * (*right.add(k * stride + column)).widen();
                }
                *out = sum;
            }
        }
    }
}

/// `N` vectors of columns, all rows.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_columns<V: Vector, E: Element, const N: usize>(
    left: Left,
    depth: usize,
    right: *const E,
    stride: usize,
    decay: Option<*const f32>,
    out: *mut f32,
) {
    let mut row = 0;
    // SAFETY: row blocks lie within `left.rows`; the rest is the caller's promise.
    unsafe {
        // One column of vectors needs eight rows to keep two multipliers busy.
        while N == 1 && V::TALL_ROWS == 8 && left.rows - row >= 8 {
            let part = left.rows_from(row, 8);
            multiply_block::<V, E, 8, N>(part, depth, right, stride, decay.map(|d| d.add(row)), out.add(row * stride));
            row += 8;
        }
        while left.rows - row >= 4 {
            let part = left.rows_from(row, 4);
            multiply_block::<V, E, 4, N>(part, depth, right, stride, decay.map(|d| d.add(row)), out.add(row * stride));
            row += 4;
        }
        let rest = left.rows - row;
        let part = left.rows_from(row, rest);
        let (decay, out) = (decay.map(|d| d.add(row)), out.add(row * stride));
        match rest {
            3 => multiply_block::<V, E, 3, N>(part, depth, right, stride, decay, out),
            2 => multiply_block::<V, E, 2, N>(part, depth, right, stride, decay, out),
            1 => multiply_block::<V, E, 1, N>(part, depth, right, stride, decay, out),
            _ => {}
        }
    }
}

/// `M` rows, `N` vectors of columns: one register block.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn multiply_block<V: Vector, E: Element, const M: usize, const N: usize>(
    left: Left,
    depth: usize,
    right: *const E,
    stride: usize,
    decay: Option<*const f32>,
    out: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; M];
        if let Some(decay) = decay {
            for m in 0..M {
                let decay = V::splat(*decay.add(m));
                for n in 0..N {
                    sums[m][n] = V::load(out.add(m * stride + n * V::LANES)).mul(decay);
                }
            }
        }
        for k in 0..depth {
            let mut row = [V::splat(0.0); N];
            for n in 0..N {
                row[n] = E::load::<V>(right.add(k * stride + n * V::LANES));
            }
            for m in 0..M {
                let factor = V::splat(*left.start.add(m * left.row_step + k * left.column_step));
                for n in 0..N {
                    sums[m][n] = row[n].mul_add(factor, sums[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                sums[m][n].store(out.add(m * stride + n * V::LANES));
            }
        }
    }
}
