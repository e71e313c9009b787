//! Short answers from long conversations of people with an assistant (BEAM): a model with memory beside the same model with passages in
//! its prompt.
//!
//! Only questions are asked whose answers can be judged fairly by their words: of the categories `information_extraction` and
//! `knowledge_update`, with one or two numbers in a short answer that the question does not have. An answer is right if it says these numbers, years
//! left out where there are others. Evidence is not shown: it is whole messages.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::beam;
use super::beam::{Conversation, Probe};
use crate::answering::{
    AskArguments, Asker, Block, Document, Expected, Haystack, Item, Library, Outcomes, Report, Source, Stored, ask_all,
    numbers, pool, show,
};
use crate::report::Output;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Conversations: one JSON object a line, with `messages` and `probes`.
    #[arg(long, value_name = "FILE.jsonl", required_unless_present = "pool")]
    chats: Option<PathBuf>,
    /// Conversations to ask.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    count: usize,
    /// Conversations to pass over, so that runs can share the work and be pooled.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Ask nothing: pool the results of earlier runs of one model.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pool: Vec<PathBuf>,
    #[command(flatten)]
    ask: AskArguments,
    #[command(flatten)]
    output: Output,
}

const NAME: &str = "chat-answers";
const TITLE: &str = "Short answers from long conversations";
const DOCUMENT: &str = "conversation";
const TASKS: [&str; 2] = ["information_extraction", "knowledge_update"];
/// The size of all conversations, in tokens, as their collection has it.
const TOKENS: u64 = 100_000;
const ANSWER_WORDS: usize = 25;
const NUMBERS: usize = 2;

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    if !arguments.pool.is_empty() {
        let report = pool(&arguments.pool, (NAME, TITLE), TASKS.to_vec(), TASKS.to_vec())?;
        println!("{}", report.write(&arguments.output)?);
        return Ok(());
    }
    let chats = beam::read(arguments.chats.as_deref().context("no --chats")?)?;
    let chosen: Vec<(usize, Conversation)> =
        chats.into_iter().enumerate().skip(arguments.first).take(arguments.count).collect();
    ensure!(!chosen.is_empty(), "there is no conversation {}", arguments.first);
    let mut asker = Asker::start(&arguments.ask).await?;
    let mut report = Report::new((NAME, TITLE), &arguments.ask, &asker, (TASKS.to_vec(), TASKS.to_vec()));
    let mut tables = String::new();
    for (number, chat) in chosen {
        println!("conversation {number}");
        let block = one_chat(arguments, &mut asker, number, chat).await?;
        tables = report.add(block, &asker, &arguments.output)?;
    }
    show(&tables, &asker);
    asker.stop().await
}

async fn one_chat(arguments: &Arguments, asker: &mut Asker<'_>, number: usize, chat: Conversation) -> Result<Block> {
    let mut outcomes = Outcomes::default();
    let items: Vec<(&str, Vec<Item>)> = TASKS
        .into_iter()
        .map(|task| {
            let of_task = chat.probes.iter().filter(|probe| probe.category == task);
            (task, of_task.filter_map(item).collect())
        })
        .collect();
    let cuts = vec![chat.text.len()];
    let documents = vec![Document { text: chat.text, spans: Vec::new() }];
    let haystack = Haystack { novel: DOCUMENT.into(), documents, cuts };
    let sources = vec![Source { id: DOCUMENT.into(), date: None }];
    let stored = Stored { memory: format!("chat-{number}"), haystack: &haystack, sources };
    if let Some(library) = stored.grow(asker, 0, Library::default()).await? {
        for (task, items) in &items {
            ask_all(asker, &mut outcomes, (TOKENS, task), items, &stored.memory, &library).await?;
        }
    }
    if !arguments.ask.keep {
        asker.memories.client.delete_memory(&stored.memory).await?;
    }
    Ok(Block { plan: json!({ "conversation": number }), outcomes })
}

/// A question whose answer can be judged by its numbers.
fn item(probe: &Probe) -> Option<Item> {
    let answer = probe.answer.as_deref()?;
    let asked: BTreeSet<String> = numbers(&probe.question).collect();
    let mut said: BTreeSet<String> = numbers(answer).filter(|number| !asked.contains(number)).collect();
    if !(1..=NUMBERS).contains(&said.len()) || answer.split_whitespace().count() > ANSWER_WORDS {
        return None;
    }
    if said.iter().any(|number| !is_year(number)) {
        said.retain(|number| !is_year(number));
    }
    Some(Item {
        question: probe.question.clone(),
        expected: Expected { numbers: said.into_iter().collect(), ..Expected::default() },
        // Whole messages, of which a sentence tells.
        evidence: Vec::new(),
        has_long_answer: false,
        is_general: false,
    })
}

fn is_year(number: &str) -> bool {
    number.len() == 4 && (number.starts_with("19") || number.starts_with("20"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_are_judged_by_the_numbers_that_the_question_does_not_have() {
        let item = |question: &str, answer: Option<&str>| {
            let (question, answer) = (question.to_owned(), answer.map(str::to_owned));
            super::item(&Probe { category: "c".into(), question, answer, evidence: vec![4] })
        };
        let budget = item("What is the budget for 2 phones?", Some("It is $8,000, for 2 of them.")).unwrap();
        assert!(budget.expected.is_met_by("Your budget is 8000 dollars.", &budget.question));
        assert!(budget.expected.is_met_by("About 8,000USD.", "") && !budget.expected.is_met_by("180000", ""));
        assert!(!budget.expected.is_met_by("For 2 phones.", &budget.question));
        let day = item("When do we meet?", Some("On March 5, 2024.")).unwrap();
        assert!(day.expected.is_met_by("On the 5 of March", "") && !day.expected.is_met_by("In 2024.", ""));
        assert!(item("When?", Some("In 2019.")).unwrap().expected.is_met_by("in 2019", ""));
        assert!(item("Who?", Some("Anna")).is_none() && item("Who?", None).is_none());
        assert!(item("Which?", Some("1, 2 and 3")).is_none(), "too many");
    }
}
