//! An opened GGUF file: values of its metadata by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::reader;
use super::reader::{TensorInfo, Value};
use crate::chat::ChatTemplate;
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::model::shard::refuse_pointer;

/// A GGUF file whose header was read.
pub(in crate::model) struct Gguf {
    pub(super) path: PathBuf,
    /// Bytes of the file.
    pub(super) length: u64,
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) architecture: Architecture,
    /// Name of the architecture in the file, which is the prefix of its keys.
    pub(super) prefix: String,
}

impl Gguf {
    /// Reads the header; refuses files that hold something else than a language model of a supported family.
    pub(in crate::model) fn open(path: &Path) -> Result<Self> {
        refuse_pointer(path)?;
        let reader::Header { metadata, tensors, length } = reader::read(path)?;
        let mut gguf = Self {
            path: path.into(),
            length,
            metadata,
            tensors,
            architecture: Architecture::Llama,
            prefix: String::new(),
        };
        gguf.refuse_other_kinds()?;
        gguf.prefix = gguf.needed_text("general.architecture")?.to_owned();
        gguf.architecture = match gguf.prefix.as_str() {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            other => {
                return Err(Error::UnsupportedArchitecture {
                    name: other.into(),
                    supported: "llama (with Mistral), qwen2, qwen3 in GGUF files",
                });
            }
        };
        Ok(gguf)
    }

    /// Adapters, vision projectors and parts of models have the same format.
    fn refuse_other_kinds(&self) -> Result<()> {
        let foreign = |what: &str, advice: &str| {
            Err(Error::ForeignFile { path: self.path.clone(), what: what.into(), advice: advice.into() })
        };
        let give_model = "give the GGUF file of the language model itself";
        match (self.text("general.type")?, self.text("general.architecture")?) {
            (Some("adapter"), _) => foreign("is an adapter (LoRA) without its model", "merge it into its model first"),
            (Some("mmproj" | "projector"), _) | (_, Some("clip")) => {
                foreign("is the projector of a vision model (mmproj)", give_model)
            }
            (Some("imatrix"), _) => foreign("is an importance matrix", give_model),
            (Some(other), _) if other != "model" => foreign(&format!("holds no model, but '{other}'"), give_model),
            _ if self.metadata.contains_key("adapter.type") => {
                foreign("is an adapter (LoRA) without its model", "merge it into its model first")
            }
            _ => match self.count("split.count")? {
                Some(parts) if parts > 1 => foreign(
                    &format!("is one of {parts} parts of a model"),
                    "merge the parts first (llama-gguf-split --merge FIRST_PART OUT.gguf)",
                ),
                _ => Ok(()),
            },
        }
    }

    /// An error about one key.
    pub(super) fn invalid<T>(&self, key: &str, why: impl Into<String>) -> Result<T> {
        Err(Error::Metadata { path: self.path.clone(), key: key.into(), why: why.into() })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => self.invalid(key, "it is no text"),
        }
    }

    pub(super) fn needed_text(&self, key: &str) -> Result<&str> {
        self.text(key)?.map_or_else(|| self.invalid(key, "missing"), Ok)
    }

    /// A number that is not negative. Lists are refused: the layers of the supported families are alike.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(number)) if *number >= 0 => Ok(Some(*number as usize)),
            Some(Value::Ints(_)) => self.invalid(key, "different numbers for different layers are not supported"),
            Some(_) => self.invalid(key, "it is no number of something"),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Int(number)) => Ok(Some(*number as f64)),
            Some(_) => self.invalid(key, "it is no number"),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => self.invalid(key, "it is neither true nor false"),
        }
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(_) => self.invalid(key, "it is no list of texts"),
        }
    }

    /// Texts of the tokens, by id.
    pub(super) fn tokens(&self) -> Result<&[String]> {
        let key = "tokenizer.ggml.tokens";
        self.texts(key)?.map_or_else(|| self.invalid(key, "missing"), Ok)
    }

    /// The text of a special token, such as `tokenizer.ggml.bos_token_id`, with its id.
    pub(super) fn special(&self, key: &str) -> Result<Option<(u32, &str)>> {
        let Some(id) = self.count(key)? else { return Ok(None) };
        match self.tokens()?.get(id) {
            Some(text) => Ok(Some((id as u32, text))),
            None => self.invalid(key, format!("{id} is no token")),
        }
    }

    /// The chat template, if there is one.
    pub(in crate::model) fn chat_template(&self) -> Result<Option<Result<ChatTemplate>>> {
        let Some(template) = self.text("tokenizer.chat_template")? else { return Ok(None) };
        let mut special = BTreeMap::new();
        for (name, key) in
            [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding")]
        {
            // One that is out of bounds is none; where that matters, the configuration tells.
            if let Ok(Some((_, text))) = self.special(&format!("tokenizer.ggml.{key}_token_id")) {
                special.insert(format!("{name}_token"), text.into());
            }
        }
        Ok(Some(ChatTemplate::new(template, special)))
    }
}
