//! Settings: what they are, their defaults, and the layers they come from.
//!
//! Defaults, then a TOML file, then `MNEMON_*` variables, then flags; each layer is a [`PartialSettings`] and later
//! ones win. [`Settings::load`] does all of it.

mod environment;
mod limits;
mod partial;
mod quotas;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use limits::{CacheSizes, Limits};
pub use partial::{PartialCacheSizes, PartialLimits, PartialSettings};

use crate::error::{Error, Result};

/// Port that a server listens on by default.
pub const DEFAULT_PORT: u16 = 7117;

/// Value of [`Settings::model`] that stands for the model built into the program.
pub const EMBEDDED_MODEL: &str = "mnemon-default";

/// Tenant of all callers when no tenants are configured.
pub const DEFAULT_TENANT: &str = "default";

/// Who may call, and how they prove it.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Owner of memories: 1 to 128 letters, digits, '.', '_' or '-'. Several tokens may name the same tenant.
    pub name: String,
    /// Bearer token: 16 to 512 visible ASCII characters.
    pub token: String,
    /// May call on behalf of any tenant: for a server with a model whose memories this one keeps.
    #[serde(default)]
    pub delegate: bool,
    /// Memories that it may have; `None` is [`Limits::tenant_memories`].
    pub max_memories: Option<u64>,
    /// Tokens that all its memories may hold together; `None` is [`Limits::tenant_tokens`].
    pub max_tokens: Option<u64>,
    /// Bytes that the files of all its memories may take together; `None` is [`Limits::tenant_bytes`].
    pub max_bytes: Option<u64>,
}

impl fmt::Debug for Tenant {
    /// Without the token: settings get logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tenant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Certificate and key of the server, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything that a server is told at start. It does not change while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Folder of the memories; created if missing.
    pub data: PathBuf,
    /// Model: [`EMBEDDED_MODEL`], a folder, a GGUF file, or a hub identifier `organisation/name`.
    pub model: String,
    /// Where the model runs: `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Tokens of the local window; the model's own when `None`.
    pub window: Option<u32>,
    /// File that gives memory to a pretrained model, as `training/` makes it.
    pub memory_adapter: Option<PathBuf>,
    /// File that says how a pretrained model uses memory (`mnemon model profile`). `None`: the one in the data folder, made at
    /// the first start.
    pub profile: Option<PathBuf>,
    /// Model for sentence embeddings, so that searches go by meaning as well: a folder, or a hub identifier `organisation/name`, of
    /// a BERT model such as all-MiniLM-L6-v2. What memories hold already is embedded in the background.
    pub embedder: Option<String>,
    /// Positions that a request to a pretrained model may use: prompt, passages and answer. At most what the model was
    /// trained with.
    pub context_tokens: u32,
    /// Tokens of a chunk of new memories; the model's own when `None`. Like the next two it is part of the fingerprint:
    /// memories made with other values are refused.
    pub chunk_tokens: Option<u32>,
    /// Which keys of new memories become search keys: `per_token`, `block_mean:N` or `representative:N`; the model's own
    /// when `None`.
    pub entry_policy: Option<String>,
    /// Type of stored keys and values: `f32`, `f16`, `bf16`, `int8` or `int4`; `int8` when `None`.
    pub kv_dtype: Option<String>,
    /// Tokens between durable commits while a document is read: what a crash may cost.
    pub commit_tokens: u32,
    /// Callers. Empty: everybody is the tenant [`DEFAULT_TENANT`], without credentials.
    pub tenants: Vec<Tenant>,
    /// Keep memories for servers with a model, without one: no text is read or made here.
    pub store_only: bool,
    /// Address of the server that keeps the memories, `http://HOST:PORT` or `https://HOST:PORT`; this one does when `None`.
    pub store: Option<String>,
    /// Token for that server. Where this server has tenants, it must be of one that may [`delegate`](Tenant::delegate).
    pub store_token: Option<Secret>,
    /// PEM file of the authority that signed that server's certificate.
    pub store_ca: Option<PathBuf>,
    /// Certificate and key; plain text when `None`.
    pub tls: Option<Tls>,
    /// Listen on an address that others can reach although TLS or credentials are missing.
    pub allow_insecure_remote: bool,
    /// How long generations may go on after a shutdown was asked for.
    pub shutdown_grace: Duration,
    /// Look of the log.
    pub log_format: LogFormat,
    /// What to log, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// Bounds on what callers may ask for.
    pub limits: Limits,
    /// Bounds on memory used for caches.
    pub cache: CacheSizes,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT),
            data: PathBuf::from("mnemon-data"),
            model: EMBEDDED_MODEL.into(),
            device: "auto".into(),
            window: None,
            memory_adapter: None,
            profile: None,
            embedder: None,
            context_tokens: 8192,
            chunk_tokens: None,
            entry_policy: None,
            kv_dtype: None,
            commit_tokens: 4096,
            tenants: Vec::new(),
            store_only: false,
            store: None,
            store_token: None,
            store_ca: None,
            tls: None,
            allow_insecure_remote: false,
            shutdown_grace: Duration::from_secs(10),
            log_format: LogFormat::Text,
            // The graph builder tells its parameters at every build.
            log_filter: "info,hnsw_rs=warn".into(),
            limits: Limits::default(),
            cache: CacheSizes::default(),
        }
    }
}

