//! Outcomes as tables, for people and as JSON, and as a plot.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::outcomes::{Cell, Outcomes, count, median};
use super::row::Row;
use super::stats::{Interval, paired_difference, wilson};
use crate::plot::{Line, Plot};
use crate::report::tokens_label;

/// Name of the tasks taken together.
const ALL: &str = "all";

/// Outcomes with the order of their tasks.
pub(crate) struct Table<'o> {
    pub(crate) outcomes: &'o Outcomes,
    /// Every task, in the order of the columns.
    pub(crate) tasks: Vec<&'o str>,
    /// Those that "all" joins.
    pub(crate) joined: Vec<&'o str>,
}

/// A memory row against another one on the questions that both answered.
struct Difference {
    memory: Row,
    prompt: Row,
    n: usize,
    interval: Interval,
}

impl Table<'_> {
    fn cell(&self, tokens: u64, task: &str, row: Row) -> Cell {
        let own = [task];
        self.outcomes.joined(tokens, if task == ALL { &self.joined } else { &own }, row)
    }

    /// The tasks that were asked at a size, and all of them together.
    fn columns(&self, tokens: u64) -> Vec<&str> {
        let asked = self.tasks.iter().copied().filter(|task| self.outcomes.has_task(tokens, task));
        asked.chain([ALL]).collect()
    }

    /// A table for each size, and under it how memory compares.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for tokens in self.outcomes.sizes() {
            let columns = self.columns(tokens);
            let _ = write!(text, "\n{:<16}", tokens_label(tokens));
            for task in &columns {
                let _ = write!(text, " {task:>11}");
            }
            let _ = writeln!(
                text,
                "  {:^9} {:>6} {:>6} {:>9} {:>8} {:>7}",
                "95 %", "found", "cited", "first ms", "total", "prompt"
            );
            let is_asked = |row: &Row| columns.iter().any(|task| count(&self.cell(tokens, task, *row).right).1 > 0);
            for row in self.outcomes.rows().into_iter().filter(is_asked) {
                text.push_str(&self.line(tokens, &columns, row));
            }
            let asked = columns.iter().map(|task| self.questions(tokens, task));
            let _ = write!(text, "{:<16}", "n");
            for n in asked {
                let _ = write!(text, " {n:>11}");
            }
            text.push('\n');
            for Difference { memory, prompt, n, interval } in self.differences(tokens, ALL) {
                let Interval { percent, low, high } = interval;
                let (memory, prompt) = (memory.name(), prompt.name());
                let _ = writeln!(text, "{memory} - {prompt}: {percent:+.1} points [{low:+.1}, {high:+.1}], n {n}");
            }
        }
        text
    }

    fn questions(&self, tokens: u64, task: &str) -> usize {
        self.outcomes.rows().into_iter().map(|row| count(&self.cell(tokens, task, row).right).1).max().unwrap_or(0)
    }

    fn line(&self, tokens: u64, columns: &[&str], row: Row) -> String {
        let mut line = format!("{:<16}", row.name());
        for task in columns {
            let (right, n) = count(&self.cell(tokens, task, row).right);
            let shown = if n == 0 { "-".to_owned() } else { format!("{:.0} %", wilson(right, n).percent) };
            let _ = write!(line, " {shown:>11}");
        }
        let all = self.cell(tokens, ALL, row);
        let share = |column: &[Option<bool>]| match count(column) {
            (_, 0) => "-".to_owned(),
            (yes, n) => format!("{:.0} %", wilson(yes, n).percent),
        };
        let (right, n) = count(&all.right);
        let Interval { low, high, .. } = wilson(right, n);
        let _ = writeln!(
            line,
            "  {:^9} {:>6} {:>6} {:>9} {:>8} {:>7}",
            format!("{low:.0} to {high:.0}"),
            share(&all.found),
            share(&all.cited),
            median(&all.first_token_ms),
            median(&all.total_ms),
            median(&all.prompt_tokens),
        );
        line
    }

    /// Every memory row against every other row that is none.
    fn differences(&self, tokens: u64, task: &str) -> Vec<Difference> {
        let rows = self.outcomes.rows();
        let is_memory = |row: &Row| row.mode().is_some();
        let mut differences = Vec::new();
        for &memory in rows.iter().filter(|row| is_memory(row)) {
            let with = self.cell(tokens, task, memory).right;
            for &prompt in rows.iter().filter(|row| !is_memory(row)) {
                let without = self.cell(tokens, task, prompt).right;
                let pairs: Vec<(bool, bool)> =
                    with.iter().zip(&without).filter_map(|(a, b)| Some(((*a)?, (*b)?))).collect();
                if pairs.is_empty() {
                    continue;
                }
                let of = |pair| pairs.iter().filter(|&&p| p == pair).count();
                let interval = paired_difference(of((true, false)), of((false, true)), pairs.len());
                differences.push(Difference { memory, prompt, n: pairs.len(), interval });
            }
        }
        differences
    }

    /// `table` and `differences`.
    pub(crate) fn to_json(&self) -> (Value, Value) {
        let (mut table, mut differences) = (Vec::new(), Vec::new());
        for tokens in self.outcomes.sizes() {
            for task in self.columns(tokens) {
                for row in self.outcomes.rows() {
                    table.extend(row_json(tokens, task, row, &self.cell(tokens, task, row)));
                }
                differences.extend(self.differences(tokens, task).into_iter().map(|difference| {
                    json!({
                        "tokens": tokens,
                        "task": task,
                        "memory": difference.memory.name(),
                        "against": difference.prompt.name(),
                        "n": difference.n,
                        "points": rounded(difference.interval.percent),
                        "low": rounded(difference.interval.low),
                        "high": rounded(difference.interval.high),
                    })
                }));
            }
        }
        (table.into(), differences.into())
    }

    pub(crate) fn plot(&self, title: &str) -> String {
        let line = |row: Row| {
            let at = |tokens: u64| {
                let (right, n) = count(&self.cell(tokens, ALL, row).right);
                (n > 0).then(|| (tokens, wilson(right, n).percent))
            };
            let points: Vec<(u64, f64)> = self.outcomes.sizes().into_iter().filter_map(at).collect();
            let last = points.last().map_or(0.0, |point| point.1);
            Line { label: format!("{} {last:.0} %", row.name()), points, faint: false }
        };
        Plot {
            title,
            x: "tokens of the haystack",
            y: "right answers, %",
            lines: self.outcomes.rows().into_iter().map(line).collect(),
            y_range: Some((0.0, 103.0)),
        }
        .svg()
    }
}

