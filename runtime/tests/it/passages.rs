//! Passages in the middle of a prompt, placed by their stored keys and values or read again: as if they had been pasted.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::Tensor;
use mnemon_memory::{ChunkId, ChunkKv, Invalid, KvData};
use mnemon_runtime::{
    CaptureAttention, CaptureOptions, Captured, Error, LocalMask, Logits, Model, PassageAttention, QueryHead,
    SequenceState, Stretch,
};

use crate::common::{FOUR, cpu, difference, full_logits, load, logits, some_tokens, to_rows};
use crate::identity::all_layers;

const TOTAL: usize = 100;
const HEADS: [QueryHead; 3] =
    [QueryHead { layer: 0, head: 1 }, QueryHead { layer: 1, head: 0 }, QueryHead { layer: 1, head: 3 }];

/// Keys and values of `tokens`, read with a window as long as the whole text.
fn capture(model: &Arc<Model>, tokens: &[u32]) -> Captured {
    let options = CaptureOptions { window: TOTAL, sinks: 0, local: LocalMask::Sliding, recall: None };
    let mut capture = CaptureAttention::new(model, options).unwrap();
    let mut state = SequenceState::new(model);
    for piece in tokens.chunks(32) {
        model.forward(piece, &mut state, &mut capture, Logits::None).unwrap();
    }
    capture.drain(true).unwrap().unwrap()
}

/// Tokens of what was captured as a stored stretch.
fn stored(model: &Model, captured: &Captured, start: usize, len: usize) -> Stretch {
    let (heads, dim) = (model.config().kv_heads, model.config().head_dim);
    let cut = |data: &[f32]| {
        let head = |h: usize| &data[(h * captured.len + start) * dim..(h * captured.len + start + len) * dim];
        KvData::F32((0..heads).flat_map(head).copied().collect())
    };
    let layer = |(keys, values): (&Vec<f32>, &Vec<f32>)| {
        let id = ChunkId(start as u64);
        Arc::new(ChunkKv { id, document: 0, token_start: start as u64, len, keys: cut(keys), values: cut(values) })
    };
    let stored = captured.keys.iter().zip(&captured.values).map(layer).collect();
    Stretch { chunk: Some(ChunkId(start as u64)), len, skipped: 0, stored }
}

/// Stored stretches of `chunk` tokens from `start` to `end`.
fn all_stored(model: &Model, captured: &Captured, start: usize, end: usize, chunk: usize) -> Vec<Stretch> {
    (start..end).step_by(chunk).map(|at| stored(model, captured, at, chunk.min(end - at))).collect()
}

/// A stretch out of the middle of a wider chunk.
fn cut_out(model: &Model, captured: &Captured, start: usize, len: usize) -> Stretch {
    let first = start.saturating_sub(2);
    let whole = stored(model, captured, first, (start + len + 3).min(captured.len) - first);
    Stretch { skipped: start - first, len, ..whole }
}

fn unread(len: usize) -> Stretch {
    Stretch { chunk: None, len, skipped: 0, stored: Vec::new() }
}

fn attention(model: &Model, before: usize) -> PassageAttention {
    // Dynamic scaling goes by how far a token may see: as far as the whole text is long.
    PassageAttention::new(model, before, TOTAL - before, &[0, 1], &HEADS, TOTAL)
}

/// Reads the unread stretches that `place` told.
fn read(
    model: &Model,
    state: &mut SequenceState,
    attention: &mut PassageAttention,
    unread: Vec<(std::ops::Range<usize>, usize)>,
    tokens: impl Fn(usize, usize) -> Vec<u32>,
    lens: &[usize],
) {
    for (stretches, position) in unread {
        let mut at = position;
        for index in stretches {
            state.position = at;
            attention.read_at(Some(index..index + 1));
            model.forward(&tokens(index, at), state, attention, Logits::None).unwrap();
            at += lens[index];
        }
    }
    attention.read_at(None);
}

fn families() -> impl Iterator<Item = &'static str> {
    FOUR.into_iter().chain(["llama_scaled", "llama_linear", "mistral_yarn", "llama_dynamic", "qwen2_sliding"])
}

