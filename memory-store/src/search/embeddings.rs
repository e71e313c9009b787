//! Scores of chunks by meaning.
//!
//! In a space of many dimensions some vectors are near to all others; what is like much else in a memory is found for every query. So a part of
//! its likeness to what is most like it is taken off each sentence (CSLS, Conneau and others 2018, section 2.3, with neighbours in a
//! sample of the memory, and only for the best chunks: more would read more vectors than the search itself).

use std::sync::Arc;

use mnemon_memory::{ChunkId, EmbeddingHit, EmbeddingHits, EmbeddingRequest, Invalid, Meaning, keep_best_chunks};
use rayon::prelude::*;

use crate::engine::Engine;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::error::{Error, Result};
use crate::index::embeddings::{ChunkLikeness, EmbeddingIndex};

/// Sentences that stand for all of a memory.
const SAMPLE: usize = 256;
/// Of them, as many of the most like a sentence tell how common it is.
const LIKE: usize = 3;
/// Chunks from whose sentences something is taken off: those that are most like the query.
const CANDIDATES: usize = 64;

/// The chunks of one extent that has vectors.
struct Scored<'a> {
    extent: &'a LiveExtent,
    first_chunk: u64,
    index: Arc<EmbeddingIndex>,
    /// Of those that count.
    likeness: Vec<ChunkLikeness>,
}

/// A sentence of a sample.
struct Sampled {
    extent: usize,
    sentence: usize,
    vector: Vec<f32>,
}

/// See [`Recall::search_embeddings`](crate::Recall::search_embeddings).
pub(crate) fn search<'a>(
    engine: &Engine,
    state: &'a MemoryState,
    request: &EmbeddingRequest<'_>,
) -> Result<EmbeddingHits> {
    request.validate()?;
    let score = |extent: &'a LiveExtent| -> Result<Option<Scored<'a>>> {
        let Some(index) = engine.embeddings(&extent.extent, request.embedder)? else { return Ok(None) };
        if index.dim != request.query.len() {
            let why = format!("a vector of {} values; those of the memory have {}", request.query.len(), index.dim);
            return Err(Error::Invalid(Invalid { what: "search by meaning", why }));
        }
        let likeness = index.scores(request.query, extent.live as usize);
        Ok(Some(Scored { extent, first_chunk: extent.extent.first_chunk, index, likeness }))
    };
    let scored: Vec<Option<Scored<'_>>> = state.extents.par_iter().map(score).collect::<Result<_>>()?;
    let scored: Vec<Scored<'_>> = scored.into_iter().flatten().collect();
    let mut meanings: Vec<Vec<Meaning>> = scored.iter().map(|extent| extent.meanings(request.chunk_weight)).collect();
    if request.common_weight > 0.0 {
        take_off_what_is_common(&scored, &mut meanings, request);
    }
    let of = |chunk: &ChunkId| {
        let at = scored.partition_point(|extent| extent.first_chunk <= chunk.0).checked_sub(1)?;
        meanings[at].get((chunk.0 - scored[at].first_chunk) as usize).copied()
    };
    let also = request.also.iter().map(of).collect();
    let all = scored.iter().zip(&meanings).flat_map(|(extent, meanings)| {
        let shown = meanings.iter().enumerate().filter(|(at, _)| extent.extent.shows(*at));
        shown.map(|(at, meaning)| EmbeddingHit { chunk: ChunkId(extent.first_chunk + at as u64), meaning: *meaning })
    });
    let mut hits: Vec<EmbeddingHit> = all.collect();
    let (embedded, least) = (hits.len() as u64, hits.iter().map(|hit| hit.meaning.score).fold(f32::INFINITY, f32::min));
    keep_best_chunks(&mut hits, request.top_k);
    Ok(EmbeddingHits { hits, also, least: if least.is_finite() { least } else { 0.0 }, embedded })
}

