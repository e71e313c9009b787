//! What of a passage's neighbours is shown: what completes the first and the last sentence of the chunks that were found. Chunks end
//! anywhere; whole neighbours are mostly about something else, which small models mistake for the answer.

use std::ops::Range;

use mnemon_memory_store::{ChunkInfo, Recall};

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
    for passage in passages {
        let is_core = |chunk| passage.core.contains(&chunk);
        let Some(first) = passage.chunks.iter().position(|chunk| is_core(*chunk)) else { continue };
        let Some(last) = passage.chunks.iter().rposition(|chunk| is_core(*chunk)) else { continue };
        if passage.chunks.len() == last + 1 - first {
            continue;
        }
        let infos = recall.describe(&passage.chunks)?;
        let (Some(before), Some(core), Some(after)) =
            (infos.get(..first), infos.get(first..=last), infos.get(last + 1..))
        else {
            continue;
        };
        let ends_within = |core: Option<&ChunkInfo>| {
            core.and_then(|info| info.tokens.last()).is_some_and(|token| !model.terms().ends_sentence(*token))
        };
        let skipped = skip(&tokens(before), model.terms());
        let kept = if ends_within(core.last()) { keep(&tokens(after), model.terms()) } else { 0 };
        let (left, start) = locate(before, skipped);
        let (right, within) = locate(after, kept);
        // A chunk of which nothing is shown is not part of the passage.
        let until = last + 1 + right + usize::from(within > 0);
        passage.start = after_tokens(model, before.get(left), start);
        passage.end = match after.get(right).filter(|_| within > 0) {
            Some(info) => Cut {
                tokens: info.tokens.len() - within,
                bytes: info.text.len() - bytes_of(model, info, 0..within).unwrap_or(info.text.len()),
            },
            None => Cut::default(),
        };
        passage.chunks.truncate(until);
        passage.chunks.drain(..left);
    }
    Ok(())
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

fn after_tokens(model: &Model, info: Option<&ChunkInfo>, tokens: usize) -> Cut {
    let bytes = info.and_then(|info| bytes_of(model, info, 0..tokens)).unwrap_or(0);
    Cut { tokens, bytes }
}

/// Bytes of a chunk's text that its first tokens stand for, where the tokenizer can tell.
fn bytes_of(model: &Model, info: &ChunkInfo, tokens: Range<usize>) -> Option<usize> {
    let text = model.tokenizer().decode(info.tokens.get(tokens)?, false).ok()?;
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
