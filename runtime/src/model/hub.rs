//! Models of the Hugging Face hub, through its usual cache (`HF_HOME`).

use std::path::PathBuf;

use hf_hub::{Cache, Repo, RepoType, api::sync::ApiBuilder};

use super::folder::shard_names;
use crate::{Error, Result};

const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The folder of a model in the cache; what is missing there is downloaded. With `HF_HUB_OFFLINE` set, or with all
/// needed files in the cache, the network is not used.
pub(super) fn folder(id: &str, revision: Option<&str>) -> Result<PathBuf> {
    let revision = revision.unwrap_or("main");
    let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
    let cached = Cache::from_env().repo(repo.clone());
    if let Some(config) = cached.get(NEEDED[0]) {
        let folder = config.parent().map(PathBuf::from).unwrap_or_default();
        if NEEDED.iter().all(|name| folder.join(name).exists())
            && (folder.join(WEIGHTS).exists() || folder.join(INDEX).exists())
        {
            return complete(id, folder, |name| download(id, &repo, name));
        }
    }
    for name in NEEDED {
        download(id, &repo, name)?;
    }
    for name in OPTIONAL {
        // Many models lack one of these, and the loader can do without.
        if let Err(error) = download(id, &repo, name) {
            tracing::debug!(%error, name, "optional file left out");
        }
    }
    if download(id, &repo, WEIGHTS).is_err() {
        download(id, &repo, INDEX)?;
    }
    let config = download(id, &repo, NEEDED[0])?;
    let folder = config.parent().map(PathBuf::from).unwrap_or_default();
    complete(id, folder, |name| download(id, &repo, name))
}

/// Sees to the shards.
fn complete(id: &str, folder: PathBuf, download: impl Fn(&str) -> Result<PathBuf>) -> Result<PathBuf> {
    if folder.join(WEIGHTS).exists() {
        return Ok(folder);
    }
    let index = folder.join(INDEX);
    let text = std::fs::read_to_string(&index).map_err(|source| Error::Read { path: index.clone(), source })?;
    for name in shard_names(&index, &text)? {
        if !folder.join(&name).exists() {
            tracing::info!(id, name, "downloading");
            download(&name)?;
        }
    }
    Ok(folder)
}

fn download(id: &str, repo: &Repo, name: &str) -> Result<PathBuf> {
    let failed = |why: String| Error::Hub { id: id.into(), why: format!("{name}: {why}") };
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !value.is_empty() && value != "0");
    if offline {
        return Cache::from_env()
            .repo(repo.clone())
            .get(name)
            .ok_or_else(|| failed("not in the cache, and HF_HUB_OFFLINE is set".into()));
    }
    let api = ApiBuilder::from_env().with_progress(false).build().map_err(|error| failed(error.to_string()))?;
    api.repo(repo.clone()).get(name).map_err(|error| failed(error.to_string()))
}
