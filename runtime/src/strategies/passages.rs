//! Passages in the middle of a prompt: text before, passages of memory, text after.
//!
//! | stretch | where its keys and values are |
//! |---|---|
//! | text before | sinks of the sequence: always visible |
//! | passages | a [`Stretch`] each, with a position of its own; exchanged as a whole |
//! | text after, and the answer | the sequence's window |
//!
//! All of it is one softmax with true distances, as if the passages had been pasted (`ReAttention`, arXiv 2407.15176, section 3,
//! with the passages where a reader would put them). A passage is *stored* (keys and values from memory, at the layers
//! that keep them) or *read* (its tokens run through the model, at all layers).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mnemon_kernels::{LogitRule, Mask};
use mnemon_memory::{ChunkId, ChunkKv, Invalid};

use super::masses::Masses;
use crate::attention::backend::{Output, Part, Source};
use crate::attention::sequence::{Queries, Sequence, by_token};
use crate::attention::{Attention, LayerContext, LocalMask, backend};
use crate::error::{Error, Result};
use crate::host::host_values;
use crate::model::Model;
use crate::profile::QueryHead;

/// What stands at one place among the passages.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// The chunk that it is; none for text around chunks, such as a date.
    pub chunk: Option<ChunkId>,
    /// Tokens.
    pub len: usize,
    /// Tokens of the chunk before these, which are left out.
    pub skipped: usize,
    /// Keys and values of each layer that keeps them; empty if the tokens are to be read.
    pub stored: Vec<Arc<ChunkKv>>,
}

/// A stretch with its position and its keys and values.
struct Placed {
    chunk: Option<ChunkId>,
    first: usize,
    len: usize,
    /// Rotated keys and values of each decoder layer, `[n_kv_heads, len, head_dim]`.
    layers: Vec<Option<(Tensor, Tensor)>>,
}

/// Where the tokens of a call belong.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// To the text before or after.
    Text,
    /// To these stretches.
    Passages(Range<usize>),
}

/// See the module.
pub struct PassageAttention {
    sequence: Sequence,
    window: usize,
    device: Device,
    kv_heads: usize,
    head_dim: usize,
    /// Longest distance between a query and a key at each decoder layer.
    spans: Vec<usize>,
    /// Decoder layers that memory keeps, in the order of its slots.
    stored_layers: Vec<u32>,
    /// Positions that the passages have.
    region: Option<Range<usize>>,
    placed: Vec<Placed>,
    phase: Phase,
    observed: Observed,
    masses: Masses,
}

/// Queries of a few heads, before rotary encoding, of the tokens since they were last taken.
struct Observed {
    heads: Vec<QueryHead>,
    /// `[tokens, head_dim]` for each head.
    queries: Vec<VecDeque<f32>>,
    tokens_max: usize,
}