#[test]
fn all_of_a_document_at_its_place_equals_full_attention() {
    for name in families() {
        let model = load(name, &all_layers(16, &cpu()));
        let tokens = some_tokens(TOTAL, model.config().vocab_size, 5);
        let expected = full_logits(&model, &tokens);
        let captured = capture(&model, &tokens[..90]);
        for (before, chunk, step) in [(0, 16, 10), (0, 90, 1), (7, 16, 4), (12, 5, 3)] {
            let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, before));
            let mut found = logits(&model, &mut state, &mut attention, &tokens[..before], 5);
            let stretches = all_stored(&model, &captured, before, 90, chunk);
            assert!(attention.place(before, 0, stretches, model.rotary()).unwrap().is_empty());
            assert_eq!(attention.region(), Some(before..90));
            state.position = 90;
            found.extend(logits(&model, &mut state, &mut attention, &tokens[90..], step));
            let wanted = [&expected[..before], &expected[90..]].concat();
            let error = difference(&found, &wanted);
            println!("{name}, {before} before, chunks of {chunk}, {step} tokens a call: max error {error:e}");
            assert!(error < 1e-4, "{name} {before} {chunk} {step}: {error}");
        }
    }
}

#[test]
fn a_part_of_a_chunk_stands_for_itself() {
    for name in families() {
        let model = load(name, &all_layers(16, &cpu()));
        let tokens = some_tokens(TOTAL, model.config().vocab_size, 5);
        let expected = full_logits(&model, &tokens);
        let captured = capture(&model, &tokens[..90]);
        let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, 7));
        logits(&model, &mut state, &mut attention, &tokens[..7], 7);
        let part = |at: usize| cut_out(&model, &captured, at, 16.min(90 - at));
        let stretches = (7..90).step_by(16).map(part).collect();
        assert!(attention.place(7, 0, stretches, model.rotary()).unwrap().is_empty());
        assert_eq!(attention.region(), Some(7..90));
        state.position = 90;
        let found = logits(&model, &mut state, &mut attention, &tokens[90..], 4);
        let error = difference(&found, &expected[90..]);
        assert!(error < 1e-4, "{name}: {error}");
        // More than the chunk has.
        let beyond = Stretch { skipped: 10, ..stored(&model, &captured, 20, 16) };
        let refused = attention.place(7, 0, vec![beyond], model.rotary()).unwrap_err();
        assert!(matches!(refused, Error::Geometry { .. }), "{refused}");
    }
}

#[test]
fn read_again_they_are_as_if_pasted() {
    for name in families() {
        let model = load(name, &all_layers(16, &cpu()));
        let tokens = some_tokens(TOTAL, model.config().vocab_size, 6);
        let expected = full_logits(&model, &tokens);
        let captured = capture(&model, &tokens[..60]);
        for before in [0, 10] {
            let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, before));
            let mut found = logits(&model, &mut state, &mut attention, &tokens[..before], 10);
            // Read in several calls, with stored ones in their middle.
            let lens = [20 - before, 3, 17, 20, 25, 5];
            let stretches = vec![
                unread(lens[0]),
                unread(lens[1]),
                stored(&model, &captured, 23, 17),
                stored(&model, &captured, 40, 20),
                unread(lens[4]),
                unread(lens[5]),
            ];
            let left = attention.place(before, 0, stretches, model.rotary()).unwrap();
            assert_eq!(left, [(0..2, before), (4..6, 60)]);
            let of = |index: usize, at: usize| tokens[at..at + lens[index]].to_vec();
            read(&model, &mut state, &mut attention, left, of, &lens);
            state.position = 90;
            found.extend(logits(&model, &mut state, &mut attention, &tokens[90..], 4));
            let wanted = [&expected[..before], &expected[90..]].concat();
            let error = difference(&found, &wanted);
            println!("{name}, {before} before, read again: max error {error:e}");
            assert!(error < 1e-4, "{name} {before}: {error}");
        }
    }
}

