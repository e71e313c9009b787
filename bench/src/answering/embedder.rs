//! Sentence embeddings of a BERT model such as all-MiniLM-L6-v2: mean of the last layer over the tokens, normalised.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use rayon::prelude::*;
use tokenizers::Tokenizer;

/// Tokens of a text that are read.
const TOKENS_MAX: usize = 256;

/// The model and its tokenizer.
pub(crate) struct Embedder {
    model: BertModel,
    tokenizer: Tokenizer,
}

impl Embedder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors`.
    ///
    /// # Errors
    /// If one of them is missing or is of no BERT model.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path)
                .with_context(|| format!("{} cannot be read; name a folder with --embedder", path.display()))
        };
        let config: Config = serde_json::from_slice(&file("config.json")?)
            .with_context(|| format!("{} holds no BERT model", folder.display()))?;
        let weights = VarBuilder::from_buffered_safetensors(file("model.safetensors")?, DType::F32, &Device::Cpu)?;
        let mut tokenizer = Tokenizer::from_bytes(file("tokenizer.json")?).map_err(|error| anyhow!(error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| anyhow!(error))?;
        Ok(Self { model: BertModel::load(weights, &config)?, tokenizer })
    }

    /// One vector of length 1 for each text, in their order.
    pub(crate) fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        texts.par_iter().map(|text| self.embed_one(text)).collect()
    }

    fn embed_one(&self, text: &str) -> Result<Vec<f32>> {
        let encoding = self.tokenizer.encode(text, true).map_err(|error| anyhow!(error))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > TOKENS_MAX {
            // The mark at the end stays.
            let last = ids.last().copied();
            ids.truncate(TOKENS_MAX - 1);
            ids.extend(last);
        }
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let mut mean: Vec<f32> = hidden.mean(1)?.squeeze(0)?.to_vec1()?;
        let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
        for value in &mut mean {
            *value /= length;
        }
        Ok(mean)
    }
}

/// Indices of vectors by their product with a query, best first; equal ones in their order.
pub(crate) fn nearest(query: &[f32], vectors: &[Vec<f32>]) -> Vec<usize> {
    let product = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut scored: Vec<(usize, f32)> = vectors.iter().map(|vector| product(vector)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.into_iter().map(|(at, _)| at).collect()
}

/// Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): `score = sum over lists of 1 / (60 + rank)`.
pub(crate) fn fuse(lists: &[&[usize]]) -> Vec<usize> {
    const K: f64 = 60.0;
    let mut scores: std::collections::BTreeMap<usize, f64> = std::collections::BTreeMap::new();
    for list in lists {
        for (rank, &item) in list.iter().enumerate() {
            *scores.entry(item).or_default() += 1.0 / (K + 1.0 + rank as f64);
        }
    }
    let mut fused: Vec<(usize, f64)> = scores.into_iter().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused.into_iter().map(|(item, _)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first() {
        let vectors = vec![vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, 1.0]];
        assert_eq!(nearest(&[0.0, 1.0], &vectors), [2, 1, 0]);
    }

    #[test]
    fn what_both_lists_have_comes_first() {
        assert_eq!(fuse(&[&[1, 2, 3], &[3, 4]]), [3, 1, 2, 4]);
        assert!(fuse(&[&[], &[]]).is_empty());
    }
}
