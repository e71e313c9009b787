//! Passages as people see them: citations below an answer, hits of a search.

use std::collections::BTreeSet;
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
        return ui.line(ui.paint(Ink::Dim, "nothing found: no document has these words"));
    }
    for hit in hits {
        let Some(chunk) = &hit.chunk else { continue };
        heading(ui, &format!("{:>7.3}", hit.score), f64::from(hit.score), chunk)?;
        let found = hit.highlights.iter().filter_map(|at| chunk.text.get(at.start as usize..at.end as usize));
        let found: BTreeSet<&str> = found.collect();
        for line in lines(ui, from_first(chunk, &hit.highlights), 3) {
            ui.line(format!("{:INDENT$}       {}", "", marked(ui, &line, &found)))?;
        }
    }
    Ok(())
}

/// One passage: a number, a bar, where it stands, and two lines of it.
fn passage(ui: &Ui, number: &str, share: f64, chunk: &v1::Chunk) -> io::Result<()> {
    heading(ui, number, share, chunk)?;
    for line in lines(ui, &chunk.text, 2) {
        ui.line(format!("{:INDENT$}       {}", "", ui.paint(Ink::Dim, &line)))?;
    }
    Ok(())
}

fn heading(ui: &Ui, number: &str, share: f64, chunk: &v1::Chunk) -> io::Result<()> {
    let bar = ui.paint(Ink::Key, &bar(share, BAR_COLUMNS));
    ui.line(format!("{number}  {bar}  {}", place(ui, chunk)))
}

fn lines(ui: &Ui, text: &str, most: usize) -> Vec<String> {
    excerpt(text, ui.width() - INDENT - 8, most)
}

/// The text of a passage from a little before the first word that was found on.
fn from_first<'a>(chunk: &'a v1::Chunk, highlights: &[v1::Highlight]) -> &'a str {
    /// Bytes that are shown before it.
    const BEFORE: usize = 80;
    let first = highlights.first().map_or(0, |at| at.start as usize);
    let from = chunk.text.char_indices().map(|(at, _)| at).find(|at| at + BEFORE >= first);
    let text = from.and_then(|from| chunk.text.get(from..)).unwrap_or(&chunk.text);
    match text.split_once(char::is_whitespace) {
        // From the next word on.
        Some((_, rest)) if text.len() < chunk.text.len() => rest,
        _ => text,
    }
}

/// A line with the words that were found in bold and the rest dim.
fn marked(ui: &Ui, line: &str, found: &BTreeSet<&str>) -> String {
    let at_word = |at: usize, len: usize| {
        let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !is_letter(line[..at].chars().next_back()) && !is_letter(line[at + len..].chars().next())
    };
    let (mut shown, mut rest) = (String::new(), 0);
    let mut at = 0;
    while at < line.len() {
        let fits = |word: &&&str| line[at..].starts_with(**word) && (at_word(at, word.len()) || !word.is_ascii());
        if let Some(word) = found.iter().filter(fits).max_by_key(|word| word.len()) {
            shown += &ui.paint(Ink::Dim, &line[rest..at]);
            shown += &ui.paint(Ink::Bold, word);
            at += word.len();
            rest = at;
        } else {
            at += line[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    shown + &ui.paint(Ink::Dim, &line[rest..])
}

/// Document, who said it and when as far as its metadata tells, and bytes of a chunk.
fn place(ui: &Ui, chunk: &v1::Chunk) -> String {
    let document = excerpt(&chunk.document_id, 32, 1).concat();
    let said = ["date", "speaker"].into_iter().filter_map(|key| chunk.metadata.get(key));
    let said: Vec<String> = said.map(|said| ui.paint(Ink::Key, &excerpt(said, 24, 1).concat())).collect();
    let parts = [vec![ui.paint(Ink::Bold, &document)], said, vec![ui.paint(Ink::Dim, &span(chunk))]];
    parts.concat().join("  ")
}

/// Bytes of a chunk in its document.
fn span(chunk: &v1::Chunk) -> String {
    let span = chunk.span.unwrap_or_default();
    format!("bytes {}–{}", count(span.byte_start), count(span.byte_end))
}
