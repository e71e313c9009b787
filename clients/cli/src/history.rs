//! A generated history of an agent: small talk, tool output and notes, with facts planted at known depths.
//!
//! The grammar is the one the default model was trained with (`models/default/histories.json`); the history
//! itself is new with every seed. Lines are made one at a time, so that a history may be longer than memory.
//! What is kept is the list of planted facts, at most [`FACTS_MAX`].
//!
//! The same seed, length and number of questions give the same text on every machine: numbers are drawn from
//! `ChaCha8` by a rule of our own, so that no library update changes them.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

/// Facts planted at most, the ones that are asked about included.
pub(crate) const FACTS_MAX: usize = 2_000;

/// Bytes of history for each fact that nobody asks about.
const BYTES_PER_OTHER_FACT: u64 = 2_500;

const GRAMMAR: &str = include_str!("../../../models/default/histories.json");

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
}

/// Something said once in a history, and how to ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    /// What it is about; no other fact of the history has the same subject.
    pub(crate) subject: String,
    /// What an answer must contain.
    pub(crate) value: String,
    /// The line that says it, without its line break.
    pub(crate) statement: String,
    /// A prompt that asks for it and ends in `Answer:`.
    pub(crate) question: String,
    /// The answer in full.
    pub(crate) answer: String,
    /// Whether it is one of the facts to ask about.
    pub(crate) asked: bool,
}

impl Fact {
    /// Whether an answer gives the value: as a word of its own, after the subject if it repeats the subject.
    pub(crate) fn is_answered_by(&self, text: &str) -> bool {
        let said = text.split_once(&self.subject).map_or(text, |(_, rest)| rest);
        said.match_indices(&self.value).any(|(at, value)| {
            let outside = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
            outside(said[..at].chars().next_back()) && outside(said[at + value.len()..].chars().next())
        })
    }
}

/// A fact with its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planted {
    pub(crate) fact: Fact,
    /// First byte of the statement.
    pub(crate) byte_start: u64,
    /// One past its last byte.
    pub(crate) byte_end: u64,
}

/// Which history to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Length wanted; the text is longer by a few lines at most.
    pub(crate) bytes: u64,
    /// Facts to ask about, spread evenly from the first line to the last.
    pub(crate) questions: usize,
}

/// What a history contains, found by making it once without keeping it.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Exact length of the text.
    pub(crate) bytes: u64,
    /// The facts in the order of the text.
    pub(crate) facts: Vec<Planted>,
    /// How the history goes on after its end, coming back to facts that were not asked about.
    pub(crate) continuation: Continuation,
}

impl Survey {
    /// The facts to ask about, in the order of the text.
    pub(crate) fn asked(&self) -> impl Iterator<Item = &Planted> {
        self.facts.iter().filter(|p| p.fact.asked)
    }
}

/// Text that follows a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continuation {
    pub(crate) text: String,
    /// How many of the planted facts it comes back to.
    pub(crate) recalled_facts: usize,
}

/// The lines of a history, each with its line break.
#[derive(Debug)]
pub(crate) struct History {
    grammar: Grammar,
    rng: ChaCha8Rng,
    plan: Plan,
    /// Facts with the position from which on each is due, ascending.
    facts: Vec<(u64, Fact)>,
    next_fact: usize,
    position: u64,
}

impl History {
    /// Chooses the facts; no text is made yet.
    pub(crate) fn new(plan: Plan) -> Result<Self> {
        let grammar = Grammar::built_in()?;
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
        let facts = plant(&grammar, &mut rng, plan)?;
        Ok(Self { grammar, rng, plan, facts, next_fact: 0, position: 0 })
    }

    /// Makes the whole history once and returns what is in it. `continuation_bytes` is the length of the
    /// text that follows it.
    pub(crate) fn survey(plan: Plan, continuation_bytes: usize) -> Result<Survey> {
        let mut history = Self::new(plan)?;
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
        Ok(Survey { bytes, facts, continuation })
    }

