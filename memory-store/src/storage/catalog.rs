//! sled 0.34 as the keeper of the records: the folder `catalog` of a data folder.
//!
//! sled 0.34.7 flushes its log with `sync_file_range`, which does not empty the drive's write cache; so each flush
//! is followed by `fdatasync` of its file. It keeps old values in its log for long, so only writing all records to a
//! new folder ([`build`], [`replace`]) makes sure that what was deleted is gone.

use std::fs;
use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::files::{io_error, move_aside, sync_folder};
use super::{Batch, Record};
use crate::error::{Error, Result};

pub(super) const CATALOG: &str = "catalog";
/// A catalog in the making, and one that was replaced.
const NEW: &str = "catalog.new";
const OLD: &str = "catalog.old";
/// The first catalog of a data folder, in the making.
const FIRST: &str = "catalog.first";
/// A copy of a catalog that is looked at.
const CHECK: &str = "catalog.check";
/// Records written to a new catalog at once.
const STEP: usize = 256;
/// sled's cache while it only copies.
const COPY_CACHE_BYTES: u64 = 8 << 20;

/// An open catalog.
#[derive(Debug)]
pub(super) struct Catalog {
    database: sled::Db,
    file: File,
    /// For messages: the data folder.
    location: String,
}

impl Catalog {
    /// Opens or creates the catalog in the folder `path`.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Self> {
        let location = path.parent().unwrap_or(path).display().to_string();
        remove_unfinished_snapshots(path)?;
        let database = open_sled(path, &location, cache_bytes)?;
        let file = path.join("db");
        let file = File::open(&file).map_err(io_error("open", &file))?;
        sync_folder(path)?;
        Ok(Self { database, file, location })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.database.get(key).map_err(|error| self.error(error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    pub(super) fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let mut records = Vec::new();
        for record in self.database.range::<&[u8], _>((start, Bound::Unbounded)) {
            let (key, value) = record.map_err(|error| self.error(error))?;
            if !key.starts_with(prefix) || records.len() >= limit {
                break;
            }
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    /// Every record, in order.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        self.scan(b"", None, usize::MAX)
    }

    pub(super) fn apply(&self, batch: &Batch) -> Result<()> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        self.database.apply_batch(changes).map_err(|error| self.error(error))
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.database.flush().map_err(|error| self.error(error))?;
        self.file.sync_data().map_err(io_error("sync the catalog in", Path::new(&self.location)))
    }

    fn error(&self, error: sled::Error) -> Error {
        sled_error(error, &self.location)
    }
}

/// Writes `records` to a new catalog beside the one in use.
pub(super) fn build(directory: &Path, records: &[Record]) -> Result<()> {
    let new = directory.join(NEW);
    remove_folder(&new)?;
    let catalog = Catalog::open(&new, COPY_CACHE_BYTES)?;
    for step in records.chunks(STEP) {
        let mut batch = Batch::default();
        for (key, value) in step {
            batch.put(key.clone(), value.clone());
        }
        catalog.apply(&batch)?;
    }
    catalog.flush()?;
    drop(catalog);
    wait_until_closed(&new)?;
    sync_folder(&new)
}

/// Makes the first catalog of a data folder. sled writes its settings in two steps, and refuses to open what was killed between
/// them: so it does that in a folder of another name.
pub(super) fn create(directory: &Path) -> Result<()> {
    let first = directory.join(FIRST);
    remove_folder(&first)?;
    let catalog = Catalog::open(&first, COPY_CACHE_BYTES)?;
    catalog.flush()?;
    drop(catalog);
    wait_until_closed(&first)?;
    sync_folder(&first)?;
    fs::rename(&first, directory.join(CATALOG)).map_err(io_error("rename", &first))?;
    sync_folder(directory)
}

/// sled takes a snapshot whose writing was cut short for the latest one, and refuses to open.
fn remove_unfinished_snapshots(catalog: &Path) -> Result<()> {
    if !catalog.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(catalog).map_err(io_error("list", catalog))? {
        let path = entry.map_err(io_error("list", catalog))?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
    }
    Ok(())
}

/// Puts the catalog that [`build`] made in the place of the old one, which is closed. A crash leaves one of them; [`finish`]
/// tidies up.
pub(super) fn replace(directory: &Path) -> Result<()> {
    let (catalog, new, old) = (directory.join(CATALOG), directory.join(NEW), directory.join(OLD));
    remove_folder(&old)?;
    if catalog.exists() {
        wait_until_closed(&catalog)?;
        fs::rename(&catalog, &old).map_err(io_error("rename", &catalog))?;
    }
    fs::rename(&new, &catalog).map_err(io_error("rename", &new))?;
    sync_folder(directory)?;
    remove_folder(&old)
}

/// Ends a replacement that a crash cut short.
pub(super) fn finish(directory: &Path) -> Result<()> {
    let (catalog, new) = (directory.join(CATALOG), directory.join(NEW));
    // The old one goes only when the new one is whole.
    if !catalog.exists() && new.exists() {
        fs::rename(&new, &catalog).map_err(io_error("rename", &new))?;
        sync_folder(directory)?;
    }
    remove_folder(&new)?;
    remove_folder(&directory.join(FIRST))?;
    remove_folder(&directory.join(CHECK))?;
    remove_folder(&directory.join(OLD))
}

/// Moves a catalog that cannot be used into the folder `damaged`.
pub(super) fn move_catalog_aside(directory: &Path) -> Result<()> {
    let path = move_aside(directory, CATALOG)?;
    tracing::warn!(path = %path.display(), "the damaged catalog is kept here");
    Ok(())
}

/// The records of the catalog in `directory`, read from a copy: sled overwrites what it takes for the torn end of its log,
/// which must not happen to what is to be examined.
pub(super) fn read_copy(directory: &Path) -> Result<Vec<Record>> {
    let (from, to) = (directory.join(CATALOG), directory.join(CHECK));
    remove_folder(&to)?;
    copy_folder(&from, &to)?;
    // sled asserts what damage may break.
    let read = catch_unwind(AssertUnwindSafe(|| Catalog::open(&to, COPY_CACHE_BYTES)?.records()));
    let records = read.unwrap_or_else(|_| {
        Err(Error::Damaged { what: from.display().to_string(), why: "sled cannot read it".into() })
    });
    remove_folder(&to)?;
    records
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).map_err(io_error("create", to))?;
    if !from.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(from).map_err(io_error("list", from))? {
        let entry = entry.map_err(io_error("list", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            fs::copy(&path, &target).map_err(io_error("copy", &path))?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> Result<()> {
    if path.exists() { fs::remove_dir_all(path).map_err(io_error("remove", path)) } else { Ok(()) }
}

/// sled's last thread may hold its files a moment longer than the handle lives: waits for up to two seconds.
pub(super) fn wait_until_closed(catalog: &Path) -> Result<()> {
    let path = catalog.join("db");
    let Ok(file) = File::open(&path) else { return Ok(()) };
    for _ in 0..400 {
        if file.try_lock().is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Error::InUse { path: catalog.display().to_string() })
}

/// sled holds a lock of its own, which its last thread may release a moment after the handle is gone: asks again
/// for up to two seconds.
fn open_sled(catalog: &Path, location: &str, cache_bytes: u64) -> Result<sled::Db> {
    let config = sled::Config::new().path(catalog).cache_capacity(cache_bytes).flush_every_ms(None);
    let mut attempts = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if attempts == 40 {
                    return Err(Error::InUse { path: location.to_owned() });
                }
                attempts += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other.map_err(|error| sled_error(error, location)),
        }
    }
}

fn sled_error(error: sled::Error, location: &str) -> Error {
    match error {
        sled::Error::Io(source) => io_error("use the catalog in", Path::new(location))(source),
        sled::Error::Corruption { .. } => {
            Error::Damaged { what: format!("the catalog in {location}"), why: error.to_string() }
        }
        other => Error::Catalog(other.to_string()),
    }
}
