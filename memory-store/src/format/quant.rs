//! Keys and values in 8 or 4 bits: affine codes with an offset and a step for each group of values.
//!
//! A group is one vector (per token), or one position of the vectors of a chunk (per channel). As in `KIVI` (Liu et al. 2024,
//! arXiv 2402.02750, section 3.2), keys are grouped per channel, because some channels are large in every key, and values
//! per token.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use mnemon_kernels::{Isa, affine};
use mnemon_memory::KvDtype;

/// Bytes of a group's offset and step: two binary16.
const PARAMETER_BYTES: usize = 4;

/// From here on a number is rounded to infinity in binary16.
const F16_OVERFLOW: f32 = 65_520.0;

/// Which values share an offset and a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Axis {
    /// The values of one vector.
    Token,
    /// The values at one position of all vectors of a head and chunk.
    Channel,
}

/// How keys are grouped.
pub(crate) const KEY_AXIS: Axis = Axis::Channel;
/// How values are grouped.
pub(crate) const VALUE_AXIS: Axis = Axis::Token;

/// Shape of what is coded: `[heads, tokens, dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Heads.
    pub(crate) heads: usize,
    /// Tokens of the chunk.
    pub(crate) tokens: usize,
    /// Values of a vector.
    pub(crate) dim: usize,
}

impl Shape {
    pub(crate) fn len(self) -> usize {
        self.heads * self.tokens * self.dim
    }

    fn groups(self, axis: Axis) -> usize {
        match axis {
            Axis::Token => self.heads * self.tokens,
            Axis::Channel => self.heads * self.dim,
        }
    }

    /// Groups of the channels of vector `row`, counted over all heads.
    fn channels_of(self, row: usize) -> Range<usize> {
        let head = row / self.tokens;
        head * self.dim..(head + 1) * self.dim
    }
}

/// Bytes of the coded form: parameters of the groups, then codes.
pub(crate) fn coded_bytes(shape: Shape, axis: Axis, dtype: KvDtype) -> usize {
    parameter_bytes(shape, axis) + (shape.len() * dtype.bits()).div_ceil(8)
}

/// Bytes of the offsets and steps before the codes.
pub(crate) fn parameter_bytes(shape: Shape, axis: Axis) -> usize {
    shape.groups(axis) * PARAMETER_BYTES
}

/// Appends `values` (of `shape`) in `dtype`, which is `Int8` or `Int4`. `false`, with unusable bytes, when a value is
/// not finite in binary16, the type in which they are read.
pub(crate) fn encode(out: &mut Vec<u8>, values: &[f32], shape: Shape, axis: Axis, dtype: KvDtype) -> bool {
    let isa = Isa::detect();
    let top = ((1_u32 << dtype.bits()) - 1) as u8;
    let mut finite = affine::all_below(isa, values, F16_OVERFLOW);
    let (mut low, mut high) = (vec![f32::INFINITY; shape.groups(axis)], vec![f32::NEG_INFINITY; shape.groups(axis)]);
    let head = shape.tokens * shape.dim;
    match axis {
        Axis::Token => affine::row_ranges(isa, values, shape.dim, &mut low, &mut high),
        Axis::Channel => {
            let ranges = low.chunks_exact_mut(shape.dim).zip(high.chunks_exact_mut(shape.dim));
            for (rows, (low, high)) in values.chunks_exact(head).zip(ranges) {
                affine::column_ranges(isa, rows, low, high);
            }
        }
    }
    // Codes are chosen for the parameters as they are stored, so that their rounding is made up for.
    let mut inverse = Vec::with_capacity(low.len());
    for (low, high) in low.iter_mut().zip(high) {
        let offset = f16::from_f32(*low);
        let step = f16::from_f32((high - offset.to_f32()).max(0.0) / f32::from(top));
        finite &= offset.is_finite() && step.is_finite();
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&step.to_le_bytes());
        *low = offset.to_f32();
        inverse.push(if step > f16::ZERO { 1.0 / step.to_f32() } else { 0.0 });
    }
    let mut codes = vec![0; values.len()];
    match axis {
        Axis::Token => affine::row_codes(isa, values, shape.dim, &low, &inverse, top, &mut codes),
        Axis::Channel => {
            let heads = values.chunks_exact(head).zip(codes.chunks_exact_mut(head));
            let parameters = low.chunks_exact(shape.dim).zip(inverse.chunks_exact(shape.dim));
            for ((rows, codes), (low, inverse)) in heads.zip(parameters) {
                affine::column_codes(isa, rows, low, inverse, top, codes);
            }
        }
    }
    if dtype == KvDtype::Int8 {
        out.append(&mut codes);
    } else {
        out.extend(codes.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |second| second << 4)));
    }
    finite
}

