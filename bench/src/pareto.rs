//! What the settings of a memory cost and bring: one factor at a time around the defaults, on the same passages and the
//! same facts, and which of the settings no other one beats in all of perplexity, facts, time and bytes.

use std::path::PathBuf;

use anyhow::Result;
use mnemon_client::v1;
use serde_json::{Value, json};

use crate::history::{ANSWER_TOKENS_MAX, BYTES_PER_TOKEN, History, Plan, Survey};
use crate::host::{Host, HostArguments, ScoreSum, Shape, recalling};
use crate::perplexity::{Passage, counted, passage};
use crate::plot::{Line, Plot};
use crate::recall::{DOCUMENT, Tally, median, paragraphs};
use crate::report::{Output, parse_tokens, texts};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of novels (.txt) that the model was not trained on.
    #[arg(long, value_name = "DIR")]
    novels: PathBuf,
    /// Tokens in memory, for the passages and for the facts.
    #[arg(long, value_parser = parse_tokens, default_value = "65k")]
    tokens: u64,
    /// Novels to score a passage of.
    #[arg(long, default_value_t = 4)]
    passages: usize,
    /// Facts asked about.
    #[arg(long, default_value_t = 40)]
    facts: usize,
    /// Seed of the history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

/// Chunks recalled, for every shape.
const TOP_K: [u32; 5] = [4, 8, 16, 32, 64];
/// The model's own.
const OWN: Shape = Shape { window: None, context_tokens: None, chunk_tokens: None, entry_policy: None, kv_dtype: None };
const SHAPES: [(&str, Shape); 9] = [
    ("as the model says", OWN),
    ("chunks of 32 tokens", Shape { chunk_tokens: Some(32), ..OWN }),
    ("chunks of 128 tokens", Shape { chunk_tokens: Some(128), ..OWN }),
    ("entries: mean of 4", Shape { entry_policy: Some("block_mean:4"), ..OWN }),
    ("entries: 16 of a chunk", Shape { entry_policy: Some("representative:16"), ..OWN }),
    ("stored as int4", Shape { kv_dtype: Some("int4"), ..OWN }),
    ("stored as f16", Shape { kv_dtype: Some("f16"), ..OWN }),
    ("stored as bf16", Shape { kv_dtype: Some("bf16"), ..OWN }),
    ("stored as f32", Shape { kv_dtype: Some("f32"), ..OWN }),
];
const HISTORY: &str = "history";

/// One setting, measured.
struct Point {
    shape: &'static str,
    top_k: u32,
    perplexity: f64,
    exact_percent: f64,
    decode_ms: f64,
    stored_bytes_per_token: f64,
}

impl Point {
    /// Whether this one is at least as good in everything and better in something.
    fn beats(&self, other: &Self) -> bool {
        let pairs = [
            (self.perplexity, other.perplexity),
            (-self.exact_percent, -other.exact_percent),
            (self.decode_ms, other.decode_ms),
            (self.stored_bytes_per_token, other.stored_bytes_per_token),
        ];
        pairs.iter().all(|(a, b)| a <= b) && pairs.iter().any(|(a, b)| a < b)
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let books = texts(&arguments.novels)?;
    let host = Host::start(&arguments.host).await?;
    let model = host.client.model().await?;
    let bytes_per_token = host.bytes_per_token(&books[0].1).await?;
    host.stop().await?;
    let material = Material::make(arguments, &books, bytes_per_token)?;
    let mut points: Vec<Point> = Vec::new();
    println!(
        "{:<24} {:>5} {:>11} {:>7} {:>10} {:>12}",
        "memory", "top k", "perplexity", "exact", "ms/token", "bytes/token"
    );
    for (name, shape) in SHAPES {
        let host = Host::start_with(&arguments.host, &shape).await?;
        let made = measure(&host, &material, name).await?;
        for point in &made {
            println!(
                "{:<24} {:>5} {:>11.3} {:>6.1}% {:>10.2} {:>12.1}",
                point.shape,
                point.top_k,
                point.perplexity,
                point.exact_percent,
                point.decode_ms,
                point.stored_bytes_per_token
            );
        }
        points.extend(made);
        host.stop().await?;
    }
    let rows: Vec<Value> = points.iter().map(|point| as_json(point, &points)).collect();
    arguments.output.write("pareto", &model, &json!({"tokens": arguments.tokens, "points": rows}), &plot(&points))
}

/// What every setting is measured on.
struct Material<'a> {
    passages: Vec<Passage<'a>>,
    /// Bytes of text before a passage that memory holds.
    bytes: usize,
    history: String,
    survey: Survey,
}

