//! bAbI's stories (Weston et al. 2015) with their facts scattered in novels, after `BABILong` (Kuratov et al. 2024): answers take
//! one to three facts that stand far apart.
//!
//! Each story has a haystack and a memory of its own, since stories contradict each other. All facts of a story are planted, and
//! it is asked its last question and those before it that no later fact touches.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::json;

use crate::answering::{
    AskArguments, Asker, Block, Expected, Item, Library, Novels, Outcomes, Report, Source, Span, Stored, ask_all, pool,
    show,
};
use crate::grammar::draw;
use crate::report::{Output, parse_tokens, tokens_label};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of bAbI's test sets, `qa1_*.txt` to `qa3_*.txt`.
    #[arg(long, value_name = "DIR", required_unless_present = "pool")]
    babi: Option<PathBuf>,
    /// Folder of novels (.txt) to scatter the facts in.
    #[arg(long, value_name = "DIR", required_unless_present = "pool")]
    novels: Option<PathBuf>,
    /// Sizes of the haystacks.
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, default_value = "4k,16k")]
    tokens: Vec<u64>,
    /// Tasks: how many facts an answer takes.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=3), default_value = "1,2,3")]
    tasks: Vec<u8>,
    /// Stories of each task.
    #[arg(long, default_value_t = 8)]
    stories: usize,
    /// Stories to pass over, so that runs can share the work and be pooled.
    #[arg(long, default_value_t = 0)]
    first_story: usize,
    /// Seed: which stories, and where in the novels.
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

const NAME: &str = "babilong";
const TITLE: &str = "Facts of bAbI's stories scattered in novels";
const DOCUMENT: &str = "story";
const PLACES: [&str; 6] = ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"];

fn task_name(task: u8) -> &'static str {
    ["qa1", "qa2", "qa3"][usize::from(task.clamp(1, 3) - 1)]
}

/// A story: facts, and questions that hold at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Story {
    facts: Vec<String>,
    asked: Vec<Asked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    question: String,
    answer: String,
    /// Indices of the facts that it follows from.
    facts: Vec<usize>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let tasks: Vec<&str> = (1..=3).map(task_name).collect();
    if !arguments.pool.is_empty() {
        let report = pool(&arguments.pool, (NAME, TITLE), tasks.clone(), tasks)?;
        println!("{}", report.write(&arguments.output)?);
        return Ok(());
    }
    let folder = arguments.babi.as_deref().context("no --babi")?;
    let novels = Novels::read(arguments.novels.as_deref().context("no --novels")?)?;
    let mut chosen = Vec::new();
    for &task in &arguments.tasks {
        for (number, story) in choose(stories(folder, task)?, task, arguments)? {
            chosen.push((task, number, story));
        }
    }
    let mut asker = Asker::start(&arguments.ask).await?;
    let bytes_per_token = asker.memories.bytes_per_token(&novels.sample()).await?;
    let mut report = Report::new((NAME, TITLE), &arguments.ask, &asker, (tasks.clone(), tasks));
    let mut tables = String::new();
    for (task, number, story) in &chosen {
        let block = one_story(arguments, &mut asker, &novels, (*task, *number), story, bytes_per_token).await?;
        tables = report.add(block, &asker, &arguments.output)?;
    }
    show(&tables, &asker);
    asker.stop().await
}

async fn one_story(
    arguments: &Arguments,
    asker: &mut Asker<'_>,
    novels: &Novels,
    (task, number): (u8, usize),
    story: &Story,
    bytes_per_token: f64,
) -> Result<Block> {
    let mut sizes = arguments.tokens.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let bytes: Vec<usize> = sizes.iter().map(|&tokens| (tokens as f64 * bytes_per_token) as usize).collect();
    let facts: Vec<&str> = story.facts.iter().map(String::as_str).collect();
    let place = 3 * number as u64 + u64::from(task);
    let haystack = novels.haystack(arguments.seed, place, &bytes, &[facts])?;
    println!("{} story {number}: {}", task_name(task), haystack.novel);
    let smallest = sizes.first().copied().unwrap_or(0);
    let memory = format!("babilong-{}-{}-{number}-{}", task_name(task), arguments.seed, tokens_label(smallest));
    let stored = Stored { memory, haystack: &haystack, sources: vec![Source { id: DOCUMENT.into(), date: None }] };
    let items: Vec<Item> = story.asked.iter().map(|asked| item(asked, &haystack.documents[0].spans)).collect();
    let mut outcomes = Outcomes::default();
    let mut library = Library::default();
    for (size, &tokens) in sizes.iter().enumerate() {
        let Some(grown) = stored.grow(asker, size, library).await? else {
            println!("  {} is left out: the memory in --data is longer already", tokens_label(tokens));
            library = Library::default();
            continue;
        };
        library = grown;
        ask_all(asker, &mut outcomes, (tokens, task_name(task)), &items, &stored.memory, &library).await?;
    }
    if !arguments.ask.keep {
        asker.memories.client.delete_memory(&stored.memory).await?;
    }
    let plan = json!({
        "task": task_name(task),
        "story": number,
        "novel": haystack.novel,
        "seed": arguments.seed,
        "smallest": smallest,
    });
    Ok(Block { plan, outcomes })
}

/// The answer must name its place, and no other one but those that the question names.
fn item(asked: &Asked, spans: &[std::ops::Range<u64>]) -> Item {
    let others = PLACES.iter().filter(|place| **place != asked.answer && !asked.question.contains(**place));
    let expected =
        Expected { none: others.map(|&place| place.to_owned()).collect(), ..Expected::all_of([&*asked.answer]) };
    let evidence = asked.facts.iter().filter_map(|&fact| spans.get(fact));
    Item {
        question: format!("{} Answer with one word.", asked.question),
        expected,
        evidence: evidence.map(|bytes| Span { document_id: DOCUMENT.into(), bytes: bytes.clone() }).collect(),
        has_long_answer: false,
        is_general: false,
    }
}

