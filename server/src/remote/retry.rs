//! What is tried again, and for how long.

use std::future::Future;
use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::driver::Driver;

/// How long a store that cannot be reached is waited for, and how long one answer may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// Since the first failure.
    pub(super) outage: Duration,
    /// Of one try.
    pub(super) answer: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { outage: Duration::from_secs(30), answer: Duration::from_secs(120) }
    }
}

/// Waits between tries: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Tries of one piece of work.
pub(super) struct Tries {
    retry: RetryPolicy,
    failed_at: Option<Instant>,
    pause: Duration,
}

impl RetryPolicy {
    pub(super) fn tries(self) -> Tries {
        Tries { retry: self, failed_at: None, pause: PAUSE_MIN }
    }

    /// Asks until there is an answer, or an error that asking again does not mend. Only for what may be asked twice. Blocks.
    pub(super) fn ask<T, F>(self, driver: &Driver, ask: impl Fn() -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut tries = self.tries();
        driver.wait(async {
            loop {
                match tries.within(ask()).await {
                    Ok(answer) => return Ok(answer),
                    Err(status) => tries.wait_after(status).await?,
                }
            }
        })
    }
}

impl Tries {
    /// Gives one try its time.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let late = |_| Err(Status::deadline_exceeded("the store took too long to answer"));
        tokio::time::timeout(self.retry.answer, work).await.unwrap_or_else(late)
    }

    /// Pauses if the store may answer the next time; returns `status` if it will not, or if it was waited for long enough.
    pub(super) async fn wait_after(&mut self, status: Status) -> Result<(), Status> {
        let failed_at = *self.failed_at.get_or_insert_with(Instant::now);
        if !is_retryable(&status) || failed_at.elapsed() + self.pause > self.retry.outage {
            return Err(status);
        }
        tracing::debug!(code = ?status.code(), message = status.message(), "the store is asked again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// Whether the same call may be answered a little later: the connection was lost, the store is closing or overloaded, or it
/// still holds the document for a call of ours that was cut.
pub(super) fn is_retryable(status: &Status) -> bool {
    let reason = status.get_details_error_info().map_or_else(String::new, |info| info.reason);
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded => true,
        Code::ResourceExhausted => matches!(reason.as_str(), "STORE_BUSY" | "CALLS_FULL" | "INGESTS_FULL"),
        Code::Aborted => reason == "DOCUMENT_BUSY",
        // Broken connections come without a reason.
        Code::Unknown | Code::Internal | Code::Cancelled => reason.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{overloaded, with_reason};

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(is_retryable(&Status::unavailable("connection refused")));
        assert!(is_retryable(&overloaded("busy", "STORE_BUSY")));
        assert!(is_retryable(&with_reason(Code::Aborted, "busy", "DOCUMENT_BUSY")));
        assert!(is_retryable(&Status::unknown("h2 protocol error")));
        assert!(!is_retryable(&with_reason(Code::Aborted, "changed", "DOCUMENT_CHANGED")));
        assert!(!is_retryable(&with_reason(Code::ResourceExhausted, "full", "NO_SPACE")));
        assert!(!is_retryable(&with_reason(Code::Internal, "failed", "INTERNAL")));
        assert!(!is_retryable(&Status::not_found("memory")));
    }
}
