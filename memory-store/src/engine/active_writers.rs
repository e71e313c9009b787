//! Which documents of a memory are being written.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::sync::lock;

/// Documents that one writer, or one deletion, has to itself. No caller waits for another: who comes second is refused.
#[derive(Debug, Default)]
pub(crate) struct ActiveWriters(Mutex<Active>);

#[derive(Debug, Default)]
struct Active {
    documents: HashSet<Arc<str>>,
    /// The whole memory is being deleted or replaced.
    closed: bool,
}

impl ActiveWriters {
    /// Takes a document, until [`release`](Self::release). [`Error::DocumentBusy`] if it is taken.
    pub(crate) fn take(&self, document_id: &Arc<str>) -> Result<()> {
        let mut active = lock(&self.0);
        if active.closed || !active.documents.insert(Arc::clone(document_id)) {
            return Err(Error::DocumentBusy { document: document_id.to_string() });
        }
        Ok(())
    }

    /// Gives a document back.
    pub(crate) fn release(&self, document_id: &str) {
        lock(&self.0).documents.remove(document_id);
    }

    /// Takes all documents of a memory, so that no writer starts while it is deleted or replaced. [`Error::DocumentBusy`] if
    /// one is taken.
    pub(crate) fn close(&self) -> Result<ClosedToWriters<'_>> {
        let mut active = lock(&self.0);
        if let Some(document) = active.documents.iter().next() {
            return Err(Error::DocumentBusy { document: document.to_string() });
        }
        if active.closed {
            return Err(Error::DocumentBusy { document: "(all)".into() });
        }
        active.closed = true;
        Ok(ClosedToWriters(self))
    }

    /// Takes a document until the result is dropped. [`Error::DocumentBusy`] if it is taken.
    pub(crate) fn take_one(&self, document_id: &Arc<str>) -> Result<TakenDocuments<'_>> {
        self.take(document_id)?;
        Ok(TakenDocuments { writers: self, documents: vec![Arc::clone(document_id)] })
    }

    /// Takes those of `documents` that are free, until the result is dropped.
    pub(crate) fn take_free(&self, documents: &[Arc<str>]) -> TakenDocuments<'_> {
        let mut active = lock(&self.0);
        let mut taken = Vec::new();
        if !active.closed {
            taken.extend(documents.iter().filter(|id| active.documents.insert(Arc::clone(id))).cloned());
        }
        TakenDocuments { writers: self, documents: taken }
    }

    /// Whether no document is taken.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).documents.is_empty()
    }

    /// Drops documents that are taken.
    pub(crate) fn retain_free(&self, documents: &mut Vec<Arc<str>>) {
        let active = lock(&self.0);
        documents.retain(|id| !active.documents.contains(id));
    }
}

/// Documents that are taken, given back when dropped.
pub(crate) struct TakenDocuments<'a> {
    writers: &'a ActiveWriters,
    pub(crate) documents: Vec<Arc<str>>,
}

impl Drop for TakenDocuments<'_> {
    fn drop(&mut self) {
        for document in &self.documents {
            self.writers.release(document);
        }
    }
}

/// A memory that no writer can be opened of, until this is dropped.
pub(crate) struct ClosedToWriters<'a>(&'a ActiveWriters);

impl Drop for ClosedToWriters<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).closed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_one_writer_and_a_closed_memory_none() {
        let (writers, a, b): (ActiveWriters, Arc<str>, Arc<str>) = (ActiveWriters::default(), "a".into(), "b".into());
        assert!(writers.take(&a).is_ok() && writers.take(&a).is_err());
        assert!(matches!(writers.close(), Err(Error::DocumentBusy { document }) if document == "a"));
        let taken = writers.take_free(&[Arc::clone(&a), Arc::clone(&b)]);
        assert_eq!(taken.documents, [Arc::clone(&b)]);
        assert!(writers.take(&b).is_err());
        drop(taken);
        writers.release("a");
        let closed = writers.close();
        assert!(closed.is_ok() && writers.close().is_err() && writers.take(&b).is_err());
        assert!(writers.take_free(&[Arc::clone(&b)]).documents.is_empty());
        drop(closed);
        assert!(writers.is_empty() && writers.take(&b).is_ok());
    }
}
