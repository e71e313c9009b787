//! The tensors of a GGUF file under the names and in the order of rows that Hugging Face has.
//!
//! Files of the architecture `llama` store the rows of a query or key head for rotary planes of neighbours: rows `2i` and
//! `2i + 1` of a head are values `i` and `i + head_dim/2` here.

use std::collections::HashMap;

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::metadata::Gguf;
use super::reader::TensorInfo;
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::model::shard::{Encoding, Entry, Shard};

/// Names of tensors outside of layers.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];
/// Names of the parts of a layer, without `.weight` or `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

impl Gguf {
    /// The tensors. One that has no place in the family's models is refused: it would change what they compute.
    pub(in crate::model) fn shard(&self) -> Result<Shard> {
        let mut entries = HashMap::new();
        let head_dim = self.head_dim()?;
        for tensor in &self.tensors {
            let Some(name) = self.hugging_face_name(&tensor.name) else {
                return Err(Error::ForeignFile {
                    path: self.path.clone(),
                    what: format!("has a tensor '{}', which {} models do not have", tensor.name, self.prefix),
                    advice: "take the model in the Hugging Face layout".into(),
                });
            };
            let turned = self.architecture == Architecture::Llama
                && [".attn_q.", ".attn_k."].iter().any(|part| tensor.name.contains(part));
            let entry = self.entry(tensor, turned.then_some(head_dim))?;
            if entries.insert(name, entry).is_some() {
                return Err(self.damaged(format!("the tensor '{}' occurs twice", tensor.name)));
            }
        }
        Shard::of_entries(&self.path, entries)
    }

    fn damaged(&self, why: String) -> Error {
        Error::Damaged { path: self.path.clone(), why }
    }

    fn head_dim(&self) -> Result<usize> {
        let of = |name: &str| self.count(&format!("{}.{name}", self.prefix));
        let divided = of("embedding_length")?.unwrap_or(0).checked_div(of("attention.head_count")?.unwrap_or(0));
        Ok(of("attention.key_length")?.or(divided).unwrap_or(0))
    }

    fn hugging_face_name(&self, name: &str) -> Option<String> {
        if let Some((_, whole)) = WHOLE.iter().find(|(ours, _)| *ours == name) {
            return Some((*whole).into());
        }
        if name == "rope_freqs.weight" {
            return Some(name.into());
        }
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
        let layer: u32 = layer.parse().ok()?;
        let (_, part) = LAYER.iter().find(|(ours, _)| *ours == part)?;
        let is_norm = part.ends_with("norm");
        let head_norm = part.starts_with("self_attn") && is_norm;
        let fits = (!head_norm || self.architecture == Architecture::Qwen3) && (!is_norm || kind == "weight");
        fits.then(|| format!("model.layers.{layer}.{part}.{kind}"))
    }

    /// Where a tensor's bytes lie and how they are read.
    fn entry(&self, tensor: &TensorInfo, turned: Option<usize>) -> Result<Entry> {
        let TensorInfo { name, shape, kind, start } = tensor;
        let (encoding, block, block_bytes) = encoding(*kind);
        let values = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let row = shape.last().copied().unwrap_or(1);
        if !matches!(encoding, Encoding::Unread(_)) && row % block != 0 {
            return Err(self.damaged(format!("tensor '{name}' has rows of {row} values, no multiple of {block}")));
        }
        let bytes = values.and_then(|values| (values / block).checked_mul(block_bytes));
        let end = bytes.and_then(|bytes| start.checked_add(bytes as u64));
        let (Some(bytes), Some(end)) = (bytes, end) else {
            return Err(self.damaged(format!("tensor '{name}' has the shape {shape:?}")));
        };
        if end > self.length {
            return Err(Error::Truncated { path: self.path.clone(), expected: end, got: self.length });
        }
        if let Some(head_dim) = turned {
            let rows = shape.first().copied().unwrap_or(0);
            if head_dim == 0 || head_dim % 2 != 0 || rows % head_dim != 0 {
                return Err(self.damaged(format!("tensor '{name}' has {rows} rows for heads of {head_dim}")));
            }
        }
        Ok(Entry { shape: shape.clone(), encoding, start: *start, bytes, turned })
    }
}

/// A type by its number: how it is read, values and bytes of a block.
fn encoding(kind: u32) -> (Encoding, usize, usize) {
    let plain = |dtype: DType| (Encoding::Plain(dtype), 1, dtype.size_in_bytes());
    let blocks = |kind: GgmlDType| (Encoding::Blocks(kind), kind.block_size(), kind.type_size());
    match kind {
        0 => plain(DType::F32),
        1 => plain(DType::F16),
        2 => blocks(GgmlDType::Q4_0),
        3 => blocks(GgmlDType::Q4_1),
        6 => blocks(GgmlDType::Q5_0),
        7 => blocks(GgmlDType::Q5_1),
        8 => blocks(GgmlDType::Q8_0),
        10 => blocks(GgmlDType::Q2K),
        11 => blocks(GgmlDType::Q3K),
        12 => blocks(GgmlDType::Q4K),
        13 => blocks(GgmlDType::Q5K),
        14 => blocks(GgmlDType::Q6K),
        30 => plain(DType::BF16),
        other => (Encoding::Unread(name_of(other)), 1, 0),
    }
}

/// Names of types that are not read.
fn name_of(kind: u32) -> String {
    const NAMES: [(u32, &str); 21] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    NAMES.iter().find(|(number, _)| *number == kind).map_or_else(|| format!("type {kind}"), |(_, name)| (*name).into())
}
