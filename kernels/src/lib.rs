//! Attention and distance kernels of Mnemon.

mod attention;
mod data;
mod dot;
mod error;
pub mod reference;
mod simd;
mod topk;

pub use attention::{AttentionOutput, AttentionShape, LogitRule, Mask, Segment, attention, attention_with};
pub use data::Data;
pub use dot::{Dot, dot, dot_data};
pub use error::{Error, Result};
pub use simd::Isa;
pub use topk::{top_k_inner_product, top_k_inner_product_with};
