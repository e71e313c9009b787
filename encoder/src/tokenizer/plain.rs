//! Text to tokens as plain text: special tokens that occur in a user's text stay text.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use tokenizers::{AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use crate::error::{Error, Result};
use crate::utf8::floor_border;

/// Character pairs whose mergeability is remembered between borders.
const REMEMBERED_PAIRS_MAX: usize = 4096;

/// One token of an encoded text, bytes relative to that text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// Token id.
    pub(super) id: u32,
    /// First byte, rounded down to the start of its character; never below that of the piece before.
    pub(super) start: usize,
    /// One past the last byte, as the tokenizer reports it.
    pub(super) end: usize,
    /// Which pre-token it belongs to: no token ever spans two of them.
    pub(super) word: u32,
}

/// A tokenizer that treats special tokens in the text as plain text and adds none.
///
/// Added tokens that are not special (runs of spaces, letters missing from the vocabulary, and whatever else a
/// model's makers declared so) are recognised, since the model was trained with them.
pub(super) struct PlainText<T> {
    tokenizer: T,
    added: AddedVocabulary,
    /// Bytes of the longest added token.
    pub(super) longest_added: usize,
    /// Adjacent characters within the vocabulary's tokens; built when first needed.
    adjacent: OnceCell<HashSet<(char, char)>>,
    mergeable: HashMap<(char, char), bool>,
}

impl<T: AsRef<Tokenizer>> PlainText<T> {
    pub(super) fn new(tokenizer: T) -> Self {
        let mut added = tokenizer.as_ref().get_added_vocabulary().clone();
        added.set_encode_special_tokens(true);
        let longest_added = added.get_vocab().keys().map(String::len).max().unwrap_or(0);
        Self { tokenizer, added, longest_added, adjacent: OnceCell::new(), mergeable: HashMap::new() }
    }

    /// Normalised and split into pre-tokens.
    fn pre_tokenize(&self, text: &str) -> Result<PreTokenizedString> {
        let tokenizer = self.tokenizer.as_ref();
        let mut split = self.added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
        }
        Ok(split)
    }

    /// All tokens of `text`.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<Piece>> {
        let mut split = self.pre_tokenize(text)?;
        self.tokenizer.as_ref().get_model().tokenize_in_pretokenized(&mut split, None).map_err(failed)?;
        let encoding = split.into_encoding(None, 0, OffsetType::Byte).map_err(failed)?;
        let mut pieces = Vec::with_capacity(encoding.len());
        let mut least = 0;
        for ((&id, &(start, end)), &word) in
            encoding.get_ids().iter().zip(encoding.get_offsets()).zip(encoding.get_word_ids())
        {
            let start = floor_border(text, start).clamp(least, text.len());
            least = start;
            pieces.push(Piece { id, start, end: end.clamp(start, text.len()), word: word.unwrap_or(0) });
        }
        Ok(pieces)
    }

    /// Whether some token of the vocabulary holds `before` directly followed by `after`, as the tokenizer writes
    /// them. Where none does, no token can span the two.
    pub(super) fn may_merge(&mut self, before: char, after: char) -> Result<bool> {
        if let Some(&known) = self.mergeable.get(&(before, after)) {
            return Ok(known);
        }
        let written = (self.written(&before.to_string())?.chars().next_back(), self.written_after_newline(after)?);
        let may = match written {
            (Some(last), Some(first)) => self.adjacent().contains(&(last, first)),
            // Dropped or rewritten together with its neighbours: nothing is known.
            _ => true,
        };
        if self.mergeable.len() >= REMEMBERED_PAIRS_MAX {
            self.mergeable.clear();
        }
        self.mergeable.insert((before, after), may);
        Ok(may)
    }

    /// `text` as the model sees it after normalising, with one sign for spaces.
    fn written(&self, text: &str) -> Result<String> {
        let split = self.pre_tokenize(text)?;
        let parts = split.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(parts.iter().flat_map(|(part, ..)| part.chars()).map(one_space).collect())
    }

    /// The first sign of `character` where it does not start the text.
    fn written_after_newline(&self, character: char) -> Result<Option<char>> {
        let both = self.written(&format!("\n{character}"))?;
        let newline = self.written("\n")?;
        Ok(both.strip_prefix(&newline).and_then(|rest| rest.chars().next()))
    }

    fn adjacent(&self) -> &HashSet<(char, char)> {
        self.adjacent.get_or_init(|| {
            let mut pairs = HashSet::new();
            for token in self.tokenizer.as_ref().get_vocab(false).keys() {
                let signs = || token.chars().map(one_space);
                pairs.extend(signs().zip(signs().skip(1)));
            }
            pairs
        })
    }
}

/// `SentencePiece` writes a space as U+2581.
fn one_space(sign: char) -> char {
    if sign == ' ' { '\u{2581}' } else { sign }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of map_err")]
fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer { why: error.to_string() }
}
