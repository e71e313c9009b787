//! `mnemon check`: the data folder of a server that does not run.

use std::path::Path;

use anyhow::Result;
use mnemon_memory_store::Error as StoreError;
use mnemon_memory_store::check::{CheckReport, Finding, Loss, check_folder};
use serde_json::{Value, json};

use crate::args::Check;
use crate::exit::{Exit, Failure};
use crate::render::{Ink, Ui, bytes, count, harmless, plural};

pub(crate) fn run(args: &Check, ui: &Ui) -> Result<()> {
    let report = check_folder(&args.data, args.repair).map_err(|error| failure(&error))?;
    if ui.json() {
        ui.value(&as_json(&args.data, &report))?;
    } else {
        show(&args.data, &report, ui)?;
    }
    if report.is_sound() || report.repaired {
        return Ok(());
    }
    let message = format!("{} found in {}", plural(report.findings.len() as u64, "fault"), args.data.display());
    let hint = format!("mnemon check --data {} --repair", args.data.display());
    Err(Failure::new(Exit::Damaged, message).hint(hint).into())
}

fn failure(error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::InUse { .. } => Exit::Conflict,
        StoreError::Invalid(_) => Exit::Usage,
        StoreError::NoSpace { .. } => Exit::Refused,
        StoreError::Damaged { .. } | StoreError::UnknownFormat { .. } => Exit::Damaged,
        _ => Exit::Failure,
    };
    Failure::new(exit, error.to_string())
}

fn show(data: &Path, report: &CheckReport, ui: &Ui) -> Result<()> {
    for finding in &report.findings {
        ui.line(format!("{} {}: {}", ui.paint(Ink::Bad, "fault"), harmless(&finding.what), harmless(&finding.why)))?;
        for loss in &finding.lost {
            ui.line(format!("      {} {}", ui.paint(Ink::Warn, "lost"), describe(finding, loss)))?;
        }
        let (label, ink) = if report.repaired { ("done", Ink::Good) } else { ("repair", Ink::Dim) };
        ui.line(format!("      {} {}", ui.paint(ink, label), harmless(&finding.remedy)))?;
    }
    let verdict = match (report.is_sound(), report.repaired) {
        (true, _) => ui.paint(Ink::Good, "sound"),
        (false, true) => ui.paint(Ink::Good, "repaired"),
        (false, false) => ui.paint(Ink::Bad, "damaged"),
    };
    ui.line(format!(
        "{} is {verdict}: {}, {}, {}, {} in {}",
        data.display(),
        plural(report.memories, "memory").replace("memorys", "memories"),
        plural(report.documents, "document"),
        plural(report.records, "record"),
        bytes(report.bytes),
        plural(report.blobs, "blob"),
    ))?;
    if report.unused_blobs > 0 {
        ui.note(format!("{} unused: the next start removes what is unused", count(report.unused_blobs)));
    }
    if report.repaired {
        ui.note(format!("what could not be used is in {}", data.join("damaged").display()));
    }
    Ok(())
}

fn describe(finding: &Finding, loss: &Loss) -> String {
    let memory =
        finding.memory.as_ref().map_or_else(String::new, |(tenant, name)| format!(" in memory {tenant}/{name}"));
    let document = finding.document.as_deref().unwrap_or_default();
    format!(
        "{} of document {}{memory}: {}, bytes {} to {}",
        plural(loss.tokens.end - loss.tokens.start, "token"),
        harmless(document),
        match (loss.chunks.start, loss.chunks.end.saturating_sub(1)) {
            (first, last) if first < last => format!("chunks {first} to {last}"),
            (only, _) => format!("chunk {only}"),
        },
        loss.bytes.start,
        loss.bytes.end.saturating_sub(1),
    )
}

fn as_json(data: &Path, report: &CheckReport) -> Value {
    let range = |range: &std::ops::Range<u64>| json!({"start": range.start, "end": range.end});
    let loss = |loss: &Loss| json!({"chunks": range(&loss.chunks), "tokens": range(&loss.tokens), "bytes": range(&loss.bytes)});
    let finding = |finding: &Finding| {
        json!({
            "what": finding.what,
            "why": finding.why,
            "tenant": finding.memory.as_ref().map(|(tenant, _)| tenant),
            "memory": finding.memory.as_ref().map(|(_, name)| name),
            "document_id": finding.document,
            "remedy": finding.remedy,
            "lost": finding.lost.iter().map(loss).collect::<Value>(),
        })
    };
    json!({
        "data": data.display().to_string(),
        "sound": report.is_sound(),
        "repaired": report.repaired,
        "memories": report.memories,
        "documents": report.documents,
        "records": report.records,
        "blobs": report.blobs,
        "bytes": report.bytes,
        "unused_blobs": report.unused_blobs,
        "findings": report.findings.iter().map(finding).collect::<Value>(),
    })
}
