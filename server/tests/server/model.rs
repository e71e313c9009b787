//! A small random model in a folder: two layers, and one token for each byte, so that counts are easy to tell.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use mnemon_runtime::{LoadOptions, Model, ModelSource};

const CONFIG: &str = r#"{
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-06,
  "rope_theta": 10000.0, "tie_word_embeddings": true, "vocab_size": 257, "eos_token_id": 256,
  "mnemon": {"memory_layers": [1], "window": 32, "sinks": 4, "chunk_tokens": 16, "entry_policy": "per_token",
             "recall_top_k": 4}
}"#;

/// Tokens of a chunk.
pub(crate) const CHUNK_TOKENS: u64 = 16;

/// The model that most tests use.
pub(crate) fn shared() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| Arc::new(load(1))))
}

/// A model of this seed.
pub(crate) fn load(seed: u64) -> Model {
    load_with(seed, &LoadOptions::default())
}

/// A model of this seed, with other options.
pub(crate) fn load_with(seed: u64, options: &LoadOptions) -> Model {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), seed);
    Model::load(&ModelSource::Directory(folder.path().to_owned()), options).unwrap()
}

/// Writes the files of a model.
pub(crate) fn write(folder: &Path, seed: u64) {
    fs::write(folder.join("config.json"), CONFIG).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer()).unwrap();
    fs::write(folder.join("model.safetensors"), weights(seed)).unwrap();
}

/// A byte-level tokenizer without merges.
fn tokenizer() -> String {
    let mut vocab = String::new();
    // Bytes that have no printable character of their own are mapped beyond U+0100, in order (GPT-2).
    let mut next = 0x100;
    for byte in 0..=255_u32 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let character = if printable { byte } else { next };
        next += u32::from(!printable);
        let character = char::from_u32(character).unwrap().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        write!(vocab, "\"{character}\": {byte}, ").unwrap();
    }
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{{"id": 256, "content": "<eos>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}}],
            "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
                              "use_regex": true}},
            "post_processor": null,
            "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true}},
            "model": {{"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": {{{vocab}"<eos>": 256}}, "merges": []}}}}"#
    )
}

/// Random weights in the layout of safetensors: length of the header, header, numbers.
fn weights(seed: u64) -> Vec<u8> {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![257, 32])];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[32]);
        add("post_attention_layernorm", &[32]);
        add("mlp.gate_proj", &[48, 32]);
        add("mlp.up_proj", &[48, 32]);
        add("mlp.down_proj", &[32, 48]);
        add("self_attn.q_proj", &[32, 32]);
        add("self_attn.k_proj", &[16, 32]);
        add("self_attn.v_proj", &[16, 32]);
        add("self_attn.o_proj", &[32, 32]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![32]));

    let (mut header, mut data) = (String::from("{"), Vec::new());
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for (index, (name, shape)) in tensors.iter().enumerate() {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let value = if name.contains("norm") { 1.0 } else { (state >> 40) as f32 / (1 << 23) as f32 - 1.0 };
            data.extend((value * 0.5).to_le_bytes());
        }
        let comma = if index == 0 { "" } else { ", " };
        write!(header, "{comma}\"{name}\": {{\"dtype\": \"F32\", \"shape\": {shape:?}, ").unwrap();
        write!(header, "\"data_offsets\": [{start}, {}]}}", data.len()).unwrap();
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(data);
    file
}
