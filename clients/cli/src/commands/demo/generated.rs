//! The generated history: facts are planted at known depths, then asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use mnemon_bench::history::{ANSWER_TOKENS_MAX, BYTES_PER_TOKEN, Fact, History, Plan, Planted, Survey};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};

use super::session::{Answer, Session};
use super::summary::{Measures, Pair};
use crate::args::Demo;
use crate::render::{Ink, Ui, bar, bytes, count, excerpt, harmless, percent, plural, rough_count};

const TOKENS_DEFAULT: u64 = 100_000;
/// Pretrained models are larger, and read some hundred tokens a second on a CPU.
const TOKENS_DEFAULT_PRETRAINED: u64 = 8_000;

/// Tokens of an answer in a chat.
const CHAT_TOKENS_MAX: u32 = 40;

/// Facts asked about, from the first line of the history to the last.
const QUESTIONS: usize = 8;

/// How many of them revise what the history said before.
const REVISED: usize = 2;

/// Document of the history.
const DOCUMENT: &str = "history";

pub(super) async fn run(args: &Demo, session: &Session<'_>, mut measures: Measures) -> Result<(Value, Measures)> {
    let default = if session.model.uses_passages { TOKENS_DEFAULT_PRETRAINED } else { TOKENS_DEFAULT };
    let tokens = args.tokens.unwrap_or(default);
    let plan = Plan {
        seed: args.seed,
        bytes: (tokens as f64 * BYTES_PER_TOKEN) as u64,
        questions: QUESTIONS,
        revised: REVISED,
    };
    let survey = History::survey(plan, Arc::default(), session.score_bytes() as usize)?;
    announce(session, plan, &survey)?;
    let text = HistoryText { history: History::new(plan, Arc::default())?, line: Vec::new(), read: 0 };
    measures.reading = session.read(DOCUMENT, survey.bytes, text).await?;

    let ui = session.ui;
    let said = Said { tokens: measures.reading.tokens, bytes: survey.bytes, ui };
    said.before_the_questions(session)?;
    let mut exact = Pair::default();
    let mut questions = Vec::with_capacity(QUESTIONS);
    let mut found_but_wrong = 0;
    for (index, planted) in survey.asked().enumerate() {
        let question = &planted.fact.question;
        let (with, without) = if session.model.answers_messages {
            let question = plain(question);
            let with = session.ask_in_chat(question, true, CHAT_TOKENS_MAX).await?;
            (with, session.ask_in_chat(question, false, CHAT_TOKENS_MAX).await?)
        } else {
            let with = session.ask(question, true, ANSWER_TOKENS_MAX, &["\n"]).await?;
            (with, session.ask(question, false, ANSWER_TOKENS_MAX, &["\n"]).await?)
        };
        let right = (says(session, &planted.fact, &with.text), says(session, &planted.fact, &without.text));
        let rank = with.rank_of(planted.byte_start, planted.byte_end);
        exact.with_memory += f64::from(u8::from(right.0));
        exact.without_memory += f64::from(u8::from(right.1));
        found_but_wrong += usize::from(!right.0 && rank.is_some());
        measures.add(&with, &without);
        said.question(index, planted, &with, &without, right, rank)?;
        questions.push(as_json(planted, survey.bytes, &with, &without, right, rank));
    }
    measures.success = Some(("exact answers", QUESTIONS, exact));
    said.verdict(exact, found_but_wrong)?;

    let continuation = &survey.continuation;
    let perplexity = Pair {
        with_memory: session.score(&continuation.text, true).await?.perplexity,
        without_memory: session.score(&continuation.text, false).await?.perplexity,
    };
    let of = format!(
        "of the next {} of the history, which it has not read; they come back to {}",
        bytes(continuation.text.len() as u64),
        plural(continuation.recalled_facts as u64, "earlier fact"),
    );
    measures.perplexity = Some((of, perplexity));
    let history = json!({
        "kind": "generated",
        "seed": plan.seed,
        "bytes": survey.bytes,
        "facts": survey.facts.len(),
        "continuation_bytes": continuation.text.len(),
        "continuation_recalls_facts": continuation.recalled_facts,
    });
    Ok((json!({"history": history, "questions": questions}), measures))
}

