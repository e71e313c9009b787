//! Re-encode: the kept text of a memory, read by the model being served.
//!
//! The new memory is one like any other while it grows, marked as becoming a copy of the old one. A pass reads every
//! document that the new memory does not hold as the old one does; when a pass ends and the old memory has not changed
//! since it began, the new one is complete. Reading is as when a document is ingested: resumed, compared, committed in
//! steps, one segment at a time on the engine.

mod document;
mod walk;

use std::collections::HashSet;
use std::sync::Arc;

use mnemon_memory_store::{Error as StoreError, Memory, MemorySpec, Store};
use mnemon_proto::v1;
use mnemon_runtime::Model;
use tokio::sync::mpsc;
use tokio::sync::mpsc::Sender;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::Instrument as _;

use self::walk::Walk;
use crate::auth::Tenant;
use crate::model::spec_of;
use crate::state::ModelState;
use crate::status::IntoStatus;
use crate::{status, tasks, validate};

/// Answers waiting for the client. Progress beyond that is dropped, because newer progress tells all of it.
const ANSWERS_AHEAD: usize = 16;
/// Records of documents read at once.
const PAGE: usize = 64;

type Answer = Result<v1::ReencodeProgress, Status>;

/// Begins to read; what becomes of it is told in the stream.
pub(super) async fn start(
    store: &Store,
    state: &Arc<ModelState>,
    tenant: Tenant,
    request: v1::ReencodeMemoryRequest,
) -> Result<ReceiverStream<Answer>, Status> {
    let into = validate::reencode(&request)?;
    let permit = state.app.ingest_permit()?;
    let alone = Alone::new(state, (tenant.name().to_owned(), into.clone()))?;
    let (name, owner) = (request.name.clone(), tenant.name().to_owned());
    let (source, target) = {
        let (name, into, owner) = (name.clone(), into.clone(), owner.clone());
        let (store, state) = (store.clone(), Arc::clone(state));
        tasks::store(&Arc::clone(&state.app), move || open(&store, &state.model, &owner, &name, &into)).await?
    };
    let (answers, stream) = mpsc::channel(ANSWERS_AHEAD);
    let replaces = request.replace.then_some(name);
    let walk = Walk::new(store.clone(), Arc::clone(state), owner, (source, target), (into, replaces), answers.clone());
    let cut = state.app.shutdown.cut.clone();
    let work = async move {
        let (_permit, _alone) = (permit, alone);
        let answer = walk.run().await;
        if let Err(status) = &answer {
            tracing::debug!(code = ?status.code(), message = status.message(), "re-encoding ended");
        }
        last(&answers, answer, &cut).await;
    };
    state.app.shutdown.streams.spawn(work.in_current_span());
    Ok(ReceiverStream::new(stream))
}

/// Tells the last answer, unless the client is gone.
async fn last(answers: &Sender<Answer>, answer: Answer, cut: &tokio_util::sync::CancellationToken) {
    tokio::select! {
        _ = answers.send(answer) => {}
        () = cut.cancelled() => {}
    }
}

/// The right to write a memory that is becoming a copy: two calls would undo each other's work.
struct Alone {
    state: Arc<ModelState>,
    key: (String, String),
}

impl Alone {
    fn new(state: &Arc<ModelState>, key: (String, String)) -> Result<Self, Status> {
        if under_way(state).insert(key.clone()) {
            return Ok(Self { state: Arc::clone(state), key });
        }
        let message = format!("memory '{}' is being made by another call; wait for it to end", key.1);
        Err(status::with_reason(Code::Aborted, message, "REENCODING"))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        under_way(&self.state).remove(&self.key);
    }
}

fn under_way(state: &ModelState) -> std::sync::MutexGuard<'_, HashSet<(String, String)>> {
    // A set of names is as good after a panic as before it.
    state.app.reencodings.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Finds the memory to read, and finds or creates the one to make. Blocks.
fn open(store: &Store, model: &Model, tenant: &str, name: &str, into: &str) -> Result<(Memory, Memory), Status> {
    let told = |error: StoreError| error.into_status("");
    let refused = |message: String, reason: &str| Err(status::with_reason(Code::FailedPrecondition, message, reason));
    let source = store.memory(tenant, name).map_err(told)?;
    // The text of any model may be read; its keys and values are not touched.
    if source.require_fingerprint(&model.fingerprint_for(source.geometry())).is_ok() {
        let message = format!("memory '{name}' is of the model being served already; there is nothing to re-encode");
        return refused(message, "SAME_MODEL");
    }
    let mut after: Option<String> = None;
    loop {
        let page = source.list_documents(after.as_deref(), PAGE).map_err(told)?;
        if let Some(document) = page.iter().find(|document| document.lost_chunks > 0) {
            let id = &document.id;
            let message = format!(
                "document '{id}' of memory '{name}' lost {} chunks to damage, so that its text is not whole; \
                 delete it (mnemon documents delete {name} {id}), and ingest it again afterwards",
                document.lost_chunks
            );
            return refused(message, "LOST_CHUNKS");
        }
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
    }
    let target = match store.memory(tenant, into) {
        Ok(target) if target.is_becoming(&source).map_err(told)? => {
            if target.require_fingerprint(&model.fingerprint_for(target.geometry())).is_err() {
                let message = format!(
                    "memory '{into}' is an unfinished re-encoding by another model than the one being served; \
                     delete it (mnemon memory delete {into}), or serve that model"
                );
                return refused(message, "FINGERPRINT_MISMATCH");
            }
            target
        }
        Ok(_) => return Err(told(StoreError::MemoryExists { name: into.to_owned() })),
        Err(StoreError::UnknownMemory { .. }) => {
            let spec = MemorySpec { description: source.spec().description.clone(), ..spec_of(model, None) };
            store.create_copy(tenant, into, spec, &source).map_err(told)?
        }
        Err(error) => return Err(told(error)),
    };
    Ok((source, target))
}
