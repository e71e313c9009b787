//! Scores of different kinds as one.

use std::collections::HashMap;

use mnemon_memory::{ChunkId, Meaning};

/// What is known of a candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scores {
    /// BM25, where 1 is a chunk of mean length that has each word of the query once.
    pub(super) words: Option<f32>,
    /// Likeness of keys, at most 1.
    pub(super) keys: Option<f32>,
    /// Likeness of sentence embeddings, at most 1.
    pub(super) meaning: Option<Meaning>,
}

/// What each kind counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) words: f32,
    pub(super) keys: f32,
    pub(super) meaning: f32,
    /// What the vector of a whole chunk counts beside that of its best sentence, 0 to 1.
    pub(super) chunk: f32,
    /// How much of what a sentence has in common with others is taken off it, 0 to 1.
    pub(super) common: f32,
    /// The least score by embeddings of any chunk, candidate or not.
    pub(super) least_meaning: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { words: 1.0, keys: 0.5, meaning: 1.0, chunk: 0.5, common: 0.0, least_meaning: 0.0 }
    }
}

impl Weights {
    /// For embeddings alone. On conversations (BEAM), and for questions in other words than their answers: a chunk counts best between nothing
    /// and a half.
    pub(super) fn of_meaning() -> Self {
        Self { chunk: 0.25, common: COMMON, ..Self::default() }
    }

    /// Beside embeddings, words count 0 to 1: as far as the summed weights of the query's words in the best chunk, `matched`, exceed what
    /// the best of so many chunks shares by chance. That is `ln(chunks)` for given words, and more for the best choice of a query's words.
    /// So words that say nothing do not outvote a paraphrase. A question that has none of the words of its answer is compared with sentences
    /// alone: the rest of a chunk is about other things; and what is near to every question would be found for it first.
    pub(super) fn beside_meaning(matched: f32, chunks: u64) -> Self {
        let words = ((matched / (chunks.max(TELLING_CHUNKS) as f32).ln() - CHANCE) * SLOPE).clamp(0.0, 1.0);
        Self { words, chunk: words.min(0.5), common: COMMON * (1.0 - words), ..Self::default() }
    }
}

/// Whether the best chunk shares more words with a query, by their summed weights, than the best of so many does by chance.
pub(super) fn words_tell(matched: f32, chunks: u64) -> bool {
    matched > CHANCE * (chunks.max(3) as f32).ln()
}

/// In fewer chunks, words look rare that are common in the language: they weigh as if there were so many.
const TELLING_CHUNKS: u64 = 1000;

/// Summed weights of words in units of `ln(chunks)` that are shared by chance: questions in other words than their answers' had 0.9 to 2.0
/// (half of them under 1.3), questions to conversations, which have some of them, 1.6 to 4.4 (half of them over 2.6).
const CHANCE: f32 = 1.6;

/// What words count more for each such unit.
const SLOPE: f32 = 2.0;

/// How much of what a sentence has in common with others is taken off it where words tell nothing. Of 60 development questions in other words
/// than their answers, the right passage is among the first three for 52 with 0.35 to 0.65, 50 with 0.75, 47 without.
const COMMON: f32 = 0.5;

