//! One document: its kept text goes to an encoder, as if it were ingested again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mnemon_encoder::{DocumentEncoder, Error};
use mnemon_memory::{ChunkInfo, ResumePoint};
use mnemon_memory_store::{DocumentInfo, Error as StoreError, Memory};
use mnemon_proto::v1;
use tonic::{Code, Status};

use super::super::encode;
use super::super::encode::{Action, EncodeJob};
use super::walk::Walk;
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::{status, tasks};

/// Chunks read from the store at once.
const PAGE_CHUNKS: usize = 256;
/// Bytes of text given to the encoder at once.
const PIECE_BYTES: usize = 256 << 10;

/// What became of a document.
pub(super) struct Encoded {
    /// Tokens that it has now.
    pub(super) tokens: u64,
    /// All of it was there before.
    pub(super) was_there: bool,
}

/// Makes the document of the new memory what it is in the old one: text and metadata.
pub(super) async fn encode(walk: &Walk, info: &DocumentInfo) -> Result<Encoded, Status> {
    let was_there = if info.bytes == 0 {
        write_empty(walk, info).await?;
        false
    } else {
        match read(walk, info).await {
            // What was made of it is compared again by the next pass.
            Err(Failed::Differs) if has_changed(walk, info).await? => {
                return Ok(Encoded { tokens: 0, was_there: false });
            }
            Err(Failed::Differs) => {
                // The old one was written anew: what was made of it before is of no use.
                let (target, id) = (walk.target.clone(), info.id.clone());
                tasks::store_next(move || target.delete_document(&id).map(|_| ())).await?;
                match read(walk, info).await {
                    Err(Failed::Differs) => return Err(changing(walk, info)),
                    Err(Failed::Status(status)) => return Err(status),
                    Ok(was_there) => was_there,
                }
            }
            Err(Failed::Status(status)) => return Err(status),
            Ok(was_there) => was_there,
        }
    };
    let (target, id, metadata) = (walk.target.clone(), info.id.clone(), info.metadata.clone());
    let tokens = tasks::store_next(move || {
        let found = target.document(&id)?;
        if found.metadata != metadata && !metadata.is_empty() {
            target.writer(&id, metadata)?.commit(found.resume)?;
        }
        Ok::<_, StoreError>(found.tokens)
    })
    .await?;
    Ok(Encoded { tokens, was_there })
}

