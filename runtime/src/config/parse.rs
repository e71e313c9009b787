//! From the JSON of `config.json` to a [`ModelConfig`].

use serde::Deserialize;
use serde_json::Value;

use super::{Architecture, Fusion, ModelConfig, PositionEncoding, bounded, invalid, memory, rope};
use crate::error::{Error, Result};

/// The keys that are read; what each family leaves out has its default in Hugging Face transformers.
#[derive(Deserialize)]
pub(super) struct Raw {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    pub(super) max_position_embeddings: Option<usize>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<f64>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_scaling: Option<Value>,
    pub(super) rope_parameters: Option<Value>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
    quantization_config: Option<Value>,
    /// As MLX names it.
    quantization: Option<Value>,
    pub(super) mnemon: Option<memory::Raw>,
}

impl ModelConfig {
    /// Reads `config.json`. Every size is limited, so that no file makes the loader allocate without bound.
    pub fn parse(json: &str) -> Result<Self> {
        let raw: Raw = serde_json::from_str(json)
            .map_err(|error| Error::Config { key: "the file".into(), why: error.to_string() })?;
        let architecture = architecture(&raw)?;
        refuse_quantization(&raw)?;
        let layers = bounded("num_hidden_layers", needed("num_hidden_layers", raw.num_hidden_layers)?, 1, 1024)?;
        let hidden_size = bounded("hidden_size", needed("hidden_size", raw.hidden_size)?, 1, 1 << 17)?;
        let heads = bounded("num_attention_heads", needed("num_attention_heads", raw.num_attention_heads)?, 1, 4096)?;
        let kv_heads = bounded("num_key_value_heads", raw.num_key_value_heads.unwrap_or(heads), 1, heads)?;
        if heads % kv_heads != 0 {
            return invalid("num_key_value_heads", format!("{kv_heads} does not divide num_attention_heads {heads}"));
        }
        let head_dim = match (raw.head_dim, architecture) {
            (Some(head_dim), _) => head_dim,
            (None, Architecture::Qwen3) => 128,
            (None, _) => hidden_size / heads,
        };
        let head_dim = bounded("head_dim", head_dim, 2, 4096)?;
        if head_dim % 2 != 0 {
            return invalid("head_dim", format!("{head_dim}; rotary encoding needs an even number"));
        }
        let intermediate_size = needed("intermediate_size", raw.intermediate_size)?;
        let activation = raw.hidden_act.as_deref().unwrap_or("silu");
        if activation != "silu" && activation != "swish" {
            return invalid("hidden_act", format!("'{activation}'; silu is supported"));
        }
        #[allow(clippy::float_cmp)] // exactly 1 means all
        if raw.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            return invalid("partial_rotary_factor", "rotating a part of each head is not supported");
        }
        let rms_norm_eps = raw.rms_norm_eps.unwrap_or(1e-6);
        if !(rms_norm_eps > 0.0 && rms_norm_eps < 1.0) {
            return invalid("rms_norm_eps", format!("{rms_norm_eps}; a small positive number is needed"));
        }
        let max_position_embeddings =
            bounded("max_position_embeddings", raw.max_position_embeddings.unwrap_or(2048), 1, 1 << 30)?;
        let biased = raw.attention_bias.unwrap_or(false);
        let (qkv_bias, output_bias) = match architecture {
            Architecture::Llama | Architecture::Qwen3 => (biased, biased),
            Architecture::Mistral => (false, false),
            Architecture::Qwen2 => (true, false),
        };
        let memory = memory::complete(raw.mnemon.as_ref(), layers, max_position_embeddings)?;
        Ok(Self {
            architecture,
            vocab_size: bounded("vocab_size", needed("vocab_size", raw.vocab_size)?, 1, 1 << 22)?,
            hidden_size,
            intermediate_size: bounded("intermediate_size", intermediate_size, 1, 1 << 20)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            rms_norm_eps,
            positions: positions(&raw, max_position_embeddings, memory.fusion)?,
            max_position_embeddings,
            qkv_bias,
            output_bias,
            mlp_bias: architecture == Architecture::Llama && raw.mlp_bias.unwrap_or(false),
            qk_norm: architecture == Architecture::Qwen3,
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            sliding_windows: sliding_windows(&raw, architecture, layers)?,
            bos_token: token_ids("bos_token_id", raw.bos_token_id.as_ref())?.first().copied(),
            eos_tokens: token_ids("eos_token_id", raw.eos_token_id.as_ref())?,
            memory,
        })
    }
}

