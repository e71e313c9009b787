//! Numbers to codes: `code = (number - offset) / step`, rounded, for groups of numbers that share an offset and a step.
//!
//! Groups are rows, or columns of several rows. The loops are plain; what they gain is being compiled for the best
//! instructions of the processor. All instruction sets give the same codes.

// Inlining is what carries the features of the outermost function into the loops.
#![allow(clippy::inline_always)]

use crate::simd::{Isa, truncated};

/// Numbers that are looked at together.
const LANES: usize = 16;

/// Whether the absolute value of each number is below `bound`.
pub fn all_below(isa: Isa, numbers: &[f32], bound: f32) -> bool {
    isa.run(|| {
        let (blocks, rest) = numbers.as_chunks::<LANES>();
        let mut beyond = [0_u32; LANES];
        for block in blocks {
            for (beyond, number) in beyond.iter_mut().zip(block) {
                // NaN is below nothing.
                *beyond |= u32::from(number.abs() < bound) ^ 1;
            }
        }
        beyond == [0; LANES] && rest.iter().all(|number| number.abs() < bound)
    })
}

/// Least and largest number of each row of `rows`, `[n, columns]`, into `low` and `high`, `[n]`. NaN is passed over.
pub fn row_ranges(isa: Isa, rows: &[f32], columns: usize, low: &mut [f32], high: &mut [f32]) {
    isa.run(|| {
        for (row, (low, high)) in rows.chunks_exact(columns.max(1)).zip(low.iter_mut().zip(high)) {
            (*low, *high) = range(row);
        }
    });
}

#[inline(always)]
fn range(row: &[f32]) -> (f32, f32) {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for block in blocks {
        widen(block, &mut low, &mut high);
    }
    widen(rest, &mut low, &mut high);
    // As a tree: a chain of sixteen would take longer than the rest of a short row.
    for width in [8, 4, 2, 1] {
        for at in 0..width {
            low[at] = if low[at + width] < low[at] { low[at + width] } else { low[at] };
            high[at] = if high[at + width] > high[at] { high[at + width] } else { high[at] };
        }
    }
    (low[0], high[0])
}

/// Widens the ranges `low` to `high` of each column, `[columns]`, by the numbers of `rows`, `[n, columns]`. NaN is passed over.
pub fn column_ranges(isa: Isa, rows: &[f32], low: &mut [f32], high: &mut [f32]) {
    let columns = low.len().min(high.len());
    if columns > 0 {
        isa.run(|| rows.chunks_exact(columns).for_each(|row| widen(row, low, high)));
    }
}

/// Not `f32::min`: plain comparisons become single instructions.
#[inline(always)]
fn widen(row: &[f32], low: &mut [f32], high: &mut [f32]) {
    for ((low, high), &number) in low.iter_mut().zip(high).zip(row) {
        *low = if number < *low { number } else { *low };
        *high = if number > *high { number } else { *high };
    }
}

/// Codes of `rows`, `[n, columns]`, at most `top`, with an offset and an inverse of the step for each row, `[n]`.
pub fn row_codes(isa: Isa, rows: &[f32], columns: usize, offsets: &[f32], inverses: &[f32], top: u8, out: &mut [u8]) {
    let columns = columns.max(1);
    isa.run(|| {
        let parameters = offsets.iter().zip(inverses);
        let rows = out.chunks_exact_mut(columns).zip(rows.chunks_exact(columns));
        for ((out, row), (&offset, &inverse)) in rows.zip(parameters) {
            for (out, &number) in out.iter_mut().zip(row) {
                *out = code(number, offset, inverse, top);
            }
        }
    });
}

/// As [`row_codes`], with an offset and an inverse of the step for each column, `[columns]`.
pub fn column_codes(isa: Isa, rows: &[f32], offsets: &[f32], inverses: &[f32], top: u8, out: &mut [u8]) {
    let columns = offsets.len().min(inverses.len());
    if columns == 0 {
        return;
    }
    isa.run(|| {
        for (out, row) in out.chunks_exact_mut(columns).zip(rows.chunks_exact(columns)) {
            for ((out, &number), (&offset, &inverse)) in out.iter_mut().zip(row).zip(offsets.iter().zip(inverses)) {
                *out = code(number, offset, inverse, top);
            }
        }
    });
}

#[inline(always)]
fn code(number: f32, offset: f32, inverse: f32, top: u8) -> u8 {
    // Nothing is below zero, so cutting off after adding a half rounds.
    truncated((number - offset) * inverse + 0.5, top)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "the same numbers, not nearly the same")]

    use super::*;

    #[test]
    fn all_instruction_sets_agree_with_the_plain_sums() {
        for columns in [1, 7, 16, 35, 64] {
            let number = |at: usize| ((at * 7919 % 1013) as f32 - 500.0) / 37.0;
            let rows: Vec<f32> = (0..columns * 5).map(number).collect();
            for isa in Isa::available() {
                let (mut low, mut high) = (vec![f32::INFINITY; columns], vec![f32::NEG_INFINITY; columns]);
                column_ranges(isa, &rows, &mut low, &mut high);
                for (column, (low, high)) in low.iter().zip(&high).enumerate() {
                    let of_column = || rows.iter().skip(column).step_by(columns).copied();
                    assert_eq!(*low, of_column().fold(f32::INFINITY, f32::min));
                    assert_eq!(*high, of_column().fold(f32::NEG_INFINITY, f32::max));
                }
                let (mut least, mut most) = ([0.0; 5], [0.0; 5]);
                row_ranges(isa, &rows, columns, &mut least, &mut most);
                for (row, (least, most)) in rows.chunks(columns).zip(least.iter().zip(&most)) {
                    assert_eq!(*least, row.iter().copied().fold(f32::INFINITY, f32::min));
                    assert_eq!(*most, row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                }
                let plain = |number: f32, offset: f32, inverse: f32| {
                    (((number - offset) * inverse + 0.5).clamp(0.0, 15.0)) as i32 as u8
                };
                let inverses: Vec<f32> = low.iter().zip(&high).map(|(low, high)| 15.0 / (high - low + 0.1)).collect();
                let mut codes = vec![99; rows.len()];
                column_codes(isa, &rows, &low, &inverses, 15, &mut codes);
                for (at, code) in codes.iter().enumerate() {
                    assert_eq!(*code, plain(rows[at], low[at % columns], inverses[at % columns]));
                }
                row_codes(isa, &rows, columns, &least, &[3.0; 5], 15, &mut codes);
                for (at, code) in codes.iter().enumerate() {
                    assert_eq!(*code, plain(rows[at], least[at / columns], 3.0));
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_found_and_harms_nothing() {
        for isa in Isa::available() {
            for at in [0, 15, 16, 36] {
                let mut numbers = [1.0; 37];
                assert!(all_below(isa, &numbers, 2.0));
                for odd in [f32::NAN, f32::INFINITY, -2.0] {
                    numbers[at] = odd;
                    assert!(!all_below(isa, &numbers, 2.0), "{} {odd} {at}", isa.name());
                    let mut codes = [0; 37];
                    row_codes(isa, &numbers, 37, &[0.0], &[100.0], 255, &mut codes);
                    assert_eq!(codes[at], if odd > 2.0 { 255 } else { 0 });
                }
            }
        }
    }
}
