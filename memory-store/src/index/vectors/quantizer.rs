//! Keys in codes: 16 bits for each value, of which the upper 8 are looked at first.
//!
//! Every position of the vectors (a channel) has a grid of its own, `offset + step * code`, because some channels are
//! large in every key. A search compares upper halves alone and keeps what may still be among the best, which the
//! bound of [`QuantizedQuery::error_bound`] tells; only for those it reads the lower halves.

use mnemon_kernels::CodeDot;

/// Codes of a channel.
const TOP: f32 = 65_535.0;
/// What the lower half stands for while it is not known: the middle of its values.
const MIDDLE: f32 = 127.5;

/// How codes are read: `offset + step * code` for each channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScalarQuantizer {
    pub(crate) offset: Vec<f32>,
    pub(crate) step: Vec<f32>,
}

/// A query as codes are compared with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct QuantizedQuery {
    /// For [`CodeDot`], which multiplies these with upper halves.
    pub(crate) values: Vec<i16>,
    /// Score of a coarse product of 1, relative to one of 0.
    unit: f32,
    /// Score of a coarse product of 0.
    bias: f32,
    /// The query times the step of each channel.
    scaled: Vec<f32>,
    /// Sum of the query times the offsets.
    base: f32,
    /// How much a product of upper halves may be off: see [`error_bound`](Self::error_bound).
    certain: i32,
    likely: i32,
}

/// What vectors seen so far span.
#[derive(Debug)]
pub(crate) struct Span {
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Span {
    pub(crate) fn new(dim: usize) -> Self {
        Self { low: vec![f32::INFINITY; dim], high: vec![f32::NEG_INFINITY; dim] }
    }

    /// Includes `vectors`, `[n, dim]`, finite.
    pub(crate) fn include(&mut self, vectors: &[f32]) {
        for vector in vectors.chunks_exact(self.low.len()) {
            for ((low, high), value) in self.low.iter_mut().zip(&mut self.high).zip(vector) {
                *low = low.min(*value);
                *high = high.max(*value);
            }
        }
    }

    /// The grid that just holds them.
    pub(crate) fn quantizer(self) -> ScalarQuantizer {
        let step = self.low.iter().zip(&self.high).map(|(low, high)| ((high - low) / TOP).max(0.0)).collect();
        let offset = self.low.into_iter().map(|low| if low.is_finite() { low } else { 0.0 }).collect();
        ScalarQuantizer { offset, step }
    }
}

impl ScalarQuantizer {
    pub(crate) fn dim(&self) -> usize {
        self.offset.len()
    }

    /// Appends the upper and the lower halves of the codes of `vectors`.
    pub(crate) fn encode(&self, vectors: &[f32], coarse: &mut Vec<u8>, fine: &mut Vec<u8>) {
        let inverse: Vec<f32> = self.step.iter().map(|step| if *step > 0.0 { 1.0 / step } else { 0.0 }).collect();
        for vector in vectors.chunks_exact(self.dim()) {
            for ((value, offset), inverse) in vector.iter().zip(&self.offset).zip(&inverse) {
                let code = ((value - offset) * inverse).round().clamp(0.0, TOP) as u16;
                let [low, high] = code.to_le_bytes();
                coarse.push(high);
                fine.push(low);
            }
        }
    }

    /// Writes to `vector` what a row of codes stands for.
    pub(crate) fn decode(&self, coarse: &[u8], fine: &[u8], vector: &mut Vec<f32>) {
        vector.clear();
        let codes = coarse.iter().zip(fine).map(|(high, low)| f32::from(u16::from_le_bytes([*low, *high])));
        vector.extend(codes.zip(&self.offset).zip(&self.step).map(|((code, offset), step)| offset + step * code));
    }

