//! Durable kNN memory of attention keys and values.

mod chunk;
mod error;
mod geometry;
mod recall;

pub use chunk::{ChunkId, ChunkInfo, ChunkKv, KvChunk, KvData, SourceSpan};
pub use error::{Error, Result};
pub use geometry::{EntryPolicy, Fingerprint, KvDtype, KvGeometry};
pub use recall::{Hit, Recall, SearchRequest};
