//! Records in sled, blobs as files beside it.
//!
//! ```text
//! <dir>/lock          held while the storage is open
//! <dir>/catalog/      sled 0.34
//! <dir>/catalog.copy  its records and the checksums of its files, while it is closed
//! <dir>/blobs/        one file for each blob; `<name>.tmp` while it is written
//! <dir>/damaged/      what could not be used any more: nothing reads it but people
//! ```

use std::fs;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use super::catalog::{CATALOG, Catalog};
use super::copy::Copy;
use super::files::{BlobFolder, io_error};
use super::{Batch, BlobInfo, Record, Storage, catalog, copy, files};
use crate::error::{Error, Result};
use crate::sync::{read, write};

/// Of the space that is kept free, deletions may use all but the one in so many.
const FREEING: u64 = 4;

/// Settings of [`SledStorage`].
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// sled's page cache. It is a target, not a bound: sled may use a few times as much.
    pub cache_bytes: u64,
    /// Writes are refused with [`Error::NoSpace`] while the file system has less than this free: sled cannot go on after it
    /// met a full disk, so it must never meet one. Deletions are refused where less than a fourth of it is free.
    pub min_free_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, min_free_bytes: 64 << 20 }
    }
}

/// A data folder on a local disk; at most one process has it open.
#[derive(Debug)]
pub struct SledStorage {
    /// `None` when it could not be opened again after it was rewritten.
    catalog: RwLock<Option<Catalog>>,
    blobs: BlobFolder,
    directory: PathBuf,
    options: SledOptions,
    // Released last.
    _lock: File,
}

impl SledStorage {
    /// Opens or creates the data folder `directory`. [`Error::InUse`] when another process (or another storage of
    /// this process) has it open. A catalog that changed since it was closed in order is moved aside and replaced
    /// by the copy that was made then.
    pub fn open(directory: impl AsRef<Path>, options: SledOptions) -> Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        let lock = lock_folder(&directory)?;
        let blobs = BlobFolder::open(directory.join("blobs"))?;
        catalog::finish(&directory)?;
        match copy::read(&directory)? {
            Copy::None | Copy::Agrees(_) => {}
            Copy::Damaged(error) => tracing::warn!(%error, "the copy of the catalog is not used"),
            Copy::Differs(records, file) => {
                tracing::warn!(file, "damaged since it was closed: the catalog is restored from its copy");
                restore(&directory, &records)?;
            }
        }
        copy::remove(&directory)?;
        if !directory.join(CATALOG).exists() {
            catalog::create(&directory)?;
        }
        let catalog = Catalog::open(&directory.join(CATALOG), options.cache_bytes)?;
        files::sync_folder(&directory)?;
        blobs.remove_unfinished()?;
        Ok(Self { catalog: RwLock::new(Some(catalog)), blobs, directory, options, _lock: lock })
    }

    fn with_catalog<T>(&self, work: impl FnOnce(&Catalog) -> Result<T>) -> Result<T> {
        match read(&self.catalog).as_ref() {
            Some(catalog) => work(catalog),
            None => Err(Error::Catalog("it could not be opened again; restart (nothing acknowledged is lost)".into())),
        }
    }

    /// Refuses to write `more` bytes where less than `reserve` would be left.
    fn check_space(&self, more: u64, reserve: u64) -> Result<()> {
        let space = rustix::fs::statvfs(&self.directory).map_err(|error| Error::Io {
            what: format!("look at the space of {}", self.location()),
            source: error.into(),
        })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < reserve.saturating_add(more) {
            return Err(Error::NoSpace { what: self.location() });
        }
        Ok(())
    }

    /// Closes the catalog and makes its copy.
    fn close(&self) -> Result<()> {
        let Some(catalog) = write(&self.catalog).take() else { return Ok(()) };
        catalog.flush()?;
        let records = catalog.records()?;
        drop(catalog);
        catalog::wait_until_closed(&self.directory.join(CATALOG))?;
        copy::write(&self.directory, &records)
    }
}

impl Drop for SledStorage {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the catalog was closed without a copy; nothing acknowledged is lost");
        }
    }
}

/// Puts the records of the copy in the place of a catalog that is damaged.
fn restore(directory: &Path, records: &[Record]) -> Result<()> {
    catalog::build(directory, records)?;
    if directory.join(CATALOG).exists() {
        catalog::move_catalog_aside(directory)?;
    }
    catalog::replace(directory)
}

pub(super) fn lock_folder(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: directory.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

impl Storage for SledStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.with_catalog(|catalog| catalog.get(key))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        self.with_catalog(|catalog| catalog.scan(prefix, after, limit))
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        // What takes something away makes room in the end: the last of the reserve is for that.
        let frees = batch.changes().iter().any(|(_, value)| value.is_none());
        self.check_space(0, self.options.min_free_bytes / if frees { FREEING } else { 1 })?;
        self.with_catalog(|catalog| catalog.apply(batch))
    }

    fn flush(&self) -> Result<()> {
        self.with_catalog(Catalog::flush)
    }

    /// Writes all records to a new catalog and puts it in the place of the old one. Meanwhile records can neither be
    /// read nor written.
    fn compact(&self) -> Result<()> {
        let mut held = write(&self.catalog);
        let Some(catalog) = held.as_ref() else { return Ok(()) };
        catalog.flush()?;
        let records = catalog.records()?;
        let bytes = records.iter().map(|(key, value)| 2 * (key.len() + value.len()) as u64).sum();
        self.check_space(bytes, self.options.min_free_bytes / FREEING)?;
        catalog::build(&self.directory, &records)?;
        // From here on the old one is closed.
        *held = None;
        let replaced = catalog::replace(&self.directory);
        *held = Some(Catalog::open(&self.directory.join(CATALOG), self.options.cache_bytes)?);
        replaced
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.check_space(parts.iter().map(|part| part.len() as u64).sum(), self.options.min_free_bytes)?;
        self.blobs.write(name, parts)
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.blobs.read(name, offset, len)
    }

    fn read_blob_into(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        self.blobs.read_into(name, offset, into)
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
