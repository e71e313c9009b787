//! Position encodings that do not rotate.

/// Rows `first..first + n` of the table of arXiv 1706.03762 (section 3.5) times `scale`, `[n, width]`: sines in even
/// columns, cosines in odd ones, of `position * 10000^(-2i/width)`. Angles are computed in f64.
pub(crate) fn sinusoids(first: usize, n: usize, width: usize, scale: f32) -> Vec<f32> {
    let frequency = |pair: usize| 10_000_f64.powf(-2.0 * pair as f64 / width as f64);
    let value = |position: usize, column: usize| {
        let angle = position as f64 * frequency(column / 2);
        scale * (if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    (first..first + n).flat_map(|position| (0..width).map(move |column| value(position, column))).collect()
}

/// Slope of each head, `[heads]` (arXiv 2108.12409, section 3): `2^(-8h/heads)` for h from 1 where `heads` is a power of
/// two; else those of the power of two below, then every other slope of twice as many heads.
pub(crate) fn alibi_slopes(heads: usize) -> Vec<f32> {
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let slope = |index: usize, of: usize| (-8.0 * (index + 1) as f64 / of as f64).exp2() as f32;
    let rest = (0..heads - whole).map(|index| slope(2 * index, 2 * whole));
    (0..whole).map(|index| slope(index, whole)).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(alibi_slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015_625, 0.007_812_5, 0.003_906_25]);
        let six = alibi_slopes(6);
        assert_eq!(six[..4], [0.25, 0.0625, 0.015_625, 0.003_906_25]);
        assert_eq!(six[4..], [0.5, 0.125]);
        assert_eq!(alibi_slopes(1), [0.003_906_25]);
    }

    #[test]
    fn the_table_starts_anywhere() {
        let whole = sinusoids(0, 6, 4, 0.5);
        assert_eq!(whole[..4], [0.0, 0.5, 0.0, 0.5]);
        assert_eq!(sinusoids(4, 2, 4, 0.5), whole[16..]);
        assert!((whole[20] - 0.5 * 5_f32.sin()).abs() < 1e-6 && (whole[22] - 0.5 * 0.05_f32.sin()).abs() < 1e-6);
    }
}
