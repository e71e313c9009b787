//! Ingest: a stream of text in, progress out.
//!
//! The document is complete only if the client closed its side: a stream that ends in any other way (a reset, a lost
//! connection, silence, an error, a shutdown) commits what was read so far, and stays open for `RESUME`.

use std::sync::Arc;
use std::time::Duration;

use mnemon_encoder::{DocumentEncoder, EncodeOptions, Error};
use mnemon_proto::v1;
use mnemon_proto::v1::ingest_request::Message;
use mnemon_runtime::Turn;
use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};
use tracing::Instrument as _;

use crate::auth::Tenant;
use crate::front::BodyEnd;
use crate::parts::Parts;
use crate::status::{self, IntoStatus};
use crate::tasks::{self, Job};
use crate::{convert, lifetime, validate};

/// Answers waiting for the client. Progress beyond that is dropped, because newer progress tells all of it.
const ANSWERS_AHEAD: usize = 16;

type Answer = Result<v1::IngestProgress, Status>;

/// Begins to read a document; what becomes of it is told in the stream.
pub(super) fn start(
    parts: &Arc<Parts>,
    tenant: Tenant,
    request: Request<Streaming<v1::IngestRequest>>,
) -> Result<ReceiverStream<Answer>, Status> {
    let place = Arc::clone(&parts.common.ingests).try_acquire_owned().map_err(|_| {
        let limit = parts.common.settings.limits.ingests;
        status::overloaded(&format!("{limit} documents are being read already; try again later"), "INGESTS_FULL")
    })?;
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    let end = request.extensions().get::<BodyEnd>().cloned().unwrap_or_default();
    let ingest = Ingest { parts: Arc::clone(parts), tenant, incoming: request.into_inner(), end, answers };
    let work = async move {
        let _place = place;
        ingest.run().await;
    };
    parts.common.life.streams.spawn(work.in_current_span());
    Ok(ReceiverStream::new(stream))
}