impl PassageAttention {
    /// For a fresh sequence whose first `before` tokens come before the passages and stay visible; of the tokens after them,
    /// those less than `window` back are visible. `stored_layers` are the decoder layers that memory keeps; queries of
    /// `heads` are kept for [`take_queries`](Self::take_queries), those of the last `observed` tokens.
    pub fn new(
        model: &Model,
        before: usize,
        window: usize,
        stored_layers: &[u32],
        heads: &[QueryHead],
        observed: usize,
    ) -> Self {
        let config = model.config();
        let mut sequence =
            Sequence::new(model.device(), model.config(), Some(window.max(1)), before, LocalMask::Sliding);
        // The question is looked at first, and forgotten again.
        sequence.hold(true);
        let span = |layer| sequence.span_at(config.sliding_windows.get(layer).copied().flatten());
        Self {
            spans: (0..config.layers).map(span).collect(),
            sequence,
            window: window.max(1),
            device: model.device().clone(),
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            stored_layers: stored_layers.to_vec(),
            region: None,
            placed: Vec::new(),
            phase: Phase::Text,
            observed: Observed {
                heads: heads.to_vec(),
                queries: vec![VecDeque::new(); heads.len()],
                tokens_max: observed,
            },
            masses: Masses::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn on_tensors(mut self) -> Self {
        self.sequence.force_tensors();
        self
    }

    /// The sequence so far; only before passages were placed.
    pub(crate) fn beginning(&self) -> Result<Sequence> {
        self.sequence.duplicate()
    }

    /// Goes on from a sequence that another of the same shape had read.
    pub(crate) fn begin_with(&mut self, sequence: &Sequence) -> Result<()> {
        self.sequence = sequence.duplicate()?;
        Ok(())
    }

    /// Positions of the passages, once they were placed.
    pub fn region(&self) -> Option<Range<usize>> {
        self.region.clone()
    }

    /// Positions that are visible at one time.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Puts passages at the positions from `first` on, in the place of those before. The first call decides how many
    /// positions they have, at least `reserved`: later ones may not take more. Passages stand at the end of these. Returns the ranges of stretches whose
    /// tokens are to be [read](Self::read_at), with the position of each.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they do not fit, [`Error::Geometry`] for chunks of another model.
    pub fn place(
        &mut self,
        first: usize,
        reserved: usize,
        stretches: Vec<Stretch>,
        rotary: &crate::rotary::Rotary,
    ) -> Result<Vec<(Range<usize>, usize)>> {
        let total: usize = stretches.iter().map(|stretch| stretch.len).sum();
        let region = match self.region.clone() {
            Some(region) if total > region.len() => {
                return Err(Error::Invalid(Invalid {
                    what: "passages",
                    why: format!("{total} tokens, where {} fit", region.len()),
                }));
            }
            Some(region) => region,
            None => {
                let end = first + total.max(reserved);
                self.sequence.leave_gap(end)?;
                self.sequence.hold(false);
                first..end
            }
        };
        let mut position = region.end - total;
        self.region = Some(region);
        self.placed.clear();
        let mut unread: Vec<(Range<usize>, usize)> = Vec::new();
        for (index, stretch) in stretches.into_iter().enumerate() {
            let mut layers = vec![None; self.spans.len()];
            if stretch.stored.is_empty() {
                match unread.last_mut() {
                    Some((range, _)) if range.end == index => range.end = index + 1,
                    _ => unread.push((index..index + 1, position)),
                }
            } else {
                self.restore(&stretch, position, rotary, &mut layers)?;
            }
            self.placed.push(Placed { chunk: stretch.chunk, first: position, len: stretch.len, layers });
            position += stretch.len;
        }
        Ok(unread)
    }

    /// Keys and values of a stored chunk, at a position.
    fn restore(
        &self,
        stretch: &Stretch,
        position: usize,
        rotary: &crate::rotary::Rotary,
        layers: &mut [Option<(Tensor, Tensor)>],
    ) -> Result<()> {
        let tokens = stretch.stored.first().map_or(0, |chunk| chunk.len);
        let shape = (self.kv_heads, tokens, self.head_dim);
        let values = shape.0 * shape.1 * shape.2;
        let fits = |chunk: &Arc<ChunkKv>| {
            chunk.len == tokens
                && stretch.skipped + stretch.len <= tokens
                && chunk.keys.len() == values
                && chunk.values.len() == values
        };
        if stretch.stored.len() != self.stored_layers.len() || !stretch.stored.iter().all(fits) {
            return Err(Error::Geometry {
                stored: format!("a chunk of {} layers", stretch.stored.len()),
                needed: format!("{} layers of {values} keys and values", self.stored_layers.len()),
            });
        }
        let positions: Vec<i64> = (position..position + stretch.len).map(|at| at as i64).collect();
        for (kv, layer) in stretch.stored.iter().zip(&self.stored_layers) {
            let tensor = |data| -> Result<Tensor> {
                let all = Source::Data(data).to_tensor(shape, &self.device)?;
                let part = if stretch.len == tokens { all } else { all.narrow(1, stretch.skipped, stretch.len)? };
                Ok(part.contiguous()?.to_dtype(DType::F32)?)
            };
            let index = *layer as usize;
            if let (Some(place), Some(span)) = (layers.get_mut(index), self.spans.get(index)) {
                let keys = tensor(super::memory::data(&kv.keys))?;
                let keys = rotary.apply_within(&keys, &positions, *span)?;
                *place = Some((keys, tensor(super::memory::data(&kv.values))?));
            }
        }
        Ok(())
    }

    /// The next forward pass reads the tokens of these stretches (see [`place`](Self::place)); `None` goes on with text.
    pub fn read_at(&mut self, stretches: Option<Range<usize>>) {
        self.phase = stretches.map_or(Phase::Text, Phase::Passages);
    }

    /// Forgets the tokens from `position` on, as if they had not come.
    pub fn rewind(&mut self, position: usize) {
        self.sequence.rewind(position);
        for queries in &mut self.observed.queries {
            queries.clear();
        }
    }

    /// Queries of the observed heads since the last call, oldest first, `[tokens, heads, head_dim]`.
    pub fn take_queries(&mut self) -> Vec<f32> {
        let (dim, heads) = (self.head_dim, self.observed.heads.len());
        let tokens = self.observed.queries.iter().map(VecDeque::len).min().unwrap_or(0) / dim.max(1);
        let mut taken = vec![0.0; tokens * heads * dim];
        for (head, queries) in self.observed.queries.iter_mut().enumerate() {
            for (at, value) in queries.drain(..).take(tokens * dim).enumerate() {
                taken[(at / dim * heads + head) * dim + at % dim] = value;
            }
        }
        taken
    }

    /// Attention mass of each chunk since the last call, averaged over the observed heads and the tokens, largest first.
    pub fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        self.masses.take()
    }

    /// Parts of the stretches that have keys at this layer, and their indices.
    fn parts<'a>(
        placed: &'a [Placed],
        layer: &LayerContext<'_>,
        (queries, rotated): (&Queries, &Tensor),
        logits: LogitRule<'a>,
    ) -> (Vec<Part<'a>>, Vec<usize>) {
        let of_layer = |(index, placed): (usize, &'a Placed)| {
            let (keys, values) = placed.layers.get(layer.index)?.as_ref()?;
            let mask =
                Mask::Causal { first_key: placed.first, first_query: queries.first, window: layer.sliding_window };
            let part = Part {
                queries: rotated.clone(),
                keys: Source::Tensor(keys.clone()),
                values: Source::Tensor(values.clone()),
                len: placed.len,
                mask,
                logits,
            };
            Some((part, index))
        };
        placed.iter().enumerate().filter_map(of_layer).unzip()
    }

