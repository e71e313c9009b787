//! Sinks and the position schemes of recalled chunks, against a plain computation of their definitions.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{Device, Tensor};
use mnemon_memory::{EntryPolicy, KvDtype};
use mnemon_runtime::{
    Attention, CaptureAttention, CaptureOptions, Captured, LayerContext, LoadOptions, LocalAttention, LocalMask,
    Logits, PositionScheme, RecallAttention, RecallOptions, Result, SequenceState,
};

use crate::common::{TestMemory, cpu, difference, load, logits, some_tokens};

const WINDOW: usize = 7;
const SINKS: usize = 3;

/// Turns a vector by an angle of `position`, theta 10000, in f64.
fn turn(x: &[f32], position: i64) -> Vec<f64> {
    let half = x.len() / 2;
    let angle = |i: usize| position as f64 * 10_000_f64.powf(-(i as f64) / half as f64);
    let left = (0..half).map(|i| f64::from(x[i]) * angle(i).cos() - f64::from(x[i + half]) * angle(i).sin());
    let right = (0..half).map(|i| f64::from(x[i + half]) * angle(i).cos() + f64::from(x[i]) * angle(i).sin());
    left.chain(right).collect()
}

type Rows = Vec<Vec<Vec<f32>>>;

/// The definitions, with loops: what a query sees, and from how far.
struct Plain {
    recalled: Option<(Captured, PositionScheme)>,
    /// Keys and values of each layer, `[kv_heads][token][head_dim]`.
    kept: Vec<(Rows, Rows)>,
}

impl Plain {
    fn row<'a>(captured: &Captured, data: &'a [f32], head: usize, token: usize) -> &'a [f32] {
        let dim = data.len() / captured.len / 2;
        &data[(head * captured.len + token) * dim..][..dim]
    }
}

impl Attention for Plain {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (q, k, v): (Rows, Rows, Rows) = (q.to_vec3()?, k.to_vec3()?, v.to_vec3()?);
        if self.kept.len() == layer.index {
            self.kept.push((vec![Vec::new(); k.len()], vec![Vec::new(); k.len()]));
        }
        let (keys, values) = &mut self.kept[layer.index];
        for head in 0..k.len() {
            keys[head].extend(k[head].iter().cloned());
            values[head].extend(v[head].iter().cloned());
        }
        let (heads, n, dim) = (q.len(), q[0].len(), q[0][0].len());
        let mut out = vec![0.0_f32; n * heads * dim];
        for (head, queries) in q.iter().enumerate() {
            let kv = head / (heads / keys.len());
            for (i, query) in queries.iter().enumerate() {
                let p = layer.first_position + i;
                let mut seen: Vec<(f64, &[f32])> = Vec::new();
                let mut see = |key: &[f32], value, distance: i64| {
                    let product: f64 = turn(query, distance).iter().zip(key).map(|(q, k)| q * f64::from(*k)).sum();
                    seen.push((f64::from(layer.scale) * product, value));
                };
                for j in 0..=p {
                    if j < SINKS {
                        see(&keys[kv][j], &values[kv][j], p.min(SINKS + WINDOW - 1) as i64 - j as i64);
                    } else if p - j < WINDOW {
                        see(&keys[kv][j], &values[kv][j], (p - j) as i64);
                    }
                }
                if let (Some((captured, scheme)), Some(slot)) = (&self.recalled, layer.slot) {
                    for token in 0..captured.len {
                        let distance = match scheme {
                            PositionScheme::Fixed { distance } => *distance,
                            _ => captured.len - token + p.saturating_sub(SINKS).min(WINDOW - 1),
                        };
                        let key = Self::row(captured, &captured.keys[slot], kv, token);
                        see(key, Self::row(captured, &captured.values[slot], kv, token), distance as i64);
                    }
                }
                let largest = seen.iter().fold(f64::NEG_INFINITY, |m, (logit, _)| m.max(*logit));
                let total: f64 = seen.iter().map(|(logit, _)| (logit - largest).exp()).sum();
                for (logit, value) in seen {
                    let weight = (logit - largest).exp() / total;
                    for (d, x) in value.iter().enumerate() {
                        out[(i * heads + head) * dim + d] += (weight * f64::from(*x)) as f32;
                    }
                }
            }
        }
        Ok(Tensor::from_vec(out, (n, heads * dim), &Device::Cpu)?)
    }
}

#[test]
fn sinks_keep_a_bounded_distance() {
    for name in ["llama", "mistral", "qwen3"] {
        let model = load(name, &cpu());
        let prompt = some_tokens(40, 64, 9);
        let mut plain = Plain { recalled: None, kept: Vec::new() };
        let expected = logits(&model, &mut SequenceState::new(&model), &mut plain, &prompt, 40);
        for step in [40, 6, 1] {
            let mut local = LocalAttention::new(&model, WINDOW, SINKS);
            let found = logits(&model, &mut SequenceState::new(&model), &mut local, &prompt, step);
            let error = difference(&found, &expected);
            assert!(error < 1e-4, "{name}, {step} tokens a call: {error}");
        }
    }
}

#[test]
fn recalled_chunks_stand_where_the_scheme_says() {
    for name in ["llama", "mistral", "qwen3"] {
        let options = LoadOptions {
            memory_layers: Some(vec![1]),
            kv_dtype: Some(KvDtype::F32),
            chunk_tokens: Some(5),
            entry_policy: Some(EntryPolicy::PerToken),
            ..cpu()
        };
        let model = load(name, &options);
        let options = CaptureOptions { window: 8, sinks: 0, local: LocalMask::Sliding, recall: None };
        let mut capture = CaptureAttention::new(&model, options).unwrap();
        model.forward(&some_tokens(23, 64, 2), &mut SequenceState::new(&model), &mut capture, Logits::None).unwrap();
        let captured = capture.drain(true).unwrap().unwrap();
        let memory = Arc::new(TestMemory::new(&model));
        memory.add(&captured, 5);
        let prompt = some_tokens(30, 64, 3);
        for positions in [PositionScheme::Fixed { distance: 12 }, PositionScheme::Contiguous] {
            let mut plain = Plain { recalled: Some((captured.clone(), positions)), kept: Vec::new() };
            let expected = logits(&model, &mut SequenceState::new(&model), &mut plain, &prompt, 30);
            let all = RecallOptions { everything: true, positions, ..RecallOptions::default() };
            let top_k = RecallOptions {
                top_k_chunks: 5,
                entries_per_query: 23,
                block_tokens: 4,
                positions,
                ..RecallOptions::default()
            };
            for (options, step) in [(all.clone(), 30), (all, 7), (top_k.clone(), 30), (top_k, 1)] {
                let mut recall =
                    RecallAttention::new(&model, WINDOW, SINKS, Arc::clone(&memory) as _, options).unwrap();
                let found = logits(&model, &mut SequenceState::new(&model), &mut recall, &prompt, step);
                let error = difference(&found, &expected);
                assert!(error < 1e-4, "{name} {positions:?}, {step} tokens a call: {error}");
            }
        }
    }
}
