//! What came of each question, kept so that the outcomes of several runs can be pooled.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::row::Row;

/// What came of one question, answered in one way.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) right: bool,
    /// Whether all evidence stood before the model, where that is known.
    pub(crate) found: Option<bool>,
    /// Whether the first citation is of the evidence, where there are citations and the answer is right.
    pub(crate) cited: Option<bool>,
    /// `a`: attended, `r`: read again, `-`: neither, or not told.
    pub(crate) mode: char,
    pub(crate) first_token_ms: f64,
    pub(crate) total_ms: f64,
    pub(crate) prompt_tokens: u32,
    pub(crate) answer: String,
}

/// Outcomes of one way to answer, in the order of the questions.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Cell {
    pub(crate) right: Vec<Option<bool>>,
    pub(crate) found: Vec<Option<bool>>,
    pub(crate) cited: Vec<Option<bool>>,
    pub(crate) modes: String,
    pub(crate) first_token_ms: Vec<u64>,
    pub(crate) total_ms: Vec<u64>,
    pub(crate) prompt_tokens: Vec<u64>,
}

/// Where a cell stands in the tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) tokens: u64,
    pub(crate) task: String,
    pub(crate) row: Row,
}

/// Cells whose questions agree: those of one plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Outcomes {
    cells: BTreeMap<Key, Cell>,
}

impl Cell {
    fn push(&mut self, outcome: &Outcome) {
        self.right.push(Some(outcome.right));
        self.found.push(outcome.found);
        self.cited.push(outcome.cited);
        self.modes.push(outcome.mode);
        self.first_token_ms.push(outcome.first_token_ms.round() as u64);
        self.total_ms.push(outcome.total_ms.round() as u64);
        self.prompt_tokens.push(u64::from(outcome.prompt_tokens));
    }

    /// Puts the outcomes of other questions after these.
    fn append(&mut self, other: &Self) {
        self.right.extend(&other.right);
        self.found.extend(&other.found);
        self.cited.extend(&other.cited);
        self.modes.push_str(&other.modes);
        self.first_token_ms.extend(&other.first_token_ms);
        self.total_ms.extend(&other.total_ms);
        self.prompt_tokens.extend(&other.prompt_tokens);
    }

    /// As many questions without an outcome.
    fn pad(&mut self, questions: usize) {
        for column in [&mut self.right, &mut self.found, &mut self.cited] {
            column.resize(column.len() + questions, None);
        }
        self.modes.extend(std::iter::repeat_n('-', questions));
    }
}

/// How many are true, and of how many.
pub(crate) fn count(column: &[Option<bool>]) -> (usize, usize) {
    (column.iter().flatten().filter(|&&yes| yes).count(), column.iter().flatten().count())
}

/// The middle value, or 0.
pub(crate) fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl Outcomes {
    pub(crate) fn push(&mut self, tokens: u64, task: &str, row: Row, outcome: &Outcome) {
        self.cells.entry(Key { tokens, task: task.to_owned(), row }).or_default().push(outcome);
    }

    pub(crate) fn get(&self, tokens: u64, task: &str, row: Row) -> Option<&Cell> {
        self.cells.get(&Key { tokens, task: task.to_owned(), row })
    }

    pub(crate) fn sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = self.cells.keys().map(|key| key.tokens).collect();
        sizes.dedup();
        sizes
    }

    /// Rows with an outcome, in the order of the tables.
    pub(crate) fn rows(&self) -> Vec<Row> {
        Row::ALL.into_iter().filter(|&row| self.cells.keys().any(|key| key.row == row)).collect()
    }

    pub(crate) fn has_task(&self, tokens: u64, task: &str) -> bool {
        self.cells.keys().any(|key| key.tokens == tokens && key.task == task)
    }

    /// The cells of several tasks after each other, each with as many questions as any row has.
    pub(crate) fn joined(&self, tokens: u64, tasks: &[&str], row: Row) -> Cell {
        let mut joined = Cell::default();
        for task in tasks {
            match self.get(tokens, task, row) {
                Some(cell) => joined.append(cell),
                None => joined.pad(self.questions(tokens, task)),
            }
        }
        joined
    }

    fn questions(&self, tokens: u64, task: &str) -> usize {
        let cells = self.cells.iter().filter(|(key, _)| key.tokens == tokens && key.task == task);
        cells.map(|(_, cell)| cell.right.len()).max().unwrap_or(0)
    }

    /// Adds rows of the same questions.
    ///
    /// # Errors
    /// If a row is there already, or has another number of questions.
    pub(crate) fn add_rows(&mut self, other: Self) -> Result<()> {
        for (key, cell) in other.cells {
            let (row, questions) = (key.row.name(), self.questions(key.tokens, &key.task));
            ensure!(questions == 0 || questions == cell.right.len(), "row {row} has other questions than its plan");
            if self.cells.insert(key, cell).is_some() {
                bail!("row {row} of the same questions is in two files: give each run once, or other seeds");
            }
        }
        Ok(())
    }

    /// Puts other questions after these; rows that one side lacks have no outcome there.
    pub(crate) fn add_questions(&mut self, other: &Self) {
        let keys: Vec<Key> = self.cells.keys().chain(other.cells.keys()).cloned().collect();
        let before: BTreeMap<(u64, String), usize> =
            keys.iter().map(|k| ((k.tokens, k.task.clone()), self.questions(k.tokens, &k.task))).collect();
        let mut done = std::collections::BTreeSet::new();
        for key in keys {
            if !done.insert(key.clone()) {
                continue;
            }
            let questions = before.get(&(key.tokens, key.task.clone())).copied().unwrap_or(0);
            let cell = self.cells.entry(key.clone()).or_default();
            cell.pad(questions.saturating_sub(cell.right.len()));
            match other.cells.get(&key) {
                Some(more) => cell.append(more),
                None => cell.pad(other.questions(key.tokens, &key.task)),
            }
        }
    }

    /// A line for each cell: `TOKENS TASK ROW` and its columns with `;` between, as [`Cell`] has them.
    pub(crate) fn to_json(&self) -> Value {
        let line = |(key, cell): (&Key, &Cell)| {
            let columns = [
                flags(&cell.right),
                flags(&cell.found),
                flags(&cell.cited),
                cell.modes.clone(),
                numbers(&cell.first_token_ms),
                numbers(&cell.total_ms),
                numbers(&cell.prompt_tokens),
            ];
            (format!("{} {} {}", key.tokens, key.task, key.row.name()), columns.join(";").into())
        };
        Value::Object(self.cells.iter().map(line).collect())
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// If it is something else.
    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let mut cells = BTreeMap::new();
        for (name, columns) in value.as_object().context("no outcomes")? {
            let wrong = || format!("{name:?} is no cell of outcomes");
            let [tokens, task, row] = fixed(name.split(' ')).with_context(wrong)?;
            let row = Row::named(row).with_context(wrong)?;
            let key = Key { tokens: tokens.parse().with_context(wrong)?, task: task.to_owned(), row };
            let columns = columns.as_str().with_context(wrong)?;
            let [right, found, cited, modes, first, total, prompt] = fixed(columns.split(';')).with_context(wrong)?;
            let cell = Cell {
                right: read_flags(right),
                found: read_flags(found),
                cited: read_flags(cited),
                modes: modes.to_owned(),
                first_token_ms: read_numbers(first)?,
                total_ms: read_numbers(total)?,
                prompt_tokens: read_numbers(prompt)?,
            };
            ensure!(cell.found.len() == cell.right.len() && cell.cited.len() == cell.right.len(), wrong());
            cells.insert(key, cell);
        }
        Ok(Self { cells })
    }
}

