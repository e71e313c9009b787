//! Sentences of a text, for vectors of their own.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation as _;

/// Bytes of a line that ends where it breaks; longer ones may be wrapped prose.
const LINE_BYTES: usize = 50;
/// Bytes of the shortest sentence: shorter ones belong to the next.
const SHORTEST_BYTES: usize = 24;

/// The sentences of a text: all of it but white space around them, in order. They end as Unicode has it (UAX #29), but not at
/// abbreviations such as `Mr.`, and where a line breaks only if the line is short, the next one is empty, or begins an item of a list.
pub(super) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences: Vec<Range<usize>> = Vec::new();
    let mut open: Option<Range<usize>> = None;
    for (start, piece) in text.split_sentence_bound_indices() {
        let end = start + piece.len();
        let range = open.map_or(start..end, |open: Range<usize>| open.start..end);
        if ends(text, &range) {
            sentences.extend(trimmed(text, range));
            open = None;
        } else {
            open = Some(range);
        }
    }
    sentences.extend(open.and_then(|open| trimmed(text, open)));
    sentences
}

fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let piece = &text[range.clone()];
    let start = range.start + piece.len() - piece.trim_start().len();
    (!piece.trim().is_empty()).then(|| start..start + piece.trim().len())
}

/// Whether a sentence ends where a piece of Unicode's rules does.
fn ends(text: &str, range: &Range<usize>) -> bool {
    let (piece, rest) = (&text[range.clone()], &text[range.end..]);
    let said = piece.trim();
    if piece.ends_with('\n') {
        let is_item = rest.trim_start_matches([' ', '\t']).starts_with(['-', '*', '#', '•', '|', '\n', '\r'])
            || rest.trim_start().starts_with(|c: char| c.is_ascii_digit());
        let line = said.rsplit('\n').next().unwrap_or(said);
        let is_stop = said.ends_with(['.', '!', '?', ':', '"', '”', '…']);
        return said.is_empty() || is_item || is_stop || line.len() < LINE_BYTES;
    }
    if said.len() < SHORTEST_BYTES {
        return false;
    }
    // `Mr.`, `St.`, `J.`
    let word = said.rsplit(char::is_whitespace).next().unwrap_or("");
    let is_short = word.len() <= 4 && word.ends_with('.') && word.starts_with(char::is_uppercase);
    !is_short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn sentences_end_at_stops_and_short_lines() {
        assert_eq!(
            split("The lamp went out at nine. Mr. Hale lit it again before ten! Yes. He had matches in his coat."),
            ["The lamp went out at nine.", "Mr. Hale lit it again before ten!", "Yes. He had matches in his coat."]
        );
        assert_eq!(
            split(
                "It was a long line of prose that had been wrapped by an editor\nand so went on after its end.\n\nA title\nThe next one begins here."
            ),
            [
                "It was a long line of prose that had been wrapped by an editor\nand so went on after its end.",
                "A title",
                "The next one begins here."
            ]
        );
        assert_eq!(
            split("Things to buy on the way home:\n- bread\n- milk\n1. eggs"),
            ["Things to buy on the way home:", "- bread", "- milk", "1. eggs"]
        );
        assert!(split(" \n\n ").is_empty() && split("").is_empty());
        assert_eq!(split("no stop at all"), ["no stop at all"]);
    }
}
