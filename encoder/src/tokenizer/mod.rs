//! Incremental tokenizing: the same tokens as encoding the whole text at once, in bounded memory.
//!
//! Text is kept from the last *safe cut* on. A cut is safe when tokens before it cannot change with text that
//! follows, and tokens after it can be computed without the text before it; see [`cut`](self::cut) for how that is
//! established. Where 64 KiB hold no safe cut (a file without spaces, say), the text is cut anyway. All decisions
//! depend on the text alone, never on how it was split into pieces, so that even then the tokens are the same for
//! every split.

mod cut;
mod plain;

use tokenizers::Tokenizer;

use self::plain::{Piece, PlainText};
use crate::error::{Error, Result};
use crate::utf8::{ceil_border, floor_border};

/// Bytes collected before a safe cut is looked for.
const STEP_BYTES: usize = 2 << 10;

/// Bytes kept back at most; a text without a safe cut in as many is cut anyway.
pub const HELD_BACK_BYTES_MAX: usize = 64 << 10;

/// One token and the text it stands for.
///
/// Spans of consecutive tokens touch and cover the whole text. They begin and end at character borders: of the tokens
/// that share one character, the last spans it and the others are empty, so that a border between two of them falls
/// before the character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// First byte, counted from the document's start.
    pub byte_start: u64,
    /// One past the last byte.
    pub byte_end: u64,
}

/// Where tokenizing may start again: the tokens before are final, those after depend on the text after (and on the one
/// character before).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SafePoint {
    /// Byte of the document.
    pub byte: u64,
    /// Index in the document of the token that starts there.
    pub token: u64,
}

/// Tokenizes a document that arrives in pieces.
///
/// The tokens are those of encoding the whole text at once without adding special tokens, with one difference:
/// special tokens in the text (`</s>`, `<|im_end|>`) are plain text. What a user writes must not turn into control
/// tokens. Tokens added to the vocabulary without being declared special are kept.
///
/// Equality with encoding at once holds for pre-tokenizers that match from left to right without looking behind
/// (all of GPT-2, Llama 3, Qwen, Metaspace) and for byte-pair and unigram vocabularies without a pre-tokenizer
/// (Llama 2, Mistral), unless 64 KiB of text hold no safe cut.
pub struct StreamTokenizer<T> {
    plain: PlainText<T>,
    /// Text from the last cut on: at most [`HELD_BACK_BYTES_MAX`] and one character.
    buffer: String,
    /// The character before the cut; none at the document's start.
    before: Option<char>,
    /// What is written before the buffer when it is encoded; chosen as soon as there is text after the cut.
    context: Option<String>,
    safe: SafePoint,
    /// Bytes at which a cut is looked for next.
    wanted_bytes: usize,
    finished: bool,
}

impl<T: AsRef<Tokenizer>> StreamTokenizer<T> {
    /// Starts a document.
    pub fn new(tokenizer: T) -> Self {
        Self::restart(tokenizer, SafePoint::default(), None)
    }

    /// Continues a document at an earlier [`safe_point`](Self::safe_point). `before` is the character that ends there,
    /// none at byte 0; the text pushed next is that from `safe.byte` on.
    pub fn restart(tokenizer: T, safe: SafePoint, before: Option<char>) -> Self {
        Self {
            plain: PlainText::new(tokenizer),
            buffer: String::new(),
            before,
            context: before.is_none().then(String::new),
            safe,
            wanted_bytes: STEP_BYTES,
            finished: false,
        }
    }

    /// Takes text and returns the tokens that have become final.
    pub fn push(&mut self, mut text: &str) -> Result<Vec<Token>> {
        if self.finished {
            return Err(Error::Finished);
        }
        let mut tokens = Vec::new();
        while !text.is_empty() {
            let missing = self.wanted_bytes.saturating_sub(self.buffer.len());
            let (taken, rest) = text.split_at(ceil_border(text, missing));
            self.buffer.push_str(taken);
            text = rest;
            if self.buffer.len() >= self.wanted_bytes {
                self.cut(&mut tokens)?;
            }
        }
        Ok(tokens)
    }