fn fixed<'t, const N: usize>(parts: impl Iterator<Item = &'t str>) -> Option<[&'t str; N]> {
    parts.collect::<Vec<_>>().try_into().ok()
}

fn flags(column: &[Option<bool>]) -> String {
    column.iter().map(|flag| flag.map_or('-', |yes| if yes { '1' } else { '0' })).collect()
}

fn read_flags(text: &str) -> Vec<Option<bool>> {
    text.chars().map(|c| (c != '-').then_some(c == '1')).collect()
}

fn numbers(column: &[u64]) -> String {
    column.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn read_numbers(text: &str) -> Result<Vec<u64>> {
    text.split_whitespace().map(|n| n.parse().with_context(|| format!("{n:?} is no number"))).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn outcome(right: bool) -> Outcome {
        Outcome {
            right,
            found: Some(true),
            cited: right.then_some(false),
            mode: 'r',
            first_token_ms: 12.4,
            total_ms: 30.0,
            prompt_tokens: 7,
            answer: String::new(),
        }
    }

    fn of(task: &str, row: Row, rights: &[bool]) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for &right in rights {
            outcomes.push(4_000, task, row, &outcome(right));
        }
        outcomes
    }

    #[test]
    fn outcomes_come_back_from_their_text() {
        let mut outcomes = of("single", Row::Auto, &[true, false]);
        outcomes.add_rows(of("single", Row::Bm25Neighbours, &[true, true])).unwrap();
        assert_eq!(Outcomes::from_json(&outcomes.to_json()).unwrap(), outcomes);
        assert!(Outcomes::from_json(&serde_json::json!({"4000 single auto": "1"})).is_err());
    }

    #[test]
    fn rows_of_the_same_questions_are_added_once() {
        let mut outcomes = of("single", Row::Auto, &[true, false]);
        assert!(outcomes.add_rows(of("single", Row::Auto, &[true, false])).is_err());
        assert!(outcomes.add_rows(of("single", Row::Bm25, &[true])).is_err());
    }

    #[test]
    fn pooled_questions_stay_paired() {
        let mut pooled = of("single", Row::Auto, &[true, false]);
        pooled.add_questions(&of("single", Row::Bm25, &[true]));
        let mut both = of("single", Row::Auto, &[false]);
        both.add_rows(of("single", Row::Bm25, &[true])).unwrap();
        pooled.add_questions(&both);
        let right = |row| pooled.get(4_000, "single", row).unwrap().right.clone();
        assert_eq!(right(Row::Auto), [Some(true), Some(false), None, Some(false)]);
        assert_eq!(right(Row::Bm25), [None, None, Some(true), Some(true)]);
    }

    #[test]
    fn joined_tasks_have_places_for_all_questions() {
        let mut outcomes = of("single", Row::Auto, &[true, false]);
        outcomes.add_rows(of("natural", Row::Nothing, &[true])).unwrap();
        assert_eq!(outcomes.joined(4_000, &["single", "natural"], Row::Nothing).right, [None, None, Some(true)]);
        assert_eq!(count(&[Some(true), None, Some(false)]), (1, 2));
    }
}
