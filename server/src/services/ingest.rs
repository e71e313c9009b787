//! Ingest: a stream of text in, progress out.
//!
//! The document is complete only if the client closed its side: a stream that ends in any other way (a reset, a lost
//! connection, silence, an error, a shutdown) commits what was read so far, and stays open for `RESUME`.

use std::sync::Arc;

use mnemon_encoder::{DocumentEncoder, Error};
use mnemon_proto::v1;
use mnemon_proto::v1::ingest_request::Message;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};
use tracing::Instrument as _;

use super::encode;
use super::encode::{Action, EncodeJob};
use crate::auth::Tenant;
use crate::middleware::BodyEnd;
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::{convert, incoming, limits, status, tasks, validate};

/// Answers waiting for the client. Progress beyond that is dropped, because newer progress tells all of it.
const ANSWERS_AHEAD: usize = 16;

type Answer = Result<v1::IngestProgress, Status>;

/// Begins to read a document; what becomes of it is told in the stream.
pub(super) fn start(
    state: &Arc<ModelState>,
    tenant: Tenant,
    request: Request<Streaming<v1::IngestRequest>>,
) -> Result<ReceiverStream<Answer>, Status> {
    let permit = state.app.ingest_permit()?;
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    let end = request.extensions().get::<BodyEnd>().cloned().unwrap_or_default();
    let ingest = Ingest { state: Arc::clone(state), tenant, incoming: request.into_inner(), end, answers };
    let work = async move {
        let _permit = permit;
        ingest.run().await;
    };
    state.app.shutdown.streams.spawn(work.in_current_span());
    Ok(ReceiverStream::new(stream))
}

/// One ingest stream.
struct Ingest {
    state: Arc<ModelState>,
    tenant: Tenant,
    incoming: Streaming<v1::IngestRequest>,
    /// Tells whether the end of `incoming` is the end of the document.
    end: BodyEnd,
    /// Closed when the client is gone.
    answers: Sender<Answer>,
}

/// What comes next in a stream.
enum Next {
    Message(Message),
    /// The client closed its side: that was the document.
    End,
    /// The stream ends here, before the document does.
    Interrupted(Status),
}

impl Ingest {
    async fn run(mut self) {
        let answer = self.read().await;
        if let Err(status) = &answer {
            tracing::debug!(code = ?status.code(), message = status.message(), "ingest ended");
        }
        tokio::select! {
            // A client that is gone does not want it.
            _ = self.answers.send(answer) => {}
            () = self.state.app.shutdown.cut.cancelled() => {}
        }
    }

    /// Reads the whole document.
    async fn read(&mut self) -> Answer {
        let start = match self.next().await {
            Next::Message(Message::Start(start)) => start,
            Next::Message(Message::Text(_)) | Next::End => {
                let why = "the first message must say what is ingested";
                return Err(status::invalid(vec![status::violation("start", why)]));
            }
            Next::Interrupted(status) => return Err(status),
        };
        validate::ingest_start(&start)?;
        let tenant = self.tenant.clone();
        let state = Arc::clone(&self.state);
        let encoder = tasks::store(&self.state.app, move || open(&state, &tenant, start)).await?;
        let mut job = self.job(encoder);
        let mut is_new = true;
        loop {
            let interrupted = match self.next().await {
                Next::Message(Message::Text(piece)) => match self.accept(&job, &piece) {
                    Ok(()) => {
                        job.action = Action::Push(piece);
                        job = self.work(job, is_new, &self.state.app.shutdown.closing).await?;
                        is_new = false;
                        continue;
                    }
                    Err(status) => status,
                },
                Next::Message(Message::Start(_)) => {
                    status::invalid(vec![status::violation("start", "it was given already; text follows")])
                }
                Next::End => {
                    job.action = Action::Finish;
                    // What is left is little: it may be finished while the server closes, within the grace period.
                    job = self.work(job, is_new, &self.state.app.shutdown.cut).await?;
                    return Ok(convert::progress(&job.encoder.progress()));
                }
                Next::Interrupted(status) => status,
            };
            self.keep(job).await;
            return Err(interrupted);
        }
    }

