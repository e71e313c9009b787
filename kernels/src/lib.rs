//! Attention and distance kernels of Mnemon.

mod attention;
mod data;
mod error;
pub mod reference;
mod topk;

pub use attention::{AttentionOutput, AttentionShape, LogitRule, Mask, Segment, attention};
pub use data::Data;
pub use error::{Error, Result};
pub use topk::top_k_inner_product;
