//! Text to terms.
//!
//! Words are those of Unicode (UAX #29), cut at apostrophes as well, compatibility-decomposed, lower-cased, and without the
//! accents of the Latin, Greek, Cyrillic, Hebrew and Arabic scripts. Scripts that put no spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
//! Burmese), and Korean, whose particles stick to words, give pairs of neighbouring characters instead. A compound
//! of code or numbers (`max_tokens`, `HttpClient`, `v0.6.2`, `250ms`) is a term as a whole and in its parts. An English word is its stem
//! (Snowball), and the word as it was written another term, so that exact forms can count a little more than related ones.
//!
//! A term is the CRC-32 of its UTF-8, so terms of up to four bytes never collide, and longer ones do once in 2^32.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

/// Version of these rules. An index made by others is not used, but made again.
pub(crate) const ANALYSIS: u16 = 1;

/// Why a term is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TermKind {
    /// A word, by its stem if it has one.
    Word,
    /// A part of a compound, likewise.
    Part,
    /// A word or part as it was written, where that is not its stem.
    Inflected,
}

/// Calls `term` for each term of `text`, in the order of the words' first bytes, with the bytes of the word that it comes from.
pub(crate) fn analyze(text: &str, mut term: impl FnMut(Range<usize>, TermKind, u32)) {
    let mut pairs = Pairs::default();
    for (start, word) in text.unicode_word_indices() {
        let mut run = start..start;
        for (offset, character) in word.char_indices() {
            let here = start + offset;
            if is_paired(character) {
                spaced(text, run.clone(), &mut term);
                pairs.push(here, character, &mut term);
                run.start = here + character.len_utf8();
            } else {
                pairs.end(&mut term);
            }
            run.end = here + character.len_utf8();
        }
        spaced(text, run, &mut term);
    }
    pairs.end(&mut term);
}

/// Neighbouring characters of scripts without spaces.
#[derive(Default)]
struct Pairs {
    /// The last character, with its place, and whether it is part of a pair.
    last: Option<(usize, char, bool)>,
}

impl Pairs {
    fn push(&mut self, at: usize, character: char, term: &mut impl FnMut(Range<usize>, TermKind, u32)) {
        let adjacent = self.last.filter(|(before, last, _)| before + last.len_utf8() == at);
        if let Some((before, last, _)) = adjacent {
            let pair: String = [last, character].into_iter().collect();
            term(before..at + character.len_utf8(), TermKind::Word, hash(&pair));
        } else {
            self.end(term);
        }
        self.last = Some((at, character, adjacent.is_some()));
    }

    /// What follows does not belong to the characters before.
    fn end(&mut self, term: &mut impl FnMut(Range<usize>, TermKind, u32)) {
        if let Some((at, character, false)) = self.last.take() {
            term(at..at + character.len_utf8(), TermKind::Word, hash(character.encode_utf8(&mut [0; 4])));
        }
    }
}

/// Scripts without spaces between words, and Hangul.
fn is_paired(character: char) -> bool {
    matches!(character,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1100}'..='\u{11ff}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{3ffff}')
}

fn hash(term: &str) -> u32 {
    crc32fast::hash(term.as_bytes())
}

/// The terms of a run of characters of scripts with spaces: a word or what stands between its apostrophes.
fn spaced(text: &str, run: Range<usize>, term: &mut impl FnMut(Range<usize>, TermKind, u32)) {
    let mut from = run.start;
    for piece in text[run].split(['\'', '\u{2019}', '\u{02bc}']) {
        let range = from..from + piece.len();
        from = range.end + text[range.end..].chars().next().map_or(0, char::len_utf8);
        if piece.is_empty() {
            continue;
        }
        with_stem(piece, range.clone(), TermKind::Word, term);
        let parts = parts(piece);
        if parts.len() > 1 {
            for part in parts {
                let within = range.start + part.start..range.start + part.end;
                with_stem(&piece[part], within, TermKind::Part, term);
            }
        }
    }
}

