//! Chat templates: Jinja, as Hugging Face transformers renders them.

use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

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
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// Name of the one template of the environment.
const NAME: &str = "chat";

impl ChatTemplate {
    /// The template of `chat_template.jinja`, or else that of `tokenizer_config.json` (a text, or a list of named
    /// texts of which `default` is taken).
    pub(crate) fn find(file: Option<String>, settings: Option<&Value>) -> Result<Option<Self>> {
        let in_settings = settings.and_then(|settings| settings.get("chat_template"));
        let text = file.or_else(|| match in_settings {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(named)) => {
                let default = named.iter().find(|one| one.get("name").and_then(Value::as_str) == Some("default"));
                default.and_then(|one| one.get("template")?.as_str()).map(Into::into)
            }
            _ => None,
        });
        let token = |key| match settings.and_then(|settings| settings.get(key)) {
            Some(Value::String(token)) => token.clone(),
            Some(token) => token.get("content").and_then(Value::as_str).unwrap_or_default().into(),
            None => String::new(),
        };
        text.map(|text| Self::new(text, token("bos_token"), token("eos_token"))).transpose()
    }

    /// Parses a template.
    pub fn new(text: String, bos_token: String, eos_token: String) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets them.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_template_owned(NAME, text).map_err(|error| failed(&error))?;
        Ok(Self { environment, bos_token, eos_token })
    }

    /// The text of a conversation, ready to be given to the model; with `add_generation_prompt`, it ends where the
    /// assistant's answer begins.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(|error| failed(&error))?;
        let variables = context! {
            messages, add_generation_prompt, bos_token => self.bos_token, eos_token => self.eos_token,
        };
        template.render(variables).map_err(|error| failed(&error))
    }
}

fn failed(error: &minijinja::Error) -> Error {
    Error::ChatTemplate { why: error.to_string() }
}
