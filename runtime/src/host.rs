//! Values of tensors in the memory of the host, without copies where they are contiguous f32 already.

use candle_core::{CpuStorage, DType, Storage, StorageRef, Tensor};

use crate::error::Result;

/// A tensor's values while its storage is borrowed.
pub(crate) enum Values<'a> {
    Borrowed { storage: StorageRef<'a>, start: usize, end: usize },
    Copied(Vec<f32>),
}

impl<'a> Values<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            return Ok(Self::Borrowed { storage, start, end });
        }
        drop(storage);
        Ok(Self::Copied(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
    }

    pub(crate) fn slice(&self) -> &[f32] {
        match self {
            Self::Copied(values) => values,
            Self::Borrowed { storage, start, end } => match &**storage {
                Storage::Cpu(CpuStorage::F32(values)) => &values[*start..*end],
                // `of` borrows f32 on the CPU alone.
                _ => &[],
            },
        }
    }
}

/// Calls `f` with the values of a tensor, row-major, in f32.
pub(crate) fn host_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    Ok(f(Values::of(tensor)?.slice()))
}
