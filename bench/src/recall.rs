//! Facts planted at all depths of long histories, asked for one by one: with memory, without, and with text search put
//! into the prompt, which is what an agent without such a memory does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use mnemon_client::v1;
use serde_json::{Value, json};

use crate::history::{ANSWER_TOKENS_MAX, BYTES_PER_TOKEN, Fact, History, Plan, Planted, Revision, rank_of};
use crate::host::{Answer, Host, HostArguments, forgetting, recalling};
use crate::plot::{Line, Plot};
use crate::report::{Output, parse_tokens, texts, tokens_label};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Lengths of the histories.
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, default_value = "8k,64k,256k,1m")]
    tokens: Vec<u64>,
    /// Facts asked about, from the first line to the last; as many that were never planted.
    #[arg(long, default_value_t = 40)]
    facts: usize,
    /// How many of them revise an earlier fact.
    #[arg(long, default_value_t = 10)]
    revised: usize,
    /// Folder of .txt files whose paragraphs stand among the lines of the histories.
    #[arg(long, value_name = "DIR")]
    novels: Option<PathBuf>,
    /// Seed of the histories.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

const MEMORY: &str = "bench";
pub(crate) const DOCUMENT: &str = "history";
/// What the model says of a fact that it does not remember.
const UNKNOWN: &str = "not known";

/// Answers counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    asked: u32,
    right: u32,
}

impl Tally {
    pub(crate) fn add(&mut self, right: bool) {
        self.asked += 1;
        self.right += u32::from(right);
    }

    pub(crate) fn percent(self) -> f64 {
        100.0 * f64::from(self.right) / f64::from(self.asked.max(1))
    }
}

/// What one history gave.
#[derive(Debug, Default)]
struct Measured {
    tokens: u64,
    exact: Tally,
    paraphrased: Tally,
    revised: Tally,
    cited: Tally,
    without: Tally,
    searched: Tally,
    /// The found passages hold the value.
    found: Tally,
    denied: Tally,
    /// Milliseconds to the first token of each answer.
    first_token_ms: Vec<f64>,
    search_first_token_ms: Vec<f64>,
    depths: Vec<Value>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let prose = match &arguments.novels {
        Some(folder) => paragraphs(&texts(folder)?),
        None => Arc::default(),
    };
    let host = Host::start(&arguments.host).await?;
    let model = host.client.model().await?;
    println!(
        "{:>9} {:>7} {:>10} {:>7} {:>7} {:>8} {:>8} {:>7} {:>7} {:>12}",
        "tokens", "exact", "paraphr.", "update", "cited", "without", "search", "found", "denied", "ttft/search ms"
    );
    let mut rows = Vec::new();
    for &tokens in &arguments.tokens {
        let plan = Plan {
            seed: arguments.seed,
            bytes: (tokens as f64 * BYTES_PER_TOKEN) as u64,
            questions: arguments.facts,
            revised: arguments.revised,
        };
        let row = measure(&host, &model, plan, &prose).await?;
        println!(
            "{:>9} {:>6.1}% {:>9.1}% {:>6.1}% {:>6.1}% {:>7.1}% {:>7.1}% {:>6.1}% {:>6.1}% {:>6.1} / {:>5.1}",
            row.tokens,
            row.exact.percent(),
            row.paraphrased.percent(),
            row.revised.percent(),
            row.cited.percent(),
            row.without.percent(),
            row.searched.percent(),
            row.found.percent(),
            row.denied.percent(),
            median(&row.first_token_ms),
            median(&row.search_first_token_ms),
        );
        rows.push((tokens, row));
    }
    let results = json!({
        "seed": arguments.seed,
        "histories": rows.iter().map(|(tokens, row)| row.as_json(*tokens)).collect::<Vec<_>>(),
    });
    arguments.output.write("recall", &model, &results, &plot(&rows))?;
    host.stop().await
}

async fn measure(host: &Host, model: &v1::Model, plan: Plan, prose: &Arc<[String]>) -> Result<Measured> {
    let (text, survey) = History::whole(plan, Arc::clone(prose))?;
    host.client.create_memory(MEMORY, "of mnemon bench").await?;
    let mut measured = Measured { tokens: host.read(MEMORY, DOCUMENT, &text).await?, ..Measured::default() };
    for planted in survey.asked() {
        measured.ask(host, model, planted, survey.bytes).await?;
    }
    for fact in &survey.absent {
        let answer = host.ask(&fact.question, recalling(MEMORY), ANSWER_TOKENS_MAX).await?;
        measured.denied.add(answer.text.contains(UNKNOWN));
    }
    host.client.delete_memory(MEMORY).await?;
    Ok(measured)
}

