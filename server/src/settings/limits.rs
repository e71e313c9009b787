//! Bounds: one table each, from which the struct, its defaults and its partial form are made.

use super::partial::{PartialCacheSizes, PartialLimits};
use crate::error::{Error, Result};

/// Makes a struct of numbers with defaults, its partial form, and what joins the two.
macro_rules! bounds {
    ($(#[$doc:meta])* $name:ident, $partial:ident, { $($(#[$field_doc:meta])* $field:ident: $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: u64,)* }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// Takes over what `partial` sets.
            pub(super) fn apply(&mut self, partial: &$partial) {
                $(if let Some(value) = partial.$field { self.$field = value; })*
            }

            /// Names and values.
            fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($field), self.$field),)*]
            }
        }
    };
}

bounds! {
    /// Bounds on what callers may ask for; each is at least 1. Those of the contract (pieces of 1 MiB, 16 memories in
    /// a request, and so on) are not settings: see `proto/mnemon/v1`.
    Limits, PartialLimits, {
        /// Bytes of one gRPC message; at least the contract's largest piece of text fits.
        message_bytes: 4 << 20,
        /// Bytes of one gRPC message to `ChunkStore`: a chunk with keys and values of all memory layers fits.
        store_message_bytes: 64 << 20,
        /// Bytes of one document.
        document_bytes: 1 << 30,
        /// Tokens of a prompt or query; the model may accept less.
        prompt_tokens: 32_768,
        /// Tokens of a text to score.
        score_tokens: 1 << 20,
        /// Memories of all tenants together.
        memories: 10_000,
        /// Memories of one tenant; any number unless it is set. Like the next two for tenants without numbers of their own.
        tenant_memories: u64::MAX,
        /// Tokens in all memories of one tenant together; any number unless it is set.
        tenant_tokens: u64::MAX,
        /// Bytes of the files of all memories of one tenant together; any number unless it is set.
        tenant_bytes: u64::MAX,
        /// Documents of one memory.
        documents_per_memory: 1_000_000,
        /// Connections at one time; more wait to be accepted.
        connections: 1024,
        /// Calls at one time over one connection; more wait.
        streams_per_connection: 128,
        /// Calls at one time, over all connections; more are refused. Each may hold one message in memory.
        calls: 256,
        /// Documents being read, or appended to through `ChunkStore`, at one time, over all tenants.
        ingests: 16,
        /// Seconds that an ingest stream may be silent before it is ended (what it sent is kept).
        ingest_idle_s: 300,
        /// Exports and imports at one time, over all tenants. Each may hold a chunk, of 256 MiB at most.
        transfers: 4,
        /// Tasks waiting for the model or running on it: pieces of documents, searches, generations, scorings.
        engine_queue: 64,
        /// Store operations running or waiting at one time, beside the model: catalog calls, citations.
        store_calls: 64,
        /// Seconds between sweeps: expired data takes space at most so long.
        expiry_sweep_s: 60,
        /// Bytes that stay free on the data folder's disk: writing is refused before there are fewer.
        disk_free_bytes: 64 << 20,
    }
}

bounds! {
    /// Bounds on memory used for caches, in bytes.
    CacheSizes, PartialCacheSizes, {
        /// Graphs and entries of indexes.
        index_bytes: 1 << 30,
        /// Keys and values of recalled chunks.
        chunk_bytes: 128 << 20,
        /// Records of the catalog.
        catalog_bytes: 64 << 20,
        /// Keys and values of the windows before the ends of documents, for what is appended to them.
        reader_bytes: 512 << 20,
    }
}

impl Limits {
    pub(super) fn validate(&self) -> Result<()> {
        for (name, value) in self.entries() {
            if value == 0 {
                return Err(Error::Settings { what: format!("limits.{name}"), why: "0; at least 1 is needed".into() });
            }
        }
        for (name, value) in [
            ("connections", self.connections),
            ("streams_per_connection", self.streams_per_connection),
            ("calls", self.calls),
            ("ingests", self.ingests),
            ("transfers", self.transfers),
            ("engine_queue", self.engine_queue),
            ("store_calls", self.store_calls),
        ] {
            if value > 1 << 20 {
                let why = format!("{value}; at most {} is accepted", 1 << 20);
                return Err(Error::Settings { what: format!("limits.{name}"), why });
            }
        }
        if self.message_bytes < 2 << 20 {
            let why = format!("{}; at least 2 MiB is needed for a piece of text", self.message_bytes);
            return Err(Error::Settings { what: "limits.message_bytes".into(), why });
        }
        Ok(())
    }
}

impl CacheSizes {
    /// For the log.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.entries().iter().map(|(_, bytes)| bytes).sum()
    }
}
