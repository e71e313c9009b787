//! Scores of chunks.

use std::collections::HashMap;

use rayon::prelude::*;

use super::postings::{Posting, WordIndex};
use super::{TermKind, analyze};
use crate::core::Core;
use crate::recall::term_weight;
use crate::state::{LiveExtent, MemoryState};
use crate::union::best_terms_first;
use crate::{ChunkId, KvGeometry, Result, TermHit, WordHits, WordRequest};

/// How fast further occurrences of a term in a chunk count less, and how much long chunks are held back.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// What a term counts, where a word as it was written counts 1.
fn weight(kind: TermKind) -> f64 {
    match kind {
        TermKind::Word => 1.0,
        TermKind::Part | TermKind::Stem => 0.5,
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
        let live = index.postings(*term).take_while(|posting| posting.chunk < extent.live);
        postings.extend(live.map(|posting| (at, posting, index.length(posting.chunk))));
    }
    Found { extent, words: index.words(extent.live), postings }
}

/// See [`Recall::search_words`](crate::Recall::search_words).
pub(crate) fn search(
    core: &Core,
    geometry: &KvGeometry,
    state: &MemoryState,
    request: &WordRequest<'_>,
) -> Result<WordHits> {
    request.validate()?;
    let terms = query_terms(request.query);
    if terms.is_empty() || state.totals.chunks == 0 {
        return Ok(WordHits::default());
    }
    let look = |extent| core.words(geometry, extent);
    let found = state.extents.par_iter().map(|extent| Ok(find(&*look(&extent.extent)?, extent, &terms)));
    let found = found.collect::<Result<Vec<Found<'_>>>>()?;
    let mut chunks_with = vec![0_u64; terms.len()];
    for (term, ..) in found.iter().flat_map(|found| &found.postings) {
        chunks_with[*term as usize] += 1;
    }
    let all = state.totals.chunks;
    let weights: Vec<f64> =
        chunks_with.iter().zip(&terms).map(|(with, (_, weight))| weight * term_weight(all, *with)).collect();
    let mean = (found.iter().map(|found| found.words).sum::<u64>() as f64 / all as f64).max(1.0);
    let mut hits = Vec::new();
    let mut scores = Vec::new();
    for Found { extent, postings, .. } in found.iter().filter(|found| !found.postings.is_empty()) {
        scores.clear();
        scores.resize(extent.live as usize, 0.0_f64);
        for (term, Posting { chunk, count }, words) in postings {
            let (count, length) = (f64::from(*count), 1.0 - B + B * f64::from(*words) / mean);
            scores[*chunk as usize] += weights[*term as usize] * count * (K1 + 1.0) / (count + K1 * length);
        }
        let scored = (extent.extent.first_chunk..).zip(&scores).filter(|(_, score)| **score > 0.0);
        hits.extend(scored.map(|(chunk, score)| TermHit { chunk: ChunkId(chunk), score: *score as f32 }));
    }
    if hits.len() > request.top_k {
        hits.select_nth_unstable_by(request.top_k, best_terms_first);
        hits.truncate(request.top_k);
    }
    hits.sort_unstable_by(best_terms_first);
    Ok(WordHits { hits, whole: weights.iter().sum::<f64>() as f32 })
}