    /// Ends the text and returns the remaining tokens. More text may follow in another [`StreamTokenizer`] that restarts at the
    /// safe point, which comes as near to the end as can be told.
    pub fn finish(&mut self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        if !self.finished && !self.buffer.is_empty() {
            let pieces = self.encode(self.buffer.len())?;
            if let Some(cut) = cut::find(&mut self.plain, &self.buffer, &pieces)? {
                self.cut_before(cut, &pieces, &mut tokens)?;
            }
            let end = self.buffer.len();
            let pieces = self.encode(end)?;
            self.emit(&pieces, end, &mut tokens)?;
        }
        self.finished = true;
        self.buffer = String::new();
        Ok(tokens)
    }

    /// The last place where tokenizing may start again.
    pub fn safe_point(&self) -> SafePoint {
        self.safe
    }

    /// Bytes of text that are kept back now.
    pub fn held_back_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes after a cut that it takes to establish it.
    pub(crate) fn lookahead_bytes(&self) -> usize {
        cut::lookahead_bytes(&self.plain)
    }

    /// Looks for a cut in the first `wanted_bytes` of the buffer; moves it there, or asks for more text.
    fn cut(&mut self, tokens: &mut Vec<Token>) -> Result<()> {
        let end = floor_border(&self.buffer, self.wanted_bytes);
        let pieces = self.encode(end)?;
        let cut = match cut::find(&mut self.plain, &self.buffer[..end], &pieces)? {
            None if self.wanted_bytes < HELD_BACK_BYTES_MAX => {
                self.wanted_bytes *= 2;
                return Ok(());
            }
            None => cut::force(&self.plain, &self.buffer[..end], &pieces)
                .ok_or(Error::Unrepresentable { byte_start: self.safe.byte, byte_end: self.safe.byte + end as u64 })?,
            Some(cut) => cut,
        };
        self.cut_before(cut, &pieces, tokens)?;
        self.wanted_bytes = STEP_BYTES;
        Ok(())
    }

    /// Moves the safe point before piece `cut` of the buffer.
    fn cut_before(&mut self, cut: usize, pieces: &[Piece], tokens: &mut Vec<Token>) -> Result<()> {
        let byte = pieces[cut].start;
        self.emit(&pieces[..cut], byte, tokens)?;
        self.before = self.buffer[..byte].chars().next_back();
        self.context = None;
        self.buffer.drain(..byte);
        self.safe = SafePoint { byte: self.safe.byte + byte as u64, token: self.safe.token + cut as u64 };
        Ok(())
    }

    /// Tokens of the first `end` bytes of the buffer, relative to it.
    fn encode(&mut self, end: usize) -> Result<Vec<Piece>> {
        let text = &self.buffer[..end];
        let context = match self.context.take() {
            Some(context) => context,
            None => cut::context(&self.plain, self.before, text)?,
        };
        let pieces = cut::encode_after(&self.plain, &context, text)?;
        self.context = Some(context);
        Ok(pieces)
    }

    /// Makes `pieces`, which stand for the first `end` bytes of the buffer, touch and counts their bytes from the
    /// document's start.
    fn emit(&self, pieces: &[Piece], end: usize, tokens: &mut Vec<Token>) -> Result<()> {
        if pieces.is_empty() && self.safe.token > 0 {
            let byte_start = self.safe.byte;
            return Err(Error::Unrepresentable { byte_start, byte_end: byte_start + end as u64 });
        }
        let starts = pieces.iter().enumerate().map(|(index, piece)| if index == 0 { 0 } else { piece.start });
        let ends = pieces.iter().skip(1).map(|piece| piece.start).chain([end]);
        tokens.extend(pieces.iter().zip(starts.zip(ends)).map(|(piece, (from, to))| Token {
            id: piece.id,
            byte_start: self.safe.byte + from as u64,
            byte_end: self.safe.byte + to as u64,
        }));
        Ok(())
    }
}
