//! Instruction sets: found once at run time, then passed by value to every inner loop.
//!
//! | file | what it holds |
//! |---|---|
//! | `vector` | [`vector::Vector`], the few operations that inner loops are written in, and [`vector::Element`], what they load |
//! | `portable`, `avx2`, `avx512` | one implementation of `Vector` each |
//! | `product` | matrix products of one tile |
//! | `softmax` | exponentials of one tile |
//! | `dot` | inner products of queries with rows |
//! | `codes` | integer products of queries with rows of 8-bit codes, with levels of its own |
//!
//! An inner loop is generic over `Vector` and always inlined; `kernels!` compiles it once per instruction set inside a
//! function that enables the features, and makes a method of [`Isa`] that picks one.

// Inlining is what carries the features of the outermost function into the loops: without it, each operation
// would be a call. Register blocks are indexed because their dimensions are what the reader has to follow, and
// intrinsics are better known by their names than by a list of imports.
#![allow(clippy::inline_always, clippy::needless_range_loop, clippy::wildcard_imports)]

pub(crate) mod codes;
mod dot;
mod portable;
mod product;
mod softmax;
pub(crate) mod vector;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::fmt;
use std::sync::OnceLock;

use crate::data::Data;

/// An instruction set that this processor has. Values come only from [`Isa::detect`] and [`Isa::available`], so holding
/// one is proof that its instructions can be executed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best one that this processor has.
    #[inline]
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self(Level::Portable)))
    }

    /// All that this processor has, best last; the portable one is always first. For tests and measurements: everything
    /// else wants [`Isa::detect`].
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
        let mut levels = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 {
                levels.push(Self(Level::Avx2));
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                levels.push(Self(Level::Avx512));
            }
        }
        levels
    }

    /// Name, in lower case.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Floats in one vector register, as far as the inner loops are concerned.
    pub(crate) fn lanes(self) -> usize {
        match self.0 {
            Level::Portable => portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512::LANES,
        }
    }
}

/// Compiles `work`, which is inlined, for an instruction set.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// As `run_avx2`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
fn run_avx512<T>(work: impl FnOnce() -> T) -> T {
    work()
}

impl Isa {
    /// Runs plain loops, compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            Level::Portable => work(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only if the processor has the features.
            Level::Avx2 => unsafe { run_avx2(work) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only if the processor has the features.
            Level::Avx512 => unsafe { run_avx512(work) },
        }
    }
}

