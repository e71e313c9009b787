//! What is planted and what is asked: RULER's kinds (Hsieh et al. 2024), sentences in other words, updates, and facts that were
//! never said. Everything follows from the split, the seed and the number of the haystack.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::templates::{Form, Material, Split};
use super::unworded::{Unworded, unworded};
use crate::answering::{Denial, Expected};
use crate::grammar::draw;

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Task {
    /// One number, asked in the words of its statement.
    Single,
    /// One number, asked in other words.
    Paraphrased,
    /// A sentence about a person, asked in other words that share the name.
    Natural,
    /// A sentence asked in words of which it has none.
    Unworded,
    /// One number among twice as many statements of one form as there are questions.
    MultiKey,
    /// Two or three numbers under one key.
    MultiValue,
    /// Two keys in one question.
    MultiQuery,
    /// A variable that is given the value of another.
    Variables,
    /// Two dated statements, in two documents; the later date counts.
    Updated,
    /// A key that was never planted.
    Absent,
    /// General questions that memory says nothing about.
    General,
}

impl Task {
    pub(crate) const PLANTED: [Self; 9] = [
        Self::Single,
        Self::Paraphrased,
        Self::Natural,
        Self::Unworded,
        Self::MultiKey,
        Self::MultiValue,
        Self::MultiQuery,
        Self::Variables,
        Self::Updated,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Paraphrased => "paraphrased",
            Self::Natural => "natural",
            Self::Unworded => "unworded",
            Self::MultiKey => "multi-key",
            Self::MultiValue => "multi-value",
            Self::MultiQuery => "multi-query",
            Self::Variables => "variables",
            Self::Updated => "updated",
            Self::Absent => "absent",
            Self::General => "general",
        }
    }
}

/// A sentence to be planted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) text: String,
    /// In which of the two documents it stands; `None`: in either.
    pub(crate) document: Option<usize>,
}

/// A question about some of the statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) task: Task,
    pub(crate) text: String,
    pub(crate) expected: Expected,
    /// Indices of the statements that hold the answer.
    pub(crate) statements: Vec<usize>,
}

/// All that one haystack holds and is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) statements: Vec<Statement>,
    pub(crate) questions: Vec<Question>,
    /// Dates of the two documents, as metadata has them.
    pub(crate) dates: [&'static str; 2],
}

/// What haystack number `haystack` holds, with `items` questions of each of the tasks.
///
/// # Errors
/// If there are more items than the material has keys for.
pub(crate) fn plan(split: Split, seed: u64, haystack: u64, tasks: &[Task], items: usize) -> Result<Plan> {
    let mut planner = Planner::new(split, seed, haystack);
    for &task in tasks {
        for item in 0..items {
            planner.add(task, item)?;
        }
    }
    Ok(planner.plan)
}

impl Plan {
    /// The statements of each document, in the order in which they stand there: each kind at all depths, and as many in one
    /// document as in the other, but for those that belong into one.
    pub(crate) fn order(&self, seed: u64, haystack: u64) -> [Vec<usize>; 2] {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x4f52_4445);
        rng.set_stream(haystack);
        let mut order = [Vec::new(), Vec::new()];
        let mut free = Vec::new();
        for (at, statement) in self.statements.iter().enumerate() {
            match statement.document {
                Some(document) => order[document].push(at),
                None => free.push(at),
            }
        }
        shuffle(&mut rng, &mut free);
        for at in free {
            let shorter = usize::from(order[1].len() < order[0].len());
            order[shorter].push(at);
        }
        for part in &mut order {
            shuffle(&mut rng, part);
        }
        order
    }
}

