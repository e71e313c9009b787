//! Bytes to values and back, and nothing else. The bytes are specified in `docs/format.md`.
//!
//! | module | idea |
//! |---|---|
//! | `codec` | numbers, texts and maps, with checksums |
//! | `quant` | keys and values in 8 or 4 bits |
//! | `kv_codec` | keys or values of a chunk in the stored type |
//! | `geometry` | where they stand in a chunk |
//! | `records` | records of the catalog |
//! | `chunk_blob` | header, chunks and footer of a chunk blob |

pub(crate) mod chunk_blob;
pub(crate) mod codec;
pub(crate) mod geometry;
pub(crate) mod kv_codec;
pub(crate) mod quant;
pub(crate) mod records;
