//! Durable kNN memory of attention keys and values.
//!
//! A [`Store`] keeps named memories over a [`Storage`]; a [`Memory`] keeps documents, each a sequence of chunks: tokens,
//! text, and the keys and values that a model's memory layers computed for them. A [`Writer`] appends to one document
//! and acknowledges only what survives `kill -9` and loss of power; a [`Snapshot`] is an immutable view that searches
//! keys by inner product and hands out chunks while others write. Types and traits that models need are in `mnemon-memory`.
//!
//! Who should not use it: code that wants vectors of documents rather than keys of attention (use a vector database), or
//! many processes on one folder (one process holds it; others talk to that one). There are no tensors, no async and no
//! clock in here: callers bring numbers, threads and time.
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `sync` | locks that ignore poisoning |
//! | `error` | the error type |
//! | `types` | plain data with its bounds: what memories and documents are, limits, names, options |
//! | `format` | bytes to values and back, and nothing else: `docs/format.md` |
//! | `storage` | ordered records and immutable blobs: sled and files, memory, faulty |
//! | `index` | vectors (flat scan, graph), words (BM25 postings), sentence embeddings |
//! | `engine` | memories and their states, transactions, deletion, caches, quotas, expiry |
//! | `search` | searches over a state: entries, terms, words, embeddings |
//! | `maintenance` | sealing, compaction, deletion of what expired |
//! | `handles` | [`Store`], [`Memory`], [`Writer`], [`Snapshot`] |
//! | `archive` | a memory as one file: export, import |
//! | `check` | every byte of a store that is not open verified, and rebuilt where that can be done |
//! | `fuzzing` | every parser of bytes, for fuzzers; behind the feature of this name |
//!
//! # Invariants
//!
//! - A blob is durable before a record refers to it, and no record refers to it when it is deleted; it is deleted with
//!   its last reader. Blobs without record are removed at opening, unless a memory is damaged.
//! - A state never changes. A transaction makes a new state, commits its records, then replaces the old one.
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
pub mod check;
mod engine;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handles;
pub mod index;
mod maintenance;
mod search;
pub mod storage;
mod sync;
mod types;

pub use archive::{Export, Import};
pub use check::{check, check_folder};
pub use error::{Error, Result};
pub use format::geometry::bytes_per_token;
pub use handles::embeddings::Unembedded;
pub use handles::filter::DocumentLabels;
pub use handles::memory::Memory;
pub use handles::scratch::create_scratch;
pub use handles::snapshot::Snapshot;
pub use handles::store::Store;
pub use handles::writer::Writer;
pub use index::words::WordMatcher;
pub use maintenance::compact::Compacted;
pub use maintenance::expire::Expired;
pub use storage::{InMemoryStorage, SledOptions, SledStorage, Storage};
pub use types::info::{DocumentInfo, MemoryInfo, MemorySpec};
pub use types::limits::{MAX_TTL_MS, MemoryLimits, Quota};
pub use types::names::{
    MAX_DOCUMENT_ID_BYTES, MAX_METADATA_ENTRIES, MAX_METADATA_KEY_BYTES, MAX_METADATA_VALUE_BYTES, MAX_NAME_BYTES,
    TURN_BYTES_MAX, TURN_ENTRIES_MAX,
};
pub use types::options::{Clock, Sealing, StoreOptions};
