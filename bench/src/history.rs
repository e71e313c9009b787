//! A generated history of an agent: small talk, tool output and notes, with facts planted at known depths.
//!
//! The grammar is the one the default model was trained with (`models/default/histories.json`); the history
//! itself is new with every seed. Lines are made one at a time, so that a history may be longer than memory.
//! What is kept is the list of planted facts, at most [`FACTS_MAX`].
//!
//! The same seed, length and number of questions give the same text on every machine: numbers are drawn from
//! `ChaCha8` by a rule of our own, so that no library update changes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

/// Facts planted at most, the ones that are asked about included.
pub const FACTS_MAX: usize = 2_000;

/// Bytes of history for each fact that nobody asks about.
const BYTES_PER_OTHER_FACT: u64 = 2_500;

const GRAMMAR: &str = include_str!("../../models/default/histories.json");

#[derive(Debug, Deserialize)]
struct Grammar {
    version: u32,
    slots: BTreeMap<String, Vec<String>>,
    turns: Vec<String>,
    facts: Vec<FactKind>,
}

#[derive(Debug, Deserialize)]
struct FactKind {
    subject: String,
    value: String,
    statements: Vec<String>,
    questions: Vec<String>,
    answer: String,
    /// Lines that give an earlier fact a new value.
    #[serde(default)]
    updates: Vec<String>,
    #[serde(default)]
    updated_answer: String,
}

/// Something said once in a history, and how to ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is about; no other fact of the history has the same subject.
    pub subject: String,
    /// What an answer must contain.
    pub value: String,
    /// The line that says it, without its line break.
    pub statement: String,
    /// A prompt that asks for it and ends in `Answer:`.
    pub question: String,
    /// The answer in full.
    pub answer: String,
    /// Whether it is one of the facts to ask about.
    pub asked: bool,
    /// What this fact is to another one about the same subject.
    pub revision: Revision,
}

/// Whether a fact changes in the course of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// Said once.
    None,
    /// A later line gives another value.
    Superseded,
    /// The latest value; an earlier line gave another one.
    Latest,
}

impl Fact {
    /// Whether an answer gives the value: as a word of its own, after the subject if it repeats the subject.
    pub fn is_answered_by(&self, text: &str) -> bool {
        let said = text.split_once(&self.subject).map_or(text, |(_, rest)| rest);
        said.match_indices(&self.value).any(|(at, value)| {
            let outside = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
            outside(said[..at].chars().next_back()) && outside(said[at + value.len()..].chars().next())
        })
    }
}

/// A fact with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    /// What is said.
    pub fact: Fact,
    /// First byte of the statement.
    pub byte_start: u64,
    /// One past its last byte.
    pub byte_end: u64,
}

/// Which history to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Of the random choices.
    pub seed: u64,
    /// Length wanted; the text is longer by a few lines at most.
    pub bytes: u64,
    /// Facts to ask about, spread evenly from the first line to the last.
    pub questions: usize,
    /// How many of these revise an earlier fact: every second one, from the second on.
    pub revised: usize,
}

/// What a history contains, found by making it once without keeping it.
#[derive(Debug)]
pub struct Survey {
    /// Exact length of the text.
    pub bytes: u64,
    /// The facts in the order of the text.
    pub facts: Vec<Planted>,
    /// Facts like those asked about that the history does not state.
    pub absent: Vec<Fact>,
    /// How the history goes on after its end, coming back to facts that were not asked about.
    pub continuation: Continuation,
}

impl Survey {
    /// The facts to ask about, in the order of the text.
    pub fn asked(&self) -> impl Iterator<Item = &Planted> {
        self.facts.iter().filter(|p| p.fact.asked)
    }
}

/// Text that follows a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Continuation {
    /// What follows.
    pub text: String,
    /// How many of the planted facts it comes back to.
    pub recalled_facts: usize,
}

/// The lines of a history, each with its line break.
#[derive(Debug)]
pub struct History {
    grammar: Grammar,
    rng: ChaCha8Rng,
    plan: Plan,
    /// Paragraphs that stand among the lines of the grammar, in this order.
    prose: Arc<[String]>,
    next_prose: usize,
    /// Facts with the position from which on each is due, ascending.
    facts: Vec<(u64, Fact)>,
    next_fact: usize,
    position: u64,
}

impl History {
    /// Chooses the facts; no text is made yet.
    ///
    /// Half of the lines that state no fact are taken from `prose`, as long as there is any.
    ///
    /// # Errors
    /// If the built-in grammar is damaged, or has too few subjects for the plan.
    pub fn new(plan: Plan, prose: Arc<[String]>) -> Result<Self> {
        let grammar = Grammar::built_in()?;
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let facts = plant(&grammar, &mut rng, plan)?;
        Ok(Self { grammar, rng, plan, prose, next_prose: 0, facts, next_fact: 0, position: 0 })
    }

