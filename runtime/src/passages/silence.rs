//! When memory has nothing to say on a question, and is left out: small models take whatever stands before them for the answer.
//!
//! A chunk that has terms with the document frequencies f1, f2, ... of N chunks is one that shares them by chance with the probability
//! f1/N * f2/N * ...; the weights of BM25 are the negative logarithms of these factors. Among N chunks one is expected to have terms with a
//! sum of weights of ln N by chance alone. What is said in a memory shares more with a question about it, or most of what the question asks.

use std::collections::HashSet;

use mnemon_memory_store::term_weight;

/// Weights of shared terms, in multiples of ln N, from which they are no chance: on development questions what is shown of a fact has 1.9 and more
/// (one of 40: 1.18), and of 60 questions that have nothing to do with the memory 54 find less than this.
const MORE_THAN_CHANCE: f64 = 1.15;
/// Share of the weights of a question's terms that is most of it.
const MOST: f64 = 0.6;

/// A question, by its words.
pub(super) struct Asked<'a> {
    /// Tokens of each term.
    pub(super) terms: &'a [Vec<u32>],
    /// Each word, as the places of its pieces among the terms.
    pub(super) words: &'a [Vec<usize>],
    /// In how many chunks each term occurs.
    pub(super) chunks_with: &'a [u64],
}

/// Whether a passage of one of `chunks` chunks that shows these tokens says anything about a question. A word is shared if all of its pieces are: pieces
/// alone stand in many other words.
pub(super) fn says_something(shown: &HashSet<u32>, asked: &Asked<'_>, chunks: u64) -> bool {
    let weight = |place: &usize| asked.chunks_with.get(*place).map_or(0.0, |with| term_weight(chunks, *with));
    let is_shown =
        |place: &usize| asked.terms.get(*place).is_some_and(|term| term.iter().any(|token| shown.contains(token)));
    let (mut shared, mut all) = (0.0, 0.0);
    for word in asked.words {
        let weight: f64 = word.iter().map(weight).sum();
        all += weight;
        if word.iter().all(is_shown) {
            shared += weight;
        }
    }
    is_more_than_chance(shared, chunks) || shared >= MOST * all
}

/// Whether shared terms of this weight are no chance.
pub(super) fn is_more_than_chance(weight: f64, chunks: u64) -> bool {
    weight >= MORE_THAN_CHANCE * (chunks.max(1) as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms 0, 1, ... that so many of 10,000 chunks have; those that the passage shows are named.
    fn says(chunks_with: &[u64], shown: &[u32]) -> bool {
        let terms: Vec<Vec<u32>> = (0..chunks_with.len() as u32).map(|term| vec![1_000 + term, term]).collect();
        let words: Vec<Vec<usize>> = (0..terms.len()).map(|term| vec![term]).collect();
        let asked = Asked { terms: &terms, words: &words, chunks_with };
        says_something(&shown.iter().copied().collect(), &asked, 10_000)
    }

    #[test]
    fn a_word_is_shared_with_all_of_its_pieces() {
        let terms = [vec![1], vec![2], vec![3], vec![4]];
        let says = |words: &[Vec<usize>], shown: &[u32]| {
            let asked = Asked { terms: &terms, words, chunks_with: &[5, 5, 5, 5] };
            says_something(&shown.iter().copied().collect(), &asked, 10_000)
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
        let one = Asked { terms: &[vec![1]], words: &[vec![0]], chunks_with: &[0] };
        assert!(says_something(&HashSet::new(), &one, 1));
        assert!(says_something(&HashSet::new(), &Asked { chunks_with: &[], ..one }, 5), "where words do not count");
    }
}
