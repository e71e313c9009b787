//! When memory has nothing to say on a question, and is left out: small models take whatever stands before them for the answer.
//!
//! A word that `f` of `N` chunks have is shared with any of them by chance with the probability `f / N`; the weight of BM25 is the negative
//! logarithm of that. The pieces of a word are taken for independent, so that a word weighs as much as they do together. What a passage shares with a question says something if it is unlikely that the luckiest of `N` chunks shares as much
//! by chance. That probability is at most `N` times the bound of Chernoff (1952) for a sum of independent terms: common words, which nearly every
//! chunk shares a few of, count little there, and rare ones nearly their weight. Most of what a question asks, shared, says something too.

use std::collections::{BTreeSet, HashSet};

use mnemon_memory_store::term_weight;

/// How unlikely shared words are that are no chance, in multiples of ln N. A little less than 1, since the bound is not tight: on development
/// questions 60 of 60 that have nothing to do with the memory have less, and what is shown of a fact that was asked for has more but in one case
/// of 40.
const MORE_THAN_CHANCE: f64 = 0.9;
/// Shared words that weigh this multiple of ln N count however many others a question has: of 400 questions about people's own conversations
/// (BEAM, 100K), which are long, the bound alone would leave 65 without memory, and so it leaves 7; of 100 general questions asked of each of these
/// conversations it leaves 89 without.
const WEIGHTY: f64 = 1.5;
/// A memory of fewer chunks tells little about words. Its chunks are counted together with others as text of the language has them, where the
/// name that five of twenty notes have is rare and the word "where", which none has, is not: with so many where it is empty, and with fewer
/// the more it tells.
const TELLING_CHUNKS: u64 = 256;
const OTHER_CHUNKS: u64 = 640;
/// How often the most frequent token occurs in a chunk of such text, and less often the others by their rank (Zipf 1935), for which their number
/// in the vocabulary stands: what is merged first is most frequent. The numbers of bytes come before, and count nothing.
const MOST_FREQUENT: f64 = 6.4;
const BYTES: u32 = 256;
/// Share of the weights of a question's words that is most of it.
const MOST: f64 = 0.6;
/// Where the tilt of the bound is looked for, and how often the range is cut to two thirds.
const TILT_MAX: f64 = 8.0;
const TILT_CUTS: usize = 40;

/// Words of a question, with what each of them weighs in a memory.
#[derive(Debug)]
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
        let others = OTHER_CHUNKS * TELLING_CHUNKS.saturating_sub(chunks) / TELLING_CHUNKS;
        let weigh = |(with, term): (&u64, &Vec<u32>)| {
            let others_with = (others as f64 * share_with(term)).round() as u64;
            term_weight(chunks + others, with + others_with)
        };
        let pieces: Vec<f64> = chunks_with.iter().zip(terms).map(weigh).collect();
        let piece = |place: &usize| pieces.get(*place).copied().unwrap_or_default();
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
        self.within_or_across(tokens, &HashSet::new())
    }

    /// Those too of which only a part is among these tokens, and the rest among the ones `beyond` a border.
    pub(super) fn within_or_across(&self, tokens: &HashSet<u32>, beyond: &HashSet<u32>) -> BTreeSet<usize> {
        let is_among =
            |place: &usize, tokens: &HashSet<u32>| self.terms[*place].iter().any(|token| tokens.contains(token));
        let is_shared = |word: &usize| {
            let pieces = &self.words[*word];
            pieces.iter().any(|piece| is_among(piece, tokens))
                && pieces.iter().all(|piece| is_among(piece, tokens) || is_among(piece, beyond))
        };
        (0..self.words.len()).filter(is_shared).collect()
    }

    /// What these words weigh together.
    pub(super) fn weight<'p>(&self, words: impl IntoIterator<Item = &'p usize>) -> f64 {
        words.into_iter().filter_map(|word| self.weights.get(*word)).sum()
    }

    /// What each word weighs; where words do not count, its pieces.
    pub(super) fn each(&self) -> impl Iterator<Item = f64> {
        self.words
            .iter()
            .enumerate()
            .map(|(word, pieces)| self.weights.get(word).copied().unwrap_or(pieces.len() as f64))
    }

    /// Whether this weight is at least so many times ln N.
    pub(super) fn exceeds_luck(&self, weight: f64, times: f64) -> bool {
        weight >= times * self.luck
    }

    /// Whether it is no chance that so many chunks together share these words.
    pub(super) fn is_more_than_chance(&self, words: &BTreeSet<usize>, chunks: usize) -> bool {
        let weights = self.weights_in(chunks);
        let shared = words.iter().filter_map(|word| weights.get(*word)).sum();
        self.exceeds_luck(unlikeliness(&weights, shared), MORE_THAN_CHANCE) || self.exceeds_luck(shared, WEIGHTY)
    }

    /// What each word weighs where any of several chunks may have it.
    fn weights_in(&self, chunks: usize) -> Vec<f64> {
        let several = (chunks.max(1) as f64).ln();
        self.weights.iter().map(|weight| (weight - several).max(0.0)).collect()
    }

    /// Whether a passage that shows these tokens of so many chunks says anything on the question.
    pub(super) fn says_something(&self, shown: &HashSet<u32>, chunks: usize) -> bool {
        let shared = self.within(shown);
        self.is_more_than_chance(&shared, chunks) || self.weight(&shared) >= MOST * self.weights.iter().sum::<f64>()
    }
}

