//! Keys that a model stored and queries that it asked: what an index has to find, and for whom.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mnemon_encoder::{DocumentEncoder, EncodeOptions};
use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvGeometry, Recall, SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};
use mnemon_memory_store::{Memory, MemorySpec, Snapshot, Store};
use mnemon_runtime::{MemoryFrom, Model, RecallOptions, ScoreStep, Scoring};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Rows of `dim` values.
pub(crate) struct Vectors {
    pub(crate) dim: usize,
    /// `[n, dim]`.
    pub(crate) keys: Vec<f32>,
    /// `[n_queries, dim]`.
    pub(crate) queries: Vec<f32>,
}

/// A text in two parts: what is ingested, and the end that is read as queries.
pub(crate) fn split(path: &Path, held_out_bytes: usize) -> Result<(String, String)> {
    let mut past = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut border = past.len().saturating_sub(held_out_bytes);
    while !past.is_char_boundary(border) {
        border -= 1;
    }
    let held_out = past.split_off(border);
    if past.is_empty() || held_out.is_empty() {
        bail!("{} holds {} bytes: too few to hold out {held_out_bytes}", path.display(), past.len() + held_out.len());
    }
    Ok((past, held_out))
}

/// Reads a text into a new memory; returns the time that it took.
pub(crate) fn ingest(store: &Store, model: &Arc<Model>, text: &str) -> Result<(Memory, Duration)> {
    let spec = MemorySpec {
        fingerprint: model.fingerprint(),
        geometry: model.geometry().clone(),
        model_name: model.name().to_owned(),
        description: String::new(),
    };
    let memory = store.create_memory("bench", "text", spec)?;
    let start = Instant::now();
    let options = EncodeOptions::for_geometry(model.geometry());
    let mut encoder =
        DocumentEncoder::create(Arc::clone(model), Arc::new(memory.clone()), "text", BTreeMap::new(), options)?;
    for piece in text.as_bytes().chunks(1 << 16) {
        encoder.push(piece)?;
        while encoder.step()?.is_some() {}
    }
    let tokens = encoder.finish()?.durable_tokens;
    eprintln!("{tokens} tokens read in {:.1} s", start.elapsed().as_secs_f64());
    Ok((memory, start.elapsed()))
}

/// The keys of the first memory layer and head, in the order of the text, and the queries of the heads that search them
/// while the model reads `held_out`.
pub(crate) fn real(model: &Arc<Model>, memory: &Memory, held_out: &str) -> Result<Vectors> {
    let snapshot = memory.snapshot()?;
    let geometry = snapshot.geometry().clone();
    let (heads, dim) = (geometry.kv_heads as usize, geometry.head_dim as usize);
    let mut keys = Vec::new();
    let chunks = snapshot.chunks(usize::MAX)?;
    for chunks in chunks.chunks(1024) {
        for kv in snapshot.fetch(0, chunks)? {
            keys.extend_from_slice(&kv.keys.to_f32()[..kv.len * dim]);
        }
    }
    let recording = Arc::new(Recording { inner: snapshot, queries: Mutex::default() });
    let recall: Arc<dyn Recall> = Arc::clone(&recording) as _;
    let options = RecallOptions::for_model(model);
    let mut scoring = Scoring::new(Arc::clone(model), "", held_out, MemoryFrom::Layers((recall, options)))?;
    while !matches!(scoring.step()?, ScoreStep::Finished { .. }) {}
    let asked = std::mem::take(&mut *recording.queries.lock().unwrap_or_else(PoisonError::into_inner));
    let mut queries = Vec::new();
    for (n_heads, rows) in asked {
        let group = n_heads / heads * dim;
        queries.extend(rows.chunks_exact(n_heads * dim).flat_map(|row| row[..group].iter().copied()));
    }
    Ok(Vectors { dim, keys, queries })
}

/// Keys of unit length around centres, one for every fifty, and queries drawn in the same way.
pub(crate) fn clustered(n: usize, n_queries: usize, dim: usize, seed: u64) -> Vectors {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = move || {
        // Twelve uniform numbers less their mean: nearly normal, and the same on every machine.
        (0..12).map(|_| random.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 6.0
    };
    let centres: Vec<f32> = (0..n.div_ceil(50) * dim).map(|_| normal()).collect();
    let n_centres = centres.len() / dim;
    let mut rows = |count: usize, stride: usize| {
        let mut rows = Vec::with_capacity(count * dim);
        for row in 0..count {
            let centre = &centres[row * stride % n_centres * dim..][..dim];
            let vector: Vec<f32> = centre.iter().map(|value| value + 0.6 * normal()).collect();
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            rows.extend(vector.iter().map(|value| value / length));
        }
        rows
    };
    Vectors { dim, keys: rows(n, 1), queries: rows(n_queries, 7) }
}

/// Passes everything on and notes the queries of the first memory layer.
struct Recording {
    inner: Snapshot,
    queries: Mutex<Vec<(usize, Vec<f32>)>>,
}

impl Recall for Recording {
    fn geometry(&self) -> &KvGeometry {
        self.inner.geometry()
    }

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory::Result<Vec<Vec<Hit>>> {
        if request.key_heads.first() == Some(&0) {
            let mut queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
            queries.push((request.key_heads.len(), request.queries.to_vec()));
        }
        self.inner.search(request)
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<Arc<ChunkKv>>> {
        self.inner.fetch(slot, chunks)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> mnemon_memory::Result<Vec<Vec<ChunkId>>> {
        self.inner.neighbours(chunks, before, after)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> mnemon_memory::Result<TermHits> {
        self.inner.search_terms(request)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> mnemon_memory::Result<WordHits> {
        self.inner.search_words(request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<ChunkInfo>> {
        self.inner.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> mnemon_memory::Result<Vec<ChunkId>> {
        self.inner.chunks(limit)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}
