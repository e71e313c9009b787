//! The local part of a sequence, common to all strategies: sinks and recent tokens of every layer.

use candle_core::{D, Device, Tensor};
use mnemon_kernels::{LogitRule, Mask};
use mnemon_memory::Invalid;

use super::backend::{Backend, Output, Part};
use super::cache::{Cache, Stretch};
use super::{LayerContext, backend};
use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// Which tokens of the document that is being read a query sees without recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalMask {
    /// Those less than `window` tokens back.
    #[default]
    Sliding,
    /// Every token not yet handed over by [`CaptureAttention::drain`](crate::CaptureAttention::drain).
    SinceHandover,
}

/// What is kept of a sequence, and what of it a query sees.
pub(crate) struct Sequence {
    layers: Vec<Layer>,
    pub(crate) backend: Backend,
    pub(crate) kv_heads: usize,
    /// Tokens visible, the query's own included; none means all.
    window: Option<usize>,
    /// First tokens that stay visible.
    sinks: usize,
    local: LocalMask,
    /// Whether tokens that leave the window are kept for now, because the sequence may be rewound.
    holds: bool,
}

struct Layer {
    /// The first tokens, rotated at their positions.
    sinks: Cache,
    /// The others, rotated at their positions (not rotated where frequencies change with the length).
    recent: Cache,
    /// Those before a gap, if there is one.
    earlier: Option<Cache>,
    /// Position of the first token of the sequence, and of the next one.
    bounds: Option<(usize, usize)>,
    /// Position before which tokens were handed over to memory.
    handed_over: usize,
}

/// Queries of a call at one layer.
pub(crate) struct Queries {
    /// Before rotary encoding, `[n_heads, n, head_dim]`.
    pub(crate) raw: Tensor,
    /// Rotated at their positions.
    pub(crate) rotated: Tensor,
    /// Position of the first.
    pub(crate) first: usize,
    pub(crate) n: usize,
}

impl Queries {
    /// `len` of them from `start`.
    pub(crate) fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        if (start, len) == (0, self.n) {
            return Ok(Self { raw: self.raw.clone(), rotated: self.rotated.clone(), first: self.first, n: self.n });
        }
        let cut = |t: &Tensor| t.narrow(1, start, len)?.contiguous();
        Ok(Self { raw: cut(&self.raw)?, rotated: cut(&self.rotated)?, first: self.first + start, n: len })
    }

    /// Rotated by `position` of each query's position.
    pub(crate) fn at(&self, layer: &LayerContext<'_>, span: usize, position: impl Fn(usize) -> i64) -> Result<Tensor> {
        let positions: Vec<i64> = (self.first..self.first + self.n).map(position).collect();
        layer.rotary.apply_within(&self.raw, &positions, span)
    }

    /// Rotated as if none stood behind the position `furthest`.
    pub(crate) fn no_further_than(&self, layer: &LayerContext<'_>, span: usize, furthest: usize) -> Result<Tensor> {
        if self.first + self.n <= furthest.saturating_add(1) {
            Ok(self.rotated.clone())
        } else {
            self.at(layer, span, |position| position.min(furthest) as i64)
        }
    }
}

impl Sequence {
    pub(crate) fn new(
        device: &Device,
        config: &ModelConfig,
        window: Option<usize>,
        sinks: usize,
        local: LocalMask,
    ) -> Self {
        let backend = Backend::for_device(device);
        let layer = |_| Layer {
            sinks: Cache::new(backend),
            recent: Cache::new(backend),
            earlier: None,
            bounds: None,
            handed_over: 0,
        };
        let layers = (0..config.layers).map(layer).collect();
        Self { layers, backend, kv_heads: config.kv_heads, window, sinks, local, holds: false }
    }

