//! Behaviour of a real server on a free port, with a small random model whose tokens are bytes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::wildcard_imports, missing_docs)]

mod answers;
mod callers;
mod catalog;
mod hang_up;
mod ingest;
mod killed;
mod limits;
mod model;
mod passages;
mod reencode;
mod remote;
mod shutdown;
mod store;
mod transfer;
mod world;
