//! Drawing tokens.

use std::collections::VecDeque;

use candle_core::Tensor;
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;
use mnemon_memory::Invalid;

use crate::error::{Error, Result};

/// Tokens that the repetition penalty looks back at.
const PENALTY_TOKENS: usize = 256;

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits; 0 takes the most probable token. At most 100.
    pub temperature: f64,
    /// Draw from so many of the most probable tokens, at least 1.
    pub top_k: Option<usize>,
    /// Draw from the most probable tokens that together have this probability, above 0 and at most 1.
    pub top_p: Option<f64>,
    /// Divides (multiplies, if negative) the logits of the last 256 tokens; 1 leaves them. Above 0, at most 100.
    pub repetition_penalty: f32,
    /// Seed: the same seed, prompt and options give the same text.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingOptions {
    /// Refuses values outside of the ranges above.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what, given: String, wanted: &str| {
            Err(Error::Invalid(Invalid { what, why: format!("{given}; {wanted} is accepted") }))
        };
        if !(0.0..=100.0).contains(&self.temperature) {
            return refuse("temperature", self.temperature.to_string(), "0 to 100");
        }
        if self.top_k == Some(0) {
            return refuse("top_k", "0".into(), "at least 1");
        }
        if let Some(p) = self.top_p.filter(|&p| !(p > 0.0 && p <= 1.0)) {
            return refuse("top_p", p.to_string(), "above 0 and at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0) {
            return refuse("repetition_penalty", self.repetition_penalty.to_string(), "above 0 and at most 100");
        }
        Ok(())
    }
}

/// Draws tokens of one sequence.
pub(super) struct Sampler {
    processor: LogitsProcessor,
    penalty: f32,
    /// The last tokens of prompt and text.
    recent: VecDeque<u32>,
}

impl Sampler {
    pub(super) fn new(options: &SamplingOptions) -> Result<Self> {
        options.validate()?;
        let temperature = options.temperature;
        let sampling = match (options.top_k, options.top_p) {
            _ if temperature < 1e-7 => Sampling::ArgMax,
            (None, None) => Sampling::All { temperature },
            (Some(k), None) => Sampling::TopK { k, temperature },
            (None, Some(p)) => Sampling::TopP { p, temperature },
            (Some(k), Some(p)) => Sampling::TopKThenTopP { k, p, temperature },
        };
        let processor = LogitsProcessor::from_sampling(options.seed, sampling);
        Ok(Self { processor, penalty: options.repetition_penalty, recent: VecDeque::new() })
    }

    /// Remembers a token for the repetition penalty.
    pub(super) fn saw(&mut self, id: u32) {
        if self.recent.len() == PENALTY_TOKENS {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
    }

    /// Draws a token from f32 `logits` `[vocab]`.
    pub(super) fn draw(&mut self, logits: &Tensor) -> Result<u32> {
        let largest = logits.max(0)?.to_scalar::<f32>()?;
        // A NaN anywhere makes the sum NaN; the maximum may miss it.
        if !largest.is_finite() || logits.sum_all()?.to_scalar::<f32>()?.is_nan() {
            return Err(Error::NotFinite);
        }
        #[allow(clippy::float_cmp)] // exactly 1 means none
        let id = if self.penalty == 1.0 {
            self.processor.sample(logits)?
        } else {
            self.processor.sample(&apply_repeat_penalty(logits, self.penalty, self.recent.make_contiguous())?)?
        };
        self.saw(id);
        Ok(id)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn draws(options: &SamplingOptions, n: usize) -> Vec<u32> {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let logits = Tensor::new(logits, &Device::Cpu).unwrap();
        let mut sampler = Sampler::new(options).unwrap();
        (0..n).map(|_| sampler.draw(&logits).unwrap()).collect()
    }

    #[test]
    fn temperature_zero_takes_the_most_probable() {
        let most = draws(&SamplingOptions::default(), 3);
        assert!(most.iter().all(|&id| id == most[0]));
        let penalised = draws(&SamplingOptions { repetition_penalty: 5.0, ..Default::default() }, 3);
        assert_eq!(penalised[0], most[0]);
        assert!(penalised[1] != most[0] && penalised[2] != penalised[1]);
    }

    #[test]
    fn a_seed_decides_everything() {
        for (top_k, top_p) in [(None, None), (Some(5), None), (None, Some(0.9)), (Some(20), Some(0.8))] {
            let options = SamplingOptions { temperature: 1.5, top_k, top_p, seed: 7, ..Default::default() };
            let once = draws(&options, 40);
            assert_eq!(once, draws(&options, 40));
            assert_ne!(once, draws(&SamplingOptions { seed: 8, ..options.clone() }, 40));
            if top_k == Some(5) {
                let mut distinct = once;
                distinct.sort_unstable();
                distinct.dedup();
                assert!(distinct.len() <= 5);
            }
        }
    }

    #[test]
    fn bad_numbers_are_refused() {
        let refused = |options: SamplingOptions| assert!(Sampler::new(&options).is_err(), "{options:?}");
        refused(SamplingOptions { temperature: f64::NAN, ..Default::default() });
        refused(SamplingOptions { temperature: -1.0, ..Default::default() });
        refused(SamplingOptions { top_k: Some(0), ..Default::default() });
        refused(SamplingOptions { top_p: Some(0.0), ..Default::default() });
        refused(SamplingOptions { repetition_penalty: 0.0, ..Default::default() });
        let mut sampler = Sampler::new(&SamplingOptions::default()).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let logits = Tensor::new(&[0.0, bad, 1.0], &Device::Cpu).unwrap();
            assert!(matches!(sampler.draw(&logits), Err(Error::NotFinite)));
        }
    }
}