/// The question without the form that the built-in model was trained with.
fn plain(question: &str) -> &str {
    question.trim_start_matches("Question: ").trim_end_matches("\nAnswer:")
}

/// Whether an answer is right: in the form that the built-in model was trained with, or with the value in it.
fn says(session: &Session<'_>, fact: &Fact, text: &str) -> bool {
    if session.model.answers_messages {
        text.to_lowercase().contains(&fact.value.to_lowercase())
    } else {
        fact.is_answered_by(text)
    }
}

fn announce(session: &Session<'_>, plan: Plan, survey: &Survey) -> io::Result<()> {
    let ui = session.ui;
    if ui.json() {
        return Ok(());
    }
    let text = format!(
        "It reads a generated history of an agent: {} with {} in it (--seed {}).",
        bytes(survey.bytes),
        plural(survey.facts.len() as u64, "planted fact"),
        plan.seed,
    );
    ui.paragraph(None, &text)
}

/// What is shown about the questions.
struct Said<'a> {
    tokens: u64,
    bytes: u64,
    ui: &'a Ui,
}

impl Said<'_> {
    fn before_the_questions(&self, session: &Session<'_>) -> io::Result<()> {
        if self.ui.json() {
            return Ok(());
        }
        let windows = self.tokens / u64::from(session.model.window_tokens.max(1));
        let times =
            if windows > 1 { format!(", {} times what it sees at once", count(windows)) } else { String::new() };
        let read = format!("It has read {} tokens{times}.", count(self.tokens));
        self.ui.paragraph(None, &format!("{read} Now it is asked about {QUESTIONS} of the facts."))
    }

    fn question(
        &self,
        index: usize,
        planted: &Planted,
        with: &Answer,
        without: &Answer,
        right: (bool, bool),
        rank: Option<usize>,
    ) -> io::Result<()> {
        let ui = self.ui;
        if ui.json() {
            return Ok(());
        }
        let question = plain(&planted.fact.question);
        let tokens_back = ((self.bytes - planted.byte_end) as f64 / self.bytes as f64 * self.tokens as f64) as u64;
        let back = match tokens_back {
            0 => "a moment ago".to_owned(),
            tokens => format!("{} tokens ago", rough_count(tokens)),
        };
        ui.line("")?;
        ui.line(format!(
            "{} {}  {}",
            ui.paint(Ink::Bold, &format!("{:>2}", index + 1)),
            ui.paint(Ink::Bold, question),
            ui.paint(Ink::Dim, &back),
        ))?;
        self.answer("with memory", &with.text, right.0)?;
        self.answer("without", &without.text, right.1)?;
        self.citation(planted, with, rank)
    }

    fn answer(&self, who: &str, text: &str, right: bool) -> io::Result<()> {
        let ui = self.ui;
        let mark = if right { ui.paint(Ink::Good, "✓") } else { ui.paint(Ink::Bad, "✗") };
        let text = excerpt(&harmless(text), ui.width() - 20, 1).concat();
        let text = if text.is_empty() { ui.paint(Ink::Dim, "(nothing)") } else { text };
        ui.line(format!("   {}  {mark} {text}", ui.paint(Ink::Dim, &format!("{who:<12}"))))
    }

    /// The passage that holds the fact, if the answer drew on it, or else the one it drew on most.
    fn citation(&self, planted: &Planted, with: &Answer, rank: Option<usize>) -> io::Result<()> {
        const BAR_COLUMNS: usize = 10;
        let ui = self.ui;
        let shown = with.citations.get(rank.map_or(0, |rank| rank - 1));
        let Some((citation, chunk)) = shown.and_then(|c| c.chunk.as_ref().map(|chunk| (c, chunk))) else {
            return ui.line(ui.paint(Ink::Dim, "   drew on      nothing"));
        };
        let of = with.citations.len();
        let (ink, remark) = match rank {
            Some(1) => (Ink::Good, "the fact, first of all".to_owned()),
            Some(rank) => (Ink::Good, format!("the fact, {rank} of {of}")),
            None => (Ink::Warn, format!("not the fact, nor are {} others", of - 1)),
        };
        ui.line(format!(
            "   {}  {} {}  {}  {}",
            ui.paint(Ink::Dim, &format!("{:<12}", "drew on")),
            ui.paint(Ink::Key, &bar(f64::from(citation.weight), BAR_COLUMNS)),
            percent(f64::from(citation.weight)),
            ui.paint(ink, &remark),
            ui.paint(Ink::Dim, &format!("at byte {}", count(chunk.span.unwrap_or_default().byte_start))),
        ))?;
        let text = around(&chunk.text, &planted.fact);
        for line in excerpt(text, ui.width() - 17, 2) {
            ui.line(format!("                 {}", marked(ui, &line, &planted.fact.value)))?;
        }
        Ok(())
    }

    fn verdict(&self, exact: Pair, found_but_wrong: usize) -> io::Result<()> {
        let ui = self.ui;
        let wrong = QUESTIONS - exact.with_memory as usize;
        if ui.json() || wrong == 0 {
            return Ok(());
        }
        let found = match found_but_wrong {
            0 => String::new(),
            n => format!("; for {n} of them it drew on the right passage, but misread it"),
        };
        let are = if wrong == 1 { "answer is" } else { "answers are" };
        ui.line("")?;
        ui.paragraph(Some(Ink::Warn), &format!("{wrong} of {QUESTIONS} {are} wrong{found}. It is a small model."))
    }
}

