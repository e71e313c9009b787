//! The handles of a store: what callers hold.
//!
//! | module | idea |
//! |---|---|
//! | `shared` | what all of them share |
//! | `store` | [`Store`](store::Store): memories by tenant and name |
//! | `memory` | [`Memory`](memory::Memory): documents and views of one memory |
//! | `copies` | memories that are becoming copies of others |
//! | `embeddings` | sentence embeddings of a memory |
//! | `writer` | [`Writer`](writer::Writer): the only way to add to a document |
//! | `snapshot` | [`Snapshot`](snapshot::Snapshot): an immutable view |
//! | `filter` | views of some documents |
//! | `scratch` | memories in this process |
//! | `seam` | the traits of `mnemon-memory` over these handles |

pub(crate) mod copies;
pub(crate) mod embeddings;
pub(crate) mod filter;
pub(crate) mod memory;
pub(crate) mod scratch;
mod seam;
pub(crate) mod shared;
pub(crate) mod snapshot;
pub(crate) mod store;
pub(crate) mod writer;
