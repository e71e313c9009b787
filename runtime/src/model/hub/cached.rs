//! What lies in the cache of the hub.

use std::path::{Path, PathBuf};
use std::{fs, io};

use hf_hub::{Repo, RepoType};

use super::{HubName, INDEX, NEEDED, WEIGHTS, cache};
use crate::error::{Error, Result};
use crate::model::folder::shard_names;
use crate::model::gguf;

/// A revision of a model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedModel {
    /// `organisation/name`.
    pub id: String,
    /// Commit.
    pub commit: String,
    /// Branches and tags that point to it here.
    pub revisions: Vec<String>,
    /// Its files, with their bytes, in the order of their names.
    pub files: Vec<(String, u64)>,
    /// Where they lie.
    pub folder: PathBuf,
}

impl CachedModel {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What can be given to `--model`: the model, or each of its GGUF files; empty for what is not complete.
    pub fn names(&self) -> Vec<HubName> {
        let revision = if self.revisions.iter().any(|revision| revision == "main") {
            None
        } else {
            Some(self.revisions.first().cloned().unwrap_or_else(|| self.commit.clone()))
        };
        let name = |file| HubName { id: self.id.clone(), file, revision: revision.clone() };
        if is_complete(&self.folder) {
            return vec![name(None)];
        }
        let files = self.files.iter().filter(|(file, _)| gguf::is_named(file.as_ref()));
        files.map(|(file, _)| name(Some(file.clone()))).collect()
    }
}

/// Whether a folder has all of a model in safetensors.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has_weights = || {
        let index = folder.join(INDEX);
        let shards = fs::read_to_string(&index).ok().and_then(|text| shard_names(&index, &text).ok());
        shards
            .map_or_else(|| folder.join(WEIGHTS).exists(), |names| names.iter().all(|name| folder.join(name).exists()))
    };
    NEEDED.iter().all(|name| folder.join(name).exists()) && has_weights()
}

/// The models of the cache, by name.
///
/// # Errors
/// [`Error::Read`] if the cache is there and cannot be read.
pub fn cached() -> Result<Vec<CachedModel>> {
    let cache = cache();
    let mut models = Vec::new();
    for (name, folder) in entries(cache.path())? {
        let Some(id) = name.strip_prefix("models--").map(|name| name.replacen("--", "/", 1)) else { continue };
        if !folder.is_dir() {
            continue;
        }
        let refs: Vec<(String, String)> = files_in(&folder.join("refs"))?
            .into_iter()
            .filter_map(|(name, _)| {
                Some((fs::read_to_string(folder.join("refs").join(&name)).ok()?.trim().to_owned(), name))
            })
            .collect();
        for (commit, folder) in entries(&folder.join("snapshots"))? {
            let named = |(to, name): &(String, String)| (*to == commit && *name != commit).then(|| name.clone());
            let revisions = refs.iter().filter_map(named).collect();
            let files = files_in(&folder)?;
            // What was thrown away leaves its folder.
            if files.is_empty() {
                continue;
            }
            models.push(CachedModel { id: id.clone(), commit, revisions, files, folder });
        }
    }
    models.sort_by(|a, b| (&a.id, &a.commit).cmp(&(&b.id, &b.commit)));
    Ok(models)
}

/// Deletes a model from the cache with all its revisions; returns how many bytes it had.
///
/// # Errors
/// [`Error::Hub`] if it is not there.
pub fn remove(name: &HubName) -> Result<u64> {
    let missing = || Error::Hub { id: name.id.clone(), why: "it is not in the cache".into() };
    if name.file.is_some() || name.revision.is_some() {
        let why = "a model is removed as a whole; leave out file and revision".into();
        return Err(Error::Hub { id: name.to_string(), why });
    }
    let folder = cache().path().join(Repo::new(name.id.clone(), RepoType::Model).folder_name());
    if !folder.is_dir() {
        return Err(missing());
    }
    let bytes = files_in(&folder.join("blobs"))?.iter().map(|(_, bytes)| bytes).sum();
    fs::remove_dir_all(&folder).map_err(|source| Error::Read { path: folder, source })?;
    Ok(bytes)
}

/// Entries of a folder by name; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |source| Error::Read { path: folder.into(), source };
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut entries = Vec::new();
    for entry in listed {
        let entry = entry.map_err(failed)?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    entries.sort();
    Ok(entries)
}

/// Files in a folder and below, by their paths in it, with their bytes.
fn files_in(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for (name, path) in entries(folder)? {
        // Links lead to the files; those that lead nowhere are not there.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            files.extend(files_in(&path)?.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            files.push((name, metadata.len()));
        }
    }
    Ok(files)
}