/// Why a document could not be read.
enum Failed {
    /// The new memory has a document of this name with other text.
    Differs,
    Status(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn changing(walk: &Walk, info: &DocumentInfo) -> Status {
    let (name, id) = (walk.source.name(), &info.id);
    let message = format!("document '{id}' of memory '{name}' changed while it was read; call again");
    status::with_reason(Code::Aborted, message, "MEMORY_CHANGED")
}

/// Whether the old memory has another document of this name by now, or none.
async fn has_changed(walk: &Walk, info: &DocumentInfo) -> Result<bool, Status> {
    let (source, id, sequence) = (walk.source.clone(), info.id.clone(), info.sequence);
    tasks::store_next(move || match source.document(&id) {
        Ok(now) => Ok(now.sequence != sequence),
        Err(StoreError::UnknownDocument { .. }) => Ok(true),
        Err(error) => Err(error),
    })
    .await
}

/// A document without text.
async fn write_empty(walk: &Walk, info: &DocumentInfo) -> Result<(), Status> {
    let (target, info) = (walk.target.clone(), info.clone());
    tasks::store_next(move || {
        if target.document(&info.id).is_ok_and(|found| found.bytes > 0) {
            target.delete_document(&info.id)?;
        }
        let resume = ResumePoint { complete: info.complete, ..ResumePoint::default() };
        target.writer(&info.id, info.metadata)?.commit(resume).map(|_| ())
    })
    .await
}

/// Gives all of the document's text to an encoder; whether all of it was there.
async fn read(walk: &Walk, info: &DocumentInfo) -> Result<bool, Failed> {
    let (state, target) = (Arc::clone(&walk.state), walk.target.clone());
    let (id, metadata, ttl_ms) = (info.id.clone(), info.metadata.clone(), info.ttl_ms);
    let encoder = tasks::store_next(move || open(&state, target, (&id, metadata, ttl_ms))).await?;
    let before = encoder.progress().sequence;
    let mut text = Text::new(walk.source.clone(), info.id.clone());
    let (before_it, answers) = (walk.progress.clone(), walk.answers.clone());
    let mut job = EncodeJob::new(encoder, move |now| {
        let progress = v1::ReencodeProgress {
            text_bytes_done: before_it.text_bytes_done + now.durable_bytes,
            tokens_done: before_it.tokens_done + now.durable_tokens,
            ..before_it.clone()
        };
        // Full: newer progress will tell this, too. Closed: `stop` comes.
        let _ = answers.try_send(Ok(progress));
    });
    loop {
        let piece;
        (text, piece) = tasks::store_next(move || {
            let piece = text.piece()?;
            Ok::<_, StoreError>((text, piece))
        })
        .await?;
        let is_last = piece.is_none();
        job.action = match piece {
            None => Action::Finish,
            Some(Piece { turn, text }) => {
                if let Some(turn) = turn {
                    job.encoder.begin_turn(turn);
                }
                Action::Push(text)
            }
        };
        job = work(walk, job).await?;
        match std::mem::replace(&mut job.outcome, Ok(())) {
            Ok(()) => {}
            // No text is left of what had some: it was deleted.
            Err(Error::ResumeMismatch { .. } | Error::EmptyDocument) => return Err(Failed::Differs),
            Err(error) => return Err(error.into_status("text").into()),
        }
        if is_last {
            return Ok(before > 0 && job.encoder.progress().sequence == before);
        }
    }
}

/// Opens the document of the new memory, as far as it is there. Blocks.
fn open(
    state: &ModelState,
    target: Memory,
    (id, metadata, ttl_ms): (&str, BTreeMap<String, String>, Option<u64>),
) -> Result<DocumentEncoder, Error> {
    let mut found = target.document(id).ok();
    // Metadata that was taken away needs a document that never had it.
    if metadata.is_empty() && found.as_ref().is_some_and(|found| !found.metadata.is_empty()) {
        target.delete_document(id).map_err(mnemon_memory::Error::from)?;
        found = None;
    }
    let options = encode::options(state, target.geometry());
    let mut encoder = DocumentEncoder::resume(Arc::clone(&state.model), Arc::new(target), id, metadata, options)?;
    if found.and_then(|found| found.ttl_ms) != ttl_ms {
        encoder.set_ttl_ms(ttl_ms)?;
    }
    Ok(encoder)
}

/// Does what the job says. If the client hangs up or the server closes, it stops after the segment at hand, commits, and
/// an error is returned.
async fn work(walk: &Walk, job: EncodeJob) -> Result<EncodeJob, Status> {
    let stop = job.stop.clone();
    let run = tasks::run_next(&walk.state, job);
    tokio::pin!(run);
    let interrupted = tokio::select! {
        biased;
        () = walk.state.app.shutdown.closing.cancelled() => status::shutting_down(),
        () = walk.answers.closed() => status::with_reason(
            Code::Cancelled,
            "the client hung up; call again to go on",
            "HUNG_UP",
        ),
        job = &mut run => return job,
    };
    stop.cancel();
    if let Err(error) = run.await?.outcome {
        tracing::warn!(%error, "a document that was interrupted could not be committed; what was durable is kept");
    }
    Err(interrupted)
}

/// The kept text of a document, piece by piece.
struct Text {
    memory: Memory,
    id: String,
    next_ordinal: u64,
    /// Metadata of the turn that the text read so far ends in; empty where it is of none.
    turn: BTreeMap<String, String>,
    /// Text that was read and not handed out.
    ready: VecDeque<Piece>,
}

/// Text, and the turn that starts with it, if one does.
struct Piece {
    turn: Option<BTreeMap<String, String>>,
    text: Vec<u8>,
}

impl Text {
    fn new(memory: Memory, id: String) -> Self {
        Self { memory, id, next_ordinal: 0, turn: BTreeMap::new(), ready: VecDeque::new() }
    }

    /// The next piece; `None` at the end. Blocks.
    fn piece(&mut self) -> Result<Option<Piece>, StoreError> {
        if self.ready.is_empty() {
            let page = match self.memory.document_chunks(&self.id, self.next_ordinal, PAGE_CHUNKS) {
                // Deleted meanwhile: the next pass will see it.
                Err(StoreError::UnknownDocument { .. }) => Vec::new(),
                other => other?,
            };
            self.next_ordinal += page.len() as u64;
            for chunk in page {
                self.take(chunk);
            }
        }
        Ok(self.ready.pop_front())
    }

    /// Cuts a chunk's text where turns start.
    fn take(&mut self, chunk: ChunkInfo) {
        let mut turns: Vec<(usize, BTreeMap<String, String>)> =
            chunk.turns.into_iter().map(|turn| (turn.start as usize, turn.metadata)).collect();
        // What stands before the first one is of none.
        if turns.first().is_none_or(|(start, _)| *start > 0) {
            turns.insert(0, (0, BTreeMap::new()));
        }
        let ends: Vec<usize> = turns.iter().skip(1).map(|(start, _)| *start).chain([chunk.text.len()]).collect();
        for ((start, metadata), end) in turns.into_iter().zip(ends) {
            let text = chunk.text.as_bytes().get(start..end).unwrap_or_default();
            for text in text.chunks(PIECE_BYTES) {
                let starts = metadata != self.turn;
                match self.ready.back_mut() {
                    Some(last) if !starts && last.text.len() + text.len() <= PIECE_BYTES => {
                        last.text.extend_from_slice(text);
                    }
                    _ => self.ready.push_back(Piece { turn: starts.then(|| metadata.clone()), text: text.to_vec() }),
                }
                self.turn.clone_from(&metadata);
            }
        }
    }
}
