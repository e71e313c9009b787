//! `mnemon serve`: the server in this process. What settings there are, and which of them wins, is the server's
//! business; flags are handed over as the last layer.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use mnemon_server::{LogFormat, PartialSettings, Server, Settings};
use serde_json::json;

use crate::args::Serve;
use crate::exit::{Exit, Failure};
use crate::render::{Ink, Ui};

pub(crate) async fn run(args: Serve, ui: &Ui) -> Result<()> {
    let config = args.config.clone();
    let flags = flags(args, ui)?;
    let settings = Settings::load(config.as_deref(), flags).map_err(|error| Failure::from(&error))?;
    mnemon_server::init_logging(&settings).map_err(|error| Failure::from(&error))?;
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let model = (!settings.store_only).then(|| settings.model.clone());
    let data = settings.store.clone().unwrap_or_else(|| settings.data.display().to_string());
    // A port in use is told before the model is loaded.
    let listener = mnemon_server::bind(&settings).await.map_err(|error| Failure::from(&error))?;
    let url = format!("{scheme}://{}", listener.local_addr()?);
    let server = Server::open(settings).await.map_err(|error| Failure::from(&error))?;
    if ui.json() {
        // On one line, for programs that read lines.
        ui.line(json!({"listening": url, "data": data, "model": model}).to_string())?;
    } else {
        let what = model.map_or_else(|| "memories only, no model".into(), |model| format!("model {model}"));
        ui.line(format!("listening on {}  {what}, data in {data}", ui.paint(Ink::Key, &url)))?;
    }
    server.serve(listener, asked_to_stop()).await.map_err(|error| Failure::from(&error))?;
    Ok(())
}

/// The flags as a layer of settings.
fn flags(args: Serve, ui: &Ui) -> Result<PartialSettings, Failure> {
    let mut flags = numbers(&args.limits, &args.caches)?;
    flags.listen = args.listen;
    flags.data = args.data;
    flags.model = args.model;
    flags.device = args.device;
    flags.window = args.window;
    flags.memory_adapter = args.memory_adapter;
    flags.profile = args.profile;
    flags.embedder = args.embedder;
    flags.context_tokens = args.context_tokens;
    flags.chunk_tokens = args.chunk_tokens;
    flags.entry_policy = args.entry_policy;
    flags.kv_dtype = args.kv_dtype;
    flags.commit_tokens = args.commit_tokens;
    flags.store_only = args.store_only.then_some(true);
    flags.store = args.store;
    flags.store_ca = args.store_ca;
    flags.tls_cert = args.tls_cert;
    flags.tls_key = args.tls_key;
    flags.allow_insecure_remote = args.allow_insecure_remote.then_some(true);
    flags.shutdown_grace_s = args.shutdown_grace;
    flags.log_format = match args.log_format.as_deref() {
        Some("json") => Some(LogFormat::Json),
        Some(_) => Some(LogFormat::Text),
        None => ui.json().then_some(LogFormat::Json),
    };
    flags.log_filter = args.log.or_else(|| ui.quiet().then(|| "warn".to_owned()));
    Ok(flags)
}

/// The layer that `--limit NAME=N` and `--cache NAME=BYTES` make. Which names there are, the server knows: they go
/// through its TOML.
fn numbers(limits: &[String], caches: &[String]) -> Result<PartialSettings, Failure> {
    let mut toml = String::new();
    for (group, flag, pairs) in [("limits", "--limit", limits), ("cache", "--cache", caches)] {
        let _ = writeln!(toml, "[{group}]");
        for pair in pairs {
            let (name, number) = pair.split_once('=').unwrap_or((pair, ""));
            let name_is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            // TOML has signed numbers.
            let Some(number) = number.parse::<i64>().ok().filter(|n| *n >= 0 && name_is_plain) else {
                return Err(Failure::usage(format!("{flag} wants NAME=NUMBER, not {pair:?}")));
            };
            // Writing to a string does not fail.
            let _ = writeln!(toml, "{name} = {number}");
        }
    }
    PartialSettings::from_toml(&toml, Path::new("--limit, --cache")).map_err(|error| Failure::from(&error))
}

/// Ends when Ctrl-C or SIGTERM comes. From then on another Ctrl-C ends the process at once.
async fn asked_to_stop() {
    super::interrupted().await;
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(Exit::Interrupted as u8));
        }
    });
}