/// A number without its fraction, 0 to `top`; 0 for NaN. One conversion: `as` would look for numbers that have no place.
#[inline(always)]
pub(crate) fn truncated(number: f32, top: u8) -> u8 {
    let number = if number > 0.0 { number } else { 0.0 };
    let number = if number < f32::from(top) { number } else { f32::from(top) };
    // SAFETY: it is a number, because comparisons with NaN are false, and from 0 to 255.
    unsafe { number.to_int_unchecked::<i32>() as u8 }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

/// Defines methods of `Isa` that call `$module::$name::<V>` compiled for the instruction set.
///
/// The generic functions are unsafe for one reason only: their caller must have enabled the features of `V`.
macro_rules! kernels {
    ($($(#[$doc:meta])* fn $module:ident::$name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)*) => {
        #[cfg(target_arch = "x86_64")]
        mod with_avx2 {
            use super::*;
            $(#[target_feature(enable = "avx2,fma,f16c")]
            pub(super) fn $name($($arg: $type),*) $(-> $ret)? {
                // SAFETY: this function enables the features of `Avx2`.
                unsafe { $module::$name::<avx2::Avx2>($($arg),*) }
            })*
        }
        #[cfg(target_arch = "x86_64")]
        mod with_avx512 {
            use super::*;
            $(#[target_feature(enable = "avx512f,avx2,fma,f16c")]
            pub(super) fn $name($($arg: $type),*) $(-> $ret)? {
                // SAFETY: this function enables the features of `Avx512`.
                unsafe { $module::$name::<avx512::Avx512>($($arg),*) }
            })*
        }
        impl Isa {
            $($(#[$doc])*
            #[inline]
            pub(crate) fn $name(self, $($arg: $type),*) $(-> $ret)? {
                match self.0 {
                    // SAFETY: `Portable` needs no features.
                    Level::Portable => unsafe { $module::$name::<portable::Portable>($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: an `Isa` of this level exists only if the processor has the features.
                    Level::Avx2 => unsafe { with_avx2::$name($($arg),*) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: an `Isa` of this level exists only if the processor has the features.
                    Level::Avx512 => unsafe { with_avx512::$name($($arg),*) },
                }
            })*
        }
    };
}

kernels! {
    /// Widens `from` to f32. The lengths are equal.
    fn product::widen(from: Data<'_>, to: &mut [f32]);
    /// `out[t][r] = keys[t] . queries[.., r]`: keys `[t, dim]`, queries transposed, `[dim, n_rows]`, out `[t, n_rows]`;
    /// `n_rows` a multiple of [`Isa::lanes`].
    fn product::scores(keys: &[f32], dim: usize, queries: &[f32], n_rows: usize, out: &mut [f32]);
    /// `out[r] = decay[r] * out[r] + sum over t of weights[t][r] * values[t]`: weights `[t, n_rows]`, values `[t, dim]`,
    /// out `[n_rows, dim]`.
    fn product::weigh(weights: &[f32], n_rows: usize, values: &[f32], dim: usize, decay: &[f32], out: &mut [f32]);
    /// As `weigh`, for a few rows: weights are `[n_rows, stride]`, of which the first `values.len() / dim` columns count.
    fn product::weigh_few(weights: &[f32], stride: usize, values: Data<'_>, dim: usize, decay: &[f32], out: &mut [f32]);
    /// One step of the online softmax over a tile `[t, n_rows]`, in place: logits become weights relative to the new
    /// `max`, `sum` includes them, and `decay` is what earlier sums have to be multiplied by.
    fn softmax::online_columns(tile: &mut [f32], max: &mut [f32], sum: &mut [f32], decay: &mut [f32]);
    /// As `online_columns`, over a tile `[n_rows, stride]`, `stride` a multiple of [`Isa::lanes`].
    fn softmax::online_rows(tile: &mut [f32], stride: usize, max: &mut [f32], sum: &mut [f32], decay: &mut [f32]);
    /// Adds unfinished sums of weights to others, row by row: `max` and `sum` become those of both. Then `other_max` holds
    /// the factor for what was relative to the old `max`, `other_sum` that for what was relative to `other_max`. Lengths
    /// are equal, and a multiple of [`Isa::lanes`].
    fn softmax::merge_sums(max: &mut [f32], sum: &mut [f32], other_max: &mut [f32], other_sum: &mut [f32]);
    /// `to[r] = old[r] * to[r] + new[r] * from[r]`, for rows of `dim` values, as many as `to` has.
    fn softmax::mix_rows(to: &mut [f32], old: &[f32], from: &[f32], new: &[f32], dim: usize);
    /// Maximum of each column of a tile `[t, out.len()]`, NaN ignored.
    fn softmax::column_max(tile: &[f32], out: &mut [f32]);
    /// `out[r][t] = keys[t] . queries[r]`: queries `[n_rows, dim]`, keys `[t, dim]`, out `[n_rows, stride]`.
    fn dot::dots_few(queries: &[f32], dim: usize, keys: Data<'_>, out: &mut [f32], stride: usize);
    /// Inner product of `query` and row `row`, as long as `query`; the row must exist.
    fn dot::dot_row(query: &[f32], keys: Data<'_>, row: usize) -> f32;
    /// Appends the inner products of `query` and each of `rows`, NaN for a row that does not exist.
    fn dot::dot_rows(query: &[f32], keys: Data<'_>, rows: &[u32], out: &mut Vec<f32>);
}

impl<'a> Data<'a> {
    /// The values themselves if they are f32, else widened into `buffer`.
    pub(crate) fn in_f32<'b>(self, isa: Isa, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        if let Self::F32(data) = self {
            return data;
        }
        buffer.resize(self.len(), 0.0);
        isa.widen(self, buffer);
        buffer
    }
}
