//! What a generation is asked for: from the contract's words to the runtime's.

use mnemon_proto::v1;
use mnemon_runtime::{Conversation, Error, Message, Model, Prompt, ToolCall};
use tonic::Status;

use crate::status;
use crate::status::violation;

/// What the model is asked: a text to continue, or a conversation to answer.
pub(super) enum Asked {
    /// Control tokens that the text spells count as such if `control_tokens`.
    Text { text: String, control_tokens: bool },
    /// Messages, tools and documents for the model's template.
    Chat(Conversation),
}

impl Asked {
    /// What a request asks.
    pub(super) fn of(request: v1::GenerateRequest) -> Result<Self, Status> {
        if request.messages.is_empty() {
            return Ok(Self::Text { text: request.prompt, control_tokens: request.control_tokens });
        }
        let messages = request.messages.into_iter().map(message).collect::<Result<_, _>>()?;
        let tools = request.tools.iter().map(|tool| json("tools", tool)).collect::<Result<Vec<_>, _>>()?;
        let documents: Vec<serde_json::Value> = request
            .documents
            .into_iter()
            .map(|document| serde_json::json!({ "title": document.title, "text": document.text }))
            .collect();
        let variables = match request.template_variables.as_str() {
            "" => serde_json::Map::new(),
            text => match json("template_variables", text)? {
                serde_json::Value::Object(variables) => variables,
                _ => return Err(status::invalid(vec![violation("template_variables", "it is no JSON object")])),
            },
        };
        Ok(Self::Chat(Conversation {
            variables,
            tools: (!tools.is_empty()).then_some(tools),
            documents: (!documents.is_empty()).then_some(documents),
            ..Conversation::new(messages, jiff::Zoned::now().datetime())
        }))
    }

    /// Its tokens; with a place for passages `for_passages`.
    pub(super) fn prompt(&self, model: &Model, for_passages: bool) -> Result<Prompt, Error> {
        match self {
            Self::Text { text, control_tokens } => Prompt::text(model, text, *control_tokens),
            Self::Chat(conversation) => Prompt::chat(model, conversation, for_passages),
        }
    }
}

fn message(message: v1::ChatMessage) -> Result<Message, Status> {
    let call = |call: v1::ToolCall| {
        let arguments = json("messages.tool_calls.arguments", &call.arguments)?;
        Ok::<_, Status>(ToolCall { id: call.id, name: call.name, arguments })
    };
    let given = |text: String| (!text.is_empty()).then_some(text);
    Ok(Message {
        role: message.role,
        content: message.content,
        name: given(message.name),
        tool_calls: message.tool_calls.into_iter().map(call).collect::<Result<_, _>>()?,
        tool_call_id: given(message.tool_call_id),
    })
}

/// The value that a field has in JSON.
fn json(field: &str, text: &str) -> Result<serde_json::Value, Status> {
    serde_json::from_str(text)
        .map_err(|error| status::invalid(vec![violation(field, format!("it is no JSON: {error}"))]))
}