    /// Makes the whole history once and returns what is in it. `continuation_bytes` is the length of the
    /// text that follows it.
    ///
    /// # Errors
    /// As for [`History::new`].
    pub fn survey(plan: Plan, prose: Arc<[String]>, continuation_bytes: usize) -> Result<Survey> {
        let mut history = Self::new(plan, prose)?;
        let mut facts = Vec::with_capacity(history.facts.len());
        loop {
            let (index, byte_start) = (history.next_fact, history.position);
            if history.next().is_none() {
                break;
            }
            if history.next_fact > index {
                let fact = history.facts[index].1.clone();
                let byte_end = byte_start + fact.statement.len() as u64;
                facts.push(Planted { fact, byte_start, byte_end });
            }
        }
        let bytes = history.position;
        let continuation = history.continuation(continuation_bytes)?;
        let mut subjects: HashSet<String> = facts.iter().map(|p| p.fact.subject.clone()).collect();
        let absent = (0..plan.questions)
            .map(|_| history.grammar.fact(&mut history.rng, &mut subjects))
            .collect::<Result<_>>()?;
        Ok(Survey { bytes, facts, absent, continuation })
    }

    /// Goes on after the end: small talk, and every few lines a question about a fact of the history that
    /// was not to be asked about, with its answer.
    fn continuation(&mut self, bytes: usize) -> Result<Continuation> {
        const LINES_BETWEEN_FACTS: usize = 5;
        let mut others: Vec<Fact> = self
            .facts
            .iter()
            .filter(|(_, f)| !f.asked && f.revision == Revision::None)
            .map(|(_, f)| f.clone())
            .collect();
        let mut text = String::with_capacity(bytes + 128);
        let (mut recalled_facts, mut lines) = (0, 0);
        while text.len() < bytes {
            lines += 1;
            if lines % LINES_BETWEEN_FACTS == 0 && !others.is_empty() {
                let fact = others.swap_remove(draw(&mut self.rng, others.len()));
                text.push_str(&fact.question);
                text.push_str(&fact.answer);
                recalled_facts += 1;
            } else {
                text.push_str(&self.grammar.turn(&mut self.rng)?);
            }
            text.push('\n');
        }
        Ok(Continuation { text, recalled_facts })
    }
}

impl Iterator for History {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let due = self.facts.get(self.next_fact).is_some_and(|(at, _)| *at <= self.position);
        let mut line = if due || (self.position >= self.plan.bytes && self.next_fact < self.facts.len()) {
            self.next_fact += 1;
            self.facts[self.next_fact - 1].1.statement.clone()
        } else if self.position < self.plan.bytes {
            if self.next_prose < self.prose.len() && draw(&mut self.rng, 2) == 0 {
                self.next_prose += 1;
                self.prose[self.next_prose - 1].clone()
            } else {
                // The built-in grammar was checked when it was read.
                self.grammar.turn(&mut self.rng).ok()?
            }
        } else {
            return None;
        };
        line.push('\n');
        self.position += line.len() as u64;
        Some(line)
    }
}

/// Chooses facts with unique subjects and where each is due.
fn plant(grammar: &Grammar, rng: &mut ChaCha8Rng, plan: Plan) -> Result<Vec<(u64, Fact)>> {
    let asked = plan.questions.min(FACTS_MAX);
    let others = ((plan.bytes / BYTES_PER_OTHER_FACT) as usize).clamp(asked, FACTS_MAX.max(2 * asked) - asked);
    let mut subjects = HashSet::new();
    let mut facts = Vec::with_capacity(asked + others);
    for index in 0..asked + others {
        let revises = index < asked && index % 2 == 1 && index / 2 < plan.revised;
        let (mut fact, earlier) =
            if revises { grammar.revised_fact(rng, &mut subjects)? } else { (grammar.fact(rng, &mut subjects)?, None) };
        fact.asked = index < asked;
        // The last of the facts asked about ends where the history ends.
        let room = plan.bytes.saturating_sub(fact.statement.len() as u64 + 1);
        let due = match (fact.asked, asked) {
            (true, 1) => room / 2,
            (true, _) => room * index as u64 / (asked as u64 - 1),
            (false, _) => draw(rng, room as usize + 1) as u64,
        };
        facts.extend(earlier.map(|earlier| (due / 2, earlier)));
        facts.push((due, fact));
    }
    // Stable, so that a fact asked about comes before others due at the same byte.
    facts.sort_by_key(|(due, _)| *due);
    Ok(facts)
}

