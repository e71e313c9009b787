//! Keeps control tokens that a user, a document or a tool spells from being read as control tokens.
//!
//! Before a template is rendered, a mark is put into every control token that stands in what others wrote; the tokenizer recognises the control
//! tokens of the rendered text, which are the template's own then, and the marks are taken out of what is between them.

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use tokenizers::{AddedVocabulary, Encoding, Model as _, OffsetType, PreTokenizedString, PreTokenizer as _, Tokenizer};

use crate::error::{Error, Result};

/// Breaks a control token. A noncharacter of Unicode: no text for interchange has it.
const HIDE: char = '\u{FDD0}';
/// Where passages go, in a rendered text.
pub(crate) const PLACE: char = '\u{FDD1}';

/// Whether a character is one of the marks.
pub(super) fn is_mark(sign: char) -> bool {
    matches!(sign, HIDE | PLACE)
}

/// The control tokens of a tokenizer.
#[derive(Debug)]
pub(crate) struct Shield {
    /// Those that are special, and those that look like tags.
    all: Finder,
    /// Those that are special. An assistant's own text may hold tags that templates look for, as those around its reasoning.
    special: Finder,
    /// Added tokens of a text in which special tokens are text.
    plain: AddedVocabulary,
}

#[derive(Debug)]
struct Finder {
    tokens: Vec<String>,
    search: AhoCorasick,
}

impl Finder {
    fn new(mut tokens: Vec<String>) -> Result<Self> {
        tokens.retain(|token| !token.trim().is_empty());
        tokens.sort_unstable();
        tokens.dedup();
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            // A template may write in lower case what it is given.
            .ascii_case_insensitive(true)
            .build(&tokens)
            .map_err(|error| Error::Tokenizer { why: error.to_string() })?;
        Ok(Self { tokens: tokens.into_iter().map(|token| token.to_ascii_lowercase()).collect(), search })
    }

    /// A text in which tokens are broken; with `edges`, also what could become one with what stands around it.
    fn hide(&self, text: &str, edges: bool) -> String {
        let text: String =
            text.chars().map(|sign| if is_mark(sign) { char::REPLACEMENT_CHARACTER } else { sign }).collect();
        let first = |at: usize| at + text[at..].chars().next().map_or(0, char::len_utf8);
        let mut marks: Vec<usize> =
            self.search.find_overlapping_iter(&text).map(|found| first(found.start())).collect();
        // What the template writes around it could complete a token.
        let inner = text.trim();
        if edges && !inner.is_empty() {
            let begin = text.len() - text.trim_start().len();
            let lower = inner.to_ascii_lowercase();
            let (completes, begins, within) =
                self.tokens.iter().fold((false, false, false), |(completes, begins, within), token| {
                    (
                        completes || overlap(token, &lower),
                        begins || overlap(&lower, token),
                        within || token.contains(&lower),
                    )
                });
            if completes || within {
                marks.push(begin);
            }
            if begins || within {
                marks.push(begin + inner.len());
            }
        }
        marks.sort_unstable();
        marks.dedup();
        let mut hidden = String::with_capacity(text.len() + marks.len() * HIDE.len_utf8());
        let mut from = 0;
        for mark in marks {
            hidden.push_str(&text[from..mark]);
            hidden.push(HIDE);
            from = mark;
        }
        hidden.push_str(&text[from..]);
        hidden
    }
}

/// Whether a text ends with a beginning of another that is neither empty nor all of it.
fn overlap(text: &str, other: &str) -> bool {
    let longest = text.len().min(other.len().saturating_sub(1));
    (1..=longest).any(|length| other.is_char_boundary(length) && text.ends_with(&other[..length]))
}

/// Tokens of a rendered template, in which control tokens are recognised but where they are hidden; nothing is added around it. Offsets
/// are bytes of the text with its marks.
pub(crate) fn encode_rendered(tokenizer: &Tokenizer, text: &str) -> Result<Encoding> {
    let mut split = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
    if text.contains(is_mark) {
        split
            .normalize(|part| {
                part.filter(|sign| !is_mark(sign));
                Ok(())
            })
            .map_err(failed)?;
    }
    encode(tokenizer, split)
}

