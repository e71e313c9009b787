//! The lines of generated histories: small talk, facts, and questions about them.
//!
//! The grammar is the one the default model was trained with (`models/default/histories.json`). Numbers are drawn by a rule
//! of our own, so that no library update changes what a seed gives.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Deserialize;

const GRAMMAR: &str = include_str!("../../models/default/histories.json");

#[derive(Debug, Deserialize)]
pub(crate) struct Grammar {
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
    updates: Vec<String>,
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

impl Grammar {
    /// Reads the grammar and checks that every template can be filled.
    pub(crate) fn built_in() -> Result<Self> {
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
    pub(crate) fn turn(&self, rng: &mut ChaCha8Rng) -> Result<String> {
        self.fill(choose(&self.turns, rng)?, rng)
    }

    /// A fact about a subject that is not among `subjects`; the subject is added to them.
    pub(crate) fn fact(&self, rng: &mut ChaCha8Rng, subjects: &mut HashSet<String>) -> Result<Fact> {
        let (kind, subject) = self.subject(rng, subjects)?;
        let value = self.value(&kind.value, rng)?;
        Self::state(kind, &kind.statements, &kind.answer, subject, value, rng)
    }

    /// A fact that revises another one, and that one.
    pub(crate) fn revised_fact(&self, rng: &mut ChaCha8Rng, subjects: &mut HashSet<String>) -> Result<(Fact, Fact)> {
        let (kind, subject) = self.subject(rng, subjects)?;
        let value = self.value(&kind.value, rng)?;
        let mut old = value.clone();
        while old == value {
            old = self.value(&kind.value, rng)?;
        }
        let earlier = Self::state(kind, &kind.statements, &kind.answer, subject.clone(), old, rng)?;
        let latest = Self::state(kind, &kind.updates, &kind.updated_answer, subject, value, rng)?;
        Ok((Fact { revision: Revision::Latest, ..latest }, Fact { revision: Revision::Superseded, ..earlier }))
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
pub(crate) fn draw(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(rng.next_u64()) * bound as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

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
