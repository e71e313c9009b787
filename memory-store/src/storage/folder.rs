//! A data folder as `check` looks at it: nothing is written before [`Storage::flush`], which replaces the catalog as a
//! whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use mnemon_memory::Invalid;

use super::catalog::CATALOG;
use super::copy::Copy;
use super::files::BlobFolder;
use super::memory::InMemoryStorage;
use super::sled::lock_folder;
use super::{Batch, BlobInfo, Record, Storage, catalog, copy, files};
use crate::error::{Error, Result};

/// A data folder that no server has open: its records in memory, its blobs where they are.
pub(crate) struct ClosedFolder {
    records: InMemoryStorage,
    blobs: BlobFolder,
    directory: PathBuf,
    /// What is wrong with the catalog's files.
    pub(crate) faults: Vec<Error>,
    /// The records could not be read: only blobs tell what there was.
    pub(crate) catalog_lost: bool,
    _lock: File,
}

impl ClosedFolder {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        if !directory.join("blobs").is_dir() {
            let why = format!("{} holds no memories (there is no folder blobs in it)", directory.display());
            return Err(Error::Invalid(Invalid { what: "data folder", why }));
        }
        let lock = lock_folder(directory)?;
        catalog::finish(directory)?;
        let mut faults = Vec::new();
        let damaged = |what: String, why: &str| Error::Damaged { what, why: why.into() };
        let records = match copy::read(directory)? {
            Copy::Agrees(records) => Some(records),
            Copy::Differs(records, file) => {
                let what = directory.join(file).display().to_string();
                faults.push(damaged(what, "it changed since it was closed; all records are in catalog.copy"));
                Some(records)
            }
            other => {
                if let Copy::Damaged(error) = other {
                    faults.push(error);
                }
                if directory.join(CATALOG).exists() {
                    match catalog::read_copy(directory) {
                        Ok(records) => Some(records),
                        Err(error @ (Error::Io { .. } | Error::NoSpace { .. })) => return Err(error),
                        Err(error) => {
                            faults.push(error);
                            None
                        }
                    }
                } else {
                    faults.push(damaged(directory.join(CATALOG).display().to_string(), "it is missing"));
                    None
                }
            }
        };
        let catalog_lost = records.is_none();
        let storage = InMemoryStorage::new();
        let mut batch = Batch::default();
        for (key, value) in records.into_iter().flatten() {
            batch.put(key, value);
        }
        storage.apply(&batch)?;
        let blobs = BlobFolder::open(directory.join("blobs"))?;
        Ok(Self { records: storage, blobs, directory: directory.to_path_buf(), faults, catalog_lost, _lock: lock })
    }
}

impl Storage for ClosedFolder {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.records.get(key)
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        self.records.scan(prefix, after, limit)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.records.apply(batch)
    }

    fn flush(&self) -> Result<()> {
        let records = self.records.scan(b"", None, usize::MAX)?;
        catalog::build(&self.directory, &records)?;
        if !self.faults.is_empty() && self.directory.join(CATALOG).exists() {
            catalog::move_catalog_aside(&self.directory)?;
        }
        copy::remove(&self.directory)?;
        catalog::replace(&self.directory)?;
        copy::write(&self.directory, &records)
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.blobs.write(name, parts)
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.blobs.read(name, offset, len)
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        self.blobs.delete(name)
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        self.blobs.list()
    }

    fn set_aside(&self, name: &str, bytes: &[u8]) -> Result<()> {
        files::set_aside(&self.directory, name, bytes)
    }

    fn location(&self) -> String {
        self.directory.display().to_string()
    }
}