struct Planner {
    material: &'static Material,
    rng: ChaCha8Rng,
    haystack: usize,
    /// Not used yet.
    keys: Vec<String>,
    people: Vec<String>,
    numbers: HashSet<u32>,
    variables: HashSet<String>,
    /// Of each natural form: its values in an order of their own, and how many were used.
    naturals: Vec<(Vec<&'static str>, usize)>,
    /// Not used yet.
    unworded: Vec<&'static Unworded>,
    plan: Plan,
}

impl Planner {
    fn new(split: Split, seed: u64, haystack: u64) -> Self {
        let material = split.material();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(haystack);
        let [first, second] = material.key_words;
        let mut keys: Vec<String> = first.iter().flat_map(|a| second.iter().map(move |b| format!("{a}-{b}"))).collect();
        shuffle(&mut rng, &mut keys);
        let people = people(&mut rng, material);
        let naturals = material.naturals.iter().map(|form| (shuffled(&mut rng, form.values), 0)).collect();
        // In every second haystack the later date stands in the first document: no place tells what is later.
        let [early, late] = [material.dates[0].iso, material.dates[1].iso];
        let dates = if haystack.is_multiple_of(2) { [early, late] } else { [late, early] };
        let plan = Plan { statements: Vec::new(), questions: Vec::new(), dates };
        let (numbers, variables) = (HashSet::new(), HashSet::new());
        // From a generator of its own: what older results drew stays as it was.
        let mut own = ChaCha8Rng::seed_from_u64(seed ^ 0x554e_574f);
        own.set_stream(haystack);
        let unworded = shuffled(&mut own, &unworded(split).iter().collect::<Vec<_>>());
        Self { material, rng, haystack: haystack as usize, keys, people, numbers, variables, naturals, unworded, plan }
    }

    fn add(&mut self, task: Task, item: usize) -> Result<()> {
        let rotated = item + self.haystack;
        match task {
            Task::Single | Task::Paraphrased => {
                let form = pick(self.material.forms, rotated);
                let question = if task == Task::Single { form.verbatim } else { form.paraphrased };
                self.number(task, form, question)
            }
            Task::MultiKey => {
                // One form for all of a haystack; every question brings another statement that nobody asks about.
                let form = pick(self.material.forms, self.haystack);
                self.number(task, form, form.verbatim)?;
                let (key, value) = (self.key()?, self.value()?);
                self.state(fill(form.statement, &[("key", &key), ("value", &value)]));
                Ok(())
            }
            Task::Natural => self.natural(rotated),
            Task::Unworded => self.unworded(),
            Task::MultiValue => self.several_values(rotated),
            Task::MultiQuery => self.two_keys(rotated),
            Task::Variables => self.chain(rotated, item.is_multiple_of(2)),
            Task::Updated => self.update(rotated),
            Task::Absent => self.absent(rotated),
            Task::General => Ok(()),
        }
    }

    fn number(&mut self, task: Task, form: &Form, question: &str) -> Result<()> {
        let (key, value) = (self.key()?, self.value()?);
        let statement = self.state(fill(form.statement, &[("key", &key), ("value", &value)]));
        self.ask(task, fill(question, &[("key", &key)]), Expected::all_of([value]), vec![statement]);
        Ok(())
    }

    fn natural(&mut self, rotated: usize) -> Result<()> {
        let at = rotated % self.material.naturals.len();
        let form = &self.material.naturals[at];
        let (values, used) = &mut self.naturals[at];
        let value = values[*used % values.len()];
        *used += 1;
        let (said, core) = value.split_once('|').unwrap_or((value, value));
        let name = self.person()?;
        let statement = self.state(fill(form.statement, &[("name", &name), ("value", said)]));
        self.ask(Task::Natural, fill(form.question, &[("name", &name)]), Expected::all_of([core]), vec![statement]);
        Ok(())
    }

    fn unworded(&mut self) -> Result<()> {
        let pair = self.unworded.pop().ok_or_else(too_many)?;
        let statement = self.state(pair.statement.to_owned());
        let expected = Expected::one_of(pair.accepted.split(';'));
        self.ask(Task::Unworded, pair.question.to_owned(), expected, vec![statement]);
        Ok(())
    }

    fn several_values(&mut self, rotated: usize) -> Result<()> {
        let form = pick(self.material.several_values, rotated);
        let key = self.key()?;
        let values = (0..2 + rotated % 2).map(|_| self.value()).collect::<Result<Vec<_>>>()?;
        let statements =
            values.iter().map(|value| self.state(fill(form.statement, &[("key", &key), ("value", value)]))).collect();
        self.ask(Task::MultiValue, fill(form.question, &[("key", &key)]), Expected::all_of(values), statements);
        Ok(())
    }

