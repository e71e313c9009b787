//! What is chosen, where it stands and how it is read, with small random models and a memory in a vector.

#![allow(clippy::unwrap_used)]

mod prompts;
mod reading;
mod selecting;
mod terms;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, EntryPolicy, Fingerprint, Hit, KeyHead, KvData, KvDtype, KvGeometry, Recall, Result,
    SearchRequest, SourceSpan, TermHit, TermHits, TermRequest, WordHits, WordRequest,
};

use crate::attention::LocalMask;
use crate::device::DeviceChoice;
use crate::model::{LoadOptions, Logits, Model, ModelSource, SequenceState};
use crate::profile::{PROFILE_VERSION, Profile, QueryHead, RecallMode, SearchHead};
use crate::strategies::{CaptureAttention, CaptureOptions};

/// Words `w3` to `w63` have the ids 3 to 63; the first three are special in the fixtures.
fn tokenizer() -> String {
    let words: Vec<String> = (3..64).map(|id| format!("\"w{id}\":{id}")).collect();
    format!(
        r#"{{"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{{"type":"Whitespace"}},
            "post_processor":null,"decoder":null,"truncation":null,"padding":null,
            "model":{{"type":"WordLevel","vocab":{{"[UNK]":0,"[BOS]":1,"[EOS]":2,{}}},"unk_token":"[UNK]"}}}}"#,
        words.join(",")
    )
}

/// A model of the runtime's fixtures, with other sizes in its configuration where `change` says so.
fn model_with(name: &str, change: impl Fn(String) -> String) -> Arc<Model> {
    model_of(name, &tokenizer(), change)
}

fn model_of(name: &str, tokenizer: &str, change: impl Fn(String) -> String) -> Arc<Model> {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let config = change(fs::read_to_string(fixture.join("config.json")).unwrap());
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::copy(fixture.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        kv_dtype: Some(KvDtype::F32),
        memory_layers: Some(vec![0, 1]),
        entry_policy: Some(EntryPolicy::PerToken),
        chunk_tokens: Some(CHUNK as u32),
        ..LoadOptions::default()
    };
    Arc::new(Model::load(&ModelSource::Directory(folder.path().into()), &options).unwrap())
}

/// A fixture that reads up to 512 positions.
fn model(name: &str) -> Arc<Model> {
    model_with(name, |config| long(&config))
}

fn long(config: &str) -> String {
    config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 512")
}

/// The same, where token 63 is a full stop and all others are words with a space before them.
fn model_of_sentences(name: &str) -> Arc<Model> {
    model_of(name, &tokenizer().replace("\"w", "\"\u{120}w").replace("\"\u{120}w63\"", "\".\""), |config| long(&config))
}

/// Tokens of a chunk.
const CHUNK: usize = 8;

/// Deterministic tokens that are words.
fn words(n: usize, seed: u64) -> Vec<u32> {
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| random.random_range(3..64)).collect()
}

