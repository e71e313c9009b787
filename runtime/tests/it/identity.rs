//! With every past token recalled at its true position, attention through memory equals full attention.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use mnemon_memory::{EntryPolicy, KvDtype};
use mnemon_runtime::{
    CaptureAttention, CaptureOptions, LoadOptions, LocalMask, Logits, Model, PositionScheme, RecallAttention,
    RecallOptions, SequenceState,
};

use crate::common::{FOUR, TestMemory, cpu, difference, full_logits, load, some_tokens, to_rows};

pub(crate) fn everything() -> RecallOptions {
    RecallOptions { everything: true, positions: PositionScheme::True, ..RecallOptions::default() }
}

/// Every layer remembers, in f32.
pub(crate) fn all_layers(chunk_tokens: u32, options: &LoadOptions) -> LoadOptions {
    LoadOptions {
        memory_layers: Some(vec![0, 1]),
        kv_dtype: Some(KvDtype::F32),
        chunk_tokens: Some(chunk_tokens),
        entry_policy: Some(EntryPolicy::PerToken),
        ..options.clone()
    }
}

/// Reads all but the last 10 tokens in segments through memory, then goes on with what a generating session uses;
/// returns the worst error against full attention.
pub(crate) fn worst(model: &Arc<Model>, chunk: usize, segment: usize, window: usize) -> f32 {
    let tokens = some_tokens(100, model.config().vocab_size, 5);
    let expected = full_logits(model, &tokens);
    let memory = Arc::new(TestMemory::new(model));
    let recall = Some((Arc::clone(&memory) as _, everything()));
    let options = CaptureOptions { window, sinks: 0, local: LocalMask::SinceHandover, recall };
    let mut capture = CaptureAttention::new(model, options).unwrap();
    let mut state = SequenceState::new(model);
    let mut found = Vec::new();
    for piece in tokens[..90].chunks(segment) {
        found.extend(to_rows(&model.forward(piece, &mut state, &mut capture, Logits::All).unwrap().unwrap()));
        if let Some(captured) = capture.drain(false).unwrap() {
            assert_eq!(captured.len % chunk, 0);
            memory.add(&captured, chunk);
            let recall = Some((Arc::clone(&memory) as _, everything()));
            capture.set_recall(recall).unwrap();
        }
    }
    if let Some(rest) = capture.drain(true).unwrap() {
        memory.add(&rest, chunk);
    }
    let mut session = RecallAttention::new(model, 16, 0, memory, everything()).unwrap();
    found.extend(to_rows(&model.forward(&tokens[90..95], &mut state, &mut session, Logits::All).unwrap().unwrap()));
    for token in &tokens[95..] {
        found.extend(to_rows(&model.forward(&[*token], &mut state, &mut session, Logits::Last).unwrap().unwrap()));
    }
    difference(&found, &expected)
}

#[test]
fn everything_recalled_equals_full_attention() {
    for name in FOUR.into_iter().chain(["llama_scaled", "mistral_yarn"]) {
        for (chunk, segment, window) in [(3, 8, 5), (16, 16, 16), (16, 48, 20), (7, 30, 1)] {
            let model = load(name, &all_layers(chunk, &cpu()));
            let error = worst(&model, chunk as usize, segment, window);
            println!("{name}, chunks of {chunk}, segments of {segment}, window {window}: max error {error:e}");
            assert!(error < 1e-4, "{name} {chunk} {segment} {window}: {error}");
        }
    }
}

#[test]
fn stored_in_half_precision_it_stays_close() {
    for (dtype, tolerance) in [(KvDtype::F16, 2e-2), (KvDtype::Bf16, 0.2)] {
        let model = load("qwen3", &LoadOptions { kv_dtype: Some(dtype), ..all_layers(16, &cpu()) });
        let error = worst(&model, 16, 16, 16);
        println!("keys and values stored as {dtype:?}: max error {error:e}");
        assert!(error > 0.0 && error < tolerance, "{dtype:?}: {error}");
    }
}
