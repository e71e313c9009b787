//! Indexes of the chunks of an extent or a segment, in memory and as bytes.
//!
//! | module | idea |
//! |---|---|
//! | [`vectors`] | keys by inner product: flat scan; graph |
//! | `words` | words of a text: postings |
//! | `embeddings` | sentence embeddings as 8-bit codes |

pub(crate) mod embeddings;
pub mod vectors;
pub(crate) mod words;
