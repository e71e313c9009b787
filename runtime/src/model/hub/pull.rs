//! Downloading a model of the hub, and finding it in the cache.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Repo, RepoType};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::cached::{cached, is_complete};
use super::{CachedModel, HubName, INDEX, NEEDED, OPTIONAL, WEIGHTS, cache};
use crate::error::{Error, Result};
use crate::model::folder::shard_names;
use crate::model::{ModelSource, gguf};

/// How often a download goes on where it was cut before it is given up, and how much longer it waits each time.
const RETRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(200);
/// Most GGUF files that an error lists.
const LISTED: usize = 12;

/// What a download is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulling<'a> {
    /// A file begins, or goes on where it was cut.
    Begins {
        /// Its name.
        file: &'a str,
        /// Its bytes.
        bytes: u64,
    },
    /// So many bytes of it have come, those of an earlier download included.
    Came(u64),
    /// It is read again, and compared with the checksum that the hub has.
    Verifying,
}

/// Downloads what is missing of a model, at the commit to which its revision points now, and verifies each file. What was cut goes on
/// where it ended. The cache points to the new commit once all of it is there.
///
/// # Errors
/// [`Error::Hub`] if it cannot be reached or has no such model or file, with the names of the files that could have been meant; and if
/// bytes are not those that the hub names: that file is thrown away.
pub fn pull(name: &HubName, mut progress: impl FnMut(Pulling<'_>)) -> Result<CachedModel> {
    let failed = |why: String| Error::Hub { id: name.to_string(), why };
    if is_offline() {
        return Err(failed("HF_HUB_OFFLINE is set".into()));
    }
    let api = ApiBuilder::from_env()
        .with_progress(false)
        .with_cache_dir(cache().path().clone())
        .with_token(token())
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let at = |revision: &str| Repo::with_revision(name.id.clone(), RepoType::Model, revision.into());
    let info = api.repo(at(name.revision())).info().map_err(|error| failed(error.to_string()))?;
    let commit = info.sha;
    if commit.is_empty() || !commit.chars().all(|sign| sign.is_ascii_hexdigit()) {
        return Err(failed(format!("the hub names the commit '{}'", commit.escape_debug())));
    }
    // No name leads out of the folder.
    let is_within =
        |file: &String| file.split('/').all(|part| !matches!(part, "" | "." | "..")) && !file.contains('\\');
    let files: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).filter(is_within).collect();
    let download = Download {
        name,
        repo: api.repo(at(&commit)),
        folder: cache().path().join(at(&commit).folder_name()).join("snapshots").join(&commit),
    };
    let mut fetch = |file: &str| download.fetch(file, &mut progress);
    match choose(name, &files)? {
        Chosen::Gguf(file) => {
            fetch(&file)?;
        }
        Chosen::Folder => {
            let has = |file: &&&str| files.iter().any(|one| one == **file);
            for file in NEEDED.iter().chain(OPTIONAL.iter().filter(has)) {
                fetch(file)?;
            }
            if files.iter().any(|file| file == WEIGHTS) {
                fetch(WEIGHTS)?;
            } else {
                let index = fetch(INDEX)?;
                let text = fs::read_to_string(&index).map_err(|source| Error::Read { path: index.clone(), source })?;
                for shard in shard_names(&index, &text)? {
                    fetch(&shard)?;
                }
            }
        }
    }
    let refers = cache().repo(at(name.revision())).create_ref(&commit);
    refers.map_err(|source| Error::Read { path: cache().path().clone(), source })?;
    cached()?
        .into_iter()
        .find(|model| model.id == name.id && model.commit == commit)
        .ok_or_else(|| failed("it is not in the cache after the download".into()))
}

/// Files of a model to download.
#[derive(Debug, PartialEq, Eq)]
enum Chosen {
    Folder,
    Gguf(String),
}

/// What is meant of the files that the hub has.
fn choose(name: &HubName, files: &[String]) -> Result<Chosen> {
    let failed = |why: String| Error::Hub { id: name.to_string(), why };
    let gguf: Vec<&String> = files.iter().filter(|file| gguf::is_named(file.as_ref())).collect();
    let listed = || {
        let more = if gguf.len() > LISTED { ", ..." } else { "" };
        let names: Vec<String> = gguf.iter().take(LISTED).map(|file| format!("{}:{file}", name.id)).collect();
        format!("{}{more}", names.join(", "))
    };
    let Some(wanted) = &name.file else {
        let has = |file: &str| files.iter().any(|one| one == file);
        return match gguf[..] {
            _ if has(NEEDED[0]) && (has(WEIGHTS) || has(INDEX)) => Ok(Chosen::Folder),
            [] => Err(failed("it has neither config.json with safetensors nor a GGUF file".into())),
            [file] => Ok(Chosen::Gguf(file.clone())),
            _ => Err(failed(format!("it has several GGUF files; name one: {}", listed()))),
        };
    };
    let small = wanted.to_lowercase();
    let exact = gguf.iter().copied().find(|file| *file == wanted);
    let part: Vec<&String> = gguf.iter().copied().filter(|file| file.to_lowercase().contains(&small)).collect();
    match (exact, &part[..]) {
        (Some(file), _) | (None, &[file]) => Ok(Chosen::Gguf(file.clone())),
        (None, []) if gguf.is_empty() => Err(failed("it has no GGUF file; leave out what stands after ':'".into())),
        (None, []) => Err(failed(format!("it has no such file; name one: {}", listed()))),
        (None, _) => Err(failed(format!("more than one file has '{wanted}' in its name; name one: {}", listed()))),
    }
}