    /// Goes on after the end: small talk, and every few lines a question about a fact of the history that
    /// was not to be asked about, with its answer.
    fn continuation(&mut self, bytes: usize) -> Result<Continuation> {
        const LINES_BETWEEN_FACTS: usize = 5;
        let mut others: Vec<Fact> = self.facts.iter().filter(|(_, f)| !f.asked).map(|(_, f)| f.clone()).collect();
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
            // The built-in grammar was checked when it was read.
            self.grammar.turn(&mut self.rng).ok()?
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
        let mut fact = grammar.fact(rng, &mut subjects)?;
        fact.asked = index < asked;
        // The last of the facts asked about ends where the history ends.
        let room = plan.bytes.saturating_sub(fact.statement.len() as u64 + 1);
        let due = match (fact.asked, asked) {
            (true, 1) => room / 2,
            (true, _) => room * index as u64 / (asked as u64 - 1),
            (false, _) => draw(rng, room as usize + 1) as u64,
        };
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
        const TRIES: usize = 10_000;
        for _ in 0..TRIES {
            let kind = choose(&self.facts, rng)?;
            let subject = self.fill(&kind.subject, rng)?;
            if !subjects.insert(subject.clone()) {
                continue;
            }
            let value = self.value(&kind.value, rng)?;
            let fill = |template: &str| template.replace("{subject}", &subject).replace("{value}", &value);
            return Ok(Fact {
                statement: fill(choose(&kind.statements, rng)?),
                question: fill(choose(&kind.questions, rng)?),
                answer: fill(&kind.answer),
                subject,
                value,
                asked: false,
            });
        }
        bail!("the grammar of histories has too few subjects for {} facts", subjects.len() + 1)
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

    const PLAN: Plan = Plan { seed: 7, bytes: 60_000, questions: 8 };

    fn text(plan: Plan) -> String {
        History::new(plan).unwrap().collect()
    }

    #[test]
    fn the_same_plan_gives_the_same_text() {
        assert_eq!(text(PLAN), text(PLAN));
        assert_ne!(text(PLAN), text(Plan { seed: 8, ..PLAN }));
        let (a, b) = (History::survey(PLAN, 2_000).unwrap(), History::survey(PLAN, 2_000).unwrap());
        assert_eq!((a.facts, a.continuation), (b.facts, b.continuation));
    }

    #[test]
    fn facts_stand_where_the_survey_says() {
        let text = text(PLAN);
        let survey = History::survey(PLAN, 0).unwrap();
        assert_eq!(survey.bytes, text.len() as u64);
        assert!(survey.bytes >= PLAN.bytes && survey.bytes < PLAN.bytes + 2_000);
        for planted in &survey.facts {
            assert_eq!(&text[planted.byte_start as usize..planted.byte_end as usize], planted.fact.statement);
            assert!(planted.fact.statement.contains(&planted.fact.value));
        }
    }

    #[test]
    fn asked_facts_span_the_whole_history_evenly() {
        let survey = History::survey(PLAN, 0).unwrap();
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
        let survey = History::survey(PLAN, 0).unwrap();
        let subjects: HashSet<&str> = survey.facts.iter().map(|p| p.fact.subject.as_str()).collect();
        assert_eq!(subjects.len(), survey.facts.len());
        for planted in &survey.facts {
            assert_eq!(text.matches(&planted.fact.statement).count(), 1);
        }
    }

    #[test]
    fn a_long_history_stays_within_its_facts() {
        let plan = Plan { seed: 1, bytes: 8_000_000, questions: 8 };
        assert_eq!(History::new(plan).unwrap().facts.len(), FACTS_MAX);
        let plan = Plan { seed: 1, bytes: 0, questions: 3 };
        assert_eq!(text(plan).lines().count(), 6);
    }

    #[test]
    fn the_continuation_asks_about_other_facts_and_is_not_in_the_history() {
        let survey = History::survey(PLAN, 3_000).unwrap();
        let continuation = &survey.continuation;
        assert!(continuation.text.len() >= 3_000 && continuation.recalled_facts >= 4);
        for planted in survey.asked() {
            assert!(!continuation.text.contains(&planted.fact.answer));
        }
        assert!(!text(PLAN).contains(&continuation.text[..200]));
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
        };
        assert!(fact.is_answered_by(" the storage place of the red tower is tower."));
        assert!(fact.is_answered_by("tower"));
        assert!(!fact.is_answered_by(" the storage place of the red tower is dock."));
        assert!(!fact.is_answered_by(" the storage place of the red tower is towers."));
        assert!(!fact.is_answered_by(""));
    }
}
