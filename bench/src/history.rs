//! A generated history of an agent: small talk, tool output and notes, with facts planted at known depths.
//!
//! The grammar is the one the default model was trained with (`models/default/histories.json`); the history
//! itself is new with every seed. Lines are made one at a time, so that a history may be longer than memory.
//! What is kept is the list of planted facts, at most [`FACTS_MAX`].
//!
//! The same seed, length and number of questions give the same text on every machine: numbers are drawn from
//! `ChaCha8` by a rule of our own, so that no library update changes them.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;
use mnemon_client::v1;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub use crate::grammar::{Fact, Revision};
use crate::grammar::{Grammar, draw};

/// Facts planted at most, the ones that are asked about included.
pub const FACTS_MAX: usize = 2_000;

/// Bytes of a generated line that make a token of the built-in model, about.
pub const BYTES_PER_TOKEN: f64 = 3.9;

/// Tokens of an answer; the longest possible answer has fewer.
pub const ANSWER_TOKENS_MAX: u32 = 40;

/// Bytes of history for each fact that nobody asks about.
const BYTES_PER_OTHER_FACT: u64 = 2_500;

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
        Self::walk(plan, prose, continuation_bytes, |_| ())
    }

    /// Makes the whole history and keeps it: its text, and what is in it.
    ///
    /// # Errors
    /// As for [`History::new`].
    pub fn whole(plan: Plan, prose: Arc<[String]>) -> Result<(String, Survey)> {
        let mut text = String::new();
        let survey = Self::walk(plan, prose, 0, |line| text.push_str(line))?;
        Ok((text, survey))
    }

    fn walk(plan: Plan, prose: Arc<[String]>, continuation_bytes: usize, mut each: impl FnMut(&str)) -> Result<Survey> {
        let mut history = Self::new(plan, prose)?;
        let mut facts = Vec::with_capacity(history.facts.len());
        loop {
            let (index, byte_start) = (history.next_fact, history.position);
            let Some(line) = history.next() else { break };
            each(&line);
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

/// Rank, from 1, of the first chunk that overlaps these bytes.
pub fn rank_of<'c>(
    mut chunks: impl Iterator<Item = Option<&'c v1::Chunk>>,
    byte_start: u64,
    byte_end: u64,
) -> Option<usize> {
    let overlaps = |span: v1::SourceSpan| span.byte_start < byte_end && byte_start < span.byte_end;
    chunks.position(|chunk| chunk.and_then(|c| c.span).is_some_and(overlaps)).map(|index| index + 1)
}

/// Chooses facts with unique subjects and where each is due.
fn plant(grammar: &Grammar, rng: &mut ChaCha8Rng, plan: Plan) -> Result<Vec<(u64, Fact)>> {
    let asked = plan.questions.min(FACTS_MAX);
    let others = ((plan.bytes / BYTES_PER_OTHER_FACT) as usize).clamp(asked, FACTS_MAX.max(2 * asked) - asked);
    let mut subjects = HashSet::new();
    let mut facts = Vec::with_capacity(asked + others);
    for index in 0..asked + others {
        let revises = index < asked && index % 2 == 1 && index / 2 < plan.revised;
        let (mut fact, earlier) = if revises {
            let (fact, earlier) = grammar.revised_fact(rng, &mut subjects)?;
            (fact, Some(earlier))
        } else {
            (grammar.fact(rng, &mut subjects)?, None)
        };
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
    fn the_whole_history_is_its_lines_and_their_survey() {
        let (whole, survey) = History::whole(PLAN, Arc::default()).unwrap();
        assert_eq!(whole, text(PLAN));
        assert_eq!(survey.facts, History::survey(PLAN, Arc::default(), 0).unwrap().facts);
    }

    #[test]
    fn prose_stands_among_the_lines() {
        let prose: Arc<[String]> = (0..40).map(|i| format!("Paragraph {i} of a book.")).collect();
        let text: String = History::new(PLAN, prose).unwrap().collect();
        assert_eq!(text.matches(" of a book.\n").count(), 40);
    }
}
