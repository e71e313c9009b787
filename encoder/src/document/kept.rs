//! How far documents were read, kept: what is appended to one costs no second reading of the window before it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mnemon_memory_store::WriterState;

use super::reader::Reader;

/// Readers of documents that may be appended to, those used last in front. They are worth time alone: a document whose reader is not here
/// is read again from a window before its end, with the same outcome to the last bit.
///
/// For one model, shared by all the documents that it reads. What was kept of a document that is deleted goes when others need its room.
pub struct KeptReaders {
    kept: Mutex<VecDeque<Kept>>,
    bytes_max: usize,
}

struct Kept {
    document: DocumentPlace,
    /// What was durable of the document when it was kept: one that was changed since is another text.
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
    /// Keeps readers of at most so many bytes of keys and values.
    pub fn new(bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), bytes_max }
    }

    /// A reader of the document as it is durable, if it has read exactly `tokens` of it. It is not kept any more.
    pub(super) fn take(&self, document: &DocumentPlace, state: &WriterState, tokens: u64) -> Option<Reader> {
        let mut kept = self.lock();
        let at = kept.iter().position(|kept| kept.document == *document)?;
        let kept = kept.remove(at)?;
        (kept.state == *state && kept.reader.next_token() == tokens).then_some(kept.reader)
    }

    /// Keeps a reader in the place of those that were not used for longest.
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
