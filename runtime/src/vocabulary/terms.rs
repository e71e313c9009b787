//! Words behind tokens: which tokens of a vocabulary count as the same term.

use std::collections::{BTreeSet, HashMap, HashSet};

use mnemon_memory::TERMS_MAX;
use tokenizers::Tokenizer;

use super::sentences::Mark;

/// Tokens of a vocabulary by the word, or piece of a word, that they stand for: lower case, without space around it.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Tokens of each term, ascending.
    tokens: Vec<Vec<u32>>,
    /// Term of each token that has one.
    term_of: HashMap<u32, u32>,
    /// What tokens are at the borders of sentences, where they are anything.
    marks: HashMap<u32, Mark>,
    /// Tokens that begin a word, or stand between two.
    begins: HashSet<u32>,
}

impl Terms {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let mut by_word: HashMap<String, u32> = HashMap::new();
        let mut terms =
            Self { tokens: Vec::new(), term_of: HashMap::new(), marks: HashMap::new(), begins: HashSet::new() };
        let mut ids: Vec<u32> = tokenizer.get_vocab(false).into_values().collect();
        ids.sort_unstable();
        for id in ids {
            let Ok(text) = tokenizer.decode(&[id], true) else { continue };
            // Decoders strip a space at the beginning.
            let is_spaced = tokenizer.id_to_token(id).is_some_and(|token| token.starts_with(['\u{120}', '\u{2581}']));
            let mark = Mark::of(&text, is_spaced);
            if mark != Mark::default() {
                terms.marks.insert(id, mark);
            }
            if is_spaced || text.chars().next().is_none_or(|c| !is_within_words(c) || is_unspaced(c)) {
                terms.begins.insert(id);
            }
            let word = text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
            if word.is_empty() || word.contains(char::REPLACEMENT_CHARACTER) {
                continue;
            }
            let next = terms.tokens.len() as u32;
            let term = *by_word.entry(word).or_insert(next);
            if term == next {
                terms.tokens.push(Vec::new());
            }
            terms.tokens[term as usize].push(id);
            terms.term_of.insert(id, term);
        }
        terms
    }

    /// Tokens of these texts, by their numbers, that stand for no words.
    #[cfg(test)]
    pub(crate) fn of_texts(texts: &[String]) -> Self {
        let marks = texts.iter().enumerate().map(|(id, text)| (id as u32, Mark::of(text, false))).collect();
        Self { tokens: Vec::new(), term_of: HashMap::new(), marks, begins: HashSet::new() }
    }

    /// What a token is at the borders of sentences.
    pub(crate) fn mark(&self, token: u32) -> Mark {
        self.marks.get(&token).copied().unwrap_or_default()
    }

    /// The term of each token, as the tokens that stand for it; none for a token that stands for no word.
    pub(crate) fn each(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        let of = |id| self.term_of.get(id).map_or_else(Vec::new, |term| self.tokens[*term as usize].clone());
        tokens.iter().map(of).collect()
    }

    /// The words of a text, each once, as the places of their pieces in its [terms](Self::of), ascending; pieces that are none of these
    /// are left out.
    pub(crate) fn words(&self, tokens: &[u32]) -> Vec<Vec<usize>> {
        let terms = self.ids(tokens);
        let mut words: Vec<Vec<usize>> = vec![Vec::new()];
        for token in tokens {
            let place = self.term_of.get(token).and_then(|term| terms.binary_search(term).ok());
            if self.begins.contains(token) {
                words.push(Vec::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(place);
            }
        }
        for word in &mut words {
            word.sort_unstable();
            word.dedup();
        }
        words.retain(|word| !word.is_empty());
        words.sort_unstable();
        words.dedup();
        words
    }

    /// The terms of a text, each once, as the tokens that stand for it; of a text with more than a search takes, those at its end.
    pub(crate) fn of(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        self.ids(tokens).into_iter().map(|term| self.tokens[term as usize].clone()).collect()
    }

    /// The terms of a text, each once, ascending.
    fn ids(&self, tokens: &[u32]) -> Vec<u32> {
        let mut terms = BTreeSet::new();
        for term in tokens.iter().rev().filter_map(|id| self.term_of.get(id)) {
            if terms.len() == TERMS_MAX {
                break;
            }
            terms.insert(*term);
        }
        terms.into_iter().collect()
    }
}

/// Whether a character may stand within a word: what hyphens join is one, and a part of a character is decoded as the last of these. An
/// apostrophe is none: a name and its genitive share the name.
fn is_within_words(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '-' | '\u{2010}' | '\u{2011}' | char::REPLACEMENT_CHARACTER)
}

/// Whether a letter is of a script that puts no space between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese.
fn is_unspaced(letter: char) -> bool {
    matches!(letter,
        '\u{E00}'..='\u{EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}' | '\u{3040}'..='\u{30FF}'
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}