/// With rotary positions only distances count: passages stand at the end of a region that is too large for them.
#[test]
fn room_that_is_kept_free_moves_all_by_the_same_distance() {
    let model = load("llama", &all_layers(16, &cpu()));
    let tokens = some_tokens(TOTAL, model.config().vocab_size, 7);
    let expected = full_logits(&model, &tokens);
    let captured = capture(&model, &tokens[..90]);
    let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, 0));
    attention.place(0, 120, all_stored(&model, &captured, 0, 90, 16), model.rotary()).unwrap();
    assert_eq!(attention.region(), Some(0..120));
    state.position = 120;
    let found = logits(&model, &mut state, &mut attention, &tokens[90..], 10);
    let error = difference(&found, &expected[90..]);
    assert!(error < 1e-4, "{error}");
}

/// Queries are looked at with the first layers, then forgotten.
#[test]
fn a_look_leaves_no_trace() {
    for name in families() {
        let model = load(name, &all_layers(16, &cpu()));
        let tokens = some_tokens(TOTAL, model.config().vocab_size, 8);
        let captured = capture(&model, &tokens[..64]);
        for before in [0, 1, 20, 64] {
            let mut seen = Vec::new();
            for look in [None, Some(1), Some(2)] {
                let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, before));
                let mut found = logits(&model, &mut state, &mut attention, &tokens[..before], 64);
                attention.take_queries();
                if let Some(layers) = look {
                    for piece in tokens[64..].chunks(20) {
                        model.look(piece, &mut state, &mut attention, layers).unwrap();
                    }
                    let row = HEADS.len() * model.config().head_dim;
                    let queries = attention.take_queries();
                    assert_eq!(queries.len(), if layers == 2 { 36 * row } else { 0 }, "all heads or none");
                    attention.rewind(before);
                    state.position = before;
                }
                let stretches =
                    if before < 64 { vec![stored(&model, &captured, before, 64 - before)] } else { Vec::new() };
                attention.place(before, 0, stretches, model.rotary()).unwrap();
                state.position = 64;
                found.extend(logits(&model, &mut state, &mut attention, &tokens[64..], 7));
                seen.push(found);
            }
            for other in &seen[1..] {
                let error = difference(&seen[0], other);
                assert!(error < 1e-6, "{name} {before}: {error}");
            }
        }
    }
}

#[test]
fn attention_to_passages_is_told_once() {
    let model = load("llama", &all_layers(16, &cpu()));
    let tokens = some_tokens(TOTAL, model.config().vocab_size, 9);
    let captured = capture(&model, &tokens[..90]);
    let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, 0));
    attention.place(0, 0, all_stored(&model, &captured, 0, 90, 30), model.rotary()).unwrap();
    state.position = 90;
    logits(&model, &mut state, &mut attention, &tokens[90..95], 2);
    let masses = attention.take_masses();
    assert_eq!(masses.len(), 3);
    let sum: f32 = masses.iter().map(|(_, mass)| mass).sum();
    assert!(sum > 0.1 && sum <= 1.0 + 1e-5, "{masses:?}");
    assert!(masses.windows(2).all(|pair| pair[0].1 >= pair[1].1), "{masses:?}");
    assert!(attention.take_masses().is_empty());
    logits(&model, &mut state, &mut attention, &tokens[95..96], 1);
    assert_eq!(attention.take_masses().len(), 3);
}

