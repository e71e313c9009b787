//! The `mnemon` object of `config.json`: how a model uses memory.
//!
//! ```json
//! {"memory_layers": [2], "fusion": "joint", "key_shift": true, "window": 128, "sinks": 0,
//!  "chunk_tokens": 64, "entry_policy": "per_token", "recall_top_k": 16, "position": "rotary"}
//! ```
//! Every key may be missing. `entry_policy` is `per_token`, `block_mean:N` or `representative:N`; `position` is `rotary`,
//! `sinusoidal` or `alibi`.

use mnemon_memory::{EntryPolicy, KeyHead};
use serde::Deserialize;

use super::{Fusion, MemoryConfig, bounded, invalid};
use crate::error::Result;

#[derive(Deserialize)]
pub(super) struct Raw {
    memory_layers: Option<Vec<u32>>,
    fusion: Option<String>,
    key_shift: Option<bool>,
    window: Option<usize>,
    sinks: Option<usize>,
    chunk_tokens: Option<usize>,
    entry_policy: Option<String>,
    recall_top_k: Option<usize>,
    pub(super) position: Option<String>,
}

/// Fills in the defaults: for a model that was not trained with memory, the upper middle third of its layers, a
/// window of half its positions but at most 512, and 4 sinks (`StreamingLLM`, section 3.2).
pub(super) fn complete(raw: Option<&Raw>, layers: usize, max_position_embeddings: usize) -> Result<MemoryConfig> {
    let window = (max_position_embeddings / 2).clamp(1, 512);
    let mut memory = MemoryConfig {
        layers: (layers / 2..(layers / 2 + (layers / 3).max(1)).min(layers)).map(|layer| layer as u32).collect(),
        fusion: None,
        key_shift: false,
        window,
        sinks: 4,
        chunk_tokens: 64,
        entry_policy: EntryPolicy::BlockMean { tokens: 8 },
        recall_top_k: 16,
    };
    let Some(raw) = raw else { return Ok(memory) };
    if let Some(wanted) = &raw.memory_layers {
        memory.layers = checked_layers(wanted.clone(), layers)?;
    }
    memory.fusion = match raw.fusion.as_deref() {
        None => None,
        Some("joint") => Some(Fusion::Joint),
        Some("gate") => Some(Fusion::Gate),
        Some(other) => return invalid("mnemon.fusion", format!("'{other}'; joint and gate are supported")),
    };
    memory.key_shift = raw.key_shift.unwrap_or(false);
    memory.window = checked_window(raw.window.unwrap_or(window))?;
    memory.sinks = checked_sinks(raw.sinks.unwrap_or(memory.sinks))?;
    let chunk_tokens = raw.chunk_tokens.unwrap_or(memory.chunk_tokens as usize);
    memory.chunk_tokens = bounded("mnemon.chunk_tokens", chunk_tokens, 1, 4096)? as u32;
    if let Some(policy) = &raw.entry_policy {
        memory.entry_policy =
            policy.parse().or_else(|why: mnemon_memory::Invalid| invalid("mnemon.entry_policy", why.to_string()))?;
    }
    memory.recall_top_k = bounded("mnemon.recall_top_k", raw.recall_top_k.unwrap_or(memory.recall_top_k), 1, 4096)?;
    Ok(memory)
}

/// Ascending, distinct, existing layers.
pub(crate) fn checked_layers(mut wanted: Vec<u32>, layers: usize) -> Result<Vec<u32>> {
    wanted.sort_unstable();
    let before = wanted.len();
    wanted.dedup();
    if wanted.is_empty() || wanted.len() < before || wanted.iter().any(|&layer| layer as usize >= layers) {
        return invalid(
            "memory_layers",
            format!("{wanted:?}; distinct layers below {layers}, at least one, are needed"),
        );
    }
    Ok(wanted)
}

/// Ascending, distinct, existing key heads.
pub(crate) fn checked_key_heads(mut wanted: Vec<KeyHead>, layers: usize, kv_heads: u32) -> Result<Vec<KeyHead>> {
    wanted.sort_unstable();
    let distinct = wanted.windows(2).all(|pair| pair[0] != pair[1]);
    let exists = |key: &KeyHead| (key.layer as usize) < layers && key.head < kv_heads;
    if wanted.is_empty() || !distinct || !wanted.iter().all(exists) {
        let given: Vec<String> = wanted.iter().map(|key| format!("{}:{}", key.layer, key.head)).collect();
        return invalid(
            "key_heads",
            format!(
                "[{}]; distinct heads below {kv_heads} of layers below {layers}, at least one, are needed",
                given.join(", ")
            ),
        );
    }
    Ok(wanted)
}

pub(crate) fn checked_window(window: usize) -> Result<usize> {
    bounded("window", window, 1, 1 << 20)
}

pub(crate) fn checked_sinks(sinks: usize) -> Result<usize> {
    bounded("sinks", sinks, 0, 4096)
}