    /// The same sequence, kept apart.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        let layer = |layer: &Layer| {
            Ok(Layer {
                sinks: layer.sinks.duplicate()?,
                recent: layer.recent.duplicate()?,
                earlier: layer.earlier.as_ref().map(Cache::duplicate).transpose()?,
                ..*layer
            })
        };
        Ok(Self { layers: self.layers.iter().map(layer).collect::<Result<_>>()?, ..*self })
    }

    /// Bytes of keys and values that are kept.
    pub(crate) fn held_bytes(&self) -> usize {
        let caches =
            self.layers.iter().flat_map(|layer| [Some(&layer.sinks), Some(&layer.recent), layer.earlier.as_ref()]);
        caches.flatten().map(Cache::held_bytes).sum()
    }

    /// Computes with tensor operations even on the CPU.
    #[cfg(test)]
    pub(crate) fn force_tensors(&mut self) {
        self.backend = Backend::Tensors;
        for layer in &mut self.layers {
            (layer.sinks, layer.recent) = (Cache::new(self.backend), Cache::new(self.backend));
        }
    }

    /// Tokens that a query sees locally at a layer.
    pub(crate) fn window(&self, layer: &LayerContext<'_>) -> Option<usize> {
        self.window_at(layer.sliding_window)
    }

    fn window_at(&self, sliding_window: Option<usize>) -> Option<usize> {
        let own = match self.local {
            LocalMask::Sliding => self.window,
            LocalMask::SinceHandover => None,
        };
        match (own, sliding_window) {
            (Some(own), Some(sliding)) => Some(own.min(sliding)),
            (one, other) => one.or(other),
        }
    }

    /// Sinks at a layer: none where the model itself was made to see no more than the window.
    pub(crate) fn sinks(&self, layer: &LayerContext<'_>) -> usize {
        self.sinks_at(layer.sliding_window)
    }

    fn sinks_at(&self, sliding_window: Option<usize>) -> usize {
        match (self.local, self.window) {
            (LocalMask::Sliding, Some(own)) if sliding_window.is_none_or(|sliding| sliding > own) => self.sinks,
            _ => 0,
        }
    }

    /// Longest distance between a query and a key at a layer: decides the frequencies of dynamic scaling.
    pub(crate) fn span(&self, layer: &LayerContext<'_>) -> usize {
        self.span_at(layer.sliding_window)
    }

    /// The [`span`](Self::span) of layers with this sliding window of their own.
    pub(crate) fn span_at(&self, sliding_window: Option<usize>) -> usize {
        self.window_at(sliding_window).map_or(0, |window| window + self.sinks_at(sliding_window))
    }

    /// Keeps tokens that leave the window until told otherwise: after a [`rewind`](Self::rewind) they may be in it again.
    pub(crate) fn hold(&mut self, holds: bool) {
        self.holds = holds;
    }

    /// Position of the first token of the sequence at a layer, and of the next one.
    pub(crate) fn bounds(&self, layer: usize) -> Option<(usize, usize)> {
        self.layers.get(layer).and_then(|layer| layer.bounds)
    }

    /// How many tokens stand between query position `position` and the first local token it sees that is no sink.
    pub(crate) fn local_distance(&self, layer: &LayerContext<'_>, position: usize) -> usize {
        let Some(Layer { bounds: Some((base, _)), handed_over, .. }) = self.layers.get(layer.index) else { return 0 };
        let first = match self.local {
            LocalMask::Sliding => base + self.sinks(layer),
            LocalMask::SinceHandover => (*base).max(*handed_over),
        };
        let distance = position.saturating_sub(first);
        self.window(layer).map_or(distance, |window| distance.min(window - 1))
    }

    /// Keeps the keys and values of a call's tokens, and returns its queries. Keys before rotary encoding.
    pub(crate) fn append(&mut self, context: &LayerContext<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Queries> {
        let queries = self.queries(context, q)?;
        let (window, sinks, span) = (self.window(context), self.sinks(context), self.span(context));
        let (_, n, _) = q.dims3()?;
        let first = context.first_position;
        let layer = self.layers.get_mut(context.index).ok_or_else(|| {
            Error::Invalid(Invalid { what: "attention", why: format!("layer {} of another model", context.index) })
        })?;
        let (base, next) = layer.bounds.unwrap_or((first, first));
        if first != next {
            return Err(Error::Position { expected: next, got: first });
        }
        if let Some(window) = window.filter(|_| !self.holds) {
            let seen_from = (first + 1).saturating_sub(window);
            layer.recent.release_before(seen_from);
            layer.earlier.iter_mut().for_each(|earlier| earlier.release_before(seen_from));
        }
        let positions: Vec<i64> = (first..first + n).map(|position| position as i64).collect();
        let keys = if window.is_none() && context.rotary.is_dynamic() {
            k.clone()
        } else {
            context.rotary.apply_within(k, &positions, span)?
        };
        let into_sinks = (base + sinks).saturating_sub(first).min(n);
        if into_sinks == 0 {
            layer.recent.append(first, &keys, v)?;
        } else {
            layer.sinks.append(first, &keys.narrow(1, 0, into_sinks)?, &v.narrow(1, 0, into_sinks)?)?;
            let rest = n - into_sinks;
            if rest > 0 {
                let (k, v) = (keys.narrow(1, into_sinks, rest)?, v.narrow(1, into_sinks, rest)?);
                layer.recent.append(first + into_sinks, &k, &v)?;
            }
        }
        layer.bounds = Some((base, first + n));
        Ok(queries)
    }

    /// Queries of a call whose keys and values are not kept here.
    pub(crate) fn queries(&self, context: &LayerContext<'_>, q: &Tensor) -> Result<Queries> {
        let (first, n) = (context.first_position, q.dim(1)?);
        let positions: Vec<i64> = (first..first + n).map(|position| position as i64).collect();
        let rotated = context.rotary.apply_within(q, &positions, self.span(context))?;
        Ok(Queries { raw: q.clone(), rotated, first, n })
    }

    /// Goes on at `position`; what stands between is kept elsewhere. Once for a sequence.
    pub(crate) fn leave_gap(&mut self, position: usize) -> Result<()> {
        for layer in &mut self.layers {
            let Some((base, next)) = layer.bounds else { continue };
            if position < next {
                return Err(Error::Position { expected: next, got: position });
            }
            // A cache holds consecutive tokens.
            layer.earlier = Some(std::mem::replace(&mut layer.recent, Cache::new(self.backend)));
            layer.bounds = Some((base, position));
        }
        Ok(())
    }

    /// Forgets the tokens from `position` on.
    pub(crate) fn rewind(&mut self, position: usize) {
        for layer in &mut self.layers {
            let Some((base, next)) = layer.bounds.filter(|(_, next)| *next > position) else { continue };
            layer.sinks.truncate_from(position);
            layer.recent.truncate_from(position);
            layer.earlier.iter_mut().for_each(|earlier| earlier.truncate_from(position));
            layer.bounds = (position > base).then_some((base, position.min(next)));
        }
    }

    /// Forgets the tokens before `position`, which memory holds now; only for [`LocalMask::SinceHandover`].
    pub(crate) fn hand_over(&mut self, position: usize) {
        if self.local == LocalMask::SinceHandover {
            for layer in &mut self.layers {
                layer.recent.truncate_before(position);
                layer.handed_over = position;
            }
        }
    }

    /// Forgets all but the sinks and goes on at `position`.
    pub(crate) fn skip_to(&mut self, position: usize) -> Result<()> {
        for layer in &mut self.layers {
            let Some((base, next)) = layer.bounds else { continue };
            if position < next {
                return Err(Error::Position { expected: next, got: position });
            }
            layer.recent.truncate_before(position);
            layer.bounds = Some((base, position));
        }
        Ok(())
    }

    /// Sinks and recent tokens as parts, ready to be attended to with `scale` per head.
    ///
    /// A sink that left the window keeps a bounded distance: queries see the sinks from position
    /// `sinks + window - 1` at most, as if everything between sinks and window were cut out (`StreamingLLM`,
    /// section 3.2). Until then that is their true position.
    pub(crate) fn parts<'a>(
        &'a self,
        context: &LayerContext<'a>,
        queries: &Queries,
        scale: &'a [f32],
        hide_sinks: bool,
    ) -> Result<Vec<Part<'a>>> {
        let Some(layer) = self.layers.get(context.index) else { return Ok(Vec::new()) };
        let (window, sinks) = (self.window(context), self.sinks(context));
        let logits = LogitRule { scale, bias: None, slope: context.slopes };
        let mut parts = Vec::new();
        let mut push = |stretch: Stretch<'a>, queries: Tensor, mask: Mask| {
            parts.push(Part { queries, keys: stretch.keys, values: stretch.values, len: stretch.len, mask, logits });
        };
        let base = layer.bounds.map_or(0, |(base, _)| base);
        for stretch in if hide_sinks { Vec::new() } else { layer.sinks.stretches()? } {
            let furthest = window.map_or(usize::MAX, |window| base + sinks + window - 1);
            let seen_from = queries.no_further_than(context, self.span(context), furthest)?;
            let mask = Mask::Causal { first_key: stretch.first, first_query: queries.first, window: None };
            push(stretch, seen_from, mask);
        }
        let dynamic = window.is_none() && context.rotary.is_dynamic();
        let span = queries.first + queries.n - base;
        let seen_from =
            if dynamic { queries.at(context, span, |position| position as i64)? } else { queries.rotated.clone() };
        let earlier = layer.earlier.as_ref().map_or_else(|| Ok(Vec::new()), Cache::stretches)?;
        for mut stretch in earlier.into_iter().chain(layer.recent.stretches()?) {
            if dynamic {
                stretch.keys = rotated_now(context, &stretch, queries, self.kv_heads, span)?;
            }
            let mask = Mask::Causal { first_key: stretch.first, first_query: queries.first, window };
            push(stretch, seen_from.clone(), mask);
        }
        Ok(parts)
    }

    /// Attends to sinks and recent tokens alone.
    pub(crate) fn attend(&self, context: &LayerContext<'_>, queries: &Queries) -> Result<Output> {
        let scale = vec![context.scale; queries.raw.dim(0)?];
        let parts = self.parts(context, queries, &scale, false)?;
        backend::attention(self.backend, self.kv_heads, &queries.raw, &parts)
    }
}

/// Keys that were kept unrotated, rotated for a sequence of `span` tokens.
fn rotated_now<'a>(
    context: &LayerContext<'_>,
    stretch: &Stretch<'_>,
    queries: &Queries,
    kv_heads: usize,
    span: usize,
) -> Result<backend::Source<'a>> {
    let shape = (kv_heads, stretch.len, queries.raw.dim(D::Minus1)?);
    let raw = stretch.keys.to_tensor(shape, queries.raw.device())?;
    let positions: Vec<i64> = (stretch.first..stretch.first + stretch.len).map(|position| position as i64).collect();
    Ok(backend::Source::Tensor(context.rotary.apply_within(&raw, &positions, span)?))
}

/// `[n_heads, n, head_dim]` f32 to `[n, n_heads * head_dim]` of the queries' type.
pub(crate) fn by_token(context: &Tensor, like: &Tensor) -> Result<Tensor> {
    let (heads, n, head_dim) = context.dims3()?;
    let rows = if n == 1 { context.clone() } else { context.transpose(0, 1)?.contiguous()? };
    Ok(rows.reshape((n, heads * head_dim))?.to_dtype(like.dtype())?)
}
