//! Memory adapters: memory parameters for a pretrained model that has none, in a safetensors file of their own.
//!
//! The file's metadata has the key `mnemon_adapter`, a JSON object: `version` (1), the shape of the model that it was
//! made for (`model_type`, `hidden_size`, `layers`, `heads`, `kv_heads`, `head_dim`), and how memory is used
//! (`memory_layers`, `fusion`, `window`). Its tensors are, for each memory layer N,
//! `model.layers.N.self_attn.memory_scale` and `memory_bias`, and `memory_gate` for the fusion `gate`, all `[heads]`. For any
//! weight `X.weight` `[rows, columns]` of the model there may be `X.lora_A` `[rank, columns]` and `X.lora_B` `[rows, rank]`:
//! their product `B A` is added to it (arXiv 2106.09685, section 4.1, with alpha / rank in B).

use std::path::Path;

use mnemon_memory::Invalid;
use serde::Deserialize;

use super::weights::Weights;
use crate::config::{Fusion, ModelConfig, memory};
use crate::error::{Error, Result};

/// Key of the file's metadata.
const KEY: &str = "mnemon_adapter";
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct About {
    version: u32,
    model_type: String,
    hidden_size: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    memory_layers: Vec<u32>,
    fusion: String,
    window: usize,
}

/// Adds the adapter's tensors to the model's and puts its settings over the configuration's.
pub(super) fn apply(path: &Path, weights: &mut Weights, config: &mut ModelConfig) -> Result<()> {
    let damaged = |why: String| Error::Damaged { path: path.into(), why };
    let unfit = |why: String| Error::Invalid(Invalid { what: "memory adapter", why });
    let metadata = weights.add(path)?;
    let about =
        metadata.get(KEY).ok_or_else(|| damaged(format!("its metadata has no '{KEY}': this is no memory adapter")))?;
    let about: About = serde_json::from_str(about).map_err(|error| damaged(format!("its '{KEY}': {error}")))?;
    if about.version != VERSION {
        return Err(unfit(format!("it has version {}; this program reads version {VERSION}", about.version)));
    }
    let family = format!("{:?}", config.architecture).to_lowercase();
    let made_for = [
        ("model_type", about.model_type.clone(), family),
        ("hidden_size", about.hidden_size.to_string(), config.hidden_size.to_string()),
        ("layers", about.layers.to_string(), config.layers.to_string()),
        ("heads", about.heads.to_string(), config.heads.to_string()),
        ("kv_heads", about.kv_heads.to_string(), config.kv_heads.to_string()),
        ("head_dim", about.head_dim.to_string(), config.head_dim.to_string()),
    ];
    if let Some((what, adapter, model)) = made_for.iter().find(|(_, adapter, model)| adapter != model) {
        return Err(unfit(format!(
            "it was made for a model with {what} {adapter}, this one has {model}: take the adapter of this model"
        )));
    }
    if config.memory.fusion.is_some() {
        return Err(unfit("the model was trained with memory already: serve it without an adapter".into()));
    }
    config.memory.fusion = Some(match about.fusion.as_str() {
        "joint" => Fusion::Joint,
        "gate" => Fusion::Gate,
        other => return Err(unfit(format!("fusion '{other}'; joint and gate are supported"))),
    });
    config.memory.layers = memory::checked_layers(about.memory_layers, config.layers)?;
    config.memory.window = memory::checked_window(about.window)?;
    // Training saw the window alone.
    config.memory.sinks = 0;
    Ok(())
}
