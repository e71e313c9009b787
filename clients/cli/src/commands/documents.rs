//! `mnemon documents`: list, show, delete.

use anyhow::Result;
use mnemon_client::{Client, v1};
use serde_json::{Value, json};

use crate::args::{Documents, Global};
use crate::json;
use crate::limits::shown_ttl;
use crate::render::{Align, Ink, Ui, bytes, count, harmless, pairs, plural, table, time};

pub(crate) async fn run(args: Documents, global: &Global, ui: &Ui) -> Result<()> {
    let client = super::connect(global).await?;
    match args {
        Documents::List { memory } => list(&client, &memory, ui).await,
        Documents::Show { memory, document } => show(&client, &memory, &document, ui).await,
        Documents::Delete { memory, document } => delete(&client, &memory, &document, ui).await,
    }
}

async fn list(client: &Client, memory: &str, ui: &Ui) -> Result<()> {
    let documents = client.list_documents(memory).await?;
    if ui.json() {
        let all: Value = documents.iter().map(json::document).collect();
        return Ok(ui.value(&json!({"memory": memory, "documents": all}))?);
    }
    if documents.is_empty() {
        ui.note(format!("memory {memory} is empty; add to it with `mnemon ingest {memory} FILE`"));
        return Ok(());
    }
    let heading = [
        ("DOCUMENT", Align::Left),
        ("TOKENS", Align::Right),
        ("TEXT", Align::Right),
        ("CHUNKS", Align::Right),
        ("STATE", Align::Left),
        ("UPDATED", Align::Left),
    ];
    // Only where it says something.
    let expires = documents.iter().any(|document| document.expires_at.is_some());
    let heading: Vec<_> = heading.into_iter().chain(expires.then_some(("EXPIRES", Align::Left))).collect();
    let row = |document: &v1::Document| {
        let mut row = vec![
            harmless(&document.document_id),
            count(document.tokens),
            bytes(document.bytes),
            count(document.chunks),
            state(document, ui),
            time(document.updated_at.as_ref()),
        ];
        row.extend(expires.then(|| document.expires_at.map_or_else(|| "never".into(), |at| time(Some(at)))));
        row
    };
    Ok(ui.line(table(ui, &heading, &documents.iter().map(row).collect::<Vec<_>>()))?)
}

async fn show(client: &Client, memory: &str, document: &str, ui: &Ui) -> Result<()> {
    let document = client.get_document(memory, document).await?;
    if ui.json() {
        return Ok(ui.value(&json::document(&document))?);
    }
    let mut rows = vec![
        ("document", ui.paint(Ink::Bold, &harmless(&document.document_id))),
        ("memory", memory.to_owned()),
        ("state", state(&document, ui)),
        ("holds", format!("{}, {}", plural(document.tokens, "token"), plural(document.chunks, "chunk"))),
        ("text", bytes(document.bytes)),
        ("created", time(document.created_at.as_ref())),
        ("updated", time(document.updated_at.as_ref())),
        ("last commit", count(document.sequence)),
    ];
    if let Some(at) = document.expires_at {
        let ttl = document.ttl.map_or_else(|| "as the memory says".to_owned(), shown_ttl);
        rows.push(("expires", format!("{} ({ttl})", time(Some(at)))));
    }
    let mut metadata: Vec<_> = document.metadata.iter().collect();
    metadata.sort();
    for (key, value) in metadata {
        rows.push(("metadata", format!("{} = {}", harmless(key), harmless(value))));
    }
    Ok(ui.line(pairs(ui, &rows))?)
}

async fn delete(client: &Client, memory: &str, document: &str, ui: &Ui) -> Result<()> {
    client.delete_document(memory, document).await?;
    if ui.json() {
        return Ok(ui.value(&json!({"deleted": {"memory": memory, "document": document}}))?);
    }
    ui.note(format!("deleted document {document} of memory {memory}"));
    Ok(())
}

fn state(document: &v1::Document, ui: &Ui) -> String {
    if document.lost_chunks > 0 {
        return ui.paint(Ink::Bad, &format!("lost {}", plural(document.lost_chunks, "chunk")));
    }
    if document.complete { "complete".to_owned() } else { ui.paint(Ink::Warn, "interrupted") }
}
