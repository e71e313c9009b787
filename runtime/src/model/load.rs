//! Loading a model.

use std::path::Path;
use std::sync::OnceLock;

use candle_core::{DType, Device};
use mnemon_memory::{Invalid, KvDtype, KvGeometry};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::folder::Folder;
use super::forward::Decoder;
use super::gguf::Gguf;
use super::weights::Weights;
use super::{LoadOptions, Model, ModelInfo, ModelSource, adapter, fingerprint, hub};
use crate::attention::prefixes::Prefixes;
use crate::chat::{ChatTemplate, Shield, special_tokens};
use crate::config::parse::token_ids;
use crate::config::{ModelConfig, PositionEncoding, memory};
use crate::error::{Error, Result};
use crate::position::alibi_slopes;
use crate::rotary::Rotary;

/// What the files of a model hold; the tensors are read later.
struct Opened {
    name: String,
    config: ModelConfig,
    weights: Weights,
    /// Text of `tokenizer.json`.
    tokenizer_text: String,
    tokenizer: Tokenizer,
    chat_template: Option<Result<ChatTemplate>>,
}

pub(super) fn load(source: &ModelSource, options: &LoadOptions) -> Result<Model> {
    let device = options.device.open()?;
    let dtype = dtype(options, &device)?;
    let opened = open(source, &device, dtype)?;
    let Opened { name, mut config, mut weights, tokenizer_text, tokenizer, chat_template } = opened;
    if let Some(path) = &options.memory_adapter {
        adapter::apply(path, &mut weights, &mut config)?;
    }
    apply(&mut config, options)?;
    let shield = Shield::new(&tokenizer)?;
    let chat_template = match chat_template {
        None => Err("the model has none; give a prompt instead of messages".to_owned()),
        Some(Ok(template)) => {
            config.eos_tokens.extend(template.end_of_answer(&tokenizer));
            Ok(template)
        }
        // A prompt can be continued without it.
        Some(Err(error)) => {
            tracing::warn!(name, %error, "the chat template cannot be used: messages are refused");
            Err(error.to_string())
        }
    };
    config.eos_tokens.sort_unstable();
    config.eos_tokens.dedup();
    let kv_heads = config.kv_heads as u32;
    let geometry = KvGeometry {
        layers: config.memory.layers.clone(),
        key_heads: match &options.key_heads {
            Some(chosen) => memory::checked_key_heads(chosen.clone(), config.layers, kv_heads)?,
            None => KvGeometry::all_key_heads(&config.memory.layers, kv_heads),
        },
        kv_heads,
        head_dim: config.head_dim as u32,
        dtype: options.kv_dtype.unwrap_or(KvDtype::Int8),
        chunk_tokens: config.memory.chunk_tokens,
        entry_policy: config.memory.entry_policy,
    };
    geometry.validate()?;
    let decoder = Decoder::load(&mut weights, &config)?;
    if let Some((path, name)) = options.memory_adapter.as_ref().and_then(|path| Some((path, weights.unread(path)?))) {
        let why = format!("{} has a tensor '{name}', which belongs to nothing in this model", path.display());
        return Err(Error::Invalid(Invalid { what: "memory adapter", why }));
    }
    let rotary = match config.positions {
        PositionEncoding::Rotary(rope) => Rotary::new(rope, config.head_dim),
        PositionEncoding::Sinusoidal | PositionEncoding::Alibi => Rotary::none(config.head_dim),
    };
    let slopes = (config.positions == PositionEncoding::Alibi).then(|| alibi_slopes(config.heads));
    let base = fingerprint::base(weights.digests(), &tokenizer_text, &config);
    let fingerprint = fingerprint::with_geometry(&base, &geometry);
    let parameters = weights.parameters();
    tracing::info!(name, parameters, %fingerprint, ?device, ?dtype, "model loaded");
    Ok(Model {
        name,
        config,
        geometry,
        base,
        fingerprint,
        profile: None,
        terms: OnceLock::new(),
        prefixes: Prefixes::default(),
        parameters,
        tokenizer,
        chat_template,
        shield,
        device,
        rotary,
        slopes,
        decoder,
    })
}

/// Reads all of a model but its tensors.
fn open(source: &ModelSource, device: &Device, dtype: DType) -> Result<Opened> {
    match source {
        ModelSource::Directory(path) => {
            if !path.is_dir() {
                return Err(Error::MissingFile { path: path.clone(), advice: "give the folder of a model".into() });
            }
            from_folder(&Folder::Directory(path.clone()), folder_name(path), device, dtype)
        }
        ModelSource::Hub(name) => match hub::source(name)? {
            ModelSource::Directory(path) => from_folder(&Folder::Directory(path), name.id.clone(), device, dtype),
            file => open(&file, device, dtype),
        },
        ModelSource::Gguf(path) => from_gguf(path, device, dtype),
        ModelSource::Embedded => from_folder(&Folder::Embedded, "mnemon-default".into(), device, dtype),
    }
}

/// What a model is, without its tensors.
pub(super) fn inspect(source: &ModelSource) -> Result<ModelInfo> {
    let Opened { name, config, chat_template, .. } = open(source, &Device::Cpu, DType::F32)?;
    let chat_template = match chat_template {
        None => None,
        Some(Ok(_)) => Some(Ok(())),
        Some(Err(error)) => Some(Err(error.to_string())),
    };
    Ok(ModelInfo { name, config, chat_template })
}

fn from_folder(folder: &Folder, name: String, device: &Device, dtype: DType) -> Result<Opened> {
    let mut config = ModelConfig::parse(&folder.needed("config.json")?)?;
    let weights = folder.weights(&name, device, dtype)?;
    let tokenizer_text = folder.needed("tokenizer.json")?;
    let tokenizer = tokenizer(&folder.path("tokenizer.json"), &tokenizer_text, config.vocab_size)?;
    if let Some(generation) = json(folder, "generation_config.json")? {
        let more = token_ids("eos_token_id", generation.get("eos_token_id"))?;
        config.eos_tokens.extend(more);
    }
    let settings = json(folder, "tokenizer_config.json")?;
    let chat_template = ChatTemplate::find(folder.optional("chat_template.jinja")?.as_deref(), settings.as_ref());
    let eos_token = settings.as_ref().and_then(|settings| special_tokens(settings).remove("eos_token"));
    config.eos_tokens.extend(eos_token.and_then(|token| tokenizer.token_to_id(token.as_str()?)));
    Ok(Opened { name, config, weights, tokenizer_text, tokenizer, chat_template })
}

fn from_gguf(path: &Path, device: &Device, dtype: DType) -> Result<Opened> {
    let gguf = Gguf::open(path)?;
    let mut shard = gguf.shard()?;
    let config = gguf.config(&mut shard)?;
    let name = path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned());
    let tokenizer_text = gguf.tokenizer()?;
    let tokenizer = tokenizer(path, &tokenizer_text, config.vocab_size)?;
    let chat_template = gguf.chat_template()?;
    let weights = Weights::new(vec![shard], &name, device, dtype);
    Ok(Opened { name, config, weights, tokenizer_text, tokenizer, chat_template })
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
        config.memory.layers = match (&layers[..], &options.key_heads) {
            ([], Some(_)) => Vec::new(),
            _ => memory::checked_layers(layers.clone(), config.layers)?,
        };
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
        Some(other) => Err(Error::Invalid(Invalid { what: "dtype", why: format!("{other:?}; f32, f16 or bf16") })),
    }
}

fn tokenizer(path: &Path, text: &str, vocab_size: usize) -> Result<Tokenizer> {
    let failed = |why: String| Error::Damaged { path: path.into(), why };
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
