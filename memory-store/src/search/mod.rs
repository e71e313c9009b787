//! Searches over one state of a memory.
//!
//! | module | idea |
//! |---|---|
//! | `entries` | keys by inner product: flat scans and walks over graphs |
//! | `terms` | token ids: all scanned, BM25 |
//! | `words` | words of a text: an index in each chunk blob, BM25 |
//! | `embeddings` | sentence embeddings: cosines of chunks and sentences |

pub(crate) mod embeddings;
pub(crate) mod entries;
pub(crate) mod terms;
pub(crate) mod words;
