//! Sentence embeddings: vectors of texts by a small model of their own, such as all-MiniLM-L6-v2.
//!
//! A model of the BERT family in the layout of sentence-transformers (Reimers and Gurevych 2019): `config.json`, `tokenizer.json`,
//! `model.safetensors`, and `1_Pooling/config.json`, which says whether the vector of a text is the mean over its tokens or that of the
//! first one. Vectors have length 1.

mod chance;
mod sentences;

use std::path::Path;

use candle_core::{DType, Device, IndexOp as _, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use mnemon_memory::{EMBEDDING_DIM_MAX, Embeddings, Fingerprint};
use mnemon_runtime::{ModelSource, hub};
use rayon::prelude::*;
use serde::Deserialize;
use tokenizers::Tokenizer;

use self::chance::Chance;
use crate::error::{Error, Result};

/// Tokens of a text that are read.
const TOKENS_MAX: usize = 256;

/// Tokens of a batch: enough that its products run at full speed, few enough that its activations stay in cache.
const BATCH_TOKENS: usize = 512;

/// The model and its tokenizer.
pub struct Embedder {
    model: BertModel,
    tokenizer: Tokenizer,
    takes_first: bool,
    dim: usize,
    fingerprint: Fingerprint,
    chance: Chance,
}

/// What `1_Pooling/config.json` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pooling {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
}

fn wrong(folder: &Path, why: impl std::fmt::Display) -> Error {
    Error::Embedder { path: folder.to_owned(), why: why.to_string() }
}

