//! Attention to recalled chunks beside the local context.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use mnemon_kernels::{Data, LogitRule, Mask};
use mnemon_memory::{ChunkId, ChunkKv, ChunkSelection, KvData, KvGeometry, Recall, SearchRequest};

use super::masses::Masses;
use super::{PositionScheme, RecallOptions};
use crate::attention::backend::{Output, Part, Source};
use crate::attention::sequence::{Queries, Sequence};
use crate::attention::{LayerContext, backend};
use crate::config::Fusion;
use crate::error::{Error, Result};
use crate::host::host_values;
use crate::model::Model;

/// Query tokens of one search.
const SEARCH_TOKENS: usize = 128;
/// Values of rotated keys that are kept (64 MiB).
const ROTATED_VALUES_MAX: usize = 1 << 24;

/// What recalling needs to know of a model.
#[derive(Clone)]
pub(crate) struct Shape {
    geometry: KvGeometry,
    heads: usize,
    device: Device,
}

impl Shape {
    pub(crate) fn of(model: &Model) -> Self {
        Self::for_geometry(model, model.geometry())
    }

    pub(crate) fn for_geometry(model: &Model, geometry: &KvGeometry) -> Self {
        Self { geometry: geometry.clone(), heads: model.config().heads, device: model.device().clone() }
    }
}

/// A memory, how to recall from it, and what was recalled.
pub(crate) struct MemoryAttention {
    shape: Shape,
    recall: Arc<dyn Recall>,
    options: RecallOptions,
    /// All chunks, once asked for.
    everything: Option<Vec<ChunkId>>,
    /// Keys rotated by their place within the chunk, for each memory layer and chunk: queries are turned back by the
    /// chunk's own place, so that a chunk is converted once wherever it stands. At most [`ROTATED_VALUES_MAX`].
    rotated: HashMap<(usize, ChunkId), Tensor>,
    rotated_values: usize,
    /// Attention of chunks.
    masses: Masses,
}

/// A recalled chunk, ready to be attended to.
struct Placed {
    chunk: Arc<ChunkKv>,
    /// Its keys, if they are not used as they are stored.
    rotated: Option<Tensor>,
    /// The queries as this chunk wants them.
    queries: Tensor,
    mask: Mask,
}

impl MemoryAttention {
    pub(crate) fn new(model: &Model, recall: Arc<dyn Recall>, options: RecallOptions) -> Result<Self> {
        Self::with_shape(Shape::of(model), recall, options)
    }

    pub(crate) fn with_shape(shape: Shape, recall: Arc<dyn Recall>, options: RecallOptions) -> Result<Self> {
        options.validate()?;
        let describe = |geometry: &KvGeometry| {
            let KvGeometry { layers, kv_heads, head_dim, key_heads, .. } = geometry;
            let of_heads =
                if geometry.has_all_key_heads() { String::new() } else { format!(", {key_heads:?} searched") };
            format!("layers {layers:?} with {kv_heads} heads of {head_dim}{of_heads}")
        };
        let (stored, needed) = (describe(recall.geometry()), describe(&shape.geometry));
        if stored != needed {
            return Err(Error::Geometry { stored, needed });
        }
        Ok(Self {
            shape,
            recall,
            options,
            everything: None,
            rotated: HashMap::new(),
            rotated_values: 0,
            masses: Masses::default(),
        })
    }

    /// Attention masses since the last call, averaged, largest first.
    pub(crate) fn take_masses(&mut self) -> Vec<(ChunkId, f32)> {
        self.masses.take()
    }

    /// Attends to sinks, recalled chunks and recent tokens; returns the context `[n_heads, n, head_dim]`.
    pub(crate) fn attend(
        &mut self,
        sequence: &Sequence,
        layer: &LayerContext<'_>,
        slot: usize,
        queries: &Queries,
        hide_sinks: bool,
    ) -> Result<Tensor> {
        let mut contexts = Vec::new();
        let together = if self.options.everything { queries.n } else { SEARCH_TOKENS };
        for start in (0..queries.n).step_by(together) {
            let group = queries.narrow(start, (queries.n - start).min(together))?;
            let sets = self.recalled_sets(layer, slot, &group)?;
            let mut done = 0;
            for (len, chunks) in sets {
                let block = group.narrow(done, len)?;
                done += len;
                let chunks = self.in_order(chunks)?;
                contexts.push(self.attend_block(sequence, layer, slot, &block, chunks, hide_sinks)?);
            }
        }
        Ok(if let [single] = &contexts[..] { single.clone() } else { Tensor::cat(&contexts, 1)? })
    }

