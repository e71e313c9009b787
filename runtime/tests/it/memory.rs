//! Trained memory layers: the logits of the training code, masses, capture.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mnemon_memory::{EntryPolicy, KeyHead, KvDtype, Recall};
use mnemon_runtime::{
    CaptureAttention, CaptureOptions, Captured, LoadOptions, LocalAttention, LocalMask, Logits, Model, ModelSource,
    RecallAttention, RecallOptions, SequenceState,
};

use crate::common::{TestMemory, cpu, difference, golden, load, logits, rows, some_tokens, tokens};

fn read(model: &Model, tokens: &[u32], step: usize, window: usize) -> (TestMemory, Vec<Captured>) {
    let options = CaptureOptions { window, sinks: 0, local: LocalMask::Sliding, recall: None };
    let mut capture = CaptureAttention::new(model, options).unwrap();
    let mut state = SequenceState::new(model);
    let memory = TestMemory::new(model);
    let mut pieces = Vec::new();
    for piece in tokens.chunks(step) {
        model.forward(piece, &mut state, &mut capture, Logits::None).unwrap();
        pieces.extend(capture.drain(false).unwrap());
    }
    pieces.extend(capture.drain(true).unwrap());
    assert!(capture.drain(true).unwrap().is_none());
    for captured in &pieces {
        memory.add(captured, model.geometry().chunk_tokens as usize);
    }
    (memory, pieces)
}

#[test]
fn trained_memory_layers_equal_the_training_code() {
    for name in ["memory_joint", "memory_gate", "memory_sinusoidal", "memory_alibi"] {
        let options = LoadOptions { kv_dtype: Some(KvDtype::F32), chunk_tokens: Some(8), ..cpu() };
        let model = load(name, &options);
        let window = model.config().memory.window;
        let golden = golden(name);
        let prompt = tokens(&golden["prompt_tokens"]);
        let (memory, _) = read(&model, &tokens(&golden["memory_tokens"]), 11, window);
        let memory: Arc<dyn Recall> = Arc::new(memory);
        let without =
            logits(&model, &mut SequenceState::new(&model), &mut LocalAttention::new(&model, window, 0), &prompt, 21);
        let error = difference(&without, &rows(&golden["logits_without_memory"]));
        assert!(error < 1e-3, "{name} without memory: {error}");
        let everything = RecallOptions { everything: true, ..RecallOptions::default() };
        // Top-k that holds every chunk must do the same as recalling everything.
        let top_k = RecallOptions { top_k_chunks: 5, entries_per_query: 40, block_tokens: 4, ..Default::default() };
        for recall in [everything, top_k] {
            for step in [21, 1] {
                let mut attention =
                    RecallAttention::new(&model, window, 0, Arc::clone(&memory), recall.clone()).unwrap();
                let beside = logits(&model, &mut SequenceState::new(&model), &mut attention, &prompt, step);
                let error = difference(&beside, &rows(&golden["logits_with_memory"]));
                println!("{name}, {step} tokens a call: max error {error:e}");
                assert!(error < 1e-3, "{name} with memory, {step} tokens a call: {error}");
                let masses = attention.take_masses();
                let sum: f32 = masses.iter().map(|(_, mass)| mass).sum();
                assert!(masses.len() == 5 && sum > 0.01 && sum <= 1.0 + 1e-5, "{name}: {masses:?}");
                assert!(masses.windows(2).all(|pair| pair[0].1 >= pair[1].1));
                assert!(attention.take_masses().is_empty());
            }
        }
    }
}

/// What the training package must compute of the exported default model: `training/tests/test_golden.py` reads the same
/// file. Written anew for another model by `MNEMON_WRITE_GOLDEN=1 cargo test --workspace -- golden_for_training`.
#[test]
fn golden_for_training() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../training/tests/golden_runtime.json");
    let options = LoadOptions { kv_dtype: Some(KvDtype::F32), ..cpu() };
    let model = Arc::new(Model::load(&ModelSource::Embedded, &options).unwrap());
    let (window, vocabulary) = (model.config().memory.window, model.config().vocab_size);
    let (history, prompt) = (some_tokens(300, vocabulary, 5), some_tokens(24, vocabulary, 6));
    // One logit in 48: they are all made in the same way.
    let thin = |rows: Vec<Vec<f32>>| -> Vec<Vec<f32>> {
        rows.into_iter().map(|row| row.into_iter().step_by(48).collect()).collect()
    };
    let without =
        thin(logits(&model, &mut SequenceState::new(&model), &mut LocalAttention::new(&model, window, 0), &prompt, 24));
    let (memory, _) = read(&model, &history, 64, window);
    let everything = RecallOptions { everything: true, ..RecallOptions::default() };
    let mut attention = RecallAttention::new(&model, window, 0, Arc::new(memory), everything).unwrap();
    let beside = thin(logits(&model, &mut SequenceState::new(&model), &mut attention, &prompt, 24));
    assert!(difference(&without, &beside) > 0.1, "memory matters");
    if std::env::var_os("MNEMON_WRITE_GOLDEN").is_some() {
        let golden = serde_json::json!({
            "memory_tokens": history,
            "prompt_tokens": prompt,
            "vocabulary_step": 48,
            "logits_without_memory": without,
            "logits_with_memory": beside,
        });
        fs::write(&path, golden.to_string() + "\n").unwrap();
    }
    let golden: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(tokens(&golden["prompt_tokens"]), prompt);
    for (name, got) in [("logits_without_memory", &without), ("logits_with_memory", &beside)] {
        let error = difference(got, &rows(&golden[name]));
        assert!(error < 1e-3, "{name}: {error}");
    }
}

