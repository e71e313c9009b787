//! Attention and distance kernels of Mnemon.
//!
//! For callers with keys and values in memory as plain numbers that need attention over them, the largest inner products,
//! or many single ones: the runtime and the memory store. Not for callers that need tensors, graphs of operations or a
//! device abstraction: there are none, and nothing here knows of models, files or time. Matrix products in general are
//! better served by a BLAS.
//!
//! | function | what it does |
//! |---|---|
//! | [`attention()`] | one softmax over the keys of many segments, each with its own queries, mask and logits |
//! | [`top_k_inner_product`] | exact search |
//! | [`Dot`] | products of a query with a few rows here and there, as a graph search makes them |
//! | [`CodeDot`] | integer products of queries with keys in 8-bit codes |
//! | [`affine`] | numbers to codes with an offset and a step |
//! | [`mod@reference`] | the same in plain f64: the oracle of every test |
//!
//! All take stored numbers as [`Data`], in f32, f16 or bf16, and compute in f32. The `_with` variants take an instruction
//! set, [`Isa`]; the others use the best one that the processor has: AVX-512, AVX2 with FMA, or portable code.
//!
//! ```
//! use mnemon_kernels::{AttentionShape, Data, LogitRule, Mask, Segment, attention};
//!
//! # fn main() -> mnemon_kernels::Result<()> {
//! let shape = AttentionShape { n_queries: 1, n_heads: 1, n_kv_heads: 1, head_dim: 2 };
//! let segment = Segment {
//!     queries: &[1.0, 0.0],
//!     keys: Data::F32(&[0.0, 1.0, 0.0, -1.0]),
//!     values: Data::F32(&[2.0, 0.0, 4.0, 0.0]),
//!     len: 2,
//!     mask: Mask::All,
//!     logits: LogitRule { scale: &[1.0], bias: None, slope: None },
//! };
//! let output = attention(shape, &[segment])?;
//! assert_eq!(output.context, [3.0, 0.0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `error` | what calls refuse |
//! | `data` | stored numbers as slices |
//! | `simd` | the inner loops, written once and compiled for each instruction set; all `unsafe` code is here |
//! | `affine` | codes are made |
//! | `codes` | products with codes |
//! | `dot` | single products |
//! | `topk` | search; its `heap` keeps the best of one query |
//! | `attention` | arguments and their checks; its `plan` cuts a call into blocks for threads, `block` attends with one to its segments, through `few` (rows of queries) or `many` (tiles) |
//! | `reference` | all of it in plain f64 |
//!
//! Functions check shapes before they touch data, return errors and do not panic. They run on rayon's current thread
//! pool, or, where there is little to do, on the calling thread.

pub mod affine;
mod attention;
mod codes;
mod data;
mod dot;
mod error;
pub mod reference;
mod simd;
mod topk;

pub use attention::{AttentionOutput, AttentionShape, LogitRule, Mask, Segment, attention, attention_with};
pub use codes::CodeDot;
pub use data::Data;
pub use dot::{Dot, dot, dot_data};
pub use error::{Error, Result};
pub use simd::Isa;
pub use topk::{top_k_inner_product, top_k_inner_product_with};
