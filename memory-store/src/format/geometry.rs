//! Where the keys and values of a memory's shape stand in a chunk, and how many bytes they take.

use std::ops::Range;

use mnemon_memory::{KvDtype, KvGeometry};

use crate::format::quant;
use crate::format::quant::Shape;

/// Where the keys of a key head are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum KeySource {
    /// Among the keys and values of a stored layer, by its slot.
    Slot(usize),
    /// Alone, by its place among the lone key heads.
    Lone(usize),
}

/// What storage knows of a [`KvGeometry`].
pub(crate) trait StoredGeometry {
    /// Where the keys of the key head at `index` of `key_heads` are stored.
    fn source_of(&self, index: usize) -> KeySource;

    /// Key heads, as indices into `key_heads`, whose keys are stored at `source`.
    fn key_heads_at(&self, source: KeySource) -> Range<usize>;

    /// Bytes of keys and values of a chunk of `tokens` tokens over all memory layers, and of the lone keys.
    fn chunk_bytes(&self, tokens: usize) -> usize;

    /// Of the keys, or of the values, of a chunk of `tokens` tokens at one memory layer.
    fn shape(&self, tokens: usize) -> Shape;

    /// Of the keys of a lone key head.
    fn lone_shape(&self, tokens: usize) -> Shape;

    /// Bytes of the keys and of the values of a chunk of `tokens` tokens at one memory layer.
    fn side_bytes(&self, tokens: usize) -> [usize; 2];

    /// Bytes of the keys of a chunk of `tokens` tokens at a lone key head.
    fn lone_key_bytes(&self, tokens: usize) -> usize;
}

impl StoredGeometry for KvGeometry {
    fn source_of(&self, index: usize) -> KeySource {
        if let Some(slot) = self.key_heads.get(index).and_then(|key| self.slot_of(key.layer)) {
            return KeySource::Slot(slot);
        }
        let before = self.key_heads.iter().take(index);
        KeySource::Lone(before.filter(|key| self.slot_of(key.layer).is_none()).count())
    }

    fn key_heads_at(&self, source: KeySource) -> Range<usize> {
        match source {
            KeySource::Slot(slot) => {
                let Some(layer) = self.layers.get(slot) else { return 0..0 };
                let start = self.key_heads.partition_point(|key| key.layer < *layer);
                start..self.key_heads.partition_point(|key| key.layer <= *layer)
            }
            KeySource::Lone(lone) => {
                let lone = self.lone_key_heads().nth(lone).and_then(|key| self.key_head_index(key));
                lone.map_or(0..0, |index| index..index + 1)
            }
        }
    }

    fn chunk_bytes(&self, tokens: usize) -> usize {
        let [keys, values] = self.side_bytes(tokens);
        let lone = self.lone_key_heads().count().saturating_mul(self.lone_key_bytes(tokens));
        self.layers.len().saturating_mul(keys + values).saturating_add(lone)
    }

    fn shape(&self, tokens: usize) -> Shape {
        Shape { heads: self.kv_heads as usize, tokens, dim: self.head_dim as usize }
    }

    fn lone_shape(&self, tokens: usize) -> Shape {
        Shape { heads: 1, ..self.shape(tokens) }
    }

    fn side_bytes(&self, tokens: usize) -> [usize; 2] {
        [0, 1].map(|side| side_bytes(self.shape(tokens), self.dtype, side))
    }

    fn lone_key_bytes(&self, tokens: usize) -> usize {
        side_bytes(self.lone_shape(tokens), self.dtype, 0)
    }
}

/// Bytes of keys and values of one token of a full chunk over all memory layers, and of the lone keys, offsets and steps
/// included.
pub fn bytes_per_token(geometry: &KvGeometry) -> usize {
    let tokens = geometry.chunk_tokens as usize;
    geometry.chunk_bytes(tokens).div_ceil(tokens.max(1))
}

/// Keys are side 0, values side 1.
fn side_bytes(shape: Shape, dtype: KvDtype, side: usize) -> usize {
    match dtype {
        KvDtype::Int8 | KvDtype::Int4 => {
            let axis = if side == 0 { quant::KEY_AXIS } else { quant::VALUE_AXIS };
            quant::coded_bytes(shape, axis, dtype)
        }
        plain => shape.len() * plain.bits() / 8,
    }
}

#[cfg(test)]
mod tests {
    use mnemon_memory::{EntryPolicy, KeyHead};

    use super::*;

    #[test]
    fn key_heads_are_found_where_their_keys_are() {
        let key_heads = [(0, 1), (1, 0), (2, 0), (3, 0), (3, 1)].map(|(layer, head)| KeyHead { layer, head });
        let chosen = KvGeometry {
            layers: vec![1, 3],
            key_heads: key_heads.to_vec(),
            kv_heads: 2,
            head_dim: 4,
            dtype: KvDtype::F32,
            chunk_tokens: 4,
            entry_policy: EntryPolicy::PerToken,
        };
        let sources: Vec<KeySource> = (0..5).map(|index| chosen.source_of(index)).collect();
        let slot = KeySource::Slot;
        assert_eq!(sources, [KeySource::Lone(0), slot(0), KeySource::Lone(1), slot(1), slot(1)]);
        for (index, source) in sources.into_iter().enumerate() {
            assert!(chosen.key_heads_at(source).contains(&index));
        }
        assert_eq!(chosen.key_heads_at(KeySource::Slot(1)), 3..5);
    }
}
