//! When a memory and its documents are due to go.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::format::records::DocumentRecord;
use crate::sync::lock;
use crate::types::limits::MemoryLimits;

/// Nothing is due at any time.
const NEVER: u64 = u64::MAX;

/// When something that was last changed at `changed_unix_ms` goes. A time that is not known (0: after a repair, or with a
/// clock that stands still) ends nothing.
pub(crate) fn expiry(changed_unix_ms: u64, ttl_ms: Option<u64>) -> Option<u64> {
    let ttl_ms = ttl_ms.filter(|_| changed_unix_ms > 0)?;
    Some(changed_unix_ms.saturating_add(ttl_ms))
}

impl DocumentRecord {
    /// When the document goes, if it does; `default_ttl_ms` is that of its memory.
    pub(crate) fn expires_unix_ms(&self, default_ttl_ms: Option<u64>) -> Option<u64> {
        expiry(self.updated_unix_ms, self.ttl_ms.or(default_ttl_ms))
    }
}

/// Documents by the time at which they go. Those that never do are not here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expiries {
    by_time: BTreeSet<(u64, Arc<str>)>,
    times: HashMap<Arc<str>, u64>,
}

impl Expiries {
    /// Sets, moves or removes the time of a document.
    pub(crate) fn set(&mut self, id: Arc<str>, unix_ms: Option<u64>) {
        if let Some((old_id, old)) = self.times.remove_entry(&id) {
            self.by_time.remove(&(old, old_id));
        }
        if let Some(unix_ms) = unix_ms {
            self.times.insert(Arc::clone(&id), unix_ms);
            self.by_time.insert((unix_ms, id));
        }
    }

    fn first(&self) -> Option<u64> {
        self.by_time.first().map(|(unix_ms, _)| *unix_ms)
    }

    /// Documents that are due, in the order of their times.
    fn due(&self, now_unix_ms: u64) -> Vec<Arc<str>> {
        self.by_time.iter().take_while(|(time, _)| *time <= now_unix_ms).map(|(_, id)| Arc::clone(id)).collect()
    }
}

/// What may change about the life of a memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times {
    pub(crate) limits: MemoryLimits,
    /// Time of the last change that somebody asked for; 0 when it is not known.
    pub(crate) changed_unix_ms: u64,
    pub(crate) documents: Expiries,
}

impl Times {
    /// When the memory goes, if it does.
    pub(crate) fn expires_unix_ms(&self) -> Option<u64> {
        expiry(self.changed_unix_ms, self.limits.ttl_ms)
    }
}

/// The life of one memory. Changed only in the memory's turn, after the change is durable.
#[derive(Debug)]
pub(crate) struct TtlState {
    times: Mutex<Times>,
    /// Earliest time of the memory and its documents: what a reader looks at.
    due_unix_ms: AtomicU64,
}

impl TtlState {
    pub(crate) fn new(times: Times) -> Self {
        let life = Self { times: Mutex::new(times), due_unix_ms: AtomicU64::new(NEVER) };
        life.change(|_| {});
        life
    }

    /// Its limits now.
    pub(crate) fn limits(&self) -> MemoryLimits {
        self.times().limits
    }

    pub(crate) fn times(&self) -> MutexGuard<'_, Times> {
        lock(&self.times)
    }

    /// Changes the times.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Times)) {
        let mut times = lock(&self.times);
        change(&mut times);
        let due = [times.expires_unix_ms(), times.documents.first()].into_iter().flatten().min();
        self.due_unix_ms.store(due.unwrap_or(NEVER), Ordering::Release);
    }

    /// Whether anything is due.
    pub(crate) fn is_due(&self, now_unix_ms: u64) -> bool {
        self.due_unix_ms.load(Ordering::Acquire) <= now_unix_ms
    }

    /// Whether the memory itself is due.
    pub(crate) fn memory_is_due(&self, now_unix_ms: u64) -> bool {
        self.times().expires_unix_ms().is_some_and(|due| due <= now_unix_ms)
    }

    /// Whether a document is due.
    pub(crate) fn document_is_due(&self, id: &str, now_unix_ms: u64) -> bool {
        self.times().documents.times.get(id).is_some_and(|due| *due <= now_unix_ms)
    }

    /// Documents that are due.
    pub(crate) fn due_documents(&self, now_unix_ms: u64) -> Vec<Arc<str>> {
        self.times().documents.due(now_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_due_in_the_order_of_their_times() {
        let life = TtlState::new(Times::default());
        let set = |id: &str, time: Option<u64>| life.change(|times| times.documents.set(id.into(), time));
        let due = |now: u64| life.due_documents(now).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(!life.is_due(u64::MAX - 1));
        set("late", Some(30));
        set("early", Some(10));
        set("also early", Some(10));
        assert!(!life.is_due(9) && life.is_due(10));
        assert_eq!(due(10), ["also early", "early"]);
        set("early", Some(40));
        set("also early", None);
        set("never there", None);
        assert!(!life.is_due(29));
        assert_eq!(due(100), ["late", "early"]);
    }

    #[test]
    fn a_time_that_is_not_known_ends_nothing() {
        assert_eq!(expiry(0, Some(5)), None);
        assert_eq!(expiry(7, None), None);
        assert_eq!(expiry(7, Some(5)), Some(12));
        assert_eq!(expiry(u64::MAX - 1, Some(5)), Some(u64::MAX));
        let limits = MemoryLimits { ttl_ms: Some(5), ..MemoryLimits::default() };
        let life = TtlState::new(Times { limits, changed_unix_ms: 7, ..Times::default() });
        assert!(!life.memory_is_due(11) && life.memory_is_due(12) && life.is_due(12));
    }
}
