//! What both measurements do with a haystack, and what they leave behind.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mnemon_client::{Client, Code, IngestMode, IngestOptions, v1};
use serde_json::{Value, json};

use super::asker::{AskArguments, Asker, Item};
use super::haystack::Haystack;
use super::library::{Library, Source};
use super::outcomes::{Outcomes, count};
use super::row::Row;
use super::table::Table;
use crate::report::{Output, tokens_label};

/// A haystack with the names that it has in memory.
pub(crate) struct Stored<'a> {
    pub(crate) memory: String,
    pub(crate) haystack: &'a Haystack,
    pub(crate) sources: Vec<Source>,
}

impl Stored<'_> {
    /// Lets the memory grow to a size; returns its chunks, or `None` if a memory that was kept is longer already.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else.
    pub(crate) async fn grow(&self, asker: &Asker<'_>, size: usize, before: Library) -> Result<Option<Library>> {
        let client = &asker.memories.client;
        if size == 0 && !exists(client, &self.memory).await? {
            // With keys and values where a row needs them, whatever the profile prefers.
            let mode =
                if asker.rows().contains(&Row::Attend) { v1::RecallMode::Attend } else { v1::RecallMode::Unspecified };
            let (name, description) = (self.memory.clone(), "of mnemon bench".into());
            let request = v1::CreateMemoryRequest { name, description, mode: mode.into(), ..Default::default() };
            client.create_memory_with(request).await?;
        }
        let begun = Instant::now();
        let mut tokens = 0;
        for (index, source) in self.sources.iter().enumerate() {
            let text = self.text(index, size);
            let Some(read) = read_up_to(client, &self.memory, source, text).await? else { return Ok(None) };
            tokens += read;
        }
        asker.memories.wait_for_embeddings(&self.memory).await?;
        let reading = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let library = Library::read(client, &self.memory, &self.sources, asker.embedder.as_ref(), before).await?;
        for (index, source) in self.sources.iter().enumerate() {
            library.check(&source.id, self.text(index, size))?;
        }
        let preparing = begun.elapsed().as_secs_f64();
        println!("  {tokens} tokens in memory after {reading:.1} s; chunks ready for prompts after {preparing:.1} s");
        Ok(Some(library))
    }

    fn text(&self, document: usize, size: usize) -> &str {
        let text = self.haystack.documents[document].text.as_str();
        if document + 1 == self.sources.len() { &text[..self.haystack.cuts[size]] } else { text }
    }
}

