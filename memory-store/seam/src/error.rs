//! The one error type of the seam.

use crate::geometry::Fingerprint;
use crate::invalid::Invalid;

/// What went wrong in a memory, as far as a caller through the seam must tell it apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is outside of what is accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The memory was made by another model.
    #[error(
        "memory '{memory}' holds keys and values of model {stored}, but the model in use is {given}; \
         serve the model it was made with, or re-encode the memory, so that this one reads its documents again"
    )]
    FingerprintMismatch {
        /// Name of the memory.
        memory: String,
        /// Fingerprint recorded when the memory was created.
        stored: Fingerprint,
        /// Fingerprint of the model in use.
        given: Fingerprint,
    },
    /// A chunk that is not, or no longer, in this view.
    #[error("chunk {chunk} is not in this snapshot")]
    UnknownChunk {
        /// Chunk identifier.
        chunk: u64,
    },
    /// The memory contradicts itself.
    #[error("{what} is damaged: {why}; check the data folder: a repair keeps what can be saved")]
    Damaged {
        /// Part of the memory.
        what: String,
        /// The check that failed.
        why: String,
    },
    /// Any other error of the implementation, which the caller may downcast to: that of `mnemon-memory-store`, or the
    /// status of a store on another machine.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
}

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;
