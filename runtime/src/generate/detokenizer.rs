//! Streaming text from tokens.

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Tokens held back at most while a character is incomplete. A character has at most four bytes, so more tokens than
/// this that do not complete one are simply not valid UTF-8.
const HELD_MAX: usize = 16;

/// Turns tokens into text as they come. Text is given out once it cannot change any more: characters whose bytes are
/// split over tokens come out whole. The pieces joined are what the tokenizer makes of all tokens at once.
#[derive(Debug, Default)]
pub struct Detokenizer {
    /// Tokens that were given out last, as context (tokenizers differ between first and later tokens), and behind
    /// them those that are held back.
    ids: Vec<u32>,
    /// How many of them were given out.
    given: usize,
    /// Their text.
    context: String,
}

impl Detokenizer {
    /// At the beginning of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// Text that is complete with `id`; may be empty. Special tokens have none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = decode(tokenizer, &self.ids)?;
        let held = self.ids.len() - self.given;
        if text.ends_with(char::REPLACEMENT_CHARACTER) && held < HELD_MAX {
            return Ok(String::new());
        }
        match text.get(self.context.len()..).filter(|new| !new.is_empty()) {
            None if held < HELD_MAX => Ok(String::new()),
            new => {
                let new = new.unwrap_or_default().to_owned();
                self.ids.drain(..self.given);
                self.given = self.ids.len();
                self.context = decode(tokenizer, &self.ids)?;
                Ok(new)
            }
        }
    }

    /// Text that is still held back: an incomplete character comes out as a replacement character.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        let text = decode(tokenizer, &self.ids)?;
        let rest = text.get(self.context.len()..).unwrap_or_default().to_owned();
        *self = Self::default();
        Ok(rest)
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Result<String> {
    tokenizer.decode(ids, true).map_err(|error| Error::Tokenizer { why: error.to_string() })
}
