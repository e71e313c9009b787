//! Records and blobs in maps: for tests and throw-away stores.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

use super::{Batch, BlobInfo, Record, Storage};
use crate::error::{Error, Result};
use crate::sync::{read, write};

/// A storage that ends with its last handle. Clones share the same contents.
#[derive(Debug, Clone, Default)]
pub struct InMemoryStorage {
    contents: Arc<RwLock<Contents>>,
}

#[derive(Debug, Default)]
struct Contents {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
    aside: BTreeMap<String, Vec<u8>>,
}

impl InMemoryStorage {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of what was set aside.
    pub fn aside(&self) -> Vec<String> {
        read(&self.contents).aside.keys().cloned().collect()
    }

    /// Changes the bytes of a blob in place: damage, for tests. Does nothing when there is no such blob.
    pub fn damage_blob(&self, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
        if let Some(blob) = write(&self.contents).blobs.get_mut(name) {
            damage(Arc::make_mut(blob));
        }
    }
}

impl Storage for InMemoryStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(read(&self.contents).records.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let contents = read(&self.contents);
        let range = contents.records.range::<[u8], _>((start, Bound::Unbounded));
        Ok(range
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut contents = write(&self.contents);
        for (key, value) in batch.changes() {
            match value {
                Some(value) => contents.records.insert(key.clone(), value.clone()),
                None => contents.records.remove(key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        super::check_blob_name(name)?;
        write(&self.contents).blobs.insert(name.to_owned(), Arc::new(parts.concat()));
        Ok(())
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let blob = read(&self.contents).blobs.get(name).cloned();
        let damaged = |why: String| Error::Damaged { what: format!("blob {name}"), why };
        let blob = blob.ok_or_else(|| damaged("it is missing".into()))?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(len);
        let bytes = blob
            .get(range)
            .ok_or_else(|| damaged(format!("{len} bytes at {offset} were asked, but it has {} bytes", blob.len())))?;
        Ok(bytes.to_vec())
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        write(&self.contents).blobs.remove(name);
        Ok(())
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        let contents = read(&self.contents);
        let info = |(name, blob): (&String, &Arc<Vec<u8>>)| BlobInfo { name: name.clone(), bytes: blob.len() as u64 };
        Ok(contents.blobs.iter().map(info).collect())
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write(&self.contents).aside.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn location(&self) -> String {
        "memory".into()
    }
}