    fn two_keys(&mut self, rotated: usize) -> Result<()> {
        let form = pick(self.material.two_keys, rotated);
        let (a, b) = (self.key()?, self.key()?);
        let values = [self.value()?, self.value()?];
        let statements = [&a, &b]
            .into_iter()
            .zip(&values)
            .map(|(key, value)| self.state(fill(form.statement, &[("key", key), ("value", value)])))
            .collect();
        self.ask(Task::MultiQuery, fill(form.question, &[("a", &a), ("b", &b)]), Expected::all_of(values), statements);
        Ok(())
    }

    fn chain(&mut self, rotated: usize, asks_value: bool) -> Result<()> {
        let form = pick(self.material.chains, rotated);
        let (first, second, value) = (self.variable()?, self.variable()?, self.value()?);
        let statements = vec![
            self.state(fill(form.value, &[("name", &first), ("value", &value)])),
            self.state(fill(form.copy, &[("name", &second), ("other", &first)])),
        ];
        let (question, expected) = if asks_value {
            (fill(form.ask_value, &[("name", &second)]), Expected::all_of([value]))
        } else {
            (fill(form.ask_names, &[("value", &value)]), Expected::all_of([first, second]))
        };
        self.ask(Task::Variables, question, expected, statements);
        Ok(())
    }

    fn update(&mut self, rotated: usize) -> Result<()> {
        let form = pick(self.material.updates, rotated);
        let key = self.key()?;
        let [old, new] = if form.values.is_empty() {
            [self.value()?, self.value()?]
        } else {
            let first = draw(&mut self.rng, form.values.len());
            let second = (first + 1 + draw(&mut self.rng, form.values.len() - 1)) % form.values.len();
            [form.values[first].to_owned(), form.values[second].to_owned()]
        };
        let mut statements = Vec::new();
        for (date, value) in self.material.dates.iter().zip([&old, &new]) {
            let document = usize::from(self.plan.dates[0] != date.iso);
            let text = fill(form.statement, &[("date", date.said), ("key", &key), ("value", value)]);
            self.plan.statements.push(Statement { text, document: Some(document) });
            statements.push(self.plan.statements.len() - 1);
        }
        // The older statement is no evidence: only the later one holds the answer.
        let expected = Expected { none: vec![old], ..Expected::all_of([new]) };
        self.ask(Task::Updated, fill(form.question, &[("key", &key)]), expected, statements.split_off(1));
        Ok(())
    }

    fn absent(&mut self, rotated: usize) -> Result<()> {
        let (question, denial) = match rotated % 3 {
            0 => (fill(pick(self.material.forms, rotated / 3).verbatim, &[("key", &self.key()?)]), Denial::Number),
            1 => {
                let form = pick(self.material.naturals, rotated / 3);
                (fill(form.question, &[("name", &self.person()?)]), Denial::Words)
            }
            _ => (fill(pick(self.material.forms, rotated / 3).paraphrased, &[("key", &self.key()?)]), Denial::Number),
        };
        let values = self.material.naturals.iter().flat_map(|form| form.values);
        let cores = values.map(|value| value.rsplit('|').next().unwrap_or(value).to_owned());
        let none = cores.filter(|core| !question.contains(core.as_str())).collect();
        let expected = Expected { none, denial: Some(denial), ..Expected::default() };
        self.ask(Task::Absent, question, expected, Vec::new());
        Ok(())
    }

    fn state(&mut self, text: String) -> usize {
        self.plan.statements.push(Statement { text, document: None });
        self.plan.statements.len() - 1
    }

    fn ask(&mut self, task: Task, text: String, expected: Expected, statements: Vec<usize>) {
        self.plan.questions.push(Question { task, text, expected, statements });
    }

    fn key(&mut self) -> Result<String> {
        self.keys.pop().ok_or_else(too_many)
    }

    fn person(&mut self) -> Result<String> {
        self.people.pop().ok_or_else(too_many)
    }

    /// Five digits that no other statement has.
    fn value(&mut self) -> Result<String> {
        let range = &self.material.numbers;
        ensure!(self.numbers.len() < range.len() / 2, too_many());
        loop {
            let number = range.start + draw(&mut self.rng, range.len()) as u32;
            if self.numbers.insert(number) {
                return Ok(number.to_string());
            }
        }
    }

