//! The operations that inner loops are written in.

use half::{bf16, f16};

/// A register of `LANES` floats.
///
/// # Safety
/// Every method requires that the processor has the implementation's features and that the calling function, after
/// inlining, enables them. Methods with a pointer require that it is valid for `LANES` values; no alignment is needed.
pub(crate) trait Vector: Copy {
    /// Floats in one value.
    const LANES: usize;
    /// How many vectors wide a register block of a matrix product is at most: with four rows, as many accumulators as
    /// leave registers for the operands.
    const MAX_COLUMNS: usize;
    /// How many rows high a block one vector wide is: as many accumulators as hide the latency of one another.
    const TALL_ROWS: usize;
    /// How many rows of queries a register block of inner products with four keys has at most.
    const MAX_QUERIES: usize;

    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + term`.
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` where either is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// `self`, and zero where `key` is below `bound`.
    unsafe fn zero_where_below(self, key: Self, bound: Self) -> Self;
    /// Two to the power of `self`, which holds integers from -126 to 0.
    unsafe fn power_of_two(self) -> Self;
    /// Sum of the lanes of each.
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4];

    /// Sum of the lanes, with the same rounding as `sum4`.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { Self::sum4([self; 4])[0] }
    }

    /// The largest lane, NaN ignored where it stands beside a number.
    #[inline(always)]
    unsafe fn max_lane(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: the caller's promise; no implementation has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        // As a tree: a chain of sixteen would take longer than the rest of a short row.
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] = lanes[i].max(lanes[i + width]);
            }
        }
        lanes[0]
    }

    /// `e` to the power of `self`, which is not positive: relative error below 3e-7, exactly zero below -87.3, NaN for NaN.
    ///
    /// Range reduction by `n * ln 2` in two parts, then the Taylor polynomial of degree 7 on `[-ln 2 / 2, ln 2 / 2]`.
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        // Adding and subtracting 1.5 * 2^23 rounds to an integer.
        const ROUND: f32 = 12_582_912.0;
        // Nine bits, so that its product with an integer below 2^8 is exact.
        const LN_2_HIGH: f32 = 355.0 / 512.0;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        const LOWEST: f32 = -87.3;
        // SAFETY: the caller's promise.
        unsafe {
            let lowest = Self::splat(LOWEST);
            let x = lowest.max(self);
            let round = Self::splat(ROUND);
            let n = x.mul_add(Self::splat(std::f32::consts::LOG2_E), round).sub(round);
            let r = n.mul_add(Self::splat(-LN_2_HIGH), x);
            let r = n.mul_add(Self::splat(-LN_2_LOW), r);
            let mut p = Self::splat(1.0 / 5040.0);
            for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = p.mul_add(r, Self::splat(factor));
            }
            p.mul(n.power_of_two()).zero_where_below(self, lowest)
        }
    }
}

/// A stored number that vectors can be loaded from.
pub(crate) trait Element: Copy {
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
    /// Widens exactly.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Self) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(from) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}
