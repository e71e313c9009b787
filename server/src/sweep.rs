//! Periodically reclaims the space of expired data. Readers do not see it in any case.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mnemon_memory_store::{Expired, Store};
use tokio::time::MissedTickBehavior;

use crate::state::AppState;
use crate::tasks;

/// Sweeps now and every `limits.expiry_sweep_s` from then on, until the server closes.
pub(crate) async fn run(store: Store, app: Weak<AppState>) {
    let Some((closing, period)) = app.upgrade().map(|app| {
        let period = Duration::from_secs(app.settings.limits.expiry_sweep_s);
        (app.shutdown.closing.clone(), period)
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
        let Some(app) = app.upgrade() else { return };
        sweep(&store, &app).await;
    }
}

async fn sweep(store: &Store, app: &Arc<AppState>) {
    let store = store.clone();
    match tasks::store(app, move || store.expire()).await {
        Ok(expired) if expired == Expired::default() => {}
        Ok(expired) => {
            tracing::info!(memories = expired.memories, documents = expired.documents, "deleted what expired");
        }
        Err(status) => {
            tracing::warn!(message = status.message(), "what expired could not be deleted; the next sweep will");
        }
    }
}
