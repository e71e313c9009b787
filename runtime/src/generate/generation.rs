//! Generation of a text, pulled step by step.

use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory::{ChunkId, Invalid};

use super::reading::Reading;
use super::sampler::Sampler;
use super::stop::StopFinder;
use super::{Detokenizer, MemoryFrom, SamplingOptions};
use crate::error::{Error, Result};
use crate::model::{Logits, Model};
use crate::passages::{Passage, Prompt, ReadStep};
use crate::profile::RecallMode;

/// What to generate.
#[derive(Clone)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How they are drawn.
    pub sampling: SamplingOptions,
    /// Texts at which generation stops; they are not part of the result. At most 16 of 1 to 1024 bytes.
    pub stop: Vec<String>,
    /// Memory.
    pub memory: MemoryFrom,
    /// Positions that a pretrained model may use, at most those that it was trained with; its reading window when `None`
    /// (with passages, all that it was trained with).
    pub context_tokens: Option<usize>,
    /// Tokens that a prompt may have.
    pub prompt_tokens_max: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            memory: MemoryFrom::Nothing,
            context_tokens: None,
            prompt_tokens_max: 32_768,
        }
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text.
    EndOfText,
    /// A stop text appeared.
    Stop,
    /// `max_tokens` were generated, or the positions that the model was trained with are used up.
    Length,
}

/// What one step of a [`Generation`] did.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateStep {
    /// A piece of the prompt was read.
    Prefill {
        /// Tokens read.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was drawn.
    Token {
        /// The token.
        id: u32,
        /// Text that became complete with it; may be empty.
        text: String,
        /// Attention mass of the recalled chunks behind this token, largest first; for the first token, that of the
        /// last piece of the prompt.
        masses: Vec<(ChunkId, f32)>,
        /// Whether passages were found for a question that has this word too, or the token is no word: what is behind it says little about where
        /// the answer stands.
        is_asked: bool,
    },
    /// The end; returned again by every later step, then with empty text.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that had been held back.
        text: String,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens generated, without the one that ends the text.
        generated_tokens: usize,
    },
}

/// Where a generation stands.
enum Phase {
    /// The prompt is being read.
    Prefill,
    /// The next token is drawn from these logits, `[1, vocab]`.
    Draw(Tensor),
    /// This token was drawn; the model has not seen it yet.
    Feed(u32),
    Finished(FinishReason),
    /// A step failed: the state of the sequence is unknown.
    Failed,
}

/// Generation of a text, pulled step by step; each does one bounded piece of work: a block of the prompt, or a token.
/// A fresh sequence: what leaves the local window is forgotten; only the memory given is recalled.
pub struct Generation {
    model: Arc<Model>,
    reading: Reading,
    /// Of the prompt that is read: where memory is left out, it has no words around passages.
    prompt_tokens: usize,
    /// Tokens of it that were told as read.
    read: usize,
    max_tokens: usize,
    generated: usize,
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopFinder,
    phase: Phase,
}

impl Generation {
    /// Checks the options; computes nothing yet.
    pub fn new(model: Arc<Model>, prompt: Prompt, options: GenerateOptions) -> Result<Self> {
        if prompt.len() > options.prompt_tokens_max {
            return Err(Error::PromptTooLong { tokens: prompt.len(), limit: options.prompt_tokens_max });
        }
        let sampler = Sampler::new(&options.sampling)?;
        Ok(Self {
            prompt_tokens: prompt.len(),
            read: 0,
            reading: Reading::new(&model, prompt, options.memory, options.context_tokens, false)?,
            model,
            max_tokens: options.max_tokens,
            generated: 0,
            sampler,
            detokenizer: Detokenizer::new(),
            stop: StopFinder::new(options.stop)?,
            phase: Phase::Prefill,
        })
    }

    /// One bounded piece of work. After an error, every later step fails.
    pub fn step(&mut self) -> Result<GenerateStep> {
        match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Prefill => self.prefill(),
            Phase::Draw(logits) => self.draw(&logits),
            Phase::Feed(id) => {
                let logits = self.reading.feed(&[id], Logits::Last)?;
                self.draw(&logits)
            }
            Phase::Finished(reason) => {
                self.phase = Phase::Finished(reason);
                Ok(self.finished(reason, String::new()))
            }
            Phase::Failed => Err(Error::Invalid(Invalid { what: "generation", why: "an earlier step failed".into() })),
        }
    }

    fn prefill(&mut self) -> Result<GenerateStep> {
        Ok(match self.reading.step()? {
            ReadStep::More(done, total) => {
                self.phase = Phase::Prefill;
                self.prompt_tokens = total;
                // Where memory is left out, reading begins again.
                self.read = self.read.max(done).min(total);
                GenerateStep::Prefill { done: self.read, total }
            }
            ReadStep::Done(logits) => {
                for id in self.reading.prompt() {
                    self.sampler.saw(id);
                }
                self.phase = Phase::Draw(logits);
                GenerateStep::Prefill { done: self.prompt_tokens, total: self.prompt_tokens }
            }
        })
    }

    fn draw(&mut self, logits: &Tensor) -> Result<GenerateStep> {
        if self.generated == self.max_tokens || !self.reading.has_room() {
            return self.finish(FinishReason::Length);
        }
        let masses = self.reading.take_masses();
        let id = self.sampler.draw(&logits.squeeze(0)?)?;
        if self.model.config().eos_tokens.contains(&id) {
            return self.finish(FinishReason::EndOfText);
        }
        self.generated += 1;
        let complete = self.detokenizer.push(self.model.tokenizer(), id)?;
        let (text, stopped) = self.stop.push(&complete);
        if stopped {
            self.phase = Phase::Finished(FinishReason::Stop);
            return Ok(self.finished(FinishReason::Stop, text));
        }
        self.phase = Phase::Feed(id);
        if self.generated == self.max_tokens {
            // The next step ends it without another forward pass.
            self.phase = Phase::Draw(logits.clone());
        }
        let is_asked = self.reading.asks(id);
        Ok(GenerateStep::Token { id, text, masses, is_asked })
    }

    /// Ends the text; what was held back comes out, unless a stop text begins in it.
    fn finish(&mut self, reason: FinishReason) -> Result<GenerateStep> {
        let rest = self.detokenizer.finish(self.model.tokenizer())?;
        let (mut text, stopped) = self.stop.push(&rest);
        let reason = if stopped { FinishReason::Stop } else { reason };
        text.push_str(&self.stop.finish());
        self.phase = Phase::Finished(reason);
        Ok(self.finished(reason, text))
    }

    fn finished(&self, reason: FinishReason, text: String) -> GenerateStep {
        GenerateStep::Finished { reason, text, prompt_tokens: self.prompt_tokens, generated_tokens: self.generated }
    }

    /// The way in which passages are used, and the passages in use, best first; `None` without passages.
    pub fn passages(&self) -> Option<(RecallMode, &[Passage])> {
        self.reading.passages()
    }
}
