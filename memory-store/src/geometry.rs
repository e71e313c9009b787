//! What the stored keys and values look like, and which model made them.

use std::{fmt, str::FromStr};

use crate::quant::{self, Shape};
use crate::{Error, Result};

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
    type Err = Error;

    /// `f32`, `f16`, `bf16`, `int8` or `int4`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::Int4),
            _ => Err(Error::Invalid { what: "kv_dtype", why: format!("'{text}'; f32, f16, bf16, int8 or int4") }),
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
    type Err = Error;

    /// `per_token`, `block_mean:N` or `representative:N`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, number) = match text.split_once(':') {
            Some((name, number)) => (name, number.parse::<u16>().ok().filter(|&n| n > 0)),
            None => (text, None),
        };
        match (name, number) {
            ("per_token", None) if text == name => Ok(Self::PerToken),
            ("block_mean", Some(tokens)) => Ok(Self::BlockMean { tokens }),
            ("representative", Some(count)) => Ok(Self::Representative { count }),
            _ => Err(Error::Invalid {
                what: "entry_policy",
                why: format!("'{text}'; per_token, block_mean:N or representative:N"),
            }),
        }
    }
}

/// Shape of what a memory stores; fixed when the memory is created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvGeometry {
    /// Decoder layers that attend to memory, ascending, zero-based.
    pub layers: Vec<u32>,
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

impl KvGeometry {
    /// Refuses shapes that cannot be stored: no layer, a zero, or more than 4096 in any dimension.
    pub fn validate(&self) -> Result<()> {
        let invalid = |why: String| Err(Error::Invalid { what: "memory geometry", why });
        if self.layers.is_empty() || self.layers.len() > 1024 {
            return invalid(format!("{} memory layers; 1 to 1024 are accepted", self.layers.len()));
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
        match self.entry_policy {
            EntryPolicy::BlockMean { tokens: 0 } | EntryPolicy::Representative { count: 0 } => {
                invalid("an entry policy needs at least one token".into())
            }
            _ => Ok(()),
        }
    }

    /// Bytes of keys and values of one token of a full chunk over all memory layers, offsets and steps included.
    pub fn bytes_per_token(&self) -> usize {
        let tokens = self.chunk_tokens as usize;
        self.chunk_bytes(tokens).div_ceil(tokens.max(1))
    }

    /// Bytes of keys and values of a chunk of `tokens` tokens over all memory layers.
    pub(crate) fn chunk_bytes(&self, tokens: usize) -> usize {
        let [keys, values] = self.side_bytes(tokens);
        self.layers.len().saturating_mul(keys + values)
    }

    pub(crate) fn shape(&self, tokens: usize) -> Shape {
        Shape { heads: self.kv_heads as usize, tokens, dim: self.head_dim as usize }
    }

    /// Bytes of the keys and of the values of a chunk of `tokens` tokens at one memory layer.
    pub(crate) fn side_bytes(&self, tokens: usize) -> [usize; 2] {
        let shape = self.shape(tokens);
        match self.dtype {
            KvDtype::Int8 | KvDtype::Int4 => {
                [quant::KEY_AXIS, quant::VALUE_AXIS].map(|axis| quant::coded_bytes(shape, axis, self.dtype))
            }
            plain => [shape.len() * plain.bits() / 8; 2],
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
    type Err = Error;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        let pairs = text.as_bytes().as_chunks::<2>();
        let read = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
        let fine = pairs.0.len() == 32 && pairs.1.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        for (byte, pair) in bytes.iter_mut().zip(pairs.0) {
            *byte = read(pair).unwrap_or_default();
        }
        let invalid = || Error::Invalid { what: "fingerprint", why: "64 hexadecimal digits are accepted".into() };
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
}
