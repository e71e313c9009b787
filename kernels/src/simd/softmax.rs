//! The step of the online softmax over one tile (Milakov and Gimelshein 2018, section 3; `FlashAttention`, algorithm 1).

use super::vector::Vector;

/// See [`Isa::online_columns`](super::Isa::online_columns).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn online_columns<V: Vector>(tile: &mut [f32], max: &mut [f32], sum: &mut [f32], decay: &mut [f32]) {
    let n_rows = max.len();
    assert!(n_rows > 0 && n_rows.is_multiple_of(V::LANES) && sum.len() == n_rows && decay.len() == n_rows);
    let n_keys = tile.len() / n_rows;
    for column in (0..n_rows).step_by(V::LANES) {
        // SAFETY: vectors start at `key * n_rows + column` with `column + LANES <= n_rows` and `key < n_keys`, so they lie
        // within `tile`, and at `column` within the others; features as promised by the caller.
        unsafe {
            let start = tile.as_mut_ptr().add(column);
            let old = V::load(max.as_ptr().add(column));
            let mut tops = [old; 4];
            for key in 0..n_keys {
                tops[key % 4] = V::load(start.add(key * n_rows)).max(tops[key % 4]);
            }
            let new = tops[0].max(tops[1]).max(tops[2].max(tops[3]));
            // Where nothing was visible so far, subtract zero: the difference of two infinities would be NaN.
            let shift = finite_or_zero(new);
            let faded = old.sub(shift).exp();
            let mut total = V::load(sum.as_ptr().add(column)).mul(faded);
            for key in 0..n_keys {
                let at = start.add(key * n_rows);
                let weight = V::load(at).sub(shift).exp();
                weight.store(at);
                total = total.add(weight);
            }
            new.store(max.as_mut_ptr().add(column));
            total.store(sum.as_mut_ptr().add(column));
            faded.store(decay.as_mut_ptr().add(column));
        }
    }
}

/// See [`Isa::online_rows`](super::Isa::online_rows).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn online_rows<V: Vector>(
    tile: &mut [f32],
    stride: usize,
    max: &mut [f32],
    sum: &mut [f32],
    decay: &mut [f32],
) {
    let n_rows = max.len();
    assert!(stride.is_multiple_of(V::LANES) && tile.len() >= n_rows * stride);
    assert!(sum.len() == n_rows && decay.len() == n_rows);
    for row in 0..n_rows {
        // SAFETY: vectors start at `row * stride + key` with `key + LANES <= stride`, within `tile`; features as promised
        // by the caller.
        unsafe {
            let start = tile.as_mut_ptr().add(row * stride);
            let mut top = V::splat(max[row]);
            for key in (0..stride).step_by(V::LANES) {
                top = V::load(start.add(key)).max(top);
            }
            let new = top.max_lane();
            let shift = if new == f32::NEG_INFINITY { 0.0 } else { new };
            let shifts = V::splat(shift);
            let mut total = V::splat(0.0);
            for key in (0..stride).step_by(V::LANES) {
                let weight = V::load(start.add(key)).sub(shifts).exp();
                weight.store(start.add(key));
                total = total.add(weight);
            }
            let faded = (max[row] - shift).exp();
            max[row] = new;
            sum[row] = sum[row] * faded + total.sum();
            decay[row] = faded;
        }
    }
}

/// See [`Isa::column_max`](super::Isa::column_max).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn column_max<V: Vector>(tile: &[f32], out: &mut [f32]) {
    let n_rows = out.len();
    assert!(n_rows > 0 && n_rows.is_multiple_of(V::LANES));
    let n_keys = tile.len() / n_rows;
    for column in (0..n_rows).step_by(V::LANES) {
        // SAFETY: vectors start at `key * n_rows + column` with `column + LANES <= n_rows` and `key < n_keys`, so they lie
        // within `tile`, and at `column` within `out`; features as promised by the caller.
        unsafe {
            let start = tile.as_ptr().add(column);
            let mut tops = [V::splat(f32::NEG_INFINITY); 4];
            for key in 0..n_keys {
                tops[key % 4] = V::load(start.add(key * n_rows)).max(tops[key % 4]);
            }
            tops[0].max(tops[1]).max(tops[2].max(tops[3])).store(out.as_mut_ptr().add(column));
        }
    }
}

/// `x`, and zero where it is negative infinity.
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
unsafe fn finite_or_zero<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { x.zero_where_below(x, V::splat(f32::MIN)) }
}
