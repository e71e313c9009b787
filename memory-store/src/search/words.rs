//! Scores of chunks.

use std::collections::HashMap;

use mnemon_memory::{ChunkId, KvGeometry, TermHit, WordHits, WordRequest, keep_best_chunks, term_weight};
use rayon::prelude::*;

use crate::engine::Engine;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::error::Result;
use crate::index::words::{Posting, TermKind, WordIndex, analyze};

/// What a term counts.
fn weight(kind: TermKind) -> f64 {
    match kind {
        TermKind::Word => 1.0,
        TermKind::Part => 0.5,
        // Stems alone found more than words, and than both alike (BEAM); this decides between equals.
        TermKind::Inflected => 0.1,
    }
}

/// The distinct terms of a query with what they count.
fn query_terms(query: &str) -> Vec<(u32, f64)> {
    let (mut terms, mut places): (Vec<(u32, f64)>, HashMap<u32, usize>) = Default::default();
    analyze(query, |_, kind, term| {
        let at = *places.entry(term).or_insert_with(|| {
            terms.push((term, 0.0));
            terms.len() - 1
        });
        terms[at].1 = terms[at].1.max(weight(kind));
    });
    terms
}

/// Chunks of an extent that have terms of a query.
struct Found<'a> {
    extent: &'a LiveExtent,
    /// Words of its live chunks.
    words: u64,
    /// Term (an index into the query's) and posting.
    postings: Vec<(u32, Posting, u32)>,
}

fn find<'a>(index: &WordIndex, extent: &'a LiveExtent, terms: &[(u32, f64)]) -> Found<'a> {
    let mut postings = Vec::new();
    for (at, (term, _)) in (0..).zip(terms) {
        let live = index.postings(*term).filter(|posting| extent.shows(posting.chunk as usize));
        postings.extend(live.map(|posting| (at, posting, index.length(posting.chunk))));
    }
    Found { extent, words: index.words(extent.shown()), postings }
}

/// Scores of chunks with a part of those beside them in their documents.
struct Spread<'a> {
    scores: &'a [Vec<f64>],
    /// For each extent the extents, with their chunks, that stand right before and right after it.
    beside: Vec<[Option<(usize, usize)>; 2]>,
    share: f64,
}

impl<'a> Spread<'a> {
    fn new(found: &[Found<'_>], scores: &'a [Vec<f64>], share: f64) -> Self {
        let mut beside = vec![[None; 2]; found.len()];
        if share > 0.0 {
            let start = |at: usize| (found[at].extent.extent.document, found[at].extent.extent.first_ordinal);
            let starts: HashMap<(u64, u64), usize> = (0..found.len()).map(|at| (start(at), at)).collect();
            for (at, Found { extent, .. }) in found.iter().enumerate().filter(|(_, found)| found.extent.live > 0) {
                let (document, first) = start(at);
                if let Some(&next) = starts.get(&(document, first + u64::from(extent.live))) {
                    beside[at][1] = Some((next, 0));
                    beside[next][0] = Some((at, extent.live as usize - 1));
                }
            }
        }
        Self { scores, beside, share }
    }

    /// Of the terms alone.
    fn own(&self, extent: usize, chunk: usize) -> f64 {
        self.scores[extent].get(chunk).copied().unwrap_or(0.0)
    }

    fn score(&self, extent: usize, chunk: usize) -> f64 {
        let own = self.own(extent, chunk);
        if self.share == 0.0 {
            return own;
        }
        let [before, after] = self.beside[extent];
        let before = if chunk > 0 { Some((extent, chunk - 1)) } else { before };
        // Past the live chunks of an extent the next one goes on.
        let is_last = after.is_some_and(|(next, _)| self.beside[next][0] == Some((extent, chunk)));
        let after = if is_last { after } else { Some((extent, chunk + 1)) };
        let beside = [before, after].into_iter().flatten().map(|(extent, chunk)| self.own(extent, chunk));
        own + self.share * beside.sum::<f64>()
    }
}

/// See [`Recall::search_words`](crate::Recall::search_words).
pub(crate) fn search(
    engine: &Engine,
    geometry: &KvGeometry,
    state: &MemoryState,
    request: &WordRequest<'_>,
) -> Result<WordHits> {
    request.validate()?;
    let terms = query_terms(request.query);
    if terms.is_empty() || state.totals.chunks == 0 {
        return Ok(WordHits::default());
    }
    let look = |extent| engine.words(geometry, extent);
    let found = state.extents.par_iter().map(|extent| Ok(find(&*look(&extent.extent)?, extent, &terms)));
    let found = found.collect::<Result<Vec<Found<'_>>>>()?;
    let mut chunks_with = vec![0_u64; terms.len()];
    for (term, ..) in found.iter().flat_map(|found| &found.postings) {
        chunks_with[*term as usize] += 1;
    }
    let all = state.totals.chunks;
    let weights: Vec<f64> =
        chunks_with.iter().zip(&terms).map(|(with, (_, weight))| weight * term_weight(all, *with)).collect();
    // Above zero wherever a term is found.
    let mean = found.iter().map(|found| found.words).sum::<u64>() as f64 / all as f64;
    let (k1, b) = (f64::from(request.k1), f64::from(request.b));
    let score = |Found { extent, postings, .. }: &Found<'_>| {
        let mut scores = vec![0.0_f64; if postings.is_empty() { 0 } else { extent.live as usize }];
        for (term, Posting { chunk, count }, words) in postings {
            let (count, length) = (f64::from(*count), 1.0 - b + b * f64::from(*words) / mean);
            scores[*chunk as usize] += weights[*term as usize] * count * (k1 + 1.0) / (count + k1 * length);
        }
        scores
    };
    let scores: Vec<Vec<f64>> = found.iter().map(score).collect();
    let spread = Spread::new(&found, &scores, f64::from(request.neighbours));
    let mut hits = Vec::new();
    for (at, Found { extent, .. }) in found.iter().enumerate() {
        let scored = extent.shown().map(|chunk| (chunk, spread.score(at, chunk)));
        let scored = scored.filter(|(_, score)| *score > 0.0);
        let first = extent.extent.first_chunk;
        hits.extend(scored.map(|(chunk, score)| TermHit { chunk: ChunkId(first + chunk as u64), score: score as f32 }));
    }
    keep_best_chunks(&mut hits, request.top_k);
    let matched = hits.first().map_or(0.0, |best| {
        let at = found.partition_point(|found| found.extent.extent.first_chunk <= best.chunk.0).saturating_sub(1);
        let chunk = (best.chunk.0 - found[at].extent.extent.first_chunk) as u32;
        let postings = found[at].postings.iter().filter(|(_, posting, _)| posting.chunk == chunk);
        postings.map(|(term, ..)| weights[*term as usize]).sum()
    });
    Ok(WordHits { hits, whole: weights.iter().sum::<f64>() as f32, matched: matched as f32 })
}