async fn exists(client: &Client, memory: &str) -> Result<bool> {
    match client.get_memory(memory).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads a document as far as `text` goes, which begins with what was read before; returns its tokens, or `None` if memory
/// has more than that.
async fn read_up_to(client: &Client, memory: &str, source: &Source, text: &str) -> Result<Option<u64>> {
    let (mode, from) = match client.get_document(memory, &source.id).await {
        Ok(document) if document.bytes > text.len() as u64 => return Ok(None),
        Ok(document) if !document.complete => (IngestMode::Resume, 0),
        Ok(document) if document.bytes == text.len() as u64 => return Ok(Some(document.tokens)),
        Ok(document) => (IngestMode::Append, document.bytes as usize),
        Err(error) if error.code() == Some(Code::NotFound) => (IngestMode::Create, 0),
        Err(error) => return Err(error.into()),
    };
    let piece = text.get(from..).with_context(|| format!("document {} in memory holds another text", source.id))?;
    let metadata: HashMap<String, String> = source.date.iter().map(|date| ("date".into(), (*date).into())).collect();
    let options = IngestOptions { mode, metadata, ..IngestOptions::default() };
    let mut shown = 0;
    let progress = |progress: &v1::IngestProgress| {
        // A sign of life in ingests of hours.
        const EVERY: u64 = 16_384;
        if progress.durable_tokens / EVERY > shown {
            shown = progress.durable_tokens / EVERY;
            print!("\r  {} tokens", progress.durable_tokens);
            let _ = std::io::stdout().flush();
        }
    };
    let end = client.ingest(memory, &source.id, options, piece.as_bytes(), progress).await?;
    if shown > 0 {
        println!();
    }
    Ok(Some(end.durable_tokens))
}

/// Asks the questions of a task in every way; the outcomes have the order of the items.
///
/// # Errors
/// If a request fails.
pub(crate) async fn ask_all(
    asker: &mut Asker<'_>,
    outcomes: &mut Outcomes,
    (tokens, task): (u64, &str),
    items: &[Item],
    memory: &str,
    library: &Library,
) -> Result<()> {
    for item in items {
        for row in asker.rows() {
            if let Some(outcome) = asker.ask(row, item, memory, tokens, library).await? {
                outcomes.push(tokens, task, row, &outcome);
            }
        }
    }
    let told = asker.rows().into_iter().filter_map(|row| {
        let (right, n) = count(&outcomes.get(tokens, task, row)?.right);
        Some(format!("{} {right}/{n}", row.name()))
    });
    println!("  {} {task}: {}", tokens_label(tokens), told.collect::<Vec<_>>().join(", "));
    Ok(())
}

/// Outcomes of one haystack, with what its questions follow from.
pub(crate) struct Block {
    pub(crate) plan: Value,
    pub(crate) outcomes: Outcomes,
}

/// What a measurement leaves behind.
pub(crate) struct Report<'a> {
    /// Of the files.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) model: v1::Model,
    /// What the outcomes depend on beside the plans.
    pub(crate) settings: Value,
    /// Rows left out, with the reason.
    pub(crate) skipped: Value,
    pub(crate) blocks: Vec<Block>,
    pub(crate) tasks: Vec<&'a str>,
    pub(crate) joined: Vec<&'a str>,
}

/// Shows the tables, and the rows that were left out.
pub(crate) fn show(tables: &str, asker: &Asker<'_>) {
    println!("{tables}");
    for (row, why) in &asker.skipped {
        println!("{} was left out: {why}", row.name());
    }
}

/// The settings that outcomes depend on.
fn settings(arguments: &AskArguments) -> Value {
    json!({
        "passages": arguments.passages,
        "neighbours": arguments.neighbours,
        "profile_passages": arguments.profile_passages,
        "max_tokens": arguments.max_tokens,
    })
}

