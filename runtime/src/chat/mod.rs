//! Conversations in the words of a model: its chat template, as Hugging Face transformers renders it.
//!
//! | module | |
//! |---|---|
//! | `template` | finding, parsing and rendering templates, within bounds |
//! | `syntax` | what these templates have beyond Jinja |
//! | `python` | values, formats and JSON as Python writes them |
//! | `shield` | control tokens that others spell stay text |
//!
//! Texts of their own are read here as well ([`Shield::encode_text`]), since it is the same question which control tokens count.

mod python;
mod shield;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

use jiff::civil::DateTime;
use mnemon_memory::Invalid;
use serde_json::{Map, Value as Json, json};

pub(crate) use self::shield::{PLACE, Shield, encode_rendered};
pub use self::template::ChatTemplate;
pub(crate) use self::template::special_tokens;
use crate::error::{Error, Result};

/// Roles that messages may have: templates make control tokens of them.
pub const ROLES: [&str; 11] = [
    "system",
    "developer",
    "user",
    "assistant",
    "model",
    "tool",
    "function",
    "ipython",
    "observation",
    "environment",
    "context",
];

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or another that templates know.
    pub role: String,
    /// Text.
    pub content: String,
    /// Who speaks, or which tool answers; not every template shows it.
    pub name: Option<String>,
    /// What an assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message that is no more than its text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// As templates have it, with control tokens hidden.
    fn for_template(&self, shield: &Shield) -> Result<Json> {
        if !ROLES.contains(&self.role.as_str()) {
            let why = format!("'{}'; one of {} is accepted", self.role.escape_debug(), ROLES.join(", "));
            return Err(Error::Invalid(Invalid { what: "role", why }));
        }
        let content =
            if self.role == "assistant" { shield.hide_special(&self.content) } else { shield.hide(&self.content) };
        let mut message = json!({ "role": self.role, "content": content });
        if let Some(name) = &self.name {
            message["name"] = shield.hide_name(name).into();
        }
        if let Some(id) = &self.tool_call_id {
            message["tool_call_id"] = shield.hide_name(id).into();
        }
        if !self.tool_calls.is_empty() {
            // As it comes from those who call tools; templates ask for it.
            if self.content.is_empty() {
                message["content"] = Json::Null;
            }
            message["tool_calls"] = self.tool_calls.iter().map(|call| call.for_template(shield)).collect();
        }
        Ok(message)
    }
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolCall {
    /// By which the answer names it.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// Usually an object; a text is handed to the template as it is.
    pub arguments: Json,
}

impl ToolCall {
    fn for_template(&self, shield: &Shield) -> Json {
        let arguments = shield.hide_value(&self.arguments);
        json!({
            "id": shield.hide_name(&self.id),
            "type": "function",
            "function": { "name": shield.hide_name(&self.name), "arguments": arguments },
        })
    }
}

/// What a template is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// In order.
    pub messages: Vec<Message>,
    /// Tools that the model may call, as JSON schemas of functions.
    pub tools: Option<Vec<Json>>,
    /// Documents to answer from, for templates that show them: objects with `title` and `text`.
    pub documents: Option<Vec<Json>>,
    /// More variables, for templates that know them, such as `enable_thinking`.
    pub variables: Map<String, Json>,
    /// Whether the text ends where the assistant's answer begins.
    pub add_generation_prompt: bool,
    /// The date and time that templates show.
    pub now: DateTime,
}

impl Conversation {
    /// Messages to be answered at this time.
    pub fn new(messages: Vec<Message>, now: DateTime) -> Self {
        Self { messages, tools: None, documents: None, variables: Map::new(), add_generation_prompt: true, now }
    }
}
