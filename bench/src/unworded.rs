//! Facts planted in novels, searched for in words of which their sentences have none: what a search by meaning is for.
//!
//! All questions of a split are asked of one haystack, which grows to each size. A question counts as found if one of the first k
//! passages overlaps with its sentence.

use std::path::PathBuf;

use anyhow::Result;
use mnemon_encoder::Embedder;
use serde_json::json;

use crate::answering::{Library, Novels, Source, Span};
use crate::host::{Host, HostArguments};
use crate::needle::{Split, Task, plan, unworded};
use crate::plot::{Line, Plot};
use crate::report::{Output, parse_tokens, tokens_label};
use crate::retrieval::{Found, KS, Question, Row, Searched, possible, table, wait_for_embeddings};

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
    /// Folder of a BERT model for sentence embeddings, such as all-MiniLM-L6-v2; without it the rows that need it are left out.
    #[arg(long, value_name = "DIR")]
    embedder: Option<PathBuf>,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

const DOCUMENTS: [&str; 2] = ["part-1", "part-2"];

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let novels = Novels::read(&arguments.novels)?;
    let embedder = arguments.embedder.as_deref().map(Embedder::read).transpose()?;
    let rows = possible(&arguments.rows, embedder.is_some());
    let names: Vec<&str> = rows.iter().map(|row| row.name()).collect();
    let host = Host::start_with_embedder(&arguments.host, arguments.embedder.as_deref()).await?;
    let model = host.client.model().await?;
    let bytes_per_token = host.bytes_per_token(&novels.sample()).await?;
    let mut sizes = arguments.tokens.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let (mut results, mut lines) = (Vec::new(), Vec::new());
    for &tokens in &sizes {
        let found = one_size(arguments, &host, &novels, (tokens, bytes_per_token), &rows, embedder.as_ref()).await?;
        println!("{}\n{}", tokens_label(tokens), table(&found, &names, [1, 3]));
        results.push(json!({"tokens": tokens, "rows": found.to_json(&names)}));
        lines.push((tokens, found));
        let all = json!({"split": arguments.split.name(), "seed": arguments.seed, "sizes": results});
        arguments.output.write("unworded", &model, &all, &plot(&lines, &names))?;
    }
    host.stop().await
}

/// Reads a haystack of one size, and asks all questions in every way.
async fn one_size(
    arguments: &Arguments,
    host: &Host,
    novels: &Novels,
    (tokens, bytes_per_token): (u64, f64),
    rows: &[Row],
    embedder: Option<&Embedder>,
) -> Result<Found> {
    let plan = plan(arguments.split, arguments.seed, 0, &[Task::Unworded], unworded(arguments.split).len())?;
    let order = plan.order(arguments.seed, 0);
    let texts: [Vec<&str>; 2] =
        order.each_ref().map(|part| part.iter().map(|&at| plan.statements[at].text.as_str()).collect());
    let haystack = novels.haystack(arguments.seed, 0, &[(tokens as f64 * bytes_per_token) as usize], &texts)?;
    let memory = format!("unworded-{}", tokens_label(tokens));
    host.client.create_memory(&memory, "of mnemon bench").await?;
    let mut spans = vec![None; plan.statements.len()];
    for ((document, id), part) in haystack.documents.iter().zip(DOCUMENTS).zip(&order) {
        host.read(&memory, id, &document.text).await?;
        for (&statement, bytes) in part.iter().zip(&document.spans) {
            spans[statement] = Some(Span { document_id: id.into(), bytes: bytes.clone() });
        }
    }
    if embedder.is_some() {
        wait_for_embeddings(host, &memory).await?;
    }
    let sources = DOCUMENTS.map(|id| Source { id: id.into(), date: None });
    let embedder = embedder.filter(|_| rows.iter().any(|row| row.embeds_here()));
    let library = Library::read(&host.client, &memory, &sources, embedder, Library::default()).await?;
    let searched = Searched { memory: &memory, library: &library, embedder };
    let mut found = Found::default();
    for (group, question) in plan.questions.iter().enumerate() {
        let evidence: Vec<Span> = question.statements.iter().filter_map(|&at| spans[at].clone()).collect();
        let question = Question { text: &question.text, evidence: &evidence, group, category: Task::Unworded.name() };
        searched.ask(host, rows, &question, &mut found).await?;
    }
    host.client.delete_memory(&memory).await?;
    Ok(found)
}

fn plot(sizes: &[(u64, Found)], rows: &[&str]) -> String {
    let at = KS.iter().position(|k| *k == 3).unwrap_or(0);
    let line = |row: &&str| Line {
        label: (*row).to_owned(),
        points: sizes.iter().map(|(tokens, found)| (*tokens, found.percent(row, at))).collect(),
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
