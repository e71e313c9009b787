//! Search by terms: the token ids of all live chunks are scanned, and chunks scored by BM25 (Robertson and Zaragoza 2009,
//! section 3.2).
//!
//! One pass counts how often each term occurs in each chunk, and so in how many chunks it occurs at all; the scores
//! follow from that. There is no inverted index to keep: a token id costs about a nanosecond.

use std::collections::HashMap;

use mnemon_memory::{ChunkId, KvGeometry, TermHit, TermHits, TermRequest, keep_best_chunks, term_weight};
use rayon::prelude::*;

use crate::engine::Engine;
use crate::engine::state::{LiveExtent, MemoryState};
use crate::error::Result;

/// Which terms a token belongs to.
struct Terms {
    /// A bit for each residue of a token id that some term has: nearly all tokens are told apart by it.
    filter: Vec<u64>,
    of_token: HashMap<u32, Vec<u32>>,
    count: usize,
}

const FILTER_BITS: usize = 1 << 16;

impl Terms {
    fn new(terms: &[Vec<u32>]) -> Self {
        let mut filter = vec![0; FILTER_BITS / 64];
        let mut of_token: HashMap<u32, Vec<u32>> = HashMap::new();
        for (term, tokens) in terms.iter().enumerate() {
            for token in tokens {
                let bit = *token as usize % FILTER_BITS;
                filter[bit / 64] |= 1 << (bit % 64);
                let terms = of_token.entry(*token).or_default();
                // A token that a term names twice counts once.
                if terms.last() != Some(&(term as u32)) {
                    terms.push(term as u32);
                }
            }
        }
        Self { filter, of_token, count: terms.len() }
    }

    fn of(&self, token: u32) -> &[u32] {
        let bit = token as usize % FILTER_BITS;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return &[];
        }
        self.of_token.get(&token).map_or(&[], Vec::as_slice)
    }
}

/// Chunks in which terms occur.
#[derive(Default)]
struct Found {
    /// Chunk, its tokens, and where its counts end.
    chunks: Vec<(ChunkId, u32, usize)>,
    /// Terms that occur in a chunk, ascending, and how often.
    counts: Vec<(u32, u32)>,
}

/// See [`Recall::search_terms`](crate::Recall::search_terms).
pub(crate) fn search(
    engine: &Engine,
    geometry: &KvGeometry,
    state: &MemoryState,
    request: &TermRequest<'_>,
) -> Result<TermHits> {
    request.validate()?;
    let terms = Terms::new(request.terms);
    if terms.of_token.is_empty() || state.totals.chunks == 0 {
        return Ok(TermHits { hits: Vec::new(), chunks_with: vec![0; terms.count] });
    }
    let found = state.extents.par_iter().map(|extent| scan(engine, geometry, extent, &terms));
    let found = found.collect::<Result<Vec<Found>>>()?;
    let mut chunks_with = vec![0_u64; terms.count];
    for (term, _) in found.iter().flat_map(|found| &found.counts) {
        chunks_with[*term as usize] += 1;
    }
    let all = state.totals.chunks as f64;
    let weights: Vec<f64> = chunks_with.iter().map(|&with| term_weight(state.totals.chunks, with)).collect();
    let (k1, b) = (f64::from(request.k1), f64::from(request.b));
    let mean_tokens = state.totals.tokens as f64 / all;
    let score = |tokens: u32, counts: &[(u32, u32)]| {
        let length = k1 * (1.0 - b + b * f64::from(tokens) / mean_tokens);
        let of_term = |(term, count): &(u32, u32)| {
            let count = f64::from(*count);
            weights[*term as usize] * count * (k1 + 1.0) / (count + length)
        };
        counts.iter().map(of_term).sum::<f64>() as f32
    };
    let mut hits = Vec::new();
    for found in &found {
        let mut from = 0;
        for (chunk, tokens, to) in &found.chunks {
            hits.push(TermHit { chunk: *chunk, score: score(*tokens, &found.counts[from..*to]) });
            from = *to;
        }
    }
    keep_best_chunks(&mut hits, request.top_k);
    Ok(TermHits { hits, chunks_with })
}

/// Counts terms in the live chunks of an extent.
fn scan(engine: &Engine, geometry: &KvGeometry, live: &LiveExtent, terms: &Terms) -> Result<Found> {
    let extent = &live.extent;
    let tokens = engine.tokens(geometry, extent)?;
    let mut found = Found::default();
    // Of the chunk at hand.
    let (mut counts, mut seen) = (vec![0_u32; terms.count], Vec::new());
    for index in live.shown() {
        let places = &extent.places[index..=index + 1];
        let Some(tokens) = tokens.get(places[0].tokens as usize..places[1].tokens as usize) else { continue };
        for term in tokens.iter().flat_map(|token| terms.of(*token)) {
            if counts[*term as usize] == 0 {
                seen.push(*term);
            }
            counts[*term as usize] += 1;
        }
        if seen.is_empty() {
            continue;
        }
        seen.sort_unstable();
        for term in seen.drain(..) {
            found.counts.push((term, std::mem::take(&mut counts[term as usize])));
        }
        found.chunks.push((ChunkId(extent.first_chunk + index as u64), tokens.len() as u32, found.counts.len()));
    }
    Ok(found)
}