/// Adapters that the training package made (`training/make_golden.py`), with and without low-rank products: what leaves
/// the window is recalled, all of it.
#[test]
fn golden_for_adapters() {
    for name in ["llama", "mistral", "qwen2", "qwen3"] {
        let golden: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(crate::common::fixture(name).join("adapter.json")).unwrap())
                .unwrap();
        let options = LoadOptions {
            memory_adapter: Some(crate::common::fixture(name).join("adapter.safetensors")),
            kv_dtype: Some(KvDtype::F32),
            chunk_tokens: Some(1),
            entry_policy: Some(EntryPolicy::PerToken),
            ..cpu()
        };
        let model = load(name, &options);
        let window = model.config().memory.window;
        let memory = Arc::new(TestMemory::new(&model));
        let capture = CaptureOptions { window, sinks: 0, local: LocalMask::Sliding, recall: None };
        let mut attention = CaptureAttention::new(&model, capture).unwrap();
        let mut state = SequenceState::new(&model);
        let everything = RecallOptions { everything: true, ..RecallOptions::default() };
        let mut got = Vec::new();
        for token in tokens(&golden["tokens"]) {
            attention.set_recall(Some((Arc::clone(&memory) as _, everything.clone()))).unwrap();
            got.extend(logits(&model, &mut state, &mut attention, &[token], 1));
            if let Some(left) = attention.drain(false).unwrap() {
                memory.add(&left, 1);
            }
        }
        let error = difference(&got, &rows(&golden["logits"]));
        assert!(error < 1e-3, "{name}: {error}");
    }
}

#[test]
fn an_empty_memory_changes_nothing() {
    for name in ["memory_joint", "memory_gate", "qwen3"] {
        let model = load(name, &cpu());
        let prompt = some_tokens(30, 64, 1);
        let local =
            logits(&model, &mut SequenceState::new(&model), &mut LocalAttention::new(&model, 16, 2), &prompt, 30);
        let memory = Arc::new(TestMemory::new(&model));
        let mut attention = RecallAttention::new(&model, 16, 2, memory, RecallOptions::default()).unwrap();
        let recalled = logits(&model, &mut SequenceState::new(&model), &mut attention, &prompt, 30);
        assert!(difference(&local, &recalled) < 1e-5, "{name}");
    }
}

#[test]
fn what_is_captured_does_not_depend_on_the_pieces() {
    let options =
        LoadOptions { chunk_tokens: Some(8), entry_policy: Some(EntryPolicy::Representative { count: 2 }), ..cpu() };
    let model = load("memory_joint", &options);
    let text = some_tokens(100, 64, 3);
    let join = |pieces: Vec<Captured>| {
        let mut starts = 0;
        let (mut keys, mut importance) = (vec![Vec::new(); 4], vec![Vec::new(); 4]);
        for piece in pieces {
            assert_eq!(piece.token_start, starts);
            starts += piece.len as u64;
            for (slot, (k, i)) in piece.keys.iter().zip(&piece.importance).enumerate() {
                for head in 0..2 {
                    keys[slot * 2 + head].extend_from_slice(&k[head * piece.len * 8..(head + 1) * piece.len * 8]);
                    importance[slot * 2 + head].extend_from_slice(&i[head * piece.len..(head + 1) * piece.len]);
                }
            }
        }
        assert_eq!(starts, 100);
        (keys, importance)
    };
    let (keys, importance) = join(read(&model, &text, 100, 16).1);
    for step in [1, 7, 32] {
        let (other_keys, other_importance) = join(read(&model, &text, step, 16).1);
        assert!(difference(&keys, &other_keys) < 1e-4);
        // A token's importance is final only once it left the window, which draining in pieces respects.
        assert!(difference(&importance, &other_importance) < 1e-4, "importance with pieces of {step}");
    }
    // Each of 100 queries gives weight 1 for each of its 2 heads to the key/value head.
    for head in &importance {
        assert!((head.iter().sum::<f32>() - 200.0).abs() < 1e-2);
    }
}

