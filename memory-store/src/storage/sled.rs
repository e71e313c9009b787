//! Records in sled, blobs as files beside it.
//!
//! ```text
//! <dir>/lock        held while the storage is open
//! <dir>/catalog/    sled 0.34
//! <dir>/blobs/      one file for each blob; `<name>.tmp` while it is written
//! ```
//!
//! sled 0.34.7 flushes its log with `sync_file_range`, which does not empty the drive's write cache; so each flush
//! is followed by `fdatasync` of its file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Batch, BlobInfo, Record, Storage, check_blob_name};
use crate::{Error, Result};

/// Settings of [`SledStorage`].
#[derive(Debug, Clone)]
pub struct SledOptions {
    /// sled's page cache. It is a target, not a bound: sled may use a few times as much.
    pub cache_bytes: u64,
    /// Writes are refused with [`Error::NoSpace`] while the file system has less than this free: sled cannot go on
    /// after it met a full disk, so it must never meet one.
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
    // Fields drop in order: sled before the lock.
    database: sled::Db,
    database_file: File,
    blobs: PathBuf,
    blobs_folder: File,
    directory: PathBuf,
    min_free_bytes: u64,
    _lock: File,
}

impl SledStorage {
    /// Opens or creates the data folder `directory`. [`Error::InUse`] when another process (or another storage of
    /// this process) has it open.
    #[expect(clippy::needless_pass_by_value, reason = "options are made for the call")]
    pub fn open(directory: impl AsRef<Path>, options: SledOptions) -> Result<Self> {
        let directory = directory.as_ref().to_path_buf();
        let blobs = directory.join("blobs");
        fs::create_dir_all(&blobs).map_err(io_error("create", &blobs))?;
        let lock = lock_folder(&directory)?;
        let catalog = directory.join("catalog");
        let database = open_sled(&catalog, &directory, options.cache_bytes)?;
        let database_path = catalog.join("db");
        let database_file = File::open(&database_path).map_err(io_error("open", &database_path))?;
        let blobs_folder = File::open(&blobs).map_err(io_error("open", &blobs))?;
        for folder in [&catalog, &directory] {
            let opened = File::open(folder).map_err(io_error("open", folder))?;
            opened.sync_all().map_err(io_error("sync", folder))?;
        }
        let storage = Self {
            database,
            database_file,
            blobs,
            blobs_folder,
            directory,
            min_free_bytes: options.min_free_bytes,
            _lock: lock,
        };
        storage.remove_unfinished()?;
        Ok(storage)
    }

    /// Files of blobs whose writing was cut short before they got their name.
    fn remove_unfinished(&self) -> Result<()> {
        for entry in fs::read_dir(&self.blobs).map_err(io_error("list", &self.blobs))? {
            let path = entry.map_err(io_error("list", &self.blobs))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    fn check_space(&self, more: u64) -> Result<()> {
        let space = rustix::fs::statvfs(&self.directory).map_err(|error| Error::Io {
            what: format!("look at the space of {}", self.location()),
            source: error.into(),
        })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < self.min_free_bytes.saturating_add(more) {
            return Err(Error::NoSpace { what: self.location() });
        }
        Ok(())
    }
}

fn write_file(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = File::create(path).map_err(io_error("create", path))?;
    for part in parts {
        file.write_all(part).map_err(io_error("write", path))?;
    }
    file.sync_data().map_err(io_error("sync", path))
}

fn lock_folder(directory: &Path) -> Result<File> {
    let path = directory.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: directory.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

/// sled holds a lock of its own, which its last thread may release a moment after the handle is gone: asks again
/// for up to two seconds.
fn open_sled(catalog: &Path, directory: &Path, cache_bytes: u64) -> Result<sled::Db> {
    let config = sled::Config::new().path(catalog).cache_capacity(cache_bytes).flush_every_ms(None);
    let mut attempts = 0;
    loop {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                if attempts == 40 {
                    return Err(Error::InUse { path: directory.display().to_string() });
                }
                attempts += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other.map_err(|error| sled_error(error, directory)),
        }
    }
}

fn sled_error(error: sled::Error, directory: &Path) -> Error {
    match error {
        sled::Error::Io(source) => io_error("use the catalog in", directory)(source),
        sled::Error::Corruption { .. } => {
            Error::Damaged { what: format!("the catalog in {}", directory.display()), why: error.to_string() }
        }
        other => Error::Catalog(other.to_string()),
    }
}

fn io_error<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { what: path.display().to_string() }
        }
        _ => Error::Io { what: format!("cannot {what} {}", path.display()), source },
    }
}

impl Storage for SledStorage {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.database.get(key).map_err(|error| sled_error(error, &self.directory))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Record>> {
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let mut records = Vec::new();
        for record in self.database.range::<&[u8], _>((start, Bound::Unbounded)) {
            let (key, value) = record.map_err(|error| sled_error(error, &self.directory))?;
            if !key.starts_with(prefix) || records.len() >= limit {
                break;
            }
            records.push((key.to_vec(), value.to_vec()));
        }
        Ok(records)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.check_space(0)?;
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        self.database.apply_batch(changes).map_err(|error| sled_error(error, &self.directory))
    }

    fn flush(&self) -> Result<()> {
        self.database.flush().map_err(|error| sled_error(error, &self.directory))?;
        self.database_file.sync_data().map_err(io_error("sync the catalog in", &self.directory))
    }

    fn write_blob(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        check_blob_name(name)?;
        self.check_space(parts.iter().map(|part| part.len() as u64).sum())?;
        let path = self.blobs.join(name);
        let unfinished = self.blobs.join(format!("{name}.tmp"));
        let written = write_file(&unfinished, parts).and_then(|()| {
            fs::rename(&unfinished, &path).map_err(io_error("rename", &unfinished))?;
            self.blobs_folder.sync_all().map_err(io_error("sync", &self.blobs))
        });
        if written.is_err() {
            // The space is worth more than the half-written file; when this fails too, the next opening removes it.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    fn read_blob(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.read_blob_into(name, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn read_blob_into(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        check_blob_name(name)?;
        let path = self.blobs.join(name);
        let damaged = |why: String| Error::Damaged { what: path.display().to_string(), why };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing".into())),
            other => other.map_err(io_error("open", &path))?,
        };
        let size = file.metadata().map_err(io_error("read the size of", &path))?.len();
        let len = into.len();
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(damaged(format!("{len} bytes at {offset} were asked, but it has {size} bytes")));
        }
        file.read_exact_at(into, offset).map_err(io_error("read", &path))
    }

    fn delete_blob(&self, name: &str) -> Result<()> {
        check_blob_name(name)?;
        let path = self.blobs.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn list_blobs(&self) -> Result<Vec<BlobInfo>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.blobs).map_err(io_error("list", &self.blobs))? {
            let entry = entry.map_err(io_error("list", &self.blobs))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().extension().is_some_and(|extension| extension == "tmp") || check_blob_name(&name).is_err() {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) => blobs.push(BlobInfo { name, bytes: metadata.len() }),
                // Deleted since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("read the size of", &entry.path())(error)),
            }
        }
        Ok(blobs)
    }

    fn location(&self) -> String {
        self.directory.display().to_string()
    }
}
