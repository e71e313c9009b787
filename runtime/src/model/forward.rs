//! The one forward pass.

use candle_core::{DType, Tensor};
use candle_nn::ops::rms_norm;
use mnemon_memory::Invalid;

use super::weights::Weights;
use super::{Logits, Model, SequenceState};
use crate::attention::{Attention, LayerContext, MemoryParameters};
use crate::config::{Fusion, ModelConfig, PositionEncoding};
use crate::error::{Error, Result};
use crate::position::sinusoids;

/// The decoder's weights.
#[derive(Debug)]
pub(super) struct Decoder {
    /// `[vocab, hidden]`.
    embedding: Tensor,
    /// Factor of the sinusoidal table.
    position_scale: Option<f32>,
    layers: Vec<Layer>,
    norm: Tensor,
    output: Linear,
}

#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    /// Queries, keys and values in one product.
    qkv: Linear,
    /// Of queries and keys, `[head_dim]` each.
    qk_norm: Option<(Tensor, Tensor)>,
    /// Share of the previous token's key, `[1, n_kv_heads * head_dim]`.
    key_shift: Option<Tensor>,
    output: Linear,
    post_norm: Tensor,
    /// Gate and up projection in one product.
    gate_up: Linear,
    down: Linear,
    sliding_window: Option<usize>,
    slot: Option<usize>,
    memory: Option<MemoryParameters>,
}

#[derive(Debug)]
struct Linear {
    /// A view `[in, out]` of the weight `[out, in]`.
    transposed: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { transposed: weight.t()?, bias })
    }

    /// `[n, in]` to `[n, out]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.transposed)?;
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }
}

/// Several projections of the same input, stacked: `parts` are name and rows.
fn stacked(weights: &mut Weights, prefix: &str, parts: &[(&str, usize)], input: usize, bias: bool) -> Result<Linear> {
    let mut stack = |kind: &str, shape: &dyn Fn(usize) -> Vec<usize>| -> Result<Tensor> {
        let tensors = parts
            .iter()
            .map(|(name, rows)| weights.tensor(&format!("{prefix}.{name}.{kind}"), &shape(*rows)))
            .collect::<Result<Vec<_>>>()?;
        Ok(if let [single] = &tensors[..] { single.clone() } else { Tensor::cat(&tensors, 0)? })
    };
    let weight = stack("weight", &|rows| vec![rows, input])?;
    let bias = if bias { Some(stack("bias", &|rows| vec![rows])?) } else { None };
    Linear::new(&weight, bias)
}

impl Decoder {
    pub(super) fn load(weights: &mut Weights, config: &ModelConfig) -> Result<Self> {
        let embedding = weights.tensor("model.embed_tokens.weight", &[config.vocab_size, config.hidden_size])?;
        let position_scale = match config.positions {
            PositionEncoding::Sinusoidal => weights.vector("model.position_scale", 1)?.first().copied(),
            PositionEncoding::Rotary(_) | PositionEncoding::Alibi => None,
        };
        let output = if config.tie_word_embeddings {
            Linear::new(&embedding, None)?
        } else {
            Linear::new(&weights.tensor("lm_head.weight", &[config.vocab_size, config.hidden_size])?, None)?
        };
        let layers = (0..config.layers).map(|layer| Layer::load(weights, config, layer)).collect::<Result<_>>()?;
        let norm = weights.tensor("model.norm.weight", &[config.hidden_size])?;
        Ok(Self { embedding, position_scale, layers, norm, output })
    }
}

