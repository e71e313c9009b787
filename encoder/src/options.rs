//! How documents are read, and how far reading has come.

use mnemon_memory::{Invalid, KvGeometry};
use mnemon_runtime::RecallOptions;

use crate::error::{Error, Result};

/// Tokens of a segment at most.
const SEGMENT_TOKENS_MAX: usize = 1 << 16;

/// How a document is read.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodeOptions {
    /// Tokens of one forward pass; a multiple of the memory's `chunk_tokens`, at most 65,536. Segments begin at
    /// multiples of it from the document's start, whatever pieces the text arrives in. A document must be continued
    /// with the number it was begun with if its keys and values are to be the same to the last bit.
    pub segment_tokens: usize,
    /// Tokens between durable commits, at least 1. Commits fall on the ends of segments.
    pub commit_tokens: usize,
    /// Recall the document's own earlier chunks while reading; never those of other documents. Commits after every
    /// segment, and reads from the document's start again when it is continued. An append that is interrupted can
    /// then take back the end of what was durable before (the segments that it had begun to read again).
    pub recall_while_reading: Option<RecallOptions>,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { segment_tokens: 512, commit_tokens: 4096, recall_while_reading: None }
    }
}

impl EncodeOptions {
    /// The defaults, with segments of whole chunks of `geometry`.
    pub fn for_geometry(geometry: &KvGeometry) -> Self {
        let default = Self::default();
        let segment_tokens = default.segment_tokens.next_multiple_of(geometry.chunk_tokens.max(1) as usize);
        Self { segment_tokens, ..default }
    }

    /// Refuses what cannot be done with chunks of `geometry`.
    pub fn validate(&self, geometry: &KvGeometry) -> Result<()> {
        let chunk_tokens = geometry.chunk_tokens as usize;
        if self.segment_tokens == 0
            || self.segment_tokens > SEGMENT_TOKENS_MAX
            || !self.segment_tokens.is_multiple_of(chunk_tokens)
        {
            let given = self.segment_tokens;
            let why = format!("{given}; a multiple of {chunk_tokens}, at most {SEGMENT_TOKENS_MAX}, is accepted");
            return Err(Error::Invalid(Invalid { what: "segment_tokens", why }));
        }
        if self.commit_tokens == 0 {
            return Err(Error::Invalid(Invalid { what: "commit_tokens", why: "0; at least 1 is accepted".into() }));
        }
        if let Some(recall) = &self.recall_while_reading {
            recall.validate()?;
        }
        Ok(())
    }
}

/// How far a document has been read. Counts are of the whole document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes received, those compared and skipped by a resumed document included.
    pub bytes_received: u64,
    /// Tokens encoded, durable or not.
    pub tokens_encoded: u64,
    /// Bytes that are durable.
    pub durable_bytes: u64,
    /// Tokens that are durable.
    pub durable_tokens: u64,
    /// Chunks that are durable.
    pub durable_chunks: u64,
    /// Sequence number of the document's last commit.
    pub sequence: u64,
    /// Whether the whole document is durable.
    pub complete: bool,
}
