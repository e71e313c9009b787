//! Reading: a local window, and capture of what leaves it.

use candle_core::Tensor;
use mnemon_memory::{EntryPolicy, Invalid, KeyHead, KvGeometry};

use super::importance::add_importance;
use super::memory::MemoryAttention;
use super::{CaptureOptions, Captured, RecallFrom};
use crate::attention::sequence::{Queries, Sequence, by_token};
use crate::attention::{Attention, LayerContext};
use crate::error::{Error, Result};
use crate::host::host_values;
use crate::model::Model;

/// Attends as [`LocalAttention`](crate::LocalAttention) does, or, with recall, as
/// [`RecallAttention`](crate::RecallAttention), and keeps keys and values of the memory layers, and keys of the key heads
/// of other layers, for the store.
pub struct CaptureAttention {
    sequence: Sequence,
    memory: Option<MemoryAttention>,
    window: usize,
    chunk_tokens: usize,
    /// Tokens not yet handed over, for each memory layer.
    pending: Vec<Pending>,
    /// Key heads of other layers, and their keys of these tokens.
    lone: Vec<(KeyHead, Vec<f32>)>,
    /// Position of the first of them.
    handed_over: Option<usize>,
    weigh: bool,
    geometry: KvGeometry,
    model_shape: super::memory::Shape,
}

/// Keys, values and importance of tokens not yet handed over, one vector per key/value head.
#[derive(Default, Clone)]
struct Pending {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    importance: Vec<Vec<f32>>,
}

impl CaptureAttention {
    /// For a fresh document. A document continued in the middle begins at the first position given to it: sinks, and
    /// what [`drain`](Self::drain) returns, count from there.
    pub fn new(model: &Model, options: CaptureOptions) -> Result<Self> {
        Self::for_geometry(model, model.geometry(), options)
    }

    /// [`new`](Self::new) for a memory that keeps something else than the model's own ones do.
    pub fn for_geometry(model: &Model, geometry: &KvGeometry, options: CaptureOptions) -> Result<Self> {
        let CaptureOptions { window, sinks, local, recall } = options;
        if window == 0 {
            return Err(Error::Invalid(Invalid { what: "window", why: "0; at least 1 is needed".into() }));
        }
        let heads = geometry.kv_heads as usize;
        let empty = || vec![Vec::new(); heads];
        let pending = || Pending { keys: empty(), values: empty(), importance: empty() };
        let mut fresh = Self {
            sequence: Sequence::new(model.device(), model.config(), Some(window), sinks, local),
            memory: None,
            window,
            chunk_tokens: geometry.chunk_tokens as usize,
            pending: geometry.layers.iter().map(|_| pending()).collect(),
            lone: geometry.lone_key_heads().map(|key_head| (key_head, Vec::new())).collect(),
            handed_over: None,
            weigh: matches!(geometry.entry_policy, EntryPolicy::Representative { .. }),
            geometry: geometry.clone(),
            model_shape: super::memory::Shape::for_geometry(model, geometry),
        };
        fresh.set_recall(recall)?;
        Ok(fresh)
    }

    #[cfg(test)]
    pub(crate) fn on_tensors(mut self) -> Self {
        self.sequence.force_tensors();
        self
    }

    /// The same state, kept apart, for a text that may go on from here more than once. `None` while memory is recalled: what that holds
    /// changes.
    pub fn duplicate(&self) -> Result<Option<Self>> {
        if self.memory.is_some() {
            return Ok(None);
        }
        Ok(Some(Self {
            sequence: self.sequence.duplicate()?,
            memory: None,
            pending: self.pending.clone(),
            lone: self.lone.clone(),
            geometry: self.geometry.clone(),
            model_shape: self.model_shape.clone(),
            ..*self
        }))
    }

    /// Bytes of keys and values that are kept, those not handed over included. Duplicates share some of them.
    pub fn held_bytes(&self) -> usize {
        let of_pending = |Pending { keys, values, importance }: &Pending| -> usize {
            keys.iter().chain(values).chain(importance).map(Vec::len).sum()
        };
        let numbers = self.pending.iter().map(of_pending).sum::<usize>()
            + self.lone.iter().map(|(_, keys)| keys.len()).sum::<usize>();
        self.sequence.held_bytes() + numbers * size_of::<f32>()
    }

    /// Position of the first token that was not handed over; `None` before the first token.
    pub fn handed_over(&self) -> Option<usize> {
        self.handed_over
    }

    /// Changes the memory that is recalled while reading, for instance to one that holds what was handed over.
    pub fn set_recall(&mut self, recall: Option<RecallFrom>) -> Result<()> {
        self.memory = match recall {
            None => None,
            Some((recall, options)) => Some(MemoryAttention::with_shape(self.model_shape.clone(), recall, options)?),
        };
        Ok(())
    }

