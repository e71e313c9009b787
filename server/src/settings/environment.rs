//! The layer that comes from `MNEMON_*` variables.
//!
//! `MNEMON_LISTEN` is `listen`, `MNEMON_LIMITS_INGESTS` is `limits.ingests`, `MNEMON_CACHE_INDEX_BYTES` is
//! `cache.index_bytes`, and `MNEMON_TOKENS` is a list `tenant=token,tenant=token`. Variables that are none of these
//! belong to clients and are left alone, except in the groups `LIMITS` and `CACHE`, where they are misspelt.

use toml::{Table, Value};

use super::PartialSettings;
use crate::error::{Error, Result};

/// With which all variables start.
pub(super) const PREFIX: &str = "MNEMON_";

/// Settings whose value is text whatever it looks like.
const TEXTS: [&str; 13] = [
    "listen",
    "data",
    "model",
    "device",
    "entry_policy",
    "kv_dtype",
    "memory_adapter",
    "profile",
    "embedder",
    "tls_cert",
    "tls_key",
    "log_format",
    "log_filter",
];

/// Settings whose value is a number or a truth value.
const LITERALS: [&str; 6] =
    ["window", "context_tokens", "chunk_tokens", "commit_tokens", "allow_insecure_remote", "shutdown_grace_s"];

impl PartialSettings {
    /// Reads the layer from names and values of variables.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut table = Table::new();
        for (name, value) in variables {
            let Some(key) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { continue };
            if TEXTS.contains(&key.as_str()) {
                table.insert(key, Value::String(value));
            } else if LITERALS.contains(&key.as_str()) {
                table.insert(key, literal(&value));
            } else if let Some((group @ ("limits" | "cache"), key)) = key.split_once('_') {
                let group = table.entry(group).or_insert_with(|| Value::Table(Table::new()));
                if let Value::Table(group) = group {
                    group.insert(key.to_owned(), literal(&value));
                }
            } else if key == "tokens" {
                table.insert("tenants".into(), Value::Array(tenants(&value)?));
            }
        }
        table.try_into().map_err(|error: toml::de::Error| Error::Settings {
            what: "MNEMON_* variable".into(),
            why: error.to_string(),
        })
    }
}

/// A number or truth value; what is neither is left for the parser to refuse.
fn literal(text: &str) -> Value {
    text.parse().map(Value::Integer).or_else(|_| text.parse().map(Value::Boolean)).unwrap_or_else(|_| text.into())
}

/// `name=token,name=token` as the list that a file would give.
fn tenants(list: &str) -> Result<Vec<Value>> {
    list.split(',')
        .filter(|pair| !pair.trim().is_empty())
        .map(|pair| {
            let (name, token) = pair.trim().split_once('=').ok_or_else(|| Error::Settings {
                what: "MNEMON_TOKENS".into(),
                why: "write tenant=token,tenant=token".into(),
            })?;
            Ok(Value::Table(Table::from_iter([("name".into(), name.into()), ("token".into(), token.into())])))
        })
        .collect()
}