impl Grammar {
    /// Reads the grammar and checks that every template can be filled.
    fn built_in() -> Result<Self> {
        let grammar: Self = serde_json::from_str(GRAMMAR).context("the built-in grammar of histories is damaged")?;
        if grammar.version != 1 {
            bail!("the built-in grammar of histories has version {}; this program knows version 1", grammar.version);
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for turn in &grammar.turns {
            grammar.fill(turn, &mut rng)?;
        }
        Ok(grammar)
    }

    /// A line that states no fact.
    fn turn(&self, rng: &mut ChaCha8Rng) -> Result<String> {
        self.fill(choose(&self.turns, rng)?, rng)
    }

    /// A fact about a subject that is not among `subjects`; the subject is added to them.
    fn fact(&self, rng: &mut ChaCha8Rng, subjects: &mut HashSet<String>) -> Result<Fact> {
        let (kind, subject) = self.subject(rng, subjects)?;
        let value = self.value(&kind.value, rng)?;
        Self::state(kind, &kind.statements, &kind.answer, subject, value, rng)
    }

    /// A fact that revises another one, which comes with it.
    fn revised_fact(&self, rng: &mut ChaCha8Rng, subjects: &mut HashSet<String>) -> Result<(Fact, Option<Fact>)> {
        let (kind, subject) = self.subject(rng, subjects)?;
        let value = self.value(&kind.value, rng)?;
        let mut old = value.clone();
        while old == value {
            old = self.value(&kind.value, rng)?;
        }
        let earlier = Self::state(kind, &kind.statements, &kind.answer, subject.clone(), old, rng)?;
        let latest = Self::state(kind, &kind.updates, &kind.updated_answer, subject, value, rng)?;
        Ok((Fact { revision: Revision::Latest, ..latest }, Some(Fact { revision: Revision::Superseded, ..earlier })))
    }

    /// A kind of fact, and a new subject for it.
    fn subject(&self, rng: &mut ChaCha8Rng, subjects: &mut HashSet<String>) -> Result<(&FactKind, String)> {
        const TRIES: usize = 10_000;
        for _ in 0..TRIES {
            let kind = choose(&self.facts, rng)?;
            let subject = self.fill(&kind.subject, rng)?;
            if subjects.insert(subject.clone()) {
                return Ok((kind, subject));
            }
        }
        bail!("the grammar of histories has too few subjects for {} facts", subjects.len() + 1)
    }

    /// Fills in a statement, a question and the answer.
    fn state(
        kind: &FactKind,
        statements: &[String],
        answer: &str,
        subject: String,
        value: String,
        rng: &mut ChaCha8Rng,
    ) -> Result<Fact> {
        let fill = |template: &str| template.replace("{subject}", &subject).replace("{value}", &value);
        Ok(Fact {
            statement: fill(choose(statements, rng)?),
            question: fill(choose(&kind.questions, rng)?),
            answer: fill(answer),
            subject,
            value,
            asked: false,
            revision: Revision::None,
        })
    }

    /// A value of a form such as `digits:4` or `slot:place`.
    fn value(&self, form: &str, rng: &mut ChaCha8Rng) -> Result<String> {
        match form.split_once(':') {
            Some(("digits", count)) => {
                let count: usize = count.parse().with_context(|| format!("form of values {form:?}"))?;
                Ok((0..count).map(|_| char::from(b'0' + draw(rng, 10) as u8)).collect())
            }
            Some(("slot", slot)) => self.word(slot, rng).map(str::to_owned),
            _ => bail!("the grammar of histories has an unknown form of values: {form:?}"),
        }
    }

    /// Replaces every `{slot}` by a word of that slot.
    fn fill(&self, template: &str, rng: &mut ChaCha8Rng) -> Result<String> {
        let mut text = String::with_capacity(template.len() + 32);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, after) = after.split_once('}').with_context(|| format!("open brace in {template:?}"))?;
            text.push_str(before);
            text.push_str(self.word(slot, rng)?);
            rest = after;
        }
        text.push_str(rest);
        Ok(text)
    }

    fn word(&self, slot: &str, rng: &mut ChaCha8Rng) -> Result<&str> {
        let words = self.slots.get(slot).with_context(|| format!("the grammar of histories has no slot {slot:?}"))?;
        choose(words, rng).map(String::as_str)
    }
}

fn choose<'a, T>(from: &'a [T], rng: &mut ChaCha8Rng) -> Result<&'a T> {
    if from.is_empty() {
        bail!("the grammar of histories has an empty list");
    }
    Ok(&from[draw(rng, from.len())])
}

