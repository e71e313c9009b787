//! Chat templates.

use crate::{Error, Result};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

/// The chat template of a model.
#[derive(Debug)]
pub struct ChatTemplate {}

impl ChatTemplate {
    /// The text of a conversation, ready to be given to the model.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let _ = (messages, add_generation_prompt);
        Err(Error::ChatTemplate { why: "not written yet".into() })
    }
}
