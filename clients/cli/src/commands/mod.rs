//! One file for each command.

mod check;
mod compact;
mod demo;
mod documents;
mod export;
mod generate;
mod import;
mod ingest;
mod memory;
mod model;
mod reencode;
mod score;
mod search;
mod serve;

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use mnemon_client::{Client, ConnectOptions, v1};

use crate::args::{Cli, Command, FilterArgs, Global, RecallArgs};
use crate::exit::Failure;
use crate::render::Ui;

/// Runs the command to its end.
pub(crate) fn run(cli: Cli, ui: &Ui) -> Result<()> {
    let mut builder = match cli.command {
        Command::Serve(_) | Command::Demo(_) | Command::Bench(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().context("the asynchronous runtime does not start")?;
    let done = runtime.block_on(dispatch(cli, ui));
    // An abandoned read of standard input must not hold up the end.
    runtime.shutdown_background();
    done
}

async fn dispatch(cli: Cli, ui: &Ui) -> Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(*args, ui).await,
        Command::Memory(args) => memory::run(args, &global, ui).await,
        Command::Check(args) => check::run(&args, ui),
        Command::Compact(args) => compact::run(args, &global, ui).await,
        Command::Export(args) => export::run(args, &global, ui).await,
        Command::Import(args) => import::run(args, &global, ui).await,
        Command::Reencode(args) => reencode::run(args, &global, ui).await,
        Command::Ingest(args) => ingest::run(args, &global, ui).await,
        Command::Documents(args) => documents::run(args, &global, ui).await,
        Command::Search(args) => search::run(args, &global, ui).await,
        Command::Generate(args) => generate::run(args, &global, ui).await,
        Command::Score(args) => score::run(args, &global, ui).await,
        Command::Model(args) => model::run(args, ui),
        Command::Demo(args) => demo::run(args, ui).await,
        Command::Bench(command) => Box::pin(mnemon_bench::run(command)).await,
    }
}

/// Connects to the server that the user named.
async fn connect(global: &Global) -> Result<Client> {
    let options = ConnectOptions {
        endpoint: global.server.clone(),
        token: global.token.clone(),
        tls_ca: global.ca.clone(),
        ..ConnectOptions::default()
    };
    Ok(Client::connect(options).await?)
}

/// Metadata as `KEY=VALUE`.
fn pairs(option: &str, pairs: &[String]) -> Result<HashMap<String, String>, Failure> {
    let pair = |pair: &String| {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{option} wants KEY=VALUE, but {pair:?} has no '='")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(pair).collect()
}

/// Which documents a request sees.
fn document_filter(filter: &FilterArgs) -> Result<v1::DocumentFilter> {
    Ok(v1::DocumentFilter {
        document_prefix: filter.documents.clone(),
        metadata: pairs("--meta", &filter.metadata)?,
        from: filter.from.clone(),
        until: filter.until.clone(),
    })
}

/// The memory options of a request.
fn memory_options(memories: &[String], recall: &RecallArgs) -> Result<v1::MemoryOptions> {
    Ok(v1::MemoryOptions {
        filter: Some(document_filter(&recall.filter)?),
        memories: memories.to_vec(),
        top_k_chunks: recall.top_k_chunks,
        ef_search: recall.ef_search,
        recall_off: recall.no_memory,
        exact: recall.exact,
        mode: mode(recall.mode.as_deref()).into(),
        select: select(recall.select.as_deref()).into(),
        passages: recall.passages,
        ..v1::MemoryOptions::default()
    })
}

/// The way of using passages that a flag names.
fn mode(name: Option<&str>) -> v1::RecallMode {
    match name {
        Some("attend") => v1::RecallMode::Attend,
        Some("reread") => v1::RecallMode::Reread,
        _ => v1::RecallMode::Unspecified,
    }
}

/// What chooses passages, by a flag.
fn select(name: Option<&str>) -> v1::Select {
    match name {
        Some("heads") => v1::Select::Heads,
        Some("search") => v1::Select::Search,
        Some("both") => v1::Select::Both,
        _ => v1::Select::Unspecified,
    }
}

/// Ends on Ctrl-C, and on SIGTERM where there is such a thing.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
