//! Captured keys and values, tokens and text, packed into chunks.

use std::collections::{BTreeMap, VecDeque};

use mnemon_memory::{Invalid, KvChunk, KvGeometry, SourceSpan, Turn};
use mnemon_runtime::Captured;

use crate::error::{Error, Result};
use crate::tokenizer::Token;

/// Tokens that the model has read and that are not in a chunk yet, with their text.
///
/// Holds at most the tokens of the window, a chunk and a segment.
#[derive(Default)]
pub(super) struct Packer {
    /// Tokens read, from `next_token` on.
    tokens: VecDeque<Token>,
    /// Index in the document of the first of them.
    next_token: u64,
    /// Text from `text_start` on, as far as it came.
    text: String,
    /// Byte of the document at which `text` starts.
    text_start: u64,
    /// Turns that go on to `text_start` or start later, with the byte of the document at which they start.
    turns: VecDeque<(u64, BTreeMap<String, String>)>,
}

impl Packer {
    /// Starts at a token whose text starts at `byte`.
    pub(super) fn new(token: u64, byte: u64) -> Self {
        Self { next_token: token, text_start: byte, ..Self::default() }
    }

    /// Text that follows.
    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Starts a turn at byte `at` of the document, after the earlier ones. Consecutive turns with equal metadata are merged.
    pub(super) fn push_turn(&mut self, at: u64, metadata: BTreeMap<String, String>) {
        // A turn without text is none.
        if self.turns.back().is_some_and(|(last, _)| *last == at) {
            self.turns.pop_back();
        }
        if self.turns.back().is_none_or(|(_, last)| *last != metadata) {
            self.turns.push_back((at, metadata));
        }
    }

    /// Metadata of the last turn.
    pub(super) fn last_turn(&self) -> Option<&BTreeMap<String, String>> {
        self.turns.back().map(|(_, metadata)| metadata)
    }

    /// Tokens that the model has read.
    pub(super) fn push_tokens(&mut self, tokens: impl Iterator<Item = Token>) {
        self.tokens.extend(tokens);
    }

    /// Index of the first token that is in no chunk.
    pub(super) fn next_token(&self) -> u64 {
        self.next_token
    }

    /// Bytes of text held.
    pub(super) fn held_bytes(&self) -> usize {
        self.text.len() + self.tokens.len() * size_of::<Token>()
    }

    /// Cuts `captured` into chunks and hands those from token `keep` on to `sink`; earlier ones are in the store.
    pub(super) fn pack(
        &mut self,
        captured: &Captured,
        geometry: &KvGeometry,
        keep: u64,
        mut sink: impl FnMut(KvChunk) -> Result<()>,
    ) -> Result<()> {
        if captured.token_start != self.next_token || captured.len > self.tokens.len() {
            return Err(Error::Invalid(Invalid {
                what: "captured tokens",
                why: format!(
                    "{} from {} on, where {} from {} on were read",
                    captured.len,
                    captured.token_start,
                    self.tokens.len(),
                    self.next_token
                ),
            }));
        }
        let mut from = 0;
        while from < captured.len {
            let to = captured.len.min(from + geometry.chunk_tokens as usize);
            let span = SourceSpan {
                byte_start: self.tokens[0].byte_start,
                byte_end: self.tokens[to - from - 1].byte_end,
                token_start: self.next_token,
                token_end: self.next_token + (to - from) as u64,
            };
            let tokens = self.tokens.drain(..to - from).map(|token| token.id).collect();
            self.next_token = span.token_end;
            if span.token_start >= keep {
                let heads = geometry.kv_heads as usize;
                let rows = |all: &[Vec<f32>], heads, width| {
                    all.iter().map(|layer| columns(layer, heads, captured.len, width, from..to)).collect()
                };
                let head_dim = geometry.head_dim as usize;
                let text = self.take_text(&span)?;
                let turns = self.turns_of(&span);
                sink(KvChunk {
                    span,
                    tokens,
                    text,
                    keys: rows(&captured.keys, heads, head_dim),
                    values: rows(&captured.values, heads, head_dim),
                    importance: rows(&captured.importance, heads, 1),
                    lone_keys: rows(&captured.lone_keys, 1, head_dim),
                    turns,
                })?;
            }
            from = to;
        }
        Ok(())
    }

    /// Turns that the text at `span` is of; those that end before are forgotten.
    fn turns_of(&mut self, span: &SourceSpan) -> Vec<Turn> {
        while self.turns.get(1).is_some_and(|(start, _)| *start <= span.byte_start) {
            self.turns.pop_front();
        }
        let within = self.turns.iter().take_while(|(start, _)| *start < span.byte_end.max(span.byte_start + 1));
        let turns = within.map(|(start, metadata)| Turn {
            start: start.saturating_sub(span.byte_start) as u32,
            metadata: metadata.clone(),
        });
        // An empty one tells only where another ends.
        turns.enumerate().filter(|(at, turn)| *at > 0 || !turn.metadata.is_empty()).map(|(_, turn)| turn).collect()
    }

    fn take_text(&mut self, span: &SourceSpan) -> Result<String> {
        let end = span.byte_end.saturating_sub(self.text_start) as usize;
        if span.byte_start != self.text_start || !self.text.is_char_boundary(end) {
            let why = format!("{}..{} of text from {} on", span.byte_start, span.byte_end, self.text_start);
            return Err(Error::Invalid(Invalid { what: "span of a chunk", why }));
        }
        self.text_start = span.byte_end;
        let rest = self.text.split_off(end);
        Ok(std::mem::replace(&mut self.text, rest))
    }
}

/// Tokens `range` of `[heads, len, width]`, as `[heads, range, width]`.
fn columns(data: &[f32], heads: usize, len: usize, width: usize, range: std::ops::Range<usize>) -> Vec<f32> {
    let mut cut = Vec::with_capacity(heads * range.len() * width);
    for head in data.chunks_exact((len * width).max(1)).take(heads) {
        cut.extend_from_slice(&head[range.start * width..range.end * width]);
    }
    cut
}
