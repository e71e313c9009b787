//! Generate: text from a prompt, with citations.
//!
//! Three parties, none of which waits for another's work: the job on the engine makes tokens, the response writer looks up the
//! passages behind them and packs messages, and the client reads. A client that reads slowly fills the channels; then
//! the job leaves the engine until there is room.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mnemon_encoder::Overflow;
use mnemon_memory::{ChunkId, Recall as _};
use mnemon_proto::v1;
use mnemon_runtime::{
    FinishReason, GenerateOptions, GenerateStep, Generation, MemoryFrom, Passage, SamplingOptions, Turn,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::Instrument as _;

use super::asked::Asked;
use super::{long_prompt, select};
use crate::auth::Tenant;
use crate::citations::{Masses, Recalled};
use crate::state::ModelState;
use crate::status::{IntoStatus, violation};
use crate::tasks::Job;
use crate::{citations, convert, status, tasks, validate};

/// Tokens made ahead of what was told.
const TOKENS_AHEAD: usize = 32;
/// Messages told ahead of what the client has read.
const ANSWERS_AHEAD: usize = 4;
/// Citations of one message, and of the last.
const CITATIONS_MAX: usize = 8;
const FINAL_CITATIONS_MAX: usize = 32;
/// Passages kept at hand; more are looked up again.
const PASSAGES_MAX: usize = 1024;
/// Tokens generated when the caller leaves it open.
const MAX_TOKENS_DEFAULT: u32 = 256;

type Answer = Result<v1::GenerateResponse, Status>;

/// Begins to generate; the rest is told in the stream.
pub(super) async fn start(
    state: &Arc<ModelState>,
    tenant: Tenant,
    request: v1::GenerateRequest,
) -> Result<ReceiverStream<Answer>, Status> {
    validate::generate(&request)?;
    let memory = request.memory.clone().unwrap_or_default();
    let recalled = Recalled::from_options(state, tenant, &memory).await?;
    let options = GenerateOptions {
        max_tokens: request.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT) as usize,
        sampling: sampling(&request.sampling.unwrap_or_default()),
        stop: request.stop.clone(),
        memory: match &recalled {
            Some(recalled) if !recalled.is_empty() => recalled.memory_from(state, &memory),
            _ => MemoryFrom::Nothing,
        },
        context_tokens: Some(state.app.settings.context_tokens as usize),
        prompt_tokens_max: state.app.settings.limits.prompt_tokens as usize,
    };
    let select = memory.select();
    if matches!(select, v1::Select::Search | v1::Select::Both) && state.model.profile().is_none() {
        let why = "the model was trained with memory, whose layers choose what they recall; leave it out";
        return Err(status::invalid(vec![violation("memory.select", why)]));
    }
    let (tokens, made) = mpsc::channel(TOKENS_AHEAD);
    let job = GenerateJob {
        state: Arc::clone(state),
        cut: state.app.shutdown.cut.clone(),
        asked: Asked::of(request)?,
        select,
        options: Some(options),
        overflow: None,
        generation: None,
        tokens,
        prefill: Duration::ZERO,
        decode: Duration::ZERO,
        outcome: None,
    };
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    let writer = ResponseWriter {
        state: Arc::clone(state),
        recalled,
        answers,
        total: Masses::default(),
        answering: Masses::default(),
        passages: HashMap::new(),
    };
    state.app.shutdown.streams.spawn(run(Arc::clone(state), job, made, writer).in_current_span());
    Ok(ReceiverStream::new(stream))
}

/// Makes and tells the answer; an error is its last message.
async fn run(state: Arc<ModelState>, job: GenerateJob, made: Receiver<Event>, mut writer: ResponseWriter) {
    let (worked, told) = tokio::join!(make(&state, job), writer.tell(made));
    if let Err(status) = worked.and(told) {
        tokio::select! {
            // A client that is gone does not want it.
            _ = writer.answers.send(Err(status)) => {}
            () = state.app.shutdown.cut.cancelled() => { let _ = writer.answers.try_send(Err(status::shutting_down())); }
        }
    }
}

/// Keeps the job on the engine as long as there is room for tokens.
async fn make(state: &Arc<ModelState>, job: GenerateJob) -> Result<(), Status> {
    let mut job = tasks::run_new(state, job).await?;
    loop {
        if let Some(outcome) = job.outcome.take() {
            return outcome;
        }
        tokio::select! {
            room = job.tokens.reserve() => match room {
                Ok(room) => drop(room),
                // The client is gone.
                Err(_) => return Ok(()),
            },
            () = state.app.shutdown.cut.cancelled() => return Err(status::shutting_down()),
        }
        job = tasks::run_next(state, job).await?;
    }
}

fn sampling(options: &v1::SamplingOptions) -> SamplingOptions {
    SamplingOptions {
        temperature: f64::from(options.temperature.unwrap_or(0.0)),
        top_k: options.top_k.map(|k| k as usize),
        top_p: options.top_p.map(f64::from),
        repetition_penalty: options.repetition_penalty.unwrap_or(1.0),
        seed: options.seed.unwrap_or(0),
    }
}

