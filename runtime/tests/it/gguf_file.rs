//! GGUF files that tests write.

#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, fs, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Types by number, and as candle names them.
pub(crate) const TYPES: [(u32, &str, GgmlDType); 13] = [
    (0, "F32", GgmlDType::F32),
    (1, "F16", GgmlDType::F16),
    (30, "BF16", GgmlDType::BF16),
    (2, "Q4_0", GgmlDType::Q4_0),
    (3, "Q4_1", GgmlDType::Q4_1),
    (6, "Q5_0", GgmlDType::Q5_0),
    (7, "Q5_1", GgmlDType::Q5_1),
    (8, "Q8_0", GgmlDType::Q8_0),
    (10, "Q2_K", GgmlDType::Q2K),
    (11, "Q3_K", GgmlDType::Q3K),
    (12, "Q4_K", GgmlDType::Q4K),
    (13, "Q5_K", GgmlDType::Q5K),
    (14, "Q6_K", GgmlDType::Q6K),
];
pub(crate) const HIDDEN: usize = 256;
pub(crate) const HEAD_DIM: usize = 64;

/// A value of the metadata.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
}

/// A GGUF file in the making.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Meta)>,
    /// Name, dimensions (fastest first), type, bytes.
    pub(crate) tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn put(into: &mut Vec<u8>, text: &str) {
    into.extend((text.len() as u64).to_le_bytes());
    into.extend(text.as_bytes());
}

impl File {
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.into(), value));
        self
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.set(key, Meta::Text(value.into()))
    }

    /// The header, and the whole file.
    pub(crate) fn bytes(&self) -> (usize, Vec<u8>) {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put(&mut out, key);
            let kind = |kind: u32, out: &mut Vec<u8>| out.extend(kind.to_le_bytes());
            match value {
                Meta::U32(value) => {
                    kind(4, &mut out);
                    out.extend(value.to_le_bytes());
                }
                Meta::F32(value) => {
                    kind(6, &mut out);
                    out.extend(value.to_le_bytes());
                }
                Meta::Text(value) => {
                    kind(8, &mut out);
                    put(&mut out, value);
                }
                Meta::Texts(values) => {
                    kind(9, &mut out);
                    kind(8, &mut out);
                    out.extend((values.len() as u64).to_le_bytes());
                    for value in values {
                        put(&mut out, value);
                    }
                }
                Meta::Floats(values) => {
                    kind(9, &mut out);
                    kind(6, &mut out);
                    out.extend((values.len() as u64).to_le_bytes());
                    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
                Meta::Ints(values) => {
                    kind(9, &mut out);
                    kind(5, &mut out);
                    out.extend((values.len() as u64).to_le_bytes());
                    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                }
            }
        }
        let mut offset = 0_u64;
        for (name, dims, kind, bytes) in &self.tensors {
            put(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        let header = out.len();
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        (header, out)
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, self.bytes().1).unwrap();
    }
}

/// The 256 characters that stand for bytes, and three control tokens.
fn byte_tokens() -> (Vec<String>, Vec<i32>) {
    let printable = |byte: &u32| matches!(*byte, 33..=126 | 161..=172 | 174..=255);
    let other = (0..256).filter(|byte| !printable(byte)).count() as u32;
    let chars = (0..256).filter(printable).chain((0..other).map(|index| 256 + index));
    let mut tokens: Vec<String> = chars.map(|code| char::from_u32(code).unwrap().to_string()).collect();
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from));
    let kinds = [vec![1; 256], vec![3; 3]].concat();
    (tokens, kinds)
}

