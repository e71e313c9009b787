//! Vectors in plain Rust, for processors without the others; the compiler maps them to what the target always has.

use half::{bf16, f16};

use super::vector::Vector;

/// Two SSE2 or NEON registers.
pub(super) const LANES: usize = 8;

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; LANES]);

impl Portable {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i])))
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    const LANES: usize = LANES;
    const MAX_COLUMNS: usize = 1;
    const TALL_ROWS: usize = 4;
    const MAX_QUERIES: usize = 1;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise that `LANES` values can be read.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's promise that `LANES` values can be read.
        let values = unsafe { from.cast::<[f16; LANES]>().read_unaligned() };
        Self(values.map(widen))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's promise that `LANES` values can be read.
        let values = unsafe { from.cast::<[bf16; LANES]>().read_unaligned() };
        Self(values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise that `LANES` values can be written.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, term: Self) -> Self {
        // Fused only where that is one instruction: elsewhere `f32::mul_add` is a slow library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
        } else {
            Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + term.0[i]))
        }
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn zero_where_below(self, key: Self, bound: Self) -> Self {
        Self(std::array::from_fn(|i| if key.0[i] < bound.0[i] { 0.0 } else { self.0[i] }))
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // The sum's low bits are the integer; shifted, with the bias added, they are the exponent.
        self.map(|n| f32::from_bits((n + 12_582_912.0).to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        vectors.map(|Self([a, b, c, d, e, f, g, h])| ((a + e) + (b + f)) + ((c + g) + (d + h)))
    }
}

/// Without branches, so that eight become vector instructions; a call for each value is ten times slower.
#[inline(always)]
fn widen(value: f16) -> f32 {
    /// Moves the exponent from a bias of 15 to one of 127.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    /// What infinity and NaN, with the largest exponent, are at least after the shift.
    const SPECIAL: u32 = 31 << 23;
    let bits = u32::from(value.to_bits());
    let shifted = (bits & 0x7fff) << 13;
    let magnitude = (f32::from_bits(shifted) * REBIAS).to_bits();
    let exponent = if shifted >= SPECIAL { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude | exponent | (bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let expected = value.to_f32();
            let got = widen(value);
            assert!(got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()), "{bits:#x}");
        }
    }
}
