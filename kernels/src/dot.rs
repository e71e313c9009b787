//! Single inner products, for searching a graph: a few rows here, a few rows there.

use crate::data::Data;
use crate::simd::Isa;

/// Inner products with stored rows, on one instruction set.
///
/// All methods add in the same order: for one `Dot`, equal rows give results that are equal to the bit, whichever method
/// computed them and whatever stood beside them.
#[derive(Debug, Clone, Copy)]
pub struct Dot {
    isa: Isa,
}

impl Dot {
    /// On the best instruction set of this processor. Cheap, but keep it where products are made in a loop.
    #[inline]
    pub fn detect() -> Self {
        Self::with(Isa::detect())
    }

    /// On an instruction set of the caller's choice, for tests and measurements.
    pub fn with(isa: Isa) -> Self {
        Self { isa }
    }

    /// Inner product of `a` and `b`, both `[dim]`; NaN if their lengths differ.
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        if a.len() == b.len() { self.isa.dot_row(a, Data::F32(b), 0) } else { f32::NAN }
    }

    /// Inner product of `query`, `[dim]`, and row `row` of `keys`, `[n_keys, dim]`; NaN if there is no such row.
    #[inline]
    pub fn dot_data(&self, query: &[f32], keys: Data<'_>, row: usize) -> f32 {
        let dim = query.len();
        let exists = dim > 0 && row < keys.len() / dim;
        if exists { self.isa.dot_row(query, keys, row) } else { f32::NAN }
    }

    /// Appends to `out` the inner product of `query`, `[dim]`, and each of `rows` of `keys`, `[n_keys, dim]`, in order; NaN
    /// for a row that does not exist. Rows are fetched into the cache some rows ahead of their use, so handing over all
    /// neighbours of a node at once costs little more than one trip to memory.
    #[inline]
    pub fn dots(&self, query: &[f32], keys: Data<'_>, rows: &[u32], out: &mut Vec<f32>) {
        self.isa.dot_rows(query, keys, rows, out);
    }
}

/// [`Dot::dot`] on the best instruction set.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    Dot::detect().dot(a, b)
}

/// [`Dot::dot_data`] on the best instruction set.
#[inline]
pub fn dot_data(query: &[f32], keys: Data<'_>, row: usize) -> f32 {
    Dot::detect().dot_data(query, keys, row)
}
