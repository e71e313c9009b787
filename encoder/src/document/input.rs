//! Bytes of a document on their way to tokens.

use std::collections::VecDeque;
use std::sync::Arc;

use mnemon_memory::ResumePoint;
use mnemon_runtime::Model;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::tokenizer::{SafePoint, StreamTokenizer, Token};
use crate::utf8::{Utf8Stream, ceil_border};

/// Bytes given to the tokenizer at once.
const SLICE_BYTES: usize = 4 << 10;

/// A model's tokenizer, shared without copying its vocabulary.
struct ModelTokenizer(Arc<Model>);

impl AsRef<Tokenizer> for ModelTokenizer {
    fn as_ref(&self) -> &Tokenizer {
        self.0.tokenizer()
    }
}

/// Text that was received, and the tokens made of it that the model has not read.
///
/// Text is tokenized only until a segment is full, so that what is held does not exceed one pushed piece, one
/// segment, and what the tokenizer keeps back.
pub(super) struct Input {
    utf8: Utf8Stream,
    /// Text not given to the tokenizer yet, from `pending_at` on.
    pending: String,
    pending_at: usize,
    tokenizer: StreamTokenizer<ModelTokenizer>,
    /// Tokens not read, from `next_token` on.
    tokens: VecDeque<Token>,
    next_token: u64,
    /// Tokens that the tokenizer will find again, to be dropped.
    skip_tokens: u64,
    /// Safe points from which nothing but durable text is needed, and later ones; the first is the one to record.
    safe_points: VecDeque<SafePoint>,
    ending: bool,
    ended: bool,
}

impl Input {
    /// Continues at `safe` after the character `before`, with `tokens` from `next_token` on in hand. Bytes received
    /// are those from `received_bytes` of the document on.
    pub(super) fn new(
        model: Arc<Model>,
        safe: SafePoint,
        before: Option<char>,
        (tokens, next_token, skip_tokens): (Vec<Token>, u64, u64),
        received_bytes: u64,
    ) -> Self {
        Self {
            utf8: Utf8Stream::starting_at(received_bytes),
            pending: String::new(),
            pending_at: 0,
            tokenizer: StreamTokenizer::restart(ModelTokenizer(model), safe, before),
            tokens: tokens.into(),
            next_token,
            skip_tokens,
            safe_points: VecDeque::from([safe]),
            ending: false,
            ended: false,
        }
    }

    /// Takes bytes; the text before an invalid one is kept.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.ending {
            return Err(Error::Finished);
        }
        if self.pending_at == self.pending.len() {
            self.pending.clear();
            self.pending_at = 0;
        }
        self.utf8.push(bytes, &mut self.pending)
    }

    /// No more bytes will come.
    pub(super) fn end(&mut self) -> Result<()> {
        self.ending = true;
        self.utf8.finish()
    }

    /// Gives text to the tokenizer, and to `kept`, until `wanted` tokens are there or the text runs out.
    pub(super) fn fill(&mut self, wanted: usize, mut kept: impl FnMut(&str)) -> Result<()> {
        while self.tokens.len() < wanted && self.pending_at < self.pending.len() {
            let end = ceil_border(&self.pending, self.pending_at + SLICE_BYTES);
            let slice = &self.pending[self.pending_at..end];
            kept(slice);
            let tokens = self.tokenizer.push(slice)?;
            self.pending_at = end;
            self.take(tokens);
        }
        if self.ending && !self.ended && self.pending_at == self.pending.len() {
            let tokens = self.tokenizer.finish()?;
            self.take(tokens);
            self.pending = String::new();
            self.pending_at = 0;
            self.ended = true;
        }
        Ok(())
    }

    /// Tokenizes text that is stored already.
    pub(super) fn replay(&mut self, text: &str) -> Result<()> {
        let tokens = self.tokenizer.push(text)?;
        self.take(tokens);
        Ok(())
    }

    fn take(&mut self, tokens: Vec<Token>) {
        let skipped = self.skip_tokens.min(tokens.len() as u64);
        self.skip_tokens -= skipped;
        self.tokens.extend(tokens.into_iter().skip(skipped as usize));
        if self.safe_points.back() != Some(&self.tokenizer.safe_point()) {
            self.safe_points.push_back(self.tokenizer.safe_point());
        }
    }

    /// The next tokens, `count` or as many as there are.
    pub(super) fn next(&mut self, count: usize) -> Vec<Token> {
        let count = count.min(self.tokens.len());
        self.next_token += count as u64;
        self.tokens.drain(..count).collect()
    }

    /// Tokens waiting.
    pub(super) fn waiting_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Index of the first token waiting.
    pub(super) fn next_token(&self) -> u64 {
        self.next_token
    }

    /// Whether all text received went to the tokenizer.
    pub(super) fn is_drained(&self) -> bool {
        self.pending_at == self.pending.len()
    }

    /// Whether the last token of the document is there.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Bytes of the document received.
    pub(super) fn received_bytes(&self) -> u64 {
        self.utf8.received_bytes()
    }

    /// Bytes held.
    pub(super) fn held_bytes(&self) -> usize {
        self.pending.len() + self.tokenizer.held_back_bytes() + self.tokens.len() * size_of::<Token>()
    }

    /// Tokens that no further text changes, as far as is known.
    pub(super) fn safe_token(&self) -> u64 {
        self.tokenizer.safe_point().token
    }

    /// From where tokenizing may start again when `durable_tokens` tokens, whose text ends at `durable_bytes`, are in
    /// the store: the last safe point that these suffice to establish.
    pub(super) fn resume_point(&mut self, durable_tokens: u64, durable_bytes: u64, complete: bool) -> ResumePoint {
        let needed = self.tokenizer.lookahead_bytes() as u64;
        let suffices = |safe: &SafePoint| safe.token <= durable_tokens && safe.byte + needed <= durable_bytes;
        while self.safe_points.get(1).is_some_and(suffices) {
            self.safe_points.pop_front();
        }
        let safe = self.safe_points.front().copied().unwrap_or_default();
        ResumePoint { safe_byte: safe.byte, safe_token: safe.token, complete }
    }
}