impl Measured {
    async fn ask(&mut self, host: &Host, model: &v1::Model, planted: &Planted, bytes: u64) -> Result<()> {
        let fact = &planted.fact;
        let with = host.ask(&fact.question, recalling(MEMORY), ANSWER_TOKENS_MAX).await?;
        let without = host.ask(&fact.question, forgetting(MEMORY), ANSWER_TOKENS_MAX).await?;
        let begun = Instant::now();
        let prompt = prompt_with_search(host, model, fact).await?;
        let searching = begun.elapsed();
        let searched = host.ask(&prompt, forgetting(MEMORY), ANSWER_TOKENS_MAX).await?;

        let right = fact.is_answered_by(&with.text);
        let cited = cites(&with, planted);
        self.exact.add(right);
        if !fact.question.contains(&format!("of {}", fact.subject)) {
            self.paraphrased.add(right);
        }
        if fact.revision == Revision::Latest {
            self.revised.add(right);
        }
        self.cited.add(cited);
        self.without.add(fact.is_answered_by(&without.text));
        self.searched.add(fact.is_answered_by(&searched.text));
        self.found.add(prompt.contains(&fact.statement) || prompt.contains(fact.answer.trim()));
        self.first_token_ms.push(1e3 * with.first_token.as_secs_f64());
        self.search_first_token_ms.push(1e3 * (searching + searched.first_token).as_secs_f64());
        self.depths.push(json!({
            "depth": planted.byte_start as f64 / bytes as f64,
            "question": fact.question,
            "value": fact.value,
            "revised": fact.revision == Revision::Latest,
            "answer": with.text,
            "exact": right,
            "cited": cited,
        }));
        Ok(())
    }

    fn as_json(&self, asked_for: u64) -> Value {
        json!({
            "history": tokens_label(asked_for),
            "tokens": self.tokens,
            "facts_asked": self.exact.asked,
            "exact_percent": self.exact.percent(),
            "exact_of_paraphrased_questions_percent": self.paraphrased.percent(),
            "exact_of_revised_facts_percent": self.revised.percent(),
            "citation_precision_percent": self.cited.percent(),
            "exact_without_memory_percent": self.without.percent(),
            "exact_with_search_in_prompt_percent": self.searched.percent(),
            "search_found_the_fact_percent": self.found.percent(),
            "absent_facts_denied_percent": self.denied.percent(),
            "first_token_ms_median": median(&self.first_token_ms),
            "search_and_first_token_ms_median": median(&self.search_first_token_ms),
            "by_depth": self.depths,
        })
    }
}

/// The question after the passages that text search finds for it, as many as the model's window holds beside the
/// question and the answer, and at least one.
async fn prompt_with_search(host: &Host, model: &v1::Model, fact: &Fact) -> Result<String> {
    const HITS_MAX: u32 = 8;
    let answer_bytes = fact.answer.len() + 8;
    let window_bytes = (f64::from(model.window_tokens) * 3.0) as usize;
    let mut room = window_bytes.saturating_sub(fact.question.len() + answer_bytes);
    let hits = host.client.search(&[MEMORY], &fact.question, HITS_MAX, false).await?;
    let mut passages: Vec<String> = Vec::new();
    for chunk in hits.into_iter().filter_map(|hit| hit.chunk) {
        if !passages.is_empty() && chunk.text.len() > room {
            break;
        }
        room = room.saturating_sub(chunk.text.len() + 1);
        passages.push(chunk.text);
    }
    // The best stands next to the question.
    passages.reverse();
    passages.push(fact.question.clone());
    Ok(passages.join("\n"))
}

/// Whether the chunk that most was drawn on holds the fact.
fn cites(answer: &Answer, planted: &Planted) -> bool {
    let chunks = answer.finish.citations.iter().map(|citation| citation.chunk.as_ref());
    rank_of(chunks, planted.byte_start, planted.byte_end) == Some(1)
}

pub(crate) fn paragraphs(books: &[(String, String)]) -> Arc<[String]> {
    const BYTES: std::ops::Range<usize> = 80..1_500;
    books
        .iter()
        .flat_map(|(_, text)| text.split("\n\n"))
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| BYTES.contains(&paragraph.len()))
        .collect()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

fn plot(rows: &[(u64, Measured)]) -> String {
    // Lines may lie on each other: each label says where its line ends.
    let line = |label: &str, pick: &dyn Fn(&Measured) -> f64| Line {
        label: format!("{label} {:.0} %", rows.last().map_or(0.0, |(_, row)| pick(row))),
        points: rows.iter().map(|(tokens, row)| (*tokens, pick(row))).collect(),
        faint: false,
    };
    Plot {
        title: "Facts planted in a history, asked for later",
        x: "tokens of the history",
        y: "%",
        lines: vec![
            line("exact", &|r| r.exact.percent()),
            line("search in prompt", &|r| r.searched.percent()),
            line("cited", &|r| r.cited.percent()),
            line("updates", &|r| r.revised.percent()),
            line("absent: denied", &|r| r.denied.percent()),
            line("without memory", &|r| r.without.percent()),
        ],
        y_range: Some((0.0, 103.0)),
    }
    .svg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_lines_of_moderate_length() {
        let text = format!("short\n\n{}\n{}\n\n{}", "a word".repeat(10), "b".repeat(60), "c".repeat(2_000));
        let found = paragraphs(&[("book".into(), text)]);
        assert_eq!(found.len(), 1);
        assert!(!found[0].contains('\n'));
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!(median(&[]).abs() < 1e-12);
    }
}
