//! Products of queries in 16 bits with keys in codes of 8 bits, for searches that look at codes first and at the keys
//! themselves only for what may be among the best.

use crate::simd::codes::Level;

/// Integer products on one instruction set: AVX-512 with VNNI, AVX2, or portable code, which the compiler turns into the
/// vector instructions that every processor of the target has (NEON on 64-bit ARM).
///
/// All levels give the same integers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CodeDot(Level);

impl CodeDot {
    /// On the best instruction set of this processor.
    #[inline]
    pub fn detect() -> Self {
        Self(Level::detect())
    }

    /// One for each instruction set that this processor has, best last; the portable one is always first.
    pub fn available() -> Vec<Self> {
        Level::available().into_iter().map(Self).collect()
    }

    /// Name of the instruction set, in lower case.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The largest absolute value that a query of `dim` values may have: with it, no product exceeds 32 bits.
    pub fn query_limit(dim: usize) -> i16 {
        let limit = i32::MAX as usize / 255 / dim.max(1);
        limit.min(i16::MAX as usize) as i16
    }

    /// Appends to `out` the product of `query`, `[dim]`, and each of `rows` of `codes`, `[n, dim]`, in order; the least
    /// `i32` for a row that does not exist. Rows are fetched into the cache some rows ahead of their use.
    #[inline]
    pub fn rows(self, query: &[i16], codes: &[u8], rows: &[u32], out: &mut Vec<i32>) {
        self.0.rows(query, codes, rows, out);
    }

    /// Writes to `out`, `[n_queries, n]`, the products of all `queries`, `[n_queries, dim]`, and all rows of `codes`,
    /// `[n, dim]`. What lies past the end of either is left out.
    #[inline]
    pub fn tile(self, queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
        if dim > 0 && codes.len() >= dim {
            self.0.tile(queries, dim, codes, out);
        }
    }
}

impl std::fmt::Debug for CodeDot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CodeDot({})", self.name())
    }
}