/// A number below `bound`, each about equally likely.
fn draw(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLAN: Plan = Plan { seed: 7, bytes: 60_000, questions: 8, revised: 0 };

    fn text(plan: Plan) -> String {
        History::new(plan, Arc::default()).unwrap().collect()
    }

    #[test]
    fn the_same_plan_gives_the_same_text() {
        assert_eq!(text(PLAN), text(PLAN));
        assert_ne!(text(PLAN), text(Plan { seed: 8, ..PLAN }));
        let (a, b) = (
            History::survey(PLAN, Arc::default(), 2_000).unwrap(),
            History::survey(PLAN, Arc::default(), 2_000).unwrap(),
        );
        assert_eq!((a.facts, a.continuation), (b.facts, b.continuation));
    }

    #[test]
    fn facts_stand_where_the_survey_says() {
        let text = text(PLAN);
        let survey = History::survey(PLAN, Arc::default(), 0).unwrap();
        assert_eq!(survey.bytes, text.len() as u64);
        assert!(survey.bytes >= PLAN.bytes && survey.bytes < PLAN.bytes + 2_000);
        for planted in &survey.facts {
            assert_eq!(&text[planted.byte_start as usize..planted.byte_end as usize], planted.fact.statement);
            assert!(planted.fact.statement.contains(&planted.fact.value));
        }
    }

    #[test]
    fn asked_facts_span_the_whole_history_evenly() {
        let survey = History::survey(PLAN, Arc::default(), 0).unwrap();
        let asked: Vec<&Planted> = survey.asked().collect();
        assert_eq!(asked.len(), PLAN.questions);
        assert_eq!(asked[0].byte_start, 0);
        for (i, planted) in asked.iter().enumerate() {
            let depth = planted.byte_start as f64 / survey.bytes as f64;
            assert!((depth - i as f64 / 7.0).abs() < 0.03, "fact {i} at depth {depth}");
        }
    }

    #[test]
    fn subjects_are_unique_and_each_fact_is_said_once() {
        let text = text(PLAN);
        let survey = History::survey(PLAN, Arc::default(), 0).unwrap();
        let subjects: HashSet<&str> = survey.facts.iter().map(|p| p.fact.subject.as_str()).collect();
        assert_eq!(subjects.len(), survey.facts.len());
        for planted in &survey.facts {
            assert_eq!(text.matches(&planted.fact.statement).count(), 1);
        }
    }

    #[test]
    fn a_long_history_stays_within_its_facts() {
        let plan = Plan { seed: 1, bytes: 8_000_000, questions: 8, revised: 0 };
        assert_eq!(History::new(plan, Arc::default()).unwrap().facts.len(), FACTS_MAX);
        let plan = Plan { seed: 1, bytes: 0, questions: 3, revised: 0 };
        assert_eq!(text(plan).lines().count(), 6);
    }

    #[test]
    fn the_continuation_asks_about_other_facts_and_is_not_in_the_history() {
        let survey = History::survey(PLAN, Arc::default(), 3_000).unwrap();
        let continuation = &survey.continuation;
        assert!(continuation.text.len() >= 3_000 && continuation.recalled_facts >= 4);
        for planted in survey.asked() {
            assert!(!continuation.text.contains(&planted.fact.answer));
        }
        assert!(!text(PLAN).contains(&continuation.text[..200]));
    }

    #[test]
    fn revised_facts_are_said_before_they_are_revised() {
        let plan = Plan { revised: 3, ..PLAN };
        let survey = History::survey(plan, Arc::default(), 0).unwrap();
        let latest: Vec<&Planted> = survey.asked().filter(|p| p.fact.revision == Revision::Latest).collect();
        assert_eq!(latest.len(), 3);
        for late in latest {
            let earlier = survey
                .facts
                .iter()
                .find(|p| p.fact.subject == late.fact.subject && p.fact.revision == Revision::Superseded)
                .unwrap();
            assert!(earlier.byte_end <= late.byte_start && earlier.fact.value != late.fact.value);
            assert!(late.fact.answer.contains(" now "));
        }
    }

    #[test]
    fn prose_stands_among_the_lines() {
        let prose: Arc<[String]> = (0..40).map(|i| format!("Paragraph {i} of a book.")).collect();
        let text: String = History::new(PLAN, prose).unwrap().collect();
        assert_eq!(text.matches(" of a book.\n").count(), 40);
    }

    #[test]
    fn an_answer_must_give_the_value_as_a_word() {
        let fact = Fact {
            subject: "the red tower".into(),
            value: "tower".into(),
            statement: String::new(),
            question: String::new(),
            answer: String::new(),
            asked: true,
            revision: Revision::None,
        };
        assert!(fact.is_answered_by(" the storage place of the red tower is tower."));
        assert!(fact.is_answered_by("tower"));
        assert!(!fact.is_answered_by(" the storage place of the red tower is dock."));
        assert!(!fact.is_answered_by(" the storage place of the red tower is towers."));
        assert!(!fact.is_answered_by(""));
    }
}
