//! Words behind tokens: which tokens of a vocabulary count as the same term.

use std::collections::{HashMap, HashSet};

use tokenizers::Tokenizer;

/// Tokens of a vocabulary by the word, or piece of a word, that they stand for: lower case, without space around it.
#[derive(Debug)]
pub(crate) struct Terms {
    /// Tokens of each term, ascending.
    tokens: Vec<Vec<u32>>,
    /// Term of each token that has one.
    term_of: HashMap<u32, u32>,
    /// Tokens that end a sentence or a line.
    ends: HashSet<u32>,
}

impl Terms {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let mut by_word: HashMap<String, u32> = HashMap::new();
        let mut terms = Self { tokens: Vec::new(), term_of: HashMap::new(), ends: HashSet::new() };
        let mut ids: Vec<u32> = tokenizer.get_vocab(false).into_values().collect();
        ids.sort_unstable();
        for id in ids {
            let Ok(text) = tokenizer.decode(&[id], true) else { continue };
            let last = text.trim_end_matches(['"', '\'', '”', '’', ')', ' ']);
            if text.contains('\n') || last.ends_with(['.', '!', '?', '。', '！', '？']) {
                terms.ends.insert(id);
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

    /// Tokens of which these end a sentence.
    #[cfg(test)]
    pub(crate) fn ending_with(ends: &[u32]) -> Self {
        Self { tokens: Vec::new(), term_of: HashMap::new(), ends: ends.iter().copied().collect() }
    }

    /// Whether a sentence or a line ends with this token, as far as one token tells.
    pub(crate) fn ends_sentence(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The terms of a text, each once, as the tokens that stand for it.
    pub(crate) fn of(&self, tokens: &[u32]) -> Vec<Vec<u32>> {
        let mut terms: Vec<u32> = tokens.iter().filter_map(|id| self.term_of.get(id).copied()).collect();
        terms.sort_unstable();
        terms.dedup();
        terms.into_iter().map(|term| self.tokens[term as usize].clone()).collect()
    }
}
