//! GGUF: a model in one file, weights in blocks of few bits, tokenizer and chat template in the metadata.
//!
//! | module | idea |
//! |---|---|
//! | `reader` | the header, bounded |
//! | `metadata` | values by key; files that hold no language model |
//! | `config` | metadata to a [`ModelConfig`](crate::ModelConfig) |
//! | `tensors` | names, types and order of rows, as Hugging Face has them |
//! | `tokenizer` | metadata to the text of a `tokenizer.json` |

mod config;
mod metadata;
mod reader;
mod tensors;
mod tokenizer;

use std::path::{Path, PathBuf};

pub(super) use metadata::Gguf;

/// Whether a path is named like a GGUF file.
pub(super) fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The one GGUF file of a folder without `config.json`.
pub(super) fn only_file(folder: &Path) -> Option<PathBuf> {
    if folder.join("config.json").exists() {
        return None;
    }
    let mut files = files(folder);
    files.next().filter(|_| files.next().is_none())
}

/// The GGUF files of a folder.
pub(super) fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| is_named(path))
}
