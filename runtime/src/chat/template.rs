//! The chat template of a model, rendered as transformers renders it, within bounds.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, thread};

use jiff::civil::DateTime;
use minijinja::value::merge_maps;
use minijinja::{Environment, Error as Failure, ErrorKind, Value, context};
use serde_json::{Map, Value as Json, json};
use tokenizers::{AddedToken, Tokenizer};

use super::{Conversation, PLACE, Shield, python, syntax};
use crate::error::{Error, Result};

/// Instructions that a template may take: those of known models take some thousands for a long conversation.
const FUEL: u64 = 20_000_000;
/// How long a template may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longest text that it may make.
const BYTES_MAX: usize = 256 << 20;
const STACK_BYTES: usize = 8 << 20;

/// Names of the templates of an environment.
const CHAT: &str = "default";
const TOOLS: &str = "tool_use";

/// A template in Jinja, with the texts of the special tokens that it may use.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// By the names that templates have for them, such as `bos_token`.
    special_tokens: BTreeMap<String, Json>,
    /// How long it may take.
    pub(super) deadline: Duration,
}

impl ChatTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] if it is not in the language of templates.
    pub fn new(text: &str, special_tokens: BTreeMap<String, Json>) -> Result<Self> {
        Self::of([(CHAT, text)], special_tokens)
    }

    fn of<'t>(
        texts: impl IntoIterator<Item = (&'static str, &'t str)>,
        special_tokens: BTreeMap<String, Json>,
    ) -> Result<Self> {
        let mut environment = Environment::new();
        // As transformers sets them.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_formatter(python::format);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::to_json);
        environment.add_filter("string", python::text);
        environment.add_filter("join", python::join);
        environment.add_filter("length", python::length);
        environment.add_filter("count", python::length);
        environment.add_filter("int", python::int);
        environment.add_filter("replace", python::replace);
        environment.add_filter("round", python::round);
        environment.add_filter("title", python::title);
        environment.add_filter("format", python::percent_format);
        environment.add_filter("percent_format", python::percent_format);
        environment.add_test("sequence", python::is_sequence);
        environment.add_test("iterable", python::is_iterable);
        environment.add_test("number", python::is_number);
        environment.add_function("raise_exception", |why: String| -> std::result::Result<String, Failure> {
            Err(Failure::new(ErrorKind::InvalidOperation, why))
        });
        environment.set_fuel(Some(FUEL));
        for (name, text) in texts {
            environment.add_template_owned(name, syntax::adapt(text)).map_err(|error| failed(&error))?;
        }
        Ok(Self { environment: Arc::new(environment), special_tokens, deadline: DEADLINE })
    }

    /// The template of `chat_template.jinja`, or else that of `tokenizer_config.json` (a text, or a list of named texts of which `default`
    /// is taken, and `tool_use` where there are tools); none if there is none.
    pub(crate) fn find(file: Option<&str>, settings: Option<&Json>) -> Option<Result<Self>> {
        let in_settings = settings.and_then(|settings| settings.get("chat_template"));
        let texts = match (file, in_settings) {
            (Some(text), _) => vec![(CHAT, text)],
            (None, Some(Json::String(text))) => vec![(CHAT, text.as_str())],
            (None, Some(Json::Array(named))) => {
                let by_name = |name: &'static str| {
                    let one = named.iter().find(|one| one.get("name").and_then(Json::as_str) == Some(name))?;
                    Some((name, one.get("template")?.as_str()?))
                };
                [CHAT, TOOLS].into_iter().filter_map(by_name).collect()
            }
            _ => Vec::new(),
        };
        if texts.is_empty() {
            return None;
        }
        Some(Self::of(texts, settings.map(special_tokens).unwrap_or_default()))
    }

    /// The text of a conversation, ready for the tokenizer; marks of the shield are in it.
    pub(crate) fn render(&self, conversation: &Conversation, shield: &Shield) -> Result<String> {
        self.render_hidden(conversation, shield, |_, _| {})
    }

    fn render_hidden(
        &self,
        conversation: &Conversation,
        shield: &Shield,
        change: impl Fn(usize, &mut Json),
    ) -> Result<String> {
        let mut messages: Vec<Json> =
            conversation.messages.iter().map(|message| message.for_template(shield)).collect::<Result<_>>()?;
        for (at, message) in messages.iter_mut().enumerate() {
            change(at, message);
        }
        let hidden = |values: &Option<Vec<Json>>| {
            values.as_ref().map(|values| values.iter().map(|value| shield.hide_value(value)).collect())
        };
        self.render_values(Variables {
            messages,
            tools: hidden(&conversation.tools),
            documents: hidden(&conversation.documents),
            add_generation_prompt: conversation.add_generation_prompt,
            more: match shield.hide_value(&Json::Object(conversation.variables.clone())) {
                Json::Object(more) => more,
                _ => Map::new(),
            },
            now: conversation.now,
        })
    }

    /// The text of a conversation of which one message begins with these words and, behind them, a [mark](super::PLACE); with what is left of
    /// that message, hidden.
    pub(crate) fn render_with_place(
        &self,
        conversation: &Conversation,
        shield: &Shield,
        place: usize,
        introduction: &str,
    ) -> Result<(String, String)> {
        let content = conversation.messages.get(place).map_or("", |message| message.content.trim_end());
        let content = shield.hide(content);
        let rendered = self.render_hidden(conversation, shield, |at, message| {
            if at == place {
                message["content"] = format!("{introduction}{PLACE}{content}").into();
            }
        })?;
        Ok((rendered, content))
    }

    /// The special token that this template writes behind an assistant's message, if there is one: the end of an answer.
    pub(crate) fn end_of_answer(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let question = json!({ "role": "user", "content": "?" });
        let answer = json!({ "role": "assistant", "content": PLACE.to_string() });
        let rendered = self.render_values(Variables::of(vec![question, answer])).ok()?;
        let (_, after) = rendered.rsplit_once(PLACE)?;
        let special = |(id, token): (&u32, &AddedToken)| {
            (token.special && after.trim_start().starts_with(&token.content)).then_some((token.content.len(), *id))
        };
        tokenizer.get_added_tokens_decoder().iter().filter_map(special).max().map(|(_, id)| id)
    }

    pub(super) fn render_values(&self, variables: Variables) -> Result<String> {
        let Variables { messages, tools, documents, add_generation_prompt, more, now } = variables;
        let for_tools = tools.is_some().then(|| self.environment.get_template(TOOLS).ok()).flatten().map(|_| TOOLS);
        let name = for_tools.unwrap_or(CHAT);
        let strftime_now = move |format: String| {
            jiff::fmt::strtime::format(&format, now)
                .map_err(|error| Failure::new(ErrorKind::InvalidOperation, error.to_string()))
        };
        let variables = context! {
            messages => Value::from_serialize(&messages),
            tools => Value::from_serialize(&tools),
            documents => Value::from_serialize(&documents),
            add_generation_prompt,
            strftime_now => Value::from_function(strftime_now),
            ..merge_maps([Value::from_serialize(&more), Value::from_serialize(&self.special_tokens)])
        };
        let environment = Arc::clone(&self.environment);
        within(self.deadline, move || {
            let mut written = Bounded(Vec::new());
            environment.get_template(name)?.render_captured_to(variables, &mut written)?;
            String::from_utf8(written.0).map_err(|error| Failure::new(ErrorKind::WriteFailure, error.to_string()))
        })
    }
}