struct Download<'a> {
    name: &'a HubName,
    repo: ApiRepo,
    /// Where the files of the commit lie.
    folder: PathBuf,
}

impl Download<'_> {
    /// Downloads and verifies a file, unless it is there; where it lies.
    fn fetch(&self, file: &str, progress: &mut impl FnMut(Pulling<'_>)) -> Result<PathBuf> {
        let failed = |why: String| Error::Hub { id: self.name.to_string(), why: format!("{file}: {why}") };
        let mut path = self.folder.join(file);
        let mut tries = 0;
        while !path.exists() {
            let mut told = Told { progress: &mut *progress, came: 0 };
            match self.repo.download_with_progress(file, &mut told) {
                Ok(downloaded) => path = downloaded,
                Err(error) if tries == RETRIES => return Err(failed(error.to_string())),
                // What has come is kept.
                Err(error) => tracing::debug!(%error, file, "cut"),
            }
            tries += 1;
            std::thread::sleep(if path.exists() { Duration::ZERO } else { WAIT * tries });
        }
        progress(Pulling::Verifying);
        let blob = fs::canonicalize(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let checksum = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let found = digest(&blob, &checksum).map_err(|source| Error::Read { path: blob.clone(), source })?;
        if found.is_none() {
            tracing::warn!(file, checksum, "the hub has no checksum of this file that is known here");
        }
        if found.is_some_and(|found| found != checksum) {
            let gone =
                fs::remove_file(&path).and_then(|()| if blob.exists() { fs::remove_file(&blob) } else { Ok(()) });
            gone.map_err(|source| Error::Read { path: blob, source })?;
            return Err(failed("its bytes are not those that the hub names, and were thrown away; pull again".into()));
        }
        Ok(path)
    }
}

/// The digest of a file in the way of its checksum: SHA-256 for large files, for others that of git; none for another checksum.
fn digest(path: &Path, checksum: &str) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    Ok(match checksum.len() {
        64 => Some(digest_with(&mut file, Sha256::new())?),
        40 => {
            let header = format!("blob {}\0", file.metadata()?.len());
            Some(digest_with(&mut file, Sha1::new_with_prefix(header))?)
        }
        _ => None,
    })
}

fn digest_with<D: Digest>(file: &mut File, mut digest: D) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    let mut written = String::new();
    for byte in digest.finalize() {
        let _ = write!(written, "{byte:02x}");
    }
    Ok(written)
}

/// Tells what comes of a file.
struct Told<'a, F> {
    progress: &'a mut F,
    came: u64,
}

impl<F: FnMut(Pulling<'_>)> Progress for &mut Told<'_, F> {
    fn init(&mut self, size: usize, filename: &str) {
        self.came = 0;
        (self.progress)(Pulling::Begins { file: filename, bytes: size as u64 });
    }

    fn update(&mut self, size: usize) {
        self.came += size as u64;
        (self.progress)(Pulling::Came(self.came));
    }

    fn finish(&mut self) {}
}

/// A model of the hub: from the cache if it is there, or else downloaded.
pub(in crate::model) fn source(name: &HubName) -> Result<ModelSource> {
    if let Some(source) = in_cache(name)? {
        return Ok(source);
    }
    if is_offline() {
        return Err(Error::Hub {
            id: name.to_string(),
            why: "it is not in the cache, and HF_HUB_OFFLINE is set".into(),
        });
    }
    pull(name, |stage| {
        if let Pulling::Begins { file, bytes } = stage {
            tracing::info!(model = %name, file, bytes, "downloading");
        }
    })?;
    in_cache(name)?
        .ok_or_else(|| Error::Hub { id: name.to_string(), why: "it is not in the cache after the download".into() })
}

/// A model as it lies in the cache.
fn in_cache(name: &HubName) -> Result<Option<ModelSource>> {
    let is_meant = |model: &CachedModel| {
        let revision = name.revision();
        model.id == name.id && (model.commit == revision || model.revisions.iter().any(|one| one == revision))
    };
    let Some(model) = cached()?.into_iter().find(is_meant) else { return Ok(None) };
    if name.file.is_none() && is_complete(&model.folder) {
        return Ok(Some(ModelSource::Directory(model.folder)));
    }
    let files: Vec<String> = model.files.iter().map(|(file, _)| file.clone()).collect();
    Ok(match choose(name, &files) {
        Ok(Chosen::Gguf(file)) => Some(ModelSource::Gguf(model.folder.join(file))),
        _ => None,
    })
}

fn is_offline() -> bool {
    let is_on = |value: String| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
    std::env::var("HF_HUB_OFFLINE").is_ok_and(is_on)
}

/// The user's token, for models that ask for one: of the environment, or of the file that the hub's own tools write.
fn token() -> Option<String> {
    let given = std::env::var("HF_TOKEN").ok().filter(|token| !token.trim().is_empty());
    given.map(|token| token.trim().to_owned()).or_else(|| cache().token())
}

/// Whether all of a model is in the cache.
///
/// # Errors
/// [`Error::Read`] if the cache is there and cannot be read.
pub fn is_here(name: &HubName) -> Result<bool> {
    Ok(in_cache(name)?.is_some())
}