    /// Waits for the client, the end of the server, or a silence that is too long.
    async fn next(&mut self) -> Next {
        let idle = |idle_s| {
            let message = format!("nothing came for {idle_s} s; ingest the document again with RESUME");
            status::with_reason(Code::DeadlineExceeded, message, "INGEST_IDLE")
        };
        let message = tokio::select! {
            biased;
            () = self.answers.closed() => return Next::Interrupted(hung_up()),
            message = incoming::next(&self.state.app, &mut self.incoming, idle) => message,
        };
        match message {
            Ok(Some(v1::IngestRequest { message: Some(message) })) => Next::Message(message),
            Ok(Some(v1::IngestRequest { message: None })) => {
                let why = "give a start or text";
                Next::Interrupted(status::invalid(vec![status::violation("message", why)]))
            }
            Ok(None) if self.end.is_clean() => Next::End,
            Ok(None) => Next::Interrupted(hung_up()),
            Err(status) => Next::Interrupted(status),
        }
    }

    /// Reads a document, and tells the client.
    fn job(&self, encoder: DocumentEncoder) -> EncodeJob {
        let answers = self.answers.clone();
        EncodeJob::new(encoder, move |progress| {
            // Full: newer progress will tell this, too. Closed: `stop` comes.
            let _ = answers.try_send(Ok(convert::progress(progress)));
        })
    }

    /// Checks a piece of text against the limits.
    fn accept(&self, job: &EncodeJob, piece: &[u8]) -> Result<(), Status> {
        validate::piece("text", piece)?;
        let limit = self.state.app.settings.limits.document_bytes;
        if job.encoder.progress().bytes_received + piece.len() as u64 > limit {
            let message = format!("the document has more than {limit} bytes; split it into several documents");
            return Err(status::with_reason(Code::ResourceExhausted, message, "DOCUMENT_TOO_LARGE"));
        }
        Ok(())
    }

    /// Does what the job says. If the client hangs up or `end` comes, it stops after the segment at hand, commits,
    /// and an error is returned.
    async fn work(&self, job: EncodeJob, is_new: bool, end: &CancellationToken) -> Result<EncodeJob, Status> {
        let stop = job.stop.clone();
        let run = async {
            if is_new { tasks::run_new(&self.state, job).await } else { tasks::run_next(&self.state, job).await }
        };
        tokio::pin!(run);
        let (mut job, interrupted) = tokio::select! {
            biased;
            job = &mut run => (job?, None),
            () = end.cancelled() => {
                stop.cancel();
                (run.await?, Some(status::shutting_down()))
            }
            () = self.answers.closed() => {
                stop.cancel();
                (run.await?, Some(hung_up()))
            }
        };
        std::mem::replace(&mut job.outcome, Ok(())).map_err(|error| error.into_status("text"))?;
        match interrupted {
            Some(status) if !job.encoder.progress().complete => Err(status),
            _ => Ok(job),
        }
    }

    /// Commits what was read of a document whose stream was interrupted.
    async fn keep(&self, job: EncodeJob) {
        job.stop.cancel();
        // The stop makes it a short one; it is worth waiting for its turn.
        if let Ok(EncodeJob { outcome: Err(error), .. }) = tasks::run_next(&self.state, job).await {
            tracing::warn!(%error, "an interrupted document could not be committed; what was acknowledged is kept");
        }
    }
}

/// Opens the memory and the document in it. Blocks.
fn open(state: &ModelState, tenant: &Tenant, start: v1::IngestStart) -> Result<DocumentEncoder, Error> {
    let mode = start.mode();
    let memory = state.app.memories.open(tenant.name(), &start.memory, &state.model)?;
    let options = encode::options(state, memory.geometry());
    let begin = match mode {
        v1::IngestMode::Unspecified | v1::IngestMode::Create => DocumentEncoder::create,
        v1::IngestMode::Append => DocumentEncoder::append,
        v1::IngestMode::Resume => DocumentEncoder::resume,
    };
    let metadata = start.metadata.into_iter().collect();
    let mut encoder = begin(Arc::clone(&state.model), Arc::clone(&memory), &start.document_id, metadata, options)?;
    encoder.keep_reader(Arc::clone(&state.readers), tenant.name());
    // A document that is whole needs no room to be taken again.
    if mode != v1::IngestMode::Resume || !encoder.is_stored_whole() {
        memory.check_room(&start.document_id)?;
    }
    if !start.turn.is_empty() {
        encoder.begin_turn(start.turn.into_iter().collect());
    }
    if let Some(ttl) = &start.ttl {
        encoder.set_ttl_ms(limits::new_ttl(ttl))?;
    }
    Ok(encoder)
}

fn hung_up() -> Status {
    status::with_reason(
        Code::Cancelled,
        "the client hung up before the end of the document; ingest it again with RESUME",
        "HUNG_UP",
    )
}
