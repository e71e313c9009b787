//! The Mnemon server: the one place where contract, store, encoder and runtime meet.
//!
//! For the `mnemon` command line, and for programs and tests that want a server inside their own process
//! ([`Embedded`]). Programs that talk to a server use `mnemon-client`.
//!
//! A server is [`Settings`], a listener and a shutdown signal:
//!
//! ```no_run
//! use mnemon_server::{PartialSettings, Settings};
//!
//! # async fn example() -> mnemon_server::Result<()> {
//! let settings = Settings::load(None, PartialSettings::default())?;
//! let listener = mnemon_server::bind(&settings).await?;
//! let shutdown = async {
//!     let _ = tokio::signal::ctrl_c().await;
//! };
//! mnemon_server::run(settings, listener, shutdown).await
//! # }
//! ```
//!
//! The layout follows a call on its way:
//!
//! | file | idea |
//! |---|---|
//! | `settings/` | what the operator decides: defaults, file, environment, flags |
//! | `server.rs` | start, serve, stop |
//! | `connection.rs` | accepted connections: how many, and how they are cut |
//! | `front.rs` | before and after each call: its span, its log line, whether its body ended cleanly |
//! | `incoming.rs` | the next message of a stream, the end of the server, or silence |
//! | `auth.rs` | bearer token to tenant |
//! | `services/` | one file for each kind of call |
//! | `validate.rs` | the contract's limits, as field violations |
//! | `tasks.rs` | work on the engine, and store calls off the async threads |
//! | `parts.rs` | what all calls share |
//! | `memories.rs`, `remote/` | where the memories are: here, or in a store on another machine |
//! | `wire.rs` | chunks, numbers and shapes as a store and its callers tell them |
//! | `citations.rs` | which chunks an answer drew on |
//! | `convert.rs` | the store's words to the contract's |
//! | `lifetime.rs` | times to live and quotas, from the contract's words to the store's |
//! | `profile.rs` | what is known of a pretrained model: read, or measured at the first start |
//! | `sweep.rs` | what expired gives back its space |
//! | `status.rs` | every error of every crate to a gRPC status |
//!
//! Async threads never compute and never touch the disk: work on models runs on the engine's thread, store calls on
//! tokio's blocking pool, both behind bounds. The text of documents and prompts is never logged.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod auth;
mod citations;
mod connection;
mod convert;
mod embedded;
mod embedding;
mod error;
mod filter;
mod front;
mod incoming;
mod lifetime;
mod logging;
mod memories;
mod parts;
mod profile;
mod remote;
mod server;
mod services;
mod settings;
mod status;
mod sweep;
mod tasks;
mod validate;
mod wire;

pub use embedded::Embedded;
pub use error::{Error, Result};
pub use logging::init_logging;
pub use mnemon_encoder::ProbeStage;
pub use profile::make_profile;
pub use server::{Server, bind, run};
pub use settings::{
    CacheSizes, DEFAULT_PORT, DEFAULT_TENANT, EMBEDDED_MODEL, Limits, LogFormat, PartialCacheSizes, PartialLimits,
    PartialSettings, Secret, Settings, Tenant, Tls,
};