    /// Makes `query` ready, in place of what `into` was.
    pub(crate) fn prepare(&self, query: &[f32], into: &mut QuantizedQuery) {
        let dim = self.dim();
        into.scaled.clear();
        into.scaled.extend(query.iter().zip(&self.step).map(|(query, step)| query * step));
        into.base = query.iter().zip(&self.offset).map(|(query, offset)| query * offset).sum();
        let (mut largest, mut total, mut squares) = (0_f32, 0_f32, 0_f32);
        for scaled in &into.scaled {
            largest = largest.max(scaled.abs());
            total += scaled.abs();
            squares += scaled * scaled;
        }
        let limit = f32::from(CodeDot::query_limit(dim));
        let step = if largest > 0.0 { largest / limit } else { 1.0 };
        into.values.clear();
        into.values.extend(into.scaled.iter().map(|scaled| (scaled / step).round() as i16));
        let sum: i64 = into.values.iter().map(|value| i64::from(*value)).sum();
        into.unit = step * 256.0;
        into.bias = into.base + step * MIDDLE * sum as f32;
        // Off by half of what the lower halves cover, and by the rounding of the query times the largest code.
        let rounding = 0.5 * step * dim as f32 * TOP;
        into.certain = whole((MIDDLE * total + rounding) / into.unit);
        // Lower halves are as good as uniform: four standard deviations of their sum.
        let deviation = (squares / 12.0).sqrt() * 256.0 + 0.3 * step * (dim as f32).sqrt() * TOP;
        into.likely = whole(4.0 * deviation / into.unit).min(into.certain);
    }
}

/// Rounded up, and up once more for the rounding of the sums that led to it.
fn whole(value: f32) -> i32 {
    ((value * 1.001).ceil() as i32).saturating_add(1)
}

impl QuantizedQuery {
    /// Inner product, from upper halves alone, that a product of [`CodeDot`] stands for.
    #[inline]
    pub(crate) fn rough(&self, product: i32) -> f32 {
        self.bias + self.unit * product as f32
    }

    /// How far below the worst of the best a product of upper halves may lie and still be better once the lower halves
    /// are known: surely when `exact`, else in all but about one of ten thousand cases.
    pub(crate) fn error_bound(&self, exact: bool) -> i32 {
        // Both sides of the comparison may be off.
        if exact { self.certain.saturating_mul(2) } else { self.likely }
    }

    /// Inner product with a row of whole codes.
    #[inline]
    pub(crate) fn score(&self, coarse: &[u8], fine: &[u8]) -> f32 {
        const LANES: usize = 16;
        let mut sums = [0_f32; LANES];
        let (scaled, scaled_rest) = self.scaled.as_chunks::<LANES>();
        let (coarse, coarse_rest) = coarse.as_chunks::<LANES>();
        let (fine, fine_rest) = fine.as_chunks::<LANES>();
        for ((scaled, coarse), fine) in scaled.iter().zip(coarse).zip(fine) {
            for lane in 0..LANES {
                let code = i32::from(coarse[lane]) << 8 | i32::from(fine[lane]);
                sums[lane] += scaled[lane] * code as f32;
            }
        }
        let rest: f32 = scaled_rest
            .iter()
            .zip(coarse_rest)
            .zip(fine_rest)
            .map(|((scaled, high), low)| scaled * f32::from(u16::from_le_bytes([*low, *high])))
            .sum();
        self.base + sums.iter().sum::<f32>() + rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_are_within_their_bounds(
            dim in 1_usize..70,
            seed in prop::collection::vec(-1_f32..1.0, 70 * 12),
            spread in prop::collection::vec(-3_f32..3.0, 70),
        ) {
            let scaled: Vec<f32> = seed.iter().enumerate().map(|(at, value)| value * spread[at % dim].exp()).collect();
            let (query, rows) = scaled.split_at(dim);
            let rows = &rows[..dim * 10];
            let mut span = Span::new(dim);
            span.include(rows);
            let quantizer = span.quantizer();
            let (mut coarse, mut fine, mut vector) = (Vec::new(), Vec::new(), Vec::new());
            quantizer.encode(rows, &mut coarse, &mut fine);
            let mut ready = QuantizedQuery::default();
            quantizer.prepare(query, &mut ready);
            let size: f32 = query.iter().map(|value| value.abs()).sum::<f32>() * 21.0;
            for (at, row) in rows.chunks_exact(dim).enumerate() {
                let (coarse, fine) = (&coarse[at * dim..][..dim], &fine[at * dim..][..dim]);
                quantizer.decode(coarse, fine, &mut vector);
                for ((value, decoded), step) in row.iter().zip(&vector).zip(&quantizer.step) {
                    prop_assert!((value - decoded).abs() <= step * 0.51 + value.abs() * 1e-5);
                }
                let exact: f32 = query.iter().zip(row).map(|(a, b)| a * b).sum();
                let score = ready.score(coarse, fine);
                prop_assert!((exact - score).abs() <= size * 2e-5, "{exact} {score}");
                let mut product = [0];
                CodeDot::detect().tile(&ready.values, dim, coarse, &mut product);
                let off = (ready.rough(product[0]) - exact).abs();
                prop_assert!(off <= ready.certain as f32 * ready.unit + size * 2e-5, "{off}");
            }
        }
    }
}
