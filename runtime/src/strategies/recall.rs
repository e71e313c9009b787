//! Generating: sinks, recalled chunks and a local window.

use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory::{ChunkId, Recall};

use super::RecallOptions;
use super::memory::MemoryAttention;
use crate::attention::sequence::{Sequence, by_token};
use crate::attention::{Attention, LayerContext, LocalMask};
use crate::error::Result;
use crate::model::Model;

/// [`LocalAttention`](crate::LocalAttention) that, in memory layers, also attends to chunks recalled for each block
/// of queries.
pub struct RecallAttention {
    sequence: Sequence,
    memory: MemoryAttention,
}

impl RecallAttention {
    /// For a fresh sequence; a `window` of 0 counts as 1. Refuses a memory whose geometry is not the model's.
    pub fn new(
        model: &Model,
        window: usize,
        sinks: usize,
        recall: Arc<dyn Recall>,
        options: RecallOptions,
    ) -> Result<Self> {
        Ok(Self {
            sequence: Sequence::new(model.device(), model.config(), Some(window.max(1)), sinks, LocalMask::Sliding),
            memory: MemoryAttention::new(model, recall, options)?,
        })
    }

    #[cfg(test)]
    pub(crate) fn on_tensors(mut self) -> Self {
        self.sequence.force_tensors();
        self
    }

    /// Attention mass of each chunk since the last call, averaged over heads, memory layers and query tokens, largest
    /// first; the sum is at most 1, the rest went to the local context.
    pub fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        self.memory.take_masses()
    }
}

impl Attention for RecallAttention {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let queries = self.sequence.append(layer, q, k, v)?;
        let context = match layer.slot {
            Some(slot) => self.memory.attend(&self.sequence, layer, slot, &queries, false)?,
            None => self.sequence.attend(layer, &queries)?.context,
        };
        by_token(&context, q)
    }
}