impl<'a> Material<'a> {
    fn make(arguments: &Arguments, books: &'a [(String, String)], bytes_per_token: f64) -> Result<Self> {
        const CONTEXT_TOKENS: u64 = 256;
        const COUNTED_TOKENS: u64 = 768;
        let count = arguments.passages.clamp(1, books.len());
        let one = |index| passage(books, index * books.len() / count, bytes_per_token, CONTEXT_TOKENS, COUNTED_TOKENS);
        let plan = Plan {
            seed: arguments.seed,
            bytes: (arguments.tokens as f64 * BYTES_PER_TOKEN) as u64,
            questions: arguments.facts,
            revised: 0,
        };
        let (history, survey) = History::whole(plan, paragraphs(books))?;
        let bytes = (arguments.tokens as f64 * bytes_per_token) as usize;
        Ok(Self { passages: (0..count).map(one).collect::<Result<_>>()?, bytes, history, survey })
    }
}

async fn measure(host: &Host, material: &Material<'_>, shape: &'static str) -> Result<Vec<Point>> {
    let mut passages = Vec::with_capacity(material.passages.len());
    let (mut stored, mut read) = (0, 0);
    for (index, passage) in material.passages.iter().enumerate() {
        let name = format!("passage-{index}");
        host.client.create_memory(&name, "of mnemon bench").await?;
        read += passage.fill(host, &name, material.bytes).await?;
        stored += host.client.get_memory(&name).await?.stored_bytes;
        passages.push((name, passage));
    }
    host.client.create_memory(HISTORY, "of mnemon bench").await?;
    host.read(HISTORY, DOCUMENT, &material.history).await?;

    let mut points = Vec::with_capacity(TOP_K.len());
    for top_k in TOP_K {
        let options = |memory: &str| v1::MemoryOptions { top_k_chunks: Some(top_k), ..recalling(memory) };
        let mut scores = ScoreSum::default();
        for (name, passage) in &passages {
            scores.add(&counted(host, passage, options(name)).await?);
        }
        let (mut exact, mut decode_ms) = (Tally::default(), Vec::new());
        for planted in material.survey.asked() {
            let answer = host.ask(&planted.fact.question, options(HISTORY), ANSWER_TOKENS_MAX).await?;
            exact.add(planted.fact.is_answered_by(&answer.text));
            decode_ms.push(answer.finish.usage.unwrap_or_default().decode_ms_per_token);
        }
        points.push(Point {
            shape,
            top_k,
            perplexity: scores.perplexity(),
            exact_percent: exact.percent(),
            decode_ms: median(&decode_ms),
            stored_bytes_per_token: stored as f64 / read.max(1) as f64,
        });
    }
    Ok(points)
}

fn as_json(point: &Point, all: &[Point]) -> Value {
    json!({
        "memory": point.shape,
        "top_k_chunks": point.top_k,
        "perplexity": point.perplexity,
        "facts_exact_percent": point.exact_percent,
        "decode_ms_per_token_median": point.decode_ms,
        "stored_bytes_per_token": point.stored_bytes_per_token,
        "on_the_frontier": !all.iter().any(|other| other.beats(point)),
    })
}

fn plot(points: &[Point]) -> String {
    let line = |shape: &str| Line {
        label: shape.to_owned(),
        points: points.iter().filter(|p| p.shape == shape).map(|p| (u64::from(p.top_k), p.perplexity)).collect(),
        faint: false,
    };
    Plot {
        title: "Perplexity against chunks recalled, by shape of memory",
        x: "chunks recalled for a token",
        y: "perplexity",
        lines: SHAPES.iter().map(|(name, _)| line(name)).collect(),
        y_range: None,
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_beaten_by_one_that_is_nowhere_worse() {
        let point = |perplexity, decode_ms| Point {
            shape: "",
            top_k: 1,
            perplexity,
            exact_percent: 90.0,
            decode_ms,
            stored_bytes_per_token: 1.0,
        };
        assert!(point(10.0, 1.0).beats(&point(11.0, 1.0)));
        assert!(!point(10.0, 2.0).beats(&point(11.0, 1.0)));
        assert!(!point(10.0, 1.0).beats(&point(10.0, 1.0)));
    }
}
