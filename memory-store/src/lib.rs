//! Durable kNN memory of attention keys and values.

mod cache;
mod chunk;
mod codec;
mod core;
mod error;
mod extent;
mod geometry;
pub mod index;
mod info;
mod memory;
mod names;
mod options;
mod recall;
mod records;
mod seal;
mod snapshot;
pub mod storage;
mod state;
mod store;
mod sync;
mod tail;
mod union;
mod writer;

pub use chunk::{ChunkId, ChunkInfo, ChunkKv, KvChunk, KvData, SourceSpan};
pub use error::{Error, Result};
pub use geometry::{EntryPolicy, Fingerprint, KvDtype, KvGeometry};
pub use info::{Committed, DocumentInfo, MemoryInfo, MemorySpec, ResumePoint, WriterState};
pub use memory::Memory;
pub use names::{
    MAX_DOCUMENT_ID_BYTES, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_BYTES, MAX_METADATA_VALUE_BYTES, MAX_NAME_BYTES,
};
pub use options::{Clock, Sealing, StoreOptions};
pub use recall::{Hit, Recall, SearchRequest};
pub use snapshot::Snapshot;
pub use storage::{InMemoryStorage, SledOptions, SledStorage, Storage};
pub use store::Store;
pub use union::UnionRecall;
pub use writer::Writer;