fn with_stem(word: &str, range: Range<usize>, kind: TermKind, term: &mut impl FnMut(Range<usize>, TermKind, u32)) {
    let folded = fold(word);
    if let Some(stem) = stem(&folded) {
        term(range.clone(), kind, stem);
        term(range, TermKind::Inflected, hash(&folded));
    } else {
        term(range, kind, hash(&folded));
    }
}

/// Lower case, without accents.
fn fold(word: &str) -> Cow<'_, str> {
    if word.is_ascii() {
        return if word.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b',') {
            Cow::Owned(word.chars().filter(|c| *c != ',').map(|c| c.to_ascii_lowercase()).collect())
        } else {
            Cow::Borrowed(word)
        };
    }
    let mut folded = String::with_capacity(word.len());
    for character in word.nfkd().filter(|character| !is_accent(*character)).flat_map(char::to_lowercase) {
        match character {
            'ß' => folded.push_str("ss"),
            'æ' => folded.push_str("ae"),
            'œ' => folded.push_str("oe"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' | 'ð' => folded.push('d'),
            'þ' => folded.push_str("th"),
            'ı' => folded.push('i'),
            'ς' => folded.push('σ'),
            ',' => {}
            // What lower case adds to an `İ`.
            accent if is_accent(accent) => {}
            other => folded.push(other),
        }
    }
    Cow::Owned(folded)
}

fn is_accent(character: char) -> bool {
    matches!(character, '\u{0300}'..='\u{036f}' | '\u{0591}'..='\u{05c7}' | '\u{0610}'..='\u{061a}' | '\u{064b}'..='\u{065f}' | '\u{0670}')
}

/// The parts of a compound: between punctuation, letters and digits, and where capitals begin a new word.
fn parts(word: &str) -> Vec<Range<usize>> {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Lower,
        Upper,
        Digit,
        Other,
    }
    let class = |character: char| match character {
        character if character.is_numeric() => Class::Digit,
        character if character.is_uppercase() => Class::Upper,
        character if character.is_alphabetic() || is_accent(character) => Class::Lower,
        _ => Class::Other,
    };
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut before = Class::Other;
    for (at, character) in word.char_indices() {
        let (now, end) = (class(character), at + character.len_utf8());
        let joins = now != Class::Other && (now == before || before == Class::Upper && now == Class::Lower);
        match parts.last_mut() {
            // Of several capitals before a small letter the last one begins a word.
            Some(part) if joins && now != before && part.len() > 1 => {
                let last = word[..at].char_indices().next_back().map_or(at, |(last, _)| last);
                if last > part.start {
                    part.end = last;
                    parts.push(last..end);
                } else {
                    part.end = end;
                }
            }
            Some(part) if joins => part.end = end,
            _ if now == Class::Other => {}
            _ => parts.push(at..end),
        }
        before = now;
    }
    parts
}

/// Stems of words, where they differ from them.
type KnownStems = HashMap<Box<str>, Option<u32>>;

