//! Keys or values of a chunk at one memory layer, or the keys of one head, as bytes, plain or in codes.

use half::{bf16, f16};
use mnemon_memory::{KvData, KvDtype};

use crate::format::quant;
use crate::format::quant::{Axis, Shape};

/// Keys are side 0, values side 1.
fn axis(side: usize) -> Axis {
    if side == 0 { quant::KEY_AXIS } else { quant::VALUE_AXIS }
}

/// Reads a side of a chunk; `bytes` are as many as its shape and type need.
pub(crate) fn decode_side(bytes: &[u8], shape: Shape, dtype: KvDtype, side: usize) -> KvData {
    let halves = bytes.as_chunks::<2>().0.iter();
    match dtype {
        KvDtype::F32 => KvData::F32(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        KvDtype::F16 => KvData::F16(halves.map(|bytes| f16::from_le_bytes(*bytes)).collect()),
        KvDtype::Bf16 => KvData::Bf16(halves.map(|bytes| bf16::from_le_bytes(*bytes)).collect()),
        codes @ (KvDtype::Int8 | KvDtype::Int4) => KvData::F16(quant::decode(bytes, shape, axis(side), codes)),
    }
}

/// Whether every number of a side of a chunk is finite as it is read; `bytes` as for [`decode_side`].
pub(crate) fn side_is_finite(bytes: &[u8], shape: Shape, dtype: KvDtype, side: usize) -> bool {
    let halves = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().all(|bytes| f16::from_le_bytes(*bytes).is_finite());
    match dtype {
        KvDtype::F32 => bytes.as_chunks::<4>().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()),
        KvDtype::F16 => halves(bytes),
        KvDtype::Bf16 => bytes.as_chunks::<2>().0.iter().all(|bytes| bf16::from_le_bytes(*bytes).is_finite()),
        // Codes stand for finite numbers if the offsets and steps before them are finite.
        KvDtype::Int8 | KvDtype::Int4 => {
            let parameters = quant::parameter_bytes(shape, axis(side));
            bytes.get(..parameters).is_some_and(halves)
        }
    }
}

/// Appends a side of a chunk in the stored type. `false` when a value is not finite in it.
pub(crate) fn encode_side(out: &mut Vec<u8>, values: &[f32], shape: Shape, dtype: KvDtype, side: usize) -> bool {
    let mut finite = true;
    match dtype {
        KvDtype::F32 => {
            for value in values {
                finite &= value.is_finite();
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        KvDtype::F16 => {
            for value in values.iter().map(|value| f16::from_f32(*value)) {
                finite &= value.is_finite();
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        KvDtype::Bf16 => {
            for value in values.iter().map(|value| bf16::from_f32(*value)) {
                finite &= value.is_finite();
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        codes @ (KvDtype::Int8 | KvDtype::Int4) => {
            finite = quant::encode(out, values, shape, axis(side), codes);
        }
    }
    finite
}
