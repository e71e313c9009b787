//! Entries of extents that no graph indexes yet, read from their chunk blobs when they are searched.

use std::ops::Range;

use half::{bf16, f16};
use mnemon_memory::{EntryPolicy, KvData, KvGeometry};

use crate::engine::extent::Extent;
use crate::engine::state::entries_of;
use crate::error::Result;
use crate::format::geometry::{KeySource, StoredGeometry as _};
use crate::index::vectors::{EntryRef, FlatIndex};

/// Entries of one extent whose keys are at one source: a flat index for each key head there.
pub(crate) struct TailEntries {
    pub(crate) heads: Vec<FlatIndex>,
}

impl TailEntries {
    /// Reads the entries of all chunks, truncated ones included.
    pub(crate) fn load(geometry: &KvGeometry, source: KeySource, extent: &Extent) -> Result<Self> {
        let dim = geometry.head_dim as usize;
        let key_heads = geometry.key_heads_at(source);
        // Among the keys read.
        let head_of = |key_head: usize| match source {
            KeySource::Slot(_) => geometry.key_heads[key_head].head as usize,
            KeySource::Lone(_) => 0,
        };
        let mut indexes: Vec<FlatIndex> = key_heads.clone().map(|_| FlatIndex::new(dim, geometry.dtype)).collect();
        for index in 0..extent.chunks() as usize {
            let keys = extent.read_keys(geometry, source, index)?;
            let tokens = extent.chunk_tokens(index);
            let starts = match geometry.entry_policy {
                EntryPolicy::Representative { .. } => extent.read_meta(geometry, index)?.entry_starts,
                _ => Vec::new(),
            };
            let count = entries_of(geometry.entry_policy, tokens);
            for (key_head, flat) in key_heads.clone().zip(&mut indexes) {
                let head = head_of(key_head);
                let of_head = head * tokens * dim..(head + 1) * tokens * dim;
                let entry =
                    |start: usize, len: usize| EntryRef { chunk: index as u32, start: start as u16, len: len as u16 };
                match geometry.entry_policy {
                    EntryPolicy::PerToken => {
                        flat.extend(&keys, of_head, (0..tokens).map(|token| entry(token, 1)));
                    }
                    EntryPolicy::BlockMean { tokens: block } => {
                        let block = block as usize;
                        let means = block_means(&keys, of_head, dim, block);
                        let blocks = (0..count).map(|at| entry(at * block, block.min(tokens - at * block)));
                        flat.extend(&means, 0..means.len(), blocks);
                    }
                    EntryPolicy::Representative { .. } => {
                        // All key heads of the stored layers have entries with this policy.
                        let first = key_head * count;
                        let Some(starts) = starts.get(first..first + count) else {
                            return Err(extent.file.damaged(format!("chunk {index} lacks entries")));
                        };
                        for start in starts.iter().map(|start| *start as usize) {
                            if start >= tokens {
                                return Err(extent
                                    .file
                                    .damaged(format!("an entry of chunk {index} lies past its end")));
                            }
                            let at = of_head.start + start * dim;
                            flat.extend(&keys, at..at + dim, [entry(start, 1)]);
                        }
                    }
                }
            }
        }
        Ok(Self { heads: indexes })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.heads.iter().map(FlatIndex::bytes).sum()
    }
}

/// Means of blocks of `block` vectors, computed in f32 and rounded to the type of `keys`.
fn block_means(keys: &KvData, range: Range<usize>, dim: usize, block: usize) -> KvData {
    fn means<T: Copy>(keys: &[T], dim: usize, block: usize, widen: impl Fn(T) -> f32) -> Vec<f32> {
        let mut means = Vec::with_capacity(keys.len().div_ceil(block));
        for vectors in keys.chunks(block * dim) {
            let scale = 1.0 / (vectors.len() / dim) as f32;
            let start = means.len();
            means.resize(start + dim, 0.0);
            for vector in vectors.chunks_exact(dim) {
                for (sum, value) in means[start..].iter_mut().zip(vector) {
                    *sum += widen(*value);
                }
            }
            for sum in &mut means[start..] {
                *sum *= scale;
            }
        }
        means
    }
    match keys {
        KvData::F32(keys) => KvData::F32(means(&keys[range], dim, block, |value| value)),
        KvData::F16(keys) => {
            let means = means(&keys[range], dim, block, f16::to_f32);
            KvData::F16(means.into_iter().map(f16::from_f32).collect())
        }
        KvData::Bf16(keys) => {
            let means = means(&keys[range], dim, block, bf16::to_f32);
            KvData::Bf16(means.into_iter().map(bf16::from_f32).collect())
        }
    }
}
