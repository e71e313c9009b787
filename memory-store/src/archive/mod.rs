//! One file that holds a whole memory: to keep, to move to another server, to hand on. Its bytes are specified in
//! `docs/format.md`.
//!
//! | file | idea |
//! |---|---|
//! | `format` | sections, and what each says |
//! | `reader`, `chunks` | bytes in, verified sections out: trusts nothing |
//! | `export` | a memory, as it is at one moment, piece by piece |
//! | `import` | an archive becomes a memory, or leaves no trace |
//!
//! Keys, values, tokens and text are copied as they are stored, so that what is imported equals what was exported to the
//! last bit. Graphs are not in an archive: they can be built again.

mod chunks;
mod export;
pub(crate) mod format;
mod import;
mod reader;

pub use chunks::ArchiveChunks;
pub use export::Export;
pub use format::{ARCHIVE_FORMAT, ArchiveDocument, ArchiveSpec, ArchiveTotals, SECTION_BYTES_MAX};
pub use import::Import;
pub use reader::{ArchiveReader, Section, verify};
