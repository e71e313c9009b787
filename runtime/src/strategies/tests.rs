//! Tensor operations compute what the kernels compute, in every strategy.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvData, KvDtype, KvGeometry, Recall, SearchRequest, TermHits, TermRequest,
    WordHits, WordRequest,
};

use super::*;
use crate::attention::{Attention, LocalMask, backend, cache};
use crate::device::DeviceChoice;
use crate::model::{LoadOptions, Logits, Model, ModelSource, SequenceState};
use crate::profile::QueryHead;

fn model(name: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    let tokenizer = r#"{"model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}"#;
    fs::write(folder.path().join("tokenizer.json"), tokenizer).unwrap();
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        kv_dtype: Some(KvDtype::F16),
        chunk_tokens: Some(8),
        ..LoadOptions::default()
    };
    Model::load(&ModelSource::Directory(folder.path().into()), &options).unwrap()
}

fn run(model: &Model, attention: &mut dyn Attention, tokens: &[u32], step: usize) -> Vec<f32> {
    let mut state = SequenceState::new(model);
    tokens
        .chunks(step)
        .flat_map(|piece| {
            let logits = model.forward(piece, &mut state, attention, Logits::All).unwrap().unwrap();
            logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        })
        .collect()
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(a.len() == b.len() && worst < 1e-4, "{what}: {worst}");
}

fn text(n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * i * 7 + i * 13 + 5) % 61).collect()
}

/// Chunks of one captured stretch; searching finds the first ones.
struct Fetched {
    geometry: KvGeometry,
    chunks: Vec<Vec<Arc<ChunkKv>>>,
}

impl Fetched {
    fn new(model: &Model, captured: &Captured) -> Self {
        let (heads, dim) = (model.geometry().kv_heads as usize, model.geometry().head_dim as usize);
        let chunk = |start: usize| {
            let len = 8.min(captured.len - start);
            let cut = |data: &[f32]| {
                let head = |h: usize| &data[(h * captured.len + start) * dim..][..len * dim];
                KvData::F16((0..heads).flat_map(head).map(|&x| half::f16::from_f32(x)).collect())
            };
            let slot = |(keys, values): (&Vec<f32>, &Vec<f32>)| {
                let id = ChunkId(start as u64 / 8);
                let token_start = start as u64;
                Arc::new(ChunkKv { id, document: 1, token_start, len, keys: cut(keys), values: cut(values) })
            };
            captured.keys.iter().zip(&captured.values).map(slot).collect()
        };
        Self { geometry: model.geometry().clone(), chunks: (0..captured.len).step_by(8).map(chunk).collect() }
    }
}

impl Recall for Fetched {
    fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory::Result<Vec<Vec<Hit>>> {
        let lists = request.queries.len() / self.geometry.head_dim as usize;
        let hit = |i: u64| Hit { score: i as f32, chunk: ChunkId(i), start: 0, len: 8 };
        Ok(vec![(1..4).rev().map(hit).collect(); lists])
    }

