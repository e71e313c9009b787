//! The only seam at which reading and generating differ.

mod options;

use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory_store::{ChunkId, Recall};

pub use options::{CaptureOptions, Captured, LocalMask, PositionScheme, RecallFrom, RecallOptions};

use crate::{Error, Fusion, Model, Result, Rotary};

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

/// Every token sees all before it.
pub struct FullAttention {}
/// A local window and sinks.
pub struct LocalAttention {}
/// Reading: a local window, and capture of what leaves it.
pub struct CaptureAttention {}
/// Generating: sinks, recalled chunks and a local window.
pub struct RecallAttention {}

impl FullAttention {
    /// For a fresh sequence.
    pub fn new(model: &Model) -> Self {
        let _ = model;
        Self {}
    }
}
impl LocalAttention {
    /// For a fresh sequence.
    pub fn new(model: &Model, window: usize, sinks: usize) -> Self {
        let _ = (model, window, sinks);
        Self {}
    }
}
impl CaptureAttention {
    /// For a fresh document.
    pub fn new(model: &Model, options: CaptureOptions) -> Result<Self> {
        let _ = (model, options);
        Ok(Self {})
    }

    /// Tokens that left the window since the last call, in multiples of `chunk_tokens`; with `flush`, all that remain.
    pub fn drain(&mut self, flush: bool) -> Result<Option<Captured>> {
        let _ = flush;
        Err(Error::EmptyPrompt)
    }

    /// Changes the memory that is recalled while reading.
    pub fn set_recall(&mut self, recall: Option<RecallFrom>) -> Result<()> {
        let _ = recall;
        Ok(())
    }
}
impl RecallAttention {
    /// For a fresh sequence.
    pub fn new(
        model: &Model,
        window: usize,
        sinks: usize,
        recall: Arc<dyn Recall>,
        options: RecallOptions,
    ) -> Result<Self> {
        let _ = (model, window, sinks, recall, options);
        Ok(Self {})
    }

    /// Attention mass of each chunk since the last call, averaged over heads, memory layers and query tokens.
    pub fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        Vec::new()
    }
}
macro_rules! unfinished {
    ($($t:ty),*) => { $(impl Attention for $t {
        fn attend(&mut self, _: &LayerContext<'_>, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Tensor> {
            Err(Error::EmptyPrompt)
        }
    })* };
}
unfinished!(FullAttention, LocalAttention, CaptureAttention, RecallAttention);
