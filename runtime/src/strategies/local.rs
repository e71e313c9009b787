//! A local window and sinks.

use candle_core::Tensor;

use crate::attention::sequence::{Sequence, by_token};
use crate::attention::{Attention, LayerContext, LocalMask};
use crate::error::Result;
use crate::model::Model;

/// A token sees those less than `window` back (its own included) and the first `sinks` of the sequence; what left the
/// window is forgotten. Memory is bounded by the window.
pub struct LocalAttention {
    sequence: Sequence,
}

impl LocalAttention {
    /// For a fresh sequence; a `window` of 0 counts as 1.
    pub fn new(model: &Model, window: usize, sinks: usize) -> Self {
        Self { sequence: Sequence::new(model.device(), model.config(), Some(window.max(1)), sinks, LocalMask::Sliding) }
    }

    #[cfg(test)]
    pub(crate) fn on_tensors(model: &Model, window: usize, sinks: usize) -> Self {
        let mut fresh = Self::new(model, window, sinks);
        fresh.sequence.force_tensors();
        fresh
    }
}

impl Attention for LocalAttention {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let queries = self.sequence.append(layer, q, k, v)?;
        by_token(&self.sequence.attend(layer, &queries)?.context, q)
    }
}