fn spelled(tokens: &[u32]) -> String {
    tokens.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

/// A profile of these heads that finds by attention and words alike.
fn profile(model: &Model, heads: &[(u32, u32)]) -> Profile {
    let head = |&(layer, head): &(u32, u32)| SearchHead {
        query: QueryHead { layer, head },
        weight: 1.0,
        mean: vec![0.0; model.config().head_dim],
        reciprocal_rank: 1.0,
    };
    Profile {
        version: PROFILE_VERSION,
        model: model.base_fingerprint(),
        model_name: "tests".into(),
        seed: 0,
        kv_layers: vec![0, 1],
        search: heads.iter().map(head).collect(),
        attention_weight: 1.0,
        lexical_weight: 0.0,
        passages: 2,
        neighbours: 0,
        mode: RecallMode::Attend,
        mode_of_several: None,
        extents: crate::profile::Extents::default(),
        measured: crate::profile::Measured::default(),
    }
}

/// Documents in a vector: exact search, terms counted, and how often anything was fetched.
struct Shelf {
    geometry: KvGeometry,
    infos: Vec<ChunkInfo>,
    /// Keys and values of each chunk at each layer that keeps them.
    layers: Vec<Vec<Arc<ChunkKv>>>,
    /// Keys `[tokens, head_dim]` of each chunk and key head with entries.
    entries: Vec<Vec<Vec<f32>>>,
    fetches: AtomicUsize,
}

impl Shelf {
    fn new(geometry: KvGeometry) -> Self {
        Self { geometry, infos: Vec::new(), layers: Vec::new(), entries: Vec::new(), fetches: AtomicUsize::new(0) }
    }

    /// A shelf for a model, with entries for the key heads of a profile.
    fn of(model: &Model, profile: &Profile, layers: &[u32]) -> Self {
        let config = model.config();
        Self::new(KvGeometry {
            layers: layers.to_vec(),
            key_heads: profile.key_heads(config.heads / config.kv_heads),
            ..model.geometry().clone()
        })
    }

    /// Entries made by hand: one vector for each key head and chunk, which stands for all tokens of it.
    fn by_hand(key_heads: &[(u32, u32)], dim: usize, chunks: &[Vec<Vec<f32>>]) -> Self {
        let mut shelf = Self::new(KvGeometry {
            layers: Vec::new(),
            key_heads: key_heads.iter().map(|&(layer, head)| KeyHead { layer, head }).collect(),
            kv_heads: 2,
            head_dim: dim as u32,
            dtype: KvDtype::F32,
            chunk_tokens: 1,
            entry_policy: EntryPolicy::PerToken,
        });
        for entries in chunks {
            shelf.push(0, &BTreeMap::new(), &[3], Vec::new(), entries.clone());
        }
        shelf
    }

    fn push(
        &mut self,
        document: u64,
        metadata: &BTreeMap<String, String>,
        tokens: &[u32],
        layers: Vec<Arc<ChunkKv>>,
        entries: Vec<Vec<f32>>,
    ) {
        let start = self.infos.last().filter(|info| info.document == document).map_or(0, |info| info.span.token_end);
        let end = start + tokens.len() as u64;
        self.infos.push(ChunkInfo {
            id: ChunkId(self.infos.len() as u64),
            memory: "m".into(),
            document,
            document_id: document.to_string(),
            metadata: Arc::new(metadata.clone()),
            span: SourceSpan { byte_start: start, byte_end: end, token_start: start, token_end: end },
            tokens: tokens.to_vec(),
            text: spelled(tokens),
            turns: Vec::new(),
        });
        self.layers.push(layers);
        self.entries.push(entries);
    }

    /// Reads a document with the model, in chunks of [`CHUNK`] tokens.
    fn read(&mut self, model: &Arc<Model>, tokens: &[u32], metadata: &[(&str, &str)]) {
        let options = CaptureOptions { window: tokens.len(), sinks: 0, local: LocalMask::Sliding, recall: None };
        // All layers are captured: entries may be of others than those that are kept.
        let mut capture = CaptureAttention::new(model, options).unwrap();
        model.forward(tokens, &mut SequenceState::new(model), &mut capture, Logits::None).unwrap();
        let captured = capture.drain(true).unwrap().unwrap();
        let dim = model.config().head_dim;
        let document = self.infos.last().map_or(0, |info| info.document + 1);
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        for start in (0..tokens.len()).step_by(CHUNK) {
            let len = CHUNK.min(tokens.len() - start);
            let head = |data: &[f32], head: usize| data[(head * captured.len + start) * dim..][..len * dim].to_vec();
            let all = |data: &[f32]| KvData::F32((0..model.config().kv_heads).flat_map(|at| head(data, at)).collect());
            let id = ChunkId(self.infos.len() as u64);
            let layers = self.geometry.layers.iter().map(|&layer| {
                let (keys, values) = (&captured.keys[layer as usize], &captured.values[layer as usize]);
                let (keys, values) = (all(keys), all(values));
                Arc::new(ChunkKv { id, document, token_start: start as u64, len, keys, values })
            });
            let layers = layers.collect();
            let entries = self.geometry.key_heads.iter();
            let entries = entries.map(|key| head(&captured.keys[key.layer as usize], key.head as usize)).collect();
            self.push(document, &metadata, &tokens[start..start + len], layers, entries);
        }
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

impl Recall for Shelf {
    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> Result<Vec<Vec<Hit>>> {
        let dim = self.geometry.head_dim as usize;
        let list = |(index, query): (usize, &[f32])| {
            let key_head = request.key_heads[index % request.key_heads.len()];
            let mut hits = Vec::new();
            for (chunk, entries) in self.entries.iter().enumerate() {
                for (start, key) in entries[key_head].chunks(dim).enumerate() {
                    let score = key.iter().zip(query).map(|(key, query)| key * query).sum();
                    hits.push(Hit { score, chunk: ChunkId(chunk as u64), start: start as u16, len: 1 });
                }
            }
            hits.sort_by(|a, b| b.score.total_cmp(&a.score));
            hits.truncate(request.top_k);
            hits
        };
        Ok(request.queries.chunks(dim).enumerate().map(list).collect())
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> Result<Vec<Arc<ChunkKv>>> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Ok(chunks.iter().map(|id| Arc::clone(&self.layers[id.0 as usize][slot])).collect())
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> Result<Vec<Vec<ChunkId>>> {
        let around = |id: &ChunkId| {
            let at = id.0 as usize;
            let document = self.infos[at].document;
            let range = at.saturating_sub(before)..(at + after + 1).min(self.infos.len());
            range.filter(|other| self.infos[*other].document == document).map(|other| ChunkId(other as u64)).collect()
        };
        Ok(chunks.iter().map(around).collect())
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> Result<TermHits> {
        let count = |info: &ChunkInfo| {
            let found = request.terms.iter().filter(|term| info.tokens.iter().any(|token| term.contains(token)));
            found.count() as f32
        };
        let mut hits: Vec<TermHit> = self
            .infos
            .iter()
            .map(|info| TermHit { chunk: info.id, score: count(info) })
            .filter(|hit| hit.score > 0.0)
            .collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
        hits.truncate(request.top_k);
        let with = |term: &Vec<u32>| {
            self.infos.iter().filter(|info| info.tokens.iter().any(|t| term.contains(t))).count() as u64
        };
        Ok(TermHits { hits, chunks_with: request.terms.iter().map(with).collect() })
    }

    fn search_words(&self, _: &WordRequest<'_>) -> Result<WordHits> {
        Ok(WordHits::default())
    }

    fn describe(&self, chunks: &[ChunkId]) -> Result<Vec<ChunkInfo>> {
        Ok(chunks.iter().map(|id| self.infos[id.0 as usize].clone()).collect())
    }

    fn chunks(&self, limit: usize) -> Result<Vec<ChunkId>> {
        Ok(self.infos.iter().map(|info| info.id).take(limit).collect())
    }

    fn len(&self) -> u64 {
        self.infos.len() as u64
    }
}
