//! The one computation under all strategies: attention over parts, on the CPU through `mnemon-kernels`, elsewhere
//! through tensor operations.

use candle_core::{Device, Tensor};
use mnemon_kernels::{Data, LogitRule, Mask};

use super::{host, tensors};
use crate::error::Result;

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `mnemon-kernels`, on slices.
    Host,
    /// candle, on any device.
    Tensors,
}

impl Backend {
    pub(crate) fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Host } else { Self::Tensors }
    }
}

/// Keys or values of a part, `[n_kv_heads, len, head_dim]`.
#[derive(Debug, Clone)]
pub(crate) enum Source<'a> {
    /// In memory, in the type in which they are stored.
    Data(Data<'a>),
    /// In a tensor.
    Tensor(Tensor),
}

impl Source<'_> {
    /// In a tensor of `shape` on `device`, in the type in which they are.
    pub(crate) fn to_tensor(&self, shape: (usize, usize, usize), device: &Device) -> Result<Tensor> {
        Ok(match self {
            Self::Tensor(tensor) => tensor.clone(),
            Self::Data(Data::F32(values)) => Tensor::from_slice(values, shape, device)?,
            Self::Data(Data::F16(values)) => Tensor::from_slice(values, shape, device)?,
            Self::Data(Data::Bf16(values)) => Tensor::from_slice(values, shape, device)?,
        })
    }
}

/// Keys and values that are attended to together.
pub(crate) struct Part<'a> {
    /// As this part wants them (rotated or not), `[n_heads, n, head_dim]`.
    pub(crate) queries: Tensor,
    pub(crate) keys: Source<'a>,
    pub(crate) values: Source<'a>,
    pub(crate) len: usize,
    pub(crate) mask: Mask,
    pub(crate) logits: LogitRule<'a>,
}

/// What attention over parts returns.
pub(crate) struct Output {
    /// `[n_heads, n, head_dim]`, f32; zero where a query sees nothing.
    pub(crate) context: Tensor,
    /// `[n_parts, n_heads, n]`: natural logarithm of the sum of exponentiated logits.
    pub(crate) part_lse: Vec<f32>,
    /// The same over all parts, `[n_heads, n]`.
    pub(crate) lse: Vec<f32>,
}

/// One softmax over all parts.
pub(crate) fn attention(backend: Backend, n_kv_heads: usize, queries: &Tensor, parts: &[Part<'_>]) -> Result<Output> {
    match backend {
        Backend::Host => host::attention(n_kv_heads, queries.dims3()?, parts),
        Backend::Tensors => tensors::attention(n_kv_heads, queries, parts),
    }
}
