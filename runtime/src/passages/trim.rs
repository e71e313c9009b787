//! How much of what was found is shown. Chunks end anywhere, and whole neighbours are mostly about something else, which small models
//! mistake for the answer: a passage is made of whole sentences.

use std::ops::Range;

use mnemon_memory_store::{ChunkId, ChunkInfo, Recall};

use super::{Passage, sentences::sentences};
use crate::{Model, Result, profile::Extent};

/// Of sentences, those are shown that matter at least this share as much as the best.
const MATTERS_SHARE: f32 = 0.5;

/// What is left out of a chunk at one end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Tokens.
    pub tokens: usize,
    /// Bytes of the chunk's text.
    pub bytes: usize,
}

/// Part of the attention that a question's tokens pay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Attended {
    pub(crate) chunk: ChunkId,
    /// Token within the chunk.
    pub(crate) token: usize,
    /// Above 0.
    pub(crate) mass: f32,
}

/// Cuts passages down to whole sentences; `terms` are the question's.
pub(crate) fn trim(
    recall: &dyn Recall,
    model: &Model,
    passages: &mut [Passage],
    extent: Extent,
    terms: &[Vec<u32>],
) -> Result<()> {
    // All at once: a store may be far away.
    let ids: Vec<ChunkId> = passages.iter().flat_map(|passage| passage.chunks.iter().copied()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let infos = recall.describe(&ids)?;
    let mut rest = infos.as_slice();
    for passage in passages {
        let (own, others) = rest.split_at(passage.chunks.len().min(rest.len()));
        rest = others;
        trim_one(model, passage, own, extent, terms);
    }
    Ok(())
}

fn trim_one(model: &Model, passage: &mut Passage, infos: &[ChunkInfo], extent: Extent, terms: &[Vec<u32>]) {
    let tokens: Vec<u32> = infos.iter().flat_map(|info| info.tokens.iter().copied()).collect();
    let starts: Vec<usize> = infos
        .iter()
        .scan(0, |start, info| {
            *start += info.tokens.len();
            Some(*start - info.tokens.len())
        })
        .collect();
    let is_core = |info: &ChunkInfo| passage.core.contains(&info.id);
    let (Some(first), Some(last)) = (infos.iter().position(is_core), infos.iter().rposition(is_core)) else { return };
    let core = starts[first]..starts[last] + infos[last].tokens.len();
    let mut shown = sentences(model.terms(), &tokens);
    shown.retain(|sentence| sentence.start < core.end && sentence.end > core.start);
    if extent == Extent::Sentence {
        let attended: Vec<(usize, f32)> = passage
            .attended
            .iter()
            .filter_map(|part| {
                let at = passage.chunks.iter().position(|chunk| *chunk == part.chunk)?;
                Some((starts.get(at)? + part.token, part.mass))
            })
            .collect();
        shown = that_matter(&shown, &tokens, &attended, terms);
    }
    let (Some(start), Some(end)) = (shown.first().map(|s| s.start), shown.last().map(|s| s.end)) else { return };
    let holds = |at: usize| starts.iter().rposition(|start| *start <= at).unwrap_or(0);
    let (left, right) = (holds(start), holds(end.saturating_sub(1)));
    let (before, within) = (start - starts[left], end - starts[right]);
    let (left_info, right_info) = (&infos[left], &infos[right]);
    passage.start = Cut { tokens: before, bytes: bytes_of(model, left_info, before).unwrap_or(0) };
    let bytes = bytes_of(model, right_info, within).unwrap_or(right_info.text.len());
    passage.end = Cut { tokens: right_info.tokens.len() - within, bytes: right_info.text.len() - bytes };
    // A chunk of which nothing is shown is not part of the passage.
    passage.chunks.truncate(right + 1);
    passage.chunks.drain(..left);
    passage.core.retain(|chunk| passage.chunks.contains(chunk));
}

/// The sentences that a question is about, and those between them: by the attention that they get, and by the words that they share
/// with it, each word counting less the more sentences have it.
fn that_matter(
    all: &[Range<usize>],
    tokens: &[u32],
    attended: &[(usize, f32)],
    terms: &[Vec<u32>],
) -> Vec<Range<usize>> {
    let mut words = vec![0.0; all.len()];
    for term in terms {
        let has = |sentence: &Range<usize>| tokens[sentence.clone()].iter().any(|token| term.contains(token));
        let having: Vec<usize> = (0..all.len()).filter(|at| has(&all[*at])).collect();
        having.iter().for_each(|at| words[*at] += 1.0 / having.len() as f32);
    }
    let mut masses = vec![0.0; all.len()];
    for (token, mass) in attended {
        if let Some(at) = all.iter().position(|sentence| sentence.contains(token)) {
            masses[at] += mass;
        }
    }
    for shares in [&mut words, &mut masses] {
        let total: f32 = shares.iter().sum();
        shares.iter_mut().for_each(|share| *share /= total.max(f32::MIN_POSITIVE));
    }
    let matters: Vec<f32> = words.iter().zip(&masses).map(|(words, mass)| words + mass).collect();
    let best = matters.iter().copied().fold(0.0, f32::max);
    let is_shown = |at: &usize| matters[*at] >= MATTERS_SHARE * best;
    let first = (0..all.len()).find(is_shown).unwrap_or(0);
    let last = (0..all.len()).rfind(is_shown).map_or(all.len(), |at| at + 1);
    all[first..last].to_vec()
}

/// Bytes of a chunk's text that its first tokens stand for, where the tokenizer can tell.
fn bytes_of(model: &Model, info: &ChunkInfo, tokens: usize) -> Option<usize> {
    let text = model.tokenizer().decode(info.tokens.get(..tokens)?, false).ok()?;
    info.text.starts_with(&text).then_some(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten tokens to a sentence; each token is its place.
    fn matter(attended: &[(usize, f32)], terms: &[Vec<u32>]) -> Vec<usize> {
        let all: Vec<Range<usize>> = (0..4).map(|at| 10 * at..10 * at + 10).collect();
        let tokens: Vec<u32> = (0..40).collect();
        that_matter(&all, &tokens, attended, terms).iter().map(|sentence| sentence.start / 10).collect()
    }

    #[test]
    fn sentences_matter_by_attention_and_by_words() {
        assert_eq!(matter(&[(25, 0.3), (4, 0.1)], &[]), [2]);
        assert_eq!(matter(&[], &[vec![15], vec![17], vec![33]]), [1, 2, 3], "half as much, and what is between");
        assert_eq!(matter(&[], &[vec![15], vec![3, 13, 23, 33]]), [1], "what all have tells nothing");
        assert_eq!(matter(&[(25, 0.3)], &[vec![15], vec![26]]), [2]);
        assert_eq!(matter(&[(5, 0.2), (12, 0.2)], &[]), [0, 1], "two facts side by side");
        assert_eq!(matter(&[], &[]), [0, 1, 2, 3], "where nothing tells, all");
    }
}