/// `mnemon.position`, which no family has a key of its own for; rotary where it is missing.
fn positions(raw: &Raw, max_position_embeddings: usize, fusion: Option<Fusion>) -> Result<PositionEncoding> {
    match raw.mnemon.as_ref().and_then(|memory| memory.position.as_deref()) {
        None | Some("rotary") => Ok(PositionEncoding::Rotary(rope::parse(raw, max_position_embeddings)?)),
        Some(other @ ("sinusoidal" | "alibi")) if fusion.is_none() => {
            let why =
                format!("'{other}' without mnemon.fusion; only rotary models recall without trained memory parameters");
            invalid("mnemon.position", why)
        }
        Some("sinusoidal") => Ok(PositionEncoding::Sinusoidal),
        Some("alibi") => Ok(PositionEncoding::Alibi),
        Some(other) => invalid("mnemon.position", format!("'{other}'; rotary, sinusoidal and alibi are supported")),
    }
}

/// The token ids of a key that holds a number, a list of numbers, or nothing.
pub(crate) fn token_ids(key: &str, value: Option<&Value>) -> Result<Vec<u32>> {
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .map_or_else(|| invalid(key, format!("{value}; a token id or a list of token ids is needed")), Ok)
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) if ids.len() <= 1024 => ids.iter().map(id).collect(),
        Some(value) => Ok(vec![id(value)?]),
    }
}

fn needed<T>(key: &str, value: Option<T>) -> Result<T> {
    value.map_or_else(|| invalid(key, "missing"), Ok)
}

fn architecture(raw: &Raw) -> Result<Architecture> {
    let class = raw.architectures.as_ref().and_then(|names| names.first()).map(String::as_str);
    match (class, raw.model_type.as_deref()) {
        (Some("LlamaForCausalLM"), _) | (None, Some("llama")) => Ok(Architecture::Llama),
        (Some("MistralForCausalLM"), _) | (None, Some("mistral")) => Ok(Architecture::Mistral),
        (Some("Qwen2ForCausalLM"), _) | (None, Some("qwen2")) => Ok(Architecture::Qwen2),
        (Some("Qwen3ForCausalLM"), _) | (None, Some("qwen3")) => Ok(Architecture::Qwen3),
        (class, model_type) => Err(Error::UnsupportedArchitecture {
            name: class.or(model_type).unwrap_or("(none named)").into(),
            supported: Architecture::SUPPORTED,
        }),
    }
}

/// Refuses weights that are packed: their tensors have other names and types than the family's.
fn refuse_quantization(raw: &Raw) -> Result<()> {
    const ORIGINAL: &str = "take the original weights (F32, F16 or BF16) or a GGUF file of the model";
    let (method, advice) = match (&raw.quantization_config, &raw.quantization) {
        (Some(settings), _) if !settings.is_null() => {
            match settings.get("quant_method").and_then(Value::as_str).unwrap_or("(no method named)") {
                "gptq" => ("GPTQ", ORIGINAL),
                "awq" => ("AWQ", ORIGINAL),
                "bitsandbytes" => (
                    "bitsandbytes",
                    "load and save the model without load_in_4bit or load_in_8bit, or take a GGUF file",
                ),
                other => (other, ORIGINAL),
            }
        }
        (_, Some(settings)) if !settings.is_null() => ("MLX", ORIGINAL),
        _ => return Ok(()),
    };
    Err(Error::UnsupportedQuantization { method: method.into(), advice })
}

/// The window of each layer. Mistral has one for all layers; Qwen has a switch, and either names the layers
/// (`layer_types`) or the first one that slides (`max_window_layers`).
fn sliding_windows(raw: &Raw, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
    let switched_on = match architecture {
        Architecture::Llama => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => raw.use_sliding_window.unwrap_or(false),
    };
    let Some(window) = raw.sliding_window.filter(|_| switched_on) else {
        return Ok(vec![None; layers]);
    };
    let window = bounded("sliding_window", window, 1, 1 << 30)?;
    if architecture == Architecture::Mistral {
        return Ok(vec![Some(window); layers]);
    }
    let Some(types) = &raw.layer_types else {
        let first = raw.max_window_layers.unwrap_or(28);
        return Ok((0..layers).map(|layer| (layer >= first).then_some(window)).collect());
    };
    if types.len() != layers {
        return invalid("layer_types", format!("{} entries for {layers} layers", types.len()));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" => Ok(Some(window)),
            other => invalid("layer_types", format!("'{other}'; full_attention and sliding_attention are supported")),
        })
        .collect()
}
