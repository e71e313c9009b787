//! Borrowed numbers in the types in which keys and values are stored.

use std::ops::Range;

use half::{bf16, f16};

/// A borrowed row-major array.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// binary32.
    F32(&'a [f32]),
    /// binary16.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> Data<'a> {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of `range`.
    pub(crate) fn slice(self, range: Range<usize>) -> Data<'a> {
        match self {
            Self::F32(data) => Data::F32(&data[range]),
            Self::F16(data) => Data::F16(&data[range]),
            Self::Bf16(data) => Data::Bf16(&data[range]),
        }
    }

    /// The value at `index`, widened exactly.
    pub(crate) fn value(&self, index: usize) -> f32 {
        match self {
            Self::F32(data) => data[index],
            Self::F16(data) => data[index].to_f32(),
            Self::Bf16(data) => data[index].to_f32(),
        }
    }
}
