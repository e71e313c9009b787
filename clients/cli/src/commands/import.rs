//! `mnemon import`: a file becomes a memory, or nothing changes.

use std::time::Instant;

use anyhow::Result;
use mnemon_client::{Code, Error as ClientError};
use tokio::io::AsyncRead;

use super::export::show;
use super::ingest::progress_bar;
use crate::args::{Global, Import};
use crate::exit::{Exit, Failure};
use crate::input::unreadable;
use crate::json;
use crate::render::{Ui, bytes, duration, harmless, plural};

pub(crate) async fn run(args: Import, global: &Global, ui: &Ui) -> Result<()> {
    let path = args.file;
    let unreadable = |error: &std::io::Error| unreadable(&path, error);
    let (source, length): (Box<dyn AsyncRead + Unpin>, _) = if path.as_os_str() == "-" {
        (Box::new(tokio::io::stdin()), None)
    } else {
        let file = tokio::fs::File::open(&path).await.map_err(|e| unreadable(&e))?;
        let metadata = file.metadata().await.map_err(|e| unreadable(&e))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{} is a folder, not a file", path.display())).into());
        }
        (Box::new(file), metadata.is_file().then_some(metadata.len()))
    };
    let client = super::connect(global).await?;
    let begun = Instant::now();
    let bar = progress_bar(ui, &path.display().to_string(), length);
    let imported = tokio::select! {
        imported = client.import_memory(args.name.as_deref(), args.replace, source, |sent| {
            show(&bar, sent, length.unwrap_or(sent));
        }) => imported,
        () = super::interrupted() => {
            bar.finish_and_clear();
            return Err(Failure::new(Exit::Interrupted, "interrupted: nothing was imported").into());
        }
    };
    bar.finish_and_clear();
    let memory = imported.map_err(|error| match &error {
        ClientError::Status { code: Code::AlreadyExists, .. } => {
            Failure::from(&error).hint("--as NAME gives it another name, --replace takes the place of the other").into()
        }
        _ => anyhow::Error::from(error),
    })?;
    if ui.json() {
        return Ok(ui.value(&json::memory(&memory))?);
    }
    ui.note(format!(
        "imported memory {}: {} with {}, {} in {}",
        memory.name,
        plural(memory.documents, "document"),
        plural(memory.tokens, "token"),
        bytes(memory.stored_bytes),
        duration(begun.elapsed())
    ));
    // Asked for only to warn: an answer that does not come changes nothing.
    if let Ok(model) = client.model().await
        && model.fingerprint != memory.fingerprint
    {
        let name = &memory.name;
        ui.note(format!(
            "it was made by model {} ({}), not by the one being served; \
             `mnemon reencode {name} --replace` lets that one read its documents again",
            harmless(&memory.model),
            memory.fingerprint
        ));
    }
    Ok(())
}
