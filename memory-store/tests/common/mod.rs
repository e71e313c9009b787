//! What the tests share: deterministic chunks and an oracle.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::format_collect, missing_docs)]

pub mod archive;

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{
    ChunkId, EntryPolicy, Fingerprint, Hit, KeyHead, KvChunk, KvDtype, KvGeometry, Recall, ResumePoint, SearchRequest,
    SourceSpan, Turn,
};
use mnemon_memory_store::{Clock, Memory, MemorySpec, Sealing, Storage, Store, StoreOptions, Writer};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub fn geometry(dtype: KvDtype, entry_policy: EntryPolicy) -> KvGeometry {
    let (layers, key_heads) = (vec![1, 3], KvGeometry::all_key_heads(&[1, 3], 2));
    KvGeometry { layers, key_heads, kv_heads: 2, head_dim: 8, dtype, chunk_tokens: 8, entry_policy }
}

/// Two stored layers of which one is not searched, and two key heads of other layers.
pub fn chosen(dtype: KvDtype, entry_policy: EntryPolicy) -> KvGeometry {
    let key_heads = [(0, 1), (1, 0), (5, 0)].map(|(layer, head)| KeyHead { layer, head }).to_vec();
    KvGeometry { key_heads, ..geometry(dtype, entry_policy) }
}

/// No stored layer: only keys that are searched.
pub fn keys_only(dtype: KvDtype, entry_policy: EntryPolicy) -> KvGeometry {
    KvGeometry { layers: Vec::new(), ..chosen(dtype, entry_policy) }
}

pub fn spec(geometry: KvGeometry) -> MemorySpec {
    MemorySpec {
        fingerprint: Fingerprint([7; 32]),
        geometry,
        model_name: "test model".into(),
        description: "for tests".into(),
    }
}

pub fn small_spec() -> MemorySpec {
    spec(geometry(KvDtype::F32, EntryPolicy::PerToken))
}

/// A time that stands still.
pub fn clock() -> Clock {
    Arc::new(|| 1_700_000_000_000)
}

/// Small segments, built by the committing thread, so that everything is deterministic.
pub fn options() -> StoreOptions {
    StoreOptions {
        seal_entries: 64,
        m: 8,
        ef_construction: 48,
        sealing: Sealing::Inline,
        // Tests are of the graphs.
        scan_entries: 0,
        ..StoreOptions::default()
    }
}

pub fn open(storage: Arc<dyn Storage>) -> Store {
    Store::open(storage, options(), clock()).unwrap()
}

/// A chunk that depends only on `seed`, standing at token and byte `at`.
pub fn chunk(geometry: &KvGeometry, at: (u64, u64), tokens: usize, seed: u64) -> KvChunk {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let text: String = (0..tokens).map(|token| format!("w{}-{token} ", seed % 1000)).collect();
    let len = geometry.kv_heads as usize * tokens * geometry.head_dim as usize;
    let mut layers = |len: usize| -> Vec<Vec<f32>> {
        geometry.layers.iter().map(|_| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
    };
    KvChunk {
        turns: turns(&text, seed),
        span: SourceSpan {
            byte_start: at.1,
            byte_end: at.1 + text.len() as u64,
            token_start: at.0,
            token_end: at.0 + tokens as u64,
        },
        keys: layers(len),
        values: layers(len),
        importance: layers(geometry.kv_heads as usize * tokens),
        lone_keys: lone_keys(geometry, tokens, seed),
        tokens: (0..tokens).map(|token| (seed * 100) as u32 + token as u32).collect(),
        text,
    }
}

/// Every third chunk is of a turn, or of two.
fn turns(text: &str, seed: u64) -> Vec<Turn> {
    let turn =
        |start: u32| Turn { start, metadata: [("speaker".to_owned(), format!("speaker {seed} from {start}"))].into() };
    match (seed % 3, text.len()) {
        (0, 2..) => vec![turn(0), turn(1)],
        (1, _) => vec![turn(0)],
        _ => Vec::new(),
    }
}

fn lone_keys(geometry: &KvGeometry, tokens: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xabcd);
    let mut keys = || (0..tokens * geometry.head_dim as usize).map(|_| rng.random_range(-1.0..1.0)).collect();
    geometry.lone_key_heads().map(|_| keys()).collect()
}

/// Keys of a chunk at the key head with index `index`, `[tokens, head_dim]`.
pub fn keys_at<'a>(geometry: &KvGeometry, chunk: &'a KvChunk, index: usize) -> &'a [f32] {
    let key = geometry.key_heads[index];
    let wide = chunk.tokens.len() * geometry.head_dim as usize;
    match geometry.slot_of(key.layer) {
        Some(slot) => &chunk.keys[slot][key.head as usize * wide..][..wide],
        None => &chunk.lone_keys[geometry.lone_key_heads().position(|lone| lone == key).unwrap()],
    }
}

/// Appends `count` chunks to the durable end of a document and commits; returns them.
pub fn extend(writer: &mut Writer, geometry: &KvGeometry, count: usize, seed: u64, complete: bool) -> Vec<KvChunk> {
    let state = writer.state();
    let mut at = (state.tokens, state.bytes);
    let mut chunks = Vec::new();
    for index in 0..count {
        let chunk = chunk(geometry, at, geometry.chunk_tokens as usize, seed + index as u64);
        at = (chunk.span.token_end, chunk.span.byte_end);
        writer.append(chunk.clone()).unwrap();
        chunks.push(chunk);
    }
    writer.commit(ResumePoint { safe_byte: at.1, safe_token: at.0, complete }).unwrap();
    chunks
}

pub fn write_document(memory: &Memory, id: &str, count: usize, seed: u64) -> Vec<KvChunk> {
    let mut writer = memory.writer(id, BTreeMap::new()).unwrap();
    extend(&mut writer, memory.geometry(), count, seed, true)
}

pub fn queries(n: usize, heads: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n * heads * dim).map(|_| rng.random_range(-1.0..1.0)).collect()
}

pub fn search(
    recall: &dyn Recall,
    slot: usize,
    queries: &[f32],
    n_heads: usize,
    top_k: usize,
    exact: bool,
) -> Vec<Vec<Hit>> {
    let key_heads = recall.geometry().searched_by(slot, n_heads).unwrap();
    search_at(recall, &key_heads, queries, top_k, exact)
}

pub fn search_at(
    recall: &dyn Recall,
    key_heads: &[usize],
    queries: &[f32],
    top_k: usize,
    exact: bool,
) -> Vec<Vec<Hit>> {
    recall.search(&SearchRequest { key_heads, queries, top_k, ef: Some(top_k.max(64)), exact }).unwrap()
}

/// Text of every chunk of the view, in its order.
pub fn texts(recall: &dyn Recall) -> Vec<String> {
    let ids: Vec<ChunkId> = recall.chunks(usize::MAX).unwrap();
    recall.describe(&ids).unwrap().into_iter().map(|info| info.text).collect()
}