/// One ingest stream.
struct Ingest {
    parts: Arc<Parts>,
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
            () = self.parts.common.life.cut.cancelled() => {}
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
        let parts = Arc::clone(&self.parts);
        let encoder = tasks::store(&self.parts.common, move || open(&parts, &tenant, start)).await?;
        let mut job = IngestJob::new(encoder, self.answers.clone());
        let mut is_new = true;
        loop {
            let interrupted = match self.next().await {
                Next::Message(Message::Text(piece)) => match self.accept(&job, &piece) {
                    Ok(()) => {
                        job.action = Action::Push(piece);
                        job = self.work(job, is_new, &self.parts.common.life.closing).await?;
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
                    job = self.work(job, is_new, &self.parts.common.life.cut).await?;
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
        let idle_s = self.parts.common.settings.limits.ingest_idle_s;
        let message = tokio::select! {
            biased;
            () = self.parts.common.life.closing.cancelled() => return Next::Interrupted(status::shutting_down()),
            () = self.answers.closed() => return Next::Interrupted(hung_up()),
            message = tokio::time::timeout(Duration::from_secs(idle_s), self.incoming.message()) => message,
        };
        match message {
            Ok(Ok(Some(v1::IngestRequest { message: Some(message) }))) => Next::Message(message),
            Ok(Ok(Some(v1::IngestRequest { message: None }))) => {
                let why = "give a start or text";
                Next::Interrupted(status::invalid(vec![status::violation("message", why)]))
            }
            Ok(Ok(None)) if self.end.is_clean() => Next::End,
            Ok(Ok(None)) => Next::Interrupted(hung_up()),
            Ok(Err(status)) => Next::Interrupted(status),
            Err(_) => Next::Interrupted(status::with_reason(
                Code::DeadlineExceeded,
                format!("nothing came for {idle_s} s; ingest the document again with RESUME"),
                "INGEST_IDLE",
            )),
        }
    }

    /// Checks a piece of text against the limits.
    fn accept(&self, job: &IngestJob, piece: &[u8]) -> Result<(), Status> {
        validate::piece("text", piece)?;
        let limit = self.parts.common.settings.limits.document_bytes;
        if job.encoder.progress().bytes_received + piece.len() as u64 > limit {
            let message = format!("the document has more than {limit} bytes; split it into several documents");
            return Err(status::with_reason(Code::ResourceExhausted, message, "DOCUMENT_TOO_LARGE"));
        }
        Ok(())
    }

    /// Does what the job says. If the client hangs up or `end` comes, it stops after the segment at hand, commits,
    /// and an error is returned.
    async fn work(&self, job: IngestJob, is_new: bool, end: &CancellationToken) -> Result<IngestJob, Status> {
        let stop = job.stop.clone();
        let run = async {
            if is_new { tasks::run_new(&self.parts, job).await } else { tasks::run_next(&self.parts, job).await }
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
    async fn keep(&self, job: IngestJob) {
        job.stop.cancel();
        // The stop makes it a short one; it is worth waiting for its turn.
        if let Ok(IngestJob { outcome: Err(error), .. }) = tasks::run_next(&self.parts, job).await {
            tracing::warn!(%error, "an interrupted document could not be committed; what was acknowledged is kept");
        }
    }
}

/// Opens the memory and the document in it. Blocks.
fn open(parts: &Parts, tenant: &Tenant, start: v1::IngestStart) -> Result<DocumentEncoder, Error> {
    let mode = start.mode();
    let memory = parts.common.memories.open(tenant.name(), &start.memory, &parts.model.fingerprint())?;
    let options = EncodeOptions {
        commit_tokens: parts.common.settings.commit_tokens as usize,
        ..EncodeOptions::for_geometry(memory.geometry())
    };
    let begin = match mode {
        v1::IngestMode::Unspecified | v1::IngestMode::Create => DocumentEncoder::create,
        v1::IngestMode::Append => DocumentEncoder::append,
        v1::IngestMode::Resume => DocumentEncoder::resume,
    };
    let metadata = start.metadata.into_iter().collect();
    let mut encoder = begin(Arc::clone(&parts.model), Arc::clone(&memory), &start.document_id, metadata, options)?;
    // A document that is whole needs no room to be taken again.
    if mode != v1::IngestMode::Resume || !encoder.is_stored_whole() {
        memory.check_room(&start.document_id)?;
    }
    if let Some(ttl) = &start.ttl {
        encoder.set_ttl_ms(lifetime::new_ttl(ttl))?;
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

/// What a job is to do next.
enum Action {
    /// Reads the pieces that it has.
    Read,
    /// Takes a piece, then reads.
    Push(Vec<u8>),
    /// Takes the end of the text, then reads all that remains.
    Finish,
}

/// A document being read, a segment at a time.
struct IngestJob {
    encoder: DocumentEncoder,
    action: Action,
    /// Cancelled: stop after the segment at hand, and commit.
    stop: CancellationToken,
    /// Where progress goes.
    answers: Sender<Answer>,
    outcome: Result<(), Error>,
}

impl IngestJob {
    fn new(encoder: DocumentEncoder, answers: Sender<Answer>) -> Self {
        Self { encoder, action: Action::Read, stop: CancellationToken::new(), answers, outcome: Ok(()) }
    }

    fn work(&mut self) -> Result<Turn, Error> {
        if self.stop.is_cancelled() {
            self.encoder.commit()?;
            return Ok(Turn::Done);
        }
        match std::mem::replace(&mut self.action, Action::Read) {
            Action::Push(piece) => self.encoder.push(&piece)?,
            Action::Finish => self.encoder.begin_finish()?,
            Action::Read => {}
        }
        let Some(progress) = self.encoder.step()? else { return Ok(Turn::Done) };
        if progress.complete {
            return Ok(Turn::Done);
        }
        // Full: newer progress will tell this, too. Closed: `stop` comes.
        let _ = self.answers.try_send(Ok(convert::progress(&progress)));
        Ok(Turn::Again)
    }
}

impl Job for IngestJob {
    fn step(&mut self) -> Turn {
        self.work().unwrap_or_else(|error| {
            self.outcome = Err(error);
            Turn::Done
        })
    }
}
