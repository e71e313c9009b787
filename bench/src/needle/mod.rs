//! Facts planted in novels, asked of a model with memory and of the same model with passages in its prompt.
//!
//! All needles of a haystack stand within its smallest size; larger sizes go on where the smaller end, in the same memory, and
//! the questions are asked again at each size.
//!
//! | file | idea |
//! |---|---|
//! | `templates.rs` | what needles are made of, in two splits |
//! | `unworded.rs` | facts and questions that share no word |
//! | `tasks.rs` | what is planted and what is asked |
//! | `general.rs` | questions that memory says nothing about |

mod general;
mod tasks;
mod templates;
mod unworded;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::json;
use tasks::{Plan, Question};

use crate::answering::{
    AskArguments, Asker, Block, Expected, Haystack, Item, Library, Novels, Outcomes, Report, Source, Span, Stored,
    ask_all, pool, show,
};
use crate::report::{Output, parse_tokens, tokens_label};
pub(crate) use tasks::{Task, plan};
pub(crate) use templates::Split;
pub(crate) use unworded::unworded;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of novels (.txt) to plant in.
    #[arg(long, value_name = "DIR", required_unless_present = "pool")]
    novels: Option<PathBuf>,
    /// Sizes of the haystacks.
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, default_value = "4k,16k,64k")]
    tokens: Vec<u64>,
    /// Kinds of questions.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "single,paraphrased,natural,multi-key,multi-value,multi-query,variables,updated,absent,general"
    )]
    tasks: Vec<Task>,
    /// Haystacks, each of another place in another novel.
    #[arg(long, default_value_t = 4)]
    haystacks: u64,
    /// Number of the first haystack, so that runs can share the work and be pooled.
    #[arg(long, default_value_t = 0)]
    first_haystack: u64,
    /// Questions of each kind in each haystack.
    #[arg(long, default_value_t = 4)]
    items: usize,
    /// Which templates, names and values to use: `dev` for choosing, `final` for judging.
    #[arg(long, value_enum, default_value_t = Split::Dev)]
    split: Split,
    /// Seed of the haystacks.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ask nothing: pool the results of earlier runs of one model.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pool: Vec<PathBuf>,
    #[command(flatten)]
    ask: AskArguments,
    #[command(flatten)]
    output: Output,
}

const NAME: &str = "needle";
const TITLE: &str = "Facts planted in novels";

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let tasks: Vec<&str> = Task::PLANTED.into_iter().chain([Task::Absent, Task::General]).map(Task::name).collect();
    let joined: Vec<&str> = Task::PLANTED.into_iter().map(Task::name).collect();
    if !arguments.pool.is_empty() {
        println!("{}", pool(&arguments.pool, (NAME, TITLE), tasks, joined)?.write(&arguments.output)?);
        return Ok(());
    }
    let novels = Novels::read(arguments.novels.as_deref().context("no --novels")?)?;
    let mut asker = Asker::start(&arguments.ask).await?;
    let bytes_per_token = asker.memories.bytes_per_token(&novels.sample()).await?;
    let mut report = Report::new((NAME, TITLE), &arguments.ask, &asker, (tasks, joined));
    let mut tables = String::new();
    for number in arguments.first_haystack..arguments.first_haystack + arguments.haystacks {
        let block = one_haystack(arguments, &mut asker, &novels, number, bytes_per_token).await?;
        tables = report.add(block, &asker, &arguments.output)?;
    }
    show(&tables, &asker);
    asker.stop().await
}