    /// For each block of queries, its length and the chunks it recalls.
    fn recalled_sets(
        &mut self,
        layer: &LayerContext<'_>,
        slot: usize,
        queries: &Queries,
    ) -> Result<Vec<(usize, Vec<Arc<ChunkKv>>)>> {
        if self.recall.is_empty() {
            return Ok(vec![(queries.n, Vec::new())]);
        }
        if self.options.everything {
            if self.everything.is_none() {
                self.everything = Some(self.recall.chunks(usize::MAX)?);
            }
            let everything = self.everything.as_deref().unwrap_or_default();
            return Ok(vec![(queries.n, self.recall.fetch(slot, everything)?)]);
        }
        let (heads, n, block) = (self.shape.heads, queries.n, self.options.block_tokens);
        let untrained = vec![layer.scale; heads];
        let scale = layer.memory.map_or(&untrained, |memory| &memory.scale);
        let selection = ChunkSelection { block_queries: block, scale, top_k_chunks: self.options.top_k_chunks };
        let key_heads = self.shape.geometry.searched_by(slot, heads)?;
        let recall = |values: &[f32]| {
            let request = SearchRequest {
                key_heads: &key_heads,
                queries: values,
                top_k: self.options.entries_per_query,
                ef: self.options.ef,
                exact: self.options.exact,
            };
            self.recall.recall(slot, &request, &selection)
        };
        // One query: [n_heads, 1, head_dim] is [1, n_heads, head_dim].
        let by_query = if n == 1 { queries.raw.clone() } else { queries.raw.transpose(0, 1)?.contiguous()? };
        let recalled = host_values(&by_query, recall)??;
        Ok((0..n).step_by(block).map(|start| (n - start).min(block)).zip(recalled).collect())
    }

    /// Checks what was recalled, and puts it in document order.
    fn in_order(&self, mut chunks: Vec<Arc<ChunkKv>>) -> Result<Vec<Arc<ChunkKv>>> {
        let row = self.shape.geometry.kv_heads as usize * self.shape.geometry.head_dim as usize;
        if let Some(chunk) = chunks.iter().find(|c| c.keys.len() != c.len * row || c.values.len() != c.len * row) {
            return Err(Error::Geometry {
                stored: format!("{} keys and {} values in chunk {}", chunk.keys.len(), chunk.values.len(), chunk.id.0),
                needed: format!("{} of each", chunk.len * row),
            });
        }
        chunks.sort_by_key(|chunk| (chunk.document, chunk.token_start, chunk.id));
        Ok(chunks)
    }

