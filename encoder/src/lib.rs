//! Documents to memory: text is tokenized as it arrives, read once by the model, and the keys and values of its memory
//! layers are handed to the store chunk by chunk.
//!
//! For programs that ingest documents or search a memory by text (the server, benchmarks). Not for generating text
//! (`mnemon-runtime`), nor for anything that only stores or recalls (`mnemon-memory-store`).
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `error` | the error type |
//! | `utf8` | character borders, UTF-8 in pieces |
//! | `tokenizer` | [`StreamTokenizer`]: the tokens of the whole text, in bounded memory |
//! | `options` | [`EncodeOptions`], [`Progress`] |
//! | `document` | [`DocumentEncoder`]: segments, window, chunks, commits; create, append, resume |
//! | `embedder` | [`Embedder`]: sentence embeddings, by a model of their own |
//! | `search` | [`search_text`]: the passages that a query asks for, by words and by keys |
//! | `scratch` | a memory in this process, for the two below |
//! | `overflow` | [`Overflow`]: the part of a prompt that does not fit, as a memory of the request itself |
//! | `probe` | [`probe`]: measures a pretrained model and makes its profile |
//!
//! Nothing here is asynchronous, reads a clock, or holds more than one pushed piece, one segment and one window.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod document;
mod embedder;
mod error;
mod options;
mod overflow;
mod probe;
mod scratch;
mod search;
mod tokenizer;
mod utf8;

pub use document::{DocumentEncoder, KeptReaders, PUSH_BYTES_MAX};
pub use embedder::Embedder;
pub use error::{Error, Result};
pub use options::{EncodeOptions, Progress};
pub use overflow::Overflow;
pub use probe::{ProbeOptions, ProbeStage, probe};
pub use search::{Found, Passage, QUERY_TOKENS_MAX, SEARCH_PASSAGES_MAX, SearchBy, SearchOptions, search_text};
pub use tokenizer::{HELD_BACK_BYTES_MAX, SafePoint, StreamTokenizer, Token};
