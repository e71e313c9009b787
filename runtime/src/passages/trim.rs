//! How much of what was found is shown. Chunks end anywhere, and whole neighbours are mostly about something else, which small models
//! mistake for the answer: a passage is made of whole sentences.

use std::ops::Range;

use mnemon_memory::{ChunkId, ChunkInfo};

use super::Passage;
use super::silence::Weighed;
use crate::model::Model;
use crate::profile::Extent;
use crate::vocabulary::sentences;

/// Of sentences, those are shown that matter at least this share as much as the best.
const MATTERS_SHARE: f32 = 0.5;

/// Tokens of one character at most, less one.
const CHARACTER_TOKENS: usize = 3;

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

/// Passages cut down to whole sentences, in their order; `weighed` are the question's words. Of one that grew by a chunk that was found itself,
/// there are two if what is shown of these chunks does not meet.
pub(super) fn trim(model: &Model, passages: &[Passage], extent: Extent, weighed: &Weighed<'_>) -> Vec<Passage> {
    let mut trimmed = Vec::with_capacity(passages.len());
    for passage in passages {
        let text = Text::new(&passage.chunks);
        let shown = shown(model, passage, &text, extent, weighed);
        trimmed.extend(shown.into_iter().map(|range| text.cut(model, passage, &range)));
    }
    trimmed
}

/// What is shown of a passage: tokens of its text, in order; no chunk has a part of two.
fn shown(
    model: &Model,
    passage: &Passage,
    text: &Text<'_>,
    extent: Extent,
    weighed: &Weighed<'_>,
) -> Vec<Range<usize>> {
    let all = sentences(model.terms(), &text.tokens);
    let of = |part: Range<usize>| -> Vec<Range<usize>> {
        all.iter().filter(|sentence| sentence.start < part.end && sentence.end > part.start).cloned().collect()
    };
    let core: Vec<Range<usize>> = (0..text.infos.len())
        .filter(|place| passage.core.contains(&text.infos[*place].id))
        .map(|place| text.chunk(place))
        .collect();
    let parts: Vec<Range<usize>> = match (extent, core.first(), core.last()) {
        (Extent::Chunk, Some(first), Some(last)) => joined(&of(first.start..last.end)).into_iter().collect(),
        (Extent::Sentence, ..) => {
            let attended: Vec<(usize, f32)> = passage.attended.iter().filter_map(|part| text.place(part)).collect();
            core.iter().filter_map(|chunk| that_matter(&of(chunk.clone()), &text.tokens, &attended, weighed)).collect()
        }
        _ => Vec::new(),
    };
    let mut shown: Vec<Range<usize>> = Vec::with_capacity(parts.len());
    for part in parts {
        match shown.last_mut() {
            Some(before) if text.holding(part.start) <= text.holding(before.end - 1) => {
                *before = before.start.min(part.start)..before.end.max(part.end);
            }
            _ => shown.push(part),
        }
    }
    shown
}

/// The chunks of a passage as one text.
struct Text<'a> {
    infos: &'a [ChunkInfo],
    tokens: Vec<u32>,
    /// First token of each chunk.
    starts: Vec<usize>,
}

impl<'a> Text<'a> {
    fn new(infos: &'a [ChunkInfo]) -> Self {
        let mut text = Self { infos, tokens: Vec::new(), starts: Vec::with_capacity(infos.len()) };
        for info in infos {
            text.starts.push(text.tokens.len());
            text.tokens.extend(&info.tokens);
        }
        text
    }

    /// Tokens of a chunk.
    fn chunk(&self, place: usize) -> Range<usize> {
        self.starts[place]..self.starts[place] + self.infos[place].tokens.len()
    }

    /// The chunk that holds a token.
    fn holding(&self, token: usize) -> usize {
        self.starts.iter().rposition(|start| *start <= token).unwrap_or(0)
    }

    /// The token that is attended to, with its part of the attention.
    fn place(&self, part: &Attended) -> Option<(usize, f32)> {
        let chunk = self.infos.iter().position(|info| info.id == part.chunk)?;
        Some((self.starts[chunk] + part.token, part.mass))
    }

    /// The part of a passage that shows these tokens.
    fn cut(&self, model: &Model, passage: &Passage, shown: &Range<usize>) -> Passage {
        let (left, right) = (self.holding(shown.start), self.holding(shown.end.saturating_sub(1)));
        let (first, last) = (&self.infos[left], &self.infos[right]);
        let (before, within) = (shown.start - self.starts[left], shown.end - self.starts[right]);
        let start = Cut { tokens: before, bytes: bytes_of(model, first, before).unwrap_or(0) };
        let bytes = bytes_of(model, last, within).unwrap_or(last.text.len());
        let end = Cut { tokens: last.tokens.len() - within, bytes: last.text.len() - bytes };
        // A chunk of which nothing is shown is not part of it.
        let chunks = self.infos[left..=right].to_vec();
        let is_part = |chunk: &ChunkId| chunks.iter().any(|info| info.id == *chunk);
        let core: Vec<ChunkId> = passage.core.iter().copied().filter(is_part).collect();
        let found =
            if core.contains(&passage.found) { passage.found } else { core.first().copied().unwrap_or(passage.found) };
        let (attended, score) = (passage.attended.clone(), passage.score);
        Passage { chunks, found, core, attended, start, end, score }
    }
}

