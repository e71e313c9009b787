//! Loading a model.

use std::path::Path;

use candle_core::{DType, Device};
use mnemon_memory_store::{KvDtype, KvGeometry};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    LoadOptions, Model, ModelSource, adapter, fingerprint::fingerprint, folder::Folder, forward::Decoder, hub,
};
use crate::{
    ChatTemplate, Error, ModelConfig, PositionEncoding, Result, Rotary,
    config::{memory, parse::token_ids},
    position::alibi_slopes,
};

pub(super) fn load(source: &ModelSource, options: &LoadOptions) -> Result<Model> {
    let (folder, name) = match source {
        ModelSource::Directory(path) => {
            if !path.is_dir() {
                return Err(Error::MissingFile { path: path.clone(), advice: "give the folder of a model".into() });
            }
            (Folder::Directory(path.clone()), folder_name(path))
        }
        ModelSource::Hub { id, revision } => (Folder::Directory(hub::folder(id, revision.as_deref())?), id.clone()),
        ModelSource::Embedded => (Folder::Embedded, "mnemon-default".into()),
    };
    let mut config = ModelConfig::parse(&folder.needed("config.json")?)?;
    let device = options.device.open()?;
    let dtype = dtype(options, &device)?;
    let mut weights = folder.weights(&name, &device, dtype)?;
    if let Some(path) = &options.memory_adapter {
        adapter::apply(path, &mut weights, &mut config)?;
    }
    apply(&mut config, options)?;
    let geometry = KvGeometry {
        layers: config.memory.layers.clone(),
        kv_heads: config.kv_heads as u32,
        head_dim: config.head_dim as u32,
        dtype: options.kv_dtype.unwrap_or(KvDtype::Int8),
        chunk_tokens: config.memory.chunk_tokens,
        entry_policy: config.memory.entry_policy,
    };
    geometry.validate()?;
    let tokenizer_text = folder.needed("tokenizer.json")?;
    let tokenizer = tokenizer(&folder, &tokenizer_text, config.vocab_size)?;
    if let Some(generation) = json(&folder, "generation_config.json")? {
        let more = token_ids("eos_token_id", generation.get("eos_token_id"))?;
        config.eos_tokens.extend(more);
        config.eos_tokens.sort_unstable();
        config.eos_tokens.dedup();
    }
    let settings = json(&folder, "tokenizer_config.json")?;
    let chat_template = ChatTemplate::find(folder.optional("chat_template.jinja")?, settings.as_ref())?;
    let decoder = Decoder::load(&mut weights, &config)?;
    if let Some((path, name)) = options.memory_adapter.as_ref().and_then(|path| Some((path, weights.unread(path)?))) {
        let why = format!("{} has a tensor '{name}', which belongs to nothing in this model", path.display());
        return Err(Error::Invalid { what: "memory adapter", why });
    }
    let rotary = match config.positions {
        PositionEncoding::Rotary(rope) => Rotary::new(rope, config.head_dim),
        PositionEncoding::Sinusoidal | PositionEncoding::Alibi => Rotary::none(config.head_dim),
    };
    let slopes = (config.positions == PositionEncoding::Alibi).then(|| alibi_slopes(config.heads));
    let fingerprint = fingerprint(weights.digests(), &tokenizer_text, &config, &geometry);
    let parameters = weights.parameters();
    tracing::info!(name, parameters, %fingerprint, ?device, ?dtype, "model loaded");
    Ok(Model {
        name,
        config,
        geometry,
        fingerprint,
        parameters,
        tokenizer,
        chat_template,
        device,
        rotary,
        slopes,
        decoder,
    })
}

fn folder_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.into());
    full.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Puts the caller's wishes over the model's own settings.
fn apply(config: &mut ModelConfig, options: &LoadOptions) -> Result<()> {
    if let Some(window) = options.window {
        config.memory.window = memory::checked_window(window)?;
        for sliding in &mut config.sliding_windows {
            *sliding = sliding.filter(|&sliding| sliding >= window);
        }
    }
    if let Some(sinks) = options.sinks {
        config.memory.sinks = memory::checked_sinks(sinks)?;
    }
    if let Some(layers) = &options.memory_layers {
        config.memory.layers = memory::checked_layers(layers.clone(), config.layers)?;
    }
    if let Some(chunk_tokens) = options.chunk_tokens {
        config.memory.chunk_tokens = chunk_tokens;
    }
    if let Some(policy) = options.entry_policy {
        config.memory.entry_policy = policy;
    }
    Ok(())
}

fn dtype(options: &LoadOptions, device: &Device) -> Result<DType> {
    match options.dtype {
        None => Ok(if device.is_cpu() { DType::F32 } else { DType::BF16 }),
        Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(dtype),
        Some(other) => Err(Error::Invalid { what: "dtype", why: format!("{other:?}; f32, f16 or bf16") }),
    }
}

fn tokenizer(folder: &Folder, text: &str, vocab_size: usize) -> Result<Tokenizer> {
    let failed = |why: String| Error::Damaged { path: folder.path("tokenizer.json"), why };
    let mut tokenizer = Tokenizer::from_bytes(text.as_bytes()).map_err(|error| failed(error.to_string()))?;
    // Texts are cut by their readers, never silently by the tokenizer.
    tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
    tokenizer.with_padding(None);
    let largest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
    if largest as usize >= vocab_size {
        return Err(Error::Tokenizer {
            why: format!(
                "it has token {largest}, but the model's vocab_size is {vocab_size}; they do not belong together"
            ),
        });
    }
    Ok(tokenizer)
}

fn json(folder: &Folder, name: &str) -> Result<Option<Value>> {
    let Some(text) = folder.optional(name)? else { return Ok(None) };
    let value = serde_json::from_str(&text);
    value.map(Some).map_err(|error| Error::Damaged { path: folder.path(name), why: error.to_string() })
}
