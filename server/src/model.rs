//! Which model is loaded, and how: settings to the runtime's words.

use mnemon_runtime::{DeviceChoice, LoadOptions, ModelSource};

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
