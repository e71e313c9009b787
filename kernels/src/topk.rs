//! Exact search for the largest inner products.

use crate::{Data, Error, Result};

/// Refuses arguments that make no sense; returns the number of keys.
pub(crate) fn check_top_k(queries: &[f32], dim: usize, keys: Data<'_>, k: usize) -> Result<usize> {
    if dim == 0 {
        return Err(Error::Shape("dim is 0: give the number of values of one key".into()));
    }
    if k == 0 {
        return Err(Error::Shape("k is 0: ask for at least one key, or do not search".into()));
    }
    whole_rows("queries", queries.len(), dim)?;
    let n_keys = whole_rows("keys", keys.len(), dim)?;
    if u32::try_from(n_keys).is_err() {
        let message = format!("{n_keys} keys, but indices have 32 bits: search in parts of at most {} keys", u32::MAX);
        return Err(Error::Shape(message));
    }
    Ok(n_keys)
}

fn whole_rows(what: &'static str, got: usize, dim: usize) -> Result<usize> {
    let rows = got / dim;
    if rows * dim == got { Ok(rows) } else { Err(Error::Size { what, expected: rows * dim, got }) }
}

/// For each query the `k` keys with the largest inner products.
pub fn top_k_inner_product(
    queries: &[f32],
    dim: usize,
    keys: Data<'_>,
    k: usize,
    skip: Option<&(dyn Fn(usize) -> bool + Sync)>,
) -> Result<Vec<Vec<(f32, u32)>>> {
    crate::reference::top_k_inner_product(queries, dim, keys, k, skip)
}
