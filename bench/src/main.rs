//! The measurements that the README and the release notes quote, one subcommand each, JSON on standard output.

mod index_recall;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Mnemon.
#[derive(Parser)]
#[command(name = "mnemon-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Recall of the graph index against exact search, on the keys and queries of a real text.
    IndexRecall(index_recall::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::IndexRecall(arguments) => index_recall::run(&arguments),
    }
}
