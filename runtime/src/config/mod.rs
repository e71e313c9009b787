//! `config.json` of a model, read, checked and limited.

pub(crate) mod memory;
pub(crate) mod parse;
mod rope;

use mnemon_memory::EntryPolicy;

use crate::error::{Error, Result};

/// A supported family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`.
    Qwen2,
    /// `Qwen3ForCausalLM`.
    Qwen3,
}

impl Architecture {
    /// Those that can be loaded, for messages.
    pub const SUPPORTED: &'static str = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";
}

/// How a trained memory layer joins memory and local context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fusion {
    /// One softmax over both, with a learned scale and bias of memory logits per head.
    Joint,
    /// Two softmaxes mixed by a learned gate per head (Memorizing Transformers, section 3.2).
    Gate,
}

/// Scaling of rotary frequencies, as in `rope_scaling` or `rope_parameters`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All positions divided by `factor`.
    Linear {
        /// Factor.
        factor: f64,
    },
    /// Base raised for a context `factor` times as long, whatever the length of the sequence (NTK-aware).
    Ntk {
        /// Factor.
        factor: f64,
    },
    /// Base raised once a sequence is longer than what the model was trained with (NTK-aware).
    Dynamic {
        /// Factor.
        factor: f64,
        /// Tokens the model was trained with.
        original: usize,
    },
    /// `YaRN` (arXiv 2309.00071).
    Yarn {
        /// Factor.
        factor: f64,
        /// Tokens the model was trained with.
        original: usize,
        /// Rotations above which a dimension is left as it is.
        beta_fast: f64,
        /// Rotations below which a dimension is divided by `factor`.
        beta_slow: f64,
        /// Factor of cosines and sines.
        attention_factor: f64,
        /// Whether the borders between the dimensions are rounded to whole ones.
        truncate: bool,
    },
    /// Llama 3.1.
    Llama3 {
        /// Factor.
        factor: f64,
        /// Divides `original` into the longest wavelength that is interpolated in part.
        low_freq_factor: f64,
        /// Divides `original` into the longest wavelength that is left as it is.
        high_freq_factor: f64,
        /// Tokens the model was trained with.
        original: usize,
    },
}

/// How a model tells where its tokens stand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PositionEncoding {
    /// Queries and keys are rotated.
    Rotary(RopeConfig),
    /// A scaled table of sines and cosines is added to the embeddings (arXiv 1706.03762, section 3.5).
    Sinusoidal,
    /// Each head takes a slope of its own times the distance from local logits (arXiv 2108.12409, section 3).
    Alibi,
}

/// Rotary position encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Their scaling.
    pub scaling: RopeScaling,
}

/// The `mnemon` object of `config.json`, completed with defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoryConfig {
    /// Decoder layers that attend to memory, ascending.
    pub layers: Vec<u32>,
    /// How they join it, if they were trained to.
    pub fusion: Option<Fusion>,
    /// Whether keys mix in the key of the previous token.
    pub key_shift: bool,
    /// Tokens of the local window.
    pub window: usize,
    /// First tokens of a sequence that stay visible.
    pub sinks: usize,
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Which vectors become search keys.
    pub entry_policy: EntryPolicy,
    /// Chunks recalled by default.
    pub recall_top_k: usize,
}

/// Sizes and switches of a model.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // as many switches as the families differ in
pub struct ModelConfig {
    /// Family.
    pub architecture: Architecture,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Values of a hidden state.
    pub hidden_size: usize,
    /// Values inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Values of a head; even.
    pub head_dim: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// How it tells where its tokens stand.
    pub positions: PositionEncoding,
    /// Positions that the model was made for.
    pub max_position_embeddings: usize,
    /// Whether q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Whether the output embedding is the input embedding.
    pub tie_word_embeddings: bool,
    /// Sliding window of each layer, if it has one.
    pub sliding_windows: Vec<Option<usize>>,
    /// Token that begins a sequence.
    pub bos_token: Option<u32>,
    /// Tokens that end a sequence.
    pub eos_tokens: Vec<u32>,
    /// Memory.
    pub memory: MemoryConfig,
}

/// An error about one key.
fn invalid<T>(key: &str, why: impl Into<String>) -> Result<T> {
    Err(Error::Config { key: key.into(), why: why.into() })
}

/// Refuses what is outside of `min..=max`.
fn bounded(key: &str, value: usize, min: usize, max: usize) -> Result<usize> {
    if (min..=max).contains(&value) { Ok(value) } else { invalid(key, format!("{value}; {min} to {max} is accepted")) }
}