impl Settings {
    /// Defaults, overlaid by `file` (if given, or else by the file that `MNEMON_CONFIG` names), the process's
    /// `MNEMON_*` variables, and `flags`.
    pub fn load(file: Option<&Path>, flags: PartialSettings) -> Result<Self> {
        let variables = || std::env::vars().filter(|(name, _)| name.starts_with(environment::PREFIX));
        let file = file
            .map(Path::to_owned)
            .or_else(|| variables().find(|(name, _)| name == "MNEMON_CONFIG").map(|(_, path)| PathBuf::from(path)));
        let mut layers = match file {
            Some(path) => PartialSettings::from_file(&path)?,
            None => PartialSettings::default(),
        };
        layers.overlay(PartialSettings::from_variables(variables())?);
        layers.overlay(flags);
        layers.resolve()
    }

    /// Refuses values that contradict each other or are out of range, and listening where others can reach the
    /// server without TLS and credentials.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: &str, why: String| Err(Error::Settings { what: what.into(), why });
        for tenant in &self.tenants {
            if !crate::validate::is_name(&tenant.name) {
                let why = format!("'{}'; 1 to 128 letters, digits, '.', '_' or '-'", tenant.name.escape_debug());
                return invalid("tenant name", why);
            }
            if !(16..=512).contains(&tenant.token.len()) || !tenant.token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let why = format!("that of '{}' must be 16 to 512 visible ASCII characters", tenant.name);
                return invalid("token", why);
            }
        }
        let mut tokens: Vec<&str> = self.tenants.iter().map(|tenant| tenant.token.as_str()).collect();
        tokens.sort_unstable();
        if tokens.windows(2).any(|pair| pair[0] == pair[1]) {
            return invalid("tokens", "two tenants have the same one".into());
        }
        self.validate_quotas()?;
        if self.commit_tokens == 0 {
            return invalid("commit_tokens", "0; at least 1 is needed".into());
        }
        if !(64..=1 << 20).contains(&self.context_tokens) {
            return invalid("context_tokens", format!("{}; 64 to 1048576 are accepted", self.context_tokens));
        }
        if self.window == Some(0) {
            return invalid("window", "0; at least 1 token is needed".into());
        }
        if self.embedder.is_some() && (self.store.is_some() || self.store_only) {
            let why =
                "embeddings are made where both the memories and a model are; use it without store and store_only";
            return invalid("embedder", why.into());
        }
        match (&self.store, self.store_only) {
            (Some(_), true) => {
                return invalid(
                    "store_only",
                    "this server cannot both keep memories and have another keep them".into(),
                );
            }
            (None, _) if self.store_token.is_some() || self.store_ca.is_some() => {
                return invalid("store", "a token or an authority is given for a store, but not its address".into());
            }
            _ => {}
        }
        let has_quota = |tenant: &Tenant| tenant.max_memories.or(tenant.max_tokens).or(tenant.max_bytes).is_some();
        if self.store.is_some() && self.tenants.iter().any(has_quota) {
            return invalid("tenants", "quotas are kept where the memories are: set them at the store".into());
        }
        self.limits.validate()?;
        let secured = self.tls.is_some() && !self.tenants.is_empty();
        if !self.listen.ip().is_loopback() && !secured && !self.allow_insecure_remote {
            return Err(Error::InsecureRemote { listen: self.listen });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_layers_win() {
        let file = "listen = '127.0.0.1:1'\nmodel = 'file'\n[limits]\ningests = 3\nengine_queue = 5\n";
        let mut layers = PartialSettings::from_toml(file, Path::new("test.toml")).unwrap();
        let variables = pairs(&[
            ("MNEMON_LISTEN", "127.0.0.1:2"),
            ("MNEMON_DATA", "12"),
            ("MNEMON_LIMITS_INGESTS", "4"),
            ("MNEMON_TOKENS", "anna=0123456789abcdef,bert=fedcba9876543210"),
            ("MNEMON_ENDPOINT", "of the client"),
        ]);
        layers.overlay(PartialSettings::from_variables(variables).unwrap());
        layers.overlay(PartialSettings { listen: Some("127.0.0.1:3".parse().unwrap()), ..Default::default() });
        let settings = layers.resolve().unwrap();
        assert_eq!(settings.listen.port(), 3);
        assert_eq!(settings.data, PathBuf::from("12"));
        assert_eq!(settings.model, "file");
        assert_eq!((settings.limits.ingests, settings.limits.engine_queue), (4, 5));
        assert_eq!(settings.tenants[1].name, "bert");
        assert!(!format!("{settings:?}").contains("fedcba"), "tokens are not shown");
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| {
            PartialSettings::from_toml(text, Path::new("my.toml")).and_then(PartialSettings::resolve).unwrap_err()
        };
        let unknown = message("lisen = '127.0.0.1:1'").to_string();
        assert!(unknown.contains("my.toml") && unknown.contains("lisen"), "{unknown}");
        let limit = message("[limits]\nengine_queue = 0").to_string();
        assert!(limit.contains("engine_queue"), "{limit}");
        let half = message("tls_cert = 'a'").to_string();
        assert!(half.contains("tls_key"), "{half}");
        let variable = PartialSettings::from_variables(pairs(&[("MNEMON_LIMITS_INJESTS", "4")])).unwrap_err();
        assert!(variable.to_string().contains("injests"), "{variable}");
    }

    #[test]
    fn remote_needs_tls_and_credentials() {
        let mut settings = Settings { listen: "0.0.0.0:1".parse().unwrap(), ..Settings::default() };
        let refused = settings.validate().unwrap_err();
        assert!(matches!(refused, Error::InsecureRemote { .. }), "{refused}");
        settings.tenants = vec![Tenant { name: "a".into(), token: "0123456789abcdef".into(), ..Tenant::default() }];
        assert!(settings.validate().is_err(), "credentials in plain text");
        settings.tls = Some(Tls { cert: "c".into(), key: "k".into() });
        settings.validate().unwrap();
        settings.tls = None;
        settings.allow_insecure_remote = true;
        settings.validate().unwrap();
    }
}
