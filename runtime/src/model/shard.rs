//! One weight file: where each tensor lies, and its bytes as a tensor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{Error, Result};

/// Longest safetensors header that is read; that of safetensors itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// How Git LFS begins the small file that stands for a large one.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Bytes of one weight file.
enum Bytes {
    File(File),
    Embedded(&'static [u8]),
}

/// How values are stored.
pub(super) enum Encoding {
    Plain(DType),
    /// Blocks of GGUF with scales of their own, which are unpacked to f32.
    Blocks(GgmlDType),
    /// The name of a type that is not read.
    Unread(String),
}

/// Where a tensor lies.
pub(super) struct Entry {
    pub(super) shape: Vec<usize>,
    pub(super) encoding: Encoding,
    /// From the beginning of the file.
    pub(super) start: u64,
    pub(super) bytes: usize,
    /// Rows of a head, if they are stored for rotary planes of neighbours.
    pub(super) turned: Option<usize>,
}

/// One weight file.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    bytes: Bytes,
    entries: HashMap<String, Entry>,
    metadata: HashMap<String, String>,
}

impl Shard {
    /// Opens a safetensors file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        refuse_pointer(path)?;
        let read_error = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        Self::parse(path, Bytes::File(file), length)
    }

    /// The bytes of a safetensors file that is built in.
    pub(super) fn embedded(bytes: &'static [u8]) -> Result<Self> {
        Self::parse(Path::new("model.safetensors"), Bytes::Embedded(bytes), bytes.len() as u64)
    }

    /// A file whose tensors were located already, within its length.
    pub(super) fn of_entries(path: &Path, entries: HashMap<String, Entry>) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Ok(Self { path: path.into(), bytes: Bytes::File(file), entries, metadata: HashMap::new() })
    }

    /// Checks the header against the length: nothing is allocated for bytes that are not there.
    fn parse(path: &Path, mut bytes: Bytes, length: u64) -> Result<Self> {
        let truncated = |expected| Error::Truncated { path: path.into(), expected, got: length };
        let damaged = |why: String| Error::Damaged { path: path.into(), why };
        if length < 8 {
            return Err(truncated(8));
        }
        let mut announced = [0; 8];
        bytes.read(path, 0, &mut announced)?;
        let header_bytes = u64::from_le_bytes(announced);
        if header_bytes > HEADER_BYTES_MAX {
            return Err(damaged(format!("its header claims {header_bytes} bytes; this is not a safetensors file")));
        }
        if length < 8 + header_bytes {
            return Err(truncated(8 + header_bytes));
        }
        let mut header = vec![0; header_bytes as usize];
        bytes.read(path, 8, &mut header)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
        let data_start = 8 + header_bytes;
        let expected = data_start + metadata.data_len() as u64;
        if length < expected {
            return Err(truncated(expected));
        }
        if length > expected {
            return Err(damaged(format!("{} bytes follow its last tensor", length - expected)));
        }
        let entry = |info: &safetensors::tensor::TensorInfo| Entry {
            shape: info.shape.clone(),
            encoding: match info.dtype {
                Dtype::F32 => Encoding::Plain(DType::F32),
                Dtype::F16 => Encoding::Plain(DType::F16),
                Dtype::BF16 => Encoding::Plain(DType::BF16),
                Dtype::U8 => Encoding::Plain(DType::U8),
                other => Encoding::Unread(format!("{other:?}")),
            },
            start: data_start + info.data_offsets.0 as u64,
            bytes: info.data_offsets.1 - info.data_offsets.0,
            turned: None,
        };
        let entries = metadata.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.into(), bytes, entries, metadata })
    }

    /// Names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.entries.keys()
    }

    /// The metadata of a safetensors file.
    pub(super) fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor on the host and the hash of its stored bytes. Peak memory is the bytes twice and the values.
    pub(super) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Option<(Tensor, blake3::Hash)>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        if let Encoding::Unread(kind) = &entry.encoding {
            return Err(Error::UnsupportedDtype { name: name.into(), got: kind.clone() });
        }
        if entry.shape != shape {
            return Err(Error::WrongShape { name: name.into(), expected: shape.into(), got: entry.shape.clone() });
        }
        // Words, so that blocks of 16-bit and 32-bit numbers are aligned.
        let mut words = vec![0_u32; entry.bytes.div_ceil(4)];
        let bytes = &mut bytemuck::cast_slice_mut(&mut words)[..entry.bytes];
        self.bytes.read(&self.path, entry.start, bytes)?;
        let digest = blake3::hash(bytes);
        let tensor = match entry.encoding {
            Encoding::Blocks(kind) => {
                let storage = QStorage::from_data((&*bytes).into(), &Device::Cpu, kind)?;
                drop(words);
                QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?
            }
            Encoding::Plain(dtype) => Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?,
            Encoding::Unread(_) => return Ok(None),
        };
        Ok(Some(match entry.turned {
            Some(head_dim) => (half_split(&tensor, head_dim)?, digest),
            None => (tensor, digest),
        }))
    }

    /// A short vector of f32, if it is there.
    pub(super) fn factors(&mut self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(shape) = self.shape(name).map(<[_]>::to_vec) else { return Ok(None) };
        if shape.len() != 1 || shape[0] > 1 << 12 {
            let why = format!("tensor '{name}' has the shape {shape:?}");
            return Err(Error::Damaged { path: self.path.clone(), why });
        }
        let read = self.read(name, &shape)?;
        read.map(|(tensor, _)| Ok(tensor.to_dtype(DType::F32)?.to_vec1()?)).transpose()
    }
}

/// Rows `2i + j` of each head to `j * head_dim/2 + i`.
fn half_split(tensor: &Tensor, head_dim: usize) -> Result<Tensor> {
    let rows = tensor.dim(0)?;
    let values = tensor.elem_count() / rows.max(1);
    let pairs = tensor.reshape((rows / head_dim, head_dim / 2, 2, values))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(tensor.shape())?)
}

/// Refuses the file that a checkout without Git LFS leaves in the place of a large one.
pub(super) fn refuse_pointer(path: &Path) -> Result<()> {
    let mut begin = [0; POINTER.len()];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
    match read {
        Ok(()) if begin == POINTER => Err(Error::ForeignFile {
            path: path.into(),
            what: "is a Git LFS pointer, not the file itself".into(),
            advice: "run 'git lfs pull' in its repository or download the file".into(),
        }),
        Err(source) if source.kind() != ErrorKind::UnexpectedEof => Err(Error::Read { path: path.into(), source }),
        _ => Ok(()),
    }
}

impl Bytes {
    fn read(&mut self, path: &Path, offset: u64, into: &mut [u8]) -> Result<()> {
        let read_error = |source| Error::Read { path: path.into(), source };
        match self {
            Self::File(file) => {
                file.seek(SeekFrom::Start(offset)).map_err(read_error)?;
                file.read_exact(into).map_err(read_error)
            }
            Self::Embedded(bytes) => {
                let wanted = usize::try_from(offset).ok().and_then(|from| bytes.get(from..)?.get(..into.len()));
                let wanted =
                    wanted.ok_or_else(|| Error::Damaged { path: path.into(), why: "it is too short".into() })?;
                into.copy_from_slice(wanted);
                Ok(())
            }
        }
    }
}
