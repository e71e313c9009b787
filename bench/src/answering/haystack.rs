//! Novels with sentences planted in them, such that a longer haystack goes on where a shorter one ends: one memory serves all
//! sizes.

use std::ops::Range;
use std::path::Path;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::grammar::draw;
use crate::report::texts;

/// Texts with one paragraph a line and blank lines between, whatever their files look like.
#[derive(Debug)]
pub(crate) struct Novels {
    books: Vec<(String, Vec<String>)>,
}

/// A document of a haystack at its largest size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) text: String,
    /// Where the statements stand, in their order.
    pub(crate) spans: Vec<Range<u64>>,
}

/// Documents that lie in one memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Haystack {
    /// Name of the novel that it begins with.
    pub(crate) novel: String,
    pub(crate) documents: Vec<Document>,
    /// Bytes of the last document at each size, in the order of the sizes; the others do not grow.
    pub(crate) cuts: Vec<usize>,
}

impl Novels {
    /// The `.txt` files of a folder.
    ///
    /// # Errors
    /// If the folder cannot be read or holds no text.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let books: Vec<_> = texts(folder)?
            .into_iter()
            .map(|(name, text)| (name, paragraphs(&text)))
            .filter(|b| !b.1.is_empty())
            .collect();
        ensure!(!books.is_empty(), "the .txt files of {} hold no text", folder.display());
        Ok(Self { books })
    }

    /// About 100 KB of the first novel.
    pub(crate) fn sample(&self) -> String {
        self.books[0].1.iter().take(400).map(|paragraph| paragraph.clone() + "\n\n").collect()
    }

    /// A haystack of these sizes in bytes, ascending. The statements of each document are spread evenly over its part of the
    /// smallest size, in their order. `number` picks the novel, the seed the place in it where the text begins; where a novel
    /// ends, the next goes on.
    ///
    /// # Errors
    /// If the statements are more than half of the smallest size, or the novels are too short.
    pub(crate) fn haystack(
        &self,
        seed: u64,
        number: u64,
        sizes: &[usize],
        documents: &[Vec<&str>],
    ) -> Result<Haystack> {
        let (smallest, largest) = (sizes.first().copied().unwrap_or(0), sizes.last().copied().unwrap_or(0));
        let planted: usize = documents.iter().flatten().map(|statement| statement.len() + 1).sum();
        ensure!(
            2 * planted <= smallest,
            "{planted} bytes of planted sentences are more than half of a haystack of {smallest} bytes; \
             ask fewer questions or let the smallest size be larger"
        );
        let (novel, text) = self.text(seed, number, largest - planted)?;
        let ends = sentence_ends(&text);
        let base = cut_at(&ends, smallest - planted);
        let mut made = Vec::with_capacity(documents.len());
        let mut from = 0;
        for (index, statements) in documents.iter().enumerate() {
            let to = cut_at(&ends, base * (index + 1) / documents.len()).max(from);
            let is_last = index + 1 == documents.len();
            made.push(plant(&text[from..to], statements, if is_last { &text[to..] } else { "" }));
            from = to;
        }
        let before: usize = made.iter().rev().skip(1).map(|document| document.text.len()).sum();
        let last_ends = made.last().map(|document| sentence_ends(&document.text)).unwrap_or_default();
        // The smallest size ends where its last statement may end too.
        let least = made.last().and_then(|d| d.spans.last()).map_or(0, |span| span.end as usize);
        let cuts = sizes.iter().map(|size| cut_at(&last_ends, size.saturating_sub(before)).max(least)).collect();
        Ok(Haystack { novel, documents: made, cuts })
    }

    /// At least `bytes` of text, and the novel that it begins with.
    fn text(&self, seed: u64, number: u64, bytes: usize) -> Result<(String, String)> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x4841_5953);
        rng.set_stream(number);
        let first = (seed as usize).wrapping_add(number as usize) % self.books.len();
        let (name, start) = (self.books[first].0.clone(), draw(&mut rng, 1_000));
        let mut text = String::with_capacity(bytes + 4_096);
        for step in 0..self.books.len() {
            let book = &self.books[(first + step) % self.books.len()].1;
            // Not from the title page, and not so late that little follows.
            let from = if step == 0 { book.len() / 20 + book.len() * start / 2_000 } else { book.len() / 20 };
            for paragraph in &book[from..] {
                if text.len() >= bytes {
                    return Ok((name, text));
                }
                text.push_str(paragraph);
                text.push_str("\n\n");
            }
        }
        ensure!(text.len() >= bytes, "the novels hold {} bytes after {name}, and {bytes} are needed", text.len());
        Ok((name, text))
    }
}

/// Lines joined to paragraphs.
fn paragraphs(text: &str) -> Vec<String> {
    let unix = text.replace("\r\n", "\n");
    unix.split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|paragraph| !paragraph.is_empty())
        .collect()
}

