//! Who reads a prompt, and what follows it: a window with or without memory layers, or a window with passages in it.

use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory::ChunkId;

use super::{BLOCK_TOKENS, Session};
use crate::error::{Error, Result};
use crate::model::{Logits, Model, SequenceState};
use crate::passages::{Passage, PassageReader, PassagesFrom, Prompt, ReadStep};
use crate::profile::RecallMode;
use crate::strategies::RecallFrom;

/// What a text is read with.
#[derive(Clone, Default)]
pub enum MemoryFrom {
    /// The text alone.
    #[default]
    Nothing,
    /// Memory layers look up chunks for each block of tokens: for models trained with memory.
    Layers(RecallFrom),
    /// Passages stand in the prompt: for pretrained models with a profile.
    Passages(PassagesFrom),
}

/// See the module.
pub(super) enum Reading {
    Window { model: Arc<Model>, session: Session, state: SequenceState, prompt: Vec<u32>, done: usize },
    Passages { reader: Box<PassageReader>, context_tokens: usize },
}

impl Reading {
    /// Reads `prompt`, then tokens that are fed. `context_tokens` widens the window where there is more room; with `reserve`
    /// the passages of a later choice may be longer than those of the first.
    pub(super) fn new(
        model: &Arc<Model>,
        prompt: Prompt,
        memory: MemoryFrom,
        context_tokens: Option<usize>,
        reserve: bool,
    ) -> Result<Self> {
        let context = context_tokens.map(|tokens| tokens.min(model.config().max_position_embeddings));
        let recall = match memory {
            MemoryFrom::Passages(from) => {
                let most = context.unwrap_or(model.config().max_position_embeddings);
                let reader = Box::new(PassageReader::new(model, prompt, from, most, reserve)?);
                return Ok(Self::Passages { reader, context_tokens: most });
            }
            MemoryFrom::Layers(from) => Some(from),
            MemoryFrom::Nothing => None,
        };
        Self::window(model, prompt.tokens(), recall, context)
    }

    fn window(
        model: &Arc<Model>,
        prompt: Vec<u32>,
        recall: Option<RecallFrom>,
        context_tokens: Option<usize>,
    ) -> Result<Self> {
        // A model that was trained with memory sees no more than its window.
        let context_tokens = context_tokens.filter(|_| model.config().memory.fusion.is_none());
        let session = Session::new(model, recall, context_tokens)?;
        Ok(Self::Window { session, state: SequenceState::new(model), model: Arc::clone(model), prompt, done: 0 })
    }

    /// One bounded piece of the prompt.
    pub(super) fn step(&mut self) -> Result<ReadStep> {
        match self {
            Self::Passages { reader, context_tokens } => {
                if let Some(step) = reader.step()? {
                    return Ok(step);
                }
                let (model, prompt) = reader.without()?;
                let total = prompt.len();
                *self = Self::window(&model, prompt, None, Some(*context_tokens))?;
                Ok(ReadStep::More(0, total))
            }
            Self::Window { model, session, state, prompt, done } => {
                let total = prompt.len();
                let end = (*done + BLOCK_TOKENS).min(total);
                let want = if end == total { Logits::Last } else { Logits::None };
                if let Session::Recall(attention) = session {
                    // The masses of earlier blocks say little about the answer.
                    attention.take_masses();
                }
                let logits = model.forward(prompt.get(*done..end).unwrap_or_default(), state, session, want)?;
                *done = end;
                Ok(logits.map_or(ReadStep::More(end, total), ReadStep::Done))
            }
        }
    }

    /// The prompt that is read, without passages.
    pub(super) fn prompt(&self) -> Vec<u32> {
        match self {
            Self::Passages { reader, .. } => reader.prompt().tokens(),
            Self::Window { prompt, .. } => prompt.clone(),
        }
    }

    /// Reads tokens that follow the prompt.
    pub(super) fn feed(&mut self, tokens: &[u32], want: Logits) -> Result<Tensor> {
        let logits = match self {
            Self::Passages { reader, .. } => reader.feed(tokens, want)?,
            Self::Window { model, session, state, .. } => model.forward(tokens, state, session, want)?,
        };
        logits.ok_or(Error::NotFinite)
    }

    /// One bounded piece of what precedes the prompt's text after the passages; `false` when that is next.
    pub(super) fn prepare(&mut self) -> Result<bool> {
        match self {
            Self::Passages { reader, .. } => Ok(reader.prepare()?.is_some()),
            Self::Window { .. } => Ok(false),
        }
    }

    /// Whether another token has a position within what the model was trained with. A window alone moves on for ever.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::Passages { reader, .. } => reader.has_room(),
            Self::Window { .. } => true,
        }
    }

    pub(super) fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        match self {
            Self::Passages { reader, .. } => reader.take_masses(),
            Self::Window { session: Session::Recall(attention), .. } => attention.take_masses(),
            Self::Window { .. } => Vec::new(),
        }
    }

    /// Whether a token says nothing that the question does not, if passages were found for one.
    pub(super) fn asks(&self, token: u32) -> bool {
        match self {
            Self::Passages { reader, .. } => reader.asks(token),
            Self::Window { .. } => false,
        }
    }

    pub(super) fn passages(&self) -> Option<(RecallMode, &[Passage])> {
        match self {
            Self::Passages { reader, .. } => Some((reader.mode(), reader.passages())),
            Self::Window { .. } => None,
        }
    }
}
