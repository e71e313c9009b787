//! Client of a Mnemon server, for Rust programs and for the `mnemon` command line.
//!
//! Every call of the contract is a method of [`Client`], with plain arguments where that helps; requests with many
//! options, and all answers, are the messages of the contract, exported as [`v1`]. What each field means, its units
//! and its limits, is documented in `proto/mnemon/v1/*.proto`.
//!
//! ```no_run
//! use mnemon_client::{Client, ConnectOptions, IngestOptions, v1};
//!
//! # async fn example() -> mnemon_client::Result<()> {
//! let client = Client::connect(ConnectOptions::default()).await?;
//! client.create_memory("novels", "Books I have read").await?;
//!
//! let text = tokio::fs::File::open("war_and_peace.txt").await?;
//! let done = client
//!     .ingest("novels", "war-and-peace", IngestOptions::default(), text, |progress| {
//!         println!("{} tokens are durable", progress.durable_tokens);
//!     })
//!     .await?;
//! println!("read {} tokens", done.durable_tokens);
//!
//! let request = v1::GenerateRequest {
//!     prompt: "Who is Pierre?".into(),
//!     memory: Some(v1::MemoryOptions { memories: vec!["novels".into()], ..Default::default() }),
//!     ..Default::default()
//! };
//! let mut answer = client.generate(request).await?;
//! while let Some(piece) = answer.message().await? {
//!     print!("{}", piece.text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `error` | the error type |
//! | `transport` | what is added to each call: the token, and request bodies that cannot end by accident |
//! | `connect` | where the server is, and how to reach it |
//! | `upload` | a source sent piece by piece: what ingest and import share |
//! | `catalog` | memories and documents |
//! | `recall` | ingest, search, generate, score |
//! | `transfer` | whole memories: export, import, re-encode |

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod catalog;
mod connect;
mod error;
mod recall;
mod transfer;
mod transport;
mod upload;

pub use connect::{Client, ConnectOptions, DEFAULT_ENDPOINT};
pub use error::{Error, FieldViolation, Result};
pub use mnemon_proto::v1;
pub use recall::{Generated, IngestOptions};
pub use tonic::Code;
pub use transport::{CleanEnd, Transport};
pub use v1::IngestMode;
