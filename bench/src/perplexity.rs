//! Perplexity of passages of held-out novels against the number of tokens before them that memory holds.
//!
//! The same tokens are scored for every size of memory, each time in a fresh session. The first ones of a passage are
//! context that is not counted, so that memory does not gain by merely standing in for the local window. The baseline
//! is the same model with full attention: what stands before the passage is its prompt.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use mnemon_client::v1;
use mnemon_memory_store::StoreOptions;
use serde_json::{Value, json};

use crate::host::{Host, HostArguments, ScoreSum, Shape, forgetting, recalling};
use crate::plot::{Line, Plot};
use crate::report::{Output, line_start, parse_tokens, texts, tokens_label};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of novels (.txt) that the model was not trained on.
    #[arg(long, value_name = "DIR")]
    novels: PathBuf,
    /// Tokens before the passage that memory holds: of the same book and, where it is too short, of others.
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, default_value = "0,2k,8k,65k,262k")]
    memory: Vec<u64>,
    /// Novels to measure, one passage each, evenly chosen from the folder.
    #[arg(long, default_value_t = 8)]
    passages: usize,
    /// Tokens counted of each passage, about.
    #[arg(long, default_value_t = 1024)]
    tokens: u64,
    /// Tokens before them that are only context, about.
    #[arg(long, default_value_t = 256)]
    context: u64,
    /// Tokens before the passage that the baseline of full attention reads; 0 leaves it out.
    #[arg(long, value_parser = parse_tokens, default_value = "2k")]
    full: u64,
    /// Wait until the graphs of the memories are built, so that they and not the scan are measured: minutes for each
    /// 100k tokens.
    #[arg(long)]
    sealed: bool,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

/// A place in a novel, with all text before it: the shelf.
pub(crate) struct Passage<'a> {
    book: &'a str,
    /// Texts before the passage, nearest first; the first is of the same book.
    before: Vec<(&'a str, &'a str)>,
    context: &'a str,
    /// What is counted.
    counted: &'a str,
}

/// A passage scored with one memory.
struct Scored {
    memory_tokens: u64,
    tokens: u64,
    log_probability: f64,
    /// With the index walked, whatever the size of the memory, and with every entry scanned.
    walked_log_probability: f64,
    exact_log_probability: f64,
    sealed_bytes: u64,
}

impl Scored {
    fn perplexity(&self) -> f64 {
        (-self.log_probability / self.tokens as f64).exp()
    }
}

const MEMORY: &str = "bench";

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let books = texts(&arguments.novels)?;
    let host = Host::start(&arguments.host).await?;
    let model = host.client.model().await?;
    let bytes_per_token = host.bytes_per_token(&books[0].1).await?;
    let mut rows: Vec<(String, Vec<Scored>)> = Vec::new();
    let count = arguments.passages.min(books.len());
    let mut baseline = FullAttention::start(arguments).await?;
    println!("{:<28} {:>9} {:>11} {:>9} {:>9} {:>7}", "book", "memory", "perplexity", "change", "index", "s");
    for index in 0..count {
        let passage =
            passage(&books, index * books.len() / count, bytes_per_token, arguments.context, arguments.tokens)?;
        let mut scores: Vec<Scored> = Vec::new();
        for &size in &arguments.memory {
            let begun = Instant::now();
            let scored = score(&host, &passage, (size as f64 * bytes_per_token) as usize, arguments.sealed).await?;
            let change = scores.first().map_or(0.0, |none| 100.0 * (scored.perplexity() / none.perplexity() - 1.0));
            let missed = scored.exact_log_probability - scored.walked_log_probability;
            let walked = 100.0 * (missed / scored.tokens as f64).exp_m1();
            println!(
                "{:<28} {:>9} {:>11.2} {:>8.1}% {:>8.2}% {:>7.1}",
                passage.book,
                tokens_label(size),
                scored.perplexity(),
                change,
                walked,
                begun.elapsed().as_secs_f64()
            );
            scores.push(scored);
        }
        if let Some(baseline) = &mut baseline {
            let perplexity = baseline.score(&passage, (arguments.full as f64 * bytes_per_token) as usize).await?;
            println!("{:<28} {:>9} {perplexity:>11.2}", passage.book, "full");
        }
        rows.push((passage.book.to_owned(), scores));
    }
    let overall = overall(&arguments.memory, &rows);
    println!("\n{:>9} {:>11} {:>9} {:>22}", "memory", "perplexity", "change", "index against exact");
    for row in &overall {
        println!(
            "{:>9} {:>11.2} {:>8.1}% {:>21.3}%",
            tokens_label(row.memory),
            row.perplexity,
            row.change_percent,
            row.index_against_exact_percent
        );
    }
    let full = match baseline {
        Some(baseline) => Some(baseline.finish(arguments.full).await?),
        None => None,
    };
    let results = json!({
        "bytes_per_token": bytes_per_token,
        "full_attention": full,
        "overall": overall.iter().map(Overall::as_json).collect::<Vec<_>>(),
        "passages": rows.iter().map(|(book, scores)| passage_json(book, &arguments.memory, scores)).collect::<Vec<_>>(),
    });
    arguments.output.write("perplexity", &model, &results, &plot(&arguments.memory, &rows, &overall))?;
    host.stop().await
}

