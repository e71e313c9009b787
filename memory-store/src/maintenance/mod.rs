//! What keeps a store small and fast beside readers and writers.
//!
//! | module | idea |
//! |---|---|
//! | `seal` | unsealed entries become a graph |
//! | `compact` | blobs with dead chunks, and many small ones, are rewritten |
//! | `expire` | what is past its time to live is deleted |

pub(crate) mod compact;
pub(crate) mod expire;
pub(crate) mod seal;
