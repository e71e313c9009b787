//! The seam at which reading and generating differ, and what every strategy behind it shares.
//!
//! | file | idea |
//! |---|---|
//! | `backend`, `host`, `tensors` | one softmax over parts: through `mnemon-kernels`, or with tensor operations |
//! | `cache` | keys and values of the recent tokens of one layer |
//! | `sequence` | sinks and recent tokens of a sequence |
//! | `prefixes` | beginnings of prompts that were read before |

pub(crate) mod backend;
pub(crate) mod cache;
mod host;
pub(crate) mod prefixes;
pub(crate) mod sequence;
mod tensors;

use candle_core::Tensor;

pub use sequence::LocalMask;

use crate::config::Fusion;
use crate::error::Result;
use crate::rotary::Rotary;

/// Trained memory parameters of one layer.
#[derive(Debug, Clone)]
pub struct MemoryParameters {
    /// How memory is joined.
    pub fusion: Fusion,
    /// Factor of memory products, `[n_heads]`.
    pub scale: Vec<f32>,
    /// Offset of memory logits, `[n_heads]`.
    pub bias: Vec<f32>,
    /// Share of memory before the sigmoid, `[n_heads]`; empty for [`Fusion::Joint`].
    pub gate: Vec<f32>,
}

/// What a strategy may know of the layer it attends in.
#[derive(Debug, Clone, Copy)]
pub struct LayerContext<'a> {
    /// Index of the decoder layer.
    pub index: usize,
    /// Its index among the memory layers, if it is one.
    pub slot: Option<usize>,
    /// Position of the first token of the call.
    pub first_position: usize,
    /// Rotary encoding.
    pub rotary: &'a Rotary,
    /// Loss of a local logit per token of distance, `[n_heads]` (ALiBi).
    pub slopes: Option<&'a [f32]>,
    /// Factor of products before the softmax.
    pub scale: f32,
    /// The layer's own sliding window: tokens visible, the query's own included.
    pub sliding_window: Option<usize>,
    /// Trained memory parameters.
    pub memory: Option<&'a MemoryParameters>,
}

/// The only seam at which reading and generating differ.
pub trait Attention {
    /// Attends from `q` `[n_heads, n, head_dim]` to `k` and `v` `[n_kv_heads, n, head_dim]` and to what the strategy
    /// keeps. q and k come before rotary encoding, after QK-norm and key shift. Returns `[n, n_heads * head_dim]`.
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;
}
