//! Cache of readers, so that an append does not read the window before it a second time.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mnemon_memory::WriterState;

use super::reader::Reader;

/// LRU cache of readers at the resume points of documents. A miss costs time only: the document is read again from a receptive field before
/// its end, and the stored bytes are identical.
///
/// One cache per model, shared by all tenants; an entry is used only if the document's durable state is unchanged. Entries of deleted
/// documents stay until they are evicted.
pub struct KeptReaders {
    kept: Mutex<VecDeque<Kept>>,
    bytes_max: usize,
}

struct Kept {
    document: DocumentPlace,
    /// Durable state of the document when the entry was made.
    state: WriterState,
    reader: Reader,
}

/// Which document of all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DocumentPlace {
    pub(super) tenant: String,
    pub(super) memory: String,
    pub(super) document_id: String,
}

impl fmt::Debug for KeptReaders {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("KeptReaders").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

impl KeptReaders {
    /// Holds at most `bytes_max` bytes of keys and values.
    pub fn new(bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), bytes_max }
    }

    /// Removes the document's entry, and returns its reader if the state matches and it has read exactly `tokens` tokens.
    pub(super) fn take(&self, document: &DocumentPlace, state: &WriterState, tokens: u64) -> Option<Reader> {
        let mut kept = self.lock();
        let at = kept.iter().position(|kept| kept.document == *document)?;
        let kept = kept.remove(at)?;
        (kept.state == *state && kept.reader.next_token() == tokens).then_some(kept.reader)
    }

    /// Inserts a reader and evicts the least recently used beyond `bytes_max`.
    pub(super) fn keep(&self, document: DocumentPlace, state: WriterState, reader: Reader) {
        let mut kept = self.lock();
        kept.retain(|other| other.document != document);
        let bytes = reader.held_bytes();
        if bytes > self.bytes_max {
            tracing::debug!(bytes, at_most = self.bytes_max, "a reader is too large to be kept");
            return;
        }
        kept.push_front(Kept { document, state, reader });
        let mut held = 0;
        kept.retain(|kept| {
            held += kept.reader.held_bytes();
            held <= self.bytes_max
        });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
