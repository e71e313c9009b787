//! Which model is loaded, and how; memories that are made for it.

use mnemon_memory_store::MemorySpec;
use mnemon_runtime::{DeviceChoice, LoadOptions, Model, ModelSource, RecallMode};

use crate::error::{Error, Result};
use crate::settings::{EMBEDDED_MODEL, Settings};

/// Where the model named `model` comes from.
pub(crate) fn model_source(model: &str) -> Result<ModelSource> {
    Ok(if model == EMBEDDED_MODEL { ModelSource::Embedded } else { ModelSource::parse(model)? })
}

/// How it is loaded.
pub(crate) fn load_options(settings: &Settings) -> Result<LoadOptions> {
    let device: DeviceChoice = settings.device.parse()?;
    let wrong =
        |error: mnemon_memory::Invalid| Error::Settings { what: "shape of memories".into(), why: error.to_string() };
    Ok(LoadOptions {
        device,
        window: settings.window.map(|tokens| tokens as usize),
        memory_adapter: settings.memory_adapter.clone(),
        chunk_tokens: settings.chunk_tokens,
        entry_policy: settings.entry_policy.as_deref().map(str::parse).transpose().map_err(wrong)?,
        kv_dtype: settings.kv_dtype.as_deref().map(str::parse).transpose().map_err(wrong)?,
        ..LoadOptions::default()
    })
}

/// What memories of `model` are made for: what passages need that are used in this way, or in the way of the model's profile.
pub(crate) fn spec_of(model: &Model, mode: Option<RecallMode>) -> MemorySpec {
    let preferred = || model.profile().map_or(RecallMode::Attend, |profile| profile.mode_of_memories());
    let mode = mode.unwrap_or_else(preferred);
    let geometry = model.geometry_for(mode);
    MemorySpec {
        fingerprint: model.fingerprint_for(&geometry),
        geometry,
        model_name: shortened(model.name()),
        description: String::new(),
    }
}

/// At most 256 bytes of a model's name.
fn shortened(name: &str) -> String {
    let end = (0..=name.len().min(256)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    name[..end].to_owned()
}
