//! Scores of different kinds as one.

use std::collections::HashMap;

use mnemon_memory_store::ChunkId;

/// What likeness of keys counts where words count 1.
const KEYS_WEIGHT: f32 = 0.5;

/// What is known of a candidate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Scores {
    /// BM25, where 1 is a chunk of mean length that has each word of the query once.
    pub(super) words: Option<f32>,
    /// Likeness of keys, at most 1.
    pub(super) keys: Option<f32>,
}

/// One score for each candidate, 0 to 1: the weighted mean of its scores, each divided by the best one of its kind. Likeness is
/// counted from the least of any candidate on, since all text is alike to some degree.
pub(super) fn fuse(scores: &HashMap<ChunkId, Scores>) -> Vec<(ChunkId, f32)> {
    let range = |of: fn(&Scores) -> Option<f32>| {
        let known = scores.values().filter_map(of);
        known.fold(None, |range: Option<(f32, f32)>, score| {
            let (least, most) = range.unwrap_or((score, score));
            Some((least.min(score), most.max(score)))
        })
    };
    let words = range(|scores| scores.words).map(|(_, most)| (0.0, most));
    let keys = range(|scores| scores.keys);
    let part = |score: Option<f32>, range: Option<(f32, f32)>| match (score, range) {
        (Some(score), Some((least, most))) if most > least => (score - least) / (most - least),
        (Some(_), Some(_)) => 1.0,
        _ => 0.0,
    };
    let weights = (if words.is_some() { 1.0 } else { 0.0 }, if keys.is_some() { KEYS_WEIGHT } else { 0.0 });
    let whole = (weights.0 + weights.1).max(f32::MIN_POSITIVE);
    let one = |(chunk, of): (&ChunkId, &Scores)| {
        (*chunk, (weights.0 * part(of.words, words) + weights.1 * part(of.keys, keys)) / whole)
    };
    scores.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fused(scores: &[(Option<f32>, Option<f32>)]) -> Vec<f32> {
        let scores = scores.iter().map(|&(words, keys)| Scores { words, keys });
        let scores: HashMap<ChunkId, Scores> = (0..).map(ChunkId).zip(scores).collect();
        let mut fused = fuse(&scores);
        fused.sort_by_key(|(chunk, _)| *chunk);
        fused.into_iter().map(|(_, score)| score).collect()
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
}