/// The values that `bytes` (of [`coded_bytes`]) stand for, in binary16.
pub(crate) fn decode(bytes: &[u8], shape: Shape, axis: Axis, dtype: KvDtype) -> Vec<f16> {
    let (parameters, codes) = bytes.split_at(shape.groups(axis) * PARAMETER_BYTES);
    let half = |low, high| f16::from_le_bytes([low, high]).to_f32();
    let parameters: Vec<(f32, f32)> =
        parameters.as_chunks::<4>().0.iter().map(|&[a, b, c, d]| (half(a, b), half(c, d))).collect();
    let unpacked: Vec<u8>;
    let codes = if dtype == KvDtype::Int8 {
        codes
    } else {
        unpacked = codes.iter().flat_map(|pair| [pair & 15, pair >> 4]).collect();
        &unpacked
    };
    let value =
        |low: f32, step: f32, code: u8| (low + step * f32::from(code)).clamp(f16::MIN.to_f32(), f16::MAX.to_f32());
    let mut values = Vec::with_capacity(shape.len());
    for (row, codes) in codes.chunks_exact(shape.dim).take(shape.heads * shape.tokens).enumerate() {
        match axis {
            Axis::Token => {
                let (low, step) = parameters[row];
                values.extend(codes.iter().map(|&code| value(low, step, code)));
            }
            Axis::Channel => {
                let of_head = &parameters[shape.channels_of(row)];
                values.extend(of_head.iter().zip(codes).map(|(&(low, step), &code)| value(low, step, code)));
            }
        }
    }
    // All at once: one by one, each conversion queries the processor's features again.
    let mut halves = vec![f16::ZERO; values.len()];
    halves.convert_from_f32_slice(&values);
    halves
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn case() -> impl Strategy<Value = (Shape, Vec<f32>, f32)> {
        let shape =
            (1_usize..4, 1_usize..67, 1_usize..35).prop_map(|(heads, tokens, dim)| Shape { heads, tokens, dim });
        (shape, -4_f32..4.0).prop_flat_map(|(shape, exponent)| {
            let scale = 10_f32.powf(exponent);
            let values = prop::collection::vec((-1_f32..1.0).prop_map(move |value| value * scale), shape.len());
            (Just(shape), values, Just(scale))
        })
    }

    proptest! {
        #[test]
        fn a_round_trip_errs_by_at_most_half_a_step((shape, values, scale) in case()) {
            for (dtype, top) in [(KvDtype::Int8, 255.0), (KvDtype::Int4, 15.0)] {
                for axis in [Axis::Token, Axis::Channel] {
                    let mut bytes = Vec::new();
                    prop_assert!(encode(&mut bytes, &values, shape, axis, dtype));
                    prop_assert_eq!(bytes.len(), coded_bytes(shape, axis, dtype));
                    let read = decode(&bytes, shape, axis, dtype);
                    prop_assert_eq!(read.len(), values.len());
                    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); shape.groups(axis)];
                    let group_of = |at: usize| match axis {
                        Axis::Token => at / shape.dim,
                        Axis::Channel => at / (shape.tokens * shape.dim) * shape.dim + at % shape.dim,
                    };
                    for (at, value) in values.iter().enumerate() {
                        let (low, high) = &mut ranges[group_of(at)];
                        (*low, *high) = (low.min(*value), high.max(*value));
                    }
                    for (at, (value, read)) in values.iter().zip(&read).enumerate() {
                        let (low, high) = ranges[group_of(at)];
                        // Half a step, and roundings of offset, step (smallest: 2^-24) and result to binary16.
                        let bound = (high - low) / top / 2.0 + scale * 3e-3 + top * 6e-8;
                        let error = (value - read.to_f32()).abs();
                        prop_assert!(error <= bound, "{dtype:?} {axis:?}: {error} > {bound}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_has_no_place_in_binary16_is_refused() {
        let shape = Shape { heads: 1, tokens: 1, dim: 2 };
        for value in [f32::NAN, f32::INFINITY, 65_520.0, 70_000.0, -1e30] {
            for dtype in [KvDtype::Int8, KvDtype::Int4] {
                assert!(!encode(&mut Vec::new(), &[1.0, value], shape, Axis::Token, dtype), "{value}");
            }
        }
        let mut bytes = Vec::new();
        assert!(encode(&mut bytes, &[-65504.0, 65504.0], shape, Axis::Token, KvDtype::Int4));
        assert!(decode(&bytes, shape, Axis::Token, KvDtype::Int4).iter().all(|value| value.is_finite()));
    }
}
