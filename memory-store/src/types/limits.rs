//! How long memories and documents live, and how much they may hold: plain data.

use mnemon_memory::Invalid;

use crate::error::{Error, Result};

/// Longest time to live: a hundred years of 365.25 days, in milliseconds.
pub const MAX_TTL_MS: u64 = 3_155_760_000_000;

/// How long a memory and its documents live, and how much it may hold. `None` is without a limit; given numbers are at
/// least 1. May be changed at any time: see [`Memory::update_limits`](crate::Memory::update_limits).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Milliseconds after its last change (a commit, a deletion, an update of these limits) after which the memory goes
    /// with everything in it; at most [`MAX_TTL_MS`].
    pub ttl_ms: Option<u64>,
    /// Milliseconds after its last commit after which a document goes that has no time to live of its own; at most
    /// [`MAX_TTL_MS`]. A change of it holds for the documents that are there already, too.
    pub document_ttl_ms: Option<u64>,
    /// Tokens of all documents together.
    pub max_tokens: Option<u64>,
    /// Bytes of all blobs together: chunks and index.
    pub max_bytes: Option<u64>,
}

impl MemoryLimits {
    /// Refuses values outside of the ranges documented on the fields.
    pub fn validate(&self) -> Result<()> {
        check_ttl("ttl", self.ttl_ms)?;
        check_ttl("document_ttl", self.document_ttl_ms)?;
        for (what, limit) in [("max_tokens", self.max_tokens), ("max_bytes", self.max_bytes)] {
            if limit == Some(0) {
                return Err(Error::Invalid(Invalid { what, why: "0; at least 1 is accepted, or no limit".into() }));
            }
        }
        Ok(())
    }
}

/// How much a tenant may hold in all its memories together. `None` is without a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Memories.
    pub max_memories: Option<u64>,
    /// Tokens of all documents.
    pub max_tokens: Option<u64>,
    /// Bytes of all blobs: chunks and index.
    pub max_bytes: Option<u64>,
}

/// Refuses a time to live outside of 1 to [`MAX_TTL_MS`] milliseconds.
pub(crate) fn check_ttl(what: &'static str, ttl_ms: Option<u64>) -> Result<()> {
    match ttl_ms {
        Some(ms) if ms == 0 || ms > MAX_TTL_MS => Err(Error::Invalid(Invalid {
            what,
            why: format!("{ms} ms; 1 ms to {MAX_TTL_MS} ms (100 years) is accepted"),
        })),
        _ => Ok(()),
    }
}