impl Layer {
    fn load(weights: &mut Weights, config: &ModelConfig, layer: usize) -> Result<Self> {
        let (hidden, inner, head_dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query_rows, key_rows) = (config.heads * head_dim, config.kv_heads * head_dim);
        let prefix = format!("model.layers.{layer}");
        let (attention, mlp) = (format!("{prefix}.self_attn"), format!("{prefix}.mlp"));
        let qkv_parts = [("q_proj", query_rows), ("k_proj", key_rows), ("v_proj", key_rows)];
        let qk_norm = if config.qk_norm {
            Some((
                weights.tensor(&format!("{attention}.q_norm.weight"), &[head_dim])?,
                weights.tensor(&format!("{attention}.k_norm.weight"), &[head_dim])?,
            ))
        } else {
            None
        };
        let key_shift = if config.memory.key_shift {
            let raw = weights.tensor(&format!("{attention}.key_shift"), &[config.kv_heads])?;
            let share = candle_nn::ops::sigmoid(&raw)?.reshape((config.kv_heads, 1))?;
            Some(share.broadcast_as((config.kv_heads, head_dim))?.reshape((1, key_rows))?)
        } else {
            None
        };
        let slot = config.memory.layers.iter().position(|&memory_layer| memory_layer as usize == layer);
        Ok(Self {
            input_norm: weights.tensor(&format!("{prefix}.input_layernorm.weight"), &[hidden])?,
            qkv: stacked(weights, &attention, &qkv_parts, hidden, config.qkv_bias)?,
            qk_norm,
            key_shift,
            output: stacked(weights, &attention, &[("o_proj", hidden)], query_rows, config.output_bias)?,
            post_norm: weights.tensor(&format!("{prefix}.post_attention_layernorm.weight"), &[hidden])?,
            gate_up: stacked(weights, &mlp, &[("gate_proj", inner), ("up_proj", inner)], hidden, config.mlp_bias)?,
            down: stacked(weights, &mlp, &[("down_proj", hidden)], inner, config.mlp_bias)?,
            sliding_window: config.sliding_windows.get(layer).copied().flatten(),
            slot,
            memory: match (slot, config.memory.fusion) {
                (Some(_), Some(fusion)) => Some(memory_parameters(weights, &attention, fusion, config.heads)?),
                _ => None,
            },
        })
    }
}

fn memory_parameters(weights: &mut Weights, attention: &str, fusion: Fusion, heads: usize) -> Result<MemoryParameters> {
    Ok(MemoryParameters {
        fusion,
        scale: weights.vector(&format!("{attention}.memory_scale"), heads)?,
        bias: weights.vector(&format!("{attention}.memory_bias"), heads)?,
        gate: match fusion {
            Fusion::Joint => Vec::new(),
            Fusion::Gate => weights.vector(&format!("{attention}.memory_gate"), heads)?,
        },
    })
}

impl Model {
    /// One forward pass over the next `tokens` of a sequence.
    ///
    /// Returns f32 logits `[n, vocab]`: nothing for [`Logits::None`], n = 1 for `Last`, n = `tokens` for `All`.
    /// After an error, `state` and `attention` must be thrown away.
    pub fn forward(
        &self,
        tokens: &[u32],
        state: &mut SequenceState,
        attention: &mut dyn Attention,
        want: Logits,
    ) -> Result<Option<Tensor>> {
        let x = self.layers(tokens, state, attention, self.decoder.layers.len())?;
        let x = match want {
            Logits::None => return Ok(None),
            Logits::Last => x.narrow(0, tokens.len() - 1, 1)?.contiguous()?,
            Logits::All => x,
        };
        let eps = self.config.rms_norm_eps as f32;
        let logits = self.decoder.output.forward(&rms_norm(&x, &self.decoder.norm, eps)?)?;
        Ok(Some(logits.to_dtype(DType::F32)?))
    }

    /// The first `layers` layers of a forward pass, for what an attention strategy sees in them.
    pub fn look(
        &self,
        tokens: &[u32],
        state: &mut SequenceState,
        attention: &mut dyn Attention,
        layers: usize,
    ) -> Result<()> {
        self.layers(tokens, state, attention, layers).map(drop)
    }

