//! What expired gives back its space although nobody asks for it. (Whoever asks does not see it in any case.)

use std::sync::{Arc, Weak};
use std::time::Duration;

use mnemon_memory_store::Expired;
use tokio::time::MissedTickBehavior;

use crate::parts::Parts;
use crate::tasks;

/// Sweeps now and every `limits.expiry_sweep_s` from then on, until the server closes.
pub(crate) async fn run(parts: Weak<Parts>) {
    let Some((closing, period)) = parts.upgrade().map(|parts| {
        let period = Duration::from_secs(parts.settings.limits.expiry_sweep_s);
        (parts.life.closing.clone(), period)
    }) else {
        return;
    };
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(parts) = parts.upgrade() else { return };
        sweep(&parts).await;
    }
}

async fn sweep(parts: &Arc<Parts>) {
    match tasks::store(parts, |parts| parts.store.expire()).await {
        Ok(expired) if expired == Expired::default() => {}
        Ok(expired) => {
            tracing::info!(memories = expired.memories, documents = expired.documents, "deleted what expired");
        }
        Err(status) => {
            tracing::warn!(message = status.message(), "what expired could not be deleted; the next sweep will");
        }
    }
}
