//! Models in GGUF files: blocks, names, rows, tokenizers, and whatever is refused.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, quantized::GgmlDType};
use mnemon_runtime::{
    Architecture, Conversation, DateTime, FullAttention, Logits, Message, Model, ModelSource, PositionEncoding, Prompt,
    RopeScaling, SequenceState,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{cpu, difference, fixture, folder, full_logits, rows, some_tokens, tokens};
use crate::gguf_file::{File, HEAD_DIM, HIDDEN, Meta, TYPES, small};

/// The same model in the Hugging Face layout.
fn unpacked(architecture: &str, weights: &HashMap<String, Tensor>, tied: bool) -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = json!({
        "model_type": architecture, "vocab_size": 259, "hidden_size": HIDDEN, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD_DIM,
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "max_position_embeddings": 128, "tie_word_embeddings": tied
    });
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer.json"), crate::common::TINY_TOKENIZER).unwrap();
    candle_core::safetensors::save(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

fn open(path: &Path) -> Result<Model, mnemon_runtime::Error> {
    Model::load(&ModelSource::parse(path.to_str().unwrap())?, &cpu())
}

fn message(path: &Path) -> String {
    open(path).err().unwrap().to_string()
}

fn assert_same_logits(file: &File, name: &str, folder: &TempDir) {
    let path = folder.path().join("model.gguf");
    file.write(&path);
    let packed = open(&path).unwrap();
    assert_eq!(packed.name(), "model");
    let plain = Model::load(&ModelSource::Directory(folder.path().into()), &cpu()).unwrap();
    assert_eq!(packed.parameters(), plain.parameters());
    let ids = some_tokens(24, 259, 9);
    let (wanted, got) = (full_logits(&plain, &ids), full_logits(&packed, &ids));
    let error = difference(&got, &wanted);
    println!("{name}: {error:e}");
    assert!(error < 1e-3, "{name}: {error}");
}

#[test]
fn every_type_of_block_gives_the_logits_of_its_unpacked_weights() {
    for (number, name, kind) in TYPES {
        let (file, weights) = small("llama", (number, kind), false);
        assert_same_logits(&file, name, &unpacked("llama", &weights, false));
    }
}

#[test]
fn every_architecture_gives_the_logits_of_its_unpacked_weights() {
    for (architecture, tied) in [("llama", true), ("qwen2", false), ("qwen2", true), ("qwen3", false)] {
        let (mut file, weights) = small(architecture, (8, GgmlDType::Q8_0), tied);
        file.version = 2;
        file.set(&format!("{architecture}.attention.key_length"), Meta::U32(64));
        assert_same_logits(&file, architecture, &unpacked(architecture, &weights, tied));
    }
}

/// Through a model whose embedding and output are the blocks of the golden file, one row after the other.
#[test]
fn blocks_are_unpacked_as_the_package_gguf_unpacks_them() {
    let golden = candle_core::safetensors::load(fixture("gguf").join("blocks.safetensors"), &Device::Cpu).unwrap();
    for (number, name, kind) in &TYPES[3..] {
        let bytes: Vec<u8> = golden[&format!("{name}.bytes")].flatten_all().unwrap().to_vec1().unwrap();
        let (mut file, mut weights) = small("llama", (0, GgmlDType::F32), true);
        let values = &golden[&format!("{name}.values")];
        let turns = 259_usize.div_ceil(4);
        let repeated = Tensor::cat(&vec![values; turns], 0).unwrap().narrow(0, 0, 259).unwrap();
        weights.insert("model.embed_tokens.weight".into(), repeated.contiguous().unwrap());
        let embedding = &mut file.tensors[0];
        embedding.2 = *number;
        embedding.3 = bytes.iter().copied().cycle().take(bytes.len() / 4 * 259).collect();
        assert_eq!(bytes.len() / 4, HIDDEN / kind.block_size() * kind.type_size(), "{name}");
        assert_same_logits(&file, name, &unpacked("llama", &weights, true));
    }
}

#[test]
fn sources_are_told_apart_by_what_is_there() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("Small.GGUF");
    small("llama", (0, GgmlDType::F32), true).0.write(&path);
    let parse = |path: &Path| ModelSource::parse(path.to_str().unwrap());
    assert_eq!(parse(&path).unwrap(), ModelSource::Gguf(path.clone()));
    assert_eq!(parse(folder.path()).unwrap(), ModelSource::Gguf(path.clone()));
    assert_eq!(open(folder.path()).unwrap().name(), "Small");
    fs::copy(&path, folder.path().join("other.gguf")).unwrap();
    assert_eq!(parse(folder.path()).unwrap(), ModelSource::Directory(folder.path().into()));
    assert!(message(folder.path()).contains("several .gguf files"), "{}", message(folder.path()));
    let missing = ModelSource::parse("models/none.gguf").unwrap_err().to_string();
    assert!(missing.contains("models/none.gguf is missing"), "{missing}");
    let text = folder.path().join("model.bin");
    fs::write(&text, "x").unwrap();
    let found = parse(&text).unwrap_err().to_string();
    assert!(found.contains("model.bin") && found.contains(".gguf"), "{found}");
}

#[test]
fn files_that_are_no_models_are_named() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let (good, _) = small("llama", (2, GgmlDType::Q4_0), true);
    let told = |change: &dyn Fn(&mut File), words: &[&str]| {
        let mut file = good.clone();
        change(&mut file);
        file.write(&path);
        let found = message(&path);
        assert!(words.iter().all(|word| found.contains(word)), "{words:?}: {found}");
    };
    let text = |key: &'static str, value: &'static str| {
        move |file: &mut File| {
            file.text(key, value);
        }
    };
    let number = |key: &'static str, value: u32| {
        move |file: &mut File| {
            file.set(key, Meta::U32(value));
        }
    };
    told(&text("general.architecture", "gemma3"), &["'gemma3' is not supported", "qwen3"]);
    told(&text("general.architecture", "clip"), &["projector", "language model"]);
    told(&text("general.type", "mmproj"), &["projector"]);
    told(&text("general.type", "adapter"), &["adapter", "merge"]);
    told(&number("split.count", 3), &["one of 3 parts", "merge"]);
    told(&number("llama.expert_count", 8), &["experts"]);
    told(&number("llama.rope.dimension_count", 32), &["rope.dimension_count"]);
    told(&number("llama.block_count", 3), &["model.layers.2"]);
    told(&number("llama.block_count", 1 << 30), &["num_hidden_layers"]);
    told(
        &|file| {
            file.set("llama.attention.head_count_kv", Meta::Ints(vec![1, 2]));
        },
        &["different layers"],
    );
    told(&text("llama.rope.scaling.type", "longrope"), &["longrope"]);
    told(&text("tokenizer.ggml.pre", "tekken"), &["'tekken'", "Hugging Face folder"]);
    told(&text("tokenizer.ggml.model", "t5"), &["'t5'", "Hugging Face folder"]);
    told(&|file| file.metadata.retain(|(key, _)| key != "tokenizer.ggml.pre"), &["tokenizer.ggml.pre", "missing"]);
    told(&|file| file.tensors[0].2 = 23, &["IQ4_XS", "Q4_0"]);
    told(&|file| file.tensors[1].0 = "blk.0.attn_sub_norm.weight".into(), &["attn_sub_norm"]);
    told(&|file| drop(file.tensors.pop()), &["model.norm.weight"]);
    told(&|file| file.version = 1, &["version 1"]);
    told(&|file| file.version = 3_u32.swap_bytes(), &["big-endian"]);
    told(&|file| file.version = 9, &["version 9"]);
    let (_, bytes) = good.bytes();
    for cut in [3, 20, 1000, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).unwrap();
        assert!(message(&path).contains("truncated"), "{}", message(&path));
    }
    fs::write(&path, b"<html>404 not found</html>").unwrap();
    assert!(message(&path).contains("does not begin with GGUF"));
}

