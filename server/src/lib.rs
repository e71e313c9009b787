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
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `status` | every error of every crate to a gRPC status |
//! | `error` | what can go wrong with the server as a whole |
//! | `limits` | times to live and quotas, from the contract's words to the store's |
//! | `filter` | which documents and turns a call looks at |
//! | `validate` | the contract's limits, as field violations |
//! | `settings` | what the operator decides: defaults, file, environment, flags |
//! | `auth` | bearer token to tenant |
//! | `convert` | the store's words to the contract's |
//! | `wire` | chunks, numbers and shapes between a store and its callers |
//! | `remote` | a store on another machine |
//! | `memories` | where the memories are: local or remote |
//! | `state` | what all calls share |
//! | `tasks` | work on the engine, and store calls off the async threads |
//! | `citations` | which chunks an answer drew on |
//! | `connection` | accepted connections: how many, and how they are cut |
//! | `middleware` | before and after each call: its span, its log line, whether its body ended cleanly |
//! | `incoming` | the next message of a stream, the end of the server, or silence |
//! | `model` | which model is loaded, and how; memories that are made for it |
//! | `services` | one file for each kind of call |
//! | `sweep` | periodically reclaims the space of expired data |
//! | `embedding` | chunks are embedded beside all other work |
//! | `profile` | the profile of a pretrained model: read, or measured at the first start |
//! | `server` | start, serve, stop |
//! | `embedded` | a server inside another program |
//! | `logging` | the log |
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
mod incoming;
mod limits;
mod logging;
mod memories;
mod middleware;
mod model;
mod profile;
mod remote;
mod server;
mod services;
mod settings;
mod state;
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
