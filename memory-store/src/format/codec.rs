//! Little-endian bytes of records and blob headers (see `docs/format.md`).

use std::collections::BTreeMap;

use mnemon_memory::{EntryPolicy, Fingerprint, KeyHead, KvDtype, KvGeometry};

use crate::error::{Error, Result};
use crate::types::info::MemorySpec;

/// Numbers of things, lengths and offsets stay below: sums of them do not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 56;

/// Of the byte of a geometry's entry policy: key heads follow, for not all of them have entries.
const CHOSEN_KEY_HEADS: u8 = 1 << 7;

/// Appends values to a byte string.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    pub(crate) bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Length in four bytes, then UTF-8.
    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.u32(value.len() as u32);
        self.bytes.extend_from_slice(value.as_bytes());
        self
    }

    pub(crate) fn map(&mut self, value: &BTreeMap<String, String>) -> &mut Self {
        self.u32(value.len() as u32);
        for (key, value) in value {
            self.text(key).text(value);
        }
        self
    }

    pub(crate) fn fingerprint(&mut self, value: &Fingerprint) -> &mut Self {
        self.bytes.extend_from_slice(&value.0);
        self
    }

    pub(crate) fn spec(&mut self, value: &MemorySpec) -> &mut Self {
        self.fingerprint(&value.fingerprint).geometry(&value.geometry).text(&value.model_name).text(&value.description)
    }

    pub(crate) fn geometry(&mut self, value: &KvGeometry) -> &mut Self {
        let (policy, count) = match value.entry_policy {
            EntryPolicy::PerToken => (0, 0),
            EntryPolicy::BlockMean { tokens } => (1, tokens),
            EntryPolicy::Representative { count } => (2, count),
        };
        self.u32(value.layers.len() as u32);
        for layer in &value.layers {
            self.u32(*layer);
        }
        self.u32(value.kv_heads).u32(value.head_dim).u8(dtype_code(value.dtype));
        if value.has_all_key_heads() {
            return self.u32(value.chunk_tokens).u8(policy).u16(count);
        }
        self.u32(value.chunk_tokens).u8(policy | CHOSEN_KEY_HEADS).u16(count).u32(value.key_heads.len() as u32);
        for KeyHead { layer, head } in &value.key_heads {
            self.u32(*layer).u32(*head);
        }
        self
    }

    /// Ends with the CRC-32 of everything before it.
    pub(crate) fn checked(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.bytes);
        self.u32(checksum);
        self.bytes
    }

    /// Zeros up to a multiple of `alignment`.
    pub(crate) fn align(&mut self, alignment: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self
    }
}

pub(crate) fn dtype_code(dtype: KvDtype) -> u8 {
    match dtype {
        KvDtype::F32 => 0,
        KvDtype::F16 => 1,
        KvDtype::Bf16 => 2,
        KvDtype::Int8 => 3,
        KvDtype::Int4 => 4,
    }
}

pub(crate) fn dtype_of(code: u8) -> Option<KvDtype> {
    match code {
        0 => Some(KvDtype::F32),
        1 => Some(KvDtype::F16),
        2 => Some(KvDtype::Bf16),
        3 => Some(KvDtype::Int8),
        4 => Some(KvDtype::Int4),
        _ => None,
    }
}

/// Takes values from a byte string; `what` names it in errors.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
    what: &'a str,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Self { rest: bytes, what }
    }

    /// Verifies and removes the CRC-32 at the end.
    pub(crate) fn checked(bytes: &'a [u8], what: &'a str) -> Result<Self> {
        let decoder = Self::new(bytes, what);
        let Some((body, checksum)) = bytes.split_last_chunk::<4>() else {
            return Err(decoder.damaged("it is too short"));
        };
        if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
            return Err(decoder.damaged("its checksum does not match"));
        }
        Ok(Self::new(body, what))
    }

    pub(crate) fn damaged(&self, why: &str) -> Error {
        Error::Damaged { what: self.what.to_owned(), why: why.to_owned() }
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.damaged("it ends too early"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.damaged("it ends too early"));
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of a thing, a length or an offset.
    pub(crate) fn number(&mut self) -> Result<u64> {
        let number = self.u64()?;
        if number < NUMBER_MAX { Ok(number) } else { Err(self.damaged("a number is out of range")) }
    }

    /// A count of things that take at least `least_bytes` each: cannot ask for more than is there.
    pub(crate) fn count(&mut self, least_bytes: usize) -> Result<usize> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / least_bytes.max(1) {
            return Err(self.damaged("a count is larger than the rest"));
        }
        Ok(count)
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let len = self.count(1)?;
        let bytes = self.take(len)?.to_vec();
        String::from_utf8(bytes).map_err(|_| self.damaged("a text is not UTF-8"))
    }

    pub(crate) fn map(&mut self) -> Result<BTreeMap<String, String>> {
        let count = self.count(8)?;
        (0..count).map(|_| Ok((self.text()?, self.text()?))).collect()
    }

    pub(crate) fn fingerprint(&mut self) -> Result<Fingerprint> {
        self.array().map(Fingerprint)
    }

    pub(crate) fn spec(&mut self) -> Result<MemorySpec> {
        Ok(MemorySpec {
            fingerprint: self.fingerprint()?,
            geometry: self.geometry()?,
            model_name: self.text()?,
            description: self.text()?,
        })
    }

    pub(crate) fn geometry(&mut self) -> Result<KvGeometry> {
        let count = self.count(4)?;
        let layers = (0..count).map(|_| self.u32()).collect::<Result<Vec<_>>>()?;
        let (kv_heads, head_dim) = (self.u32()?, self.u32()?);
        let dtype = dtype_of(self.u8()?).ok_or_else(|| self.damaged("unknown type of numbers"))?;
        let chunk_tokens = self.u32()?;
        let (policy, count) = (self.u8()?, self.u16()?);
        let entry_policy = match (policy & !CHOSEN_KEY_HEADS, count) {
            (0, _) => EntryPolicy::PerToken,
            (1, tokens) => EntryPolicy::BlockMean { tokens },
            (2, count) => EntryPolicy::Representative { count },
            _ => return Err(self.damaged("unknown entry policy")),
        };
        let chosen = policy & CHOSEN_KEY_HEADS != 0;
        let key_heads = if chosen {
            let count = self.count(8)?;
            let key_head = |_| Ok(KeyHead { layer: self.u32()?, head: self.u32()? });
            (0..count).map(key_head).collect::<Result<_>>()?
        } else {
            KvGeometry::all_key_heads(&layers, kv_heads)
        };
        let geometry = KvGeometry { layers, key_heads, kv_heads, head_dim, dtype, chunk_tokens, entry_policy };
        geometry.validate().map_err(|error| self.damaged(&error.to_string()))?;
        if chosen && geometry.has_all_key_heads() {
            // One shape, one form.
            return Err(self.damaged("key heads are listed although there are all of them"));
        }
        Ok(geometry)
    }

    /// What was not taken.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged("it is longer than it says")) }
    }
}
