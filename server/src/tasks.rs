//! Work on the engine, and store calls off the async threads.

use std::sync::Arc;
use std::time::Duration;

use mnemon_runtime::{Task, Turn};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::Status;
use tracing::Span;

use crate::state::{AppState, ModelState};
use crate::status;
use crate::status::IntoStatus;

/// How long a store call may wait for its turn.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// Work on the model in bounded steps. A job never waits for anything: one that has nothing to do leaves the engine
/// and is put in again later.
pub(crate) trait Job: Send + 'static {
    /// One bounded piece of work. After [`Turn::Done`] the job is returned to its caller.
    fn step(&mut self) -> Turn;
}

/// Runs a job that just arrived: refused with `RESOURCE_EXHAUSTED` when the engine's queue is full. Dropping the future
/// ends the job at its next step.
pub(crate) async fn run_new<J: Job>(state: &Arc<ModelState>, job: J) -> Result<J, Status> {
    let permit = Arc::clone(&state.engine_permits).try_acquire_owned().map_err(|_| {
        let limit = state.app.settings.limits.engine_queue;
        status::overloaded(
            &format!("{limit} requests are waiting for the model already; try again later"),
            "QUEUE_FULL",
        )
    })?;
    run(state, job, permit).await
}

/// Runs a job that is the next part of something accepted before: waits for a place in the queue. Meanwhile its
/// stream is not read, and flow control slows its client down.
pub(crate) async fn run_next<J: Job>(state: &Arc<ModelState>, job: J) -> Result<J, Status> {
    let permit = Arc::clone(&state.engine_permits)
        .acquire_owned()
        .await
        .map_err(|_| status::internal("the engine's queue was closed"))?;
    run(state, job, permit).await
}

async fn run<J: Job>(state: &Arc<ModelState>, job: J, permit: OwnedSemaphorePermit) -> Result<J, Status> {
    let (done, finished) = oneshot::channel();
    let ticket = Ticket { work: Some((job, done)), span: Span::current(), _permit: permit };
    state.engine.submit(Box::new(ticket)).map_err(|error| error.into_status(""))?;
    // The sender is gone without an answer only after a panic, which the engine has logged.
    finished.await.map_err(|_| status::internal("a task on the engine was dropped"))
}

/// A job on the engine.
struct Ticket<J: Job> {
    /// The job, and the channel of its caller; closed when the caller is gone.
    work: Option<(J, oneshot::Sender<J>)>,
    /// Log lines of the job belong to its call.
    span: Span,
    /// Its place in the queue, free again when the ticket is dropped.
    _permit: OwnedSemaphorePermit,
}

impl<J: Job> Task for Ticket<J> {
    fn step(&mut self) -> Turn {
        let Some((mut job, done)) = self.work.take() else { return Turn::Done };
        if done.is_closed() {
            return Turn::Done;
        }
        match self.span.in_scope(|| job.step()) {
            Turn::Again => {
                self.work = Some((job, done));
                Turn::Again
            }
            Turn::Done => {
                // A caller that left meanwhile does not want it.
                let _ = done.send(job);
                Turn::Done
            }
        }
    }
}

/// Runs the next part of something that was accepted before and has a place of its own: as [`store`], without waiting for
/// one.
pub(crate) async fn store_next<T, E, F>(work: F) -> Result<T, Status>
where
    T: Send + 'static,
    E: IntoStatus + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    let span = Span::current();
    let task = tokio::task::spawn_blocking(move || span.in_scope(work).map_err(|error| error.into_status("data")));
    task.await.unwrap_or_else(|error| Err(status::internal(&format!("a store call ended unexpectedly: {error}"))))
}

/// Drops what may block when it is dropped.
pub(crate) async fn let_go<T: Send + 'static>(value: T) {
    // No caller waits for its result.
    let _ = tokio::task::spawn_blocking(move || drop(value)).await;
}

/// Runs what blocks on the store, on the blocking pool; errors become statuses.
pub(crate) async fn store<T, E, F>(app: &Arc<AppState>, work: F) -> Result<T, Status>
where
    T: Send + 'static,
    E: IntoStatus + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    let permit = tokio::time::timeout(STORE_WAIT, Arc::clone(&app.store_calls).acquire_owned())
        .await
        .map_err(|_| status::overloaded("the store is busy; try again later", "STORE_BUSY"))?
        .map_err(|_| status::internal("the store's queue was closed"))?;
    let (app, span) = (Arc::clone(app), Span::current());
    let task = tokio::task::spawn_blocking(move || {
        // Held until the work is done, even if the caller leaves before.
        let _held = (permit, app);
        span.in_scope(work).map_err(|error| error.into_status(""))
    });
    task.await.unwrap_or_else(|error| Err(status::internal(&format!("a store call ended unexpectedly: {error}"))))
}
