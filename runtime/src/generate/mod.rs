//! Text from a model, and the probability of a text.

mod detokenizer;
mod generation;
mod reading;
mod sampler;
mod scoring;
mod stop;

use candle_core::Tensor;

pub use detokenizer::Detokenizer;
pub use generation::{FinishReason, GenerateOptions, GenerateStep, Generation};
pub use reading::MemoryFrom;
pub use sampler::SamplingOptions;
pub use scoring::{ScoreStep, Scoring};

use crate::attention::{Attention, LayerContext};
use crate::error::Result;
use crate::model::Model;
use crate::strategies::{LocalAttention, RecallAttention, RecallFrom};

/// Tokens of a prompt or text that one step reads.
const BLOCK_TOKENS: usize = 128;

/// The attention of a session: with memory or without.
enum Session {
    Local(LocalAttention),
    Recall(Box<RecallAttention>),
}

impl Session {
    /// A fresh session with the model's sinks, and its window or a wider one.
    fn new(model: &Model, recall: Option<RecallFrom>, context_tokens: Option<usize>) -> Result<Self> {
        let memory = &model.config().memory;
        let (window, sinks) = (context_tokens.unwrap_or(0).max(memory.window), memory.sinks);
        Ok(match recall {
            None => Self::Local(LocalAttention::new(model, window, sinks)),
            Some((recall, options)) => {
                Self::Recall(Box::new(RecallAttention::new(model, window, sinks, recall, options)?))
            }
        })
    }
}

impl Attention for Session {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match self {
            Self::Local(attention) => attention.attend(layer, q, k, v),
            Self::Recall(attention) => attention.attend(layer, q, k, v),
        }
    }
}
