//! The one error type of the crate.

use mnemon_memory::Invalid;

/// What went wrong in the store, to what, and what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The memory does not exist for this tenant.
    #[error("memory '{name}' does not exist; create it first")]
    UnknownMemory {
        /// Name as given by the caller.
        name: String,
    },
    /// A memory of this name exists already.
    #[error("memory '{name}' exists already; choose another name or delete it first")]
    MemoryExists {
        /// Name as given by the caller.
        name: String,
    },
    /// The document does not exist in this memory.
    #[error("document '{document}' does not exist in memory '{memory}'")]
    UnknownDocument {
        /// Memory that was asked.
        memory: String,
        /// Document identifier as given by the caller.
        document: String,
    },
    /// Another writer holds this document.
    #[error("document '{document}' is being written by another stream; wait for it to end, then append")]
    DocumentBusy {
        /// Document identifier as given by the caller.
        document: String,
    },
    /// The memory changed while something was made of it that was to take its place.
    #[error("memory '{memory}' changed meanwhile; nothing was replaced: try again")]
    MemoryChanged {
        /// Name of the memory.
        memory: String,
    },
    /// An archive is not as it must be. Nothing was imported.
    #[error("the archive cannot be used at byte {byte}: {why}; nothing was imported (export the memory again)")]
    Archive {
        /// Where the section begins that cannot be used, counted from the start of the archive.
        byte: u64,
        /// The check that failed.
        why: String,
    },
    /// An argument is outside of what is accepted.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A configured limit was reached.
    #[error("limit reached: {what} (at most {limit}); {advice}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// The configured bound.
        limit: u64,
        /// What the caller can do.
        advice: String,
    },
    /// A memory or a tenant would hold more than it may. What was acknowledged before stays.
    #[error(
        "quota reached: {owner} may hold at most {limit} {what}; it holds {held}, and {growth} more would come; {advice}"
    )]
    Quota {
        /// Whose quota.
        owner: String,
        /// What is counted: tokens, bytes or memories.
        what: &'static str,
        /// How many there may be.
        limit: u64,
        /// How many there are.
        held: u64,
        /// How many would come, as far as that is known.
        growth: u64,
        /// What the caller can do.
        advice: String,
    },
    /// Another process holds the data folder.
    #[error("{path} is in use by another process; stop it or choose another data folder")]
    InUse {
        /// Data folder.
        path: String,
    },
    /// The device has no space left; what was acknowledged before stays readable.
    #[error("no space left while writing {what}; free some space and try again (nothing acknowledged was lost)")]
    NoSpace {
        /// What was being written.
        what: String,
    },
    /// Stored bytes fail their checksum or cannot be parsed.
    #[error("{what} is damaged: {why}; check the data folder: a repair keeps what can be saved")]
    Damaged {
        /// File or record.
        what: String,
        /// The check that failed.
        why: String,
    },
    /// The data folder was written in a format that this version does not know.
    #[error(
        "{path} is in format {found}, but this version of Mnemon knows format {known}; use the version that wrote it"
    )]
    UnknownFormat {
        /// Data folder.
        path: String,
        /// Version found.
        found: String,
        /// Version known.
        known: u32,
    },
    /// A chunk that is not, or no longer, in this snapshot.
    #[error("chunk {chunk} is not in this snapshot")]
    UnknownChunk {
        /// Chunk identifier.
        chunk: u64,
    },
    /// The operating system refused an operation.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, with the path.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The catalog (sled) refused an operation.
    #[error("catalog: {0}")]
    Catalog(String),
}

/// Result of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for mnemon_memory::Error {
    /// What a caller through the seam tells apart; the rest it may downcast to.
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(invalid) => Self::Invalid(invalid),
            Error::UnknownChunk { chunk } => Self::UnknownChunk { chunk },
            Error::Damaged { what, why } => Self::Damaged { what, why },
            other => Self::Backend(Box::new(other)),
        }
    }
}
