//! Passages as people see them: citations below an answer, hits of a search.

use std::io;

use mnemon_client::v1;

use crate::render::{Ink, Ui, bar, count, excerpt, percent};

const BAR_COLUMNS: usize = 16;

/// Columns before the text of a passage.
const INDENT: usize = 2;

/// Citations shown; JSON has all.
const CITATIONS_SHOWN: usize = 5;

/// The passages an answer drew on: share of attention, bar, place, excerpt. Bars compare the passages with each
/// other: the longest is full.
pub(crate) fn citations(ui: &Ui, citations: &[v1::Citation]) -> io::Result<()> {
    if citations.is_empty() {
        return ui.line(ui.paint(Ink::Dim, "drew on no passage"));
    }
    ui.line(ui.paint(Ink::Bold, "drew on"))?;
    let longest = citations.iter().map(|c| c.weight).fold(f32::MIN_POSITIVE, f32::max);
    for citation in citations.iter().take(CITATIONS_SHOWN) {
        let Some(chunk) = &citation.chunk else { continue };
        let share = format!("{:>7}", percent(f64::from(citation.weight)));
        passage(ui, &share, f64::from(citation.weight / longest), chunk)?;
    }
    match citations.len().saturating_sub(CITATIONS_SHOWN) {
        0 => Ok(()),
        more => ui.line(ui.paint(Ink::Dim, &format!("  and {more} more; --json lists them"))),
    }
}

/// Hits of a search, best first.
pub(crate) fn hits(ui: &Ui, hits: &[v1::SearchHit]) -> io::Result<()> {
    if hits.is_empty() {
        return ui.line(ui.paint(Ink::Dim, "nothing found: the memory is empty"));
    }
    for hit in hits {
        let Some(chunk) = &hit.chunk else { continue };
        passage(ui, &format!("{:>7.3}", hit.score), f64::from(hit.score), chunk)?;
    }
    Ok(())
}

/// One passage: a number, a bar, where it stands, and two lines of it.
fn passage(ui: &Ui, number: &str, share: f64, chunk: &v1::Chunk) -> io::Result<()> {
    let bar = ui.paint(Ink::Key, &bar(share, BAR_COLUMNS));
    ui.line(format!("{number}  {bar}  {}", place(ui, chunk)))?;
    for line in excerpt(&chunk.text, ui.width() - INDENT - 8, 2) {
        ui.line(format!("{:INDENT$}       {}", "", ui.paint(Ink::Dim, &line)))?;
    }
    Ok(())
}

/// Document and bytes of a chunk.
fn place(ui: &Ui, chunk: &v1::Chunk) -> String {
    let document = excerpt(&chunk.document_id, 32, 1).concat();
    format!("{}  {}", ui.paint(Ink::Bold, &document), ui.paint(Ink::Dim, &span(chunk)))
}

/// Bytes of a chunk in its document.
fn span(chunk: &v1::Chunk) -> String {
    let span = chunk.span.unwrap_or_default();
    format!("bytes {}–{}", count(span.byte_start), count(span.byte_end))
}