#[test]
fn pointers_of_git_lfs_are_named() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 5\n";
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        let folder = folder("llama");
        fs::write(folder.path().join(name), pointer).unwrap();
        let found = message(folder.path());
        assert!(found.contains(name) && found.contains("git lfs pull"), "{found}");
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, pointer).unwrap();
    assert!(message(&path).contains("git lfs pull"), "{}", message(&path));
}

#[test]
fn packed_weights_in_folders_are_named() {
    let folder = folder("llama");
    let path = folder.path().join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, settings, told) in [
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "GPTQ"),
        ("quantization_config", json!({"quant_method": "awq"}), "AWQ"),
        ("quantization_config", json!({"quant_method": "bitsandbytes"}), "load_in_4bit"),
        ("quantization_config", json!({"quant_method": "fp8"}), "fp8"),
        ("quantization", json!({"bits": 4, "group_size": 64}), "MLX"),
    ] {
        let mut config = config.clone();
        config[key] = settings;
        fs::write(&path, config.to_string()).unwrap();
        let found = message(folder.path());
        assert!(found.contains(told) && found.contains("GGUF"), "{found}");
    }
}

#[test]
fn rotary_scaling_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let scaling = |change: &dyn Fn(&mut File)| {
        let (mut file, _) = small("llama", (0, GgmlDType::F32), true);
        change(&mut file);
        file.write(&path);
        open(&path).map(|model| match model.config().positions {
            PositionEncoding::Rotary(rope) => rope.scaling,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(scaling(&|_| ()).unwrap(), RopeScaling::Default);
    let linear = scaling(&|file| {
        file.text("llama.rope.scaling.type", "linear").set("llama.rope.scaling.factor", Meta::F32(4.0));
    });
    assert_eq!(linear.unwrap(), RopeScaling::Linear { factor: 4.0 });
    let yarn = scaling(&|file| {
        file.text("llama.rope.scaling.type", "yarn")
            .set("llama.rope.scaling.factor", Meta::F32(4.0))
            .set("llama.rope.scaling.original_context_length", Meta::U32(32));
    });
    assert!(matches!(yarn.unwrap(), RopeScaling::Yarn { original: 32, .. }));
    let llama3 = |damage: f32| {
        scaling(&|file| {
            file.set("llama.rope.freq_base", Meta::F32(500_000.0));
            let factor = |i: usize| {
                let wavelength = 2.0 * std::f64::consts::PI * 500_000_f64.powf(i as f64 / 32.0);
                match (wavelength < 2048.0, wavelength > 8192.0) {
                    (true, _) => 1.0,
                    (_, true) => 8.0,
                    _ => 1.0 / ((1.0 - (8192.0 / wavelength - 1.0) / 3.0) / 8.0 + (8192.0 / wavelength - 1.0) / 3.0),
                }
            };
            let bytes = (0..32).flat_map(|i| (factor(i) as f32 * if i == 20 { damage } else { 1.0 }).to_le_bytes());
            file.tensors.push(("rope_freqs.weight".into(), vec![32], 0, bytes.collect()));
        })
    };
    let expected = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
    assert_eq!(llama3(1.0).unwrap(), expected);
    assert!(llama3(1.1).unwrap_err().to_string().contains("Llama 3"));
}

#[test]
fn fingerprints_are_those_of_the_bytes() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let (file, _) = small("qwen3", (12, GgmlDType::Q4K), true);
    let with = |file: &File| {
        file.write(&path);
        open(&path).unwrap().fingerprint()
    };
    let plain = with(&file);
    assert_eq!(plain, with(&file));
    let mut renamed = file.clone();
    renamed.text("general.name", "another name");
    assert_eq!(plain, with(&renamed));
    let mut other = file.clone();
    other.tensors[1].3[0] ^= 1;
    assert_ne!(plain, with(&other));
    let mut other = file.clone();
    other.text("tokenizer.ggml.pre", "qwen2");
    assert_ne!(plain, with(&other));
}

#[test]
fn changed_headers_never_panic() {
    let rounds: u64 = std::env::var("MNEMON_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let (file, _) = small("llama", (8, GgmlDType::Q8_0), true);
    let (header, whole) = file.bytes();
    fs::write(&path, &whole).unwrap();
    open(&path).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut refused = 0;
    for round in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..rng.random_range(1..4) {
            // Most of the header is the vocabulary: half of the changes are in what precedes and follows it.
            let at = match rng.random_range(0..4) {
                0 => rng.random_range(0..900.min(header)),
                1 => rng.random_range(header.saturating_sub(2000)..header),
                _ => rng.random_range(0..header),
            };
            match rng.random_range(0..5) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                2 => bytes[at..at + 4].fill(0xff),
                3 => drop(bytes.drain(at..at + rng.random_range(1..12))),
                _ => drop(bytes.splice(at..at, [0; 8])),
            }
        }
        fs::write(&path, &bytes).unwrap();
        let loaded = catch_unwind(AssertUnwindSafe(|| open(&path).is_ok()));
        assert!(loaded.is_ok(), "round {round} ends in a panic");
        refused += u64::from(!loaded.unwrap());
    }
    println!("{rounds} changes, {refused} refused");
    assert!(refused > 0 && refused < rounds, "{refused}");
}