/// A passage four fifths into a book; the shelf before it is the other books, in order.
pub(crate) fn passage(
    books: &[(String, String)],
    index: usize,
    bytes_per_token: f64,
    context_tokens: u64,
    counted_tokens: u64,
) -> Result<Passage<'_>> {
    let (book, text) = &books[index];
    let start = line_start(text, text.len() / 5 * 4);
    let bytes = |tokens: u64| (tokens as f64 * bytes_per_token) as usize;
    let middle = line_start(text, start + bytes(context_tokens));
    let end = line_start(text, middle + bytes(counted_tokens));
    anyhow::ensure!(
        end < text.len(),
        "{book} is too short for a passage of {context_tokens} and {counted_tokens} tokens"
    );
    let others = (1..books.len()).map(|step| &books[(index + step) % books.len()]);
    let before = std::iter::once((book.as_str(), &text[..start]))
        .chain(others.map(|(name, text)| (name.as_str(), text.as_str())))
        .collect();
    Ok(Passage { book, before, context: &text[start..middle], counted: &text[middle..end] })
}

/// Fills a memory with the last `bytes` of the shelf and scores the passage with it.
async fn score(host: &Host, passage: &Passage<'_>, bytes: usize, sealed: bool) -> Result<Scored> {
    let client = &host.client;
    client.create_memory(MEMORY, "of mnemon bench").await?;
    let memory_tokens = passage.fill(host, MEMORY, bytes).await?;
    if sealed {
        wait_for_graphs(host).await?;
    }
    let options = if bytes == 0 { forgetting(MEMORY) } else { recalling(MEMORY) };
    let v1::ScoreResponse { tokens, log_probability, .. } = counted(host, passage, options.clone()).await?;
    let memory = client.get_memory(MEMORY).await?;
    let (mut walked_log_probability, mut exact_log_probability) = (log_probability, log_probability);
    if memory.index_bytes > 0 {
        let walked = v1::MemoryOptions { ef_search: Some(StoreOptions::default().ef_search as u32), ..options.clone() };
        walked_log_probability = counted(host, passage, walked).await?.log_probability;
        let exact = v1::MemoryOptions { exact: true, ..options };
        exact_log_probability = counted(host, passage, exact).await?.log_probability;
    }
    client.delete_memory(MEMORY).await?;
    Ok(Scored {
        memory_tokens,
        tokens,
        log_probability,
        walked_log_probability,
        exact_log_probability,
        sealed_bytes: memory.index_bytes,
    })
}

impl Passage<'_> {
    /// Reads the last `bytes` before the passage into a memory; returns their tokens.
    pub(crate) async fn fill(&self, host: &Host, memory: &str, bytes: usize) -> Result<u64> {
        let (mut left, mut tokens) = (bytes, 0);
        for (name, text) in &self.before {
            if left == 0 {
                break;
            }
            let from = if text.len() > left { line_start(text, text.len() - left) } else { 0 };
            tokens += host.read(memory, name, &text[from..]).await?;
            left = if from > 0 { 0 } else { left - text.len() };
        }
        Ok(tokens)
    }
}

/// The score of what is counted.
pub(crate) async fn counted(
    host: &Host,
    passage: &Passage<'_>,
    memory: v1::MemoryOptions,
) -> Result<v1::ScoreResponse> {
    Ok(host.client.score_after(passage.context, passage.counted, memory).await?)
}

/// The same model with a window over everything, its prompt included, and no memory.
struct FullAttention {
    host: Host,
    scores: ScoreSum,
}

impl FullAttention {
    async fn start(arguments: &Arguments) -> Result<Option<Self>> {
        if arguments.full == 0 {
            return Ok(None);
        }
        // Bytes of a token differ from text to text: twice the tokens are always enough.
        let window = 2 * (arguments.full + arguments.context + arguments.tokens);
        let shape = Shape { window: Some(u32::try_from(window)?), ..Shape::default() };
        let host = Host::start_with(&arguments.host, &shape).await?;
        host.client.create_memory(MEMORY, "of mnemon bench").await?;
        Ok(Some(Self { host, scores: ScoreSum::default() }))
    }

