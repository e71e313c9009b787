//! What the stored keys and values look like, and which model made them.

use std::fmt;
use std::str::FromStr;

use crate::invalid::Invalid;

/// Type of the stored keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE 754 binary32, 4 bytes.
    F32,
    /// IEEE 754 binary16, 2 bytes.
    F16,
    /// bfloat16, 2 bytes.
    Bf16,
    /// 8-bit codes with an offset and a step for each group of values; read as binary16.
    Int8,
    /// 4-bit codes, likewise.
    Int4,
}

impl KvDtype {
    /// Bits of one value, without the offsets and steps of groups.
    pub fn bits(self) -> usize {
        match self {
            Self::F32 => 32,
            Self::F16 | Self::Bf16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }
}

impl fmt::Display for KvDtype {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        })
    }
}

impl FromStr for KvDtype {
    type Err = Invalid;

    /// `f32`, `f16`, `bf16`, `int8` or `int4`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            _ => Err(Invalid { what: "kv_dtype", why: format!("'{text}'; f32, f16, bf16, int8 or int4") }),
        }
    }
}

/// Which vectors of a chunk become search keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryPolicy {
    /// One entry per token: the token's key (Memorizing Transformers, section 3).
    PerToken,
    /// One entry per block of `tokens` tokens: the mean of their keys.
    BlockMean {
        /// Tokens of a block, at least 1.
        tokens: u16,
    },
    /// The `count` keys of a chunk that received most attention while they were local (`InfLLM`, section 3.2).
    Representative {
        /// Entries of a chunk, at least 1.
        count: u16,
    },
}

impl fmt::Display for EntryPolicy {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PerToken => f.write_str("per_token"),
            Self::BlockMean { tokens } => write!(f, "block_mean:{tokens}"),
            Self::Representative { count } => write!(f, "representative:{count}"),
        }
    }
}

impl FromStr for EntryPolicy {
    type Err = Invalid;

    /// `per_token`, `block_mean:N` or `representative:N`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, number.parse::<u16>().ok().filter(|&n| n > 0)),
            None => (text, None),
        };
        match (name, number) {
            ("per_token", None) if text == name => Ok(Self::PerToken),
            ("block_mean", Some(tokens)) => Ok(Self::BlockMean { tokens }),
            ("representative", Some(count)) => Ok(Self::Representative { count }),
            _ => Err(Invalid {
                what: "entry_policy",
                why: format!("'{text}'; per_token, block_mean:N or representative:N"),
            }),
        }
    }
}

/// Most key heads that can be chosen.
const KEY_HEADS_MAX: usize = 4096;
/// Most key heads where every one of the stored layers has entries: more than any model has.
const ALL_KEY_HEADS_MAX: usize = 1 << 16;

/// One key/value head of one decoder layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHead {
    /// Decoder layer, zero-based.
    pub layer: u32,
    /// Key/value head of this layer, zero-based.
    pub head: u32,
}

/// Shape of what a memory stores; fixed when the memory is created.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KvGeometry {
    /// Decoder layers whose keys and values are stored, ascending, zero-based; none if only keys are to be searched.
    pub layers: Vec<u32>,
    /// Key heads that have entries in the index, ascending by layer and head, distinct, 1 to 4096 (65536 where they are
    /// [all of them](Self::all_key_heads)). The keys of those in other layers than `layers` are stored alone, without
    /// values.
    pub key_heads: Vec<KeyHead>,
    /// Key/value heads of each of these layers.
    pub kv_heads: u32,
    /// Values of one key or value vector.
    pub head_dim: u32,
    /// Type in which keys and values are stored.
    pub dtype: KvDtype,
    /// Tokens of a full chunk.
    pub chunk_tokens: u32,
    /// Which vectors become search keys.
    pub entry_policy: EntryPolicy,
}

impl fmt::Debug for KvGeometry {
    /// Key heads are left out where all have entries: the fingerprint of models hashes this text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("KvGeometry");
        text.field("layers", &self.layers);
        if !self.has_all_key_heads() {
            text.field("key_heads", &self.key_heads);
        }
        text.field("kv_heads", &self.kv_heads).field("head_dim", &self.head_dim).field("dtype", &self.dtype);
        text.field("chunk_tokens", &self.chunk_tokens).field("entry_policy", &self.entry_policy).finish()
    }
}

impl KvGeometry {
    /// Every key/value head of `layers`, at most 65537 of them: one more than [`validate`](Self::validate) accepts.
    pub fn all_key_heads(layers: &[u32], kv_heads: u32) -> Vec<KeyHead> {
        let heads = layers.iter().flat_map(|&layer| (0..kv_heads).map(move |head| KeyHead { layer, head }));
        heads.take(ALL_KEY_HEADS_MAX + 1).collect()
    }

