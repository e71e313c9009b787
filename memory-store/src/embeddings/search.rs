//! Scores of chunks by meaning.

use rayon::prelude::*;

use crate::core::Core;
use crate::state::{LiveExtent, MemoryState};
use crate::union::keep_best_terms;
use crate::{ChunkId, EmbeddingHits, EmbeddingRequest, Error, Result, TermHit};

/// See [`Recall::search_embeddings`](crate::Recall::search_embeddings).
pub(crate) fn search(core: &Core, state: &MemoryState, request: &EmbeddingRequest<'_>) -> Result<EmbeddingHits> {
    request.validate()?;
    let score = |extent: &LiveExtent| -> Result<Vec<f32>> {
        let Some(index) = core.embeddings(&extent.extent, request.embedder)? else { return Ok(Vec::new()) };
        if index.dim != request.query.len() {
            let why = format!("a vector of {} values; those of the memory have {}", request.query.len(), index.dim);
            return Err(Error::Invalid { what: "search by meaning", why });
        }
        Ok(index.scores(request.query, request.chunk_weight, extent.live as usize))
    };
    let scores = state.extents.par_iter().map(score).collect::<Result<Vec<Vec<f32>>>>()?;
    let of = |chunk: &ChunkId| {
        let after = state.extents.partition_point(|extent| extent.extent.first_chunk <= chunk.0);
        let at = after.checked_sub(1)?;
        scores[at].get((chunk.0 - state.extents[at].extent.first_chunk) as usize).copied()
    };
    let also = request.also.iter().map(of).collect();
    let all = state.extents.iter().zip(&scores).flat_map(|(extent, scores)| {
        let first = extent.extent.first_chunk;
        (first..).zip(scores).map(|(chunk, score)| TermHit { chunk: ChunkId(chunk), score: *score })
    });
    let mut hits: Vec<TermHit> = all.collect();
    let (embedded, least) = (hits.len() as u64, hits.iter().map(|hit| hit.score).fold(f32::INFINITY, f32::min));
    keep_best_terms(&mut hits, request.top_k);
    Ok(EmbeddingHits { hits, also, least: if least.is_finite() { least } else { 0.0 }, embedded })
}