impl Embedder {
    /// Reads the model in a folder.
    ///
    /// # Errors
    /// [`Error::Embedder`] if a file is missing, or is of no such model.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| wrong(folder, format!("{name} cannot be read: {error}")))
        };
        let (config, tokenizer, weights) = (file("config.json")?, file("tokenizer.json")?, file("model.safetensors")?);
        let pooling = std::fs::read(folder.join("1_Pooling/config.json")).unwrap_or_default();
        let parse = |error: serde_json::Error| wrong(folder, format!("config.json is of no BERT model: {error}"));
        let model_type: serde_json::Value = serde_json::from_slice(&config).map_err(parse)?;
        match model_type.get("model_type").and_then(|kind| kind.as_str()) {
            Some("bert") | None => {}
            Some(other) => {
                return Err(wrong(folder, format!("a model of type {other}; those of type bert can be used")));
            }
        }
        let settings: Config = serde_json::from_slice(&config).map_err(parse)?;
        let pooled: Pooling = if pooling.is_empty() {
            Pooling { pooling_mode_mean_tokens: true, ..Pooling::default() }
        } else {
            let parse = |error| wrong(folder, format!("1_Pooling/config.json cannot be read: {error}"));
            serde_json::from_slice(&pooling).map_err(parse)?
        };
        if pooled.pooling_mode_cls_token == pooled.pooling_mode_mean_tokens {
            return Err(wrong(
                folder,
                "1_Pooling/config.json names neither the mean of all tokens nor the first token alone",
            ));
        }
        let mut hasher = blake3::Hasher::new();
        for part in [&config, &tokenizer, &weights, &pooling] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let failed = |error: candle_core::Error| wrong(folder, error);
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu).map_err(failed)?;
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(|error| wrong(folder, error))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| wrong(folder, error))?;
        let mut embedder = Self {
            model: BertModel::load(weights, &settings).map_err(failed)?,
            tokenizer,
            takes_first: pooled.pooling_mode_cls_token,
            dim: 0,
            fingerprint: Fingerprint(*hasher.finalize().as_bytes()),
            chance: Chance::default(),
        };
        embedder.dim = embedder.embed(&["dimension"])?.concat().len();
        if embedder.dim > EMBEDDING_DIM_MAX {
            return Err(wrong(folder, format!("vectors of {} values; {EMBEDDING_DIM_MAX} at most", embedder.dim)));
        }
        embedder.chance = Chance::measure(&embedder)?;
        Ok(embedder)
    }

    /// Finds a model by its folder, or by its name of the hub, from the usual cache if it is there.
    ///
    /// # Errors
    /// As [`read`](Self::read), and the hub's.
    pub fn load(name: &str) -> Result<Self> {
        match ModelSource::parse(name)? {
            ModelSource::Directory(folder) => Self::read(&folder),
            ModelSource::Hub(name) => {
                let here = hub::cached()?.into_iter().find(|model| model.names().contains(&name));
                let model = here.map_or_else(|| hub::pull(&name, |_| ()), Ok)?;
                Self::read(&model.folder)
            }
            ModelSource::Gguf(path) => Err(wrong(&path, "a GGUF file")),
            ModelSource::Embedded => Err(wrong(Path::new(name), "a model for text")),
        }
    }

    /// Hash over all that vectors depend on. Vectors of another embedder are not compared.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Values of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The cosine that the best of so many texts reaches by chance, measured on questions and sentences that have nothing to do with each other.
    pub(crate) fn best_by_chance(&self, texts: u64) -> f32 {
        self.chance.best_of(texts)
    }

    /// One vector of length 1 for each text, in their order; of a long text its first 256 tokens count.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], or the model's.
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(self.embed_until(texts, &|| false)?.unwrap_or_default())
    }

    /// Vectors of consecutive chunks, as a memory keeps them: each chunk, and each sentence of their whole text. `None` if `stop` said so
    /// before all were made.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn embed_chunks(&self, texts: &[String], stop: &(dyn Fn() -> bool + Sync)) -> Result<Option<Embeddings>> {
        let whole = texts.concat();
        let ends = ends(texts);
        let sentences = sentences::sentences(&whole);
        let chunk_of_sentence = sentences.iter().map(|range| home(&ends, range.clone())).collect();
        let all: Vec<&str> =
            texts.iter().map(String::as_str).chain(sentences.into_iter().map(|range| &whole[range])).collect();
        let Some(mut vectors) = self.embed_until(&all, stop)? else { return Ok(None) };
        let sentences = vectors.split_off(texts.len());
        Ok(Some(Embeddings {
            dim: self.dim,
            chunks: vectors.concat(),
            sentences: sentences.concat(),
            chunk_of_sentence,
        }))
    }

    /// `None` if `stop` returned true before all vectors were computed.
    fn embed_until(&self, texts: &[&str], stop: &(dyn Fn() -> bool + Sync)) -> Result<Option<Vec<Vec<f32>>>> {
        let tokens = texts.par_iter().map(|text| self.tokenize(text)).collect::<Result<Vec<_>>>()?;
        let embed = |batch: &Vec<usize>| {
            if stop() {
                return Ok(None);
            }
            let ids: Vec<&[u32]> = batch.iter().map(|&text| tokens[text].as_slice()).collect();
            self.forward(&ids).map(Some).map_err(|error| Error::Runtime(error.into()))
        };
        let batches = batches(&tokens);
        let embedded: Option<Vec<Vec<Vec<f32>>>> = batches.par_iter().map(embed).collect::<Result<_>>()?;
        let Some(embedded) = embedded else { return Ok(None) };
        let mut vectors = vec![Vec::new(); texts.len()];
        for (text, vector) in batches.into_iter().flatten().zip(embedded.into_iter().flatten()) {
            vectors[text] = vector;
        }
        Ok(Some(vectors))
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.tokenizer.encode(text, true).map_err(|error| Error::Tokenizer { why: error.to_string() })?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > TOKENS_MAX {
            // The end token stays.
            let last = ids.last().copied();
            ids.truncate(TOKENS_MAX - 1);
            ids.extend(last);
        }
        Ok(ids)
    }

    /// Vectors of texts of equally many tokens.
    fn forward(&self, texts: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let tokens = texts.first().map_or(0, |ids| ids.len());
        let ids = Tensor::from_vec(texts.concat(), (texts.len(), tokens), &Device::Cpu)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, None)?;
        let pooled = if self.takes_first { hidden.i((.., 0))? } else { hidden.mean(1)? };
        let mut vectors: Vec<Vec<f32>> = pooled.to_vec2()?;
        for vector in &mut vectors {
            let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            for value in vector {
                *value /= length;
            }
        }
        Ok(vectors)
    }
}