fn encode(tokenizer: &Tokenizer, mut split: PreTokenizedString) -> Result<Encoding> {
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
    }
    split.tokenize(|part| tokenizer.get_model().tokenize(part.get())).map_err(failed)?;
    split.into_encoding(None, 0, OffsetType::Byte).map_err(failed)
}

impl Shield {
    /// Of the tokens that this tokenizer recognises whole.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|token| token.special).map(|token| token.content.clone()).collect();
        let is_tag = |content: &str| {
            let inner = content.trim();
            let closes = |open, close| inner.len() > 2 && inner.starts_with(open) && inner.ends_with(close);
            closes('<', '>') || closes('[', ']')
        };
        let all = added.values().filter(|token| token.special || is_tag(&token.content));
        let all = Finder::new(all.map(|token| token.content.clone()).collect())?;
        let mut plain = tokenizer.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        Ok(Self { all, special: Finder::new(special)?, plain })
    }

    /// A text of which no control token is recognised.
    pub(crate) fn hide(&self, text: &str) -> String {
        self.all.hide(text, true)
    }

    /// The text of an assistant: tags that are no special tokens stay.
    pub(crate) fn hide_special(&self, text: &str) -> String {
        self.special.hide(text, true)
    }

    /// Tokens of a text in which special tokens are text; `around` adds what the tokenizer puts around a text.
    pub(crate) fn encode_text(&self, tokenizer: &Tokenizer, text: &str, around: bool) -> Result<Encoding> {
        let split = self.plain.extract_and_normalize(tokenizer.get_normalizer(), text);
        let encoding = encode(tokenizer, split)?;
        tokenizer.post_process(encoding, None, around).map_err(failed)
    }

    /// A short text that templates compare, such as a name: only whole control tokens are broken.
    pub(crate) fn hide_name(&self, text: &str) -> String {
        self.all.hide(text, false)
    }

    /// A value in whose texts and keys whole control tokens are broken: templates look for keys such as `text`, which are parts of some.
    pub(crate) fn hide_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.hide_name(text)),
            Value::Array(items) => items.iter().map(|item| self.hide_value(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (self.hide_name(key), self.hide_value(value))).collect())
            }
            other => other.clone(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of map_err")]
fn failed(error: tokenizers::Error) -> Error {
    Error::Tokenizer { why: error.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn finder(tokens: &[&str]) -> Finder {
        Finder::new(tokens.iter().map(|&token| token.into()).collect()).unwrap()
    }

    #[test]
    fn control_tokens_are_broken_wherever_they_stand() {
        let finder = finder(&["<|end|>", "<s>", "|><", "<|End|>x"]);
        let shown = |text: &str| finder.hide(text, true).replace(HIDE, "~");
        assert_eq!(shown("plain < text > | of no token"), "plain < text > | of no token");
        assert_eq!(shown("a<|end|>b<s>c"), "a<~|end|>b<~s>c");
        assert_eq!(shown("a<|END|>X b"), "a<~|END|>X b", "a template may lower it");
        assert_eq!(shown("a<|end|><|end|> b"), "a<~|end|~><~|end|> b", "overlapping ones too");
    }

    #[test]
    fn what_a_template_could_complete_is_broken() {
        let finder = finder(&["<|end|>", "<s>"]);
        let shown = |text: &str| finder.hide(text, true).replace(HIDE, "~");
        assert_eq!(shown(" a <|en \n"), " a <|en~ \n");
        assert_eq!(shown("nd|> a"), "~nd|> a");
        assert_eq!(shown("END"), "~END~");
        assert_eq!(shown("  "), "  ");
        assert_eq!(shown("1 < 2"), "1 < 2");
        assert_eq!(shown("1 <"), "1 <~");
    }

    #[test]
    fn marks_in_a_text_are_no_marks() {
        let hidden = finder(&["<s>"]).hide("<\u{FDD0}s> \u{FDD1}", true);
        assert_eq!(hidden, "<\u{FFFD}s> \u{FFFD}");
    }
}
