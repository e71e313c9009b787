//! Chunks: the unit of storing, caching and citing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};

/// Identifier of a chunk, unique in a store and never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkId(pub u64);

/// Where a chunk stands in its document. Ends are exclusive; spans of consecutive chunks touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceSpan {
    /// First byte of the chunk's text in the UTF-8 document.
    pub byte_start: u64,
    /// One past its last byte.
    pub byte_end: u64,
    /// Index of its first token in the document.
    pub token_start: u64,
    /// One past its last token.
    pub token_end: u64,
}

/// Consecutive tokens of one document with the keys and values that the memory layers computed for them.
#[derive(Debug, Clone, PartialEq)]
pub struct KvChunk {
    /// Where it stands in the document.
    pub span: SourceSpan,
    /// Token ids, `span.token_end - span.token_start` of them.
    pub tokens: Vec<u32>,
    /// The document's text at `span`.
    pub text: String,
    /// Keys before rotary encoding, one vector per memory layer, each `[kv_heads, tokens, head_dim]` row-major.
    pub keys: Vec<Vec<f32>>,
    /// Values, shaped as `keys`.
    pub values: Vec<Vec<f32>>,
    /// Attention that each token received while it was local, one vector per memory layer, each
    /// `[kv_heads, tokens]`; required by [`EntryPolicy::Representative`](crate::EntryPolicy), else empty.
    pub importance: Vec<Vec<f32>>,
    /// Keys of the [lone key heads](crate::KvGeometry::lone_key_heads), one vector for each, `[tokens, head_dim]`
    /// row-major.
    pub lone_keys: Vec<Vec<f32>>,
    /// Turns that its text is of, ascending by their starts.
    pub turns: Vec<Turn>,
}

/// A part of a document with metadata of its own: what one speaker said in a conversation, say. It goes on to where the next one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Byte of the chunk's text at which it starts; 0 also where it started in an earlier chunk.
    pub start: u32,
    /// Who said it and when, say: at most 16 pairs of 2048 bytes together. Empty: from here on there is no turn.
    pub metadata: BTreeMap<String, String>,
}

/// Numbers as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum KvData {
    /// binary32.
    F32(Vec<f32>),
    /// binary16.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

impl KvData {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values widened to binary32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(data) => data.clone(),
            Self::F16(data) => data.iter().map(|value| value.to_f32()).collect(),
            Self::Bf16(data) => data.iter().map(|value| value.to_f32()).collect(),
        }
    }
}

/// Keys and values of one chunk at one memory layer, as fetched for attention.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkKv {
    /// The chunk.
    pub id: ChunkId,
    /// Number of its document within the store: orders chunks of different documents.
    pub document: u64,
    /// Index of its first token in the document.
    pub token_start: u64,
    /// Tokens in the chunk.
    pub len: usize,
    /// Keys before rotary encoding, `[kv_heads, len, head_dim]`.
    pub keys: KvData,
    /// Values, `[kv_heads, len, head_dim]`.
    pub values: KvData,
}

/// What a citation shows of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkInfo {
    /// The chunk.
    pub id: ChunkId,
    /// Name of the memory it belongs to.
    pub memory: String,
    /// Number of its document within the store.
    pub document: u64,
    /// Its document's identifier, as given by the user.
    pub document_id: String,
    /// What the user attached to its document, as it is now; of a document that is gone, what its blob says.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Where it stands in the document.
    pub span: SourceSpan,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Turns that its text is of, ascending by their starts.
    pub turns: Vec<Turn>,
}

impl Turn {
    /// Its metadata over that of its document.
    pub fn over<'a>(&self, document: &'a BTreeMap<String, String>) -> Cow<'a, BTreeMap<String, String>> {
        if self.metadata.is_empty() {
            return Cow::Borrowed(document);
        }
        let mut metadata = document.clone();
        metadata.extend(self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())));
        Cow::Owned(metadata)
    }
}

impl ChunkInfo {
    /// What is said of the text from its byte `start` on: the metadata of the document, and over it that of the turn.
    pub fn metadata_at(&self, start: usize) -> Cow<'_, BTreeMap<String, String>> {
        let turn = self.turns.iter().rev().find(|turn| turn.start as usize <= start);
        turn.map_or(Cow::Borrowed(&self.metadata), |turn| turn.over(&self.metadata))
    }
}
