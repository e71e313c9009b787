//! The header of a GGUF file: metadata and the table of tensors.
//!
//! Layout (version 3; version 2 is the same): `GGUF`, version u32, tensors u64, keys u64; each key a string, a type u32 and
//! a value; each tensor a name, its dimensions u32 with u64 each (fastest first), a type u32 and an offset u64 into the
//! data, which begins at the next multiple of `general.alignment`. Strings are a length u64 and UTF-8. Little endian.
//!
//! Every count and length is checked against the bytes that follow before anything is allocated for it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Most keys, and most tensors.
const ENTRIES_MAX: u64 = 1 << 16;
/// Most elements of all arrays together: large vocabularies have 2 million with scores, types and merges.
const ELEMENTS_MAX: u64 = 1 << 23;
/// Longest string.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Most dimensions of a tensor.
const DIMS_MAX: u32 = 4;
/// Largest alignment of tensors.
const ALIGNMENT_MAX: i64 = 1 << 20;

/// A value of the metadata. Integers beyond 63 bits saturate.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<String>),
}

/// A tensor's entry in the table.
#[derive(Debug)]
pub(super) struct TensorInfo {
    pub(super) name: String,
    /// Slowest dimension first.
    pub(super) shape: Vec<usize>,
    /// Number of its type.
    pub(super) kind: u32,
    /// From the beginning of the file.
    pub(super) start: u64,
}

/// What precedes the tensors.
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
    /// Bytes of the file.
    pub(super) length: u64,
}

/// Reads the header of a file.
pub(super) fn read(path: &Path) -> Result<Header> {
    let read_error = |source| Error::Read { path: path.into(), source };
    let file = File::open(path).map_err(read_error)?;
    let length = file.metadata().map_err(read_error)?.len();
    Reader { path, inner: BufReader::with_capacity(1 << 16, file), at: 0, length, elements: 0 }.header()
}

struct Reader<'a> {
    path: &'a Path,
    inner: BufReader<File>,
    /// Bytes read.
    at: u64,
    length: u64,
    /// Elements of arrays read.
    elements: u64,
}

impl Reader<'_> {
    fn damaged<T>(&self, why: impl Into<String>) -> Result<T> {
        Err(Error::Damaged { path: self.path.into(), why: why.into() })
    }

    /// Refuses to go on where fewer than `bytes` follow.
    fn demand(&self, bytes: u64) -> Result<()> {
        if bytes > self.length - self.at {
            let expected = self.at.saturating_add(bytes);
            return Err(Error::Truncated { path: self.path.into(), expected, got: self.length });
        }
        Ok(())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.demand(into.len() as u64)?;
        self.inner.read_exact(into).map_err(|source| Error::Read { path: self.path.into(), source })?;
        self.at += into.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<String> {
        let bytes = self.u64()?;
        self.demand(bytes)?;
        if bytes > TEXT_BYTES_MAX {
            return self.damaged(format!("a text of {bytes} bytes at {}; at most {TEXT_BYTES_MAX} are read", self.at));
        }
        let mut text = vec![0; bytes as usize];
        self.fill(&mut text)?;
        String::from_utf8(text)
            .or_else(|_| self.damaged(format!("the text that ends at byte {} is not UTF-8", self.at)))
    }

    /// A number of the given type, or a truth value.
    fn scalar(&mut self, kind: u32) -> Result<Value> {
        let unsigned = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(widened(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            10 => unsigned(self.u64()?),
            11 => Value::Int(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return self.damaged(format!("a value of the unknown type {kind} at byte {}", self.at)),
        })
    }

    fn value(&mut self) -> Result<Value> {
        match self.u32()? {
            8 => Ok(Value::Text(self.text()?)),
            9 => self.list(),
            kind => self.scalar(kind),
        }
    }

    fn list(&mut self) -> Result<Value> {
        let (kind, count) = (self.u32()?, self.u64()?);
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            _ => return self.damaged(format!("a list of elements of type {kind} at byte {}", self.at)),
        };
        self.demand(count.saturating_mul(least))?;
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX {
            return self.damaged(format!("its lists have more than {ELEMENTS_MAX} elements"));
        }
        if kind == 8 {
            return (0..count).map(|_| self.text()).collect::<Result<_>>().map(Value::Texts);
        }
        let scalars = (0..count).map(|_| self.scalar(kind));
        if matches!(kind, 6 | 12) {
            let float = |value: Result<Value>| value.map(|value| if let Value::Float(x) = value { x } else { 0.0 });
            return scalars.map(float).collect::<Result<_>>().map(Value::Floats);
        }
        let int = |value: Result<Value>| {
            value.map(|value| match value {
                Value::Int(x) => x,
                other => i64::from(other == Value::Bool(true)),
            })
        };
        scalars.map(int).collect::<Result<_>>().map(Value::Ints)
    }

    fn header(mut self) -> Result<Header> {
        let magic: [u8; 4] = self.array()?;
        if &magic != b"GGUF" {
            return self.damaged("it does not begin with GGUF");
        }
        match self.u32()? {
            2 | 3 => {}
            version if version.swap_bytes() < 256 && version != 0 => {
                return Err(self.foreign("is big-endian", "convert the model to a little-endian GGUF file"));
            }
            1 => return Err(self.foreign("has version 1", "convert the model again: versions 2 and 3 are read")),
            version => {
                return Err(self.foreign(&format!("has version {version}"), "versions 2 and 3 are read"));
            }
        }
        let (tensors, keys) = (self.u64()?, self.u64()?);
        if tensors > ENTRIES_MAX || keys > ENTRIES_MAX {
            return self.damaged(format!("{tensors} tensors and {keys} keys; at most {ENTRIES_MAX} of each are read"));
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = self.text()?;
            let value = self.value()?;
            if metadata.contains_key(&key) {
                return self.damaged(format!("the key '{key}' occurs twice"));
            }
            metadata.insert(key, value);
        }
        let mut tensors = (0..tensors).map(|_| self.tensor()).collect::<Result<Vec<_>>>()?;
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Int(bytes @ 1..=ALIGNMENT_MAX)) if bytes % 8 == 0 => *bytes as u64,
            Some(other) => return self.damaged(format!("general.alignment is {other:?}")),
        };
        let data_start = self.at.next_multiple_of(alignment);
        for tensor in &mut tensors {
            match tensor.start.checked_add(data_start) {
                Some(start) if tensor.start % alignment == 0 => tensor.start = start,
                _ => {
                    let why =
                        format!("tensor '{}' begins at {}, no multiple of {alignment}", tensor.name, tensor.start);
                    return self.damaged(why);
                }
            }
        }
        Ok(Header { metadata, tensors, length: self.length })
    }

    fn foreign(&self, what: &str, advice: &str) -> Error {
        Error::ForeignFile { path: self.path.into(), what: what.into(), advice: advice.into() }
    }

    fn tensor(&mut self) -> Result<TensorInfo> {
        let name = self.text()?;
        let dims = self.u32()?;
        if dims > DIMS_MAX {
            return self.damaged(format!("tensor '{name}' has {dims} dimensions; at most {DIMS_MAX} are read"));
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let size = self.u64()?;
            match usize::try_from(size) {
                Ok(size) => shape.push(size),
                Err(_) => return self.damaged(format!("a dimension of tensor '{name}' is {size}")),
            }
        }
        shape.reverse();
        Ok(TensorInfo { name, shape, kind: self.u32()?, start: self.u64()? })
    }
}

/// The number that the shortest decimal of `value` stands for: 1e-5 and not 9.99999974e-6, as `config.json` has it.
fn widened(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
