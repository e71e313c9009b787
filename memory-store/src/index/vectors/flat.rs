//! Exact scan.

use std::ops::Range;

use half::slice::HalfFloatSliceExt as _;
use mnemon_kernels::{Data, top_k_inner_product};
use mnemon_memory::{KvData, KvDtype};

use super::{EntryRef, Scored, SearchParams, VectorIndex};

/// Entries in a row, scanned whole by each search.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatIndex {
    dim: usize,
    vectors: KvData,
    entries: Vec<EntryRef>,
}

impl FlatIndex {
    /// An empty one for vectors of `dim` values; those of quantised types are kept as they are read, in binary16.
    pub fn new(dim: usize, dtype: KvDtype) -> Self {
        Self { dim, vectors: empty_data(dtype), entries: Vec::new() }
    }

    /// Appends the vectors that are values `range` of `data` (of the same type), one for each of `entries`.
    pub fn extend(&mut self, data: &KvData, range: Range<usize>, entries: impl IntoIterator<Item = EntryRef>) {
        match (&mut self.vectors, data) {
            (KvData::F32(all), KvData::F32(more)) => all.extend_from_slice(&more[range]),
            (KvData::F16(all), KvData::F16(more)) => all.extend_from_slice(&more[range]),
            (KvData::Bf16(all), KvData::Bf16(more)) => all.extend_from_slice(&more[range]),
            (KvData::F32(all), other) => all.extend_from_slice(&other.to_f32()[range]),
            (KvData::F16(all), other) => all.extend(other.to_f32()[range].iter().map(|v| half::f16::from_f32(*v))),
            (KvData::Bf16(all), other) => all.extend(other.to_f32()[range].iter().map(|v| half::bf16::from_f32(*v))),
        }
        self.entries.extend(entries);
    }

    /// Values of all vectors, `[entries, dim]`.
    pub fn vectors(&self) -> &KvData {
        &self.vectors
    }

    /// Values of one vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Calls `visit` with all vectors in order, at most `rows` at a time, widened to f32.
    pub(crate) fn for_each_block(&self, rows: usize, mut visit: impl FnMut(&[f32])) {
        let block = rows * self.dim;
        let mut wide = Vec::new();
        match &self.vectors {
            KvData::F32(data) => data.chunks(block).for_each(visit),
            KvData::F16(data) => data.chunks(block).for_each(|data| {
                wide.resize(data.len(), 0.0);
                data.convert_to_f32_slice(&mut wide);
                visit(&wide);
            }),
            KvData::Bf16(data) => data.chunks(block).for_each(|data| {
                wide.resize(data.len(), 0.0);
                data.convert_to_f32_slice(&mut wide);
                visit(&wide);
            }),
        }
    }

    /// What each entry stands for; the vectors are let go.
    pub(crate) fn into_entries(self) -> Vec<EntryRef> {
        self.entries
    }

    /// What each entry stands for.
    pub fn entries(&self) -> &[EntryRef] {
        &self.entries
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        data_bytes(&self.vectors) + self.entries.len() * size_of::<EntryRef>()
    }
}

pub(crate) fn empty_data(dtype: KvDtype) -> KvData {
    match dtype {
        KvDtype::F32 => KvData::F32(Vec::new()),
        KvDtype::F16 | KvDtype::Int8 | KvDtype::Int4 => KvData::F16(Vec::new()),
        KvDtype::Bf16 => KvData::Bf16(Vec::new()),
    }
}

pub(crate) fn as_kernel_data(data: &KvData) -> Data<'_> {
    match data {
        KvData::F32(data) => Data::F32(data),
        KvData::F16(data) => Data::F16(data),
        KvData::Bf16(data) => Data::Bf16(data),
    }
}

pub(crate) fn data_bytes(data: &KvData) -> usize {
    match data {
        KvData::F32(data) => data.len() * 4,
        KvData::F16(data) => data.len() * 2,
        KvData::Bf16(data) => data.len() * 2,
    }
}

/// Exact scan over `vectors`, `[n, dim]`.
pub(crate) fn scan(dim: usize, vectors: &KvData, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
    let skip = params.live.map(|live| move |entry: usize| !live(entry as u32));
    let skip = skip.as_ref().map(|skip| skip as &(dyn Fn(usize) -> bool + Sync));
    match top_k_inner_product(queries, dim, as_kernel_data(vectors), params.top_k, skip) {
        Ok(found) => {
            let scored =
                |found: Vec<(f32, u32)>| found.into_iter().map(|(score, entry)| Scored { score, entry }).collect();
            found.into_iter().map(scored).collect()
        }
        Err(error) => {
            tracing::error!(%error, "a scan was refused");
            vec![Vec::new(); queries.len() / dim.max(1)]
        }
    }
}

impl VectorIndex for FlatIndex {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, entry: u32) -> EntryRef {
        self.entries[entry as usize]
    }

    fn search(&self, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
        scan(self.dim, &self.vectors, queries, params)
    }
}