    /// Whether every key/value head of the stored layers has entries, and none of another layer.
    pub fn has_all_key_heads(&self) -> bool {
        let heads = self.kv_heads as usize;
        self.key_heads.len() == self.layers.len().saturating_mul(heads)
            && self.key_heads.iter().enumerate().all(|(index, key)| {
                Some(&key.layer) == self.layers.get(index / heads) && key.head as usize == index % heads
            })
    }

    /// Key heads of layers that are not stored, ascending: their keys are stored alone.
    pub fn lone_key_heads(&self) -> impl Iterator<Item = KeyHead> + '_ {
        self.key_heads.iter().copied().filter(|key| self.slot_of(key.layer).is_none())
    }

    /// Place of a key head among those that have entries.
    pub fn key_head_index(&self, key_head: KeyHead) -> Option<usize> {
        self.key_heads.binary_search(&key_head).ok()
    }

    /// The key head that each of `query_heads` query heads of a stored layer searches (an index into `key_heads`): head
    /// `h` that of key/value head `h / (query_heads / kv_heads)` (grouped-query attention).
    ///
    /// # Errors
    /// [`Invalid`] when there is no such slot, when `query_heads` is no multiple of `kv_heads`, and when a key/value head of this
    /// layer has no entries.
    pub fn searched_by(&self, slot: usize, query_heads: usize) -> Result<Vec<usize>, Invalid> {
        let invalid = |why: String| Invalid { what: "search", why };
        let layers = self.layers.len();
        let layer = self.layers.get(slot).ok_or_else(|| invalid(format!("slot {slot}; the memory has {layers}")))?;
        let group = query_heads / (self.kv_heads as usize).max(1);
        if group == 0 || !query_heads.is_multiple_of(self.kv_heads as usize) {
            return Err(invalid(format!("{query_heads} query heads; a multiple of {} is accepted", self.kv_heads)));
        }
        let key_head = |query_head: usize| {
            let head = (query_head / group) as u32;
            let found = self.key_head_index(KeyHead { layer: *layer, head });
            found.ok_or_else(|| invalid(format!("head {head} of layer {layer} has no entries in this memory")))
        };
        (0..query_heads).map(key_head).collect()
    }

    /// Refuses shapes that cannot be stored: nothing to search, a zero, or more than 4096 in any dimension.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |why: String| Err(Invalid { what: "memory geometry", why });
        if self.layers.len() > 1024 {
            return invalid(format!("{} memory layers; at most 1024 are accepted", self.layers.len()));
        }
        if !self.layers.windows(2).all(|pair| pair[0] < pair[1]) {
            return invalid("memory layers must be ascending and distinct".into());
        }
        for (what, value) in
            [("kv_heads", self.kv_heads), ("head_dim", self.head_dim), ("chunk_tokens", self.chunk_tokens)]
        {
            if value == 0 || value > 4096 {
                return invalid(format!("{what} is {value}; 1 to 4096 is accepted"));
            }
        }
        self.validate_key_heads()?;
        match self.entry_policy {
            EntryPolicy::BlockMean { tokens: 0 } | EntryPolicy::Representative { count: 0 } => {
                invalid("an entry policy needs at least one token".into())
            }
            EntryPolicy::Representative { .. } if !self.has_all_key_heads() => {
                invalid("representative entries need all key heads of the memory layers; use block_mean:N".into())
            }
            _ => Ok(()),
        }
    }

    fn validate_key_heads(&self) -> Result<(), Invalid> {
        let invalid = |why: String| Err(Invalid { what: "memory geometry", why });
        let (count, all) = (self.key_heads.len(), self.has_all_key_heads());
        let most = if all { ALL_KEY_HEADS_MAX } else { KEY_HEADS_MAX };
        if count == 0 && self.layers.is_empty() {
            return invalid("no memory layer and no key head; at least one of them is needed".into());
        }
        if count == 0 || count > most {
            return invalid(format!("{count} key heads; 1 to {most} are accepted"));
        }
        if !self.key_heads.windows(2).all(|pair| pair[0] < pair[1]) {
            return invalid("key heads must be ascending by layer and head, and distinct".into());
        }
        match self.key_heads.iter().find(|key| key.head >= self.kv_heads) {
            Some(KeyHead { layer, head }) => {
                invalid(format!("key head {head} of layer {layer}; a layer has {}", self.kv_heads))
            }
            None => Ok(()),
        }
    }

    /// Position of decoder layer `layer` among the memory layers.
    pub fn slot_of(&self, layer: u32) -> Option<usize> {
        self.layers.binary_search(&layer).ok()
    }
}

/// Hash over weights, tokenizer, rotary settings and memory geometry of a model (BLAKE3, 32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// All of it: 64 hexadecimal digits, as [`FromStr`] reads it.
    pub fn to_hex(&self) -> String {
        let digit = |half: u8| char::from_digit(u32::from(half), 16).unwrap_or_default();
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl FromStr for Fingerprint {
    type Err = Invalid;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; 32];
        let pairs = text.as_bytes().as_chunks::<2>();
        let read = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let fine = pairs.0.len() == 32 && pairs.1.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (byte, pair) in bytes.iter_mut().zip(pairs.0) {
            *byte = read(pair).unwrap_or_default();
        }
        let invalid = || Invalid { what: "fingerprint", why: "64 hexadecimal digits are accepted".into() };
        fine.then_some(Self(bytes)).ok_or_else(invalid)
    }
}

