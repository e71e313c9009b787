//! A dedicated runtime for the connection, so that blocking callers make progress during shutdown.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A runtime on a thread of its own, until this is dropped.
pub(super) struct Driver {
    handle: Handle,
    _stop: DropGuard,
}

impl Driver {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let ended = stop.clone().cancelled_owned();
        std::thread::Builder::new().name("mnemon-remote".into()).spawn(move || runtime.block_on(ended))?;
        Ok(Self { handle, _stop: stop.drop_guard() })
    }

    /// Waits for `work`. Blocks.
    pub(super) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.handle.block_on(work)
    }

    /// Runs `work` there; the answer may be awaited anywhere.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
        self.handle.spawn(work).await.map_err(io::Error::other)
    }
}
