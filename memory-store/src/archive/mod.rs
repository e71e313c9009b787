//! One file that holds a whole memory: to keep, to move to another server, to hand on. Its bytes are specified in
//! `docs/format.md`.
//!
//! | file | idea |
//! |---|---|
//! | `format` | sections, and what each says |
//! | `reader`, `chunks` | bytes in, verified sections out: trusts nothing |
//! | `export` | a memory, as it is at one moment, piece by piece |
//! | `history` | records of documents as they were when an export began |
//! | `import` | an archive becomes a memory, or leaves no trace |
//! | `place` | a memory gets a name, or takes that of another, in one step |
//! | `copy` | memories that are becoming copies of others |
//!
//! Keys, values, tokens and text are copied as they are stored, so that what is imported equals what was exported to the
//! last bit. Graphs are not in an archive: they can be built again.

mod chunks;
mod copy;
mod export;
pub(crate) mod format;
mod history;
mod import;
mod place;
mod reader;

pub use chunks::ArchiveChunks;
pub use export::Export;
pub use format::{ARCHIVE_FORMAT, ArchiveDocument, ArchiveSpec, ArchiveTotals, SECTION_BYTES_MAX};
pub(crate) use history::Histories;
pub use import::Import;
pub(crate) use place::retire;
pub use reader::{ArchiveReader, Section, verify};