/// The tokens of the sentences that a question is about, and of those between them: by the attention that they get, and by what the words weigh that
/// they share with it, each word counting less the more sentences have it. A word is shared as a whole: parts of names stand in other names.
fn that_matter(
    all: &[Range<usize>],
    tokens: &[u32],
    attended: &[(usize, f32)],
    weighed: &Weighed<'_>,
) -> Option<Range<usize>> {
    let mut words = vec![0.0; all.len()];
    let has: Vec<_> =
        all.iter().map(|sentence| weighed.within(&tokens[sentence.clone()].iter().copied().collect())).collect();
    for (word, weight) in weighed.each().enumerate() {
        let having: Vec<usize> = (0..all.len()).filter(|at| has[*at].contains(&word)).collect();
        for at in &having {
            words[*at] += weight as f32 / having.len() as f32;
        }
    }
    let mut masses = vec![0.0; all.len()];
    for (token, mass) in attended {
        if let Some(at) = all.iter().position(|sentence| sentence.contains(token)) {
            masses[at] += mass;
        }
    }
    for shares in [&mut words, &mut masses] {
        let total: f32 = shares.iter().sum();
        for share in shares.iter_mut() {
            *share /= total.max(f32::MIN_POSITIVE);
        }
    }
    let matters: Vec<f32> = words.iter().zip(&masses).map(|(words, mass)| words + mass).collect();
    let best = matters.iter().copied().fold(0.0, f32::max);
    let is_shown = |at: &usize| matters[*at] >= MATTERS_SHARE * best;
    let first = (0..all.len()).find(is_shown)?;
    let last = (0..all.len()).rfind(is_shown)?;
    joined(&all[first..=last])
}

/// From the first to the last.
fn joined(sentences: &[Range<usize>]) -> Option<Range<usize>> {
    Some(sentences.first()?.start..sentences.last()?.end)
}

/// Bytes of a chunk's text that its first tokens stand for, where the tokenizer can tell. Some tokenizers leave out a space at the
/// beginning.
fn bytes_of(model: &Model, info: &ChunkInfo, tokens: usize) -> Option<usize> {
    let text = model.tokenizer().decode(info.tokens.get(..tokens)?, false).ok()?;
    let spaces = usize::from(info.text.starts_with(' ') && !text.starts_with(' '));
    info.text.get(spaces..)?.starts_with(&text).then_some(spaces + text.len())
}

/// Tokens of a chunk that stand for its first `bytes` bytes; one that stands for more is among them. Where the tokenizer cannot tell, because
/// it reads other text than is written, as many as are their share of the bytes.
pub(super) fn tokens_before(model: &Model, info: &ChunkInfo, bytes: usize) -> usize {
    let all = info.tokens.len();
    let reached = |tokens: usize| bytes_of(model, info, tokens);
    // Within a character no number of tokens ends at a byte of the text.
    let near = |tokens: usize| (tokens..=all.min(tokens + CHARACTER_TOKENS)).find_map(reached);
    let (mut low, mut high) = (0, all);
    while low < high {
        let middle = usize::midpoint(low, high);
        match near(middle) {
            Some(reached) if reached < bytes => low = middle + 1,
            Some(_) => high = middle,
            None => return (bytes * all).div_ceil(info.text.len().max(1)).min(all),
        }
    }
    low
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Ten tokens to a sentence; each token is its place. Words of these terms weigh the same.
    fn matter_of(attended: &[(usize, f32)], terms: &[Vec<u32>], words: &[Vec<usize>]) -> Vec<usize> {
        let all: Vec<Range<usize>> = (0..4).map(|at| 10 * at..10 * at + 10).collect();
        let tokens: Vec<u32> = (0..40).collect();
        let weighed = Weighed::new(terms, words, &vec![1; terms.len()], 100);
        let matters = that_matter(&all, &tokens, attended, &weighed).unwrap();
        (matters.start / 10..matters.end / 10).collect()
    }

    fn matter(attended: &[(usize, f32)], terms: &[Vec<u32>]) -> Vec<usize> {
        matter_of(attended, terms, &(0..terms.len()).map(|term| vec![term]).collect::<Vec<_>>())
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

    #[test]
    fn a_part_of_a_name_is_not_the_name() {
        // A name of two parts, of which another sentence has one; the attention is divided between them.
        let (terms, attended) = ([vec![5, 25], vec![26]], [(5, 0.2), (25, 0.2)]);
        assert_eq!(matter_of(&attended, &terms, &[vec![0, 1]]), [2]);
        assert_eq!(matter_of(&attended, &terms, &[vec![0], vec![1]]), [0, 1, 2], "two words");
    }

    #[test]
    fn rare_words_matter_more() {
        let all = [0..10, 10..20];
        let tokens: Vec<u32> = (0..20).collect();
        let (terms, words) = ([vec![5], vec![15]], [vec![0], vec![1]]);
        let matters = |with: &[u64]| that_matter(&all, &tokens, &[], &Weighed::new(&terms, &words, with, 100)).unwrap();
        assert_eq!(matters(&[1, 60]), 0..10);
        assert_eq!(matters(&[1, 1]), 0..20);
        assert_eq!(matters(&[]), 0..20, "where words do not count");
    }
}
