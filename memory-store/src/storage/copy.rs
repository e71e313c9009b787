//! `catalog.copy`: all records as they were when the data folder was closed in order, and the checksums of sled's files.
//!
//! sled takes a damaged message for the torn end of its log, forgets what comes after it and overwrites it. So before
//! sled touches its files they are compared with what they were. If they differ, the copy is as good as the catalog; it
//! is removed before anything is written, so that it is never older than the catalog.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Record;
use super::catalog::CATALOG;
use super::files::{io_error, sync_folder, write_durably};
use crate::error::{Error, Result};
use crate::format::codec::{Decoder, Encoder};

const NAME: &str = "catalog.copy";
const MAGIC: &[u8; 8] = b"MNMNCOPY";
const FORMAT: u32 = 1;

/// What the copy tells about a data folder that is not open.
pub(super) enum Copy {
    /// There is none: the folder is new, or was not closed in order.
    None,
    /// sled's files are as they were.
    Agrees(Vec<Record>),
    /// sled's files are not as they were: the records before, and what differs.
    Differs(Vec<Record>, String),
    /// The copy itself is damaged.
    Damaged(Error),
}

fn path(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Writes the copy. The catalog is closed and holds `records`.
pub(super) fn write(directory: &Path, records: &[Record]) -> Result<()> {
    let mut out = Encoder::default();
    out.bytes.extend_from_slice(MAGIC);
    let sums = sums(directory)?;
    out.u32(FORMAT).u32(sums.len() as u32);
    for (name, bytes, sum) in &sums {
        out.text(name).u64(*bytes);
        out.bytes.extend_from_slice(sum);
    }
    out.u64(records.len() as u64);
    for (key, value) in records {
        for part in [key, value] {
            out.u32(part.len() as u32);
            out.bytes.extend_from_slice(part);
        }
    }
    let sum = blake3::hash(&out.bytes);
    let folder = File::open(directory).map_err(io_error("open", directory))?;
    write_durably(directory, &folder, NAME, &[&out.bytes, sum.as_bytes()])
}

/// Reads the copy and compares sled's files with it.
pub(super) fn read(directory: &Path) -> Result<Copy> {
    let path = path(directory);
    if !path.exists() {
        return Ok(Copy::None);
    }
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    let (before, records) = match parse(&bytes, &path.display().to_string()) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Copy::Damaged(error)),
    };
    let now = sums(directory)?;
    if now == before {
        return Ok(Copy::Agrees(records));
    }
    let differs = before.iter().find(|file| !now.contains(file)).or_else(|| now.iter().find(|f| !before.contains(f)));
    let name = differs.map_or_else(String::new, |(name, ..)| format!("{CATALOG}/{name}"));
    Ok(Copy::Differs(records, name))
}

/// Removes the copy, durably: from now on the catalog may change.
pub(super) fn remove(directory: &Path) -> Result<()> {
    let path = path(directory);
    if !path.exists() {
        return Ok(());
    }
    fs::remove_file(&path).map_err(io_error("remove", &path))?;
    sync_folder(directory)
}

/// Name, length and BLAKE3 of a file.
pub(crate) type Sum = (String, u64, [u8; 32]);

pub(crate) fn parse(bytes: &[u8], what: &str) -> Result<(Vec<Sum>, Vec<Record>)> {
    let damaged = |why: &str| Error::Damaged { what: what.to_owned(), why: why.to_owned() };
    let Some((body, sum)) = bytes.split_last_chunk::<32>() else { return Err(damaged("it is too short")) };
    if blake3::hash(body).as_bytes() != sum {
        return Err(damaged("its checksum does not match"));
    }
    let mut input = Decoder::new(body, what);
    if input.take(8)? != MAGIC || input.u32()? != FORMAT {
        return Err(damaged("it is not a copy of this format"));
    }
    let count = input.count(44)?;
    let mut sums = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, bytes) = (input.text()?, input.u64()?);
        sums.push((name, bytes, input.fingerprint()?.0));
    }
    let count = input.u64()?;
    let mut records = Vec::new();
    for _ in 0..count {
        let mut part = || {
            let len = input.count(1)?;
            Ok::<_, Error>(input.take(len)?.to_vec())
        };
        records.push((part()?, part()?));
    }
    input.end()?;
    Ok((sums, records))
}

/// Name, length and BLAKE3 of each of sled's files, by name.
fn sums(directory: &Path) -> Result<Vec<Sum>> {
    let mut sums = Vec::new();
    let catalog = directory.join(CATALOG);
    if catalog.exists() {
        visit(&catalog, "", &mut sums)?;
    }
    sums.sort();
    Ok(sums)
}

fn visit(folder: &Path, prefix: &str, sums: &mut Vec<Sum>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let entry = entry.map_err(io_error("list", folder))?;
        let (path, name) = (entry.path(), format!("{prefix}{}", entry.file_name().to_string_lossy()));
        if path.is_dir() {
            visit(&path, &format!("{name}/"), sums)?;
            continue;
        }
        let mut hasher = blake3::Hasher::new();
        let file = File::open(&path).map_err(io_error("open", &path))?;
        hasher.update_reader(&file).map_err(io_error("read", &path))?;
        let bytes = file.metadata().map_err(io_error("read the size of", &path))?.len();
        sums.push((name, bytes, *hasher.finalize().as_bytes()));
    }
    Ok(())
}
