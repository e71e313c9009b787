//! The next message of a client's stream.

use std::time::Duration;

use tonic::{Status, Streaming};

use crate::state::AppState;
use crate::status;

/// Waits for a message, the end of the server, or a silence that is too long, of which `idle` tells after so many seconds.
/// `None` at the end of the stream.
pub(crate) async fn next<T>(
    app: &AppState,
    incoming: &mut Streaming<T>,
    idle: impl FnOnce(u64) -> Status,
) -> Result<Option<T>, Status> {
    let idle_s = app.settings.limits.ingest_idle_s;
    tokio::select! {
        biased;
        () = app.shutdown.closing.cancelled() => Err(status::shutting_down()),
        message = tokio::time::timeout(Duration::from_secs(idle_s), incoming.message()) => {
            message.unwrap_or_else(|_| Err(idle(idle_s)))
        }
    }
}
