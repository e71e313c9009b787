//! Text from a model, and the probability of a text.

use std::sync::Arc;

use mnemon_memory_store::ChunkId;

use crate::{Error, Model, RecallFrom, Result};

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Draw from so many of the most probable tokens.
    pub top_k: Option<usize>,
    /// Draw from the most probable tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Divides (multiplies, if negative) the logits of tokens of the last 256; 1 leaves them.
    pub repetition_penalty: f32,
    /// Seed: the same seed, prompt and options give the same text.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, repetition_penalty: 1.0, seed: 0 }
    }
}

/// What to generate.
#[derive(Clone)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// How they are drawn.
    pub sampling: SamplingOptions,
    /// Texts at which generation stops; they are not part of the result.
    pub stop: Vec<String>,
    /// Memory.
    pub recall: Option<RecallFrom>,
    /// Tokens that a prompt may have.
    pub prompt_tokens_max: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            sampling: SamplingOptions::default(),
            stop: Vec::new(),
            recall: None,
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
    /// `max_tokens` were generated.
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
        /// Attention mass of the recalled chunks behind this token.
        masses: Vec<(ChunkId, f32)>,
    },
    /// The end; returned again by every later step, then with empty text.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Text that had been held back.
        text: String,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens generated.
        generated_tokens: usize,
    },
}

/// Generation of a text, pulled step by step; one bounded piece of work each.
pub struct Generation {}

impl Generation {
    /// Tokenizes the prompt; computes nothing yet.
    pub fn new(model: Arc<Model>, prompt: &str, options: GenerateOptions) -> Result<Self> {
        let _ = (model, prompt, options);
        Err(Error::EmptyPrompt)
    }

    /// One bounded piece of work.
    pub fn step(&mut self) -> Result<GenerateStep> {
        Err(Error::EmptyPrompt)
    }
}

/// What one step of a [`Scoring`] did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScoreStep {
    /// A piece of the text was read.
    Progress {
        /// Tokens read.
        done: usize,
        /// Tokens of the text.
        total: usize,
    },
    /// The end; returned again by every later step.
    Finished {
        /// Tokens scored: all, or all but the first when the tokenizer adds no token before a text.
        tokens: usize,
        /// Sum of their natural log-probabilities.
        log_probability: f64,
        /// Bytes of the scored tokens' text.
        bytes: usize,
    },
}

/// The probability of a text, computed step by step.
pub struct Scoring {}

impl Scoring {
    /// Tokenizes the text; computes nothing yet.
    pub fn new(model: Arc<Model>, text: &str, recall: Option<RecallFrom>) -> Result<Self> {
        let _ = (model, text, recall);
        Err(Error::EmptyPrompt)
    }

    /// One bounded piece of work.
    pub fn step(&mut self) -> Result<ScoreStep> {
        Err(Error::EmptyPrompt)
    }
}

/// Streaming text from tokens.
pub struct Detokenizer {}
