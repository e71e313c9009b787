//! `mnemon demo`: a server of its own, a long history, questions about it, and measurements. All of it goes over
//! gRPC, as it would for anybody else; nothing is known beforehand but what was planted.
//!
//! | file | idea |
//! |---|---|
//! | `host.rs` | a server in this process, with a folder that goes away |
//! | `session.rs` | reading, asking and scoring, with what each took |
//! | `generated.rs` | the generated history: questions about planted facts |
//! | `own_file.rs` | the user's file: passages found and continued |
//! | `summary.rs` | the numbers at the end |

mod generated;
mod host;
mod own_file;
mod session;
mod summary;

use std::time::Instant;

use anyhow::Result;
use host::Host;
use mnemon_client::v1;
use serde_json::{Value, json};
use session::Session;
use summary::Measures;

use super::interrupted;
use crate::args::Demo;
use crate::exit::{Exit, Failure};
use crate::input::check_file;
use crate::json;
use crate::render::{Ink, Ui, count, harmless, rough_count};

pub(crate) async fn run(args: Demo, ui: &Ui) -> Result<()> {
    if let Some(path) = &args.file {
        check_file(path)?;
    }
    let started = Instant::now();
    let host = tokio::select! {
        host = Host::start(&args, ui) => host?,
        () = interrupted() => return Err(stopped()),
    };
    let outcome = tokio::select! {
        outcome = show(&args, &host, started, ui) => outcome,
        () = interrupted() => Err(stopped()),
    };
    host.stop().await;
    let value = outcome?;
    if ui.json() { Ok(ui.value(&value)?) } else { Ok(()) }
}

/// Everything between the start of the server and its end; returns the JSON form.
async fn show(args: &Demo, host: &Host, started: Instant, ui: &Ui) -> Result<Value> {
    let session = Session::begin(&host.client, ui).await?;
    introduce(&session.model, ui)?;
    let measures = Measures::default();
    let (mut value, measures) = match &args.file {
        None => generated::run(args, &session, measures).await?,
        Some(path) => own_file::run(path, args.tokens, &session, measures).await?,
    };
    let memory = host.client.get_memory(session::MEMORY).await?;
    if !ui.json() {
        summary::show(ui, &measures, &memory, started.elapsed())?;
        next_steps(ui)?;
    }
    value["model"] = json::model(&session.model);
    value["measures"] = measures.as_json();
    value["memory"] = json::memory(&memory);
    value["memory"]["stored_bytes_per_token"] = json!(summary::per_token(memory.stored_bytes, memory.tokens));
    value["seconds"] = json!(started.elapsed().as_secs_f64());
    Ok(value)
}

fn introduce(model: &v1::Model, ui: &Ui) -> Result<()> {
    if ui.json() {
        return Ok(());
    }
    let text = format!(
        "The model is {} ({}, {} parameters), running on {}. It sees {} tokens at once.",
        harmless(&model.name),
        harmless(&model.architecture),
        rough_count(model.parameters),
        harmless(&model.device),
        count(model.window_tokens.into()),
    );
    Ok(ui.paragraph(None, &text)?)
}

fn next_steps(ui: &Ui) -> Result<()> {
    ui.line("")?;
    ui.line(ui.paint(Ink::Bold, "Your own documents, in two commands"))?;
    for (command, meaning) in [
        ("mnemon serve --data ./memories", "--model for a model of yours"),
        ("mnemon ingest notes FILE... --create", "in a second terminal"),
    ] {
        ui.line(format!("  {}  {}", ui.paint(Ink::Key, &format!("{command:<38}")), ui.paint(Ink::Dim, meaning)))?;
    }
    let (search, generate) = ("mnemon search notes \"…\"", "mnemon generate notes \"…\"");
    ui.line(format!("then {} and {}", ui.paint(Ink::Key, search), ui.paint(Ink::Key, generate)))?;
    Ok(())
}

fn stopped() -> anyhow::Error {
    Failure::new(Exit::Interrupted, "interrupted; the temporary memory is gone").into()
}
