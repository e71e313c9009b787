//! Which documents of a memory are being written, and which deleted.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::sync::lock;

/// Documents that one writer, or one deletion, has to itself. A second writer is refused; a caller that meets a deletion waits
/// for it, which takes no longer than one commit.
#[derive(Debug, Default)]
pub(crate) struct ActiveWriters {
    active: Mutex<Active>,
    /// Notified when a deletion ends.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Active {
    written: HashSet<Arc<str>>,
    deleted: HashSet<Arc<str>>,
    /// The whole memory is being deleted or replaced.
    closed: bool,
}

impl ActiveWriters {
    /// The documents, once no deletion has `document_id`. [`Error::DocumentBusy`] while it is being written.
    fn without_deletion(&self, document_id: &Arc<str>) -> Result<MutexGuard<'_, Active>> {
        let mut active = lock(&self.active);
        while active.closed || active.deleted.contains(document_id) {
            active = self.ended.wait(active).unwrap_or_else(PoisonError::into_inner);
        }
        if active.written.contains(document_id) {
            return Err(Error::DocumentBusy { document: document_id.to_string() });
        }
        Ok(active)
    }

    /// Takes a document for a writer, until [`release`](Self::release). [`Error::DocumentBusy`] while it is being written. Check
    /// afterwards that the memory is alive.
    pub(crate) fn take(&self, document_id: &Arc<str>) -> Result<()> {
        self.without_deletion(document_id)?.written.insert(Arc::clone(document_id));
        Ok(())
    }

    /// Gives a written document back.
    pub(crate) fn release(&self, document_id: &str) {
        lock(&self.active).written.remove(document_id);
    }

    /// Takes a document for a deletion, until the result is dropped. [`Error::DocumentBusy`] while it is being written. Not to be called under
    /// the commit lock.
    pub(crate) fn take_for_deletion(&self, document_id: &Arc<str>) -> Result<TakenDocuments<'_>> {
        self.without_deletion(document_id)?.deleted.insert(Arc::clone(document_id));
        Ok(TakenDocuments { writers: self, documents: vec![Arc::clone(document_id)] })
    }

    /// Takes those of `documents` that are free for a deletion, until the result is dropped.
    pub(crate) fn take_free(&self, documents: &[Arc<str>]) -> TakenDocuments<'_> {
        let mut active = lock(&self.active);
        let mut taken = Vec::new();
        if !active.closed {
            for id in documents {
                if !active.written.contains(id) && active.deleted.insert(Arc::clone(id)) {
                    taken.push(Arc::clone(id));
                }
            }
        }
        TakenDocuments { writers: self, documents: taken }
    }

    /// Keeps writers from starting while a memory is deleted or replaced, until the result is dropped. [`Error::DocumentBusy`] while
    /// a document is being written; deletions fail once the memory is deleted. The commit lock is held.
    pub(crate) fn close(&self) -> Result<ClosedToWriters<'_>> {
        let mut active = lock(&self.active);
        if let Some(document) = active.written.iter().next() {
            return Err(Error::DocumentBusy { document: document.to_string() });
        }
        assert!(!active.closed, "the commit lock admits one");
        active.closed = true;
        Ok(ClosedToWriters(self))
    }

    /// Calls `look` with what is being written. Nothing begins or ends to be written meanwhile, so that a commit that renews a
    /// document is seen before its writer is gone.
    pub(crate) fn while_written<T>(&self, look: impl FnOnce(&HashSet<Arc<str>>) -> T) -> T {
        look(&lock(&self.active).written)
    }
}

/// Documents that are taken for a deletion, given back when dropped.
pub(crate) struct TakenDocuments<'a> {
    writers: &'a ActiveWriters,
    pub(crate) documents: Vec<Arc<str>>,
}

impl Drop for TakenDocuments<'_> {
    fn drop(&mut self) {
        let mut active = lock(&self.writers.active);
        for document in &self.documents {
            active.deleted.remove(document);
        }
        drop(active);
        self.writers.ended.notify_all();
    }
}

/// A memory that no writer can be opened of, until this is dropped.
pub(crate) struct ClosedToWriters<'a>(&'a ActiveWriters);

impl Drop for ClosedToWriters<'_> {
    fn drop(&mut self) {
        lock(&self.0.active).closed = false;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_one_writer_and_a_closed_memory_none() {
        let (writers, a, b): (ActiveWriters, Arc<str>, Arc<str>) = (ActiveWriters::default(), "a".into(), "b".into());
        assert!(writers.take(&a).is_ok() && writers.take(&a).is_err() && writers.take_for_deletion(&a).is_err());
        assert!(matches!(writers.close(), Err(Error::DocumentBusy { document }) if document == "a"));
        let taken = writers.take_free(&[Arc::clone(&a), Arc::clone(&b)]);
        assert_eq!(taken.documents, [Arc::clone(&b)]);
        assert!(writers.take_free(&[Arc::clone(&b)]).documents.is_empty());
        // What is being deleted is not being written.
        assert!(writers.while_written(|written| written.contains(&a) && !written.contains(&b)));
        writers.release("a");
        let closed = writers.close();
        assert!(closed.is_ok());
        drop((taken, closed));
        assert!(writers.while_written(HashSet::is_empty) && writers.take(&b).is_ok());
    }

    #[test]
    fn a_writer_waits_for_a_deletion() {
        let (writers, a): (ActiveWriters, Arc<str>) = (ActiveWriters::default(), "a".into());
        let taken = writers.take_for_deletion(&a);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writers.take(&a).is_ok());
            drop(taken);
            assert!(writer.join().is_ok_and(|taken| taken));
        });
    }
}
