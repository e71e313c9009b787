//! The probability of a text.

use std::sync::Arc;

use mnemon_memory::Invalid;

use super::reading::Reading;
use super::{BLOCK_TOKENS, MemoryFrom};
use crate::error::{Error, Result};
use crate::host::host_values;
use crate::model::{Logits, Model};
use crate::passages::{Passage, Prompt, encode};
use crate::profile::RecallMode;

/// Logits in memory at once: vocabularies may be large.
const LOGITS_MAX: usize = 1 << 22;

/// Tokens of a context that passages are found by at first.
const QUESTION_TOKENS: usize = 128;

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
        /// Tokens scored: those of the text, but for the first when nothing stands before it.
        tokens: usize,
        /// Sum of their natural log-probabilities. Perplexity is `exp(-log_probability / tokens)`.
        log_probability: f64,
        /// Bytes of the scored tokens' text. Bits per byte are `-log_probability / ln(2) / bytes`.
        bytes: usize,
    },
}

/// The probability of a text, computed step by step, in a fresh sequence.
pub struct Scoring {
    model: Arc<Model>,
    reading: Reading,
    tokens: Vec<u32>,
    done: usize,
    /// First token that is scored; it has at least one before it.
    first: usize,
    bytes: usize,
    log_probability: f64,
    failed: bool,
}

impl Scoring {
    /// Tokenizes `context` and `text` as one; computes nothing yet. What begins in the context is read, not scored.
    pub fn new(model: Arc<Model>, context: &str, text: &str, memory: MemoryFrom) -> Result<Self> {
        Self::within(model, context, text, memory, None)
    }

    /// [`new`](Self::new) in at most `context_tokens` positions, for a pretrained model (see
    /// [`GenerateOptions`](crate::GenerateOptions)).
    pub fn within(
        model: Arc<Model>,
        context: &str,
        text: &str,
        memory: MemoryFrom,
        context_tokens: Option<usize>,
    ) -> Result<Self> {
        let encoding = encode(&model, &[context, text].concat())?;
        let special = encoding.get_special_tokens_mask();
        // What the tokenizer put around the text is not part of it.
        let added = |mask: &u32, offsets: &(usize, usize)| *mask == 1 && offsets.0 == offsets.1;
        let around: Vec<bool> = special.iter().zip(encoding.get_offsets()).map(|(m, o)| added(m, o)).collect();
        let before = around.iter().take_while(|&&added| added).count();
        let after = around.iter().rev().take_while(|&&added| added).count();
        let end = encoding.len().saturating_sub(after).max(before);
        let tokens = encoding.get_ids().get(..end).unwrap_or_default().to_vec();
        if text.is_empty() || tokens.len() == before {
            return Err(Error::EmptyPrompt);
        }
        let starts = encoding.get_offsets().get(before..end).unwrap_or_default();
        let of_context = starts.iter().take_while(|&&(start, _)| start < context.len()).count();
        let first = (before + of_context).max(1);
        let bytes =
            encoding.get_offsets().get(first..end).and_then(|scored| Some(scored.last()?.1 - scored.first()?.0));
        // Passages are found by the end of the context at first, then by what was read last. They stand behind the token that
        // begins a sequence, if nothing is scored by it.
        let begins = tokens.first().is_some_and(|&id| first > 1 && model.config().bos_token == Some(id));
        let skipped = usize::from(begins && matches!(memory, MemoryFrom::Passages(_)));
        let asked = tokens.get(before + of_context.saturating_sub(QUESTION_TOKENS)..before + of_context);
        let after = asked.unwrap_or_default().to_vec();
        let question = 0..after.len();
        let prompt = Prompt { before: tokens[..skipped].to_vec(), question, after, without: None };
        Ok(Self {
            reading: Reading::new(&model, prompt, memory, context_tokens, true)?,
            model,
            tokens,
            done: skipped,
            first,
            bytes: bytes.unwrap_or_default(),
            log_probability: 0.0,
            failed: false,
        })
    }

    /// The way in which passages are used, and the passages in use, best first; `None` without passages.
    pub fn passages(&self) -> Option<(RecallMode, &[Passage])> {
        self.reading.passages()
    }

    /// One bounded piece of work. After an error, every later step fails.
    pub fn step(&mut self) -> Result<ScoreStep> {
        if self.failed {
            return Err(Error::Invalid(Invalid { what: "scoring", why: "an earlier step failed".into() }));
        }
        let total = self.tokens.len();
        // The last token is predicted, but predicts nothing.
        if self.done + 1 >= total {
            return Ok(ScoreStep::Finished {
                tokens: total.saturating_sub(self.first),
                log_probability: self.log_probability,
                bytes: self.bytes,
            });
        }
        self.failed = true;
        if self.reading.prepare()? {
            self.failed = false;
            return Ok(ScoreStep::Progress { done: 0, total });
        }
        let vocabulary = self.model.config().vocab_size;
        let block = (LOGITS_MAX / vocabulary).clamp(1, BLOCK_TOKENS);
        let end = (self.done + block).min(total - 1);
        let tokens = self.tokens.get(self.done..end).unwrap_or_default();
        let logits = self.reading.feed(tokens, Logits::All)?;
        let next = self.tokens.get(self.done + 1..=end).unwrap_or_default();
        let (done, first) = (self.done, self.first);
        let sum = host_values(&logits, |logits| {
            let rows = logits.chunks_exact(vocabulary).zip(next).enumerate();
            rows.filter(|(row, _)| done + row + 1 >= first).map(|(_, (row, &id))| log_probability(row, id)).sum::<f64>()
        })?;
        if !sum.is_finite() {
            return Err(Error::NotFinite);
        }
        self.log_probability += sum;
        self.done = end;
        self.failed = false;
        Ok(ScoreStep::Progress { done: if end + 1 == total { total } else { end }, total })
    }
}

/// Logarithm of the softmax of `logits` at `id`.
fn log_probability(logits: &[f32], id: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|logit| f64::from((logit - largest).exp())).sum();
    logits.get(id as usize).map_or(f64::NAN, |logit| f64::from(logit - largest) - total.ln())
}
