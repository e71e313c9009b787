//! The seam between models and memories: plain types, and the traits for recall and ingest.
//!
//! `mnemon-runtime` reads memories through [`Recall`], `mnemon-encoder` fills them through [`OpenMemory`] and [`DocumentWriter`].
//! `mnemon-memory-store` implements the three over a data folder, `mnemon-server` over a store on another machine. This crate
//! stands below all of them, so that a model runs without a storage engine being compiled.
//!
//! Who should not use it: code that opens a data folder (use `mnemon-memory-store`) or talks to a server (use `mnemon-client`).
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `invalid` | a refused argument |
//! | `geometry` | shape of stored keys and values, and which model made them |
//! | `error` | what a caller through the seam must tell apart |
//! | `chunk` | the unit of storing, caching and citing |
//! | `embeddings` | sentence embeddings of chunks |
//! | `request` | searches and what they find |
//! | `chunk_selection` | which chunks a block of queries recalls |
//! | `recall` | the read side: [`Recall`] |
//! | `ingest` | the write side: [`OpenMemory`], [`DocumentWriter`] |
//! | `union` | several views searched as one |

mod chunk;
mod chunk_selection;
mod embeddings;
mod error;
mod geometry;
mod ingest;
mod invalid;
mod recall;
mod request;
mod union;

pub use chunk::{ChunkId, ChunkInfo, ChunkKv, KvChunk, KvData, SourceSpan, Turn};
pub use chunk_selection::ChunkSelection;
pub use embeddings::{EMBEDDING_DIM_MAX, Embeddings};
pub use error::{Error, Result};
pub use geometry::{EntryPolicy, Fingerprint, KeyHead, KvDtype, KvGeometry};
pub use ingest::{Committed, CreateScratch, DocumentWriter, OpenMemory, ResumePoint, WriterState};
pub use invalid::Invalid;
pub use recall::{MAX_NEIGHBOURS, Recall};
pub use request::{
    EmbeddingHit, EmbeddingHits, EmbeddingRequest, Hit, Meaning, QUERY_BYTES_MAX, SearchRequest, TERMS_MAX, TermHit,
    TermHits, TermRequest, WordHits, WordRequest, term_weight,
};
pub use union::{ChunkHit, UnionRecall, best_first, keep_best_chunks};
