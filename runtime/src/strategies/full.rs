//! Every token sees all before it, but for the model's own sliding windows.

use candle_core::Tensor;

use crate::attention::sequence::{Sequence, by_token};
use crate::attention::{Attention, LayerContext, LocalMask};
use crate::error::Result;
use crate::model::Model;

/// Full causal attention; keeps everything, so for texts of moderate length and as the oracle of tests.
pub struct FullAttention {
    sequence: Sequence,
}

impl FullAttention {
    /// For a fresh sequence.
    pub fn new(model: &Model) -> Self {
        Self { sequence: Sequence::new(model.device(), model.config(), None, 0, LocalMask::Sliding) }
    }

    #[cfg(test)]
    pub(crate) fn on_tensors(model: &Model) -> Self {
        let mut fresh = Self::new(model);
        fresh.sequence.force_tensors();
        fresh
    }
}

impl Attention for FullAttention {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let queries = self.sequence.append(layer, q, k, v)?;
        by_token(&self.sequence.attend(layer, &queries)?.context, q)
    }
}
