//! The identity: with everything recalled at its true position, reading into a store and generating from it is full
//! attention over the whole sequence.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;

use candle_core::Tensor;
use common::models::{FAMILIES, Family, model, options};
use common::{long_text, stores, tokenizers as build};
use mnemon_encoder::{DocumentEncoder, EncodeOptions};
use mnemon_memory::{EntryPolicy, KvDtype, Recall};
use mnemon_runtime::{
    FullAttention, LoadOptions, Logits, Model, PositionScheme, RecallAttention, RecallOptions, SequenceState,
};
use serde_json::json;

/// Largest difference that rounding in f32 may make.
const TOLERANCE: f32 = 1e-4;

fn everything() -> RecallOptions {
    RecallOptions { everything: true, positions: PositionScheme::True, ..RecallOptions::default() }
}

fn rows(logits: &Tensor) -> Vec<Vec<f32>> {
    logits.to_vec2().unwrap()
}

fn full(model: &Model, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut attention = FullAttention::new(model);
    let logits = model.forward(tokens, &mut SequenceState::new(model), &mut attention, Logits::All).unwrap();
    rows(&logits.unwrap())
}

fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

/// Reads `text`, closes and opens the store, continues with the last `continued` tokens, and compares.
fn check(family: Family, chunk_tokens: u32, segment_tokens: usize, continued: usize) {
    let tokenizer = if family == Family::Mistral { build::mistral() } else { build::qwen() };
    let load = LoadOptions {
        window: Some(24),
        sinks: Some(0),
        memory_layers: Some((0..common::models::LAYERS as u32).collect()),
        kv_dtype: Some(KvDtype::F32),
        chunk_tokens: Some(chunk_tokens),
        entry_policy: Some(EntryPolicy::PerToken),
        ..options()
    };
    let model = Arc::new(model(family, &tokenizer, &json!({}), &load));
    let text = long_text(900, u64::from(chunk_tokens));
    let folder = tempfile::tempdir().unwrap();

    let store = stores::on_disk(folder.path());
    let memory = stores::memory_for(&store, &model, "memory");
    let encode = EncodeOptions { segment_tokens, recall_while_reading: Some(everything()), ..EncodeOptions::default() };
    let encoder =
        DocumentEncoder::create(Arc::clone(&model), Arc::new(memory.clone()), "document", [].into(), encode).unwrap();
    let progress = stores::read_all(encoder, text.as_bytes(), 333);
    assert!(progress.durable_tokens as usize > 3 * segment_tokens, "{progress:?}");
    drop((memory, store));

    let store = stores::on_disk(folder.path());
    let memory = store.memory("tests", "memory").unwrap();
    let mut tokens = stores::stored(&memory, "document").tokens();
    let read = tokens.len();
    let more: Vec<u32> = (0..continued).map(|at| tokens[at * 7 % read]).collect();
    tokens.extend(more);
    let snapshot: Arc<dyn Recall> = Arc::new(memory.snapshot().unwrap());
    let mut attention = RecallAttention::new(&model, 64, 0, snapshot, everything()).unwrap();
    let mut state = SequenceState::new(&model);
    state.position = read;
    // Prefill and single steps.
    let (prefill, steps) = tokens[read..].split_at(continued / 2);
    let mut got = rows(&model.forward(prefill, &mut state, &mut attention, Logits::All).unwrap().unwrap());
    for step in steps {
        let logits = model.forward(&[*step], &mut state, &mut attention, Logits::Last).unwrap().unwrap();
        got.extend(rows(&logits));
    }
    let expected = full(&model, &tokens);
    let error = largest_difference(&got, &expected[read..]);
    println!("{family:?}, chunks of {chunk_tokens}, segments of {segment_tokens}: largest error {error:e}");
    assert!(error < TOLERANCE, "{family:?}, chunks of {chunk_tokens}: {error}");

    // And it matters: without memory the logits are others.
    let empty = stores::in_memory();
    let nothing = stores::memory_for(&empty, &model, "nothing");
    let nothing: Arc<dyn Recall> = Arc::new(nothing.snapshot().unwrap());
    let mut attention = RecallAttention::new(&model, 64, 0, nothing, everything()).unwrap();
    let mut state = SequenceState::new(&model);
    state.position = read;
    let without = model.forward(&tokens[read..], &mut state, &mut attention, Logits::All).unwrap().unwrap();
    assert!(largest_difference(&rows(&without), &expected[read..]) > 100.0 * TOLERANCE);
}

#[test]
fn recalling_everything_is_full_attention() {
    for family in FAMILIES {
        for (chunk_tokens, segment_tokens) in [(16, 32), (64, 64), (10, 50)] {
            check(family, chunk_tokens, segment_tokens, 30);
        }
    }
}
