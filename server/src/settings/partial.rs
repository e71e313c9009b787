//! One layer of settings: only what somebody set.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LogFormat, Secret, Settings, Tenant, Tls};
use crate::error::{Error, Result};

/// Makes a struct of options that a later layer overlays.
macro_rules! layer {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* } $(nested { $($(#[$nested_doc:meta])* $nested:ident: $nested_kind:ty,)* })?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<$kind>,)*
            $($($(#[$nested_doc])* pub $nested: $nested_kind,)*)?
        }

        impl $name {
            /// Takes over everything that `later` sets.
            pub fn overlay(&mut self, later: Self) {
                $(if later.$field.is_some() { self.$field = later.$field; })*
                $($(self.$nested.overlay(later.$nested);)*)?
            }
        }
    };
}

layer! {
    /// One layer of [`Settings`]: a TOML file, the environment, or flags.
    ///
    /// ```
    /// use mnemon_server::PartialSettings;
    ///
    /// let text = r#"
    ///     listen = "127.0.0.1:7117"
    ///     model = "Qwen/Qwen3-0.6B"
    ///     [limits]
    ///     ingests = 4
    ///     [[tenants]]
    ///     name = "anna"
    ///     token = "a-long-random-string"
    /// "#;
    /// let settings = PartialSettings::from_toml(text, "mnemon.toml".as_ref())?.resolve()?;
    /// assert_eq!(settings.limits.ingests, 4);
    /// # Ok::<(), mnemon_server::Error>(())
    /// ```
    PartialSettings {
        /// See [`Settings::listen`].
        listen: SocketAddr,
        /// See [`Settings::data`].
        data: PathBuf,
        /// See [`Settings::model`].
        model: String,
        /// See [`Settings::device`].
        device: String,
        /// See [`Settings::window`].
        window: u32,
        /// See [`Settings::memory_adapter`].
        memory_adapter: PathBuf,
        /// See [`Settings::profile`].
        profile: PathBuf,
        /// See [`Settings::embedder`].
        embedder: String,
        /// See [`Settings::context_tokens`].
        context_tokens: u32,
        /// See [`Settings::chunk_tokens`].
        chunk_tokens: u32,
        /// See [`Settings::entry_policy`].
        entry_policy: String,
        /// See [`Settings::kv_dtype`].
        kv_dtype: String,
        /// See [`Settings::commit_tokens`].
        commit_tokens: u32,
        /// See [`Settings::tenants`]; a later layer replaces the whole list.
        tenants: Vec<Tenant>,
        /// See [`Settings::store_only`].
        store_only: bool,
        /// See [`Settings::store`].
        store: String,
        /// See [`Settings::store_token`].
        store_token: Secret,
        /// See [`Settings::store_ca`].
        store_ca: PathBuf,
        /// See [`Tls::cert`].
        tls_cert: PathBuf,
        /// See [`Tls::key`].
        tls_key: PathBuf,
        /// See [`Settings::allow_insecure_remote`].
        allow_insecure_remote: bool,
        /// See [`Settings::shutdown_grace`], in seconds.
        shutdown_grace_s: u64,
        /// See [`Settings::log_format`].
        log_format: LogFormat,
        /// See [`Settings::log_filter`].
        log_filter: String,
    }
    nested {
        /// See [`Settings::limits`].
        limits: PartialLimits,
        /// See [`Settings::cache`].
        cache: PartialCacheSizes,
    }
}

layer! {
    /// One layer of [`Limits`](super::Limits), whose fields say what each bounds.
    #[allow(missing_docs)]
    PartialLimits {
        message_bytes: u64,
        store_message_bytes: u64,
        document_bytes: u64,
        prompt_tokens: u64,
        score_tokens: u64,
        memories: u64,
        tenant_memories: u64,
        tenant_tokens: u64,
        tenant_bytes: u64,
        documents_per_memory: u64,
        connections: u64,
        streams_per_connection: u64,
        calls: u64,
        ingests: u64,
        transfers: u64,
        ingest_idle_s: u64,
        engine_queue: u64,
        store_calls: u64,
        expiry_sweep_s: u64,
        disk_free_bytes: u64,
    }
}

layer! {
    /// One layer of [`CacheSizes`](super::CacheSizes), whose fields say what each bounds.
    #[allow(missing_docs)]
    PartialCacheSizes {
        index_bytes: u64,
        chunk_bytes: u64,
        catalog_bytes: u64,
        reader_bytes: u64,
    }
}

impl PartialSettings {
    /// Reads a TOML file. Unknown keys are refused: they are misspelt ones.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Self::from_toml(&text, path)
    }

    /// Parses TOML; `path` is for messages.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        toml::from_str(text)
            .map_err(|error| Error::Settings { what: path.display().to_string(), why: error.to_string() })
    }

    /// The settings that these layers and the defaults make, validated.
    pub fn resolve(self) -> Result<Settings> {
        let mut settings = Settings::default();
        let Self {
            listen,
            data,
            model,
            device,
            window,
            memory_adapter,
            profile,
            embedder,
            context_tokens,
            chunk_tokens,
            entry_policy,
            kv_dtype,
            commit_tokens,
            tenants,
            store_only,
            store,
            store_token,
            store_ca,
            tls_cert,
            tls_key,
            allow_insecure_remote,
            shutdown_grace_s,
            log_format,
            log_filter,
            limits,
            cache,
        } = self;
        set(&mut settings.listen, listen);
        set(&mut settings.data, data);
        set(&mut settings.model, model);
        set(&mut settings.device, device);
        settings.window = window;
        settings.memory_adapter = memory_adapter;
        settings.profile = profile;
        settings.embedder = embedder;
        settings.context_tokens = context_tokens.unwrap_or(settings.context_tokens);
        settings.chunk_tokens = chunk_tokens;
        settings.entry_policy = entry_policy;
        settings.kv_dtype = kv_dtype;
        set(&mut settings.commit_tokens, commit_tokens);
        set(&mut settings.tenants, tenants);
        set(&mut settings.store_only, store_only);
        settings.store = store;
        settings.store_token = store_token;
        settings.store_ca = store_ca;
        settings.tls = match (tls_cert, tls_key) {
            (Some(cert), Some(key)) => Some(Tls { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(lonely("tls_cert", "tls_key")),
            (None, Some(_)) => return Err(lonely("tls_key", "tls_cert")),
        };
        set(&mut settings.allow_insecure_remote, allow_insecure_remote);
        set(&mut settings.shutdown_grace, shutdown_grace_s.map(Duration::from_secs));
        set(&mut settings.log_format, log_format);
        set(&mut settings.log_filter, log_filter);
        settings.limits.apply(&limits);
        settings.cache.apply(&cache);
        settings.validate()?;
        Ok(settings)
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn lonely(given: &str, missing: &str) -> Error {
    Error::Settings { what: given.into(), why: format!("it is given without {missing}; give both or neither") }
}