/// One score for each candidate, 0 to 1: the weighted mean of its scores, each between the least and the best one of its kind. Words are
/// counted from 0 on. A candidate that has no embeddings yet is judged by the rest.
pub(super) fn fuse(scores: &HashMap<ChunkId, Scores>, weights: Weights) -> Vec<(ChunkId, f32)> {
    let range = |of: fn(&Scores) -> Option<f32>| {
        let known = scores.values().filter_map(of);
        known.fold(None, |range: Option<(f32, f32)>, score| {
            let (least, most) = range.unwrap_or((score, score));
            Some((least.min(score), most.max(score)))
        })
    };
    let words = range(|scores| scores.words).map(|(_, most)| (0.0, most));
    let keys = range(|scores| scores.keys);
    let meaning = range(|scores| scores.meaning.map(|meaning| meaning.score))
        .map(|(least, most)| (least.min(weights.least_meaning), most));
    let part = |score: Option<f32>, range: Option<(f32, f32)>| match (score, range) {
        (Some(score), Some((least, most))) if most > least => (score - least) / (most - least),
        (Some(_), Some(_)) => 1.0,
        _ => 0.0,
    };
    let used = |range: Option<(f32, f32)>, weight: f32| if range.is_some() { weight } else { 0.0 };
    let (of_words, of_keys, of_meaning) =
        (used(words, weights.words), used(keys, weights.keys), used(meaning, weights.meaning));
    let one = |(chunk, of): (&ChunkId, &Scores)| {
        let whole = of_words + of_keys + if of.meaning.is_some() { of_meaning } else { 0.0 };
        let sum = of_words * part(of.words, words)
            + of_keys * part(of.keys, keys)
            + of_meaning * part(of.meaning.map(|meaning| meaning.score), meaning);
        (*chunk, sum / whole.max(f32::MIN_POSITIVE))
    };
    scores.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fused(scores: &[(Option<f32>, Option<f32>)]) -> Vec<f32> {
        let scores = scores.iter().map(|&(words, keys)| Scores { words, keys, meaning: None });
        fused_by(scores, Weights::default())
    }

    fn fused_by(scores: impl IntoIterator<Item = Scores>, weights: Weights) -> Vec<f32> {
        let scores: HashMap<ChunkId, Scores> = (0..).map(ChunkId).zip(scores).collect();
        let mut fused = fuse(&scores, weights);
        fused.sort_by_key(|(chunk, _)| *chunk);
        fused.into_iter().map(|(_, score)| score).collect()
    }

    fn by_meaning(score: f32) -> Meaning {
        Meaning { score, likeness: score, sentence: None }
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert!(
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
    }

    #[test]
    fn each_kind_counts_by_its_best() {
        close(&fused(&[(Some(0.8), None), (Some(0.2), None)]), &[1.0, 0.25]);
        close(&fused(&[(None, Some(0.9)), (None, Some(0.5)), (None, Some(0.7))]), &[1.0, 0.0, 0.5]);
        close(
            &fused(&[(Some(0.5), Some(0.9)), (Some(1.0), Some(0.5)), (None, Some(0.9))]),
            &[2.0 / 3.0, 2.0 / 3.0, 1.0 / 3.0],
        );
    }

    #[test]
    fn equal_and_lone_scores_are_the_best() {
        close(&fused(&[(None, Some(0.3)), (None, Some(0.3))]), &[1.0, 1.0]);
        close(&fused(&[(Some(0.1), None)]), &[1.0]);
        close(&fused(&[]), &[]);
    }

    #[test]
    fn what_has_no_embeddings_yet_is_judged_by_its_words() {
        let scores = [(Some(0.8), None), (Some(0.4), Some(0.9)), (None, Some(0.1)), (None, None)];
        let scores = scores.map(|(words, meaning)| Scores { words, keys: None, meaning: meaning.map(by_meaning) });
        close(&fused_by(scores, Weights::default()), &[1.0, 0.75, 1.0 / 18.0, 0.0]);
    }

    #[test]
    fn words_count_beside_meaning_as_far_as_they_tell() {
        let scores = [(Some(0.9), 0.2), (None, 0.8), (Some(0.45), 0.5)];
        let scores = scores.map(|(words, meaning)| Scores { words, keys: None, meaning: Some(by_meaning(meaning)) });
        let by = |words| fused_by(scores, Weights { words, least_meaning: -0.2, ..Weights::default() });
        close(&by(1.0), &[0.7, 0.5, 0.6]);
        close(&by(0.0), &[0.4, 1.0, 0.7]);
        let weights = |units: f32| Weights::beside_meaning(units * 1000_f32.ln(), 1000);
        for (units, words, chunk, common) in
            [(1.5, 0.0, 0.0, 0.5), (1.75, 0.3, 0.3, 0.35), (1.9, 0.6, 0.5, 0.2), (3.0, 1.0, 0.5, 0.0)]
        {
            let weights = weights(units);
            let found = [weights.words, weights.chunk, weights.common];
            close(&found.map(|weight| (1e4 * weight).round() / 1e4), &[words, chunk, common]);
        }
        assert!(Weights::beside_meaning(8.0, 60).words < 1e-6, "two rare words of a small memory");
        assert!(words_tell(8.0, 60) && !words_tell(8.0, 1000) && !words_tell(0.0, 0));
    }
}
