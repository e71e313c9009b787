//! Rotary position encoding.

use std::collections::VecDeque;
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Tensor};

use crate::config::{RopeConfig, RopeScaling};
use crate::error::Result;
use crate::host::host_values;

/// Angles kept for the next layer, which asks for the same positions again.
const MEMO_MAX: usize = 64;

/// Rotary position encoding (arXiv 2104.09864) in the half-split layout of Hugging Face transformers: values `i` and
/// `i + head_dim/2` of a head are a plane, turned by `position * theta^(-2i/head_dim)`. Angles are computed in f64.
#[derive(Debug)]
pub struct Rotary {
    /// None: nothing is rotated.
    config: Option<RopeConfig>,
    head_dim: usize,
    /// Frequencies within the length that the model was trained with, `[head_dim / 2]`.
    inverse: Vec<f64>,
    /// Factor of cosines and sines (`YaRN`).
    magnitude: f64,
    /// The angles asked for last, newest first, at most [`MEMO_MAX`].
    memo: Mutex<VecDeque<Arc<Angles>>>,
}

#[derive(Debug)]
struct Angles {
    positions: Vec<i64>,
    span: usize,
    /// `[n, head_dim / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The same on the device, once asked for.
    tensors: OnceLock<(Tensor, Tensor)>,
}

impl Rotary {
    pub(crate) fn new(config: RopeConfig, head_dim: usize) -> Self {
        let (inverse, magnitude) = frequencies(config, head_dim, 0);
        Self { config: Some(config), head_dim, inverse, magnitude, memo: Mutex::new(VecDeque::new()) }
    }

    /// For models that tell positions in another way: rotates nothing.
    pub(crate) fn none(head_dim: usize) -> Self {
        Self { config: None, head_dim, inverse: Vec::new(), magnitude: 1.0, memo: Mutex::new(VecDeque::new()) }
    }

    /// Factor of rotated vectors against unrotated ones; 1 but for `YaRN`.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
    }

    /// Whether frequencies depend on the length of the sequence.
    pub(crate) fn is_dynamic(&self) -> bool {
        matches!(self.config, Some(RopeConfig { scaling: RopeScaling::Dynamic { .. }, .. }))
    }

    /// Rotates `x` `[heads, n, head_dim]`, token `i` by `positions[i]`.
    pub fn apply(&self, x: &Tensor, positions: &[i64]) -> Result<Tensor> {
        self.apply_within(x, positions, 0)
    }

    /// [`apply`](Self::apply) with the frequencies for distances up to `span` tokens; matters for dynamic scaling
    /// alone. Only vectors rotated for one span may be compared.
    pub fn apply_within(&self, x: &Tensor, positions: &[i64], span: usize) -> Result<Tensor> {
        if self.config.is_none() {
            return Ok(x.clone());
        }
        let angles = self.angles(positions, if self.is_dynamic() { span } else { 0 });
        let (heads, n, head_dim) = x.dims3()?;
        if x.device().is_cpu() && x.dtype() == DType::F32 {
            let turned = host_values(x, |values| turn(values, n, head_dim, &angles.cos, &angles.sin))?;
            return Ok(Tensor::from_vec(turned, (heads, n, head_dim), &Device::Cpu)?);
        }
        let (cos, sin) = if let Some(tensors) = angles.tensors.get() {
            tensors.clone()
        } else {
            let shape = (n, head_dim / 2);
            let made = (
                Tensor::from_slice(&angles.cos, shape, x.device())?,
                Tensor::from_slice(&angles.sin, shape, x.device())?,
            );
            angles.tensors.get_or_init(|| made).clone()
        };
        // Rotated in f32 whatever the type: positions need its precision.
        let wide = x.to_dtype(DType::F32)?.unsqueeze(0)?.contiguous()?;
        Ok(candle_nn::rotary_emb::rope(&wide, &cos, &sin)?.squeeze(0)?.to_dtype(x.dtype())?)
    }

    fn angles(&self, positions: &[i64], span: usize) -> Arc<Angles> {
        let mut memo = self.memo.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = memo.iter().find(|angles| angles.span == span && angles.positions == positions) {
            return Arc::clone(found);
        }
        let longer = self.config.filter(|_| span > 0).map(|config| frequencies(config, self.head_dim, span).0);
        let inverse = longer.as_ref().unwrap_or(&self.inverse);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for (&position, &frequency) in positions.iter().flat_map(|p| inverse.iter().map(move |f| (p, f))) {
            let (s, c) = (position as f64 * frequency).sin_cos();
            cos.push((c * self.magnitude) as f32);
            sin.push((s * self.magnitude) as f32);
        }
        let made = Arc::new(Angles { positions: positions.to_vec(), span, cos, sin, tensors: OnceLock::new() });
        memo.push_front(Arc::clone(&made));
        memo.truncate(MEMO_MAX);
        made
    }
}

/// Rotates `[heads, n, head_dim]`.
fn turn(x: &[f32], n: usize, head_dim: usize, cos: &[f32], sin: &[f32]) -> Vec<f32> {
    let half = head_dim / 2;
    let mut turned = vec![0.0; x.len()];
    for (index, (from, to)) in x.chunks_exact(head_dim).zip(turned.chunks_exact_mut(head_dim)).enumerate() {
        let row = index % n * half;
        let (cos, sin) = (&cos[row..row + half], &sin[row..row + half]);
        let (from_left, from_right) = from.split_at(half);
        let (to_left, to_right) = to.split_at_mut(half);
        for i in 0..half {
            to_left[i] = from_left[i] * cos[i] - from_right[i] * sin[i];
            to_right[i] = from_right[i] * cos[i] + from_left[i] * sin[i];
        }
    }
    turned
}

/// Frequencies `[head_dim / 2]` and the factor of cosines and sines, for distances up to `span`.
fn frequencies(config: RopeConfig, head_dim: usize, span: usize) -> (Vec<f64>, f64) {
    let dim = head_dim as f64;
    let plain = |theta: f64| (0..head_dim / 2).map(move |i| theta.powf(-2.0 * i as f64 / dim));
    let theta = config.theta;
    // The lowest frequency is divided by `factor`, the highest stays.
    let raised = |factor: f64| factor.powf(dim / (dim - 2.0).max(1.0));
    match config.scaling {
        RopeScaling::Default => (plain(theta).collect(), 1.0),
        RopeScaling::Linear { factor } => (plain(theta).map(|f| f / factor).collect(), 1.0),
        RopeScaling::Ntk { factor } => (plain(theta * raised(factor)).collect(), 1.0),
        RopeScaling::Dynamic { factor, original } => {
            let stretch = span.max(original) as f64 / original as f64;
            (plain(theta * raised(factor * stretch - (factor - 1.0))).collect(), 1.0)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let original = original as f64;
            let scaled = |frequency: f64| {
                let wavelength = 2.0 * PI / frequency;
                if wavelength < original / high_freq_factor {
                    frequency
                } else if wavelength > original / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            };
            (plain(theta).map(scaled).collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, truncate } => {
            // The dimension that turns `rotations` times within the original length.
            let border = |rotations: f64| dim * (original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
            let (low, high) = (border(beta_fast), border(beta_slow));
            let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(dim - 1.0));
            let high = if high - low < 0.001 { low + 0.001 } else { high };
            let scaled = plain(theta).enumerate().map(|(i, frequency)| {
                let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * interpolated + frequency * (1.0 - interpolated)
            });
            (scaled.collect(), attention_factor)
        }
    }
}