    fn attend_block(
        &mut self,
        sequence: &Sequence,
        layer: &LayerContext<'_>,
        slot: usize,
        queries: &Queries,
        chunks: Vec<Arc<ChunkKv>>,
        hide_sinks: bool,
    ) -> Result<Tensor> {
        let (heads, n, _) = queries.raw.dims3()?;
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let placed = self.place(sequence, layer, slot, queries, chunks)?;
        let local_scale = vec![layer.scale; heads];
        // Fixed distance: unrotated keys lack YaRN's factor, which the logits of trained models contain twice.
        let far_scale = vec![layer.scale * layer.rotary.magnitude() as f32; heads];
        let logits = match (layer.memory, self.options.positions) {
            (Some(memory), _) => LogitRule { scale: &memory.scale, bias: Some(&memory.bias), slope: None },
            (None, PositionScheme::Fixed { .. }) => LogitRule { scale: &far_scale, bias: None, slope: None },
            (None, _) => LogitRule { scale: &local_scale, bias: None, slope: None },
        };
        let mut parts: Vec<Part<'_>> = placed.iter().map(|placed| placed.part(logits)).collect();
        let local = sequence.parts(layer, queries, &local_scale, hide_sinks)?;
        let attend = |parts: &[Part<'_>]| backend::attention(sequence.backend, sequence.kv_heads, &queries.raw, parts);
        self.masses.visit(heads * n);
        match layer.memory {
            Some(memory) if memory.fusion == Fusion::Gate && !parts.is_empty() => {
                let (near, far) = (attend(&local)?, attend(&parts)?);
                let shares: Vec<f32> = (0..heads * n)
                    .map(|row| match far.lse.get(row) {
                        // A query that sees no memory takes the local context alone.
                        Some(lse) if lse.is_finite() => 1.0 / (1.0 + (-memory.gate[row / n]).exp()),
                        _ => 0.0,
                    })
                    .collect();
                self.weigh(&ids, &far, |row| shares[row]);
                let share = Tensor::from_vec(shares, (heads, n, 1), queries.raw.device())?;
                Ok((&near.context + (far.context - &near.context)?.broadcast_mul(&share)?)?)
            }
            _ => {
                parts.extend(local);
                let all = attend(&parts)?;
                self.weigh(&ids, &all, |_| 1.0);
                Ok(all.context)
            }
        }
    }

    /// Adds the attention masses of `chunks`, the first parts of `output`; `share` is that of all parts of a row.
    fn weigh(&mut self, chunks: &[ChunkId], output: &Output, share: impl Fn(usize) -> f32) {
        let rows = output.lse.len().max(1);
        for (chunk, part_lse) in chunks.iter().zip(output.part_lse.chunks_exact(rows)) {
            let masses = part_lse.iter().zip(&output.lse).enumerate();
            let seen = masses.filter(|(_, (part, _))| part.is_finite());
            let mass: f32 = seen.map(|(row, (part, all))| share(row) * (part - all).exp()).sum();
            self.masses.add(*chunk, mass);
        }
    }

    /// Gives each chunk its place.
    fn place(
        &mut self,
        sequence: &Sequence,
        layer: &LayerContext<'_>,
        slot: usize,
        queries: &Queries,
        chunks: Vec<Arc<ChunkKv>>,
    ) -> Result<Vec<Placed>> {
        if layer.memory.is_some() {
            let placed = |chunk| Placed { chunk, rotated: None, queries: queries.raw.clone(), mask: Mask::All };
            return Ok(chunks.into_iter().map(placed).collect());
        }
        let span = sequence.span(layer);
        match self.options.positions {
            PositionScheme::Fixed { distance } => {
                let turned = queries.at(layer, span, |_| distance as i64)?;
                let placed = |chunk| Placed { chunk, rotated: None, queries: turned.clone(), mask: Mask::All };
                Ok(chunks.into_iter().map(placed).collect())
            }
            PositionScheme::Contiguous => {
                let total: usize = chunks.iter().map(|chunk| chunk.len).sum();
                let mut before = 0;
                chunks
                    .into_iter()
                    .map(|chunk| {
                        // Sinks, then the recalled chunks, then the window: only distances matter.
                        let distance = total - before;
                        before += chunk.len;
                        let turned = queries
                            .at(layer, span, |position| (distance + sequence.local_distance(layer, position)) as i64)?;
                        let rotated = Some(self.rotated_keys(layer, slot, &chunk, span)?);
                        Ok(Placed { chunk, rotated, queries: turned, mask: Mask::All })
                    })
                    .collect()
            }
            PositionScheme::True => chunks
                .into_iter()
                .map(|chunk| {
                    let start = chunk.token_start as usize;
                    let turned = queries.at(layer, span, |position| position as i64 - start as i64)?;
                    let rotated = Some(self.rotated_keys(layer, slot, &chunk, span)?);
                    let window = layer.sliding_window;
                    let mask = Mask::Causal { first_key: start, first_query: queries.first, window };
                    Ok(Placed { chunk, rotated, queries: turned, mask })
                })
                .collect(),
        }
    }

    /// Keys of a chunk, rotated by their place within it.
    fn rotated_keys(&mut self, layer: &LayerContext<'_>, slot: usize, chunk: &ChunkKv, span: usize) -> Result<Tensor> {
        if let Some(found) = self.rotated.get(&(slot, chunk.id)) {
            return Ok(found.clone());
        }
        let shape = (self.shape.geometry.kv_heads as usize, chunk.len, self.shape.geometry.head_dim as usize);
        let raw = Source::Data(data(&chunk.keys)).to_tensor(shape, &self.shape.device)?.to_dtype(DType::F32)?;
        let positions: Vec<i64> = (0..chunk.len as i64).collect();
        let turned = layer.rotary.apply_within(&raw, &positions, span)?;
        if self.rotated_values + chunk.keys.len() > ROTATED_VALUES_MAX {
            self.rotated.clear();
            self.rotated_values = 0;
        }
        self.rotated_values += chunk.keys.len();
        self.rotated.insert((slot, chunk.id), turned.clone());
        Ok(turned)
    }
}

impl Placed {
    fn part<'a>(&'a self, logits: LogitRule<'a>) -> Part<'a> {
        Part {
            queries: self.queries.clone(),
            keys: match &self.rotated {
                Some(rotated) => Source::Tensor(rotated.clone()),
                None => Source::Data(data(&self.chunk.keys)),
            },
            values: Source::Data(data(&self.chunk.values)),
            len: self.chunk.len,
            mask: self.mask,
            logits,
        }
    }
}

pub(super) fn data(stored: &KvData) -> Data<'_> {
    match stored {
        KvData::F32(values) => Data::F32(values),
        KvData::F16(values) => Data::F16(values),
        KvData::Bf16(values) => Data::Bf16(values),
    }
}
