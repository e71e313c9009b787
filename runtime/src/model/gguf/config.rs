//! Metadata of a GGUF file to a [`ModelConfig`], by way of the keys of `config.json`, so that both have the same limits.

use std::f64::consts::PI;

use serde_json::{Map, Value, json};

use super::metadata::Gguf;
use crate::config::{Architecture, ModelConfig};
use crate::error::{Error, Result};
use crate::model::shard::Shard;

/// Factors that divide rotary frequencies; Llama 3.1 and later.
const FACTORS: &str = "rope_freqs.weight";

impl Gguf {
    /// Sizes and switches. `shard` holds the factors of rotary frequencies, if the file has any.
    pub(in crate::model) fn config(&self, shard: &mut Shard) -> Result<ModelConfig> {
        let of = |name: &str| format!("{}.{name}", self.prefix);
        let needed = |name: &str| {
            let key = of(name);
            self.count(&key)?.map_or_else(|| self.invalid(&key, "missing"), Ok)
        };
        if self.count(&of("expert_count"))?.is_some_and(|experts| experts > 0) {
            return self.invalid(&of("expert_count"), "mixtures of experts are not supported; take a dense model");
        }
        let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
        let head_dim = match self.count(&of("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        };
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.count(&of(name))?.is_some_and(|values| values != head_dim) {
                return self.invalid(&of(name), format!("it differs from the {head_dim} values of a head"));
            }
        }
        let class = match self.architecture {
            Architecture::Llama | Architecture::Mistral => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        };
        let key = of("attention.layer_norm_rms_epsilon");
        let epsilon = self.number(&key)?.map_or_else(|| self.invalid(&key, "missing"), Ok)?;
        let has = |name: &str| self.tensors.iter().any(|tensor| tensor.name == name);
        let context = needed("context_length")?;
        let config = json!({
            "architectures": [class],
            "vocab_size": self.tokens()?.len(),
            "hidden_size": hidden,
            "intermediate_size": needed("feed_forward_length")?,
            "num_hidden_layers": needed("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": self.count(&of("attention.head_count_kv"))?,
            "head_dim": head_dim,
            "rms_norm_eps": epsilon,
            "max_position_embeddings": context,
            "attention_bias": has("blk.0.attn_q.bias"),
            "mlp_bias": has("blk.0.ffn_up.bias"),
            "tie_word_embeddings": !has("output.weight"),
            "rope_parameters": self.rope(shard, head_dim, context)?,
            "bos_token_id": self.special("tokenizer.ggml.bos_token_id")?.map(|(id, _)| id),
            "eos_token_id": self.end_tokens()?,
        });
        ModelConfig::parse(&config.to_string()).map_err(|error| match error {
            Error::Config { key, why } => Error::Metadata { path: self.path.clone(), key, why },
            other => other,
        })
    }

    /// Tokens that end a turn: those named by id, and those of the turns that the chat template writes.
    fn end_tokens(&self) -> Result<Vec<u32>> {
        let mut ends = Vec::new();
        for name in ["eos", "eot", "eom"] {
            ends.extend(self.special(&format!("tokenizer.ggml.{name}_token_id"))?.map(|(id, _)| id));
        }
        let template = self.text("tokenizer.chat_template")?.unwrap_or_default();
        let turns = [
            ("<|im_start|>", ["<|im_end|>", "<|endoftext|>"]),
            ("<|start_header_id|>", ["<|eot_id|>", "<|end_of_text|>"]),
        ];
        for (_, names) in turns.iter().filter(|(begin, _)| template.contains(begin)) {
            for (id, token) in self.tokens()?.iter().enumerate() {
                if names.contains(&token.as_str()) && self.is_control(id)? {
                    ends.push(id as u32);
                }
            }
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    /// Rotary settings under the names of `rope_parameters`.
    fn rope(&self, shard: &mut Shard, head_dim: usize, context: usize) -> Result<Value> {
        let of = |name: &str| format!("{}.rope.{name}", self.prefix);
        let theta = self.number(&of("freq_base"))?.unwrap_or(10_000.0);
        let mut settings = Map::new();
        settings.insert("rope_theta".into(), json!(theta));
        if let Some(factors) = shard.factors(FACTORS)? {
            let Some((factor, original)) = llama3(&factors, theta, head_dim) else {
                return self.invalid(FACTORS, "its factors are not those of Llama 3; take the Hugging Face folder");
            };
            settings.insert("rope_type".into(), json!("llama3"));
            settings.insert("factor".into(), json!(factor));
            settings.insert("low_freq_factor".into(), json!(LOW));
            settings.insert("high_freq_factor".into(), json!(HIGH));
            settings.insert("original_max_position_embeddings".into(), json!(original));
            return Ok(Value::Object(settings));
        }
        let factor = match self.number(&of("scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.number(&of("scale_linear"))?,
        };
        let kind = match self.text(&of("scaling.type"))? {
            Some(kind) => kind,
            None if factor.is_some() => "linear",
            None => "none",
        };
        match (kind, factor) {
            // A file may name a kind and scale by nothing.
            ("none", _) | ("linear", None | Some(0.0 | 1.0)) => {}
            ("linear", Some(factor)) => {
                settings.insert("rope_type".into(), json!("linear"));
                settings.insert("factor".into(), json!(factor));
            }
            ("yarn", Some(factor)) => {
                settings.insert("rope_type".into(), json!("yarn"));
                settings.insert("factor".into(), json!(factor));
                let original = self.count(&of("scaling.original_context_length"))?.unwrap_or(context);
                settings.insert("original_max_position_embeddings".into(), json!(original));
                for (key, name) in [("beta_fast", "scaling.yarn_beta_fast"), ("beta_slow", "scaling.yarn_beta_slow")] {
                    if let Some(beta) = self.number(&of(name))? {
                        settings.insert(key.into(), json!(beta));
                    }
                }
                if let Some(attention) = self.number(&of("scaling.attn_factor"))? {
                    let magnitude = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                    settings.insert("attention_factor".into(), json!(attention * magnitude));
                }
            }
            ("yarn", None) => return self.invalid(&of("scaling.factor"), "missing; yarn needs it"),
            (other, _) => {
                return self.invalid(&of("scaling.type"), format!("'{other}'; none, linear and yarn are supported"));
            }
        }
        Ok(Value::Object(settings))
    }
}

/// Of every published Llama 3 model.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// Factor and original length from which `factors` were computed, if they are those of Llama 3.
fn llama3(factors: &[f32], theta: f64, head_dim: usize) -> Option<(f64, usize)> {
    let factor = f64::from(*factors.last()?);
    let expected = |i: usize, original: f64| {
        let wavelength = 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        if wavelength < original / HIGH {
            1.0
        } else if wavelength > original / LOW {
            factor
        } else {
            let smooth = (original / wavelength - LOW) / (HIGH - LOW);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    let original = (9..=20).map(|power| 1_usize << power).find(|&original| {
        factors.len() == head_dim / 2
            && factors.iter().enumerate().all(|(i, &found)| {
                let wanted = expected(i, original as f64);
                (f64::from(found) - wanted).abs() <= 1e-4 * wanted
            })
    })?;
    (factor >= 1.0).then_some((factor, original))
}
