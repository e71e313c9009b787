//! Facts planted in novels, searched for in words of which their sentences have none: what a search by meaning is for.
//!
//! All questions of a split are asked of a haystack of each size, over all of which their sentences are spread. A question counts as found if
//! one of the first k passages overlaps with its sentence.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::answering::{Novels, Source};
use crate::needle::{Planted, Split, Task, document_id, plan, unworded};
use crate::plot::{Line, Plot};
use crate::report::{Output, parse_tokens, tokens_label};
use crate::retrieval::{Found, Question, Row, Searcher, SearcherArguments, table};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of novels (.txt) to plant in.
    #[arg(long, value_name = "DIR")]
    novels: PathBuf,
    /// Sizes of the haystack.
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, default_value = "16k,256k")]
    tokens: Vec<u64>,
    /// Which facts: `dev` for choosing, `final` for judging.
    #[arg(long, value_enum, default_value_t = Split::Dev)]
    split: Split,
    /// Seed of the haystack.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ways to search.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "search,words,meaning,bm25,minilm,bm25+minilm")]
    rows: Vec<Row>,
    #[command(flatten)]
    searcher: SearcherArguments,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let novels = Novels::read(&arguments.novels)?;
    let searcher = Searcher::start(&arguments.searcher, &arguments.rows).await?;
    let names = searcher.row_names();
    let model = searcher.host.client.model().await?;
    let bytes_per_token = searcher.host.bytes_per_token(&novels.sample()).await?;
    let mut sizes = arguments.tokens.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let (mut results, mut lines) = (Vec::new(), Vec::new());
    for &tokens in &sizes {
        let found = one_size(arguments, &searcher, &novels, tokens, bytes_per_token).await?;
        println!("{}\n{}", tokens_label(tokens), table(&found, &names, [1, 3]));
        results.push(json!({"tokens": tokens, "rows": found.to_json(&names)}));
        lines.push((tokens, found));
        let all = json!({"split": arguments.split.name(), "seed": arguments.seed, "sizes": results});
        arguments.output.write("unworded", &model, &all, &plot(&lines, &names))?;
    }
    searcher.host.stop().await
}

/// Reads a haystack of one size, and asks all questions in every way.
async fn one_size(
    arguments: &Arguments,
    searcher: &Searcher,
    novels: &Novels,
    tokens: u64,
    bytes_per_token: f64,
) -> Result<Found> {
    let plan = plan(arguments.split, arguments.seed, 0, &[Task::Unworded], unworded(arguments.split).len())?;
    let bytes = (tokens as f64 * bytes_per_token) as usize;
    let planted = Planted::new(novels, &plan, arguments.seed, 0, &[bytes])?;
    let (host, memory) = (&searcher.host, format!("unworded-{}", tokens_label(tokens)));
    host.client.create_memory(&memory, "of mnemon bench").await?;
    let mut sources = Vec::new();
    for (at, document) in planted.haystack.documents.iter().enumerate() {
        let id = document_id(at);
        host.read(&memory, &id, &document.text).await?;
        sources.push(Source { id, date: None });
    }
    let searched = searcher.read(&memory, &sources).await?;
    let mut found = Found::default();
    for (group, question) in plan.questions.iter().enumerate() {
        let evidence = planted.evidence(question);
        let question = Question { text: &question.text, evidence: &evidence, group, category: Task::Unworded.name() };
        searched.ask(&question, &mut found).await?;
    }
    host.client.delete_memory(&memory).await?;
    Ok(found)
}

fn plot(sizes: &[(u64, Found)], rows: &[&str]) -> String {
    let line = |row: &&str| Line {
        label: (*row).to_owned(),
        points: sizes.iter().map(|(tokens, found)| (*tokens, found.percent(row, 3))).collect(),
        faint: false,
    };
    Plot {
        title: "Facts asked for in other words, among the first 3 passages",
        x: "tokens in memory",
        y: "% of the questions",
        lines: rows.iter().map(line).collect(),
        y_range: None,
    }
    .svg()
}