/// A line of a passage, with a value in it set off.
fn marked(ui: &Ui, line: &str, value: &str) -> String {
    let set_off = ui.paint(Ink::Good, value);
    line.split(value).map(|part| ui.paint(Ink::Dim, part)).collect::<Vec<_>>().join(&set_off)
}

/// The text from the line on that says the fact, or as much of it as a chunk has that ends or begins within it.
fn around<'t>(text: &'t str, fact: &Fact) -> &'t str {
    let said = [&fact.statement, fact.answer.trim(), &fact.subject].into_iter().find_map(|part| text.find(part));
    let at = said.unwrap_or(0);
    &text[text[..at].rfind('\n').map_or(0, |line| line + 1)..]
}

fn as_json(
    planted: &Planted,
    bytes: u64,
    with: &Answer,
    without: &Answer,
    right: (bool, bool),
    rank: Option<usize>,
) -> Value {
    let mut value = json!({
        "question": planted.fact.question,
        "expected": planted.fact.value,
        "depth": planted.byte_start as f64 / bytes as f64,
        "byte_start": planted.byte_start,
        "byte_end": planted.byte_end,
        "with_memory": with.as_json(),
        "without_memory": without.as_json(),
    });
    value["with_memory"]["exact"] = json!(right.0);
    value["with_memory"]["rank_of_fact"] = json!(rank);
    value["without_memory"]["exact"] = json!(right.1);
    value
}

/// A history as a stream of bytes.
struct HistoryText {
    history: History,
    line: Vec<u8>,
    /// Bytes of `line` that were read.
    read: usize,
}

impl AsyncRead for HistoryText {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while buffer.remaining() > 0 {
            if this.read == this.line.len() {
                let Some(line) = this.history.next() else { break };
                this.line = line.into_bytes();
                this.read = 0;
            }
            let piece = (this.line.len() - this.read).min(buffer.remaining());
            buffer.put_slice(&this.line[this.read..this.read + piece]);
            this.read += piece;
        }
        Poll::Ready(Ok(()))
    }
}