#[test]
fn key_heads_of_other_layers_are_captured_alone() {
    let text = some_tokens(100, 64, 3);
    let key_head = |(layer, head)| KeyHead { layer, head };
    let captured = |layers: Vec<u32>, key_heads: Option<Vec<KeyHead>>, step: usize| {
        let options = LoadOptions { memory_layers: Some(layers), key_heads, chunk_tokens: Some(8), ..cpu() };
        let model = load("qwen3", &options);
        let capture = CaptureOptions { window: 16, sinks: 0, local: LocalMask::Sliding, recall: None };
        let mut attention = CaptureAttention::new(&model, capture).unwrap();
        let mut state = SequenceState::new(&model);
        for piece in text.chunks(step) {
            model.forward(piece, &mut state, &mut attention, Logits::None).unwrap();
        }
        attention.drain(true).unwrap().unwrap()
    };
    let whole = captured(vec![0, 1], None, 100);
    let dim = whole.keys[0].len() / 2 / 100;
    let keys_of = |layer: usize, head: usize| whole.keys[layer][head * 100 * dim..(head + 1) * 100 * dim].to_vec();
    let chosen = [(1, 1), (0, 0)].map(key_head).to_vec();
    for step in [100, 7] {
        let some = captured(vec![1], Some(chosen.clone()), step);
        assert!(
            difference(&some.keys, &whole.keys[1..2]) < 1e-4 && difference(&some.values, &whole.values[1..2]) < 1e-4
        );
        assert!(difference(&some.lone_keys, &[keys_of(0, 0)]) < 1e-4, "{step}");
        let keys = captured(Vec::new(), Some(chosen.clone()), step);
        assert!(keys.keys.is_empty() && keys.values.is_empty() && keys.len == 100);
        assert!(difference(&keys.lone_keys, &[keys_of(0, 0), keys_of(1, 1)]) < 1e-4, "{step}");
    }
    let wrong: [&[(u32, u32)]; 4] = [&[], &[(9, 0)], &[(0, 2)], &[(1, 0), (1, 0)]];
    for wrong in wrong {
        let key_heads = Some(wrong.iter().copied().map(key_head).collect());
        let options = LoadOptions { memory_layers: Some(Vec::new()), key_heads, ..cpu() };
        assert!(Model::load(&ModelSource::Directory(crate::common::fixture("qwen3")), &options).is_err(), "{wrong:?}");
    }
}

#[test]
fn key_heads_are_part_of_the_fingerprint() {
    let fingerprint = |key_heads: Option<Vec<KeyHead>>| {
        load("qwen3", &LoadOptions { memory_layers: Some(vec![1]), key_heads, ..cpu() }).fingerprint()
    };
    let heads = |heads: &[u32]| Some(heads.iter().map(|&head| KeyHead { layer: 1, head }).collect());
    assert_eq!(fingerprint(None), fingerprint(heads(&[1, 0])));
    assert_ne!(fingerprint(None), fingerprint(heads(&[1])));
}

#[test]
fn a_memory_of_another_shape_is_refused() {
    let (one, other) = (load("memory_joint", &cpu()), load("memory_gate", &cpu()));
    let memory = Arc::new(TestMemory::new(&other));
    let error = RecallAttention::new(&one, 16, 0, memory, RecallOptions::default()).err().unwrap();
    assert!(error.to_string().contains("made with this model"), "{error}");
}

#[test]
fn a_sequence_cannot_be_continued_with_a_gap() {
    let model = load("llama", &cpu());
    let (mut state, mut attention) = (SequenceState::new(&model), LocalAttention::new(&model, 8, 0));
    model.forward(&[1, 2], &mut state, &mut attention, Logits::None).unwrap();
    state.position = 7;
    let error = model.forward(&[1], &mut state, &mut attention, Logits::None).unwrap_err();
    assert!(error.to_string().contains("position 2"), "{error}");
    assert!(model.forward(&[], &mut SequenceState::new(&model), &mut attention, Logits::None).is_err());
    let error = model.forward(&[64], &mut SequenceState::new(&model), &mut attention, Logits::None).unwrap_err();
    assert!(error.to_string().contains("vocabulary of 64"), "{error}");
}