/// What the job makes.
enum Event {
    Token { id: u32, text: String, masses: Vec<(ChunkId, f32)>, is_asked: bool },
    End { text: String, finish: v1::GenerateFinish },
}

/// A generation on the engine.
struct GenerateJob {
    state: Arc<ModelState>,
    cut: CancellationToken,
    asked: Asked,
    /// By what passages are chosen.
    select: v1::Select,
    /// Taken when the generation begins.
    options: Option<GenerateOptions>,
    /// What does not fit of the prompt, while it is read and as long as it is recalled.
    overflow: Option<Overflow>,
    /// Begun in the first step: tokenizing is work.
    generation: Option<Generation>,
    /// Closed when the client is gone.
    tokens: Sender<Event>,
    /// Time of work on the prompt, and on the tokens after it.
    prefill: Duration,
    decode: Duration,
    /// Set at the end; `None` when it left the engine for lack of room.
    outcome: Option<Result<(), Status>>,
}

impl GenerateJob {
    /// Begins to generate, once what does not fit of the prompt was read.
    fn begin(&mut self) -> Result<(), Status> {
        let model = &self.state.model;
        if let Some(overflow) = &mut self.overflow
            && overflow.step().map_err(|error| error.into_status("prompt"))?
        {
            return Ok(());
        }
        let mut options = self.options.take().unwrap_or_default();
        if let Some(overflow) = &self.overflow {
            long_prompt::recall_from(model, &mut options, overflow).map_err(|error| error.into_status("prompt"))?;
        }
        let for_passages = matches!(options.memory, MemoryFrom::Passages(_));
        let prompt = self.asked.prompt(model, for_passages).map_err(|error| error.into_status("prompt"))?;
        if self.overflow.is_none()
            && let Some(overflow) = long_prompt::shorten(model, &mut self.asked, prompt.len(), &options)?
        {
            self.overflow = Some(overflow);
            self.options = Some(options);
            return Ok(());
        }
        if let MemoryFrom::Passages(from) = &mut options.memory {
            let embedder = self.state.embedder.as_deref();
            let selected = select::select(model, embedder, from, &prompt, self.select);
            from.select = selected.map_err(|error| error.into_status("prompt"))?;
        }
        let generation = Generation::new(Arc::clone(model), prompt, options);
        self.generation = Some(generation.map_err(|error| error.into_status("prompt"))?);
        Ok(())
    }

    /// One piece of work; what was made, if anything.
    fn work(&mut self) -> Result<Option<Event>, Status> {
        let begun = Instant::now();
        let Some(generation) = &mut self.generation else {
            self.begin()?;
            self.prefill += begun.elapsed();
            return Ok(None);
        };
        let step = generation.step().map_err(|error| error.into_status("prompt"))?;
        let took = begun.elapsed();
        Ok(match step {
            GenerateStep::Prefill { .. } => {
                self.prefill += took;
                None
            }
            GenerateStep::Token { id, text, mut masses, is_asked } => {
                self.decode += took;
                // What went to the prompt is not cited, wherever it was kept.
                masses.retain(|(chunk, _)| !Overflow::holds(*chunk));
                Some(Event::Token { id, text, masses, is_asked })
            }
            GenerateStep::Finished { reason, text, prompt_tokens, generated_tokens } => {
                self.decode += took;
                let usage = v1::Usage {
                    prompt_tokens: prompt_tokens as u32,
                    generated_tokens: generated_tokens as u32,
                    recalled_chunks: 0,
                    prefill_ms: self.prefill.as_secs_f64() * 1e3,
                    decode_ms_per_token: self.decode.as_secs_f64() * 1e3 / generated_tokens.max(1) as f64,
                };
                let reason = match reason {
                    FinishReason::EndOfText => v1::FinishReason::EndOfText,
                    FinishReason::Stop => v1::FinishReason::StopString,
                    FinishReason::Length => v1::FinishReason::MaxTokens,
                };
                let used = generation.passages();
                let mode = used.map_or(v1::RecallMode::Unspecified, |(mode, _)| convert::used_mode(mode));
                let passages = used.map_or(&[][..], |(_, passages)| passages);
                let finish = v1::GenerateFinish {
                    reason: reason.into(),
                    usage: Some(usage),
                    mode: mode.into(),
                    passages: passages.iter().flat_map(shown).collect(),
                    ..v1::GenerateFinish::default()
                };
                Some(Event::End { text, finish })
            }
        })
    }
}

