//! Keys and values of the recent tokens of one layer.
//!
//! A bounded window moves over a sequence of any length, so both forms append in amortised constant time per token:
//! pages of [`PAGE_TOKENS`] on the CPU, where a kernel takes many segments, and one buffer twice the window's size
//! elsewhere, whose end is moved to the front when it is full.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mnemon_kernels::Data;

use super::backend::{Backend, Source};
use crate::error::Result;
use crate::host::host_values;

/// Tokens of a page.
const PAGE_TOKENS: usize = 64;

/// Consecutive tokens out of a cache.
pub(crate) struct Stretch<'a> {
    /// Position of the first token.
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) keys: Source<'a>,
    pub(crate) values: Source<'a>,
}

/// Keys and values of consecutive tokens.
pub(crate) enum Cache {
    Pages(Pages),
    Buffer(Buffer),
}

impl Cache {
    pub(crate) fn new(backend: Backend) -> Self {
        match backend {
            Backend::Host => Self::Pages(Pages { pages: VecDeque::new() }),
            Backend::Tensors => Self::Buffer(Buffer { first: 0, start: 0, len: 0, tensors: None }),
        }
    }

    /// The same tokens, kept apart.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        Ok(match self {
            Self::Pages(pages) => Self::Pages(pages.clone()),
            Self::Buffer(buffer) => Self::Buffer(buffer.duplicate()?),
        })
    }

    /// Bytes of keys and values.
    pub(crate) fn held_bytes(&self) -> usize {
        match self {
            Self::Pages(Pages { pages }) => {
                pages.iter().map(|page| (page.keys.len() + page.values.len()) * size_of::<f32>()).sum()
            }
            Self::Buffer(Buffer { tensors, .. }) => {
                let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
                tensors.as_ref().map_or(0, |(keys, values)| bytes(keys) + bytes(values))
            }
        }
    }

    /// Appends `k` and `v` `[n_kv_heads, n, head_dim]`, the first of them at position `first`, next to the last.
    pub(crate) fn append(&mut self, first: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        match self {
            Self::Pages(pages) => host_values(k, |k_values| {
                host_values(v, |v_values| pages.append(first, k.dims3().map(|d| (d.0, d.2)), k_values, v_values))
            })??,
            Self::Buffer(buffer) => buffer.append(first, k, v),
        }
    }

    /// Forgets tokens before `position`, as far as that is free.
    pub(crate) fn release_before(&mut self, position: usize) {
        match self {
            Self::Pages(pages) => {
                while pages.pages.front().is_some_and(|page| page.first + page.len <= position) {
                    pages.pages.pop_front();
                }
            }
            Self::Buffer(buffer) => buffer.truncate_before(position),
        }
    }

    /// Forgets exactly the tokens before `position`.
    pub(crate) fn truncate_before(&mut self, position: usize) {
        self.release_before(position);
        if let Self::Pages(Pages { pages }) = self
            && let Some(page) = pages.front_mut()
            && page.first < position
        {
            let page = Arc::make_mut(page);
            page.keep((position - page.first).min(page.len)..page.len);
        }
    }

    /// Forgets the tokens from `position` on.
    pub(crate) fn truncate_from(&mut self, position: usize) {
        match self {
            Self::Pages(Pages { pages }) => {
                while pages.back().is_some_and(|page| page.first >= position) {
                    pages.pop_back();
                }
                if let Some(page) = pages.back_mut().filter(|page| page.first + page.len > position) {
                    let page = Arc::make_mut(page);
                    page.keep(0..position - page.first);
                }
            }
            Self::Buffer(buffer) => buffer.len = buffer.len.min(position.saturating_sub(buffer.first)),
        }
    }

    /// All tokens that are kept.
    pub(crate) fn stretches(&self) -> Result<Vec<Stretch<'_>>> {
        match self {
            Self::Pages(Pages { pages }) => Ok(pages
                .iter()
                .map(|page| Stretch {
                    first: page.first,
                    len: page.len,
                    keys: Source::Data(Data::F32(&page.keys)),
                    values: Source::Data(Data::F32(&page.values)),
                })
                .collect()),
            Self::Buffer(buffer) => buffer.stretch().map(|stretch| stretch.into_iter().collect()),
        }
    }
}

/// Pages in memory. They end at multiples of [`PAGE_TOKENS`], wherever the sequence began, so that a document
/// continued in its middle is computed in the same pieces, to the last bit. Duplicates share them until one of them writes.
#[derive(Clone)]
pub(crate) struct Pages {
    pages: VecDeque<Arc<Page>>,
}

