//! Asks one question in every way.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mnemon_client::{Code, v1};
use mnemon_encoder::Embedder;
use mnemon_runtime::Prompt;

use super::judge::Expected;
use super::library::{Library, Span};
use super::outcomes::Outcome;
use super::row::Row;
use crate::host::{Answer, Host, HostArguments, Shape};
use crate::report::parse_tokens;

/// For models without a chat template.
const PLAIN: &str = "{prompt}\nAnswer:";
const PLAIN_QUESTION: &str = "Question: {question}";

/// How to answer.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArguments {
    /// Ways to answer.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::ALL)]
    pub(crate) rows: Vec<Row>,
    /// Passages that stand before the model, in memory rows as in prompt rows.
    #[arg(long, default_value_t = 2)]
    pub(crate) passages: u32,
    /// Chunks on each side that come with a passage.
    #[arg(long, default_value_t = 1)]
    pub(crate) neighbours: u32,
    /// Let memory rows use as many passages and neighbours as the model's profile says.
    #[arg(long)]
    pub(crate) profile_passages: bool,
    /// Folder of a BERT model for sentence embeddings, such as all-MiniLM-L6-v2.
    #[arg(long, value_name = "DIR")]
    pub(crate) embedder: Option<PathBuf>,
    /// Longest haystack that is put into the prompt as a whole: the length that the model was trained for.
    #[arg(long, value_parser = parse_tokens)]
    pub(crate) full_tokens: Option<u64>,
    /// Tokens of an answer; twice as many where several values are asked for.
    #[arg(long, default_value_t = 32)]
    pub(crate) max_tokens: u32,
    /// Folder where the memories are made. With it, an ingest that was cut goes on; they are removed at the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Leave the memories in --data for another run over the same haystacks.
    #[arg(long, requires = "data")]
    pub(crate) keep: bool,
    /// Print every answer, and the passages of those from memory.
    #[arg(long)]
    pub(crate) show_answers: bool,
    #[command(flatten)]
    pub(crate) host: HostArguments,
}

/// A question with what is known of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) question: String,
    pub(crate) expected: Expected,
    /// Where the answer stands; empty: nowhere.
    pub(crate) evidence: Vec<Span>,
    pub(crate) has_long_answer: bool,
    /// No passage can help: rows with passages in the prompt leave it out.
    pub(crate) is_general: bool,
}

/// Servers and settings of a run.
pub(crate) struct Asker<'a> {
    arguments: &'a AskArguments,
    /// Holds the memories.
    pub(crate) memories: Host,
    pub(crate) model: v1::Model,
    pub(crate) embedder: Option<Embedder>,
    /// Holds no memory: its window is as long as the longest prompt. None where the other server reads such prompts.
    prompts: Option<Host>,
    has_chat_template: bool,
    rows: Vec<Row>,
    /// Rows that are left out, with the reason.
    pub(crate) skipped: BTreeMap<Row, String>,
    /// Answers to prompts that were asked before: other sizes and rows often find the same passages.
    asked: HashMap<(String, u32), Asked>,
}

/// What is kept of an answer to a prompt.
#[derive(Clone)]
struct Asked {
    text: String,
    first_token: Duration,
    total: Duration,
    prompt_tokens: u32,
}

impl<'a> Asker<'a> {
    /// Starts the servers that the rows need.
    ///
    /// # Errors
    /// If a server cannot be started, or the embedder cannot be read.
    pub(crate) async fn start(arguments: &'a AskArguments) -> Result<Self> {
        let mut skipped = BTreeMap::new();
        let mut skip = |row: Row, why: &str| {
            println!("{} is left out: {why}", row.name());
            skipped.insert(row, why.to_owned());
        };
        for &row in &arguments.rows {
            if row.needs_embedder() && arguments.embedder.is_none() {
                skip(row, "no --embedder");
            } else if row == Row::Full && arguments.full_tokens.is_none() {
                skip(row, "no --full-tokens");
            }
        }
        let mut rows: Vec<Row> = Row::ALL.into_iter().filter(|row| arguments.rows.contains(row)).collect();
        rows.retain(|row| !skipped.contains_key(row));
        let embedder = match &arguments.embedder {
            Some(folder) if rows.iter().any(|row| row.embeds_here()) => Some(Embedder::read(folder)?),
            _ => None,
        };
        // A pretrained model reads long prompts as they are.
        let is_pretrained = arguments.host.names_model();
        let shape = Shape { context_tokens: is_pretrained.then(|| prompt_window(arguments)), ..Shape::default() };
        let embeds = arguments.embedder.as_deref().filter(|_| rows.iter().any(|row| row.searches()));
        let memories = match &arguments.data {
            Some(data) => Host::start_at(&arguments.host, &shape, embeds, data).await?,
            None => Host::start_with_embedder(&arguments.host, &shape, embeds).await?,
        };
        let model = memories.client.model().await?;
        let prompts = if !is_pretrained && rows.iter().any(|row| row.mode().is_none()) {
            let shape = Shape { window: Some(prompt_window(arguments).max(model.window_tokens)), ..Shape::default() };
            Some(Host::start_with(&arguments.host, &shape).await?)
        } else {
            None
        };
        let has_chat_template = has_chat_template(&memories).await?;
        if !has_chat_template {
            println!("the model has no chat template: it is given plain prompts");
        }
        let asked = HashMap::new();
        Ok(Self { arguments, memories, model, embedder, prompts, has_chat_template, rows, skipped, asked })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        if let Some(prompts) = self.prompts {
            prompts.stop().await?;
        }
        self.memories.stop().await
    }