/// Some stories of a task by the seed, with their numbers.
fn choose(stories: Vec<Story>, task: u8, arguments: &Arguments) -> Result<Vec<(usize, Story)>> {
    let wanted = arguments.first_story + arguments.stories;
    ensure!(wanted <= stories.len(), "{} has {} stories, and {wanted} are asked for", task_name(task), stories.len());
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    rng.set_stream(task.into());
    let mut numbered: Vec<(usize, Story)> = stories.into_iter().enumerate().collect();
    for last in (1..numbered.len()).rev() {
        numbered.swap(last, draw(&mut rng, last + 1));
    }
    Ok(numbered.drain(..wanted).skip(arguments.first_story).collect())
}

/// The stories of a task in a folder of bAbI's files.
fn stories(folder: &Path, task: u8) -> Result<Vec<Story>> {
    let prefix = format!("{}_", task_name(task));
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    paths.sort();
    let path = paths.first().with_context(|| format!("{} has no file {prefix}*.txt", folder.display()))?;
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&text).with_context(|| format!("{} is no file of bAbI", path.display()))
}

/// Lines are `NUMBER FACT` and `NUMBER QUESTION|ANSWER|NUMBERS`, with `|` or tabs between; a story begins at number 1.
fn parse(text: &str) -> Result<Vec<Story>> {
    let mut stories: Vec<Vec<(&str, &str)>> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (number, rest) = line.split_once(' ').with_context(|| format!("line {line:?}"))?;
        if number == "1" || stories.is_empty() {
            stories.push(Vec::new());
        }
        if let Some(story) = stories.last_mut() {
            story.push((number, rest));
        }
    }
    stories.iter().map(|lines| parse_story(lines)).collect()
}

fn parse_story(lines: &[(&str, &str)]) -> Result<Story> {
    let (mut facts, mut numbers, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (number, rest) in lines {
        let mut parts = rest.split(['|', '\t']).map(str::trim);
        let (said, Some(answer)) = (parts.next().unwrap_or(""), parts.next()) else {
            facts.push((*rest).trim().to_owned());
            numbers.push(*number);
            continue;
        };
        let evidence = parts.next().unwrap_or("").split_whitespace();
        let of = |number: &str| numbers.iter().position(|n| *n == number).with_context(|| format!("no fact {number}"));
        let asked =
            Asked { question: said.into(), answer: answer.into(), facts: evidence.map(of).collect::<Result<_>>()? };
        all.push((facts.len(), asked));
    }
    // Facts after the last question are of no use.
    facts.truncate(all.last().map_or(0, |(after, _)| *after));
    let mut asked: Vec<Asked> = Vec::new();
    for (after, question) in all {
        let touched = subjects(&question, &facts);
        let holds = facts[after..].iter().all(|fact| !words(fact).any(|word| touched.contains(&word)));
        if holds {
            asked.retain(|earlier| earlier.question != question.question);
            asked.push(question);
        }
    }
    Ok(Story { facts, asked })
}

/// The people and things that an answer depends on: names in its facts, and what the question is about.
fn subjects<'t>(asked: &'t Asked, facts: &'t [String]) -> Vec<&'t str> {
    const FRAME: [&str; 6] = ["Where", "is", "was", "the", "before", "after"];
    let is_subject = |word: &&str| !FRAME.contains(word) && !PLACES.contains(word);
    let people = asked.facts.iter().filter_map(|&fact| words(&facts[fact]).next());
    words(&asked.question).filter(is_subject).chain(people).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "1 John travelled to the hallway.\n2 Mary journeyed to the bathroom.\n3 Where is John? |hallway|1\n\
        4 John moved to the bedroom.\n5 Where is Mary? |bathroom|2\n6 Where is John? \tbedroom\t4\n\
        1 Mary got the milk there.\n2 John moved to the bedroom.\n3 Mary travelled to the hallway.\n\
        4 Where is the milk? \thallway\t1 3\n5 Mary left the milk.\n6 Where is Mary? |hallway|3\n";

    #[test]
    fn questions_that_a_later_fact_touches_are_left_out() {
        let stories = parse(TEXT).unwrap();
        assert_eq!(stories.len(), 2);
        let shown = |story: &Story| -> Vec<(String, String, Vec<usize>)> {
            story.asked.iter().map(|a| (a.question.clone(), a.answer.clone(), a.facts.clone())).collect()
        };
        assert_eq!(
            shown(&stories[0]),
            [
                ("Where is Mary?".into(), "bathroom".into(), vec![1]),
                ("Where is John?".into(), "bedroom".into(), vec![2])
            ]
        );
        assert_eq!(shown(&stories[1]), [("Where is Mary?".into(), "hallway".into(), vec![2])]);
        assert_eq!(stories[0].facts.len(), 3);
        assert!(parse("1 Where is John? |hallway|7\n").is_err());
    }

    #[test]
    fn answers_name_one_place() {
        let asked =
            Asked { question: "Where was the milk before the garden?".into(), answer: "office".into(), facts: vec![0] };
        let item = item(&asked, std::slice::from_ref(&(3..9)));
        assert!(item.expected.is_met_by("In the office, before the garden.", &item.question));
        assert!(!item.expected.is_met_by("In the office or the kitchen.", &item.question));
        assert_eq!(item.evidence[0].bytes, 3..9);
    }
}