#[test]
fn the_chunk_with_the_key_that_is_asked_for_has_the_largest_mass() {
    let model = load("llama", &all_layers(16, &cpu()));
    let tokens = some_tokens(TOTAL, model.config().vocab_size, 10);
    let captured = capture(&model, &tokens[..90]);
    let head = QueryHead { layer: 0, head: 1 };
    let masses = |stretches: Vec<Stretch>| {
        let (mut state, mut attention) =
            (SequenceState::new(&model), PassageAttention::new(&model, 0, TOTAL, &[0, 1], &[head], 1));
        attention.place(0, 0, stretches, model.rotary()).unwrap();
        state.position = 90;
        logits(&model, &mut state, &mut attention, &tokens[90..91], 1);
        (attention.take_masses(), attention.take_queries())
    };
    let mut stretches = all_stored(&model, &captured, 0, 90, 30);
    let (_, query) = masses(stretches.clone());
    let dim = model.config().head_dim;
    assert_eq!(query.len(), dim);
    // A key at position 47 that, rotated, points where the query at position 90 does.
    let query = Tensor::from_vec(query, (1, 1, dim), model.device()).unwrap();
    let key = model.rotary().apply(&query, &[90 - 47]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let kv = Arc::get_mut(&mut stretches[1].stored[0]).unwrap();
    let mut keys = kv.keys.to_f32();
    keys[17 * dim..18 * dim].iter_mut().zip(&key).for_each(|(to, from)| *to = 50.0 * from);
    kv.keys = KvData::F32(keys);
    let (found, _) = masses(stretches);
    assert!(found[0].0 == ChunkId(30) && found[0].1 > 0.9, "{found:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = load("llama", &all_layers(16, &cpu()));
    let tokens = some_tokens(TOTAL, model.config().vocab_size, 11);
    let captured = capture(&model, &tokens[..90]);
    let rotary = model.rotary();
    let begin = || {
        let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, 5));
        logits(&model, &mut state, &mut attention, &tokens[..5], 5);
        (state, attention)
    };
    // Of another number of layers; with another length than it says.
    let mut one_layer = stored(&model, &captured, 5, 16);
    one_layer.stored.pop();
    let mut short = stored(&model, &captured, 5, 16);
    short.len = 17;
    for wrong in [one_layer, short] {
        let error = begin().1.place(5, 0, vec![wrong], rotary).unwrap_err();
        assert!(matches!(error, Error::Geometry { .. }), "{error}");
    }
    // Later ones may not take more than the first.
    let (mut state, mut attention) = begin();
    attention.place(5, 0, vec![stored(&model, &captured, 5, 20)], rotary).unwrap();
    let error = attention.place(5, 0, all_stored(&model, &captured, 5, 30, 16), rotary).unwrap_err();
    assert!(matches!(error, Error::Invalid(Invalid { what: "passages", .. })), "{error}");
    attention.place(5, 0, vec![stored(&model, &captured, 5, 10), unread(3)], rotary).unwrap();
    // What is read has to be what was placed, where it was placed.
    attention.read_at(Some(1..2));
    for (position, count) in [(22, 4), (21, 3)] {
        state.position = position;
        let error = model.forward(&tokens[..count], &mut state, &mut attention, Logits::None).unwrap_err();
        assert!(matches!(error, Error::Position { .. }), "{error}");
    }
    attention.read_at(Some(7..9));
    assert!(model.forward(&tokens[..1], &mut state, &mut attention, Logits::None).is_err());
}

/// Exchanged passages leave nothing of those before.
#[test]
fn passages_are_exchanged_as_a_whole() {
    let model = load("qwen3", &all_layers(16, &cpu()));
    let tokens = some_tokens(TOTAL, model.config().vocab_size, 12);
    let captured = capture(&model, &tokens[..90]);
    let run = |first: Vec<Stretch>, then: Option<Vec<Stretch>>| {
        let (mut state, mut attention) = (SequenceState::new(&model), attention(&model, 4));
        logits(&model, &mut state, &mut attention, &tokens[..4], 4);
        attention.place(4, 0, first, model.rotary()).unwrap();
        if let Some(then) = then {
            attention.place(4, 0, then, model.rotary()).unwrap();
        }
        state.position = attention.region().unwrap().end;
        to_rows(&model.forward(&tokens[90..], &mut state, &mut attention, Logits::All).unwrap().unwrap())
    };
    let (one, other) = (all_stored(&model, &captured, 4, 36, 16), all_stored(&model, &captured, 36, 68, 16));
    let wanted = run(other.clone(), None);
    assert!(difference(&run(one.clone(), Some(other)), &wanted) < 1e-6);
    assert!(difference(&run(one, None), &wanted) > 1e-3);
}
