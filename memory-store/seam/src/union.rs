//! Several memories searched as one.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::chunk::{ChunkId, ChunkInfo, ChunkKv};
use crate::error::{Error, Result};
use crate::geometry::KvGeometry;
use crate::invalid::Invalid;
use crate::recall::Recall;
use crate::request::{
    EmbeddingHit, EmbeddingHits, EmbeddingRequest, Hit, SearchRequest, TermHit, TermHits, TermRequest, WordHits,
    WordRequest,
};

/// Several views as one, whose geometries are equal but for the layers that they keep: where those differ, keys and values of none are
/// handed out. Chunk ids are unique in a store, so they tell the members apart; members
/// must come from the same store.
#[derive(Clone)]
pub struct UnionRecall {
    members: Vec<Arc<dyn Recall>>,
    geometry: KvGeometry,
}

impl UnionRecall {
    /// Refuses no member, and members whose geometries differ in more than the layers.
    pub fn new(members: Vec<Arc<dyn Recall>>) -> Result<Self> {
        let invalid = |why: &str| Error::Invalid(Invalid { what: "memories to recall from", why: why.into() });
        let first = members.first().ok_or_else(|| invalid("at least one is needed"))?;
        let without_layers = |member: &Arc<dyn Recall>| KvGeometry { layers: Vec::new(), ..member.geometry().clone() };
        let geometry = if members.iter().all(|member| member.geometry() == first.geometry()) {
            first.geometry().clone()
        } else if members.iter().all(|member| without_layers(member) == without_layers(first)) {
            without_layers(first)
        } else {
            return Err(invalid("all must have the same geometry"));
        };
        Ok(Self { members, geometry })
    }

    /// Asks each member for each chunk until one has it.
    fn ask<T>(&self, chunks: &[ChunkId], ask: impl Fn(&dyn Recall, &[ChunkId]) -> Result<Vec<T>>) -> Result<Vec<T>> {
        let mut answers = Vec::with_capacity(chunks.len());
        'chunks: for chunk in chunks {
            for member in &self.members {
                match ask(member.as_ref(), std::slice::from_ref(chunk)) {
                    Err(Error::UnknownChunk { .. }) => {}
                    other => {
                        answers.append(&mut other?);
                        continue 'chunks;
                    }
                }
            }
            return Err(Error::UnknownChunk { chunk: chunk.0 });
        }
        Ok(answers)
    }
}

/// Descending score; equal scores by chunk and position, so that answers do not depend on the order of members.
pub fn best_first(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then_with(|| (a.chunk, a.start).cmp(&(b.chunk, b.start)))
}

/// A chunk with what it is ranked by.
pub trait ChunkHit {
    /// The chunk.
    fn chunk(&self) -> ChunkId;
    /// What it is ranked by.
    fn score(&self) -> f32;
}

impl ChunkHit for TermHit {
    fn chunk(&self) -> ChunkId {
        self.chunk
    }

    fn score(&self) -> f32 {
        self.score
    }
}

impl ChunkHit for EmbeddingHit {
    fn chunk(&self) -> ChunkId {
        self.chunk
    }

    fn score(&self) -> f32 {
        self.meaning.score
    }
}

/// Likewise for chunks.
fn best_chunks_first<T: ChunkHit>(a: &T, b: &T) -> Ordering {
    b.score().total_cmp(&a.score()).then_with(|| a.chunk().cmp(&b.chunk()))
}

/// Keeps the best `top_k` chunks, best first.
pub fn keep_best_chunks<T: ChunkHit>(hits: &mut Vec<T>, top_k: usize) {
    if hits.len() > top_k {
        hits.select_nth_unstable_by(top_k, best_chunks_first);
        hits.truncate(top_k);
    }
    hits.sort_unstable_by(best_chunks_first);
}

/// The same over the hits of several memories, of which one may be a member twice.
fn merge_best_chunks<T: ChunkHit>(hits: &mut Vec<T>, top_k: usize) {
    hits.sort_unstable_by(best_chunks_first);
    hits.dedup_by_key(|hit| hit.chunk());
    hits.truncate(top_k);
}

impl Recall for UnionRecall {
    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        let mut merged = self.members[0].search(request)?;
        for member in &self.members[1..] {
            for (best, more) in merged.iter_mut().zip(member.search(request)?) {
                best.extend(more);
            }
        }
        for best in &mut merged {
            best.sort_unstable_by(best_first);
            // The same memory may be a member twice.
            best.dedup_by_key(|hit| (hit.chunk, hit.start, hit.len));
            best.truncate(request.top_k);
        }
        Ok(merged)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        self.ask(chunks, |member, chunks| member.fetch(slot, chunks))
    }

    fn fetch_layers(&self, chunks: &[ChunkId]) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        let mut layers = vec![Vec::with_capacity(chunks.len()); self.geometry().layers.len()];
        for of_chunk in self.ask(chunks, |member, chunks| member.fetch_layers(chunks).map(|layers| vec![layers]))? {
            for (layer, kv) in layers.iter_mut().zip(of_chunk) {
                layer.extend(kv);
            }
        }
        Ok(layers)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        self.ask(chunks, |member, chunks| member.neighbours(chunks, before, after))
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        let mut merged = TermHits { hits: Vec::new(), chunks_with: vec![0; request.terms.len()] };
        for member in &self.members {
            let found = member.search_terms(request)?;
            merged.hits.extend(found.hits);
            merged.chunks_with.truncate(found.chunks_with.len());
            let sums = merged.chunks_with.iter_mut().zip(found.chunks_with);
            sums.for_each(|(all, with)| *all = all.saturating_add(with));
        }
        merge_best_chunks(&mut merged.hits, request.top_k);
        Ok(merged)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits> {
        let mut merged = WordHits::default();
        for member in &self.members {
            let found = member.search_words(request)?;
            merged.hits.extend(found.hits);
            merged.whole = merged.whole.max(found.whole);
            merged.matched = merged.matched.max(found.matched);
        }
        merge_best_chunks(&mut merged.hits, request.top_k);
        Ok(merged)
    }

    fn search_embeddings(&self, request: &EmbeddingRequest<'_>) -> Result<EmbeddingHits> {
        let mut merged = EmbeddingHits { also: vec![None; request.also.len()], ..EmbeddingHits::default() };
        for member in &self.members {
            let found = member.search_embeddings(request)?;
            if found.embedded > 0 {
                merged.least = if merged.embedded > 0 { merged.least.min(found.least) } else { found.least };
            }
            merged.embedded += found.embedded;
            merged.hits.extend(found.hits);
            for (known, found) in merged.also.iter_mut().zip(found.also) {
                *known = known.or(found);
            }
        }
        merge_best_chunks(&mut merged.hits, request.top_k);
        Ok(merged)
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        self.ask(chunks, |member, chunks| member.describe(chunks))
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        let mut all = Vec::new();
        for member in &self.members {
            all.extend(member.chunks(limit - all.len())?);
        }
        Ok(all)
    }

    fn len(&self) -> u64 {
        self.members.iter().map(|member| member.len()).sum()
    }
}
