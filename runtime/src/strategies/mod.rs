//! The strategies behind the [`Attention`](crate::Attention) seam.
//!
//! | file | idea |
//! |---|---|
//! | `full`, `local`, `capture`, `recall` | one strategy each |
//! | `passages` | passages of memory in the middle of a prompt, for models that were not trained with memory |
//! | `memory` | recalled chunks: chosen, placed, attended to, weighed |
//! | `masses` | attention that chunks receive, summed |
//! | `importance` | attention that tokens receive while they are local |
//! | `options` | how a document is read, and what a query recalls |

mod capture;
mod full;
mod importance;
mod local;
mod masses;
mod memory;
mod options;
mod passages;
mod recall;
#[cfg(test)]
mod tests;

pub use capture::CaptureAttention;
pub use full::FullAttention;
pub use local::LocalAttention;
pub use options::{CaptureOptions, Captured, PositionScheme, RecallFrom, RecallOptions};
pub use passages::{PassageAttention, Stretch};
pub use recall::RecallAttention;