    /// The rows to ask, those left out by now excepted.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.iter().copied().filter(|row| !self.skipped.contains_key(row)).collect()
    }

    /// Answers in one way; `None` where the row has nothing to say: there is no evidence to show, no passage can help, the haystack of `tokens` is
    /// longer than the model was trained for, or the server refuses the mode.
    ///
    /// # Errors
    /// If a request fails otherwise.
    pub(crate) async fn ask(
        &mut self,
        row: Row,
        item: &Item,
        memory: &str,
        tokens: u64,
        library: &Library,
    ) -> Result<Option<Outcome>> {
        let outcome = match row.mode() {
            Some(mode) => self.recall(row, mode, item, memory).await?,
            None => self.prompt(row, item, tokens, library).await?,
        };
        if let (true, Some(outcome)) = (self.arguments.show_answers, &outcome) {
            let mark = if outcome.right { '+' } else { ' ' };
            println!("    {mark} {:<16} {} -> {:?}", row.name(), item.question, outcome.answer);
        }
        Ok(outcome)
    }

    async fn recall(&mut self, row: Row, mode: v1::RecallMode, item: &Item, memory: &str) -> Result<Option<Outcome>> {
        let own = self.arguments.profile_passages;
        let options = v1::MemoryOptions {
            memories: vec![memory.to_owned()],
            mode: mode.into(),
            select: row.select().into(),
            passages: (!own).then_some(self.arguments.passages),
            neighbours: (!own).then_some(self.arguments.neighbours),
            ..v1::MemoryOptions::default()
        };
        let request = self.request(PLAIN_QUESTION, &item.question, options, item);
        let answer = match self.memories.generate(request).await {
            Ok(answer) => answer,
            Err(error) if is_refusal(error.code()) => {
                println!("{} is left out: {error}", row.name());
                self.skipped.insert(row, error.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if self.arguments.show_answers {
            for passage in &answer.finish.passages {
                println!("      | {:?}", passage.text);
            }
        }
        Ok(Some(remembered(&answer, item)))
    }

    async fn prompt(&mut self, row: Row, item: &Item, tokens: u64, library: &Library) -> Result<Option<Outcome>> {
        let begun = Instant::now();
        let Some(chosen) = self.choose(row, item, tokens, library)? else { return Ok(None) };
        let passages = library.passages(&chosen);
        let choosing = begun.elapsed();
        let text = if row.is_prompt() { Prompt::pasted(&passages, &item.question) } else { item.question.clone() };
        let options = v1::MemoryOptions { recall_off: true, ..v1::MemoryOptions::default() };
        let template = if row.is_prompt() { "{question}" } else { PLAIN_QUESTION };
        let request = self.request(template, &text, options, item);
        let key = (text, self.answer_tokens(item));
        let asked = if let Some(asked) = self.asked.get(&key) {
            asked.clone()
        } else {
            let host = self.prompts.as_ref().unwrap_or(&self.memories);
            let answer = host.generate(request).await?;
            let asked = Asked {
                text: answer.text,
                first_token: answer.first_token,
                total: answer.total,
                prompt_tokens: answer.finish.usage.unwrap_or_default().prompt_tokens,
            };
            self.asked.insert(key, asked.clone());
            asked
        };
        let spans = library.spans(&chosen);
        let has_evidence = row.is_prompt() && !item.evidence.is_empty();
        Ok(Some(Outcome {
            right: item.expected.is_met_by(&asked.text, &item.question),
            found: has_evidence.then(|| item.evidence.iter().all(|span| span.is_covered_by(&spans))),
            cited: None,
            mode: '-',
            first_token_ms: 1e3 * (choosing + asked.first_token).as_secs_f64(),
            total_ms: 1e3 * (choosing + asked.total).as_secs_f64(),
            prompt_tokens: asked.prompt_tokens,
            answer: asked.text,
        }))
    }

    /// The chunks that stand in the prompt.
    fn choose(&self, row: Row, item: &Item, tokens: u64, library: &Library) -> Result<Option<Vec<usize>>> {
        let embedder = || self.embedder.as_ref().context("no --embedder");
        let ranked = match row {
            _ if item.is_general && row.is_prompt() => return Ok(None),
            Row::Bm25 | Row::Bm25Neighbours => library.by_words(&item.question),
            Row::Minilm => library.by_meaning(embedder()?, &item.question)?,
            Row::Fused => library.by_both(embedder()?, &item.question)?,
            Row::Oracle if item.evidence.is_empty() => return Ok(None),
            Row::Oracle => {
                return Ok(Some(library.with_neighbours(&library.holding(&item.evidence), self.neighbours(row))));
            }
            Row::Full if self.arguments.full_tokens.is_none_or(|most| tokens > most) => return Ok(None),
            Row::Full => return Ok(Some(library.all())),
            _ => Vec::new(),
        };
        let best = &ranked[..ranked.len().min(self.arguments.passages as usize)];
        Ok(Some(library.with_neighbours(best, self.neighbours(row))))
    }

    fn neighbours(&self, row: Row) -> usize {
        if row == Row::Bm25 { 0 } else { self.arguments.neighbours as usize }
    }

    fn answer_tokens(&self, item: &Item) -> u32 {
        self.arguments.max_tokens * (1 + u32::from(item.has_long_answer))
    }

    /// A message where the model has a chat template, or else a text that its answer continues.
    fn request(&self, plain: &str, text: &str, memory: v1::MemoryOptions, item: &Item) -> v1::GenerateRequest {
        let common = v1::GenerateRequest {
            memory: Some(memory),
            max_tokens: Some(self.answer_tokens(item)),
            ..v1::GenerateRequest::default()
        };
        if self.has_chat_template {
            let message =
                v1::ChatMessage { role: "user".into(), content: text.to_owned(), ..v1::ChatMessage::default() };
            v1::GenerateRequest { messages: vec![message], ..common }
        } else {
            let prompt = PLAIN.replace("{prompt}", &plain.replace("{question}", text));
            v1::GenerateRequest { prompt, stop: vec!["\n".into()], ..common }
        }
    }
}

/// Tokens of the longest prompt with its answer, with room for a template.
fn prompt_window(arguments: &AskArguments) -> u32 {
    const ROOM: u64 = 1_024;
    let chunk_tokens = 64_u32;
    let passages = u64::from(arguments.passages) * u64::from(2 * arguments.neighbours + 1) * u64::from(chunk_tokens);
    // Oracles show as many passages as there are pieces of evidence.
    let oracle = 4 * u64::from(2 * arguments.neighbours + 2) * u64::from(chunk_tokens);
    let longest = passages.max(oracle).max(arguments.full_tokens.unwrap_or(0)) + ROOM;
    u32::try_from(longest).unwrap_or(u32::MAX)
}

/// Whether a request with messages is answered.
async fn has_chat_template(host: &Host) -> Result<bool> {
    let request = v1::GenerateRequest {
        messages: vec![v1::ChatMessage { role: "user".into(), content: "Hello".into(), ..v1::ChatMessage::default() }],
        memory: Some(v1::MemoryOptions { recall_off: true, ..v1::MemoryOptions::default() }),
        max_tokens: Some(1),
        ..v1::GenerateRequest::default()
    };
    match host.generate(request).await {
        Ok(_) => Ok(true),
        Err(error) if error.violations().iter().any(|violation| violation.field == "messages") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a server does not answer in this way at all.
fn is_refusal(code: Option<Code>) -> bool {
    matches!(code, Some(Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented))
}

/// What memory made of a question.
fn remembered(answer: &Answer, item: &Item) -> Outcome {
    let finish = &answer.finish;
    let right = item.expected.is_met_by(&answer.text, &item.question);
    let mode = match finish.mode() {
        v1::RecallMode::Attend => 'a',
        v1::RecallMode::Reread => 'r',
        v1::RecallMode::Unspecified => '-',
    };
    let used: Vec<Span> = finish.passages.iter().map(Span::of).collect();
    // A server that names neither mode nor passages does not say which it used.
    let tells = mode != '-' || !used.is_empty();
    let has_evidence = !item.evidence.is_empty();
    let first = finish.citations.first().and_then(|citation| citation.chunk.as_ref()).map(Span::of);
    let is_cited =
        |first: Option<&Span>| first.is_some_and(|first| item.evidence.iter().any(|span| span.overlaps(first)));
    Outcome {
        right,
        found: (has_evidence && tells).then(|| item.evidence.iter().all(|span| span.is_covered_by(&used))),
        cited: (has_evidence && right).then(|| is_cited(first.as_ref())),
        mode,
        first_token_ms: 1e3 * answer.first_token.as_secs_f64(),
        total_ms: 1e3 * answer.total.as_secs_f64(),
        prompt_tokens: finish.usage.unwrap_or_default().prompt_tokens,
        answer: answer.text.clone(),
    }
}
