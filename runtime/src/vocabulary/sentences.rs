//! Where sentences end, as far as tokens tell.

use std::ops::Range;

use super::Terms;

/// Tokens of the shortest sentence: shorter ones belong to the next, as a stop so soon may be that of an abbreviation.
const SENTENCE_TOKENS_MIN: usize = 8;
/// Lines of fewer tokens than this end where they break; longer ones may be wrapped prose.
const LINE_TOKENS_MIN: usize = 10;

/// What a token is at the end or the beginning of a sentence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    kind: Kind,
    /// Begins with space.
    is_spaced: bool,
    /// Line breaks in it.
    breaks: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Other,
    /// Ends with a stop.
    Stop,
    /// Nothing but quotation marks and brackets.
    Closing,
    /// A word that a full stop may abbreviate: capitalised, of three letters at most.
    Short,
}

impl Mark {
    /// Of a token: its text, and whether its vocabulary marks it as one that begins with a space.
    pub(crate) fn of(text: &str, is_spaced: bool) -> Self {
        let is_closing = |c: char| matches!(c, '"' | '\'' | '”' | '’' | '»' | ')' | ']' | '*' | '_');
        let last = text.trim_end().trim_end_matches(is_closing);
        let word = text.trim();
        let is_short =
            word.chars().count() <= 3 && word.chars().all(char::is_alphabetic) && word.starts_with(char::is_uppercase);
        let kind = if last.ends_with(['.', '!', '?', '。', '！', '？', '…']) {
            Kind::Stop
        } else if !word.is_empty() && word.chars().all(is_closing) {
            Kind::Closing
        } else if is_short {
            Kind::Short
        } else {
            Kind::Other
        };
        let is_spaced = is_spaced || text.starts_with(char::is_whitespace);
        Self { kind, is_spaced, breaks: text.matches('\n').count() }
    }
}

/// The sentences of a text, all of its tokens.
pub(crate) fn sentences(terms: &Terms, tokens: &[u32]) -> Vec<Range<usize>> {
    let marks: Vec<Mark> = tokens.iter().map(|token| terms.mark(*token)).collect();
    let mut sentences: Vec<Range<usize>> = Vec::new();
    let (mut start, mut line) = (0, 0);
    for at in 1..=marks.len() {
        if at == marks.len() || (at - start >= SENTENCE_TOKENS_MIN && ends(&marks, at, line)) {
            sentences.push(start..at);
            start = at;
        }
        if marks[at - 1].breaks > 0 {
            line = at;
        }
    }
    sentences
}

/// Whether a sentence ends before the token at `at`, in a line that began at `line`.
fn ends(marks: &[Mark], at: usize, line: usize) -> bool {
    let (before, next) = (marks[at - 1], marks[at]);
    if before.breaks > 0 {
        return before.breaks > 1 || next.breaks > 0 || at - line < LINE_TOKENS_MIN;
    }
    let Some(stop) = marks[..at].iter().rposition(|mark| mark.kind != Kind::Closing) else { return false };
    let is_abbreviation = stop > 0 && marks[stop - 1].kind == Kind::Short && !marks[stop].is_spaced && stop + 1 == at;
    marks[stop].kind == Kind::Stop && !is_abbreviation && (next.is_spaced || next.breaks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sentences of a text whose tokens are words with the space before them, marks and line breaks.
    fn of(text: &str) -> Vec<String> {
        let mut pieces: Vec<String> = Vec::new();
        for c in text.chars() {
            let word = |piece: &String| piece.ends_with(char::is_alphanumeric) || piece == " ";
            match pieces.last_mut() {
                Some(last) if c.is_alphanumeric() && word(last) => last.push(c),
                Some(last) if c == '\n' && last.ends_with('\n') => last.push(c),
                _ => pieces.push(c.into()),
            }
        }
        let terms = Terms::of_texts(&pieces);
        let tokens: Vec<u32> = (0..pieces.len() as u32).collect();
        let sentences = sentences(&terms, &tokens);
        assert!(sentences.iter().flat_map(Clone::clone).eq(0..pieces.len()), "every token once: {sentences:?}");
        sentences.into_iter().map(|range| pieces[range].concat()).collect()
    }

    #[test]
    fn sentences_end_with_stops_before_a_space() {
        let text = "The ferry to the island leaves at 6.30 in the morning! Nobody knows who ordered it so early, \
                    not even the captain. \"Why should I care about it at all?\" he said to us then.";
        assert_eq!(
            of(text),
            [
                "The ferry to the island leaves at 6.30 in the morning!",
                " Nobody knows who ordered it so early, not even the captain.",
                " \"Why should I care about it at all?\"",
                " he said to us then.",
            ]
        );
        assert!(of("").is_empty());
    }

    #[test]
    fn abbreviations_and_short_exclamations_end_nothing() {
        for text in [
            "Behind the old chapel on the hill Mr. Crane repairs umbrellas for nothing.",
            "Oh! What was it that she wanted to say to him?",
        ] {
            assert_eq!(of(text), [text]);
        }
    }

    #[test]
    fn wrapped_lines_go_on_and_short_lines_end() {
        let wrapped = "one two three four five six seven eight nine ten eleven\ntwelve thirteen fourteen fifteen\n\n";
        assert_eq!(of(&format!("{wrapped}one two three four five six seven eight")).len(), 2);
        let list = "name and number of the one: 1234\nname and number of the other: 5678\n";
        assert_eq!(of(list).len(), 2, "{:?}", of(list));
    }
}
