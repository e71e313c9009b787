//! `mnemon ingest`: files and standard input become documents.

use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use mnemon_client::{Client, Code, Error as ClientError, IngestMode, IngestOptions, v1};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::args::{Global, Ingest};
use crate::exit::{Exit, Failure};
use crate::input::{CheckedText, PIECE_BYTES, Source};
use crate::render::{Ui, bytes, count, duration, harmless, plural};

pub(crate) async fn run(args: Ingest, global: &Global, ui: &Ui) -> Result<()> {
    let work = Work::resolve(args)?;
    let client = super::connect(global).await?;
    work.find_or_create_memory(&client, ui).await?;
    let mut done = Vec::with_capacity(work.documents.len());
    let mut outcome = Ok(());
    for (source, document_id) in &work.documents {
        match work.ingest(&client, source, document_id, ui).await {
            Ok(report) => done.push(report),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    // What was read before a failure is a result, too.
    if ui.json() {
        ui.value(&json!({"memory": work.memory, "documents": done}))?;
    }
    outcome
}

/// What to read, and where to.
struct Work {
    memory: String,
    documents: Vec<(Source, String)>,
    mode: IngestMode,
    metadata: HashMap<String, String>,
    turn: HashMap<String, String>,
    create: bool,
    ttl: Option<Duration>,
}

impl Work {
    /// Checks all that can be checked before anything is sent.
    fn resolve(args: Ingest) -> Result<Self, Failure> {
        if args.doc.is_some() && args.files.len() > 1 {
            return Err(Failure::usage("--doc names one document, but several files are given")
                .hint("ingest them one at a time, or leave --doc out: documents are named after their files"));
        }
        let mut documents = Vec::with_capacity(args.files.len());
        let mut names = HashSet::new();
        for file in &args.files {
            let source = Source::open(file)?;
            let document_id = match &args.doc {
                Some(id) => id.clone(),
                None => source.document_id()?,
            };
            if !names.insert(document_id.clone()) {
                return Err(Failure::usage(format!("two of the files would become the document {document_id:?}"))
                    .hint("ingest them one at a time, with --doc ID"));
            }
            documents.push((source, document_id));
        }
        let metadata = super::pairs("--meta", &args.metadata)?;
        let turn = super::pairs("--turn", &args.turn)?;
        let mode = match (args.append, args.resume) {
            (true, _) => IngestMode::Append,
            (_, true) => IngestMode::Resume,
            _ => IngestMode::Create,
        };
        Ok(Self { memory: args.memory, documents, mode, metadata, turn, create: args.create, ttl: args.ttl })
    }

    async fn find_or_create_memory(&self, client: &Client, ui: &Ui) -> Result<()> {
        let name = &self.memory;
        match client.get_memory(name).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(Code::NotFound) && self.create => {
                client.create_memory(name, "").await?;
                ui.note(format!("created memory {name}"));
                Ok(())
            }
            Err(error) if error.code() == Some(Code::NotFound) => {
                Err(Failure::new(Exit::NotFound, format!("there is no memory {name:?}"))
                    .hint(format!("create it with `mnemon memory create {name}`, or add --create"))
                    .into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one document to its end; returns what a program wants to know about it.
    async fn ingest(&self, client: &Client, source: &Source, document_id: &str, ui: &Ui) -> Result<Value> {
        let mut text = CheckedText::open(source).await?;
        if !self.turn.is_empty() {
            text = text.ending_its_line();
        }
        // The first piece is read before anything is sent, so that an empty input leaves no document.
        let mut first = vec![0; PIECE_BYTES];
        let read = text.read(&mut first).await.map_err(ClientError::Source)?;
        if read == 0 {
            return Err(Failure::usage(format!("{} is empty", source.name())).into());
        }
        first.truncate(read);
        let before = self.before(client, document_id).await?;
        let mut meter = Meter::new(ui, document_id, source, self.mode, &before);
        let options =
            IngestOptions { mode: self.mode, metadata: self.metadata.clone(), turn: self.turn.clone(), ttl: self.ttl };
        let text = Cursor::new(first).chain(text);
        let ended = tokio::select! {
            ended = client.ingest(&self.memory, document_id, options, text, |progress| meter.update(progress)) => ended,
            () = super::interrupted() => {
                meter.bar.finish_and_clear();
                return Err(self.interrupted(source, document_id, &meter));
            }
        };
        match ended {
            Ok(progress) => {
                meter.bar.finish_and_clear();
                Ok(meter.report(ui, document_id, &progress)?)
            }
            Err(error) => {
                meter.bar.finish_and_clear();
                Err(self.explain(&error, source, document_id, &meter))
            }
        }
    }

    /// What the document holds already.
    async fn before(&self, client: &Client, document_id: &str) -> Result<v1::Document> {
        if self.mode == IngestMode::Create {
            return Ok(v1::Document::default());
        }
        match client.get_document(&self.memory, document_id).await {
            Err(error) if error.code() == Some(Code::NotFound) => Ok(v1::Document::default()),
            other => Ok(other?),
        }
    }

    fn interrupted(&self, source: &Source, document_id: &str, meter: &Meter) -> anyhow::Error {
        let durable = plural(meter.last.durable_tokens, "token");
        let failure = Failure::new(Exit::Interrupted, format!("interrupted: {durable} of {document_id:?} are durable"));
        self.resume_hint(failure, source, document_id).into()
    }

    /// Adds what can be done about an error.
    fn explain(&self, error: &ClientError, source: &Source, document_id: &str, meter: &Meter) -> anyhow::Error {
        let failure = Failure::from(error);
        match error {
            ClientError::Status { code: Code::AlreadyExists, .. } => failure
                .hint("--append adds to the document, --resume continues an interrupted ingest, --doc ID gives another name")
                .into(),
            ClientError::Source(_) => {
                let durable = plural(meter.last.durable_tokens, "token");
                let (memory, note) = (&self.memory, format!("{durable} of {document_id:?} are kept, marked interrupted"));
                failure.hint(format!("{note}; remove them with `mnemon documents delete {memory} {document_id}`")).into()
            }
            _ if meter.last.durable_tokens > 0 => self.resume_hint(failure, source, document_id).into(),
            _ => failure.into(),
        }
    }

    /// How to go on after an interruption. Appending may not be repeated from its start; other text may.
    fn resume_hint(&self, failure: Failure, source: &Source, document_id: &str) -> Failure {
        match (source, self.mode) {
            (Source::File { path, .. }, IngestMode::Create | IngestMode::Resume) => {
                failure.hint(format!("mnemon ingest {} {} --doc {document_id} --resume", self.memory, path.display()))
            }
            _ => failure,
        }
    }
}

/// Progress of one document, on the terminal and in numbers.
struct Meter {
    bar: ProgressBar,
    started: Instant,
    /// Bytes of the document that this input does not contain.
    bytes_before: u64,
    /// Tokens that were durable before.
    tokens_before: u64,
    last: v1::IngestProgress,
}

impl Meter {
    fn new(ui: &Ui, document_id: &str, source: &Source, mode: IngestMode, before: &v1::Document) -> Self {
        let length = match source {
            Source::File { bytes, .. } => Some(*bytes),
            Source::Stdin => None,
        };
        let bytes_before = if mode == IngestMode::Append { before.bytes } else { 0 };
        let bar = progress_bar(ui, document_id, length);
        bar.set_position(before.bytes - bytes_before);
        bar.reset_eta();
        Self {
            bar,
            started: Instant::now(),
            bytes_before,
            tokens_before: before.tokens,
            last: v1::IngestProgress::default(),
        }
    }

    fn update(&mut self, progress: &v1::IngestProgress) {
        self.last = *progress;
        self.bar.set_position(progress.durable_bytes.saturating_sub(self.bytes_before));
        self.bar.set_message(format!("{} tokens/s", count(self.tokens_per_second() as u64)));
    }

    fn tokens_per_second(&self) -> f64 {
        let tokens = self.last.tokens_encoded.saturating_sub(self.tokens_before);
        tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Says what was read, to people or as a value.
    fn report(&self, ui: &Ui, document_id: &str, end: &v1::IngestProgress) -> std::io::Result<Value> {
        let elapsed = self.started.elapsed();
        let new_tokens = end.durable_tokens.saturating_sub(self.tokens_before);
        let rate = new_tokens as f64 / elapsed.as_secs_f64().max(1e-9);
        if !ui.json() && !ui.quiet() {
            ui.paragraph(None, &sentence(document_id, end, new_tokens, elapsed, rate))?;
        }
        Ok(json!({
            "document_id": document_id,
            "bytes": end.durable_bytes,
            "tokens": end.durable_tokens,
            "chunks": end.durable_chunks,
            "sequence": end.sequence,
            "complete": end.complete,
            "new_tokens": new_tokens,
            "seconds": elapsed.as_secs_f64(),
            "tokens_per_second": rate,
        }))
    }
}

fn sentence(document_id: &str, end: &v1::IngestProgress, new_tokens: u64, elapsed: Duration, rate: f64) -> String {
    let document = harmless(document_id);
    let (tokens, chunks) = (plural(end.durable_tokens, "token"), plural(end.durable_chunks, "chunk"));
    let holds = format!("{document}: {tokens}, {chunks}, {} of text", bytes(end.durable_bytes));
    if new_tokens == 0 {
        format!("{holds}; nothing new")
    } else {
        let new = if new_tokens < end.durable_tokens { format!("{} new, ", count(new_tokens)) } else { String::new() };
        format!("{holds}; {new}read in {} ({} tokens/s)", duration(elapsed), count(rate as u64))
    }
}

/// A bar over the bytes of a text on standard error, or a count of them if the length is not known; nothing unless
/// a person watches.
pub(crate) fn progress_bar(ui: &Ui, title: &str, length: Option<u64>) -> ProgressBar {
    const REDRAWS_PER_SECOND: u8 = 8;
    const TITLE_COLUMNS: usize = 24;
    if !ui.shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND))
        .with_finish(ProgressFinish::AndClear);
    let template = match (length, ui.color_err()) {
        (Some(_), true) => "{prefix} {wide_bar:.cyan} {percent:>3} %  {msg}  ETA {eta}",
        (Some(_), false) => "{prefix} {wide_bar} {percent:>3} %  {msg}  ETA {eta}",
        (None, _) => "{prefix} {spinner} {decimal_bytes} of text  {msg}  {elapsed}",
    };
    // The templates are constants; were one wrong, the plain style would do.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    bar.set_prefix(console::truncate_str(&harmless(title), TITLE_COLUMNS, "…").into_owned());
    bar.set_message("starting");
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}