async fn one_haystack(
    arguments: &Arguments,
    asker: &mut Asker<'_>,
    novels: &Novels,
    number: u64,
    bytes_per_token: f64,
) -> Result<Block> {
    let mut sizes = arguments.tokens.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let plan = plan(arguments.split, arguments.seed, number, &arguments.tasks, arguments.items)?;
    let bytes: Vec<usize> = sizes.iter().map(|&tokens| (tokens as f64 * bytes_per_token) as usize).collect();
    let planted = Planted::new(novels, &plan, arguments.seed, number, &bytes)?;
    println!("haystack {number}: {}", planted.haystack.novel);
    let sources: Vec<Source> =
        plan.dates.iter().enumerate().map(|(at, &date)| Source { id: document_id(at), date: Some(date) }).collect();
    let smallest = sizes.first().copied().unwrap_or(0);
    let memory = format!("needle-{}-{}-{number}-{}", arguments.split.name(), arguments.seed, tokens_label(smallest));
    let stored = Stored { memory, haystack: &planted.haystack, sources };

    let mut outcomes = Outcomes::default();
    let mut library = Library::default();
    for (size, &tokens) in sizes.iter().enumerate() {
        let Some(grown) = stored.grow(asker, size, library).await? else {
            println!("  {} is left out: the memory in --data is longer already", tokens_label(tokens));
            library = Library::default();
            continue;
        };
        library = grown;
        for &task in &arguments.tasks {
            let items = items(task, arguments.split, &plan, &planted, number == 0);
            if !items.is_empty() {
                ask_all(asker, &mut outcomes, (tokens, task.name()), &items, &stored.memory, &library).await?;
            }
        }
    }
    if !arguments.ask.keep {
        asker.memories.client.delete_memory(&stored.memory).await?;
    }
    let tasks: Vec<&str> = arguments.tasks.iter().map(|task| task.name()).collect();
    let plan = json!({
        "haystack": number,
        "novel": planted.haystack.novel,
        "seed": arguments.seed,
        "split": arguments.split.name(),
        "tasks": tasks.join(" "),
        "items": arguments.items,
        "smallest": smallest,
    });
    Ok(Block { plan, outcomes })
}

/// A haystack with all statements of a plan.
pub(crate) struct Planted {
    pub(crate) haystack: Haystack,
    /// Where each statement stands.
    spans: Vec<Option<Span>>,
}

impl Planted {
    /// # Errors
    /// As [`Novels::haystack`].
    pub(crate) fn new(novels: &Novels, plan: &Plan, seed: u64, number: u64, bytes: &[usize]) -> Result<Self> {
        let order = plan.order(seed, number);
        let texts: [Vec<&str>; 2] =
            order.each_ref().map(|part| part.iter().map(|&at| plan.statements[at].text.as_str()).collect());
        let haystack = novels.haystack(seed, number, bytes, &texts)?;
        let mut spans = vec![None; plan.statements.len()];
        for (document, part) in order.iter().enumerate() {
            for (&statement, bytes) in part.iter().zip(&haystack.documents[document].spans) {
                spans[statement] = Some(Span { document_id: document_id(document), bytes: bytes.clone() });
            }
        }
        Ok(Self { haystack, spans })
    }

    /// Where the answer to a question stands.
    pub(crate) fn evidence(&self, question: &Question) -> Vec<Span> {
        question.statements.iter().filter_map(|&at| self.spans[at].clone()).collect()
    }
}

pub(crate) fn document_id(index: usize) -> String {
    format!("part-{}", index + 1)
}

/// The questions of a task; the general ones are asked of haystack 0 only, as no haystack matters to them.
fn items(task: Task, split: Split, plan: &Plan, planted: &Planted, is_first: bool) -> Vec<Item> {
    if task == Task::General {
        let general = general::questions(split).filter(|_| is_first);
        return general
            .map(|(question, accepted)| Item {
                question: question.to_owned(),
                expected: Expected::one_of(accepted),
                evidence: Vec::new(),
                has_long_answer: false,
                is_general: true,
            })
            .collect();
    }
    let item = |question: &Question| Item {
        question: question.text.clone(),
        expected: question.expected.clone(),
        evidence: planted.evidence(question),
        has_long_answer: question.expected.all.len() > 1,
        is_general: false,
    };
    plan.questions.iter().filter(|question| question.task == task).map(item).collect()
}
