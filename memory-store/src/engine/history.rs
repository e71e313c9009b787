//! Records of documents as they were when an export began.
//!
//! Extents belong to a state, which never changes; records of documents do not. While an export runs, every commit
//! leaves with it the records that it replaces, as far as the export has not passed them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use crate::error::{Error, Result};
use crate::storage::{Batch, Record, Storage};
use crate::sync::lock;

/// Records of documents read at once.
const PAGE: usize = 64;
/// Bytes of replaced records that one export keeps.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// The histories that are being kept, over all memories.
#[derive(Default)]
pub(crate) struct Histories(Mutex<Vec<Weak<History>>>);

impl Histories {
    /// Keeps what `inverse`, which undoes a commit, tells.
    pub(crate) fn note(&self, inverse: &Batch) {
        let mut histories = lock(&self.0);
        if histories.is_empty() {
            return;
        }
        histories.retain(|history| history.strong_count() > 0);
        for history in histories.iter().filter_map(Weak::upgrade) {
            history.note(inverse);
        }
    }

    /// Begins to keep the records whose keys start with `prefix`. The memory's turn is held.
    pub(crate) fn begin(&self, prefix: Vec<u8>) -> Arc<History> {
        let history = Arc::new(History { prefix, kept: Mutex::default() });
        lock(&self.0).push(Arc::downgrade(&history));
        history
    }
}

#[derive(Default)]
struct Kept {
    /// The last key that was read.
    passed: Option<Vec<u8>>,
    /// What keys beyond it had; `None`: nothing.
    old: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    bytes: usize,
    /// Every key was passed.
    ended: bool,
    overflowed: bool,
}

/// See the module.
pub(crate) struct History {
    prefix: Vec<u8>,
    kept: Mutex<Kept>,
}

impl History {
    fn note(&self, inverse: &Batch) {
        let mut kept = lock(&self.kept);
        if kept.ended {
            return;
        }
        for (key, value) in inverse.changes() {
            let passed = kept.passed.as_ref().is_some_and(|passed| key <= passed);
            if passed || !key.starts_with(&self.prefix) || kept.old.contains_key(key) {
                continue;
            }
            let bytes = key.len() + value.as_ref().map_or(0, Vec::len) + 64;
            if kept.bytes + bytes > KEPT_BYTES_MAX {
                kept.overflowed = true;
                return;
            }
            kept.bytes += bytes;
            kept.old.insert(key.clone(), value.clone());
        }
    }

    /// The next records, ascending, as they were; `None` after the last. The memory's turn is held.
    pub(crate) fn page(&self, storage: &dyn Storage) -> Result<Option<Vec<Record>>> {
        let mut kept = lock(&self.kept);
        if kept.overflowed {
            let advice = "export it again when less is being written".into();
            let what = "bytes of changes to a memory while it is exported";
            return Err(Error::Limit { what, limit: KEPT_BYTES_MAX as u64, advice });
        }
        if kept.ended {
            return Ok(None);
        }
        let page = storage.scan(&self.prefix, kept.passed.as_deref(), PAGE)?;
        let last = page.last().map(|(key, _)| key.clone());
        let is_last = page.len() < PAGE;
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = page.into_iter().collect();
        // Beyond the end of a full page, keys wait for theirs.
        while let Some(entry) = kept.old.first_entry() {
            if !is_last && last.as_ref().is_some_and(|last| entry.key() > last) {
                break;
            }
            let (key, value) = entry.remove_entry();
            match value {
                Some(value) => _ = merged.insert(key, value),
                None => _ = merged.remove(&key),
            }
        }
        kept.bytes = kept.old.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len) + 64).sum();
        kept.ended = is_last;
        kept.passed = last;
        Ok(Some(merged.into_iter().collect()))
    }
}
