//! The log: text for people or JSON for machines, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};
use crate::settings::{LogFormat, Settings};

/// Sets up the process's log as `settings` say. Call it once, in a binary; libraries and tests bring their own.
pub fn init_logging(settings: &Settings) -> Result<()> {
    let invalid = |why: String| Error::Settings { what: "log_filter".into(), why };
    let filter = EnvFilter::try_new(&settings.log_filter).map_err(|error| invalid(error.to_string()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|error| invalid(error.to_string()))
}
