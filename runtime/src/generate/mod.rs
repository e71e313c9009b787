//! Text from a model, and the probability of a text.

mod detokenizer;
mod generation;
mod sampler;
mod scoring;
mod stop;

use candle_core::Tensor;
use tokenizers::Encoding;

pub use detokenizer::Detokenizer;
pub use generation::{FinishReason, GenerateOptions, GenerateStep, Generation};
pub use sampler::SamplingOptions;
pub use scoring::{ScoreStep, Scoring};

use crate::{Attention, Error, LayerContext, LocalAttention, Model, RecallAttention, RecallFrom, Result};

/// Tokens of a prompt or text that one step reads.
const BLOCK_TOKENS: usize = 128;

/// The attention of a session: with memory or without.
enum Session {
    Local(LocalAttention),
    Recall(Box<RecallAttention>),
}

impl Session {
    /// A fresh session with the model's window and sinks.
    fn new(model: &Model, recall: Option<RecallFrom>) -> Result<Self> {
        let memory = &model.config().memory;
        let (window, sinks) = (memory.window, memory.sinks);
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

/// Tokenizes a text for the model. Special tokens are added as the tokenizer wants, unless the text begins with the
/// model's own first token already, as rendered chat templates do.
fn encode(model: &Model, text: &str) -> Result<Encoding> {
    let first = model.config().bos_token.and_then(|id| model.tokenizer().id_to_token(id));
    let begun = first.is_some_and(|first| !first.is_empty() && text.starts_with(&first));
    let encoding =
        model.tokenizer().encode(text, !begun).map_err(|error| Error::Tokenizer { why: error.to_string() })?;
    if text.is_empty() || encoding.is_empty() { Err(Error::EmptyPrompt) } else { Ok(encoding) }
}
