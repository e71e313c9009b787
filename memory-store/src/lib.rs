//! Durable kNN memory of attention keys and values.

mod chunk;
mod error;
mod geometry;
mod info;
mod memory;
mod options;
mod recall;
mod snapshot;
pub mod storage;
mod store;
mod sync;
mod union;
mod writer;

pub use chunk::{ChunkId, ChunkInfo, ChunkKv, KvChunk, KvData, SourceSpan};
pub use error::{Error, Result};
pub use geometry::{EntryPolicy, Fingerprint, KvDtype, KvGeometry};
pub use info::{Committed, DocumentInfo, MemoryInfo, MemorySpec, ResumePoint, WriterState};
pub use memory::Memory;
pub use options::{Clock, Sealing, StoreOptions};
pub use recall::{Hit, Recall, SearchRequest};
pub use snapshot::Snapshot;
pub use storage::{InMemoryStorage, SledOptions, SledStorage, Storage};
pub use store::Store;
pub use union::UnionRecall;
pub use writer::Writer;
