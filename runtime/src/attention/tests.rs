//! Tensor operations compute what the kernels compute, in every strategy.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::Arc};

use mnemon_memory_store::{ChunkId, ChunkInfo, ChunkKv, Hit, KvData, KvDtype, KvGeometry, Recall, SearchRequest};

use super::*;
use crate::{DeviceChoice, LoadOptions, Logits, Model, ModelSource, SequenceState};

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

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory_store::Result<Vec<Vec<Hit>>> {
        let lists = request.queries.len() / self.geometry.head_dim as usize;
        let hit = |i: u64| Hit { score: i as f32, chunk: ChunkId(i), start: 0, len: 8 };
        Ok(vec![(1..4).rev().map(hit).collect(); lists])
    }

    fn fetch(&self, slot: usize, ids: &[ChunkId]) -> mnemon_memory_store::Result<Vec<Arc<ChunkKv>>> {
        Ok(ids.iter().map(|id| Arc::clone(&self.chunks[id.0 as usize][slot])).collect())
    }

    fn describe(&self, _: &[ChunkId]) -> mnemon_memory_store::Result<Vec<ChunkInfo>> {
        Ok(Vec::new())
    }

    fn chunks(&self, _: usize) -> mnemon_memory_store::Result<Vec<ChunkId>> {
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