/// Statements put at the ends of sentences of `base`, evenly, and `rest` after it.
fn plant(base: &str, statements: &[&str], rest: &str) -> Document {
    let ends = sentence_ends(base);
    let mut text = String::with_capacity(base.len() + rest.len());
    let (mut spans, mut copied) = (Vec::with_capacity(statements.len()), 0);
    for (index, statement) in statements.iter().enumerate() {
        let wanted = base.len() * (2 * index + 1) / (2 * statements.len());
        let at = ends[ends.partition_point(|&end| end < wanted).min(ends.len().saturating_sub(1))..]
            .first()
            .copied()
            .unwrap_or(base.len())
            .max(copied);
        text.push_str(&base[copied..at]);
        copied = at;
        if !text.is_empty() && !text.ends_with(char::is_whitespace) {
            text.push(' ');
        }
        spans.push(text.len() as u64..(text.len() + statement.len()) as u64);
        text.push_str(statement);
    }
    text.push_str(&base[copied..]);
    text.push_str(rest);
    Document { text, spans }
}

/// Bytes after which a sentence has ended, ascending: its stop and closing marks are before, a space after.
fn sentence_ends(text: &str) -> Vec<usize> {
    const CLOSING: [char; 5] = ['"', '”', '’', '\'', ')'];
    let mut ends = Vec::new();
    for (at, stop) in text.match_indices(['.', '!', '?']) {
        let after = &text[at + stop.len()..];
        let closed = after.trim_start_matches(CLOSING);
        let end = text.len() - closed.len();
        let next = closed.trim_start().chars().next();
        let opens = |c: char| c.is_uppercase() || matches!(c, '"' | '“' | '‘');
        if !closed.starts_with(char::is_whitespace) || !next.is_none_or(opens) {
            continue;
        }
        // "Mr." and initials end no sentence.
        let before = text[..at].rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or("");
        let is_short_name = before.chars().count() <= 3 && before.starts_with(char::is_uppercase);
        if !(stop == "." && closed == after && is_short_name) {
            ends.push(end);
        }
    }
    ends
}

/// The last end at or before `bytes`, or 0.
fn cut_at(ends: &[usize], bytes: usize) -> usize {
    ends[..ends.partition_point(|&end| end <= bytes)].last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn novels() -> Novels {
        let book = |name: &str| {
            let page = |page| format!("Mr. Brown of {name} read page\n{page}. Then he slept! “Why?” asked Ann.\n\n");
            let text = (0..400).map(page).collect::<Vec<_>>().concat();
            (name.to_owned(), paragraphs(&text))
        };
        Novels { books: vec![book("first"), book("second")] }
    }

    #[test]
    fn sentences_end_after_their_closing_marks() {
        let text = "Mr. A. Brown said “No.” Then he left. J. Smith did not (he slept.) He woke\n\nThe end.";
        let ends = sentence_ends(text);
        let shown: Vec<&str> = ends.iter().map(|&end| text[..end].rsplit(' ').next().unwrap()).collect();
        assert_eq!(shown, ["“No.”", "left.", "slept.)"]);
    }

    #[test]
    fn statements_stand_where_their_spans_say_at_all_depths() {
        let statements: Vec<String> = (0..10).map(|i| format!("Fact {i} is planted.")).collect();
        let half = |from: usize| statements[from..from + 5].iter().map(String::as_str).collect::<Vec<_>>();
        let haystack = novels().haystack(1, 0, &[4_000, 9_000], &[half(0), half(5)]).unwrap();
        for (document, from) in haystack.documents.iter().zip([0, 5]) {
            for (span, statement) in document.spans.iter().zip(&statements[from..]) {
                assert_eq!(&document.text[span.start as usize..span.end as usize], statement);
            }
        }
        let first = &haystack.documents[0];
        for (index, span) in first.spans.iter().enumerate() {
            let depth = span.start as f64 / first.text.len() as f64;
            assert!((depth - (index as f64 + 0.5) / 5.0).abs() < 0.1, "{depth}");
        }
        assert!(haystack.cuts[0] >= haystack.documents[1].spans[4].end as usize);
        for (size, cut) in [4_000, 9_000].iter().zip(&haystack.cuts) {
            let bytes = first.text.len() + cut;
            assert!(bytes <= *size && bytes + 200 > *size, "{bytes} of {size}");
        }
    }

    #[test]
    fn longer_haystacks_begin_with_the_shorter_and_go_on_in_the_next_novel() {
        let (short, long) = (
            novels().haystack(1, 1, &[4_000], &[vec!["A fact."]]).unwrap(),
            novels().haystack(1, 1, &[4_000, 40_000], &[vec!["A fact."]]).unwrap(),
        );
        assert_eq!(short.documents[0].text[..short.cuts[0]], long.documents[0].text[..long.cuts[0]]);
        assert_eq!((short.cuts[0], &short.documents[0].spans), (long.cuts[0], &long.documents[0].spans));
        assert!(long.documents[0].text.contains("of first") && long.documents[0].text.contains("of second"));
        assert_ne!(novels().haystack(1, 0, &[4_000], &[vec![]]).unwrap().novel, short.novel);
        assert_eq!(
            novels().haystack(7, 0, &[4_000], &[vec![]]).unwrap(),
            novels().haystack(7, 0, &[4_000], &[vec![]]).unwrap()
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(
            novels().haystack(1, 0, &[100], &[vec!["A sentence of more than half of that size, to be sure."]]).is_err()
        );
        assert!(novels().haystack(1, 0, &[10_000_000], &[vec![]]).is_err());
    }
}