/// Share of the chunks of text of the language that have one of these tokens.
fn share_with(tokens: &[u32]) -> f64 {
    let ranks = tokens.iter().filter_map(|token| token.checked_sub(BYTES));
    let expected: f64 = ranks.map(|rank| MOST_FREQUENT / f64::from(rank + 1)).sum();
    1.0 - (-expected).exp()
}

/// The negative logarithm of a bound of the probability that words of these weights are shared that weigh so much together, in nats.
fn unlikeliness(weights: &[f64], shared: f64) -> f64 {
    let at = |tilt: f64| tilt * shared - weights.iter().map(|weight| cumulant(*weight, tilt)).sum::<f64>();
    // It has one maximum.
    let (mut low, mut high) = (0.0, TILT_MAX);
    for _ in 0..TILT_CUTS {
        let third = (high - low) / 3.0;
        if at(low + third) < at(high - third) { low += third } else { high -= third }
    }
    at(low).max(0.0)
}

/// Logarithm of the mean of `exp(tilt * x)` where x is `weight` with the probability `exp(-weight)`, and 0 otherwise; without overflow for
/// large weights.
fn cumulant(weight: f64, tilt: f64) -> f64 {
    let (absent, up) = (1.0 - (-weight).exp(), (tilt - 1.0) * weight);
    if up > 0.0 { up + ((-up).exp() * absent).ln_1p() } else { (up.exp() + absent).ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms 0, 1, ... that so many of 10,000 chunks have; those that the passage shows are named.
    fn says(chunks_with: &[u64], shown: &[u32]) -> bool {
        let terms: Vec<Vec<u32>> = (0..chunks_with.len() as u32).map(|term| vec![1_000 + term, term]).collect();
        let words: Vec<Vec<usize>> = (0..terms.len()).map(|term| vec![term]).collect();
        Weighed::new(&terms, &words, chunks_with, 10_000).says_something(&shown.iter().copied().collect(), 1)
    }

    #[test]
    fn a_word_is_shared_with_all_of_its_pieces() {
        let terms = [vec![1], vec![2], vec![3], vec![4]];
        let says = |words: &[Vec<usize>], shown: &[u32]| {
            let weighed = Weighed::new(&terms, words, &[5, 5, 5, 5], 10_000);
            weighed.says_something(&shown.iter().copied().collect(), 1)
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
    fn what_weighs_much_counts_in_long_questions_too() {
        // Six of forty moderately rare words.
        let terms: Vec<Vec<u32>> = (0..40).map(|term| vec![term]).collect();
        let words: Vec<Vec<usize>> = (0..40).map(|term| vec![term]).collect();
        let weighed = Weighed::new(&terms, &words, &[600; 40], 10_000);
        let says = |shared: u32| weighed.says_something(&(0..shared).collect(), 1);
        assert_eq!([3, 4, 5, 6].map(says), [false, false, true, true]);
    }

    #[test]
    fn several_chunks_share_more_by_chance_than_one() {
        let terms: Vec<Vec<u32>> = (0..6).map(|term| vec![term]).collect();
        let words: Vec<Vec<usize>> = (0..6).map(|term| vec![term]).collect();
        let weighed = Weighed::new(&terms, &words, &[300; 6], 10_000);
        let shown = (0..5).collect();
        assert!(weighed.is_more_than_chance(&weighed.within(&shown), 1));
        assert!(!weighed.is_more_than_chance(&weighed.within(&shown), 33));
    }

    #[test]
    fn the_bound_is_that_of_a_binomial() {
        // Chernoff's bound for k of n with one probability is n times the divergence of k / n from it.
        let terms: Vec<Vec<u32>> = (0..20).map(|term| vec![term]).collect();
        let words: Vec<Vec<usize>> = (0..20).map(|term| vec![term]).collect();
        let weighed = Weighed::new(&terms, &words, &[1_000; 20], 10_000);
        let p = (-weighed.weights[0]).exp();
        for k in 3..20 {
            let share = f64::from(k) / 20.0;
            let divergence = share * (share / p).ln() + (1.0 - share) * ((1.0 - share) / (1.0 - p)).ln();
            let found = unlikeliness(&weighed.weights, weighed.weight(&(0..k as usize).collect::<Vec<_>>()));
            assert!((found - 20.0 * divergence).abs() < 1e-6, "{k}: {found} {}", 20.0 * divergence);
        }
        assert!(unlikeliness(&weighed.weights, weighed.weights[0]) < 1e-9, "less than what is expected");
    }

    #[test]
    fn a_word_of_many_pieces_changes_little() {
        // A key of 2,000 rare pieces stands beside two words that are shared.
        let terms: Vec<Vec<u32>> = (0..2_002).map(|term| vec![term]).collect();
        let with_key = [vec![0], vec![1], (2..2_002).collect::<Vec<usize>>()];
        let chunks_with: Vec<u64> = (0..2_002).map(|term| if term < 2 { 5 } else { 0 }).collect();
        let shown: HashSet<u32> = (0..2).collect();
        let found = |words: &[Vec<usize>]| {
            let weighed = Weighed::new(&terms, words, &chunks_with, 10_000);
            unlikeliness(&weighed.weights, weighed.weight(&weighed.within(&shown)))
        };
        let (alone, beside) = (found(&with_key[..2]), found(&with_key));
        assert!(beside > 0.9 * alone && beside <= alone, "{alone} {beside}");
    }

    #[test]
    fn most_of_a_question_is_enough_however_common_its_words_are() {
        // "Where is Mary?"
        assert!(says(&[3_000, 5_000, 800], &[1, 2]));
        assert!(!says(&[3_000, 5_000, 800], &[0, 1]));
    }

    #[test]
    fn few_notes_do_not_make_a_name_common() {
        // "Where does Anna live?", of twenty notes of which some are about Anna and none has the other words.
        let terms = [vec![700], vec![1_500], vec![18_000], vec![3_000]];
        let words = [vec![0], vec![1], vec![2], vec![3]];
        let says = |anna: u64, shown: u32| {
            let weighed = Weighed::new(&terms, &words, &[0, 0, anna, 0], 20);
            weighed.says_something(&HashSet::from([shown]), 1)
        };
        assert!(says(2, 18_000) && says(5, 18_000));
        assert!(!says(2, 1), "nothing of it");
        // Common words alone say nothing there either: "What is the capital of Norway?"
        let terms = [vec![600], vec![310], vec![260], vec![3_100], vec![280], vec![30_000]];
        let words: Vec<Vec<usize>> = (0..6).map(|term| vec![term]).collect();
        let weighed = Weighed::new(&terms, &words, &[0, 6, 9, 0, 5, 0], 20);
        assert!(!weighed.says_something(&HashSet::from([310, 260, 280]), 1));
    }

    #[test]
    fn a_memory_of_one_chunk_always_speaks() {
        let (terms, words) = ([vec![1]], [vec![0]]);
        assert!(Weighed::new(&terms, &words, &[0], 1).says_something(&HashSet::new(), 1));
        let weightless = Weighed::new(&terms, &words, &[], 5);
        assert!(weightless.says_something(&HashSet::new(), 1), "where words do not count");
    }
}
