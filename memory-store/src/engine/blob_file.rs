//! A blob with the time of its deletion.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::format::chunk_blob::number_of;
use crate::storage::Storage;

/// A blob that is deleted once it is marked for deletion and its last reader is gone.
pub(crate) struct BlobFile {
    storage: Arc<dyn Storage>,
    pub(crate) name: String,
    pub(crate) bytes: u64,
    marked_for_deletion: AtomicBool,
}

impl BlobFile {
    pub(crate) fn new(storage: Arc<dyn Storage>, name: String, bytes: u64) -> Self {
        Self { storage, name, bytes, marked_for_deletion: AtomicBool::new(false) }
    }

    /// The number in its name.
    pub(crate) fn number(&self) -> u64 {
        number_of(&self.name)
    }

    /// No record refers to it any more: it goes with its last reader.
    pub(crate) fn mark_for_deletion(&self) {
        self.marked_for_deletion.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_marked_for_deletion(&self) -> bool {
        self.marked_for_deletion.load(Ordering::Relaxed)
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.storage.read_blob(&self.name, offset, len)
    }

    pub(crate) fn damaged(&self, why: impl Into<String>) -> Error {
        Error::Damaged { what: format!("blob {} in {}", self.name, self.storage.location()), why: why.into() }
    }
}

impl Drop for BlobFile {
    fn drop(&mut self) {
        if *self.marked_for_deletion.get_mut()
            && let Err(error) = self.storage.delete_blob(&self.name)
        {
            tracing::warn!(blob = self.name, %error, "a blob without use stays until the store is opened again");
        }
    }
}