fn row_json(tokens: u64, task: &str, row: Row, cell: &Cell) -> Option<Value> {
    let (right, n) = count(&cell.right);
    if n == 0 {
        return None;
    }
    let interval = wilson(right, n);
    let share = |column: &[Option<bool>]| match count(column) {
        (_, 0) => Value::Null,
        (yes, of) => json!({"percent": rounded(wilson(yes, of).percent), "of": of}),
    };
    Some(json!({
        "tokens": tokens,
        "task": task,
        "row": row.name(),
        "n": n,
        "right_percent": rounded(interval.percent),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
        "found": share(&cell.found),
        "cited_first": share(&cell.cited),
        "first_token_ms_median": median(&cell.first_token_ms),
        "total_ms_median": median(&cell.total_ms),
        "prompt_tokens_median": median(&cell.prompt_tokens),
    }))
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::tests::outcome;
    use super::*;

    #[test]
    fn memory_is_compared_on_the_questions_that_both_answered() {
        let mut outcomes = Outcomes::default();
        for at in 0..40 {
            outcomes.push(4_000, "single", Row::Auto, &outcome(true));
            outcomes.push(4_000, "single", Row::Bm25, &outcome(at % 2 == 0));
            outcomes.push(4_000, "general", Row::Auto, &outcome(false));
        }
        let table = Table { outcomes: &outcomes, tasks: vec!["single", "general"], joined: vec!["single"] };
        let text = table.to_text();
        assert!(text.contains("auto - bm25: +50.0 points [+3"), "{text}");
        let (rows, differences) = table.to_json();
        let row = |task: &str, name: &str| {
            rows.as_array().and_then(|rows| rows.iter().find(|r| r["task"] == task && r["row"] == name)).cloned()
        };
        assert_eq!(
            row("all", "auto").map(|r| (r["n"].clone(), r["right_percent"].clone())),
            Some((40.into(), 100.0.into()))
        );
        assert_eq!(row("general", "auto").map(|r| r["right_percent"].clone()), Some(0.0.into()));
        assert!(row("general", "bm25").is_none());
        assert_eq!(differences.as_array().map(Vec::len), Some(2));
        assert!(table.plot("t").contains("auto 100 %"));
    }
}
