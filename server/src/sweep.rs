//! What expired gives back its space although nobody asks for it. (Whoever asks does not see it in any case.)

use std::sync::{Arc, Weak};
use std::time::Duration;

use mnemon_memory_store::{Expired, Store};
use tokio::time::MissedTickBehavior;

use crate::parts::Common;
use crate::tasks;

/// Sweeps now and every `limits.expiry_sweep_s` from then on, until the server closes.
pub(crate) async fn run(store: Store, common: Weak<Common>) {
    let Some((closing, period)) = common.upgrade().map(|common| {
        let period = Duration::from_secs(common.settings.limits.expiry_sweep_s);
        (common.life.closing.clone(), period)
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
        let Some(common) = common.upgrade() else { return };
        sweep(&store, &common).await;
    }
}

async fn sweep(store: &Store, common: &Arc<Common>) {
    let store = store.clone();
    match tasks::store(common, move || store.expire()).await {
        Ok(expired) if expired == Expired::default() => {}
        Ok(expired) => {
            tracing::info!(memories = expired.memories, documents = expired.documents, "deleted what expired");
        }
        Err(status) => {
            tracing::warn!(message = status.message(), "what expired could not be deleted; the next sweep will");
        }
    }
}
