//! Tensors out of safetensors files, one at a time: peak memory is the model and its largest tensor.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::Metadata};

use crate::{Error, Result};

/// Longest header that is read; that of safetensors itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Bytes of one weight file.
enum Bytes {
    File(File),
    Embedded(&'static [u8]),
}

/// One weight file.
struct Shard {
    path: PathBuf,
    bytes: Bytes,
    /// Where the tensors begin.
    data_start: u64,
    metadata: Metadata,
}

impl Shard {
    fn open(path: &Path) -> Result<Self> {
        let read_error = |source| Error::Read { path: path.into(), source };
        let file = File::open(path).map_err(read_error)?;
        let length = file.metadata().map_err(read_error)?.len();
        Self::parse(path, Bytes::File(file), length)
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
        Ok(Self { path: path.into(), bytes, data_start, metadata })
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

/// All tensors of a model, converted as they are asked for.
pub(super) struct Weights {
    shards: Vec<Shard>,
    /// Shard of each tensor.
    index: HashMap<String, usize>,
    model: String,
    device: Device,
    dtype: DType,
    /// Hash of each tensor that was read.
    digests: BTreeMap<String, blake3::Hash>,
    parameters: u64,
}

impl Weights {
    pub(super) fn open(paths: &[PathBuf], model: &str, device: &Device, dtype: DType) -> Result<Self> {
        let shards = paths.iter().map(|path| Shard::open(path)).collect::<Result<_>>()?;
        Ok(Self::new(shards, model, device, dtype))
    }

    pub(super) fn embedded(bytes: &'static [u8], model: &str, device: &Device, dtype: DType) -> Result<Self> {
        let path = Path::new("model.safetensors");
        let shard = Shard::parse(path, Bytes::Embedded(bytes), bytes.len() as u64)?;
        Ok(Self::new(vec![shard], model, device, dtype))
    }

    fn new(shards: Vec<Shard>, model: &str, device: &Device, dtype: DType) -> Self {
        let names = |(number, shard): (usize, &Shard)| {
            shard.metadata.tensors().into_keys().map(move |name| (name, number)).collect::<Vec<_>>()
        };
        let index = shards.iter().enumerate().flat_map(names).collect();
        let (model, device) = (model.into(), device.clone());
        Self { shards, index, model, device, dtype, digests: BTreeMap::new(), parameters: 0 }
    }

    /// Adds the tensors of another file, none of which may be there already; returns its metadata.
    pub(super) fn add(&mut self, path: &Path) -> Result<HashMap<String, String>> {
        let shard = Shard::open(path)?;
        for name in shard.metadata.tensors().into_keys() {
            if self.index.insert(name.clone(), self.shards.len()).is_some() {
                return Err(Error::Damaged {
                    path: path.into(),
                    why: format!("the model has a tensor '{name}' already"),
                });
            }
        }
        let metadata = shard.metadata.metadata().clone().unwrap_or_default();
        self.shards.push(shard);
        Ok(metadata)
    }

    /// The first tensor of a file, by name, that was not read: something that would be ignored.
    pub(super) fn unread(&self, path: &Path) -> Option<String> {
        let shard = self.shards.iter().find(|shard| shard.path == path)?;
        let names = shard.metadata.tensors().into_keys();
        names.filter(|name| !self.digests.contains_key(name)).min()
    }

    /// Number of weights read so far; the scales of 8-bit ones are none.
    pub(super) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Hash of each tensor read so far, by name.
    pub(super) fn digests(&self) -> &BTreeMap<String, blake3::Hash> {
        &self.digests
    }

    /// A tensor of the model's type on its device.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        Ok(self.host(name, shape)?.to_dtype(self.dtype)?.to_device(&self.device)?)
    }

    /// A small vector as numbers.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values: Vec<f32> = self.host(name, &[len])?.to_dtype(DType::F32)?.to_vec1()?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let why = format!("value {at} of tensor '{name}' is {}", values[at]);
            return Err(Error::Damaged { path: self.path_of(name), why });
        }
        Ok(values)
    }

    /// A tensor on the host, with what an adapter adds to it.
    fn host(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let own = self.own(name, shape)?;
        let Some(stem) = name.strip_suffix(".weight") else { return Ok(own) };
        let (a_name, b_name) = (format!("{stem}.lora_A"), format!("{stem}.lora_B"));
        let (Some(rank), &[rows, columns]) = (self.rows_of(&a_name), shape) else { return Ok(own) };
        let a = self.stored(&a_name, &[rank, columns])?.to_dtype(DType::F32)?;
        let b = self.stored(&b_name, &[rows, rank])?.to_dtype(DType::F32)?;
        let product = b.matmul(&a)?;
        if !product.abs()?.max_all()?.to_scalar::<f32>()?.is_finite() {
            let why = format!("the product of '{a_name}' and '{b_name}' is not finite");
            return Err(Error::Damaged { path: self.path_of(&a_name), why });
        }
        Ok((own.to_dtype(DType::F32)? + product)?)
    }

    /// First dimension of a tensor, if it is there.
    fn rows_of(&self, name: &str) -> Option<usize> {
        let shard = self.shards.get(*self.index.get(name)?)?;
        shard.metadata.info(name)?.shape.first().copied()
    }

    /// A tensor of the model as it is stored. A matrix of U8 `[rows, columns]` has its scales beside it, `NAME.scale`,
    /// F32 `[rows]`, and stands for `(byte - 128) * scale[row]`.
    fn own(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let is_new = !self.digests.contains_key(name);
        let stored = self.stored(name, shape)?;
        if is_new {
            self.parameters += shape.iter().product::<usize>() as u64;
        }
        if stored.dtype() != DType::U8 {
            return Ok(stored);
        }
        let &[rows, columns] = shape else {
            return Err(Error::UnsupportedDtype { name: name.into(), got: "U8, which is for matrices".into() });
        };
        let scales = self.stored(&format!("{name}.scale"), &[rows])?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        if let Some(row) = scales.iter().position(|scale| !scale.is_finite()) {
            let why = format!("scale {row} of tensor '{name}' is {}", scales[row]);
            return Err(Error::Damaged { path: self.path_of(name), why });
        }
        let bytes = stored.flatten_all()?.to_vec1::<u8>()?;
        let scaled =
            |(row, scale): (&[u8], &f32)| row.iter().map(|&b| (f32::from(b) - 128.0) * scale).collect::<Vec<_>>();
        let values: Vec<f32> = bytes.chunks_exact(columns.max(1)).zip(&scales).flat_map(scaled).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// The file that holds a tensor.
    fn path_of(&self, name: &str) -> PathBuf {
        self.index.get(name).and_then(|&number| self.shards.get(number)).map_or_else(PathBuf::new, |s| s.path.clone())
    }

    /// A tensor's own bytes, which count in the fingerprint.
    fn stored(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let missing = || Error::MissingTensor { name: name.into(), model: self.model.clone() };
        let shard = self.index.get(name).and_then(|&number| self.shards.get_mut(number)).ok_or_else(missing)?;
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::U8 => DType::U8,
            other => return Err(Error::UnsupportedDtype { name: name.into(), got: format!("{other:?}") }),
        };
        if info.shape != shape {
            return Err(Error::WrongShape { name: name.into(), expected: shape.into(), got: info.shape.clone() });
        }
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        shard.bytes.read(&shard.path, shard.data_start + start as u64, &mut bytes)?;
        self.digests.insert(name.into(), blake3::hash(&bytes));
        Ok(Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?)
    }
}
