//! Where passages stand in a prompt.

use std::ops::Range;

use tokenizers::Encoding;

use crate::{Error, Message, Model, Result};

/// What the model is told before the passages.
const INTRODUCTION: &str = "Read these passages and answer the question from them.\n\n";
/// What stands between the passages and the question.
const SEPARATOR: &str = "\n\nQuestion: ";
/// Where the passages go, while a template is rendered. Private use; taken out of what users write.
const MARK: &str = "\u{F8FE}mnemon\u{F8FE}";

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
    /// A text to continue; passages stand before all of it but the token that begins a sequence.
    pub fn text(model: &Model, text: &str) -> Result<Self> {
        let mut after = encode(model, text)?.get_ids().to_vec();
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
    /// [`Error::ChatTemplate`] if the model has no template, or it does not show the last message of the user.
    pub fn chat(model: &Model, messages: &[Message], for_passages: bool) -> Result<Self> {
        let template = model.chat_template().ok_or_else(|| Error::ChatTemplate {
            why: "the model has none; give a prompt instead of messages".into(),
        })?;
        let asked = messages.iter().rposition(|message| message.role == "user");
        let (Some(asked), true) = (asked, for_passages) else {
            return Self::text(model, &template.render(messages, true)?);
        };
        let without = Some(Self::text(model, &template.render(messages, true)?)?.tokens());
        let mut messages = messages.to_vec();
        for message in &mut messages {
            message.content = message.content.replace(MARK, "");
        }
        let content = std::mem::take(&mut messages[asked].content);
        let content = content.trim_end();
        messages[asked].content = format!("{INTRODUCTION}{MARK}{content}");
        let rendered = template.render(&messages, true)?;
        let Some((before, after)) = rendered.split_once(MARK) else {
            return Err(Error::ChatTemplate { why: "it leaves out the last message of the user".into() });
        };
        // A template may show a message twice; the passages stand in the first.
        let after = after.replace(&format!("{INTRODUCTION}{MARK}"), "");
        let before = encode(model, before)?.get_ids().to_vec();
        // What follows begins no sequence.
        let encoding = model
            .tokenizer()
            .encode(format!("{SEPARATOR}{after}"), false)
            .map_err(|error| Error::Tokenizer { why: error.to_string() })?;
        let question = question_in(content);
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

/// Tokenizes a text for the model. Special tokens are added as the tokenizer wants, unless the text begins with the
/// model's own first token already, as rendered chat templates do.
pub(crate) fn encode(model: &Model, text: &str) -> Result<Encoding> {
    let first = model.config().bos_token.and_then(|id| model.tokenizer().id_to_token(id));
    let begun = first.is_some_and(|first| !first.is_empty() && text.starts_with(&first));
    let encoding =
        model.tokenizer().encode(text, !begun).map_err(|error| Error::Tokenizer { why: error.to_string() })?;
    if text.is_empty() || encoding.is_empty() { Err(Error::EmptyPrompt) } else { Ok(encoding) }
}
