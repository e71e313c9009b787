//! What of a passage's neighbours is shown: what completes the first and the last sentence of the chunks that were found. Chunks end
//! anywhere; whole neighbours are mostly about something else, which small models mistake for the answer.

use mnemon_memory_store::{ChunkId, ChunkInfo, Recall};

use super::{Passage, Terms};
use crate::{Model, Result};

/// Tokens that are shown beside a chunk that ends within a sentence, at least: a stop may belong to an abbreviation.
const SIDE_TOKENS_MIN: usize = 8;

/// What is left out of a chunk at one end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// Tokens.
    pub tokens: usize,
    /// Bytes of the chunk's text.
    pub bytes: usize,
}

/// Cuts the neighbours in passages down to whole sentences.
pub(crate) fn trim(recall: &dyn Recall, model: &Model, passages: &mut [Passage]) -> Result<()> {
    // All at once: a store may be far away.
    let has_sides = |passage: &&mut Passage| passage.chunks.len() > passage.core.len();
    let mut cut: Vec<&mut Passage> = passages.iter_mut().filter(has_sides).collect();
    let ids: Vec<ChunkId> = cut.iter().flat_map(|passage| passage.chunks.iter().copied()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let infos = recall.describe(&ids)?;
    let mut rest = infos.as_slice();
    for passage in &mut cut {
        let (own, others) = rest.split_at(passage.chunks.len().min(rest.len()));
        rest = others;
        trim_one(model, passage, own);
    }
    Ok(())
}

fn trim_one(model: &Model, passage: &mut Passage, infos: &[ChunkInfo]) {
    let is_core = |info: &ChunkInfo| passage.core.contains(&info.id);
    let Some(first) = infos.iter().position(is_core) else { return };
    let before = &infos[..first];
    let last = infos.iter().rposition(is_core).unwrap_or(first);
    let after = &infos[last + 1..];
    let terms = model.terms();
    let ends_within = infos[last].tokens.last().is_some_and(|token| !terms.ends_sentence(*token));
    let (left, start) = locate(before, skip(&tokens(before), terms));
    let (right, end) = locate(after, if ends_within { keep(&tokens(after), terms) } else { 0 });
    if let Some(info) = before.get(left) {
        passage.start = Cut { tokens: start, bytes: bytes_of(model, info, start).unwrap_or(0) };
    }
    if let Some(info) = after.get(right).filter(|_| end > 0) {
        let shown = bytes_of(model, info, end).unwrap_or(info.text.len());
        passage.end = Cut { tokens: info.tokens.len() - end, bytes: info.text.len() - shown };
    }
    // A chunk of which nothing is shown is not part of the passage.
    passage.chunks.truncate(last + 1 + right + usize::from(end > 0));
    passage.chunks.drain(..left);
}

fn tokens(infos: &[ChunkInfo]) -> Vec<u32> {
    infos.iter().flat_map(|info| info.tokens.iter().copied()).collect()
}

/// The chunk that holds a place among the tokens of all, and the place within it.
fn locate(infos: &[ChunkInfo], mut place: usize) -> (usize, usize) {
    for (index, info) in infos.iter().enumerate() {
        if place < info.tokens.len() {
            return (index, place);
        }
        place -= info.tokens.len();
    }
    (infos.len(), 0)
}

/// Bytes of a chunk's text that its first tokens stand for, where the tokenizer can tell.
fn bytes_of(model: &Model, info: &ChunkInfo, tokens: usize) -> Option<usize> {
    let text = model.tokenizer().decode(info.tokens.get(..tokens)?, false).ok()?;
    info.text.starts_with(&text).then_some(text.len())
}

/// Tokens before a chunk that are left out.
fn skip(side: &[u32], terms: &Terms) -> usize {
    let begins_at = |at: &usize| *at > 0 && side.get(at - 1).is_some_and(|token| terms.ends_sentence(*token));
    if begins_at(&side.len()) {
        return side.len();
    }
    (0..(side.len() + 1).saturating_sub(SIDE_TOKENS_MIN)).rev().find(begins_at).unwrap_or(0)
}

/// Tokens after a chunk that are shown.
fn keep(side: &[u32], terms: &Terms) -> usize {
    let ends_at = |at: &usize| side.get(at - 1).is_some_and(|token| terms.ends_sentence(*token));
    (SIDE_TOKENS_MIN..=side.len()).find(ends_at).unwrap_or(side.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: u32 = 1;

    /// Twenty tokens with stops at these places.
    fn side(stops: &[usize]) -> Vec<u32> {
        (0..20).map(|at| if stops.contains(&at) { STOP } else { 0 }).collect()
    }

    #[test]
    fn sides_are_cut_where_sentences_begin_and_end() {
        let terms = Terms::ending_with(&[STOP]);
        assert_eq!(skip(&side(&[3, 9]), &terms), 10);
        assert_eq!(keep(&side(&[3, 9, 15]), &terms), 10, "a stop soon may belong to an abbreviation");
        assert_eq!(skip(&side(&[3, 17]), &terms), 4);
        assert_eq!(skip(&side(&[19]), &terms), 20, "the chunk begins with a sentence");
        for side in [side(&[]), Vec::new()] {
            assert_eq!((skip(&side, &terms), keep(&side, &terms)), (0, side.len()), "no end is seen");
        }
    }
}
