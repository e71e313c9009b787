//! Shares of evidence, with intervals over groups of questions.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::answering::Span;
use crate::grammar::draw;
use crate::recall::median;

/// Numbers of passages that are looked at.
pub(crate) const KS: [usize; 4] = [1, 3, 5, 10];

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;

/// The row that others are compared with.
const BASE: &str = "bm25";

/// One question, searched in one way.
#[derive(Debug, Clone)]
struct Outcome {
    group: usize,
    category: String,
    /// Share of the evidence among the first passages, for each of [`KS`].
    shares: [f64; KS.len()],
    ms: f64,
    bytes: f64,
}

/// What came of all questions, in the same order for each row.
#[derive(Debug, Default)]
pub(crate) struct Found {
    rows: BTreeMap<&'static str, Vec<Outcome>>,
}

/// Where a number of passages stands in [`KS`].
fn index_of(k: usize) -> usize {
    KS.iter().position(|known| *known == k).unwrap_or(0)
}

/// Share of `evidence` that overlaps with one of the first passages, for each of [`KS`].
pub(super) fn shares(evidence: &[Span], passages: &[Span]) -> [f64; KS.len()] {
    KS.map(|k| share(evidence, &passages[..k.min(passages.len())]))
}

/// The same with as many passages as fit `bytes` for each of k.
pub(super) fn shares_within(evidence: &[Span], passages: &[Span], bytes: u64) -> [f64; KS.len()] {
    KS.map(|k| {
        let mut room = k as u64 * bytes;
        let fitting = passages.iter().take_while(|passage| {
            let len = passage.bytes.end - passage.bytes.start;
            let fits = len <= room;
            room = room.saturating_sub(len);
            fits
        });
        share(evidence, &passages[..fitting.count()])
    })
}

fn share(evidence: &[Span], passages: &[Span]) -> f64 {
    let is_found = |span: &&Span| passages.iter().any(|passage| passage.overlaps(span));
    evidence.iter().filter(is_found).count() as f64 / evidence.len().max(1) as f64
}

pub(super) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    sum / f64::from(count.max(1))
}

impl Found {
    pub(super) fn add(
        &mut self,
        row: &'static str,
        group: usize,
        category: &str,
        shares: [f64; KS.len()],
        ms: f64,
        bytes: f64,
    ) {
        let outcome = Outcome { group, category: category.to_owned(), shares, ms, bytes };
        self.rows.entry(row).or_default().push(outcome);
    }

    fn of(&self, row: &str) -> &[Outcome] {
        self.rows.get(row).map_or(&[], Vec::as_slice)
    }

    /// Mean share of a row among the first `k` passages, one of [`KS`], in percent.
    pub(crate) fn percent(&self, row: &str, k: usize) -> f64 {
        let at = index_of(k);
        100.0 * mean(self.of(row).iter().map(|outcome| outcome.shares[at]))
    }

    /// Difference to the base at `KS[at]` in percent, with the 95 % interval of a bootstrap over groups.
    fn difference(&self, row: &str, at: usize) -> Option<(f64, f64, f64)> {
        let (own, base) = (self.of(row), self.of(BASE));
        if row == BASE || own.is_empty() || own.len() != base.len() {
            return None;
        }
        let mut by_chat: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (own, base) in own.iter().zip(base) {
            by_chat.entry(own.group).or_default().push(100.0 * (own.shares[at] - base.shares[at]));
        }
        let chats: Vec<Vec<f64>> = by_chat.into_values().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut resample = || {
            let drawn: Vec<&Vec<f64>> = (0..chats.len()).map(|_| &chats[draw(&mut rng, chats.len())]).collect();
            mean(drawn.into_iter().flatten().copied())
        };
        let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
        means.sort_by(f64::total_cmp);
        let whole = mean(chats.iter().flatten().copied());
        Some((whole, means[RESAMPLES / 40], means[RESAMPLES - 1 - RESAMPLES / 40]))
    }

    fn median_ms(&self, row: &str) -> f64 {
        median(&self.of(row).iter().map(|outcome| outcome.ms).collect::<Vec<_>>())
    }