    /// Perplexity of a passage after `bytes` of its book.
    async fn score(&mut self, passage: &Passage<'_>, bytes: usize) -> Result<f64> {
        let before = passage.before.first().map_or("", |(_, text)| text);
        let before = &before[line_start(before, before.len().saturating_sub(bytes))..];
        let context = [before, passage.context].concat();
        let scored = self.host.client.score_after(&context, passage.counted, forgetting(MEMORY)).await?;
        self.scores.add(&scored);
        Ok(scored.perplexity)
    }

    async fn finish(self, tokens: u64) -> Result<Value> {
        self.host.stop().await?;
        let perplexity = self.scores.perplexity();
        println!("full attention to {} more tokens: {perplexity:.2}", tokens_label(tokens));
        Ok(json!({"tokens_before": tokens, "perplexity": perplexity}))
    }
}

/// Waits until less than a segment is not in a graph.
async fn wait_for_graphs(host: &Host) -> Result<()> {
    const STALLED: Duration = Duration::from_secs(1200);
    const POLL: Duration = Duration::from_secs(2);
    let segment = StoreOptions::default().seal_entries as u64;
    let (mut left, mut since) = (u64::MAX, Instant::now());
    loop {
        let memory = host.client.get_memory(MEMORY).await?;
        let geometry = memory.geometry.unwrap_or_default();
        if memory.unsealed_entries < segment * geometry.key_heads.len() as u64 {
            return Ok(());
        }
        if memory.unsealed_entries < left {
            (left, since) = (memory.unsealed_entries, Instant::now());
        }
        anyhow::ensure!(since.elapsed() < STALLED, "no graph was finished for {} minutes", STALLED.as_secs() / 60);
        tokio::time::sleep(POLL).await;
    }
}

/// All passages at one size of memory: geometric means.
struct Overall {
    memory: u64,
    perplexity: f64,
    change_percent: f64,
    index_against_exact_percent: f64,
}

impl Overall {
    fn as_json(&self) -> Value {
        json!({
            "memory_tokens": self.memory,
            "perplexity": self.perplexity,
            "change_percent": self.change_percent,
            "index_against_exact_percent": self.index_against_exact_percent,
        })
    }
}

fn overall(sizes: &[u64], rows: &[(String, Vec<Scored>)]) -> Vec<Overall> {
    let tokens: u64 = rows.iter().filter_map(|(_, s)| s.first()).map(|s| s.tokens).sum();
    let mean = |pick: &dyn Fn(&Scored) -> f64, at: usize| {
        let sum: f64 = rows.iter().map(|(_, scores)| pick(&scores[at])).sum();
        (-sum / tokens.max(1) as f64).exp()
    };
    let none = mean(&|s| s.log_probability, 0);
    let row = |(at, &memory): (usize, &u64)| {
        let perplexity = mean(&|s| s.log_probability, at);
        let (walked, exact) = (mean(&|s| s.walked_log_probability, at), mean(&|s| s.exact_log_probability, at));
        Overall {
            memory,
            perplexity,
            change_percent: 100.0 * (perplexity / none - 1.0),
            index_against_exact_percent: 100.0 * (walked / exact - 1.0),
        }
    };
    sizes.iter().enumerate().map(row).collect()
}

fn passage_json(book: &str, sizes: &[u64], scores: &[Scored]) -> Value {
    let row = |(size, scored): (&u64, &Scored)| {
        json!({
            "memory": size,
            "memory_tokens": scored.memory_tokens,
            "tokens_counted": scored.tokens,
            "perplexity": scored.perplexity(),
            "index_bytes": scored.sealed_bytes,
        })
    };
    json!({"book": book, "scores": sizes.iter().zip(scores).map(row).collect::<Vec<_>>()})
}

fn plot(sizes: &[u64], rows: &[(String, Vec<Scored>)], overall: &[Overall]) -> String {
    let relative = |(book, scores): &(String, Vec<Scored>)| Line {
        label: book.clone(),
        points: sizes
            .iter()
            .zip(scores)
            .map(|(&size, s)| (size, 100.0 * (s.perplexity() / scores[0].perplexity() - 1.0)))
            .collect(),
        faint: true,
    };
    let mut lines: Vec<Line> = rows.iter().map(relative).collect();
    let mean = overall.iter().map(|row| (row.memory, row.change_percent)).collect();
    lines.push(Line { label: "all passages".into(), points: mean, faint: false });
    Plot {
        title: "Perplexity of held-out novels against memory",
        x: "tokens in memory",
        y: "change of perplexity, %",
        lines,
        y_range: None,
    }
    .svg()
}
