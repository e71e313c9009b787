//! The profile of the model being served: read from its file, or measured at the first start and kept beside the memories.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mnemon_encoder::{ProbeOptions, ProbeStage, probe};
use mnemon_memory_store::create_scratch;
use mnemon_runtime::{LoadOptions, Model, Profile};

use crate::error::{Error, Result};
use crate::model::model_source;
use crate::settings::Settings;

/// Folder of profiles in the data folder.
const FOLDER: &str = "profiles";

/// Gives a pretrained model its profile: that of `settings`, or the one kept in the data folder, or a new one. Models that
/// were trained with memory need none. Blocks, for minutes at the first start with a model.
pub(crate) fn provide(settings: &Settings, model: Model) -> Result<Model> {
    if model.config().memory.fusion.is_some() {
        return match &settings.profile {
            Some(path) => Err(Error::Settings {
                what: "profile".into(),
                why: format!("{} is given, but the model was trained with memory and needs none", path.display()),
            }),
            None => Ok(model),
        };
    }
    let kept = kept_at(&settings.data, &model);
    let given = settings.profile.clone();
    let found = given.or_else(|| kept.exists().then(|| kept.clone()));
    let (mut model, profile) = if let Some(path) = found {
        let profile = model.read_profile(&path)?;
        tracing::info!(path = %path.display(), "profile read");
        (model, profile)
    } else {
        tracing::info!("this model has no profile yet: it is measured now, once; this takes minutes");
        let model = Arc::new(model);
        let options = ProbeOptions { kv_dtype: model.geometry().dtype, ..ProbeOptions::default() };
        let profile = probe(create_scratch, &model, &options, &mut progress())?;
        match profile.write(&kept) {
            Ok(()) => tracing::info!(path = %kept.display(), "profile written"),
            Err(error) => tracing::warn!(%error, "the profile is not kept: the next start measures again"),
        }
        let model = Arc::into_inner(model).ok_or(Error::Internal { part: "the probe, which kept the model" })?;
        (model, profile)
    };
    let heads: Vec<String> =
        profile.search.iter().map(|head| format!("{}.{}", head.query.layer, head.query.head)).collect();
    tracing::info!(
        search_heads = heads.join(" "),
        passages = profile.passages,
        mode = ?profile.mode,
        found = profile.measured.found,
        "memory of a pretrained model"
    );
    model.set_profile(profile)?;
    Ok(model)
}

/// Measures a model without serving it; returns its name and its profile. Blocks for minutes.
///
/// # Errors
/// What loading a model and measuring it may fail with.
pub fn make_profile(
    model: &str,
    device: &str,
    seed: u64,
    mut progress: impl FnMut(ProbeStage),
) -> Result<(String, Profile)> {
    let source = model_source(model)?;
    let options = LoadOptions { device: device.parse()?, ..LoadOptions::default() };
    let model = Arc::new(Model::load(&source, &options)?);
    let options = ProbeOptions { seed, ..ProbeOptions::default() };
    let profile = probe(create_scratch, &model, &options, &mut progress)?;
    Ok((model.name().to_owned(), profile))
}

/// Where the profile of a model is kept in a data folder.
fn kept_at(data: &Path, model: &Model) -> PathBuf {
    data.join(FOLDER).join(format!("{}.json", model.base_fingerprint().to_hex()))
}

/// Tells the log about every tenth of each stage.
fn progress() -> impl FnMut(ProbeStage) {
    let mut last = ("", 0);
    move |stage| {
        let (name, done, total) = match stage {
            ProbeStage::Reading(done, total) => ("reading text", done, total),
            ProbeStage::Asking(done, total) => ("looking for heads that retrieve", done, total),
            ProbeStage::Answering(done, total) => ("trying answers", done, total),
        };
        let tenth = (10 * done / total.max(1), name);
        if (tenth.1, tenth.0) != last {
            last = (tenth.1, tenth.0);
            tracing::info!("profile: {name}, {} %", 10 * tenth.0);
        }
    }
}
