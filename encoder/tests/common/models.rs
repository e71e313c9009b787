//! Small random models of the supported families, in folders as the hub has them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use mnemon_runtime::{DeviceChoice, LoadOptions, Model, ModelSource};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

pub const HIDDEN: usize = 32;
pub const LAYERS: usize = 3;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 8;
const INNER: usize = 48;

/// The families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

pub const FAMILIES: [Family; 4] = [Family::Llama, Family::Mistral, Family::Qwen2, Family::Qwen3];

fn weights(family: Family, vocab: usize, key_shift: bool, seed: u64) -> HashMap<String, Tensor> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = HashMap::new();
    let mut add = |name: String, shape: &[usize], offset: f32, width: f32| {
        let count = shape.iter().product::<usize>();
        let data: Vec<f32> = (0..count).map(|_| offset + width * random.random_range(-1.0..1.0_f32)).collect();
        tensors.insert(name, Tensor::from_vec(data, shape, &Device::Cpu).unwrap());
    };
    add("model.embed_tokens.weight".into(), &[vocab, HIDDEN], 0.0, 1.0);
    add("model.norm.weight".into(), &[HIDDEN], 1.0, 0.2);
    for layer in 0..LAYERS {
        let prefix = format!("model.layers.{layer}");
        add(format!("{prefix}.input_layernorm.weight"), &[HIDDEN], 1.0, 0.2);
        add(format!("{prefix}.post_attention_layernorm.weight"), &[HIDDEN], 1.0, 0.2);
        for (name, rows) in [("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)] {
            let rows = rows * HEAD_DIM;
            add(format!("{prefix}.self_attn.{name}.weight"), &[rows, HIDDEN], 0.0, 0.5);
            if family == Family::Qwen2 {
                add(format!("{prefix}.self_attn.{name}.bias"), &[rows], 0.0, 0.2);
            }
        }
        add(format!("{prefix}.self_attn.o_proj.weight"), &[HIDDEN, HEADS * HEAD_DIM], 0.0, 0.3);
        if family == Family::Qwen3 {
            add(format!("{prefix}.self_attn.q_norm.weight"), &[HEAD_DIM], 1.0, 0.2);
            add(format!("{prefix}.self_attn.k_norm.weight"), &[HEAD_DIM], 1.0, 0.2);
        }
        if key_shift {
            add(format!("{prefix}.self_attn.key_shift"), &[KV_HEADS], 0.0, 1.0);
        }
        add(format!("{prefix}.mlp.gate_proj.weight"), &[INNER, HIDDEN], 0.0, 0.3);
        add(format!("{prefix}.mlp.up_proj.weight"), &[INNER, HIDDEN], 0.0, 0.3);
        add(format!("{prefix}.mlp.down_proj.weight"), &[HIDDEN, INNER], 0.0, 0.3);
    }
    tensors
}

/// Writes a model into `folder`. `mnemon` is its object of that name.
pub fn write(folder: &Path, family: Family, tokenizer: &Tokenizer, mnemon: &Value, seed: u64) {
    let vocab = 1 + tokenizer.get_vocab(true).into_values().max().unwrap() as usize;
    let (architecture, kind) = match family {
        Family::Llama => ("LlamaForCausalLM", "llama"),
        Family::Mistral => ("MistralForCausalLM", "mistral"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let config = json!({
        "architectures": [architecture], "model_type": kind, "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "vocab_size": vocab, "sliding_window": null, "use_sliding_window": false,
        "bos_token_id": null, "eos_token_id": null, "mnemon": mnemon,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    tokenizer.save(folder.join("tokenizer.json"), false).unwrap();
    let key_shift = mnemon.get("key_shift").and_then(Value::as_bool).unwrap_or(false);
    candle_core::safetensors::save(&weights(family, vocab, key_shift, seed), folder.join("model.safetensors")).unwrap();
}

/// Options for tests: the processor, where nothing else is asked for.
pub fn options() -> LoadOptions {
    LoadOptions { device: DeviceChoice::Cpu, ..LoadOptions::default() }
}

/// A random model.
pub fn model(family: Family, tokenizer: &Tokenizer, mnemon: &Value, options: &LoadOptions) -> Model {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), family, tokenizer, mnemon, 7);
    Model::load(&ModelSource::Directory(folder.path().to_owned()), options).unwrap()
}
