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

/// See [`Isa::merge_sums`](super::Isa::merge_sums).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn merge_sums<V: Vector>(
    max: &mut [f32],
    sum: &mut [f32],
    other_max: &mut [f32],
    other_sum: &mut [f32],
) {
    let n_rows = max.len();
    assert!(n_rows.is_multiple_of(V::LANES));
    assert!(sum.len() == n_rows && other_max.len() == n_rows && other_sum.len() == n_rows);
    for row in (0..n_rows).step_by(V::LANES) {
        // SAFETY: `row + LANES <= n_rows`, the length of all four; features as promised by the caller.
        unsafe {
            let [max, sum, other_max, other_sum] =
                [max.as_mut_ptr(), sum.as_mut_ptr(), other_max.as_mut_ptr(), other_sum.as_mut_ptr()]
                    .map(|p| p.add(row));
            let top = V::load(max).max(V::load(other_max));
            let shift = finite_or_zero(top);
            let old = V::load(max).sub(shift).exp();
            let new = V::load(other_max).sub(shift).exp();
            let total = V::load(sum).mul(old).add(V::load(other_sum).mul(new));
            top.store(max);
            total.store(sum);
            old.store(other_max);
            new.store(other_sum);
        }
    }
}

/// See [`Isa::mix_rows`](super::Isa::mix_rows).
///
/// # Safety
/// The caller has enabled the features of `V`.
#[inline(always)]
pub(super) unsafe fn mix_rows<V: Vector>(to: &mut [f32], old: &[f32], from: &[f32], new: &[f32], dim: usize) {
    let whole = dim - dim % V::LANES;
    let rows = to.chunks_exact_mut(dim).zip(from.chunks_exact(dim)).zip(old.iter().zip(new));
    for ((to, from), (&old, &new)) in rows {
        for d in (0..whole).step_by(V::LANES) {
            // SAFETY: `d + LANES <= whole`, within both rows; features as promised by the caller.
            unsafe {
                let kept = V::load(to.as_ptr().add(d)).mul(V::splat(old));
                V::load(from.as_ptr().add(d)).mul_add(V::splat(new), kept).store(to.as_mut_ptr().add(d));
            }
        }
        for d in whole..dim {
            to[d] = old * to[d] + new * from[d];
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
