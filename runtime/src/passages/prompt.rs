//! Where passages stand in a prompt.

use std::ops::Range;

use tokenizers::Encoding;

use crate::chat::{Conversation, PLACE, encode_rendered};
use crate::error::{Error, Result};
use crate::model::Model;

/// What the model is told before the passages.
const INTRODUCTION: &str = "Read these passages and answer the question from them.\n\n";
/// What stands between the passages and the question.
const SEPARATOR: &str = "\n\nQuestion: ";

/// A prompt in tokens, with a place for passages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Tokens before the passages.
    pub before: Vec<u32>,
    /// Tokens after them.
    pub after: Vec<u32>,
    /// Those of `after` that ask: passages are found by them.
    pub question: Range<usize>,
    /// The whole prompt as it is without memory, where it may be left out: a text to continue has no words around passages.
    pub without: Option<Vec<u32>>,
}

impl Prompt {
    /// A text to continue; passages stand before all of it but the token that begins a sequence. Control tokens that it spells are text
    /// unless they are allowed.
    pub fn text(model: &Model, text: &str, control_tokens: bool) -> Result<Self> {
        let encoding = if control_tokens { encode_with_control(model, text)? } else { encode(model, text)? };
        Self::of(model, encoding.get_ids().to_vec())
    }

    /// Tokens, with a place for passages before all but the one that begins a sequence.
    fn of(model: &Model, mut after: Vec<u32>) -> Result<Self> {
        let begins = usize::from(model.config().bos_token.is_some_and(|bos| after.first() == Some(&bos)));
        let before = after.drain(..begins).collect();
        if after.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let question = 0..after.len();
        Ok(Self { before, after, question, without: None })
    }

    /// A conversation, rendered by the model's template. With `for_passages`, they stand inside the last message of
    /// the user, with an instruction before them; without, the conversation is as it is.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if the model has no template that can be used, or it does not show the last message of the user;
    /// [`Error::Invalid`] for a role that is not known.
    pub fn chat(model: &Model, conversation: &Conversation, for_passages: bool) -> Result<Self> {
        let template = model.chat_template()?;
        let shield = model.shield();
        let encode =
            |text: &str| -> Result<Vec<u32>> { Ok(encode_rendered(model.tokenizer(), text)?.get_ids().to_vec()) };
        let asked = conversation.messages.iter().rposition(|message| message.role == "user");
        let as_it_is = || Self::of(model, encode(&template.render(conversation, shield)?)?);
        let (Some(asked), true) = (asked, for_passages) else { return as_it_is() };
        let without = Some(as_it_is()?.tokens());
        let (rendered, content) = template.render_with_place(conversation, shield, asked, INTRODUCTION)?;
        let Some((before, after)) = rendered.split_once(PLACE) else {
            return Err(Error::ChatTemplate { why: "it leaves out the last message of the user".into() });
        };
        // A template may show a message twice; the passages stand in the first.
        let after = after.replace(&format!("{INTRODUCTION}{PLACE}"), "");
        let before = encode(before)?;
        let encoding = encode_rendered(model.tokenizer(), &format!("{SEPARATOR}{after}"))?;
        let question = question_in(&content);
        let (begin, end) = (SEPARATOR.len() + question.start, SEPARATOR.len() + question.end);
        let asks = |(start, stop): &(usize, usize)| *start < end && *stop > begin;
        let question = encoding.get_offsets().iter().take_while(|(start, _)| *start < end).count();
        let skipped = encoding.get_offsets().iter().take_while(|offsets| !asks(offsets)).count();
        let question = skipped.min(question)..question;
        Ok(Self { before, after: encoding.get_ids().to_vec(), question, without })
    }

    /// A message with passages pasted into it, in the words in which a conversation has them.
    pub fn pasted(passages: &str, content: &str) -> String {
        let content = content.trim_end();
        format!("{INTRODUCTION}{passages}{SEPARATOR}{content}")
    }

    /// What asks, as a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn question(&self, model: &Model) -> Result<String> {
        let tokens = self.after.get(self.question.clone()).unwrap_or_default();
        model.tokenizer().decode(tokens, true).map_err(|error| Error::Tokenizer { why: error.to_string() })
    }

    /// Tokens without passages.
    pub fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All tokens without passages.
    pub fn tokens(&self) -> Vec<u32> {
        [self.before.as_slice(), &self.after].concat()
    }
}

/// What of a message asks: its last line if it is long, since what stands before is then what is asked about, and up to its last question mark,
/// since the little that stands behind says how to answer.
fn question_in(content: &str) -> Range<usize> {
    const LONG_BYTES: usize = 600;
    const QUESTION_BYTES: usize = 8;
    const MANNER_BYTES: usize = 120;
    const QUESTION_MARKS: [char; 4] = ['?', '\u{FF1F}', '\u{61F}', '\u{37E}'];
    let line = content.rfind('\n').map_or(0, |at| at + 1);
    let start = if content.len() > LONG_BYTES && content.len() - line >= QUESTION_BYTES { line } else { 0 };
    let mark = content.char_indices().rfind(|(at, c)| *at >= start + QUESTION_BYTES && QUESTION_MARKS.contains(c));
    let end = mark.map(|(at, c)| at + c.len_utf8()).filter(|end| content.len() - end <= MANNER_BYTES);
    start..end.unwrap_or(content.len())
}

/// Tokens of a text, with what the tokenizer puts around it; control tokens that it spells are text, as in documents.
pub(crate) fn encode(model: &Model, text: &str) -> Result<Encoding> {
    let encoding = model.encode(text)?;
    if text.is_empty() || encoding.is_empty() { Err(Error::EmptyPrompt) } else { Ok(encoding) }
}

/// Tokens of a text that may spell control tokens. Where it begins with the token that begins a sequence, nothing is put around it.
fn encode_with_control(model: &Model, text: &str) -> Result<Encoding> {
    let first = model.config().bos_token.and_then(|id| model.tokenizer().id_to_token(id));
    let begun = first.is_some_and(|first| !first.is_empty() && text.starts_with(&first));
    let encoding =
        model.tokenizer().encode(text, !begun).map_err(|error| Error::Tokenizer { why: error.to_string() })?;
    if text.is_empty() || encoding.is_empty() { Err(Error::EmptyPrompt) } else { Ok(encoding) }
}
