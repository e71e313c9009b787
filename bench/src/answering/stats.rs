//! Intervals for shares, and for differences of shares on the same questions.

/// Two-sided 95 % of a normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A value and its 95 % interval, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub(crate) percent: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Share of `right` among `n`, with Wilson's score interval (1927). Nothing is known of none.
pub(crate) fn wilson(right: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { percent: 0.0, low: 0.0, high: 100.0 };
    }
    let (count, share) = (n as f64, right as f64 / n as f64);
    let middle = share + Z * Z / (2.0 * count);
    let spread = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    let scale = 100.0 / (1.0 + Z * Z / count);
    Interval {
        percent: 100.0 * share,
        low: (scale * (middle - spread)).max(0.0),
        high: (scale * (middle + spread)).min(100.0),
    }
}

/// Difference of two shares on the same `n` questions, of which `gained` were right only in the first and `lost` only in the
/// second; the interval is Wald's with half a pair added to each cell (Agresti and Min 2005, "Simple improved confidence
/// intervals for comparing matched proportions").
pub(crate) fn paired_difference(gained: usize, lost: usize, n: usize) -> Interval {
    if n == 0 {
        return Interval { percent: 0.0, low: -100.0, high: 100.0 };
    }
    let percent = 100.0 * (gained as f64 - lost as f64) / n as f64;
    let (gained, lost, n) = (gained as f64 + 0.5, lost as f64 + 0.5, n as f64 + 2.0);
    let middle = (gained - lost) / n;
    let spread = Z * ((gained + lost) - (gained - lost).powi(2) / n).max(0.0).sqrt() / n;
    Interval { percent, low: (100.0 * (middle - spread)).max(-100.0), high: (100.0 * (middle + spread)).min(100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(interval: Interval, percent: f64, low: f64, high: f64) -> bool {
        (interval.percent - percent).abs() < 0.01
            && (interval.low - low).abs() < 0.01
            && (interval.high - high).abs() < 0.01
    }

    #[test]
    fn wilson_agrees_with_known_values() {
        // 8 of 10 and 0 of 20, as published tables and other programs have them.
        assert!(close(wilson(8, 10), 80.0, 49.02, 94.33), "{:?}", wilson(8, 10));
        assert!(close(wilson(0, 20), 0.0, 0.0, 16.11), "{:?}", wilson(0, 20));
        assert!(close(wilson(20, 20), 100.0, 83.89, 100.0));
        assert!(close(wilson(0, 0), 0.0, 0.0, 100.0));
    }

    #[test]
    fn paired_differences_are_narrow_where_pairs_agree() {
        let none = paired_difference(0, 0, 100);
        assert!(none.percent.abs() < 1e-9 && none.high < 2.0 && (none.low + none.high).abs() < 1e-9);
        let clear = paired_difference(30, 2, 100);
        assert!((clear.percent - 28.0).abs() < 1e-9 && clear.low > 15.0 && clear.high < 40.0, "{clear:?}");
        let mirrored = paired_difference(2, 30, 100);
        assert!((clear.low + mirrored.high).abs() < 1e-9);
    }

    #[test]
    fn the_paired_interval_covers_the_truth_about_as_often_as_it_says() {
        // Pairs are right with 0.7 and 0.5, independently: the true difference is 20.
        use rand_chacha::ChaCha8Rng;
        use rand_chacha::rand_core::SeedableRng;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut covered = 0;
        for _ in 0..1_000 {
            let (mut gained, mut lost) = (0, 0);
            for _ in 0..60 {
                let mut chance = |of| crate::grammar::draw(&mut rng, 10) < of;
                match (chance(7), chance(5)) {
                    (true, false) => gained += 1,
                    (false, true) => lost += 1,
                    _ => {}
                }
            }
            let interval = paired_difference(gained, lost, 60);
            covered += usize::from(interval.low <= 20.0 && 20.0 <= interval.high);
        }
        assert!((930..=975).contains(&covered), "{covered}");
    }
}
