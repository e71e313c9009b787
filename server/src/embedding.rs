//! Embeds what has no sentence embeddings yet: chunks of new commits, and all memories after `embedder` was turned on.
//!
//! In the background, one blob of chunks at a time, on threads that yield to requests. What is not embedded yet is found by its words; a
//! shutdown stops between two texts, and loses the blob at hand.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mnemon_encoder::Embedder;
use mnemon_memory::Error as MemoryError;
use mnemon_memory_store::{Memory, Store};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::state::AppState;

/// How often memories are looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Threads of the embedder: rayon's own would hold up searches.
pub(crate) fn pool() -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .thread_name(|index| format!("mnemon-embed-{index}"))
        .start_handler(|_| {
            // On Linux this concerns the thread alone. Refusal costs only speed.
            #[cfg(unix)]
            let _ = rustix::process::nice(10);
        })
        .build()
        .map_err(|_| Error::Internal { part: "the threads of the embedder" })
}

/// Embeds until the server closes.
pub(crate) async fn run(store: Store, embedder: Arc<Embedder>, pool: rayon::ThreadPool, app: Weak<AppState>) {
    let Some(closing) = app.upgrade().map(|app| app.shutdown.closing.clone()) else { return };
    let pool = Arc::new(pool);
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (store, embedder, pool, stop) = (store.clone(), Arc::clone(&embedder), Arc::clone(&pool), closing.clone());
        let round = move || pool.install(|| embed_all(&store, &embedder, &stop));
        if tokio::task::spawn_blocking(round).await.is_err() {
            tracing::error!("the embedder ended; start the server again to go on");
            return;
        }
    }
}

fn embed_all(store: &Store, embedder: &Embedder, stop: &CancellationToken) {
    for memory in store.memories() {
        if let Err(error) = embed(&memory, embedder, stop) {
            tracing::warn!(memory = memory.name(), %error, "chunks could not be embedded; the next round tries again");
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

fn embed(memory: &Memory, embedder: &Embedder, stop: &CancellationToken) -> mnemon_encoder::Result<()> {
    while let Some(next) = memory.unembedded(embedder.fingerprint()).map_err(MemoryError::from)? {
        let Some(embeddings) = embedder.embed_chunks(&next.texts, &|| stop.is_cancelled())? else { return Ok(()) };
        memory.embed(&next, embedder.fingerprint(), &embeddings).map_err(MemoryError::from)?;
    }
    Ok(())
}
