//! The one error type of the crate.

use mnemon_memory::Invalid;

/// What went wrong while a document was read or a memory was searched by text, and what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not UTF-8.
    #[error("byte {byte_offset} of the document does not belong to valid UTF-8; convert the text to UTF-8 first")]
    InvalidUtf8 {
        /// First offending byte, counted from the document's start.
        byte_offset: u64,
    },
    /// There is nothing to read.
    #[error("the document is empty; send at least one token of text")]
    EmptyDocument,
    /// The query has no token.
    #[error("the query is empty; give at least one token of text")]
    EmptyQuery,
    /// A new document was asked for under an identifier that is taken.
    #[error("document '{document}' exists already; append to it, resume it, or delete it first")]
    DocumentExists {
        /// Identifier as given by the caller.
        document: String,
    },
    /// A document that was to be resumed differs from what is stored of it.
    #[error(
        "the document differs at byte {byte} from what is stored of it; \
         resume with the same text, or delete the document and ingest it anew"
    )]
    ResumeMismatch {
        /// First byte that differs, counted from the document's start.
        byte: u64,
    },
    /// Pushed while an earlier piece still waits to be encoded.
    #[error("more text was pushed than fits; call step until wants_input says true")]
    BufferFull,
    /// Used after its end.
    #[error("the document is finished; append to it with a new encoder")]
    Finished,
    /// Used after an error.
    #[error("reading this document failed before; resume it with a new encoder")]
    Failed,
    /// The tokenizer drops all of a long stretch of text.
    #[error("the model's tokenizer has no token for the text at bytes {byte_start} to {byte_end} of the document")]
    Unrepresentable {
        /// First byte.
        byte_start: u64,
        /// One past the last byte.
        byte_end: u64,
    },
    /// A model for sentence embeddings cannot be used.
    #[error("the embedder {}: {why}; give a folder with a model of sentence-transformers of the BERT family, such as all-MiniLM-L6-v2", path.display())]
    Embedder {
        /// Its folder.
        path: std::path::PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A search by meaning without an embedder.
    #[error("there is no embedder: a search by meaning needs one")]
    NoEmbedder,
    /// The tokenizer failed.
    #[error("tokenizer: {why}")]
    Tokenizer {
        /// What it reported.
        why: String,
    },
    /// An argument is outside of what is accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The store refused or failed.
    #[error(transparent)]
    Memory(#[from] mnemon_memory::Error),
    /// The model refused or failed.
    #[error(transparent)]
    Runtime(#[from] mnemon_runtime::Error),
}

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
