//! What of a prompt is kept in sight when it is longer than the context: its end, and the system's messages. The rest is for a memory.

use super::{Prompt, encode};
use crate::chat::{Conversation, Message};
use crate::error::Result;
use crate::model::Model;

/// The beginning of a text, and the end that is kept: about `keep_tokens` tokens of it, cut at a border of words where there is
/// one nearby.
pub fn split_text(model: &Model, text: &str, keep_tokens: usize) -> Result<(String, String)> {
    let encoding = encode(model, text)?;
    let offsets = encoding.get_offsets();
    let Some((cut, _)) = offsets.len().checked_sub(keep_tokens).and_then(|from| offsets.get(from)) else {
        return Ok((String::new(), text.to_owned()));
    };
    let mut cut = *cut;
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let word = text[..cut].rfind(char::is_whitespace).filter(|at| cut - at < 64);
    let cut = word.map_or(cut, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
    Ok((text[..cut].to_owned(), text[cut..].to_owned()))
}

/// Earlier messages of a conversation as one text, and the messages that are kept: those of the system, and the latest of the
/// others, about `keep_tokens` tokens of them. The last message is kept in any case, its end if it is longer.
pub fn split_chat(model: &Model, conversation: &Conversation, keep_tokens: usize) -> Result<(String, Vec<Message>)> {
    let messages = &conversation.messages;
    let tokens = |text: &str| if text.is_empty() { Ok(0) } else { encode(model, text).map(|encoding| encoding.len()) };
    let contents: Vec<usize> = messages.iter().map(|message| tokens(&message.content)).collect::<Result<_>>()?;
    // The words of the template around each message count as well.
    let rendered = match model.chat_template() {
        Ok(_) => Prompt::chat(model, conversation, false)?.len(),
        Err(_) => 0,
    };
    let around = rendered.saturating_sub(contents.iter().sum()) / messages.len().max(1);
    let mut left = keep_tokens;
    for (message, content) in messages.iter().zip(&contents) {
        if message.role == "system" {
            left = left.saturating_sub(content + around);
        }
    }
    let mut first = messages.len();
    while let Some(message) = first.checked_sub(1).and_then(|at| messages.get(at)) {
        let needs = if message.role == "system" { 0 } else { contents[first - 1] + around };
        if needs > left {
            break;
        }
        left -= needs;
        first -= 1;
    }
    // An answer without its question says little.
    while first + 1 < messages.len() && messages[first].role == "assistant" {
        first += 1;
    }
    let (mut earlier, mut kept) = (String::new(), Vec::new());
    for (index, message) in messages.iter().enumerate() {
        if message.role == "system" || index >= first {
            kept.push(message.clone());
        } else if index + 1 == messages.len() {
            let (beginning, end) = split_text(model, &message.content, left.max(1))?;
            earlier.push_str(&beginning);
            kept.push(Message { content: end, ..message.clone() });
        } else {
            earlier.extend([message.role.as_str(), ": ", message.content.as_str(), "\n\n"]);
        }
    }
    Ok((earlier, kept))
}
