//! Durable kNN memory of attention keys and values.
//!
//! A [`Store`] keeps named memories over a [`Storage`]; a [`Memory`] keeps documents, each a sequence of chunks: tokens,
//! text, and the keys and values that a model's memory layers computed for them. A [`Writer`] appends to one document
//! and acknowledges only what survives `kill -9` and loss of power; a [`Snapshot`] is an immutable view that searches
//! keys by inner product and hands out chunks while others write.
//!
//! Who should not use it: whoever wants vectors of documents rather than keys of attention (use a vector database), or
//! many processes on one folder (one process holds it; others talk to that one). There are no tensors, no async and no
//! clock in here: callers bring numbers, threads and time.
//!
//! # Layout
//!
//! | module | idea |
//! |---|---|
//! | `geometry`, `chunk`, `info`, `error` | plain data |
//! | `recall`, `choice` | the seam to the runtime: what is asked of a memory while text is made |
//! | `reading` | the seam to the encoder: what is asked of a memory while a document is read |
//! | `storage` | ordered records and immutable blobs: sled and files, memory, faulty |
//! | `codec`, `records`, `extent`, `numbers`, `quant` | bytes: `docs/format.md` |
//! | `store`, `memory`, `writer`, `snapshot`, `union` | the handles |
//! | `filter` | views of some documents |
//! | `state` | what a memory consists of at one moment |
//! | `core` | storage, numbers and caches that the handles share; the one way to commit |
//! | `index` | flat scan; graphs: build, extend, freeze, search |
//! | `blob`, `check` | every byte of a store that is not open verified, and rebuilt where that can be done |
//! | `limits`, `life`, `expiry` | times to live: what is due, and how it goes |
//! | `quota` | how much memories and tenants may hold |
//! | `archive` | a memory as one file: export, import; a memory takes the place of another |
//! | `compact` | blobs with dead chunks, and many small ones, are written anew |
//! | `fuzzing` | every parser of bytes, for fuzzers; behind the feature of this name |
//! | `terms` | search by token ids: all scanned, BM25 |
//! | `embeddings` | search by meaning: vectors in a blob beside each chunk blob |
//! | `words` | search by words: an index in each chunk blob, BM25 |
//! | `tail`, `seal` | entries that no graph indexes yet, and how they get one |
//!
//! # Invariants
//!
//! - A blob is durable before a record refers to it, and no record refers to it when it is deleted; then it goes with
//!   its last reader. Blobs without record are removed at opening, unless a memory is damaged.
//! - A state never changes. A change makes a new state, commits its records, then replaces the old one.
//! - Commits, deletions and sealings of one memory take turns; readers never wait for them.
//! - What is due by the clock is never shown: readers delete it first, as anyone would, or hide it if that fails.
//! - Chunk ids are given out once in the life of a store.
//!
//! # Bounds
//!
//! Memory grows with the configured caches, with 12 bytes for each chunk, some 300 for each commit, 1 KiB for each
//! memory and 200 for each document that has a time to live; a writer buffers [`StoreOptions::writer_buffer_bytes`] and one chunk; sealing takes about half of the index
//! cache at most, one graph at a time. Threads: one that seals, and [`StoreOptions::seal_threads`].
//!
//! Measured with 10 million tokens of the default model's geometry in 1,221 commits and the default caches (1 GiB of index,
//! 128 MiB of chunks, 64 MiB of catalog): a process that opened them and searched all of them twice, 0.26 million entries in a
//! graph and the rest scanned, had 1,115 MB resident and 1,240 MB at most: the full index cache and what one search reads.

pub mod archive;
mod blob;
mod cache;
pub mod check;
mod choice;
mod chunk;
mod codec;
mod compact;
mod core;
mod embeddings;
mod error;
mod expiry;
mod extent;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod geometry;
pub mod index;
mod info;
mod life;
mod limits;
mod memory;
mod names;
mod numbers;
mod options;
mod quant;
mod quota;
mod reading;
mod recall;
mod records;
mod seal;
mod snapshot;
mod state;
pub mod storage;
mod store;
mod sync;
mod tail;
mod terms;
mod union;
mod update;
mod words;
mod writer;

pub use archive::{Export, Import};
pub use check::{check, check_folder};
pub use choice::Choice;
pub use chunk::{ChunkId, ChunkInfo, ChunkKv, KvChunk, KvData, SourceSpan, Turn};
pub use compact::Compacted;
pub use embeddings::{EMBEDDING_DIM_MAX, Embeddings, Unembedded};
pub use error::{Error, Result};
pub use expiry::Expired;
pub use filter::DocumentLabels;
pub use geometry::{EntryPolicy, Fingerprint, KeyHead, KvDtype, KvGeometry};
pub use info::{Committed, DocumentInfo, MemoryInfo, MemorySpec, ResumePoint, WriterState};
pub use limits::{MAX_TTL_MS, MemoryLimits, Quota};
pub use memory::Memory;
pub use names::{
    MAX_DOCUMENT_ID_BYTES, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_BYTES, MAX_METADATA_VALUE_BYTES, MAX_NAME_BYTES,
    TURN_BYTES_MAX, TURN_ENTRIES_MAX,
};
pub use options::{Clock, Sealing, StoreOptions};
pub use reading::{DocumentWriter, OpenMemory};
pub use recall::{
    EmbeddingHit, EmbeddingHits, EmbeddingRequest, Hit, MAX_NEIGHBOURS, Meaning, QUERY_BYTES_MAX, Recall,
    SearchRequest, TERMS_MAX, TermHit, TermHits, TermRequest, WordHits, WordRequest, term_weight,
};
pub use snapshot::Snapshot;
pub use storage::{InMemoryStorage, SledOptions, SledStorage, Storage};
pub use store::Store;
pub use union::UnionRecall;
pub use words::WordMatcher;
pub use writer::Writer;