/// Indices of texts in batches of at most [`BATCH_TOKENS`] (or one text), each of texts of equal length, so that nothing is padded.
fn batches(tokens: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&text| tokens[text].len());
    order
        .chunk_by(|&a, &b| tokens[a].len() == tokens[b].len())
        .flat_map(|equal| equal.chunks((BATCH_TOKENS / tokens[equal[0]].len().max(1)).max(1)))
        .map(<[usize]>::to_vec)
        .collect()
}

/// The end of each of consecutive texts.
fn ends(texts: &[String]) -> Vec<usize> {
    let end = |end: &mut usize, text: &String| {
        *end += text.len();
        Some(*end)
    };
    texts.iter().scan(0, end).collect()
}

/// The sentences of consecutive texts of which most stands in the one at `at`, as ranges of its bytes.
pub(crate) fn sentences_in(texts: &[String], at: usize) -> Vec<std::ops::Range<usize>> {
    let (whole, ends) = (texts.concat(), ends(texts));
    let start = at.checked_sub(1).map_or(0, |before| ends[before]);
    let inside =
        |range: std::ops::Range<usize>| range.start.max(start) - start..range.end.min(ends[at]).max(start) - start;
    let of = |range: &std::ops::Range<usize>| home(&ends, range.clone()) as usize == at;
    sentences::sentences(&whole).into_iter().filter(of).map(inside).collect()
}

/// The chunk, by the ends of all of them, in which most of a range stands.
fn home(ends: &[usize], range: std::ops::Range<usize>) -> u32 {
    let first = ends.partition_point(|end| *end <= range.start);
    let mut best = (0, first);
    let mut start = range.start;
    for (chunk, end) in ends.iter().enumerate().skip(first) {
        let shared = (*end).min(range.end).saturating_sub(start);
        if shared > best.0 {
            best = (shared, chunk);
        }
        if *end >= range.end {
            break;
        }
        start = *end;
    }
    best.1 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_stands_where_most_of_it_does() {
        let ends = [10, 20, 30];
        assert_eq!(home(&ends, 2..8), 0);
        assert_eq!(home(&ends, 8..18), 1);
        assert_eq!(home(&ends, 6..13), 0);
        assert_eq!(home(&ends, 9..30), 1);
        assert_eq!(home(&ends, 20..25), 2);
    }

    #[test]
    fn batches_hold_every_text_once_and_equal_lengths() {
        let tokens: Vec<Vec<u32>> = (0..400).map(|text| vec![0; [3, 200, 7, 256][text % 4]]).collect();
        let batches = batches(&tokens);
        let mut all: Vec<usize> = batches.concat();
        all.sort_unstable();
        assert_eq!(all, (0..400).collect::<Vec<_>>());
        for batch in batches {
            let len = tokens[batch[0]].len();
            assert!(batch.iter().all(|&text| tokens[text].len() == len) && batch.len() * len <= BATCH_TOKENS);
        }
    }

    #[test]
    fn what_is_no_embedder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = |folder: &Path| Embedder::read(folder).err().unwrap().to_string();
        assert!(error(folder.path()).contains("config.json cannot be read"));
        for (name, text) in
            [("config.json", r#"{"model_type": "t5"}"#), ("tokenizer.json", "{}"), ("model.safetensors", "")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        assert!(error(folder.path()).contains("type t5"));
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(error(folder.path()).contains("no BERT model"));
    }
}
