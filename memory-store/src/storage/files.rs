//! Blobs as files of one folder, and the small things that files need to be durable.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{BlobInfo, check_blob_name};
use crate::error::{Error, Result};

/// The folder of the blobs.
#[derive(Debug)]
pub(super) struct BlobFolder {
    path: PathBuf,
    /// For `fsync`: a name is durable only then.
    folder: File,
}

impl BlobFolder {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        let folder = File::open(&path).map_err(io_error("open", &path))?;
        Ok(Self { path, folder })
    }

    /// Files of blobs whose writing was cut short before they got their name.
    pub(super) fn remove_unfinished(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(io_error("list", &self.path))? {
            let path = entry.map_err(io_error("list", &self.path))?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        check_blob_name(name)?;
        write_durably(&self.path, &self.folder, name, parts)
    }

    pub(super) fn read(&self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>> {
        let (file, path) = self.open_range(name, offset, len)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).map_err(io_error("read", &path))?;
        Ok(bytes)
    }

    pub(super) fn read_into(&self, name: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let (file, path) = self.open_range(name, offset, into.len())?;
        file.read_exact_at(into, offset).map_err(io_error("read", &path))
    }

    /// The file of a blob that has `len` bytes from `offset` on.
    fn open_range(&self, name: &str, offset: u64, len: usize) -> Result<(File, PathBuf)> {
        check_blob_name(name)?;
        let path = self.path.join(name);
        let damaged = |why: String| Error::Damaged { what: path.display().to_string(), why };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing".into())),
            other => other.map_err(io_error("open", &path))?,
        };
        let size = file.metadata().map_err(io_error("read the size of", &path))?.len();
        if offset.checked_add(len as u64).is_none_or(|end| end > size) {
            return Err(damaged(format!("{len} bytes at {offset} were asked, but it has {size} bytes")));
        }
        Ok((file, path))
    }

    pub(super) fn delete(&self, name: &str) -> Result<()> {
        check_blob_name(name)?;
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<BlobInfo>> {
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(io_error("list", &self.path))? {
            let entry = entry.map_err(io_error("list", &self.path))?;
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
}

/// Writes `parts` to the file `name` of a folder under a temporary name, syncs, renames, syncs the folder.
pub(super) fn write_durably(path: &Path, folder: &File, name: &str, parts: &[&[u8]]) -> Result<()> {
    let unfinished = path.join(format!("{name}.tmp"));
    let written = write_file(&unfinished, parts).and_then(|()| {
        fs::rename(&unfinished, path.join(name)).map_err(io_error("rename", &unfinished))?;
        folder.sync_all().map_err(io_error("sync", path))
    });
    if written.is_err() {
        // The space is worth more than the half-written file; when this fails too, the next opening removes it.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

fn write_file(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = File::create(path).map_err(io_error("create", path))?;
    for part in parts {
        file.write_all(part).map_err(io_error("write", path))?;
    }
    file.sync_data().map_err(io_error("sync", path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let folder = File::open(path).map_err(io_error("open", path))?;
    folder.sync_all().map_err(io_error("sync", path))
}

/// Keeps `bytes` in the folder `damaged` of `directory`, under a name that is not taken there.
pub(super) fn set_aside(directory: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = damaged_folder(directory)?;
    let folder = File::open(&path).map_err(io_error("open", &path))?;
    write_durably(&path, &folder, &free_name(&path, name), &[bytes])
}

/// Moves the file or folder `name` of `directory` into its folder `damaged`; returns where it is now.
pub(super) fn move_aside(directory: &Path, name: &str) -> Result<PathBuf> {
    let (from, folder) = (directory.join(name), damaged_folder(directory)?);
    let to = folder.join(free_name(&folder, name));
    fs::rename(&from, &to).map_err(io_error("move aside", &from))?;
    sync_folder(&folder)?;
    sync_folder(directory)?;
    Ok(to)
}

fn damaged_folder(directory: &Path) -> Result<PathBuf> {
    let folder = directory.join("damaged");
    fs::create_dir_all(&folder).map_err(io_error("create", &folder))?;
    sync_folder(directory)?;
    Ok(folder)
}

fn free_name(folder: &Path, name: &str) -> String {
    let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !folder.join(name).exists()).unwrap_or_else(|| name.to_owned())
}

pub(super) fn io_error<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::NoSpace { what: path.display().to_string() }
        }
        _ => Error::Io { what: format!("cannot {what} {}", path.display()), source },
    }
}