impl Scored<'_> {
    fn meanings(&self, chunk_weight: f32) -> Vec<Meaning> {
        let of = |likeness: &ChunkLikeness| {
            let mean = chunk_weight * likeness.whole + (1.0 - chunk_weight) * likeness.sentence;
            Meaning { score: mean, likeness: mean, sentence: likeness.place }
        };
        self.likeness.iter().map(of).collect()
    }
}

/// Scores the best chunks again by their best sentences, less what these have in common with others. None of the rest comes before them.
fn take_off_what_is_common(scored: &[Scored<'_>], meanings: &mut [Vec<Meaning>], request: &EmbeddingRequest<'_>) {
    let sample = sample(scored);
    let mut best: Vec<(usize, usize, f32)> = meanings
        .iter()
        .enumerate()
        .flat_map(|(at, meanings)| meanings.iter().enumerate().map(move |(chunk, meaning)| (at, chunk, meaning.score)))
        .filter(|(at, chunk, _)| scored[*at].extent.shows(*chunk))
        .collect();
    if best.len() > CANDIDATES {
        best.select_nth_unstable_by(CANDIDATES, |a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        best.truncate(CANDIDATES);
    }
    let again = |&(at, chunk, _): &(usize, usize, f32)| {
        let extent = &scored[at];
        let less_common = |sentence: usize| {
            let like = extent.index.likeness(sentence, request.query);
            let common =
                common(&extent.index, sentence, sample.iter().filter(|of| (of.extent, of.sentence) != (at, sentence)));
            (like - request.common_weight * common, like, sentence)
        };
        let sentences = extent.index.sentences_of(chunk);
        let best = sentences.clone().map(less_common).max_by(|a, b| a.0.total_cmp(&b.0));
        let whole = extent.likeness[chunk].whole;
        let mean = |sentence: f32| request.chunk_weight * whole + (1.0 - request.chunk_weight) * sentence;
        best.map(|(score, like, sentence)| Meaning {
            score: mean(score),
            likeness: mean(like),
            sentence: Some(((sentence - sentences.start) as u32, sentences.len() as u32)),
        })
    };
    let again: Vec<Option<Meaning>> = best.par_iter().map(again).collect();
    let floor = again.iter().flatten().map(|meaning| meaning.score).fold(f32::INFINITY, f32::min);
    for meaning in meanings.iter_mut().flatten() {
        meaning.score = meaning.score.min(floor);
    }
    for ((at, chunk, _), meaning) in best.into_iter().zip(again) {
        if let Some(meaning) = meaning {
            meanings[at][chunk] = meaning;
        }
    }
}

/// Sentences from all over a memory, equally far from each other.
fn sample(scored: &[Scored<'_>]) -> Vec<Sampled> {
    let counts: Vec<usize> =
        scored.iter().map(|extent| extent.index.sentences_of(extent.likeness.len()).start).collect();
    let all: usize = counts.iter().sum();
    let step = all.div_ceil(SAMPLE).max(1);
    let (mut sample, mut next) = (Vec::with_capacity(SAMPLE), 0);
    let mut before = 0;
    for (at, (extent, count)) in scored.iter().zip(counts).enumerate() {
        while next < before + count {
            let sentence = next - before;
            sample.push(Sampled { extent: at, sentence, vector: extent.index.sentence(sentence) });
            next += step;
        }
        before += count;
    }
    sample
}

/// How like a sentence is to those of a sample that are most like it.
fn common<'a>(index: &EmbeddingIndex, sentence: usize, sample: impl Iterator<Item = &'a Sampled>) -> f32 {
    let mut like: Vec<f32> = sample.map(|other| index.likeness(sentence, &other.vector)).collect();
    let count = like.len().min(LIKE);
    if count == 0 {
        return 0.0;
    }
    like.sort_unstable_by(|a, b| b.total_cmp(a));
    like[..count].iter().sum::<f32>() / count as f32
}
