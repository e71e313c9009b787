//! What the store tells about memories and documents: plain data.

use std::collections::BTreeMap;

use mnemon_memory::{Fingerprint, Invalid, KvGeometry, ResumePoint};

use crate::error::{Error, Result};
use crate::types::limits::MemoryLimits;

/// What a memory is made for; fixed when it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySpec {
    /// The only model whose keys and values it accepts.
    pub fingerprint: Fingerprint,
    /// Their shape.
    pub geometry: KvGeometry,
    /// Name of the model, for people. At most 256 bytes.
    pub model_name: String,
    /// What the memory is about, for people. At most 4096 bytes.
    pub description: String,
}

/// One memory, as it was when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Name, unique for its tenant.
    pub name: String,
    /// Name of the model.
    pub model_name: String,
    /// What it is about.
    pub description: String,
    /// The model whose keys and values it holds.
    pub fingerprint: Fingerprint,
    /// Their shape.
    pub geometry: KvGeometry,
    /// When it was created, milliseconds since 1970-01-01 UTC, by the clock in [`StoreOptions`](crate::StoreOptions).
    pub created_unix_ms: u64,
    /// Documents.
    pub documents: u64,
    /// Chunks.
    pub chunks: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Bytes of chunk blobs, including chunks that were truncated and documents' headers.
    pub stored_bytes: u64,
    /// Bytes of graph blobs.
    pub index_bytes: u64,
    /// Of `stored_bytes`, those of indexes of words.
    pub word_bytes: u64,
    /// Bytes of sentence embeddings, of all embedders.
    pub embedding_bytes: u64,
    /// Search entries of one key head.
    pub entries: u64,
    /// Those of them that are not in a graph yet.
    pub unsealed_entries: u64,
    /// Number of the last acknowledged change; grows by one with each.
    pub sequence: u64,
    /// How long it and its documents live, and how much it may hold.
    pub limits: MemoryLimits,
    /// When it goes with everything in it unless it is changed before, milliseconds since 1970-01-01 UTC; `None`: never.
    pub expires_unix_ms: Option<u64>,
    /// Why it can be neither read nor written, if so: its records are damaged. The other fields then tell what is
    /// known, which may be nothing.
    pub damaged: Option<String>,
}

/// One document, as it was when asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentInfo {
    /// Identifier, as given by the user.
    pub id: String,
    /// Number of the document, unique in the store.
    pub number: u64,
    /// What the user attached to it.
    pub metadata: BTreeMap<String, String>,
    /// Tokens.
    pub tokens: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of text.
    pub bytes: u64,
    /// Sequence number of the memory at the document's last commit.
    pub sequence: u64,
    /// First commit, milliseconds since 1970-01-01 UTC.
    pub created_unix_ms: u64,
    /// Last commit, milliseconds since 1970-01-01 UTC.
    pub updated_unix_ms: u64,
    /// Whether the whole document was committed (same as in `resume`).
    pub complete: bool,
    /// From where to go on.
    pub resume: ResumePoint,
    /// Its own time to live, in milliseconds; `None`: that of the memory is in force, if it has one.
    pub ttl_ms: Option<u64>,
    /// When it goes unless it is committed to before, milliseconds since 1970-01-01 UTC; `None`: never.
    pub expires_unix_ms: Option<u64>,
    /// Of the chunks, those that damage took: see [`check`](mod@crate::check). Such a document can be read and deleted, but
    /// not continued.
    pub lost_chunks: u64,
}

pub(crate) fn check_spec(spec: &MemorySpec) -> Result<()> {
    spec.geometry.validate()?;
    for (what, text, limit) in [("model name", &spec.model_name, 256), ("description", &spec.description, 4096)] {
        if text.len() > limit {
            return Err(Error::Invalid(Invalid {
                what,
                why: format!("{} bytes; at most {limit} are accepted", text.len()),
            }));
        }
    }
    Ok(())
}