impl Job for GenerateJob {
    fn step(&mut self) -> Turn {
        if self.cut.is_cancelled() {
            self.outcome = Some(Err(status::shutting_down()));
            return Turn::Done;
        }
        if self.tokens.is_closed() || self.tokens.capacity() == 0 {
            return Turn::Done;
        }
        match self.work() {
            Ok(None) => return Turn::Again,
            Ok(Some(made)) => {
                let ended = matches!(made, Event::End { .. });
                // There is room; if the client is gone, the next step notices.
                let _ = self.tokens.try_send(made);
                if !ended {
                    return Turn::Again;
                }
                self.outcome = Some(Ok(()));
            }
            Err(error) => self.outcome = Some(Err(error)),
        }
        Turn::Done
    }
}

/// The chunks of a passage as they stand before the model: without what is left out at its ends, nor what is of the prompt.
fn shown(passage: &Passage) -> impl Iterator<Item = v1::Chunk> {
    let of_memory = passage.chunks.iter().enumerate().filter(|(_, info)| !Overflow::holds(info.id));
    of_memory.map(|(place, info)| {
        let mut chunk = convert::chunk(info.clone());
        let [start, end] = passage.cuts(place);
        let last = chunk.text.len().saturating_sub(end.bytes);
        if let Some(text) = chunk.text.get(start.bytes..last) {
            if let Some(span) = &mut chunk.span {
                span.byte_start += start.bytes as u64;
                span.byte_end = span.byte_end.saturating_sub(end.bytes as u64);
                span.token_start += start.tokens as u64;
                span.token_end = span.token_end.saturating_sub(end.tokens as u64);
            }
            chunk.text = text.to_owned();
        }
        chunk
    })
}

/// Packs what is made into messages with citations.
struct ResponseWriter {
    state: Arc<ModelState>,
    recalled: Option<Arc<Recalled>>,
    /// Closed when the client is gone.
    answers: Sender<Answer>,
    /// Attention of the whole answer.
    total: Masses,
    /// Of the tokens that say more than the question does.
    answering: Masses,
    /// Passages that were cited already.
    passages: HashMap<ChunkId, v1::Chunk>,
}

impl ResponseWriter {
    /// Tells all that comes from `made`. Returning closes it, which stops the job.
    async fn tell(&mut self, mut made: Receiver<Event>) -> Result<(), Status> {
        let mut batch = Vec::with_capacity(TOKENS_AHEAD);
        loop {
            let count = tokio::select! {
                biased;
                () = self.answers.closed() => return Ok(()),
                count = made.recv_many(&mut batch, TOKENS_AHEAD) => count,
            };
            if count == 0 {
                return Ok(());
            }
            let message = self.message(batch.drain(..)).await?;
            tokio::select! {
                sent = self.answers.send(Ok(message)) => if sent.is_err() { return Ok(()) },
                () = self.state.app.shutdown.cut.cancelled() => return Err(status::shutting_down()),
            }
        }
    }

    async fn message(&mut self, batch: impl Iterator<Item = Event>) -> Result<v1::GenerateResponse, Status> {
        let mut message = v1::GenerateResponse::default();
        let mut masses = Masses::default();
        for made in batch {
            match made {
                Event::Token { id, text, masses: of_token, is_asked } => {
                    message.text.push_str(&text);
                    message.token_ids.push(id);
                    masses.add(&of_token);
                    self.total.add(&of_token);
                    if !is_asked {
                        self.answering.add(&of_token);
                    }
                }
                Event::End { text, finish } => {
                    message.text.push_str(&text);
                    message.finish = Some(finish);
                }
            }
        }
        message.citations = self.cite(masses.heaviest(CITATIONS_MAX)).await?;
        if let Some(finish) = &mut message.finish {
            let mut heaviest = self.answering.heaviest(FINAL_CITATIONS_MAX);
            if heaviest.is_empty() {
                heaviest = self.total.heaviest(FINAL_CITATIONS_MAX);
            }
            finish.citations = self.cite(heaviest).await?;
            if let (Some(usage), Some(recalled)) = (&mut finish.usage, &self.recalled) {
                recalled.note(finish.passages.iter().map(|chunk| ChunkId(chunk.chunk_id)));
                usage.recalled_chunks = recalled.count() as u32;
            }
        }
        Ok(message)
    }

    /// The passages of `chunks`, with their weights.
    async fn cite(&mut self, chunks: Vec<(ChunkId, f32)>) -> Result<Vec<v1::Citation>, Status> {
        let Some(recalled) = &self.recalled else { return Ok(Vec::new()) };
        if self.passages.len() > PASSAGES_MAX {
            self.passages.clear();
        }
        let unknown: Vec<ChunkId> =
            chunks.iter().map(|(chunk, _)| *chunk).filter(|chunk| !self.passages.contains_key(chunk)).collect();
        for chunk in citations::describe(&self.state, recalled, unknown).await? {
            self.passages.insert(ChunkId(chunk.chunk_id), chunk);
        }
        let passages = &self.passages;
        let cited = chunks.into_iter().map(|(id, weight)| v1::Citation { chunk: passages.get(&id).cloned(), weight });
        Ok(cited.collect())
    }
}