    /// Adds the attention masses of chunks, the first parts of `output`.
    fn weigh(&mut self, layer: &LayerContext<'_>, indices: &[usize], output: &Output, n: usize) {
        let rows = output.lse.len().max(1);
        let heads: Vec<usize> = self
            .observed
            .heads
            .iter()
            .filter(|head| head.layer as usize == layer.index)
            .map(|h| h.head as usize)
            .collect();
        self.masses.visit(heads.len() * n);
        for (index, part_lse) in indices.iter().zip(output.part_lse.chunks_exact(rows)) {
            let Some(chunk) = self.placed[*index].chunk else { continue };
            let seen = heads.iter().flat_map(|head| head * n..(head + 1) * n).filter_map(|row| {
                let (part, all) = (part_lse.get(row)?, output.lse.get(row)?);
                part.is_finite().then(|| (part - all).exp())
            });
            self.masses.add(chunk, seen.sum());
        }
    }

    /// Keeps the keys and values of tokens that belong to stretches.
    fn keep(&mut self, layer: &LayerContext<'_>, stretches: &Range<usize>, k: &Tensor, v: &Tensor) -> Result<()> {
        let n = k.dim(1)?;
        let placed = self.placed.get_mut(stretches.clone()).unwrap_or_default();
        let expected: usize = placed.iter().map(|placed| placed.len).sum();
        let first = placed.first().map_or(0, |placed| placed.first);
        if expected != n || first != layer.first_position {
            return Err(Error::Position { expected: first, got: layer.first_position });
        }
        let positions: Vec<i64> = (first..first + n).map(|position| position as i64).collect();
        let keys = layer.rotary.apply_within(k, &positions, self.sequence.span(layer))?;
        for placed in placed {
            let cut = |t: &Tensor| t.narrow(1, placed.first - first, placed.len)?.contiguous();
            placed.layers[layer.index] = Some((cut(&keys)?, cut(v)?));
        }
        Ok(())
    }
}

impl Observed {
    fn push(&mut self, layer: &LayerContext<'_>, q: &Tensor) -> Result<()> {
        if !self.heads.iter().any(|head| head.layer as usize == layer.index) {
            return Ok(());
        }
        let (_, n, dim) = q.dims3()?;
        host_values(q, |values| {
            for (head, queries) in self.heads.iter().zip(&mut self.queries) {
                if head.layer as usize == layer.index {
                    let start = head.head as usize * n * dim;
                    queries.extend(values.get(start..start + n * dim).unwrap_or_default());
                    let surplus = queries.len().saturating_sub(self.tokens_max * dim);
                    queries.drain(..surplus);
                }
            }
        })
    }
}

impl Attention for PassageAttention {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let queries = match self.phase.clone() {
            Phase::Text => {
                self.observed.push(layer, q)?;
                self.sequence.append(layer, q, k, v)?
            }
            Phase::Passages(stretches) => {
                self.keep(layer, &stretches, k, v)?;
                self.sequence.queries(layer, q)?
            }
        };
        let scale = vec![layer.scale; queries.raw.dim(0)?];
        let logits = LogitRule { scale: &scale, bias: None, slope: None };
        // Like sinks, passages are seen from no further away than the window reaches.
        let end = self.region.as_ref().map_or(0, |region| region.end);
        let furthest = self.sequence.window(layer).map_or(usize::MAX, |window| end + window - 1);
        let rotated = queries.no_further_than(layer, self.sequence.span(layer), furthest)?;
        let (mut parts, indices) = Self::parts(&self.placed, layer, (&queries, &rotated), logits);
        parts.extend(self.sequence.parts(layer, &queries, &scale, false)?);
        let output = backend::attention(self.sequence.backend, self.kv_heads, &queries.raw, &parts)?;
        drop(parts);
        if self.phase == Phase::Text {
            self.weigh(layer, &indices, &output, queries.n);
        }
        by_token(&output.context, q)
    }
}
