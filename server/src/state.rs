//! What calls share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use mnemon_encoder::{Embedder, KeptReaders};
use mnemon_runtime::{Engine, Model};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::auth::Credentials;
use crate::memories::Backend;
use crate::settings::Settings;
use crate::status;

/// What all calls share, with or without a model. Every call holds a handle; when the last is gone everything is closed, in
/// the order of the fields.
pub(crate) struct AppState {
    /// What the operator decided.
    pub(crate) settings: Settings,
    /// Who callers are.
    pub(crate) credentials: Arc<Credentials>,
    /// Where the server is in its life.
    pub(crate) shutdown: Shutdown,
    /// One permit for each export or import that may run.
    pub(crate) transfers: Arc<Semaphore>,
    /// Tenants and new names of the re-encodings under way: one for each.
    pub(crate) reencodings: Mutex<HashSet<(String, String)>>,
    /// One permit for each store call that may run or wait for a thread of the blocking pool.
    pub(crate) store_calls: Arc<Semaphore>,
    /// One permit for each document that may be read or appended to at one time: each holds a window, or chunks.
    pub(crate) ingests: Arc<Semaphore>,
    /// The memories of all tenants.
    pub(crate) memories: Backend,
    /// Dropped last: tells [`Server::serve`](crate::Server::serve) that the data folder is free again.
    pub(crate) _closed: DropGuard,
}

impl AppState {
    /// A permit among those for documents that are read or appended to.
    pub(crate) fn ingest_permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.ingests).try_acquire_owned().map_err(|_| {
            let limit = self.settings.limits.ingests;
            status::overloaded(&format!("{limit} documents are being read already; try again later"), "INGESTS_FULL")
        })
    }
}

/// What calls share that need the model.
pub(crate) struct ModelState {
    /// One permit for each task that may wait for the engine or run on it.
    pub(crate) engine_permits: Arc<Semaphore>,
    /// Owns the device: all work on the model is a task of it. Dropped before the store that its tasks use.
    pub(crate) engine: Engine,
    /// The one model that is served.
    pub(crate) model: Arc<Model>,
    /// Where documents ended, for what is appended to them.
    pub(crate) readers: Arc<KeptReaders>,
    /// Makes sentence embeddings, if searches go by meaning.
    pub(crate) embedder: Option<Arc<Embedder>>,
    /// The rest.
    pub(crate) app: Arc<AppState>,
}

/// Where the server is in its life: serving, closing (finish what was accepted), cut (end at once).
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    /// Cancelled when a shutdown is asked for: ingests commit and end, new calls are refused.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the grace period is over: generations end, connections are closed.
    pub(crate) cut: CancellationToken,
    /// Streams being worked on outside of their handlers, so that a shutdown can wait for them.
    pub(crate) streams: TaskTracker,
}
