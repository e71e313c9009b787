//! Chunks that stand side by side become one passage.

use std::collections::HashMap;
use std::ops::Range;

use mnemon_memory::{ChunkId, Recall};

use super::fusion::Scores;
use crate::embedder::sentences_in;
use crate::error::Result;

/// Chunks of a passage at most.
const CHUNKS_MAX: usize = 2;

/// Text that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// Its chunks, one or two, in the order of their document.
    pub chunks: Vec<ChunkId>,
    /// How well it answers, compared with the others of the same search: 1 if its best chunk is the best in everything.
    pub score: f32,
    /// BM25 of its best chunk with a quarter of those of the chunks beside it, where 1 is a chunk of mean length that has each word of the
    /// query once; `None` where words were not searched, or it has none of them.
    pub words: Option<f32>,
    /// Likeness of its best chunk's keys, at most 1; `None` where keys were not compared.
    pub keys: Option<f32>,
    /// Likeness of its best chunk's sentence embeddings, at most 1; `None` where they were not compared, or it has none.
    pub meaning: Option<f32>,
    /// Of its best chunk, the sentence that is most like the query, as its place among those that stand there, and how many they are; `None` where
    /// embeddings were not compared.
    pub(crate) sentence: Option<(ChunkId, u32, u32)>,
}

impl Passage {
    /// Where the sentence stands that is most like the query: a chunk, and how far in its text the middle of that sentence is, 0 to 1. `None` as for
    /// [`sentence`](Self::sentence).
    ///
    /// # Errors
    /// Those of the view.
    pub fn place(&self, recall: &dyn Recall) -> Result<Option<(ChunkId, f32)>> {
        let sentence = self.sentence(recall)?;
        Ok(sentence.map(|(chunk, range, len)| (chunk, (range.start + range.end) as f32 / (2 * len) as f32)))
    }

    /// The sentence that is most like the query: a chunk, the bytes of its text, and how many that text has. `None` where embeddings were not
    /// compared, or its sentences are others now that they were embedded with more text around them.
    ///
    /// # Errors
    /// Those of the view.
    pub fn sentence(&self, recall: &dyn Recall) -> Result<Option<(ChunkId, Range<usize>, usize)>> {
        let Some((chunk, place, count)) = self.sentence else { return Ok(None) };
        let around = recall.neighbours(&[chunk], 1, 1)?.concat();
        let texts: Vec<String> = recall.describe(&around)?.into_iter().map(|info| info.text).collect();
        let Some(at) = around.iter().position(|other| *other == chunk) else { return Ok(None) };
        let inside = sentences_in(&texts, at);
        let len = texts[at].len();
        let sentence = inside.get(place as usize).filter(|_| inside.len() == count as usize && len > 0);
        Ok(sentence.map(|range| (chunk, range.clone(), len)))
    }
}

/// The first `k` passages of ranked chunks. A chunk right beside one of a passage joins it; one beside a passage that is full is left
/// out, so that `k` passages stand in `k` places. No more than `per_document` passages are of one document.
pub(super) fn join(
    recall: &dyn Recall,
    ranked: &[(ChunkId, f32)],
    scores: &HashMap<ChunkId, Scores>,
    k: usize,
    per_document: Option<usize>,
) -> Result<Vec<Passage>> {
    let ids: Vec<ChunkId> = ranked.iter().map(|(chunk, _)| *chunk).collect();
    let around = recall.neighbours(&ids, 1, 1)?;
    let mut passages: Vec<Passage> = Vec::with_capacity(k);
    let mut of_chunk: HashMap<ChunkId, usize> = HashMap::new();
    let mut of_document: HashMap<(String, u64), usize> = HashMap::new();
    for ((chunk, score), around) in ranked.iter().zip(around) {
        let at = around.iter().position(|other| other == chunk).unwrap_or(0);
        let beside = around.iter().enumerate().filter(|(other, _)| *other != at);
        let mut joined = beside.filter_map(|(other, chunk)| Some((other < at, *of_chunk.get(chunk)?)));
        if let Some((is_after, passage)) = joined.next() {
            let chunks = &mut passages[passage].chunks;
            if chunks.len() < CHUNKS_MAX {
                chunks.insert(if is_after { chunks.len() } else { 0 }, *chunk);
                of_chunk.insert(*chunk, passage);
            }
            continue;
        }
        if passages.len() == k {
            break;
        }
        if let Some(most) = per_document
            && let Some(info) = recall.describe(&[*chunk])?.pop()
        {
            let passages = of_document.entry((info.memory, info.document)).or_default();
            if *passages == most {
                continue;
            }
            *passages += 1;
        }
        of_chunk.insert(*chunk, passages.len());
        let Scores { words, keys, meaning } = scores.get(chunk).copied().unwrap_or_default();
        let sentence = meaning.and_then(|meaning| meaning.sentence).map(|(place, count)| (*chunk, place, count));
        let meaning = meaning.map(|meaning| meaning.likeness);
        passages.push(Passage { chunks: vec![*chunk], score: *score, words, keys, meaning, sentence });
    }
    Ok(passages)
}