#[test]
fn vocabularies_with_scores_equal_sentencepiece() {
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(fixture("gguf").join("sentencepiece.json")).unwrap()).unwrap();
    let list = |key: &str| golden[key].as_array().unwrap().clone();
    let pieces: Vec<String> = list("tokens").iter().map(|piece| piece.as_str().unwrap().into()).collect();
    let (mut file, _) = small("llama", (0, GgmlDType::F32), true);
    file.tensors[0].1[1] = pieces.len() as u64;
    file.tensors[0].3.resize(pieces.len() * HIDDEN * 4, 0);
    file.text("tokenizer.ggml.model", "llama")
        .set("tokenizer.ggml.tokens", Meta::Texts(pieces))
        .set("tokenizer.ggml.scores", Meta::Floats(list("scores").iter().map(|s| s.as_f64().unwrap() as f32).collect()))
        .set(
            "tokenizer.ggml.token_type",
            Meta::Ints(list("types").iter().map(|t| t.as_i64().unwrap() as i32).collect()),
        )
        .set("tokenizer.ggml.unknown_token_id", Meta::U32(0))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    file.write(&path);
    let model = open(&path).unwrap();
    for (text, expected) in list("texts").iter().zip(list("ids")) {
        let (text, expected) = (text.as_str().unwrap(), tokens(&expected));
        let got = model.tokenizer().encode(text, true).unwrap().get_ids().to_vec();
        assert_eq!(got, [&[1], &expected[..]].concat(), "{text:?}");
        assert_eq!(model.tokenizer().decode(&expected, false).unwrap(), text);
    }
    let marked = model.tokenizer().encode("</s>a", false).unwrap().get_ids().to_vec();
    assert_eq!(marked[0], 2, "control tokens are taken whole");
}

