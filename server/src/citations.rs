//! Which chunks an answer drew on: what was recalled, how much attention it got, and what it says.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, ChunkSelection, EmbeddingHits, EmbeddingRequest, Hit, KvGeometry, Recall, Result,
    SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};
use mnemon_proto::v1;
use mnemon_runtime::{MemoryFrom, PassageOptions, PassagesFrom, RecallOptions, Select};
use tonic::Status;

use crate::auth::Tenant;
use crate::filter::DocumentFilter;
use crate::state::ModelState;
use crate::{convert, tasks};

/// The memories of one request, as they are when it begins, and what was recalled from them.
pub(crate) struct Recalled {
    inner: Arc<dyn Recall>,
    /// Chunks used so far; bounded by what the request may recall.
    used: Mutex<HashSet<ChunkId>>,
}

impl Recalled {
    /// Opens the documents of `memories` of `tenant` that `filter` keeps, refusing memories of another model. `None` when there is
    /// nothing to recall from.
    pub(crate) async fn open(
        state: &Arc<ModelState>,
        tenant: Tenant,
        memories: Vec<String>,
        filter: Option<v1::DocumentFilter>,
    ) -> Result<Option<Arc<Self>>, Status> {
        if memories.is_empty() {
            return Ok(None);
        }
        let (app, model) = (Arc::clone(&state.app), Arc::clone(&state.model));
        tasks::store(&state.app, move || {
            let mut names: Vec<String> = Vec::with_capacity(memories.len());
            for name in memories {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            let filter = DocumentFilter::of_request(filter);
            let inner = app.memories.view(tenant.name(), &names, filter.as_ref(), &model)?;
            Ok::<_, mnemon_memory::Error>(Some(Arc::new(Self { inner, used: Mutex::default() })))
        })
        .await
    }

    /// Opens what `options` ask for, unless recall is off.
    pub(crate) async fn from_options(
        state: &Arc<ModelState>,
        tenant: Tenant,
        options: &v1::MemoryOptions,
    ) -> Result<Option<Arc<Self>>, Status> {
        let memories = if options.recall_off { Vec::new() } else { options.memories.clone() };
        Self::open(state, tenant, memories, options.filter.clone()).await
    }

    /// For the runtime: passages for a pretrained model with a profile, memory layers for others.
    pub(crate) fn memory_from(self: &Arc<Self>, state: &ModelState, options: &v1::MemoryOptions) -> MemoryFrom {
        let recall: Arc<dyn Recall> = Arc::clone(self) as _;
        let ef = options.ef_search.map(|ef| ef as usize);
        if let Some(profile) = state.model.profile() {
            let options = PassageOptions {
                mode: convert::recall_mode(options.mode()),
                passages: options.passages.map(|passages| passages as usize),
                // Who says how many wants them.
                always: options.passages.is_some(),
                neighbours: options.neighbours.map(|neighbours| neighbours as usize),
                exact: options.exact,
                ef,
                ..PassageOptions::default()
            };
            let (profile, select) = (Arc::clone(profile), Select::Heads);
            return MemoryFrom::Passages(PassagesFrom { recall, profile, options, select });
        }
        let defaults = RecallOptions::for_model(&state.model);
        let top_k_chunks = options.top_k_chunks.map_or(defaults.top_k_chunks, |k| k as usize);
        let entries_per_query = defaults.entries_per_query.max(top_k_chunks);
        let options = RecallOptions { top_k_chunks, entries_per_query, exact: options.exact, ef, ..defaults };
        MemoryFrom::Layers((recall, options))
    }

    /// Counts chunks that the model uses.
    pub(crate) fn note(&self, chunks: impl IntoIterator<Item = ChunkId>) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(chunks);
    }

    /// Chunks recalled so far, counted once each.
    pub(crate) fn count(&self) -> usize {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Recall for Recalled {
    fn geometry(&self) -> &KvGeometry {
        self.inner.geometry()
    }

    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        self.inner.search(request)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        self.note(chunks.iter().copied());
        self.inner.fetch(slot, chunks)
    }

    fn fetch_layers(&self, chunks: &[ChunkId]) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        self.note(chunks.iter().copied());
        self.inner.fetch_layers(chunks)
    }

    fn recall(
        &self,
        slot: usize,
        request: &SearchRequest<'_>,
        selection: &ChunkSelection<'_>,
    ) -> Result<Vec<Vec<Arc<ChunkKv>>>> {
        let recalled = self.inner.recall(slot, request, selection)?;
        self.note(recalled.iter().flatten().map(|chunk| chunk.id));
        Ok(recalled)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        self.inner.neighbours(chunks, before, after)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        self.inner.search_terms(request)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> Result<WordHits> {
        self.inner.search_words(request)
    }

    fn search_embeddings(&self, request: &EmbeddingRequest<'_>) -> Result<EmbeddingHits> {
        self.inner.search_embeddings(request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        self.inner.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        self.inner.chunks(limit)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

/// Texts of `chunks`, in their order, as the contract shows them.
pub(crate) async fn describe(
    state: &Arc<ModelState>,
    recalled: &Arc<Recalled>,
    chunks: Vec<ChunkId>,
) -> Result<Vec<v1::Chunk>, Status> {
    if chunks.is_empty() {
        return Ok(Vec::new());
    }
    let recalled = Arc::clone(recalled);
    let infos = tasks::store(&state.app, move || recalled.describe(&chunks)).await?;
    Ok(infos.into_iter().map(convert::chunk).collect())
}

/// Attention paid to chunks, added up over tokens.
#[derive(Debug, Default)]
pub(crate) struct Masses {
    total: HashMap<ChunkId, f64>,
    tokens: usize,
}

impl Masses {
    /// Adds those of one token.
    pub(crate) fn add(&mut self, masses: &[(ChunkId, f32)]) {
        self.tokens += 1;
        for &(chunk, mass) in masses {
            *self.total.entry(chunk).or_default() += f64::from(mass);
        }
    }

    /// The `most` heaviest chunks with their mean weight over tokens, descending; equal ones by identifier.
    pub(crate) fn heaviest(&self, most: usize) -> Vec<(ChunkId, f32)> {
        let tokens = self.tokens.max(1) as f64;
        let mut heaviest: Vec<_> = self
            .total
            .iter()
            .filter(|(_, mass)| **mass > 0.0)
            .map(|(chunk, mass)| (*chunk, (mass / tokens) as f32))
            .collect();
        heaviest.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        heaviest.truncate(most);
        heaviest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_means_over_tokens() {
        let (a, b, c) = (ChunkId(1), ChunkId(2), ChunkId(3));
        let mut masses = Masses::default();
        assert!(masses.heaviest(8).is_empty());
        masses.add(&[(a, 0.5), (b, 0.25)]);
        masses.add(&[(b, 0.25), (c, 0.0)]);
        assert_eq!(masses.heaviest(8), [(a, 0.25), (b, 0.25)]);
        assert_eq!(masses.heaviest(1), [(a, 0.25)]);
    }
}