/// The stem of a folded word, if it differs from the word.
fn stem(folded: &str) -> Option<u32> {
    thread_local! {
        static ENGLISH: (Stemmer, RefCell<KnownStems>) = (Stemmer::create(Algorithm::English), RefCell::default());
    }
    /// Words whose stems a thread remembers.
    const KEPT: usize = 1 << 14;
    if folded.len() < 3 || folded.len() > 32 || !folded.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    ENGLISH.with(|(stemmer, kept)| {
        let mut kept = kept.borrow_mut();
        if let Some(stem) = kept.get(folded) {
            return *stem;
        }
        let stemmed = stemmer.stem(folded);
        let stem = (stemmed != folded).then(|| hash(&stemmed));
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(folded.into(), stem);
        stem
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms by kind, as they would be told by hash.
    fn terms(text: &str) -> Vec<(&str, TermKind, u32)> {
        let mut terms = Vec::new();
        analyze(text, |range, kind, hash| terms.push((&text[range], kind, hash)));
        terms
    }

    fn words(text: &str) -> Vec<u32> {
        terms(text).into_iter().filter(|term| term.1 == TermKind::Word).map(|term| term.2).collect()
    }

    /// Words as they were written, in folded form.
    fn written(text: &str) -> Vec<u32> {
        let mut by_range: Vec<(usize, u32)> = Vec::new();
        analyze(text, |range, kind, hash| match by_range.last_mut() {
            Some(last) if kind == TermKind::Inflected && last.0 == range.start => last.1 = hash,
            _ if kind == TermKind::Part => {}
            _ => by_range.push((range.start, hash)),
        });
        by_range.into_iter().map(|(_, hash)| hash).collect()
    }

    fn all(text: &str) -> Vec<u32> {
        terms(text).into_iter().map(|term| term.2).collect()
    }

    fn hashes(words: &[&str]) -> Vec<u32> {
        words.iter().map(|word| hash(word)).collect()
    }

    #[test]
    fn words_are_folded() {
        assert_eq!(written("Der Straße Ärger"), hashes(&["der", "strasse", "arger"]));
        assert_eq!(written("ÉCOLE e\u{301}cole École"), hashes(&["ecole"; 3]));
        assert_eq!(written("ΟΔΟΣ οδός"), hashes(&["οδοσ"; 2]));
        assert_eq!(written("İstanbul ISTANBUL"), hashes(&["istanbul"; 2]));
        assert_eq!(written("Ёлка елка"), hashes(&["елка"; 2]));
        assert_eq!(written("ﬁne Ｆｕｌｌ"), hashes(&["fine", "full"]));
        assert_eq!(written("l'homme Anna’s"), hashes(&["l", "homme", "anna", "s"]));
        assert_eq!(written("1,000 1000"), hashes(&["1000"; 2]));
        // Signs of vowels are no accents.
        assert_ne!(written("कि"), written("का"));
    }

    #[test]
    fn scripts_without_spaces_give_pairs() {
        assert_eq!(words("東京都"), hashes(&["東京", "京都"]));
        assert_eq!(words("私は Rust 東"), hashes(&["私は", "rust", "東"]));
        assert_eq!(words("東。京"), hashes(&["東", "京"]));
        assert_eq!(words("서울에 서울"), hashes(&["서울", "울에", "서울"]));
        assert_eq!(words("서울abc"), hashes(&["서울", "abc"]));
        assert_eq!(words("東 rust"), hashes(&["東", "rust"]));
        assert!(!words("ภาษาไทย").is_empty());
    }

    #[test]
    fn compounds_have_parts() {
        for (text, parts) in [
            ("max_tokens", &["max_tokens", "max", "tokens"][..]),
            ("HttpClient", &["httpclient", "http", "client"]),
            ("HTTPServer2", &["httpserver2", "http", "server", "2"]),
            ("v0.6.2", &["v0.6.2", "v", "0", "6", "2"]),
            ("250ms", &["250ms", "250", "ms"]),
        ] {
            for part in parts {
                assert!(all(text).contains(&hash(part)), "{text} has no {part}");
            }
        }
        assert_eq!(terms("plain").len(), 1);
    }

    #[test]
    fn inflected_words_have_stems() {
        assert_eq!(all("connections"), hashes(&["connect", "connections"]));
        assert_eq!(words("connections connected"), hashes(&["connect"; 2]));
        assert_eq!(all("connect"), hashes(&["connect"]));
        assert_eq!(terms("Was it?").len(), 2);
        // A thread's memory of stems is bounded; those forgotten are found again.
        for number in 0..40_000_u32 {
            let word: String = format!("{number:x}").bytes().map(|byte| char::from(b'a' + byte % 26)).collect();
            stem(&word);
        }
        assert_eq!(all("connections"), hashes(&["connect", "connections"]));
    }

    #[test]
    fn ranges_are_those_of_the_words() {
        let text = "“Don’t, Zoë’s 東京 go_there!”";
        let ranges: Vec<&str> = terms(text).iter().map(|term| term.0).collect();
        assert_eq!(ranges, ["Don", "t", "Zoë", "s", "東京", "go_there", "go", "there"]);
    }
}
