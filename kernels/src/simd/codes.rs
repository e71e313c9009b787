//! Products of 16-bit queries with 8-bit codes. Not written over [`Vector`](super::vector::Vector): these are integers.

use std::sync::OnceLock;

/// Rows whose cache lines are asked for before the first one is read: they arrive together instead of in turn.
const AHEAD: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Level {
    #[inline]
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Portable))
    }

    pub(crate) fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                levels.push(Self::Avx2);
            }
            if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
                levels.push(Self::Vnni);
            }
        }
        levels
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => "avx512-vnni",
        }
    }

    #[inline]
    pub(crate) fn rows(self, query: &[i16], codes: &[u8], rows: &[u32], out: &mut Vec<i32>) {
        match self {
            // SAFETY: `Portable` needs no features.
            Self::Portable => unsafe { rows_of::<Portable>(query, codes, rows, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level exists only if the processor has the features.
            Self::Avx2 => unsafe { rows_avx2(query, codes, rows, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level exists only if the processor has the features.
            Self::Vnni => unsafe { rows_vnni(query, codes, rows, out) },
        }
    }

    #[inline]
    pub(crate) fn tile(self, queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
        match self {
            // SAFETY: `Portable` needs no features.
            Self::Portable => unsafe { tile_of::<Portable>(queries, dim, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level exists only if the processor has the features.
            Self::Avx2 => unsafe { tile_avx2(queries, dim, codes, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this level exists only if the processor has the features.
            Self::Vnni => unsafe { tile_vnni(queries, dim, codes, out) },
        }
    }
}

/// Rows of a register block.
const ROWS: usize = 4;

/// Queries of a register block at most. With more, the compiler keeps sums in memory (measured: half the speed).
const MAX_QUERIES: usize = 2;

/// How an instruction set makes a register block of products.
trait Products {
    /// Products of `M` queries with [`ROWS`] rows, `[M, ROWS]`.
    ///
    /// # Safety
    /// `queries` is valid for `[M, dim]` and each of `rows` for `[dim]`; the caller has enabled the features.
    unsafe fn block<const M: usize>(queries: *const i16, dim: usize, rows: [*const u8; ROWS]) -> [[i32; ROWS]; M];
}

/// # Safety
/// The caller has enabled the features of `P`.
#[inline(always)]
unsafe fn rows_of<P: Products>(query: &[i16], codes: &[u8], rows: &[u32], out: &mut Vec<i32>) {
    let dim = query.len();
    let n = codes.len().checked_div(dim).unwrap_or(0);
    out.reserve(rows.len());
    for row in rows.iter().take(AHEAD) {
        super::dot::prefetch(codes, (*row as usize).wrapping_mul(dim), dim);
    }
    for (index, four) in rows.chunks(ROWS).enumerate() {
        for row in rows.iter().skip(index * ROWS + AHEAD).take(ROWS) {
            super::dot::prefetch(codes, (*row as usize).wrapping_mul(dim), dim);
        }
        let known = |row: u32| (row as usize) < n;
        if n == 0 {
            out.extend(four.iter().map(|_| i32::MIN));
            continue;
        }
        let place = |i: usize| {
            let row = four[i.min(four.len() - 1)];
            if known(row) { row as usize } else { 0 }
        };
        // SAFETY: each place is below `n`, so `dim` codes follow; features as promised by the caller.
        unsafe {
            let starts = std::array::from_fn(|i| codes.as_ptr().add(place(i) * dim));
            let [products] = P::block::<1>(query.as_ptr(), dim, starts);
            let products = four.iter().zip(products);
            out.extend(products.map(|(row, product)| if known(*row) { product } else { i32::MIN }));
        }
    }
}

/// # Safety
/// The caller has enabled the features of `P`.
#[inline(always)]
unsafe fn tile_of<P: Products>(queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
    let n = codes.len() / dim;
    for (queries, out) in queries.chunks(MAX_QUERIES * dim).zip(out.chunks_mut(MAX_QUERIES * n)) {
        let count = (queries.len() / dim).min(out.len() / n);
        // SAFETY: `count` whole queries, and as many rows of `out`, are there; features as promised by the caller.
        unsafe {
            match count {
                0 => {}
                1 => tile_of_queries::<P, 1>(queries, dim, codes, out),
                _ => tile_of_queries::<P, MAX_QUERIES>(queries, dim, codes, out),
            }
        }
    }
}

/// # Safety
/// `queries` holds `[M, dim]` and `out` `[M, n]`; the caller has enabled the features of `P`.
#[inline(always)]
unsafe fn tile_of_queries<P: Products, const M: usize>(queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
    let n = codes.len() / dim;
    for first in (0..n).step_by(ROWS) {
        super::dot::prefetch(codes, (first + 2 * AHEAD) * dim, ROWS * dim);
        // SAFETY: places are below `n`; the rest is the caller's promise.
        let products = unsafe {
            let rows = std::array::from_fn(|i| codes.as_ptr().add((first + i).min(n - 1) * dim));
            P::block::<M>(queries.as_ptr(), dim, rows)
        };
        let count = (n - first).min(ROWS);
        for (m, products) in products.iter().enumerate() {
            let out = &mut out[m * n + first..][..count];
            match out.as_chunks_mut::<ROWS>().0.first_mut() {
                // A known length makes one store of it.
                Some(out) => *out = *products,
                None => out.copy_from_slice(&products[..count]),
            }
        }
    }
}

/// Adds the products from `from` on.
///
/// # Safety
/// As [`Products::block`].
#[inline(always)]
unsafe fn add_rest<const M: usize>(
    sums: &mut [[i32; ROWS]; M],
    queries: *const i16,
    dim: usize,
    rows: [*const u8; ROWS],
    from: usize,
) {
    for (m, sums) in sums.iter_mut().enumerate() {
        for (sum, row) in sums.iter_mut().zip(rows) {
            for at in from..dim {
                // SAFETY: the caller's promise.
                *sum += unsafe { i32::from(*queries.add(m * dim + at)) * i32::from(*row.add(at)) };
            }
        }
    }
}

struct Portable;

impl Products for Portable {
    #[inline(always)]
    unsafe fn block<const M: usize>(queries: *const i16, dim: usize, rows: [*const u8; ROWS]) -> [[i32; ROWS]; M] {
        let mut sums = [[0; ROWS]; M];
        // SAFETY: the caller's promise.
        unsafe { add_rest(&mut sums, queries, dim, rows, 0) };
        sums
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Products for Avx2 {
    #[inline(always)]
    unsafe fn block<const M: usize>(queries: *const i16, dim: usize, rows: [*const u8; ROWS]) -> [[i32; ROWS]; M] {
        use std::arch::x86_64::*;
        let whole = dim - dim % 16;
        // SAFETY: loads start below `whole` and are 16 elements long; the rest is the caller's promise.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); ROWS]; M];
            for at in (0..whole).step_by(16) {
                for n in 0..ROWS {
                    let key = _mm256_cvtepu8_epi16(_mm_loadu_si128(rows[n].add(at).cast()));
                    for m in 0..M {
                        let query = _mm256_loadu_si256(queries.add(m * dim + at).cast());
                        sums[m][n] = _mm256_add_epi32(sums[m][n], _mm256_madd_epi16(key, query));
                    }
                }
            }
            let mut products = [[0; ROWS]; M];
            for m in 0..M {
                products[m] = sum_of_four(sums[m]);
            }
            if whole < dim {
                add_rest(&mut products, queries, dim, rows, whole);
            }
            products
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct Vnni;

#[cfg(target_arch = "x86_64")]
impl Products for Vnni {
    #[inline(always)]
    unsafe fn block<const M: usize>(queries: *const i16, dim: usize, rows: [*const u8; ROWS]) -> [[i32; ROWS]; M] {
        use std::arch::x86_64::*;
        let whole = dim - dim % 32;
        // SAFETY: loads start below `whole` and are 32 elements long; the rest is the caller's promise.
        unsafe {
            let mut sums = [[_mm512_setzero_si512(); ROWS]; M];
            for at in (0..whole).step_by(32) {
                for n in 0..ROWS {
                    let key = _mm512_cvtepu8_epi16(_mm256_loadu_si256(rows[n].add(at).cast()));
                    for m in 0..M {
                        let query = _mm512_loadu_si512(queries.add(m * dim + at).cast());
                        sums[m][n] = _mm512_dpwssd_epi32(sums[m][n], key, query);
                    }
                }
            }
            let mut products = [[0; ROWS]; M];
            for m in 0..M {
                let mut halves = [_mm256_setzero_si256(); ROWS];
                for n in 0..ROWS {
                    let upper = _mm512_extracti64x4_epi64::<1>(sums[m][n]);
                    halves[n] = _mm256_add_epi32(_mm512_castsi512_si256(sums[m][n]), upper);
                }
                products[m] = sum_of_four(halves);
            }
            if whole < dim {
                add_rest(&mut products, queries, dim, rows, whole);
            }
            products
        }
    }
}

/// Sum of the lanes of each.
///
/// # Safety
/// The caller has enabled AVX2.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn sum_of_four([a, b, c, d]: [std::arch::x86_64::__m256i; 4]) -> [i32; 4] {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise; the array is as long as the store.
    unsafe {
        let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let sums = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let mut out = [0; 4];
        _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
        out
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn rows_avx2(query: &[i16], codes: &[u8], rows: &[u32], out: &mut Vec<i32>) {
    // SAFETY: this function enables the features of `Avx2`.
    unsafe { rows_of::<Avx2>(query, codes, rows, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn tile_avx2(queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
    // SAFETY: this function enables the features of `Avx2`.
    unsafe { tile_of::<Avx2>(queries, dim, codes, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn rows_vnni(query: &[i16], codes: &[u8], rows: &[u32], out: &mut Vec<i32>) {
    // SAFETY: this function enables the features of `Vnni`.
    unsafe { rows_of::<Vnni>(query, codes, rows, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2")]
fn tile_vnni(queries: &[i16], dim: usize, codes: &[u8], out: &mut [i32]) {
    // SAFETY: this function enables the features of `Vnni`.
    unsafe { tile_of::<Vnni>(queries, dim, codes, out) }
}