    /// Tokens that left the window since the last call, in multiples of the geometry's `chunk_tokens`; with `flush`,
    /// all that remain. With [`LocalMask::SinceHandover`](crate::LocalMask::SinceHandover) they are no longer seen locally.
    ///
    /// A token has left the window when the next token to come will not see it.
    pub fn drain(&mut self, flush: bool) -> Result<Option<Captured>> {
        let Some((_, next)) = self.sequence.bounds(0) else { return Ok(None) };
        let Some(start) = self.handed_over else { return Ok(None) };
        let len = if flush {
            next - start
        } else {
            let left = (next + 1).saturating_sub(self.window).saturating_sub(start);
            left / self.chunk_tokens * self.chunk_tokens
        };
        if len == 0 {
            return Ok(None);
        }
        let lone_keys = self.lone.iter_mut().map(|(_, keys)| take(std::slice::from_mut(keys), next - start, len));
        let mut captured = Captured {
            token_start: start as u64,
            len,
            keys: Vec::new(),
            values: Vec::new(),
            importance: Vec::new(),
            lone_keys: lone_keys.collect(),
        };
        for pending in &mut self.pending {
            let tokens = next - start;
            captured.keys.push(take(&mut pending.keys, tokens, len));
            captured.values.push(take(&mut pending.values, tokens, len));
            if self.weigh {
                captured.importance.push(take(&mut pending.importance, tokens, len));
            }
        }
        self.handed_over = Some(start + len);
        self.sequence.hand_over(start + len);
        Ok(Some(captured))
    }

    /// Goes on at `position` as if the tokens between had been read: the local window and what was not handed over are
    /// forgotten, the sinks stay. For a document continued in its middle, with [`LocalMask::Sliding`]; what follows
    /// is exact for tokens whose whole receptive field was read again.
    ///
    /// [`LocalMask::Sliding`]: crate::LocalMask::Sliding
    pub fn skip_to(&mut self, position: usize) -> Result<()> {
        self.sequence.skip_to(position)?;
        for pending in &mut self.pending {
            for heads in [&mut pending.keys, &mut pending.values, &mut pending.importance] {
                heads.iter_mut().for_each(Vec::clear);
            }
        }
        self.lone.iter_mut().for_each(|(_, keys)| keys.clear());
        self.handed_over = self.handed_over.map(|_| position);
        Ok(())
    }

    /// Keeps a call's keys of the key heads of a layer whose values are not kept.
    fn capture_lone(&mut self, layer: usize, k: &Tensor) -> Result<()> {
        let (kv_heads, _, _) = k.dims3()?;
        let mut kept = self.lone.iter_mut().filter(|(key, _)| key.layer as usize == layer).peekable();
        if kept.peek().is_none() {
            return Ok(());
        }
        host_values(k, |values| {
            let wide = values.len() / kv_heads.max(1);
            for (KeyHead { head, .. }, keys) in kept {
                let start = *head as usize * wide;
                keys.extend_from_slice(values.get(start..start + wide).unwrap_or_default());
            }
        })
    }

    /// Keeps a call's keys and values.
    fn capture(&mut self, slot: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let pending = self.pending.get_mut(slot).ok_or_else(|| {
            Error::Invalid(Invalid { what: "attention", why: format!("memory layer {slot} of another model") })
        })?;
        for (tensor, heads) in [(k, &mut pending.keys), (v, &mut pending.values)] {
            host_values(tensor, |values| {
                let wide = values.len() / heads.len().max(1);
                for (head, new) in heads.iter_mut().zip(values.chunks_exact(wide.max(1))) {
                    head.extend_from_slice(new);
                }
            })?;
        }
        if self.weigh {
            let n = k.dim(1)?;
            for head in &mut pending.importance {
                head.resize(head.len() + n, 0.0);
            }
        }
        Ok(())
    }

    fn weigh(&mut self, layer: &LayerContext<'_>, slot: usize, queries: &Queries) -> Result<()> {
        let (Some(start), Some(pending)) = (self.handed_over, self.pending.get_mut(slot)) else { return Ok(()) };
        add_importance(&self.sequence, layer, queries, start, &mut pending.importance)
    }
}

impl Attention for CaptureAttention {
    fn attend(&mut self, layer: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let queries = self.sequence.append(layer, q, k, v)?;
        let start = *self.handed_over.get_or_insert(queries.first);
        let Some(slot) = self.geometry.slot_of(layer.index as u32) else {
            self.capture_lone(layer.index, k)?;
            return by_token(&self.sequence.attend(layer, &queries)?.context, q);
        };
        self.capture(slot, k, v)?;
        if self.weigh {
            self.weigh(layer, slot, &queries)?;
        }
        let context = match &mut self.memory {
            None => self.sequence.attend(layer, &queries)?.context,
            Some(memory) => {
                // A sink that was handed over is attended to through memory alone.
                let base = self.sequence.bounds(layer.index).map_or(0, |(base, _)| base);
                memory.attend(&self.sequence, layer, slot, &queries, start > base)?
            }
        };
        by_token(&context, q)
    }
}

/// Takes the first `len` of `tokens` tokens of each head, as one `[heads, len, ..]` array.
fn take(heads: &mut [Vec<f32>], tokens: usize, len: usize) -> Vec<f32> {
    let mut taken = Vec::new();
    for head in heads {
        let end = head.len() / tokens.max(1) * len;
        taken.extend(head.drain(..end));
    }
    taken
}
