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
        let from = match hit.sentence {
            Some(sentence) if chunk.text.is_char_boundary(sentence.start as usize) => sentence.start as usize,
            _ => before_first(chunk, &hit.highlights),
        };
        heading(ui, &format!("{:>7.3}", hit.score), f64::from(hit.score), (chunk, from))?;
        let found = hit.highlights.iter().filter_map(|at| chunk.text.get(at.start as usize..at.end as usize));
        let found: BTreeSet<&str> = found.collect();
        for line in lines(ui, &text_from(chunk, from), 3) {
            ui.line(format!("{:INDENT$}       {}", "", marked(ui, &line, &found)))?;
        }
    }
    Ok(())
}

/// One passage: a number, a bar, where it stands, and two lines of it.
fn passage(ui: &Ui, number: &str, share: f64, chunk: &v1::Chunk) -> io::Result<()> {
    heading(ui, number, share, (chunk, 0))?;
    for line in lines(ui, &text_from(chunk, 0), 2) {
        ui.line(format!("{:INDENT$}       {}", "", ui.paint(Ink::Dim, &line)))?;
    }
    Ok(())
}

fn heading(ui: &Ui, number: &str, share: f64, (chunk, from): (&v1::Chunk, usize)) -> io::Result<()> {
    let bar = ui.paint(Ink::Key, &bar(share, BAR_COLUMNS));
    ui.line(format!("{number}  {bar}  {}", place(ui, chunk, from)))
}

fn lines(ui: &Ui, text: &str, most: usize) -> Vec<String> {
    excerpt(text, ui.width() - INDENT - 8, most)
}

/// Byte of a passage's text a little before the first word that was found, where a word begins.
fn before_first(chunk: &v1::Chunk, highlights: &[v1::Highlight]) -> usize {
    /// Bytes that are shown before it.
    const BEFORE: usize = 80;
    let first = highlights.first().map_or(0, |at| at.start as usize);
    // What another says before is not shown.
    let turns = chunk.turns.iter().map(|turn| turn.start as usize);
    let turn = turns.take_while(|start| *start <= first).last().unwrap_or(0);
    let from = chunk.text.char_indices().map(|(at, _)| at).find(|at| at + BEFORE >= first).unwrap_or(0);
    if from <= turn {
        return turn;
    }
    // From the next word on.
    let rest = chunk.text.get(from..).unwrap_or_default();
    let space = rest.char_indices().find(|(_, c)| c.is_whitespace());
    space.map_or(from, |(at, space)| from + at + space.len_utf8())
}

/// The text of a passage from a byte on, with who speaks where that changes.
fn text_from(chunk: &v1::Chunk, from: usize) -> String {
    let text = chunk.text.as_str();
    let (mut shown, mut at) = (String::new(), from);
    for turn in chunk.turns.iter().filter(|turn| turn.start as usize > from) {
        let start = turn.start as usize;
        shown += text.get(at..start).unwrap_or_default();
        let said: Vec<&str> =
            ["date", "speaker"].iter().filter_map(|key| turn.metadata.get(*key)).map(String::as_str).collect();
        if !said.is_empty() {
            shown += &["— ", &said.join(" "), ": "].concat();
        }
        at = start;
    }
    shown + text.get(at..).unwrap_or_default()
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

/// Document, who said what stands at a byte and when, as far as metadata tells, and bytes of a chunk.
fn place(ui: &Ui, chunk: &v1::Chunk, from: usize) -> String {
    let document = excerpt(&chunk.document_id, 32, 1).concat();
    let turn = chunk.turns.iter().rfind(|turn| turn.start as usize <= from);
    let of = |key: &str| turn.and_then(|turn| turn.metadata.get(key)).or_else(|| chunk.metadata.get(key));
    let said = ["date", "speaker"].into_iter().filter_map(of);
    let said: Vec<String> = said.map(|said| ui.paint(Ink::Key, &excerpt(said, 24, 1).concat())).collect();
    let parts = [vec![ui.paint(Ink::Bold, &document)], said, vec![ui.paint(Ink::Dim, &span(chunk))]];
    parts.concat().join("  ")
}

/// Bytes of a chunk in its document.
fn span(chunk: &v1::Chunk) -> String {
    let span = chunk.span.unwrap_or_default();
    format!("bytes {}–{}", count(span.byte_start), count(span.byte_end))
}