    pub(crate) fn to_json(&self, rows: &[&str]) -> Value {
        let row = |row: &&str| {
            let outcomes = self.of(row);
            let mut categories: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
            for outcome in outcomes {
                categories.entry(&outcome.category).or_default().push(outcome);
            }
            let percents = |outcomes: &[&Outcome]| -> Vec<f64> {
                let percent = |at: usize| 100.0 * mean(outcomes.iter().map(|outcome| outcome.shares[at]));
                (0..KS.len()).map(percent).collect()
            };
            let by_category: BTreeMap<&str, Value> = categories
                .into_iter()
                .map(|(category, outcomes)| (category, json!({"n": outcomes.len(), "percent": percents(&outcomes)})))
                .collect();
            json!({
                "row": row,
                "questions": outcomes.len(),
                "k": KS,
                "percent": KS.map(|k| self.percent(row, k)),
                "minus_bm25": (0..KS.len()).map(|at| self.difference(row, at)).collect::<Vec<_>>(),
                "median_ms": self.median_ms(row),
                "bytes_of_a_passage": mean(outcomes.iter().map(|outcome| outcome.bytes)),
                "categories": by_category,
            })
        };
        rows.iter().map(row).collect()
    }
}

/// Rows with their shares at two of [`KS`], what they gain over BM25, time and bytes.
pub(crate) fn table(found: &Found, rows: &[&str], [few, many]: [usize; 2]) -> String {
    let mut text = format!("evidence found, {} questions\n", rows.first().map_or(0, |row| found.of(row).len()));
    _ = writeln!(
        text,
        "{:<14} {:>6} {:>6}   {:<22} {:<22} {:>8} {:>6}",
        "",
        format!("at {few}"),
        format!("at {many}"),
        format!("minus bm25 at {few}"),
        format!("at {many}"),
        "ms",
        "bytes"
    );
    for row in rows {
        let gain = |k| {
            found
                .difference(row, index_of(k))
                .map_or_else(String::new, |(mean, low, high)| format!("{mean:+.1} [{low:+.1}, {high:+.1}]"))
        };
        _ = writeln!(
            text,
            "{row:<14} {:>6.1} {:>6.1}   {:<22} {:<22} {:>8.1} {:>6.0}",
            found.percent(row, few),
            found.percent(row, many),
            gain(few),
            gain(many),
            found.median_ms(row),
            mean(found.of(row).iter().map(|outcome| outcome.bytes)),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(bytes: std::ops::Range<u64>) -> Span {
        Span { document_id: "d".into(), bytes }
    }

    #[test]
    fn evidence_counts_once_for_each_message() {
        let evidence = [span(0..10), span(100..200), span(300..310)];
        let passages = [span(5..20), span(150..160), span(160..170), span(400..500), span(0..5), span(305..306)];
        let third = 1.0 / 3.0;
        for (found, expected) in shares(&evidence, &passages).iter().zip([third, 2.0 * third, 2.0 * third, 1.0]) {
            assert!((found - expected).abs() < 1e-9);
        }
        // As many as fit 15, 45, 75 and 150 bytes.
        for (found, expected) in
            shares_within(&evidence, &passages, 15).iter().zip([third, 2.0 * third, 2.0 * third, 1.0])
        {
            assert!((found - expected).abs() < 1e-9, "{found}");
        }
        assert!(shares(&evidence, &[]).iter().all(|share| *share == 0.0));
    }

    #[test]
    fn differences_are_paired_and_resampled_by_group() {
        let mut found = Found::default();
        for group in 0..10 {
            for _ in 0..3 {
                let better = if group < 5 { 1.0 } else { 0.5 };
                found.add("search", group, "c", [better; 4], 1.0, 100.0);
                found.add("bm25", group, "c", [0.5; 4], 1.0, 100.0);
            }
        }
        let (mean, low, high) = found.difference("search", 2).unwrap_or_default();
        assert!((mean - 25.0).abs() < 1e-9 && low > 5.0 && high < 45.0 && low < mean && mean < high);
        assert!(found.difference("bm25", 2).is_none());
        assert!(table(&found, &["search", "bm25"], [5, 10]).contains("+25.0 ["));
    }
}
