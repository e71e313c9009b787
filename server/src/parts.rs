//! What all calls share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use mnemon_memory_store::{Memory, Store};
use mnemon_runtime::{Engine, Model};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::Settings;
use crate::auth::Credentials;

/// The server's parts. Every call holds a handle; when the last is gone everything is closed, in the order of the
/// fields.
pub(crate) struct Parts {
    /// What the operator decided.
    pub(crate) settings: Settings,
    /// Who callers are.
    pub(crate) credentials: Credentials,
    /// Where the server is in its life.
    pub(crate) life: Life,
    /// One permit for each document that may be read at one time: an encoder holds a window of keys and values.
    pub(crate) ingests: Arc<Semaphore>,
    /// One permit for each export or import that may run.
    pub(crate) transfers: Arc<Semaphore>,
    /// Tenants and new names of the re-encodings under way: one for each.
    pub(crate) reencodings: Mutex<HashSet<(String, String)>>,
    /// One permit for each store call that may run or wait for a thread of the blocking pool.
    pub(crate) store_calls: Arc<Semaphore>,
    /// One permit for each task that may wait for the engine or run on it.
    pub(crate) engine_places: Arc<Semaphore>,
    /// Owns the device: all work on the model is a task of it. Dropped before the store that its tasks use.
    pub(crate) engine: Engine,
    /// The one model that is served.
    pub(crate) model: Arc<Model>,
    /// The memories of all tenants.
    pub(crate) store: Store,
    /// Dropped last: tells [`Server::serve`](crate::Server::serve) that the data folder is free again.
    pub(crate) _closed: DropGuard,
}

/// Where the server is in its life: serving, closing (finish what was accepted), cut (end at once).
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// Cancelled when a shutdown is asked for: ingests commit and end, new calls are refused.
    pub(crate) closing: CancellationToken,
    /// Cancelled when the grace period is over: generations end, connections are closed.
    pub(crate) cut: CancellationToken,
    /// Streams being worked on outside of their handlers, so that a shutdown can wait for them.
    pub(crate) streams: TaskTracker,
}

impl Parts {
    /// Opens a memory of `tenant`, refusing one that another model made. Blocks.
    pub(crate) fn open_memory(&self, tenant: &str, name: &str) -> mnemon_memory_store::Result<Memory> {
        let memory = self.store.memory(tenant, name)?;
        memory.require_fingerprint(&self.model.fingerprint())?;
        Ok(memory)
    }
}