/// What a template is rendered with, control tokens hidden.
pub(super) struct Variables {
    pub messages: Vec<Json>,
    pub tools: Option<Vec<Json>>,
    pub documents: Option<Vec<Json>>,
    pub add_generation_prompt: bool,
    pub more: Map<String, Json>,
    pub now: DateTime,
}

impl Variables {
    /// Messages at some time.
    fn of(messages: Vec<Json>) -> Self {
        let now = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        Self { messages, tools: None, documents: None, add_generation_prompt: false, more: Map::new(), now }
    }
}

/// A text that a template makes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > BYTES_MAX {
            return Err(io::Error::other(format!("it makes more than {BYTES_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a template in a thread of its own, which ends when its fuel is used up if it is not waited for.
fn within(
    deadline: Duration,
    render: impl FnOnce() -> std::result::Result<String, Failure> + Send + 'static,
) -> Result<String> {
    let invalid = |why: String| Error::ChatTemplate { why };
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("chat-template".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let _ = sender.send(render().map_err(|error| failed(&error)));
        })
        .map_err(|error| invalid(format!("no thread to render it in: {error}")))?;
    match receiver.recv_timeout(deadline) {
        Ok(rendered) => rendered,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            Err(invalid(format!("it takes longer than {} seconds", deadline.as_secs())))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(invalid("it could not be rendered".into())),
    }
}

/// Special tokens of `tokenizer_config.json` by their names, as texts.
pub(crate) fn special_tokens(settings: &Json) -> BTreeMap<String, Json> {
    let text = |token: &Json| match token {
        Json::String(text) => Some(text.clone()),
        token => token.get("content").and_then(Json::as_str).map(Into::into),
    };
    let named = |(name, token): (&String, &Json)| {
        let value = match token {
            Json::Array(tokens) => Json::Array(tokens.iter().filter_map(text).map(Json::String).collect()),
            token => Json::String(text(token)?),
        };
        (name.ends_with("_token") || name == "additional_special_tokens").then(|| (name.clone(), value))
    };
    settings.as_object().into_iter().flatten().filter_map(named).collect()
}

fn failed(error: &Failure) -> Error {
    let why = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too many steps".into(),
        // What `raise_exception` says is for the user.
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        _ => error.to_string(),
    };
    Error::ChatTemplate { why }
}
