//! `mnemon memory`: create, update, list, show, delete.

use std::io;
use std::io::{IsTerminal as _, Write as _};

use anyhow::Result;
use mnemon_client::{Client, v1};
use serde_json::{Value, json};

use crate::args::{Global, Limits, Memory};
use crate::exit::{Exit, Failure};
use crate::limits::wire;
use crate::render::{Align, Ink, Ui, bytes, count, harmless, pairs, plural, table, time};
use crate::{json, limits};

pub(crate) async fn run(args: Memory, global: &Global, ui: &Ui) -> Result<()> {
    if let Memory::Update { limits, .. } = &args
        && limits.is_empty()
    {
        let hint = "give one of --ttl, --document-ttl, --max-tokens, --max-bytes";
        return Err(Failure::usage("nothing to change").hint(hint).into());
    }
    let client = super::connect(global).await?;
    match args {
        Memory::Create { memory, description, mode, limits } => {
            let mode = super::mode(mode.as_deref());
            create(&client, memory, description, mode, &limits, ui).await
        }
        Memory::Update { memory, limits } => update(&client, memory, &limits, ui).await,
        Memory::List => list(&client, ui).await,
        Memory::Show { memory } => show(&client, &memory, ui).await,
        Memory::Delete { memory, yes } => delete(&client, &memory, yes, ui).await,
    }
}

async fn create(
    client: &Client,
    name: String,
    description: String,
    mode: v1::RecallMode,
    limits: &Limits,
    ui: &Ui,
) -> Result<()> {
    let Limits { max_tokens, max_bytes, .. } = *limits;
    let (ttl, document_ttl) = (wire(limits.ttl)?, wire(limits.document_ttl)?);
    let request = v1::CreateMemoryRequest {
        name,
        description,
        ttl,
        document_ttl,
        max_tokens,
        max_bytes,
        spec: None,
        mode: mode.into(),
    };
    let memory = client.create_memory_with(request).await?;
    if ui.json() {
        return Ok(ui.value(&json::memory(&memory))?);
    }
    ui.note(format!("created memory {} for model {}", memory.name, memory.model));
    Ok(())
}

async fn update(client: &Client, name: String, limits: &Limits, ui: &Ui) -> Result<()> {
    let Limits { max_tokens, max_bytes, .. } = *limits;
    let (ttl, document_ttl) = (wire(limits.ttl)?, wire(limits.document_ttl)?);
    let memory =
        client.update_memory(v1::UpdateMemoryRequest { name, ttl, document_ttl, max_tokens, max_bytes }).await?;
    if ui.json() {
        return Ok(ui.value(&json::memory(&memory))?);
    }
    let rows = limits::rows(&memory);
    if rows.is_empty() {
        ui.note(format!("memory {} has no limits", memory.name));
        return Ok(());
    }
    Ok(ui.line(pairs(ui, &rows))?)
}

async fn list(client: &Client, ui: &Ui) -> Result<()> {
    let memories = client.list_memories().await?;
    if ui.json() {
        let all: Value = memories.iter().map(json::memory).collect();
        return Ok(ui.value(&json!({ "memories": all }))?);
    }
    if memories.is_empty() {
        ui.note("there is no memory yet; create one with `mnemon memory create NAME`");
        return Ok(());
    }
    let heading = [
        ("MEMORY", Align::Left),
        ("DOCUMENTS", Align::Right),
        ("TOKENS", Align::Right),
        ("TEXT", Align::Right),
        ("ON DISK", Align::Right),
        ("MODEL", Align::Left),
    ];
    let row = |memory: &v1::Memory| {
        vec![
            harmless(&memory.name),
            count(memory.documents),
            count(memory.tokens),
            bytes(memory.text_bytes),
            bytes(memory.stored_bytes),
            if memory.damaged.is_empty() { harmless(&memory.model) } else { ui.paint(Ink::Bad, "damaged") },
        ]
    };
    Ok(ui.line(table(ui, &heading, &memories.iter().map(row).collect::<Vec<_>>()))?)
}

async fn show(client: &Client, name: &str, ui: &Ui) -> Result<()> {
    let memory = client.get_memory(name).await?;
    if ui.json() {
        return Ok(ui.value(&json::memory(&memory))?);
    }
    let per_token = if memory.tokens > 0 {
        format!(", {} a token", bytes((memory.stored_bytes as f64 / memory.tokens as f64).round() as u64))
    } else {
        String::new()
    };
    let mut rows = vec![("memory", ui.paint(Ink::Bold, &harmless(&memory.name)))];
    if !memory.damaged.is_empty() {
        rows.push(("damaged", ui.paint(Ink::Bad, &harmless(&memory.damaged))));
    }
    if !memory.description.is_empty() {
        rows.push(("description", harmless(&memory.description)));
    }
    rows.push(("created", time(memory.created_at.as_ref())));
    rows.push((
        "model",
        format!(
            "{}  {}",
            harmless(&memory.model),
            ui.paint(Ink::Dim, memory.fingerprint.get(..24).unwrap_or(&memory.fingerprint))
        ),
    ));
    if let Some(geometry) = &memory.geometry {
        let layers = match &geometry.layers[..] {
            [] => "none".to_owned(),
            layers => layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        rows.push((
            "layers",
            format!(
                "{layers}; {} of {} values, {}",
                plural(geometry.kv_heads.into(), "head"),
                geometry.head_dim,
                geometry.dtype
            ),
        ));
        if !geometry.key_heads.is_empty() {
            let key_heads = geometry.key_heads.iter().map(|key| format!("{}:{}", key.layer, key.head));
            rows.push(("searched by", format!("heads {} (layer:head)", key_heads.collect::<Vec<_>>().join(", "))));
        }
        rows.push(("chunks of", format!("{} tokens, entries {}", geometry.chunk_tokens, geometry.entry_policy)));
    }
    rows.push((
        "holds",
        format!(
            "{}, {}, {}",
            plural(memory.documents, "document"),
            plural(memory.tokens, "token"),
            plural(memory.chunks, "chunk")
        ),
    ));
    rows.push(("text", bytes(memory.text_bytes)));
    rows.push(("on disk", format!("{}{per_token}", bytes(memory.stored_bytes))));
    rows.push((
        "index",
        format!("{}, {}", plural(memory.entries, "entry").replace("entrys", "entries"), bytes(memory.index_bytes)),
    ));
    if let Some(embedded) = memory.embedded_chunks {
        rows.push((
            "embedded",
            format!("{} of {}, {}", count(embedded), plural(memory.chunks, "chunk"), bytes(memory.embedding_bytes)),
        ));
    }
    rows.push(("commits", count(memory.sequence)));
    rows.extend(limits::rows(&memory));
    Ok(ui.line(pairs(ui, &rows))?)
}

async fn delete(client: &Client, name: &str, yes: bool, ui: &Ui) -> Result<()> {
    if !yes && !ui.json() && io::stdin().is_terminal() && io::stderr().is_terminal() {
        let memory = client.get_memory(name).await?;
        confirm(&memory)?;
    }
    client.delete_memory(name).await?;
    if ui.json() {
        return Ok(ui.value(&json!({"deleted": {"memory": name}}))?);
    }
    ui.note(format!("deleted memory {name}"));
    Ok(())
}

fn confirm(memory: &v1::Memory) -> Result<()> {
    let (documents, tokens) = (plural(memory.documents, "document"), plural(memory.tokens, "token"));
    eprint!("delete memory {} with {documents}, {tokens}? [y/N] ", memory.name);
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failure, format!("memory {} was not deleted", memory.name)).into()),
    }
}
