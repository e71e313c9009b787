//! `mnemon reencode`: the model being served reads the documents of a memory again.

use std::time::Instant;

use anyhow::Result;
use mnemon_client::{Error as ClientError, v1};
use serde_json::json;

use super::ingest::progress_bar;
use crate::args::{Global, Reencode};
use crate::exit::{Exit, Failure};
use crate::render::{Ui, count, duration, harmless, plural};

pub(crate) async fn run(args: Reencode, global: &Global, ui: &Ui) -> Result<()> {
    let client = super::connect(global).await?;
    let request = v1::ReencodeMemoryRequest {
        name: args.memory.clone(),
        into: args.into.clone().unwrap_or_default(),
        replace: args.replace,
    };
    let begun = Instant::now();
    let bar = progress_bar(ui, &args.memory, Some(0));
    let mut last = v1::ReencodeProgress::default();
    let encoded = tokio::select! {
        encoded = client.reencode_memory(request, |now| {
            bar.set_length(now.text_bytes);
            bar.set_position(now.text_bytes_done);
            bar.set_message(format!("{} of {} documents", count(now.documents_done), count(now.documents)));
            last.clone_from(now);
        }) => encoded,
        () = super::interrupted() => {
            bar.finish_and_clear();
            let done = plural(last.documents_done, "document");
            let failure = Failure::new(Exit::Interrupted, format!("interrupted: {done} of {} are done", last.documents));
            return Err(failure.hint("run the same command again: it goes on").into());
        }
    };
    bar.finish_and_clear();
    let done = encoded.map_err(|error| match &error {
        ClientError::EndedEarly => {
            anyhow::Error::from(Failure::from(&error).hint("run the same command again: it goes on"))
        }
        _ => anyhow::Error::from(error),
    })?;
    let name = if args.replace { &args.memory } else { args.into.as_ref().unwrap_or(&args.memory) };
    if ui.json() {
        return Ok(ui.value(&json!({
            "memory": name,
            "documents": done.documents_done,
            "documents_skipped": done.documents_skipped,
            "documents_interrupted": done.documents_interrupted,
            "text_bytes": done.text_bytes_done,
            "tokens": done.tokens_done,
            "seconds": begun.elapsed().as_secs_f64(),
        }))?);
    }
    let skipped = match done.documents_skipped {
        0 => String::new(),
        skipped => format!(" ({} were there already)", count(skipped)),
    };
    ui.note(format!(
        "memory {} is of the model being served: {}{skipped}, {} in {}",
        harmless(name),
        plural(done.documents_done, "document"),
        plural(done.tokens_done, "token"),
        duration(begun.elapsed())
    ));
    if done.documents_interrupted > 0 {
        ui.note(format!(
            "{} had been interrupted while being ingested: what was durable is kept; `mnemon ingest {name} FILE --resume` \
             adds the rest",
            plural(done.documents_interrupted, "document")
        ));
    }
    Ok(())
}
