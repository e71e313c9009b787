//! The files of a model, in a folder or built into the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::Deserialize;

use super::shard::refuse_pointer;
use super::weights::Weights;
use crate::error::{Error, Result};

/// Longest text file that is read: tokenizers of large vocabularies have some tens of megabytes.
const TEXT_BYTES_MAX: u64 = 256 << 20;
/// Most weight files of one model.
const SHARDS_MAX: usize = 4096;

/// The default model.
mod embedded {
    macro_rules! file {
        ($name:literal) => {
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/default/", $name))
        };
    }
    pub(super) const WEIGHTS: &[u8] = file!("model.safetensors");
    pub(super) const TEXTS: &[(&str, &[u8])] = &[
        ("config.json", file!("config.json")),
        ("tokenizer.json", file!("tokenizer.json")),
        ("tokenizer_config.json", file!("tokenizer_config.json")),
        ("generation_config.json", file!("generation_config.json")),
    ];
}

/// Where the files of a model lie.
pub(super) enum Folder {
    /// A folder in the layout of the Hugging Face hub.
    Directory(PathBuf),
    /// The program itself.
    Embedded,
}

impl Folder {
    /// A text file that the model cannot do without.
    pub(super) fn needed(&self, name: &str) -> Result<String> {
        self.optional(name)?.ok_or_else(|| Error::MissingFile { path: self.path(name), advice: self.advice().into() })
    }

    /// What a folder without a needed file should have.
    fn advice(&self) -> &'static str {
        let gguf_files = match self {
            Self::Directory(folder) => super::gguf::files(folder).take(2).count(),
            Self::Embedded => 0,
        };
        match gguf_files {
            0 => "a model folder needs config.json, tokenizer.json and model.safetensors (or its shards)",
            1 => "to load the .gguf file of this folder, give its path",
            _ => "this folder has several .gguf files: give the path of one",
        }
    }

    /// A text file that not every model has.
    pub(super) fn optional(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        let bytes = match self {
            Self::Embedded => embedded::TEXTS.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.to_vec()),
            Self::Directory(_) => read(&path)?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| Error::Damaged { path, why: "it is not UTF-8 text".into() })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Directory(folder) => folder.join(name),
            Self::Embedded => Path::new("(built in)").join(name),
        }
    }

    /// The weights: `model.safetensors`, or the files named by `model.safetensors.index.json`.
    pub(super) fn weights(&self, model: &str, device: &Device, dtype: DType) -> Result<Weights> {
        let folder = match self {
            Self::Embedded => return Weights::embedded(embedded::WEIGHTS, model, device, dtype),
            Self::Directory(folder) => folder,
        };
        let single = folder.join("model.safetensors");
        let paths = if single.exists() {
            vec![single]
        } else if let Some(index) = self.optional("model.safetensors.index.json")? {
            shards(folder, &index)?
        } else {
            let advice = if folder.join("pytorch_model.bin").exists() {
                "only pytorch_model.bin is there: convert the weights to safetensors"
            } else {
                "download the weights (one file, or the shards and model.safetensors.index.json)"
            };
            return Err(Error::MissingFile { path: single, advice: advice.into() });
        };
        Weights::open(&paths, model, device, dtype)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let read_error = |source| Error::Read { path: path.into(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(error)),
        Ok(metadata) if metadata.len() > TEXT_BYTES_MAX => {
            let why = format!("{} bytes, at most {TEXT_BYTES_MAX} are read", metadata.len());
            return Err(Error::Damaged { path: path.into(), why });
        }
        Ok(_) => refuse_pointer(path)?,
    }
    fs::read(path).map(Some).map_err(read_error)
}

/// File names of an index, which say where each tensor lies.
pub(super) fn shard_names(path: &Path, index: &str) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::HashMap<String, String>,
    }
    let damaged = |why: String| Error::Damaged { path: path.into(), why };
    let index: Index = serde_json::from_str(index).map_err(|error| damaged(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() || names.len() > SHARDS_MAX {
        return Err(damaged(format!("{} weight files; 1 to {SHARDS_MAX} are accepted", names.len())));
    }
    // An index must not make the loader read outside of the model's folder.
    let outside =
        |name: &&String| !name.ends_with(".safetensors") || name.contains(['/', '\\', ':']) || name.starts_with('.');
    match names.iter().find(outside) {
        Some(name) => Err(damaged(format!("'{name}' is not the name of a safetensors file"))),
        None => Ok(names),
    }
}

fn shards(folder: &Path, index: &str) -> Result<Vec<PathBuf>> {
    let names = shard_names(&folder.join("model.safetensors.index.json"), index)?;
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        Some(path) => Err(Error::MissingFile {
            path: path.clone(),
            advice: "model.safetensors.index.json names it: download the missing shard".into(),
        }),
        None => Ok(paths),
    }
}
