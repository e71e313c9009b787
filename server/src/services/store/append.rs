//! Append: chunks of one document, durable all at once.
//!
//! A caller whose connection broke does not know whether its append was done, and sends it again. The sequence number that
//! an append follows tells: if the document has moved on from it and now ends exactly as the append would make it end, that
//! append was done.

use std::sync::Arc;

use mnemon_memory::{KvChunk, ResumePoint, WriterState};
use mnemon_memory_store::{Memory, Store, Writer};
use mnemon_proto::v1;
use mnemon_proto::v1::append_request::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Receiver;
use tonic::{Code, Status, Streaming};
use tracing::Span;

use crate::auth::Tenant;
use crate::state::AppState;
use crate::status::IntoStatus as _;
use crate::{incoming, limits, status, validate, wire};

/// Messages read ahead of what the store has taken.
const CHUNKS_AHEAD: usize = 2;

/// What comes after the start.
enum Piece {
    Chunk(v1::KvChunk),
    Commit(ResumePoint),
}

/// Answers an Append.
pub(super) async fn answer(
    store: &Store,
    app: &Arc<AppState>,
    tenant: Tenant,
    mut messages: Streaming<v1::AppendRequest>,
) -> Result<v1::AppendResponse, Status> {
    let permit = app.ingest_permit()?;
    let Message::Start(start) = next(app, &mut messages).await? else {
        return wire::refuse("start", "the first message must say what is appended to");
    };
    validate::append_start(&start)?;
    let (pieces, taken) = mpsc::channel(CHUNKS_AHEAD);
    let (store, held, span) = (store.clone(), Arc::clone(app), Span::current());
    let work = tokio::task::spawn_blocking(move || {
        let _held = (permit, held);
        span.in_scope(|| append(&store, &tenant, start, taken))
    });
    // If this ends early, the writer sees no commit and leaves nothing.
    let forward = async {
        loop {
            let piece = match next(app, &mut messages).await? {
                Message::Chunk(chunk) => Piece::Chunk(chunk),
                Message::Commit(commit) => Piece::Commit(wire::resume(commit.resume.unwrap_or_default())),
                Message::Start(_) => return wire::refuse("start", "it was given already; chunks follow"),
            };
            let last = matches!(piece, Piece::Commit(_));
            // Closed when the writer has failed: its answer tells why.
            if pieces.send(piece).await.is_err() || last {
                return Ok(());
            }
        }
    };
    let forwarded: Result<(), Status> = forward.await;
    drop(pieces);
    let appended = work.await.unwrap_or_else(|error| Err(status::internal(&format!("an append ended: {error}"))));
    forwarded?;
    Ok(v1::AppendResponse { state: Some(wire::state_to_send(&appended?)) })
}

/// Waits for the client, the end of the server, or a silence that is too long.
async fn next(app: &AppState, messages: &mut Streaming<v1::AppendRequest>) -> Result<Message, Status> {
    let idle = |idle_s| {
        let message = format!("nothing came for {idle_s} s; nothing was stored: append again");
        status::with_reason(Code::DeadlineExceeded, message, "INGEST_IDLE")
    };
    match incoming::next(app, messages, idle).await? {
        Some(v1::AppendRequest { message: Some(message) }) => Ok(message),
        Some(v1::AppendRequest { message: None }) => wire::refuse("message", "it is empty"),
        None => wire::refuse("commit", "the stream ended without it; nothing was stored"),
    }
}

/// Takes the pieces as they come. Blocks.
fn append(
    store: &Store,
    tenant: &Tenant,
    start: v1::AppendStart,
    mut pieces: Receiver<Piece>,
) -> Result<WriterState, Status> {
    let told = |error: mnemon_memory_store::Error| error.into_status("");
    let memory = store.memory(tenant.name(), &start.memory).map_err(told)?;
    let model = wire::fingerprint("start.fingerprint", &start.fingerprint)?;
    memory.require_fingerprint(&model).map_err(|error| error.into_status(""))?;
    let mut writer = memory.writer(&start.document_id, start.metadata.into_iter().collect()).map_err(told)?;
    if let Some(ttl) = &start.ttl {
        writer.set_ttl_ms(limits::new_ttl(ttl)).map_err(told)?;
    }
    let state = writer.state();
    let mut target = if state.sequence == start.after_sequence {
        writer.truncate(start.keep_chunks).map_err(told)?;
        Target::Append(&mut writer)
    } else {
        Target::Compare { state, chunks: start.keep_chunks, last: None }
    };
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Chunk(chunk) => target.take(wire::stored_chunk(chunk)?).map_err(told)?,
            Piece::Commit(resume) => return target.commit(&memory, &start.document_id, resume),
        }
    }
    Err(Status::cancelled("the append ended without its commit; nothing was stored"))
}

/// What becomes of the chunks.
enum Target<'a> {
    Append(&'a mut Writer),
    /// The document has moved on: perhaps by this very append.
    Compare {
        state: WriterState,
        /// Chunks that the document has after the append.
        chunks: u64,
        /// The last of those that it brings.
        last: Option<Box<KvChunk>>,
    },
}

impl Target<'_> {
    fn take(&mut self, chunk: KvChunk) -> mnemon_memory_store::Result<()> {
        match self {
            Self::Append(writer) => writer.append(chunk),
            Self::Compare { chunks, last, .. } => {
                *chunks += 1;
                *last = Some(Box::new(chunk));
                Ok(())
            }
        }
    }

    fn commit(self, memory: &Memory, document_id: &str, resume: ResumePoint) -> Result<WriterState, Status> {
        let told = |error: mnemon_memory_store::Error| error.into_status("");
        match self {
            Self::Append(writer) => {
                writer.commit(resume).map_err(told)?;
                Ok(writer.state())
            }
            Self::Compare { state, chunks, last } => {
                let mut same = state.chunks == chunks && state.resume == resume;
                if let Some(last) = last.filter(|_| same) {
                    let stored = memory.document_chunks(document_id, chunks - 1, 1).map_err(told)?;
                    same = stored.first().is_some_and(|stored| {
                        stored.span == last.span
                            && stored.tokens == last.tokens
                            && stored.text == last.text
                            && stored.turns == last.turns
                    });
                }
                if same {
                    return Ok(state);
                }
                let message = format!("document '{document_id}' was changed by somebody else; open it again");
                Err(status::with_reason(Code::Aborted, message, "DOCUMENT_CHANGED"))
            }
        }
    }
}
