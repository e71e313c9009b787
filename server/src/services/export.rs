//! Export: a memory as one archive, piece by piece.
//!
//! A piece is read when the one before it has been taken, so that a client that reads slowly holds one piece in memory
//! and what a snapshot keeps on the disk, for as long as it goes on reading.

use std::sync::Arc;
use std::time::Duration;

use mnemon_memory_store::{Export, Store};
use mnemon_proto::v1;
use mnemon_proto::v1::export_memory_response::Message;
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::Instrument as _;

use crate::auth::Tenant;
use crate::state::AppState;
use crate::{status, tasks, validate};

/// Messages ahead of what the client has read.
const ANSWERS_AHEAD: usize = 2;
/// Bytes of an archive in one message.
const PIECE_BYTES: usize = 1 << 20;

type Answer = Result<v1::ExportMemoryResponse, Status>;

/// A place among the exports and imports.
pub(super) fn permit(app: &AppState) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(&app.transfers).try_acquire_owned().map_err(|_| {
        let limit = app.settings.limits.transfers;
        let message = format!("{limit} exports and imports are under way already; try again later");
        status::overloaded(&message, "TRANSFERS_FULL")
    })
}

/// Begins to send; an error is the last of the stream.
pub(super) async fn start(
    store: &Store,
    app: &Arc<AppState>,
    tenant: Tenant,
    request: v1::ExportMemoryRequest,
) -> Result<ReceiverStream<Answer>, Status> {
    validate::memory("name", &request.name)?;
    let permit = permit(app)?;
    let store = store.clone();
    let export = tasks::store(app, move || store.memory(tenant.name(), &request.name)?.export()).await?;
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    let app = Arc::clone(app);
    let streams = app.shutdown.streams.clone();
    let work = async move {
        let _permit = permit;
        if let Err(status) = send(&app, export, &answers).await {
            tokio::select! {
                // A client that is gone does not want it.
                _ = answers.send(Err(status)) => {}
                () = app.shutdown.cut.cancelled() => {}
            }
        }
    };
    streams.spawn(work.in_current_span());
    Ok(ReceiverStream::new(stream))
}

async fn send(app: &AppState, mut export: Export, answers: &Sender<Answer>) -> Result<(), Status> {
    let (totals, bytes_about) = (export.totals(), export.bytes_about());
    let start =
        v1::ExportStart { documents: totals.documents, chunks: totals.chunks, tokens: totals.tokens, bytes_about };
    if !told(app, answers, Message::Start(start)).await? {
        return Ok(());
    }
    let mut bytes = 0;
    loop {
        // Reads the disk, and frees what only this export still showed when it is dropped there.
        let piece;
        (export, piece) = tasks::store_next(move || {
            let piece = export.piece()?;
            Ok::<_, mnemon_memory_store::Error>((export, piece))
        })
        .await?;
        let Some(piece) = piece else { break };
        bytes += piece.len() as u64;
        for data in piece.chunks(PIECE_BYTES) {
            let told = told(app, answers, Message::Data(data.to_vec())).await;
            if !matches!(told, Ok(true)) {
                tasks::let_go(export).await;
                return told.map(|_| ());
            }
        }
    }
    tasks::let_go(export).await;
    told(app, answers, Message::End(v1::ExportEnd { bytes })).await.map(|_| ())
}

/// Hands a message to the client; `false` when it is gone.
async fn told(app: &AppState, answers: &Sender<Answer>, message: Message) -> Result<bool, Status> {
    let idle_s = app.settings.limits.ingest_idle_s;
    let answer = Ok(v1::ExportMemoryResponse { message: Some(message) });
    tokio::select! {
        biased;
        () = app.shutdown.closing.cancelled() => Err(status::shutting_down()),
        sent = tokio::time::timeout(Duration::from_secs(idle_s), answers.send(answer)) => {
            sent.map(|sent| sent.is_ok()).map_err(|_| {
                let message = format!("nothing was taken for {idle_s} s; export the memory again");
                status::with_reason(Code::DeadlineExceeded, message, "EXPORT_IDLE")
            })
        }
    }
}