/// A small model: the file, and its weights under the names of Hugging Face.
pub(crate) fn small(architecture: &str, kind: (u32, GgmlDType), tied: bool) -> (File, HashMap<String, Tensor>) {
    let of = |key: &str| format!("{architecture}.{key}");
    let (tokens, kinds) = byte_tokens();
    let vocabulary = tokens.len();
    let mut file = File { version: 3, metadata: Vec::new(), tensors: Vec::new() };
    file.text("general.architecture", architecture)
        .text("general.type", "model")
        .set(&of("block_count"), Meta::U32(2))
        .set(&of("context_length"), Meta::U32(128))
        .set(&of("embedding_length"), Meta::U32(HIDDEN as u32))
        .set(&of("feed_forward_length"), Meta::U32(512))
        .set(&of("attention.head_count"), Meta::U32(4))
        .set(&of("attention.head_count_kv"), Meta::U32(2))
        .set(&of("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5))
        .set(&of("rope.freq_base"), Meta::F32(10_000.0))
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens))
        .set("tokenizer.ggml.token_type", Meta::Ints(kinds))
        .set("tokenizer.ggml.merges", Meta::Texts(vec![]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(257))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(258));
    let mut weights = HashMap::new();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut add = |ours: String, theirs: String, shape: &[usize]| {
        let n: usize = shape.iter().product();
        let (kind, middle, spread) = match shape.len() {
            1 if ours.contains("norm") => ((0, GgmlDType::F32), 1.0, 0.3),
            1 => ((0, GgmlDType::F32), 0.0, 0.3),
            _ => (kind, 0.0, 0.15),
        };
        let values: Vec<f32> = (0..n).map(|_| middle + spread * (rng.random::<f32>() * 2.0 - 1.0)).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let packed = QTensor::quantize(&tensor, kind.1).unwrap();
        let mut unpacked = packed.dequantize(&Device::Cpu).unwrap();
        if architecture == "llama" && (theirs.contains("q_proj") || theirs.contains("k_proj")) {
            // Row 2i + j of a head is row j * HEAD_DIM/2 + i.
            let rows = shape[0] as u32;
            let half = HEAD_DIM as u32 / 2;
            let from = |row: u32| row / (2 * half) * 2 * half + row % half * 2 + row % (2 * half) / half;
            let order = Tensor::from_iter((0..rows).map(from), &Device::Cpu).unwrap();
            unpacked = unpacked.index_select(&order, 0).unwrap();
        }
        let dims = shape.iter().rev().map(|&size| size as u64).collect();
        file.tensors.push((ours, dims, kind.0, packed.data().unwrap().to_vec()));
        weights.insert(theirs, unpacked);
    };
    add("token_embd.weight".into(), "model.embed_tokens.weight".into(), &[vocabulary, HIDDEN]);
    for layer in 0..2 {
        let mut part = |ours: &str, theirs: &str, shape: &[usize]| {
            add(format!("blk.{layer}.{ours}"), format!("model.layers.{layer}.{theirs}"), shape);
        };
        part("attn_norm.weight", "input_layernorm.weight", &[HIDDEN]);
        part("attn_q.weight", "self_attn.q_proj.weight", &[HIDDEN, HIDDEN]);
        part("attn_k.weight", "self_attn.k_proj.weight", &[2 * HEAD_DIM, HIDDEN]);
        part("attn_v.weight", "self_attn.v_proj.weight", &[2 * HEAD_DIM, HIDDEN]);
        part("attn_output.weight", "self_attn.o_proj.weight", &[HIDDEN, HIDDEN]);
        if architecture == "qwen2" {
            part("attn_q.bias", "self_attn.q_proj.bias", &[HIDDEN]);
            part("attn_k.bias", "self_attn.k_proj.bias", &[2 * HEAD_DIM]);
            part("attn_v.bias", "self_attn.v_proj.bias", &[2 * HEAD_DIM]);
        }
        if architecture == "qwen3" {
            part("attn_q_norm.weight", "self_attn.q_norm.weight", &[HEAD_DIM]);
            part("attn_k_norm.weight", "self_attn.k_norm.weight", &[HEAD_DIM]);
        }
        part("ffn_norm.weight", "post_attention_layernorm.weight", &[HIDDEN]);
        part("ffn_gate.weight", "mlp.gate_proj.weight", &[512, HIDDEN]);
        part("ffn_up.weight", "mlp.up_proj.weight", &[512, HIDDEN]);
        part("ffn_down.weight", "mlp.down_proj.weight", &[HIDDEN, 512]);
    }
    add("output_norm.weight".into(), "model.norm.weight".into(), &[HIDDEN]);
    if !tied {
        add("output.weight".into(), "lm_head.weight".into(), &[vocabulary, HIDDEN]);
    }
    (file, weights)
}
