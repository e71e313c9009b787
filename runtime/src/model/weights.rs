//! Tensors out of weight files, one at a time: peak memory is the model and its largest tensor.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::shard::Shard;
use crate::error::{Error, Result};

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
        Ok(Self::new(vec![Shard::embedded(bytes)?], model, device, dtype))
    }

    pub(super) fn new(shards: Vec<Shard>, model: &str, device: &Device, dtype: DType) -> Self {
        let names = |(number, shard): (usize, &Shard)| {
            shard.names().map(move |name| (name.clone(), number)).collect::<Vec<_>>()
        };
        let index = shards.iter().enumerate().flat_map(names).collect();
        let (model, device) = (model.into(), device.clone());
        Self { shards, index, model, device, dtype, digests: BTreeMap::new(), parameters: 0 }
    }

    /// Adds the tensors of another file, none of which may be there already; returns its metadata.
    pub(super) fn add(&mut self, path: &Path) -> Result<HashMap<String, String>> {
        let shard = Shard::open(path)?;
        for name in shard.names() {
            if self.index.insert(name.clone(), self.shards.len()).is_some() {
                return Err(Error::Damaged {
                    path: path.into(),
                    why: format!("the model has a tensor '{name}' already"),
                });
            }
        }
        let metadata = shard.metadata().clone();
        self.shards.push(shard);
        Ok(metadata)
    }

    /// The first tensor of a file, by name, that was not read: something that would be ignored.
    pub(super) fn unread(&self, path: &Path) -> Option<String> {
        let shard = self.shards.iter().find(|shard| shard.path == path)?;
        shard.names().filter(|name| !self.digests.contains_key(*name)).min().cloned()
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
        shard.shape(name)?.first().copied()
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
        let (tensor, digest) = shard.read(name, shape)?.ok_or_else(missing)?;
        self.digests.insert(name.into(), digest);
        Ok(tensor)
    }
}