    fn fetch(&self, slot: usize, ids: &[ChunkId]) -> mnemon_memory::Result<Vec<Arc<ChunkKv>>> {
        Ok(ids.iter().map(|id| Arc::clone(&self.chunks[id.0 as usize][slot])).collect())
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

    fn chunks(&self, _: usize) -> mnemon_memory::Result<Vec<ChunkId>> {
        Ok((0..self.chunks.len() as u64).map(ChunkId).collect())
    }

    fn len(&self) -> u64 {
        self.chunks.len() as u64
    }
}

#[test]
fn full_and_local_attention_agree_between_backends() {
    for name in ["llama", "mistral", "qwen2_sliding", "qwen3"] {
        let (model, text) = (model(name), text(90));
        let host = run(&model, &mut FullAttention::new(&model), &text, 30);
        for step in [90, 7] {
            let tensors = run(&model, &mut FullAttention::on_tensors(&model), &text, step);
            assert_close(&host, &tensors, &format!("{name} full, {step} tokens a call"));
        }
        let host = run(&model, &mut LocalAttention::new(&model, 10, 3), &text, 30);
        for step in [90, 7, 1] {
            let tensors = run(&model, &mut LocalAttention::on_tensors(&model, 10, 3), &text, step);
            assert_close(&host, &tensors, &format!("{name} local, {step} tokens a call"));
        }
    }
}

#[test]
fn recalling_and_capturing_agree_between_backends() {
    for name in ["llama", "qwen3", "memory_joint", "memory_gate", "memory_sinusoidal", "memory_alibi"] {
        let model = model(name);
        let options = CaptureOptions { window: 10, sinks: 0, local: LocalMask::Sliding, recall: None };
        let mut capture = CaptureAttention::new(&model, options.clone()).unwrap();
        let mut on_tensors = CaptureAttention::new(&model, options).unwrap().on_tensors();
        assert_close(&run(&model, &mut capture, &text(61), 20), &run(&model, &mut on_tensors, &text(61), 13), name);
        let (captured, other) = (capture.drain(false).unwrap().unwrap(), on_tensors.drain(false).unwrap().unwrap());
        assert_eq!((captured.len, other.len), (48, 48));
        assert_close(&captured.keys.concat(), &other.keys.concat(), name);
        let memory: Arc<dyn Recall> = Arc::new(Fetched::new(&model, &captured));
        for positions in [PositionScheme::Contiguous, PositionScheme::Fixed { distance: 9 }] {
            for everything in [true, false] {
                let options = RecallOptions { everything, positions, ..RecallOptions::default() };
                let fresh = || RecallAttention::new(&model, 10, 2, Arc::clone(&memory), options.clone()).unwrap();
                let (mut host, mut tensors) = (fresh(), fresh().on_tensors());
                let what = format!("{name} {positions:?} everything: {everything}");
                assert_close(&run(&model, &mut host, &text(50), 50), &run(&model, &mut tensors, &text(50), 16), &what);
                let (a, b) = (host.take_masses(), tensors.take_masses());
                assert_eq!(a.len(), if everything { 6 } else { 3 });
                for ((_, a), (_, b)) in a.iter().zip(&b) {
                    assert!((a - b).abs() < 1e-4, "{what}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn passages_agree_between_backends() {
    for name in ["llama", "mistral", "qwen2_sliding", "qwen3", "llama_dynamic"] {
        let model = model(name);
        let options = CaptureOptions { window: 90, sinks: 0, local: LocalMask::Sliding, recall: None };
        let mut capture = CaptureAttention::new(&model, options).unwrap();
        run(&model, &mut capture, &text(40), 40);
        let captured = capture.drain(true).unwrap().unwrap();
        let memory = Fetched::new(&model, &captured);
        let heads = [QueryHead { layer: 0, head: 1 }, QueryHead { layer: 1, head: 2 }];
        let layers = &model.geometry().layers;
        let run = |mut attention: PassageAttention, step: usize| {
            let mut state = SequenceState::new(&model);
            let mut seen = Vec::new();
            let mut go = |tokens: &[u32], state: &mut SequenceState, attention: &mut PassageAttention| {
                for piece in tokens.chunks(step) {
                    let logits = model.forward(piece, state, attention, Logits::All).unwrap().unwrap();
                    seen.extend(logits.flatten_all().unwrap().to_vec1::<f32>().unwrap());
                }
            };
            go(&text(12), &mut state, &mut attention);
            // A look that reaches further back than a sliding window.
            model.look(&text(20), &mut state, &mut attention, 2).unwrap();
            attention.rewind(12);
            let chunk = |at: usize| {
                let stored: Vec<_> = memory.chunks[at].clone();
                Stretch { chunk: Some(ChunkId(at as u64)), len: stored[0].len, skipped: 0, stored }
            };
            let read = Stretch { chunk: None, len: 5, skipped: 0, stored: Vec::new() };
            let unread = attention.place(12, 30, vec![chunk(0), read, chunk(2)], model.rotary()).unwrap();
            assert_eq!(unread, [(1..2, 12 + 9 + 8)]);
            attention.read_at(Some(1..2));
            state.position = unread[0].1;
            go(&text(5), &mut state, &mut attention);
            attention.read_at(None);
            state.position = 42;
            go(&text(25), &mut state, &mut attention);
            let masses: Vec<f32> = attention.take_masses().iter().map(|(_, mass)| *mass).collect();
            assert_eq!(masses.len(), 2);
            (seen, masses, attention.take_queries())
        };
        let fresh = || PassageAttention::new(&model, 12, 60, layers, &heads, 100);
        // The stretch in the middle is read in one call.
        let host = run(fresh(), 90);
        for step in [90, 7, 5] {
            let tensors = run(fresh().on_tensors(), step);
            let what = format!("{name}, {step} tokens a call");
            assert_close(&host.0, &tensors.0, &what);
            assert_close(&host.1, &tensors.1, &what);
            assert_close(&host.2, &tensors.2, &what);
        }
    }
}

#[test]
fn caches_forget_what_came_last() {
    use candle_core::{Device, Tensor};
    let made = |first: usize, n: usize| {
        let value = |at: usize| (0..2).map(move |of| (first + at) as f32 + 0.25 * of as f32);
        let head = |sign: f32| (0..n).flat_map(value).map(move |value| sign * value).collect::<Vec<_>>();
        Tensor::from_vec([head(1.0), head(-1.0)].concat(), (2, n, 2), &Device::Cpu).unwrap()
    };
    // Positions and values of everything kept.
    let kept = |cache: &cache::Cache| -> Vec<(usize, Vec<f32>)> {
        let mut kept = Vec::new();
        for stretch in cache.stretches().unwrap() {
            let keys = stretch.keys.to_tensor((2, stretch.len, 2), &Device::Cpu).unwrap();
            let values = stretch.values.to_tensor((2, stretch.len, 2), &Device::Cpu).unwrap();
            for at in 0..stretch.len {
                let row = |t: &Tensor| t.narrow(1, at, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                kept.push((stretch.first + at, [row(&keys), row(&values)].concat()));
            }
        }
        kept
    };
    for backend in [backend::Backend::Host, backend::Backend::Tensors] {
        for first in [0, 5, 64] {
            for (len, step) in [(200, 200), (200, 7), (64, 64), (130, 50)] {
                for to in [0, first, first + 1, 63, 64, 65, 127, 128, 129, first + len, first + len + 9] {
                    let mut cache = cache::Cache::new(backend);
                    for at in (0..len).step_by(step) {
                        let (k, v) =
                            (made(first + at, step.min(len - at)), made(1000 + first + at, step.min(len - at)));
                        cache.append(first + at, &k, &v).unwrap();
                    }
                    cache.truncate_from(to);
                    let end = to.clamp(first, first + len);
                    cache.append(end, &made(end, 3), &made(1000 + end, 3)).unwrap();
                    let found = kept(&cache);
                    let positions: Vec<usize> = found.iter().map(|(position, _)| *position).collect();
                    assert_eq!(positions, (first..end + 3).collect::<Vec<_>>(), "{first} {len} {step} to {to}");
                    for (position, values) in &found {
                        let position = *position as f32;
                        let wanted = [position, position + 0.25, -position, -position - 0.25, 1000.0 + position];
                        let differ = values.iter().zip(wanted).any(|(value, wanted)| (value - wanted).abs() > 1e-6);
                        assert!(!differ, "{values:?} {wanted:?}");
                    }
                }
            }
        }
    }
}

/// A gap shorter than a sliding window: what stands before it is still seen after it.
#[test]
fn short_passages_agree_between_backends() {
    let model = model("qwen2_sliding");
    let run = |mut attention: PassageAttention| {
        let mut state = SequenceState::new(&model);
        model.forward(&text(12), &mut state, &mut attention, Logits::None).unwrap();
        let read = Stretch { chunk: None, len: 3, skipped: 0, stored: Vec::new() };
        attention.place(12, 0, vec![read], model.rotary()).unwrap();
        attention.read_at(Some(0..1));
        model.forward(&text(15)[12..], &mut state, &mut attention, Logits::None).unwrap();
        attention.read_at(None);
        let logits = model.forward(&text(25)[15..], &mut state, &mut attention, Logits::All).unwrap().unwrap();
        logits.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let fresh = || PassageAttention::new(&model, 12, 60, &[], &[], 0);
    let whole = self::run(&model, &mut FullAttention::new(&model), &text(25), 25);
    let wanted = &whole[15 * model.config().vocab_size..];
    assert_close(&run(fresh()), wanted, "kernels");
    assert_close(&run(fresh().on_tensors()), wanted, "tensors");
}