/// Rows left out, with the reason.
fn skipped(asker: &Asker<'_>) -> Value {
    asker
        .skipped
        .iter()
        .map(|(row, why)| (row.name().to_owned(), why.clone().into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

impl<'a> Report<'a> {
    /// Nothing measured yet, of tasks whose sum is that of `joined`.
    pub(crate) fn new(
        (name, title): (&'static str, &'static str),
        arguments: &AskArguments,
        asker: &Asker<'_>,
        (tasks, joined): (Vec<&'a str>, Vec<&'a str>),
    ) -> Self {
        let (model, settings, skipped) = (asker.model.clone(), settings(arguments), skipped(asker));
        Self { name, title, model, settings, skipped, blocks: Vec::new(), tasks, joined }
    }

    /// Adds what one memory gave, and writes all: a run that is cut leaves what it has. Returns the tables.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn add(&mut self, block: Block, asker: &Asker<'_>, output: &Output) -> Result<String> {
        self.blocks.push(block);
        self.skipped = skipped(asker);
        self.write(output)
    }

    /// Writes the files; returns the tables.
    ///
    /// # Errors
    /// If they cannot be written, or outcomes are there twice.
    pub(crate) fn write(&self, output: &Output) -> Result<String> {
        let outcomes = pooled(&self.blocks)?;
        let table = Table { outcomes: &outcomes, tasks: self.tasks.clone(), joined: self.joined.clone() };
        let (rows, differences) = table.to_json();
        let block = |block: &Block| json!({"plan": block.plan, "outcomes": block.outcomes.to_json()});
        let results = json!({
            "settings": self.settings,
            "skipped_rows": self.skipped,
            "table": rows,
            "differences": differences,
            "haystacks": self.blocks.iter().map(block).collect::<Vec<_>>(),
        });
        output.write(self.name, &self.model, &results, &table.plot(self.title))?;
        Ok(table.to_text())
    }
}

/// Outcomes of all blocks: rows of the same plan beside each other, plans after each other.
fn pooled(blocks: &[Block]) -> Result<Outcomes> {
    let mut plans: Vec<(&Value, Outcomes)> = Vec::new();
    for block in blocks {
        match plans.iter_mut().find(|(plan, _)| **plan == block.plan) {
            Some((_, outcomes)) => outcomes.add_rows(block.outcomes.clone())?,
            None => plans.push((&block.plan, block.outcomes.clone())),
        }
    }
    let mut all = Outcomes::default();
    for (_, outcomes) in &plans {
        all.add_questions(outcomes);
    }
    Ok(all)
}

/// Pools what earlier runs left: the tables of all of them together.
///
/// # Errors
/// If a file cannot be read, or the runs differ in model or settings.
pub(crate) fn pool<'a>(
    files: &[PathBuf],
    (name, title): (&'static str, &'static str),
    tasks: Vec<&'a str>,
    joined: Vec<&'a str>,
) -> Result<Report<'a>> {
    let mut report = Report {
        name,
        title,
        model: v1::Model::default(),
        settings: Value::Null,
        skipped: json!({}),
        blocks: Vec::new(),
        tasks,
        joined,
    };
    for (index, file) in files.iter().enumerate() {
        let shown = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("{shown} cannot be read"))?;
        let json: Value =
            serde_json::from_slice(&bytes).with_context(|| format!("{shown} is no result of mnemon bench"))?;
        let (model, results) = (&json["model"], &json["results"]);
        let fingerprint = model["fingerprint"].as_str().unwrap_or_default();
        if index == 0 {
            report.model.name = model["name"].as_str().unwrap_or_default().into();
            report.model.fingerprint = fingerprint.into();
            report.model.parameters = model["parameters"].as_u64().unwrap_or_default();
            report.settings = results["settings"].clone();
        }
        ensure!(report.model.fingerprint == fingerprint, "{shown} is of another model; pool runs of one model");
        ensure!(report.settings == results["settings"], "{shown} has other settings: {}", results["settings"]);
        for block in results["haystacks"].as_array().with_context(|| format!("{shown} holds no outcomes"))? {
            let outcomes =
                Outcomes::from_json(&block["outcomes"]).with_context(|| format!("{shown} cannot be read"))?;
            report.blocks.push(Block { plan: block["plan"].clone(), outcomes });
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::outcomes::tests::outcome;
    use super::*;

    #[test]
    fn runs_are_pooled_by_their_plans() {
        let block = |seed: u64, row: Row| {
            let mut outcomes = Outcomes::default();
            outcomes.push(4_000, "single", row, &outcome(true));
            Block { plan: json!({"seed": seed}), outcomes }
        };
        let blocks = [block(1, Row::Auto), block(2, Row::Auto), block(1, Row::Bm25)];
        let all = pooled(&blocks).unwrap();
        assert_eq!(all.get(4_000, "single", Row::Auto).unwrap().right, [Some(true), Some(true)]);
        assert_eq!(all.get(4_000, "single", Row::Bm25).unwrap().right, [Some(true), None]);
        assert!(pooled(&[block(1, Row::Auto), block(1, Row::Auto)]).is_err());
    }

    #[test]
    fn what_is_no_result_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        std::fs::write(&file, "{}").unwrap();
        assert!(pool(&[file], ("needle", ""), vec![], vec![]).is_err());
        assert!(pool(&[folder.path().join("none.json")], ("needle", ""), vec![], vec![]).is_err());
    }
}
