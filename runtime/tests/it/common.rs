//! Fixtures, a memory made of captured chunks, and comparisons.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use half::{bf16, f16};
use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, EntryPolicy, Hit, KvData, KvDtype, KvGeometry, Recall, SearchRequest, TermHits,
    TermRequest, WordHits, WordRequest,
};
use mnemon_runtime::{
    Attention, Captured, DeviceChoice, FullAttention, LoadOptions, Logits, Model, ModelSource, SequenceState,
};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const FOUR: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A tokenizer that knows three words: enough for tests that feed token ids.
pub(crate) const TINY_TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,"truncation":null,"padding":null,
    "model":{"type":"WordLevel","vocab":{"[UNK]":0,"a":1,"b":2},"unk_token":"[UNK]"}}"#;

/// A copy of a fixture in a folder of its own, with a tokenizer.
pub(crate) fn folder(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    fs::write(folder.path().join("tokenizer.json"), TINY_TOKENIZER).unwrap();
    folder
}

pub(crate) fn cpu() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

pub(crate) fn load(name: &str, options: &LoadOptions) -> Arc<Model> {
    let folder = folder(name);
    Arc::new(Model::load(&ModelSource::Directory(folder.path().into()), options).unwrap())
}

pub(crate) fn golden(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(name).join("golden.json")).unwrap()).unwrap()
}

pub(crate) fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub(crate) fn rows(value: &Value) -> Vec<Vec<f32>> {
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

pub(crate) fn to_rows(logits: &Tensor) -> Vec<Vec<f32>> {
    logits.to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

/// Logits of every token, in calls of `step` tokens.
pub(crate) fn logits(
    model: &Model,
    state: &mut SequenceState,
    attention: &mut dyn Attention,
    tokens: &[u32],
    step: usize,
) -> Vec<Vec<f32>> {
    tokens
        .chunks(step)
        .flat_map(|piece| to_rows(&model.forward(piece, state, attention, Logits::All).unwrap().unwrap()))
        .collect()
}

pub(crate) fn full_logits(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    logits(model, &mut SequenceState::new(model), &mut FullAttention::new(model), tokens, tokens.len())
}

/// Largest difference; infinite where shapes differ or something is not a number.
pub(crate) fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
        return f32::INFINITY;
    }
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { d.max(worst) })
}

/// Deterministic tokens.
pub(crate) fn some_tokens(n: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(0..vocabulary as u32)).collect()
}

/// A memory in a vector: chunks as they were captured, exact search by token or block mean.
pub(crate) struct TestMemory {
    geometry: KvGeometry,
    chunks: Mutex<Vec<Vec<Arc<ChunkKv>>>>,
}

impl TestMemory {
    pub(crate) fn new(model: &Model) -> Self {
        Self { geometry: model.geometry().clone(), chunks: Mutex::new(Vec::new()) }
    }

    /// Cuts what was captured into chunks of at most `chunk` tokens.
    pub(crate) fn add(&self, captured: &Captured, chunk: usize) {
        let (heads, dim) = (self.geometry.kv_heads as usize, self.geometry.head_dim as usize);
        let mut chunks = self.chunks.lock().unwrap();
        for start in (0..captured.len).step_by(chunk) {
            let len = chunk.min(captured.len - start);
            let id = ChunkId(chunks.len() as u64);
            let cut = |data: &Vec<f32>| {
                let head = |h: usize| &data[(h * captured.len + start) * dim..(h * captured.len + start + len) * dim];
                convert((0..heads).flat_map(head).copied().collect(), self.geometry.dtype)
            };
            let slots = captured.keys.iter().zip(&captured.values);
            chunks.push(
                slots
                    .map(|(keys, values)| {
                        Arc::new(ChunkKv {
                            id,
                            document: 0,
                            token_start: captured.token_start + start as u64,
                            len,
                            keys: cut(keys),
                            values: cut(values),
                        })
                    })
                    .collect(),
            );
        }
    }
}

fn convert(data: Vec<f32>, dtype: KvDtype) -> KvData {
    match dtype {
        KvDtype::F32 => KvData::F32(data),
        // What is stored in fewer bits is read as binary16.
        KvDtype::F16 | KvDtype::Int8 | KvDtype::Int4 => KvData::F16(data.into_iter().map(f16::from_f32).collect()),
        KvDtype::Bf16 => KvData::Bf16(data.into_iter().map(bf16::from_f32).collect()),
    }
}

impl Recall for TestMemory {
    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory::Result<Vec<Vec<Hit>>> {
        let (heads, dim) = (self.geometry.kv_heads as usize, self.geometry.head_dim as usize);
        let block = match self.geometry.entry_policy {
            EntryPolicy::BlockMean { tokens } => tokens as usize,
            _ => 1,
        };
        let chunks = self.chunks.lock().unwrap();
        let key_head = |index: usize| request.key_heads[index % request.key_heads.len()];
        let list = |(index, query): (usize, &[f32])| {
            let (slot, head) = (key_head(index) / heads, key_head(index) % heads);
            let mut hits = Vec::new();
            for chunk in chunks.iter().map(|slots| &slots[slot]) {
                let keys = chunk.keys.to_f32();
                for start in (0..chunk.len).step_by(block) {
                    let len = block.min(chunk.len - start);
                    let score: f32 = (start..start + len)
                        .map(|token| {
                            let key = &keys[(head * chunk.len + token) * dim..][..dim];
                            key.iter().zip(query).map(|(k, q)| k * q).sum::<f32>()
                        })
                        .sum();
                    hits.push(Hit { score: score / len as f32, chunk: chunk.id, start: start as u16, len: len as u16 });
                }
            }
            hits.sort_by(|a, b| b.score.total_cmp(&a.score));
            hits.truncate(request.top_k);
            hits
        };
        Ok(request.queries.chunks(dim).enumerate().map(list).collect())
    }

    fn fetch(&self, slot: usize, ids: &[ChunkId]) -> mnemon_memory::Result<Vec<Arc<ChunkKv>>> {
        let chunks = self.chunks.lock().unwrap();
        Ok(ids.iter().map(|id| Arc::clone(&chunks[id.0 as usize][slot])).collect())
    }

    fn neighbours(&self, _: &[ChunkId], _: usize, _: usize) -> mnemon_memory::Result<Vec<Vec<ChunkId>>> {
        Ok(Vec::new())
    }

    fn search_terms(&self, _: &TermRequest<'_>) -> mnemon_memory::Result<TermHits> {
        Ok(TermHits::default())
    }

    fn search_words(&self, _: &WordRequest<'_>) -> mnemon_memory::Result<WordHits> {
        Ok(WordHits::default())
    }

    fn describe(&self, _: &[ChunkId]) -> mnemon_memory::Result<Vec<ChunkInfo>> {
        Ok(Vec::new())
    }

    fn chunks(&self, limit: usize) -> mnemon_memory::Result<Vec<ChunkId>> {
        Ok((0..self.len().min(limit as u64)).map(ChunkId).collect())
    }

    fn len(&self) -> u64 {
        self.chunks.lock().unwrap().len() as u64
    }
}
