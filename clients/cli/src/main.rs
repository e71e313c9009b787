//! `mnemon`: the command line of Mnemon. Nothing but arguments, files, terminals and exit codes; all the rest is
//! behind the wire contract (through `mnemon-client`), except that `serve` and `demo` run `mnemon-server` in this
//! process.
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `render` | colours, tables, bars, excerpts, sizes, durations |
//! | `exit` | errors and exit codes |
//! | `limits` | times to live and sizes as people write them |
//! | `args` | the command line as typed |
//! | `json` | answers as programs read them |
//! | `passages` | citations and search hits as people see them |
//! | `input` | files and standard input, checked before they are sent |
//! | `commands` | one file for each command |

mod args;
mod commands;
mod exit;
mod input;
mod json;
mod limits;
mod passages;
mod render;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::exit::{Exit, Failure};
use crate::render::{Color, Ui};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    let ui = Ui::new(cli.global.json, cli.global.quiet, cli.global.color);
    match commands::run(cli, &ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error, &ui).map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8)),
    }
}

/// Shows help and version, which clap takes for errors, and complaints about the command line: as JSON if JSON was
/// asked for anywhere in it.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let asked_for_help = !error.use_stderr();
    if !asked_for_help && std::env::args_os().any(|argument| argument == "--json") {
        let message = error.render().to_string();
        let message = message.trim_start_matches("error: ").trim_end().to_owned();
        let ui = Ui::new(true, false, Color::Never);
        exit::report(&Failure::usage(message).into(), &ui);
        return ExitCode::from(Exit::Usage as u8);
    }
    // A closed pipe is not worth a complaint.
    let _ = error.print();
    let _ = std::io::stdout().flush();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(Exit::Usage as u8),
    }
}