    /// Five letters, such as `KOFEB`.
    fn variable(&mut self) -> Result<String> {
        const VOWELS: &[u8] = b"AEIOU";
        let consonants = self.material.consonants;
        ensure!(self.variables.len() < consonants.len().pow(3), too_many());
        loop {
            let mut letter = |of: &[u8]| char::from(of[draw(&mut self.rng, of.len())]);
            let name: String = (0..5).map(|at| letter(if at % 2 == 0 { consonants } else { VOWELS })).collect();
            if self.variables.insert(name.clone()) {
                return Ok(name);
            }
        }
    }
}

fn too_many() -> anyhow::Error {
    anyhow::anyhow!("there are not enough names for so many questions in one haystack; lower --items")
}

/// Names, such that surnames come again, under other titles, only after all of them were used.
fn people(rng: &mut ChaCha8Rng, material: &Material) -> Vec<String> {
    let (titles, surnames) = (shuffled(rng, material.titles), shuffled(rng, material.surnames));
    let name = |at: usize| {
        let title = titles[(at + at / surnames.len()) % titles.len()];
        format!("{title} {}", surnames[at % surnames.len()])
    };
    let mut people: Vec<String> = (0..titles.len() * surnames.len()).map(name).collect();
    let mut seen = HashSet::new();
    people.retain(|name| seen.insert(name.clone()));
    people.reverse();
    people
}

fn pick<T>(from: &[T], at: usize) -> &T {
    &from[at % from.len()]
}

/// A template with its places filled in.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

fn shuffled<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> Vec<T> {
    let mut items = from.to_vec();
    shuffle(rng, &mut items);
    items
}

/// Fisher and Yates.
pub(crate) fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, draw(rng, last + 1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let make = |seed, haystack| plan(Split::Dev, seed, haystack, Task::value_variants(), 6).unwrap();
        assert_eq!(make(1, 0), make(1, 0));
        assert_ne!(make(1, 0), make(2, 0));
        assert_ne!(make(1, 0), make(1, 1));
    }

    #[test]
    fn statements_hold_what_is_expected_and_questions_do_not() {
        for split in [Split::Dev, Split::Final] {
            let plan = plan(split, 3, 1, Task::value_variants(), 8).unwrap();
            for question in &plan.questions {
                assert!(!question.text.contains('{'), "{}", question.text);
                let evidence: String =
                    question.statements.iter().map(|&at| plan.statements[at].text.clone() + " ").collect();
                assert!(!evidence.contains('{'), "{evidence}");
                assert_eq!(evidence.is_empty(), question.task == Task::Absent);
                if question.task != Task::Absent {
                    assert!(question.expected.is_met_by(&evidence, &question.text), "{question:?} {evidence}");
                    assert!(!question.expected.is_met_by(&question.text, &question.text), "{question:?}");
                }
            }
            for task in Task::PLANTED {
                assert_eq!(plan.questions.iter().filter(|q| q.task == task).count(), 8);
            }
        }
    }

    #[test]
    fn every_statement_is_there_once() {
        let plan = plan(Split::Final, 5, 0, Task::value_variants(), 10).unwrap();
        let texts: HashSet<&str> = plan.statements.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts.len(), plan.statements.len());
        assert!(super::plan(Split::Final, 5, 0, Task::value_variants(), 10_000).is_err());
    }

    #[test]
    fn every_statement_has_its_place_in_one_document() {
        let plan = plan(Split::Dev, 1, 0, Task::value_variants(), 5).unwrap();
        let order = plan.order(1, 0);
        let mut all: Vec<usize> = order.iter().flatten().copied().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..plan.statements.len()));
        assert!(order[0].len().abs_diff(order[1].len()) <= 1);
        for (document, part) in order.iter().enumerate() {
            assert!(part.iter().all(|&at| plan.statements[at].document.is_none_or(|d| d == document)));
        }
        assert_eq!(plan.order(1, 0), order);
        assert_ne!(plan.order(2, 0), order);
    }

    #[test]
    fn later_dates_stand_in_either_document() {
        for haystack in 0..2 {
            let plan = plan(Split::Dev, 1, haystack, &[Task::Updated], 2).unwrap();
            let latest = &plan.statements[plan.questions[0].statements[0]];
            assert!(latest.text.contains("1874"));
            assert_eq!(latest.document, Some(1 - haystack as usize));
            assert_eq!(plan.dates[1 - haystack as usize], "1874-09-30");
        }
    }
}
