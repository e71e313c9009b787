//! When memory has nothing to say on a question, and is left out: small models take whatever stands before them for the answer.
//!
//! A word that `f` of `N` chunks have is shared with any of them by chance with the probability `f / N`; the weight of BM25 is the negative
//! logarithm of that. What a passage shares with a question says something if it is unlikely that the luckiest of `N` chunks shares as much
//! by chance. That probability is at most `N` times the bound of Chernoff (1952) for a sum of independent terms: common words, which nearly every
//! chunk shares a few of, count little there, and rare ones nearly their weight. Most of what a question asks, shared, says something too.

use std::collections::{BTreeSet, HashSet};

use mnemon_memory_store::term_weight;

/// How unlikely shared words are that are no chance, in multiples of ln N. A little less than 1, since the bound is not tight: on development
/// questions 60 of 60 that have nothing to do with the memory have less, and what is shown of a fact that was asked for has more but in one case
/// of 40.
const MORE_THAN_CHANCE: f64 = 0.9;
/// Share of the weights of a question's words that is most of it.
const MOST: f64 = 0.6;
/// Where the tilt of the bound is looked for, and how often the range is cut to two thirds.
const TILT_MAX: f64 = 8.0;
const TILT_CUTS: usize = 40;

/// Words of a question, with what each of them weighs in a memory.
pub(super) struct Weighed<'a> {
    /// Tokens that stand for each piece of a word.
    terms: &'a [Vec<u32>],
    /// Places of the pieces of each word.
    words: &'a [Vec<usize>],
    /// Of each word; none where words do not count.
    weights: Vec<f64>,
    /// Sum of the weights that the luckiest chunk shares by chance, ln N.
    luck: f64,
}

impl<'a> Weighed<'a> {
    /// Weighs words of terms of which `chunks_with` of `chunks` chunks have each; without these numbers words do not count.
    pub(super) fn new(terms: &'a [Vec<u32>], words: &'a [Vec<usize>], chunks_with: &[u64], chunks: u64) -> Self {
        let piece = |place: &usize| chunks_with.get(*place).map_or(0.0, |with| term_weight(chunks, *with));
        let weights = if chunks_with.is_empty() { &[][..] } else { words };
        let weights = weights.iter().map(|word| word.iter().map(piece).sum()).collect();
        Self { terms, words, weights, luck: (chunks.max(1) as f64).ln() }
    }

    /// Whether words do not count.
    pub(super) fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The words all of whose pieces are among these tokens: pieces alone stand in many other words.
    pub(super) fn within(&self, tokens: &HashSet<u32>) -> BTreeSet<usize> {
        let has = |place: &usize| self.terms[*place].iter().any(|token| tokens.contains(token));
        (0..self.words.len()).filter(|word| self.words[*word].iter().all(has)).collect()
    }

    /// What these words weigh together.
    pub(super) fn weight<'p>(&self, words: impl IntoIterator<Item = &'p usize>) -> f64 {
        words.into_iter().filter_map(|word| self.weights.get(*word)).sum()
    }

    /// Whether this weight is at least so many times ln N.
    pub(super) fn exceeds_luck(&self, weight: f64, times: f64) -> bool {
        weight >= times * self.luck
    }

    /// Whether shared words of this weight are no chance.
    pub(super) fn is_more_than_chance(&self, weight: f64) -> bool {
        self.unlikeliness(weight) >= MORE_THAN_CHANCE * self.luck
    }

    /// The negative logarithm of a bound of the probability that a chunk shares words of this weight, in nats.
    fn unlikeliness(&self, weight: f64) -> f64 {
        let at = |tilt: f64| {
            let cumulant = |weight: &f64| ((-weight).exp() * ((tilt * weight).exp() - 1.0)).ln_1p();
            tilt * weight - self.weights.iter().map(cumulant).sum::<f64>()
        };
        // It has one maximum.
        let (mut low, mut high) = (0.0, TILT_MAX);
        for _ in 0..TILT_CUTS {
            let third = (high - low) / 3.0;
            if at(low + third) < at(high - third) { low += third } else { high -= third }
        }
        at(low).max(0.0)
    }

    /// Whether a passage that shows these tokens says anything on the question.
    pub(super) fn says_something(&self, shown: &HashSet<u32>) -> bool {
        let shared = self.weight(&self.within(shown));
        self.is_more_than_chance(shared) || shared >= MOST * self.weights.iter().sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms 0, 1, ... that so many of 10,000 chunks have; those that the passage shows are named.
    fn says(chunks_with: &[u64], shown: &[u32]) -> bool {
        let terms: Vec<Vec<u32>> = (0..chunks_with.len() as u32).map(|term| vec![1_000 + term, term]).collect();
        let words: Vec<Vec<usize>> = (0..terms.len()).map(|term| vec![term]).collect();
        Weighed::new(&terms, &words, chunks_with, 10_000).says_something(&shown.iter().copied().collect())
    }

    #[test]
    fn a_word_is_shared_with_all_of_its_pieces() {
        let terms = [vec![1], vec![2], vec![3], vec![4]];
        let says = |words: &[Vec<usize>], shown: &[u32]| {
            let weighed = Weighed::new(&terms, words, &[5, 5, 5, 5], 10_000);
            weighed.says_something(&shown.iter().copied().collect())
        };
        let two_words = [vec![0, 1], vec![2, 3]];
        assert!(says(&two_words, &[1, 2]));
        assert!(!says(&two_words, &[1, 3]));
        assert!(says(&[vec![0], vec![1], vec![2], vec![3]], &[1, 3]));
    }

    #[test]
    fn rare_words_together_are_no_chance_and_one_alone_is() {
        // "Which secret figure goes with umber-pebble?"
        let paraphrase = [4_000, 30, 40, 100, 6_000, 2, 1];
        assert!(says(&paraphrase, &[4, 5, 6]));
        // "What is the capital of Norway?"
        let general = [4_000, 5_000, 9_000, 20, 8_000, 0];
        assert!(!says(&general, &[0, 1, 2, 3]));
        assert!(!says(&[4_000, 5, 3], &[1]), "which animal barks");
        assert!(!says(&[4_000, 5, 3], &[]));
    }

    #[test]
    fn most_of_a_question_is_enough_however_common_its_words_are() {
        // "Where is Mary?"
        assert!(says(&[3_000, 5_000, 800], &[1, 2]));
        assert!(!says(&[3_000, 5_000, 800], &[0, 1]));
    }

    #[test]
    fn a_memory_of_one_chunk_always_speaks() {
        let (terms, words) = ([vec![1]], [vec![0]]);
        assert!(Weighed::new(&terms, &words, &[0], 1).says_something(&HashSet::new()));
        let weightless = Weighed::new(&terms, &words, &[], 5);
        assert!(weightless.says_something(&HashSet::new()), "where words do not count");
    }
}
