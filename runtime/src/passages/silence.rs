//! When memory has nothing to say on a question, and is left out: small models take whatever stands before them for the answer.
//!
//! A word that `f` of `N` chunks have is shared with any of them by chance with the probability `f / N`; the weight of BM25 is the negative
//! logarithm of that. The pieces of a word are taken for independent, so that a word weighs as much as they do together. What a passage shares with a
//! question says something if it is unlikely that the luckiest of `N` chunks shares as much by chance: the probability for one chunk, of a sum of
//! independent terms, is computed by adding one word after the other. Common words, which nearly every chunk shares a few of, count little there,
//! and rare ones nearly their weight. Nearly half of what a question asks, shared, says something too.

use std::collections::{BTreeSet, HashSet};

use mnemon_memory::term_weight;

/// How unlikely shared words are that are no chance, in multiples of ln N. By the words of the best chunk's best sentence (a prototype, `SmolLM2`'s
/// tokens), 279 of 2,040 general questions, asked of novels and of people's conversations, get passages so, and 611 at 1; of 299 questions that
/// memory answers 222 do and 232.
const MORE_THAN_CHANCE: f64 = 1.4;
/// Shared words that weigh this multiple of ln N count however many others a question has: of 179 questions about people's own conversations
/// (BEAM, 100K), which are long, 151 get passages so, and 96 otherwise; of the general questions 279 and 225. At 1.5 it is 154 and 329.
const WEIGHTY: f64 = 1.55;
/// A memory of fewer chunks tells little about words. Its chunks are counted together with others as text of the language has them, where the
/// name that five of twenty notes have is rare and the word "where", which none has, is not: with so many where it is empty, and with fewer
/// the more it tells.
const TELLING_CHUNKS: u64 = 256;
const OTHER_CHUNKS: u64 = 640;
/// How often the most frequent token occurs in a chunk of such text, and less often the others by their rank (Zipf 1935), for which their number
/// in the vocabulary stands: what is merged first is most frequent. The numbers of bytes come before, and count nothing.
const MOST_FREQUENT: f64 = 6.4;
const BYTES: u32 = 256;
/// Share of the weights of a question's words that is enough of it: "Where is Daniel?" asks for a name, and its other words weigh as much. Of
/// 120 questions of bAbI's stories among 4,096 and 16,384 tokens of novels 71 get passages so, 54 with 0.5 and 11 with 0.6; of the general questions
/// 279, 248 and 207.
const ENOUGH: f64 = 0.47;
/// Weights are added in steps of so many nats.
const STEP: f64 = 0.05;

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

    /// Whether so many chunks that together share these words say something on the question.
    pub(super) fn tell(&self, words: &BTreeSet<usize>, chunks: usize) -> bool {
        self.is_more_than_chance(words, chunks) || self.weight(words) >= ENOUGH * self.weights.iter().sum::<f64>()
    }

    /// Whether it is no chance that so many chunks together share these words.
    fn is_more_than_chance(&self, words: &BTreeSet<usize>, chunks: usize) -> bool {
        let weights = self.weights_in(chunks);
        let shared: Vec<f64> = words.iter().filter_map(|word| weights.get(*word)).copied().collect();
        self.exceeds_luck(shared.iter().sum(), WEIGHTY)
            || self.exceeds_luck(unlikeliness(&weights, &shared), MORE_THAN_CHANCE)
    }

    /// What each word weighs where any of several chunks may have it.
    fn weights_in(&self, chunks: usize) -> Vec<f64> {
        let several = (chunks.max(1) as f64).ln();
        self.weights.iter().map(|weight| (weight - several).max(0.0)).collect()
    }

    /// Whether a passage that shows these tokens of so many chunks says anything on the question.
    pub(super) fn says_something(&self, shown: &HashSet<u32>, chunks: usize) -> bool {
        self.tell(&self.within(shown), chunks)
    }
}

/// Share of the chunks of text of the language that have one of these tokens.
fn share_with(tokens: &[u32]) -> f64 {
    let ranks = tokens.iter().filter_map(|token| token.checked_sub(BYTES));
    let expected: f64 = ranks.map(|rank| MOST_FREQUENT / f64::from(rank + 1)).sum();
    1.0 - (-expected).exp()
}

/// The negative logarithm of the probability that, of words with these weights, those that are shared by chance weigh as much as the `shared` ones,
/// in nats.
fn unlikeliness(weights: &[f64], shared: &[f64]) -> f64 {
    let steps = |weight: &f64| (weight / STEP).round() as usize;
    // Of each sum; the last is of all that weigh as much.
    let last: usize = shared.iter().map(steps).sum();
    let mut probability = vec![0.0; last + 1];
    probability[0] = 1.0;
    for weight in weights {
        let (chance, steps) = ((-weight).exp(), steps(weight));
        for at in (0..last).rev() {
            let moved = chance * probability[at];
            probability[at] -= moved;
            probability[(at + steps).min(last)] += moved;
        }
    }
    -probability[last].ln()
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
        assert_eq!([3, 4, 5, 6].map(says), [false, false, false, true]);
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
    fn the_probability_is_that_of_a_binomial() {
        let weights = [1.0_f64; 20];
        let p = (-1.0_f64).exp();
        let exactly = |k: u32| {
            let ways = (0..k).fold(1.0, |ways, at| ways * f64::from(20 - at) / f64::from(at + 1));
            ways * p.powf(f64::from(k)) * (1.0 - p).powf(f64::from(20 - k))
        };
        for k in 0..=20 {
            let at_least: f64 = (k..=20).map(exactly).sum();
            let found = unlikeliness(&weights, &weights[..k as usize]);
            assert!((found + at_least.ln()).abs() < 1e-9, "{k}: {found} {at_least}");
        }
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
            let shared: Vec<f64> = weighed.within(&shown).into_iter().map(|word| weighed.weights[word]).collect();
            unlikeliness(&weighed.weights, &shared)
        };
        let (alone, beside) = (found(&with_key[..2]), found(&with_key));
        assert!(beside > 0.9 * alone && beside <= alone, "{alone} {beside}");
    }

    #[test]
    fn nearly_half_of_a_question_is_enough_however_common_its_words_are() {
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