    /// Hidden states `[n, hidden]` after the first `layers` layers.
    fn layers(
        &self,
        tokens: &[u32],
        state: &mut SequenceState,
        attention: &mut dyn Attention,
        layers: usize,
    ) -> Result<Tensor> {
        let vocabulary = self.config.vocab_size;
        if tokens.is_empty() {
            return Err(Error::Invalid(Invalid { what: "tokens", why: "none; at least one is needed".into() }));
        }
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::TokenOutOfRange { id, vocabulary });
        }
        let ids = Tensor::from_slice(tokens, tokens.len(), &self.device)?;
        let eps = self.config.rms_norm_eps as f32;
        let mut x = self.decoder.embedding.index_select(&ids, 0)?;
        if let Some(scale) = self.decoder.position_scale {
            let table = sinusoids(state.position, tokens.len(), self.config.hidden_size, scale);
            let table = Tensor::from_vec(table, x.dims2()?, &self.device)?;
            x = (x + table.to_dtype(self.decoder.embedding.dtype())?)?;
        }
        for (index, layer) in self.decoder.layers.iter().take(layers).enumerate() {
            let normed = rms_norm(&x, &layer.input_norm, eps)?;
            let attended = self.attend(index, layer, &normed, state, attention)?;
            x = (x + layer.output.forward(&attended)?)?;
            let normed = rms_norm(&x, &layer.post_norm, eps)?;
            let inner = layer.gate_up.forward(&normed)?;
            let half = self.config.intermediate_size;
            let gated = (inner.narrow(1, 0, half)?.silu()? * inner.narrow(1, half, half)?)?;
            x = (x + layer.down.forward(&gated)?)?;
        }
        state.position += tokens.len();
        Ok(x)
    }

    /// Projects `x` `[n, hidden]` to queries, keys and values, and attends.
    fn attend(
        &self,
        index: usize,
        layer: &Layer,
        x: &Tensor,
        state: &mut SequenceState,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (n, eps) = (x.dim(0)?, self.config.rms_norm_eps as f32);
        let (query_rows, key_rows) = (heads * head_dim, kv_heads * head_dim);
        let qkv = layer.qkv.forward(x)?;
        let q = qkv.narrow(1, 0, query_rows)?.reshape((n, heads, head_dim))?;
        let k = qkv.narrow(1, query_rows, key_rows)?;
        let v = qkv.narrow(1, query_rows + key_rows, key_rows)?.reshape((n, kv_heads, head_dim))?;
        let k = match (&layer.key_shift, state.previous_keys.get_mut(index)) {
            (Some(share), Some(previous)) => shifted(&k, share, previous)?,
            _ => k,
        };
        let k = k.reshape((n, kv_heads, head_dim))?;
        let (q, k) = match &layer.qk_norm {
            Some((q_norm, k_norm)) => (rms_norm(&q, q_norm, eps)?, rms_norm(&k, k_norm, eps)?),
            None => (q, k),
        };
        let by_head = |t: Tensor| t.transpose(0, 1)?.contiguous();
        let context = LayerContext {
            index,
            slot: layer.slot,
            first_position: state.position,
            rotary: &self.rotary,
            slopes: self.slopes.as_deref(),
            scale: (head_dim as f32).sqrt().recip(),
            sliding_window: layer.sliding_window,
            memory: layer.memory.as_ref(),
        };
        attention.attend(&context, &by_head(q)?, &by_head(k)?, &by_head(v)?)
    }
}

/// Key shift: token t's key becomes `(1 - share) * k[t] + share * k[t - 1]`; `previous` is k before the first token,
/// and becomes k of the last one. `k` is `[n, n_kv_heads * head_dim]`.
fn shifted(k: &Tensor, share: &Tensor, previous: &mut Option<Tensor>) -> Result<Tensor> {
    let (n, width) = k.dims2()?;
    let before = match previous.take() {
        Some(previous) => previous,
        None => Tensor::zeros((1, width), k.dtype(), k.device())?,
    };
    // A copy, so that a carried row does not keep the whole product alive.
    *previous = Some(k.narrow(0, n - 1, 1)?.copy()?);
    let before = if n == 1 { before } else { Tensor::cat(&[&before, &k.narrow(0, 0, n - 1)?], 0)? };
    Ok((k + (before - k)?.broadcast_mul(share)?)?)
}