/// A file of real weights, which are not part of the project.
fn weights(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/weights");
    let path = std::env::var_os("MNEMON_WEIGHTS").map_or(target, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not there; scripts/fetch-weights fetches it", path.display());
    None
}

fn assert_golden(name: &str) -> Option<Model> {
    let path = weights(&format!("{name}.gguf"))?;
    let model = open(&path).unwrap();
    let golden: Value =
        serde_json::from_str(&fs::read_to_string(fixture("gguf").join(format!("{name}.json"))).unwrap()).unwrap();
    let ids = |text: &Value| model.tokenizer().encode(text.as_str().unwrap(), true).unwrap().get_ids().to_vec();
    for (text, expected) in golden["texts"].as_array().unwrap().iter().zip(golden["ids"].as_array().unwrap()) {
        assert_eq!(ids(text), tokens(expected), "{text}");
        if !text.as_str().unwrap().contains('\u{301}') {
            let back = model.tokenizer().decode(&tokens(expected), false).unwrap();
            assert_eq!(back, text.as_str().unwrap());
        }
    }
    let prompt = tokens(&golden["prompt_ids"]);
    assert_eq!(ids(&golden["prompt"]), prompt);
    let (mut state, mut attention) = (SequenceState::new(&model), FullAttention::new(&model));
    let logits = model.forward(&prompt, &mut state, &mut attention, Logits::All).unwrap().unwrap();
    let logits: Vec<Vec<f32>> = logits.to_dtype(DType::F32).unwrap().to_vec2().unwrap();
    for sample in golden["samples"].as_array().unwrap() {
        let row = &logits[sample["position"].as_u64().unwrap() as usize];
        let chosen = tokens(&sample["tokens"]);
        let got: Vec<f32> = chosen.iter().map(|&id| row[id as usize]).collect();
        let error = difference(&[got], &rows(&json!([sample["logits"]])));
        println!("{name} at {}: {error:e}", sample["position"]);
        assert!(error < 2e-3, "{name}: {error}");
        let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(best as u64, sample["best"].as_u64().unwrap());
    }
    Some(model)
}

fn rendered(model: &Model) -> String {
    let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Hi")];
    let conversation = Conversation::new(messages, DateTime::constant(2026, 3, 5, 14, 7, 9, 0));
    let prompt = Prompt::chat(model, &conversation, false).unwrap();
    model.tokenizer().decode(&prompt.tokens(), false).unwrap()
}

const RENDERED: &str =
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn smollm2_equals_transformers_and_llama_cpp() {
    let Some(model) = assert_golden("smollm2") else { return };
    assert_eq!(model.config().architecture, Architecture::Llama);
    assert_eq!(model.config().eos_tokens, [0, 2]);
    assert_eq!(rendered(&model), RENDERED);
}

#[test]
fn qwen_equals_transformers_and_llama_cpp() {
    let Some(model) = assert_golden("qwen") else { return };
    assert_eq!(model.config().architecture, Architecture::Qwen2);
    assert_eq!(model.config().eos_tokens, [151_643, 151_645]);
    assert_eq!(rendered(&model), RENDERED);
}
