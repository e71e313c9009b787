//! When memory has nothing to say on a question, and is left out: small models take whatever stands before them for the answer.
//!
//! A chunk that has terms with the document frequencies f1, f2, ... of N chunks is one that shares them by chance with the probability
//! f1/N * f2/N * ...; the weights of BM25 are the negative logarithms of these factors. Among N chunks one is expected to have terms with a
//! sum of weights of ln N by chance alone. What is said in a memory shares more with a question about it, or most of what the question asks.

use std::collections::{BTreeSet, HashSet};

use mnemon_memory_store::term_weight;

/// Weights of shared terms, in multiples of ln N, from which they are no chance: on development questions what is shown of a fact has 1.9 and more
/// (one of 40: 1.18), and of 60 questions that have nothing to do with the memory 54 find less than this.
const MORE_THAN_CHANCE: f64 = 1.15;
/// Share of the weights of a question's terms that is most of it.
const MOST: f64 = 0.6;

/// Terms of a question, with what each of them weighs in a memory.
pub(super) struct Weighed<'a> {
    terms: &'a [Vec<u32>],
    /// Of each term; none where words do not count.
    weights: Vec<f64>,
    /// Sum of the weights that the luckiest chunk shares by chance, ln N.
    luck: f64,
}

impl<'a> Weighed<'a> {
    /// Weighs terms of which `chunks_with` of `chunks` chunks have each.
    pub(super) fn new(terms: &'a [Vec<u32>], chunks_with: &[u64], chunks: u64) -> Self {
        let weights = chunks_with.iter().map(|with| term_weight(chunks, *with)).collect();
        Self { terms, weights, luck: (chunks.max(1) as f64).ln() }
    }

    /// Whether words do not count.
    pub(super) fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Places of the terms that have one of these tokens.
    pub(super) fn within(&self, tokens: &HashSet<u32>) -> BTreeSet<usize> {
        let has = |place: &usize| self.terms[*place].iter().any(|token| tokens.contains(token));
        (0..self.terms.len()).filter(has).collect()
    }

    /// What the terms at these places weigh together.
    pub(super) fn weight<'p>(&self, places: impl IntoIterator<Item = &'p usize>) -> f64 {
        places.into_iter().filter_map(|place| self.weights.get(*place)).sum()
    }

    /// Whether shared terms of this weight are no chance.
    pub(super) fn is_more_than_chance(&self, weight: f64) -> bool {
        self.exceeds_luck(weight, MORE_THAN_CHANCE)
    }

    /// Whether this weight is at least so many times ln N.
    pub(super) fn exceeds_luck(&self, weight: f64, times: f64) -> bool {
        weight >= times * self.luck
    }

    /// Whether a passage that shows these tokens says anything about a question of these words, each given as the places of its pieces among the
    /// terms. A word is shared if all of its pieces are: pieces alone stand in many other words.
    pub(super) fn says_something(&self, shown: &HashSet<u32>, words: &[Vec<usize>]) -> bool {
        let places = self.within(shown);
        let (mut shared, mut all) = (0.0, 0.0);
        for word in words {
            let weight = self.weight(word);
            all += weight;
            if word.iter().all(|place| places.contains(place)) {
                shared += weight;
            }
        }
        self.is_more_than_chance(shared) || shared >= MOST * all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms 0, 1, ... that so many of 10,000 chunks have; those that the passage shows are named.
    fn says(chunks_with: &[u64], shown: &[u32]) -> bool {
        let terms: Vec<Vec<u32>> = (0..chunks_with.len() as u32).map(|term| vec![1_000 + term, term]).collect();
        let words: Vec<Vec<usize>> = (0..terms.len()).map(|term| vec![term]).collect();
        Weighed::new(&terms, chunks_with, 10_000).says_something(&shown.iter().copied().collect(), &words)
    }

    #[test]
    fn a_word_is_shared_with_all_of_its_pieces() {
        let terms = [vec![1], vec![2], vec![3], vec![4]];
        let says = |words: &[Vec<usize>], shown: &[u32]| {
            let weighed = Weighed::new(&terms, &[5, 5, 5, 5], 10_000);
            weighed.says_something(&shown.iter().copied().collect(), words)
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
        assert!(Weighed::new(&terms, &[0], 1).says_something(&HashSet::new(), &words));
        let weightless = Weighed::new(&terms, &[], 5);
        assert!(weightless.says_something(&HashSet::new(), &words), "where words do not count");
    }
}