impl fmt::Display for Fingerprint {
    /// The first 12 bytes in hexadecimal: enough for a person to tell two models apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..12].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4] {
            assert_eq!(dtype.to_string().parse::<KvDtype>().unwrap(), dtype);
        }
        let policies =
            [EntryPolicy::PerToken, EntryPolicy::BlockMean { tokens: 8 }, EntryPolicy::Representative { count: 4 }];
        for policy in policies {
            assert_eq!(policy.to_string().parse::<EntryPolicy>().unwrap(), policy);
        }
        let fingerprint = Fingerprint(std::array::from_fn(|at| at as u8 * 7));
        assert_eq!(fingerprint.to_hex().parse::<Fingerprint>().unwrap(), fingerprint);
        for wrong in ["", "+f", &"0".repeat(63), &"0".repeat(66), &"+1".repeat(32)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
        for wrong in ["", "per_token:1", "block_mean", "block_mean:0", "representative:x", "f64"] {
            assert!(wrong.parse::<EntryPolicy>().is_err() && wrong.parse::<KvDtype>().is_err(), "{wrong}");
        }
    }

    fn geometry(layers: &[u32], key_heads: Option<&[(u32, u32)]>) -> KvGeometry {
        let chosen = |heads: &[(u32, u32)]| heads.iter().map(|&(layer, head)| KeyHead { layer, head }).collect();
        KvGeometry {
            layers: layers.to_vec(),
            key_heads: key_heads.map_or_else(|| KvGeometry::all_key_heads(layers, 2), chosen),
            kv_heads: 2,
            head_dim: 8,
            dtype: KvDtype::Int8,
            chunk_tokens: 64,
            entry_policy: EntryPolicy::PerToken,
        }
    }

    #[test]
    fn the_text_of_a_geometry_tells_key_heads_only_where_they_were_chosen() {
        let rest = "kv_heads: 2, head_dim: 8, dtype: Int8, chunk_tokens: 64, entry_policy: PerToken }";
        assert_eq!(format!("{:?}", geometry(&[1, 3], None)), format!("KvGeometry {{ layers: [1, 3], {rest}"));
        let heads = "key_heads: [KeyHead { layer: 2, head: 1 }]";
        assert_eq!(
            format!("{:?}", geometry(&[], Some(&[(2, 1)]))),
            format!("KvGeometry {{ layers: [], {heads}, {rest}")
        );
    }

    #[test]
    fn key_heads_are_checked() {
        assert!(
            geometry(&[1, 3], None).validate().is_ok() && geometry(&[], Some(&[(0, 0), (0, 1)])).validate().is_ok()
        );
        let chosen = geometry(&[1, 3], Some(&[(0, 1), (1, 0), (3, 1)]));
        assert!(chosen.validate().is_ok() && !chosen.has_all_key_heads());
        let wrong: [&[(u32, u32)]; 4] = [&[], &[(1, 0), (0, 0)], &[(1, 0), (1, 0)], &[(1, 2)]];
        for wrong in wrong {
            assert!(geometry(&[1], Some(wrong)).validate().is_err(), "{wrong:?}");
            assert!(geometry(&[], Some(wrong)).validate().is_err(), "{wrong:?}");
        }
        let representative = EntryPolicy::Representative { count: 2 };
        assert!(KvGeometry { entry_policy: representative, ..chosen.clone() }.validate().is_err());
        assert!(KvGeometry { entry_policy: representative, ..geometry(&[1, 3], None) }.validate().is_ok());
        let many = vec![KeyHead { layer: 0, head: 0 }; 5000];
        assert!(KvGeometry { key_heads: many, ..chosen }.validate().is_err());
        let layers: Vec<u32> = (0..1024).collect();
        let huge = KvGeometry { key_heads: KvGeometry::all_key_heads(&layers, 4096), ..geometry(&layers, None) };
        assert!(KvGeometry { kv_heads: 4096, ..huge }.validate().is_err());
    }

    #[test]
    fn grouped_query_heads_search_the_key_head_of_their_group() {
        let chosen = geometry(&[1, 3], Some(&[(0, 1), (1, 0), (2, 0), (3, 0), (3, 1)]));
        assert_eq!(chosen.searched_by(1, 4).unwrap(), [3, 3, 4, 4]);
        assert!(chosen.searched_by(0, 4).is_err() && chosen.searched_by(2, 4).is_err());
        assert!(chosen.searched_by(1, 3).is_err() && chosen.searched_by(1, 0).is_err());
        assert_eq!(geometry(&[1, 3], None).searched_by(1, 2).unwrap(), [2, 3]);
    }
}