/// Keys and values `[n_kv_heads, len, head_dim]`, dense, so that a kernel takes them as they are. Appending to a page
/// moves its later heads: a bounded cost.
#[derive(Clone)]
struct Page {
    first: usize,
    len: usize,
    heads: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Pages {
    /// `sizes` are `n_kv_heads` and `head_dim`.
    fn append(&mut self, first: usize, sizes: candle_core::Result<(usize, usize)>, k: &[f32], v: &[f32]) -> Result<()> {
        let (heads, head_dim) = sizes?;
        let n = k.len() / (heads * head_dim).max(1);
        let mut done = 0;
        while done < n {
            let page = match self.pages.back_mut() {
                Some(page)
                    if page.first + page.len == first + done
                        && (page.len == 0 || !page.first.saturating_add(page.len).is_multiple_of(PAGE_TOKENS)) =>
                {
                    Arc::make_mut(page)
                }
                _ => {
                    let page = Page { first: first + done, len: 0, heads, keys: Vec::new(), values: Vec::new() };
                    self.pages.push_back(Arc::new(page));
                    continue;
                }
            };
            let take = (PAGE_TOKENS - (page.first + page.len) % PAGE_TOKENS).min(n - done);
            let new = done * head_dim..(done + take) * head_dim;
            insert(&mut page.keys, heads, page.len * head_dim, k, new.clone());
            insert(&mut page.values, heads, page.len * head_dim, v, new);
            page.len += take;
            done += take;
        }
        Ok(())
    }
}

impl Page {
    /// Forgets all but these tokens.
    fn keep(&mut self, tokens: Range<usize>) {
        if tokens == (0..self.len) {
            return;
        }
        let row = self.keys.len() / (self.heads * self.len).max(1);
        let values = tokens.start * row..tokens.end * row;
        for data in [&mut self.keys, &mut self.values] {
            let heads = data.chunks_exact((self.len * row).max(1));
            *data = heads.flat_map(|head| &head[values.clone()]).copied().collect();
        }
        self.first += tokens.start;
        self.len = tokens.len();
    }
}

/// Puts values `new` of each head of `from` behind the `old` values that each head of `data` has.
fn insert(data: &mut Vec<f32>, heads: usize, old: usize, from: &[f32], new: std::ops::Range<usize>) {
    let wide = old + new.len();
    let from_wide = from.len() / heads.max(1);
    data.resize(heads * wide, 0.0);
    for head in (0..heads).rev() {
        data.copy_within(head * old..(head + 1) * old, head * wide);
        let target = &mut data[head * wide + old..(head + 1) * wide];
        target.copy_from_slice(&from[head * from_wide..][new.clone()]);
    }
}

/// One buffer on a device: tokens `first..first + len` lie at `start..`.
pub(crate) struct Buffer {
    first: usize,
    start: usize,
    len: usize,
    /// Keys and values, `[n_kv_heads, capacity, head_dim]`.
    tensors: Option<(Tensor, Tensor)>,
}

impl Buffer {
    fn duplicate(&self) -> Result<Self> {
        // A clone of a tensor shares its storage, which `append` writes to.
        let copy = |(keys, values): &(Tensor, Tensor)| -> Result<_> { Ok((keys.copy()?, values.copy()?)) };
        Ok(Self { tensors: self.tensors.as_ref().map(copy).transpose()?, ..*self })
    }

    fn append(&mut self, first: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let (heads, n, head_dim) = k.dims3()?;
        if self.len == 0 {
            (self.first, self.start) = (first, 0);
        }
        let capacity = self.tensors.as_ref().map_or(Ok(0), |(keys, _)| keys.dim(1))?;
        if self.start + self.len + n > capacity {
            let capacity = capacity.max(2 * (self.len + n)).max(PAGE_TOKENS);
            let kept = self.view()?;
            let moved = |old: Option<Tensor>, like: &Tensor| -> Result<Tensor> {
                let fresh = zeros((heads, capacity, head_dim), like.dtype(), like.device())?;
                if let Some(old) = old {
                    fresh.slice_set(&old.contiguous()?, 1, 0)?;
                }
                Ok(fresh)
            };
            let (keys, values) = kept.map_or((None, None), |(keys, values)| (Some(keys), Some(values)));
            self.tensors = Some((moved(keys, k)?, moved(values, v)?));
            self.start = 0;
        }
        if let Some((keys, values)) = &self.tensors {
            keys.slice_set(&k.contiguous()?, 1, self.start + self.len)?;
            values.slice_set(&v.contiguous()?, 1, self.start + self.len)?;
        }
        self.len += n;
        Ok(())
    }

    fn truncate_before(&mut self, position: usize) {
        let gone = position.saturating_sub(self.first).min(self.len);
        self.first += gone;
        self.start += gone;
        self.len -= gone;
    }

    fn view(&self) -> Result<Option<(Tensor, Tensor)>> {
        match &self.tensors {
            Some((keys, values)) if self.len > 0 => {
                Ok(Some((keys.narrow(1, self.start, self.len)?, values.narrow(1, self.start, self.len)?)))
            }
            _ => Ok(None),
        }
    }

    fn stretch(&self) -> Result<Option<Stretch<'_>>> {
        Ok(self.view()?.map(|(keys, values)| Stretch {
            first: self.first,
            len: self.len,
            keys: Source::Tensor(keys),
            values: Source::Tensor(values),
        }))
    }
}

fn zeros(shape: (usize, usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(Tensor::zeros(shape, dtype, device)?)
}
