//! Models in all the shapes in which they come, and in those in which they must not.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use mnemon_memory::{EntryPolicy, KvDtype};
use mnemon_runtime::{
    DeviceChoice, Error, FullAttention, HubName, LoadOptions, Logits, Model, ModelConfig, ModelSource,
    PositionEncoding, RopeScaling, SequenceState,
};
use serde_json::{Value, json};

use crate::common::{cpu, difference, folder, full_logits, golden, rows, tokens};

fn open(path: &Path) -> Result<Model, Error> {
    Model::load(&ModelSource::Directory(path.into()), &cpu())
}

fn message(path: &Path) -> String {
    open(path).err().unwrap().to_string()
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn assert_golden(path: &Path, name: &str, tolerance: f32) {
    let model = open(path).unwrap();
    let golden = golden(name);
    let error = difference(&full_logits(&model, &tokens(&golden["tokens"])), &rows(&golden["logits"]));
    assert!(error < tolerance, "{error}");
}

pub(crate) fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Every matrix as bytes with a scale for each row.
pub(crate) fn eight_bits(tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let mut made = HashMap::new();
    for (name, tensor) in tensors {
        let Ok(matrix) = tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>() else {
            made.insert(name.clone(), tensor.clone());
            continue;
        };
        let scales: Vec<f32> =
            matrix.iter().map(|row| row.iter().fold(1e-12_f32, |most, v| most.max(v.abs())) / 127.0).collect();
        let rows = matrix.iter().zip(&scales);
        let bytes: Vec<u8> =
            rows.flat_map(|(row, s)| row.iter().map(move |v| ((v / s).round() + 128.0) as u8)).collect();
        made.insert(name.clone(), Tensor::from_vec(bytes, tensor.shape(), &Device::Cpu).unwrap());
        made.insert(format!("{name}.scale"), Tensor::new(scales, &Device::Cpu).unwrap());
    }
    made
}

#[test]
fn matrices_of_bytes_are_scaled() {
    let folder = folder("qwen3");
    let file = folder.path().join("model.safetensors");
    let (exact, all) = (open(folder.path()).unwrap(), tensors(&file));
    candle_core::safetensors::save(&eight_bits(&all), &file).unwrap();
    let coarse = open(folder.path()).unwrap();
    assert_eq!(coarse.parameters(), exact.parameters());
    assert_ne!(coarse.fingerprint(), exact.fingerprint());
    let ids = tokens(&golden("qwen3")["tokens"]);
    let (wanted, got) = (full_logits(&exact, &ids), full_logits(&coarse, &ids));
    let most = wanted.iter().flatten().fold(0.0_f32, |most, v| most.max(v.abs()));
    let error = difference(&got, &wanted) / most;
    assert!(error > 0.0 && error < 0.05, "relative error {error}");
}

#[test]
fn matrices_of_bytes_without_their_scales_are_refused() {
    let folder = folder("qwen3");
    let file = folder.path().join("model.safetensors");
    let mut all = eight_bits(&tensors(&file));
    let name = "model.layers.0.self_attn.q_proj.weight.scale";
    let scales = all.remove(name).unwrap();
    candle_core::safetensors::save(&all, &file).unwrap();
    assert!(message(folder.path()).contains(name), "{}", message(folder.path()));
    all.insert(name.into(), (scales * f64::INFINITY).unwrap());
    candle_core::safetensors::save(&all, &file).unwrap();
    assert!(message(folder.path()).contains("scale 0"), "{}", message(folder.path()));
}

/// A model trained with memory, taken apart: a folder without its memory parameters, and these as an adapter.
pub(crate) fn taken_apart(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = folder("memory_joint");
    edit(&folder.path().join("config.json"), |config| {
        // Neither the shift of keys nor memory layers: what is left is a pretrained model.
        config["mnemon"] = json!({"key_shift": true, "chunk_tokens": 64, "entry_policy": "per_token"});
    });
    let file = folder.path().join("model.safetensors");
    let (memory, own): (HashMap<_, _>, HashMap<_, _>) =
        tensors(&file).into_iter().partition(|(name, _)| name.contains(".memory_"));
    candle_core::safetensors::save(&own, &file).unwrap();
    let mut about = json!({"version": 1, "model_type": "qwen3", "hidden_size": 32, "layers": 3, "heads": 4, "kv_heads": 2,
        "head_dim": 8, "memory_layers": [1, 2], "fusion": "joint", "window": 16});
    change(&mut about);
    let metadata = HashMap::from([("mnemon_adapter".to_owned(), about.to_string())]);
    let adapter = folder.path().join("adapter.st");
    safetensors::serialize_to_file(&memory, Some(metadata), &adapter).unwrap();
    (folder, adapter)
}

#[test]
fn an_adapter_makes_a_pretrained_model_one_with_memory() {
    let (folder, adapter) = taken_apart(|_| ());
    let whole = crate::common::load("memory_joint", &cpu());
    let options = LoadOptions { memory_adapter: Some(adapter), ..cpu() };
    let adapted = Model::load(&ModelSource::Directory(folder.path().into()), &options).unwrap();
    assert_eq!(adapted.config().memory.layers, whole.config().memory.layers);
    assert_eq!(adapted.config().memory.fusion, whole.config().memory.fusion);
    assert_eq!(adapted.config().memory.window, whole.config().memory.window);
    assert_eq!(adapted.fingerprint(), whole.fingerprint(), "same weights, same memories");
    assert_ne!(adapted.fingerprint(), open(folder.path()).unwrap().fingerprint());
}

#[test]
fn what_would_be_ignored_is_refused() {
    let (folder, adapter) = taken_apart(|_| ());
    let own = fs::read(&adapter).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&own).unwrap();
    let metadata = header.metadata().clone();
    let load = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut all = candle_core::safetensors::load_buffer(&own, &Device::Cpu).unwrap();
        change(&mut all);
        safetensors::serialize_to_file(&all, metadata.clone(), &adapter).unwrap();
        let options = LoadOptions { memory_adapter: Some(adapter.clone()), ..cpu() };
        Model::load(&ModelSource::Directory(folder.path().into()), &options).map(|_| ()).map_err(|e| e.to_string())
    };
    load(&|_| ()).unwrap();
    let lora = |side: &str| format!("model.layers.1.self_attn.q_proj.lora_{side}");
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (side, shape, told) in [("A", (2, 32), "lora_B"), ("B", (32, 2), "lora_B"), ("A", (2, 31), "lora_A")] {
        let error = load(&|all| drop(all.insert(lora(side), zeros(shape))));
        assert!(error.as_ref().unwrap_err().contains(told), "{error:?}");
    }
    let error = load(&|all| {
        all.insert(lora("A"), (zeros((2, 32)) + f64::NAN).unwrap());
        all.insert(lora("B"), zeros((32, 2)));
    });
    assert!(error.as_ref().unwrap_err().contains("not finite"), "{error:?}");
    let scale = "model.layers.1.self_attn.memory_scale";
    let error = load(&|all| drop(all.insert(scale.into(), Tensor::new(&[f32::NAN; 4], &Device::Cpu).unwrap())));
    assert!(error.as_ref().unwrap_err().contains(scale), "{error:?}");

    // Without trained memory parameters there is no place for recalled chunks in the last two.
    for position in ["nonsense", "alibi", "sinusoidal"] {
        edit(&folder.path().join("config.json"), |config| config["mnemon"]["position"] = json!(position));
        assert!(message(folder.path()).contains(position), "{}", message(folder.path()));
    }
}

#[test]
fn adapters_of_other_models_are_refused() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 5] = [
        ("hidden_size 64, this one has 32", |about| about["hidden_size"] = json!(64)),
        ("model_type llama, this one has qwen3", |about| about["model_type"] = json!("llama")),
        ("version 2", |about| about["version"] = json!(2)),
        ("'sum'; joint and gate", |about| about["fusion"] = json!("sum")),
        ("memory_layers", |about| about["memory_layers"] = json!([7])),
    ];
    for (expected, change) in cases {
        let (folder, adapter) = taken_apart(change);
        let options = LoadOptions { memory_adapter: Some(adapter), ..cpu() };
        let error = Model::load(&ModelSource::Directory(folder.path().into()), &options).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (folder, _) = taken_apart(|_| ());
    let not_an_adapter = folder.path().join("model.safetensors");
    let options = LoadOptions { memory_adapter: Some(not_an_adapter), ..cpu() };
    assert!(Model::load(&ModelSource::Directory(folder.path().into()), &options).is_err());
}

#[test]
fn sharded_weights_are_joined() {
    let folder = folder("qwen3");
    let single = folder.path().join("model.safetensors");
    let whole = open(folder.path()).unwrap();
    let all: BTreeMap<String, Tensor> = tensors(&single).into_iter().collect();
    let (mut shards, mut map) = ([HashMap::new(), HashMap::new()], serde_json::Map::new());
    for (number, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(name.clone(), json!(format!("model-0000{}-of-00002.safetensors", number % 2 + 1)));
        shards[number % 2].insert(name, tensor);
    }
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", number + 1);
        candle_core::safetensors::save(shard, folder.path().join(name)).unwrap();
    }
    fs::remove_file(single).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    assert_golden(folder.path(), "qwen3", 1e-4);
    assert_eq!(open(folder.path()).unwrap().fingerprint(), whole.fingerprint());
    fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    let missing = message(folder.path());
    assert!(missing.contains("model-00002-of-00002.safetensors is missing"), "{missing}");
    edit(&index, |index| index["weight_map"]["model.norm.weight"] = json!("../outside.safetensors"));
    assert!(message(folder.path()).contains("outside.safetensors"));
}

#[test]
fn half_precision_files_are_widened() {
    for (dtype, tolerance) in [(DType::F16, 0.1), (DType::BF16, 0.8)] {
        let folder = folder("qwen2");
        let path = folder.path().join("model.safetensors");
        let converted = |(name, tensor): (String, Tensor)| (name, tensor.to_dtype(dtype).unwrap());
        let half: HashMap<String, Tensor> = tensors(&path).into_iter().map(converted).collect();
        candle_core::safetensors::save(&half, &path).unwrap();
        assert_golden(folder.path(), "qwen2", tolerance);
    }
}

#[test]
fn damaged_files_are_named() {
    let folder = folder("llama");
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (&bytes[..bytes.len() - 1], "truncated"),
        (&bytes[..100], "truncated"),
        (&bytes[..4], "truncated"),
        (b"<html>404 not found</html>", "damaged"),
        (&[bytes.as_slice(), &[0]].concat(), "damaged"),
    ];
    for (content, expected) in cases {
        fs::write(&weights, content).unwrap();
        let found = message(folder.path());
        assert!(found.contains("model.safetensors") && found.contains(expected), "{found}");
    }
    let mut garbled = bytes.clone();
    garbled[8..40].fill(b'{');
    fs::write(&weights, garbled).unwrap();
    assert!(message(folder.path()).contains("damaged"));
    fs::remove_file(&weights).unwrap();
    assert!(message(folder.path()).contains("model.safetensors is missing"));
    fs::write(&weights, &bytes).unwrap();
    open(folder.path()).unwrap();
    for name in ["tokenizer.json", "config.json"] {
        let path = folder.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(message(folder.path()).contains(name));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(message(folder.path()).contains("not UTF-8"));
        fs::remove_file(&path).unwrap();
        let missing = message(folder.path());
        assert!(missing.contains(name) && missing.contains("is missing"), "{missing}");
        fs::write(&path, before).unwrap();
    }
    assert!(message(Path::new("/nowhere/at/all")).contains("/nowhere/at/all"));
}

#[test]
pub(crate) fn tensors_that_do_not_fit_are_named() {
    let folder = folder("llama_scaled");
    let path = folder.path().join("model.safetensors");
    let good = tensors(&path);
    let mut less = good.clone();
    less.remove("model.layers.1.mlp.up_proj.weight");
    candle_core::safetensors::save(&less, &path).unwrap();
    assert!(message(folder.path()).contains("'model.layers.1.mlp.up_proj.weight' is not in"));
    let mut other = good.clone();
    other.insert("lm_head.weight".into(), Tensor::zeros((64, 31), DType::F32, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&other, &path).unwrap();
    let found = message(folder.path());
    assert!(found.contains("lm_head.weight") && found.contains("[64, 31]") && found.contains("[64, 32]"), "{found}");
    let mut integers = good;
    let ids = Tensor::zeros((64, 32), DType::U32, &Device::Cpu).unwrap();
    integers.insert("lm_head.weight".into(), ids);
    candle_core::safetensors::save(&integers, &path).unwrap();
    assert!(message(folder.path()).contains("U32"));
}

#[test]
fn configurations_out_of_bounds_are_refused() {
    let folder = folder("llama");
    let path = folder.path().join("config.json");
    let before = fs::read(&path).unwrap();
    let cases: [(&str, Value, &str); 18] = [
        ("num_hidden_layers", json!(4_000_000_000_u64), "num_hidden_layers"),
        ("vocab_size", json!(1_u64 << 60), "vocab_size"),
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!(-1), "config.json"),
        ("num_key_value_heads", json!(3), "does not divide"),
        ("head_dim", json!(7), "even"),
        ("head_dim", json!(1_u64 << 40), "head_dim"),
        ("hidden_act", json!("gelu"), "silu"),
        ("rms_norm_eps", json!(-1.0), "rms_norm_eps"),
        ("rope_parameters", json!({"rope_type": "longrope", "rope_theta": 1e4}), "longrope"),
        ("rope_parameters", json!({"rope_type": "linear", "rope_theta": 1e4}), "factor"),
        ("rope_parameters", json!({"full_attention": {"rope_type": "default"}}), "different layers"),
        ("rope_parameters", json!({"rope_theta": -5}), "rope_theta"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_parameters says something else"),
        ("rope_theta", json!(5.0), "rope_parameters has another"),
        ("mnemon", json!({"memory_layers": [7]}), "memory_layers"),
        ("mnemon", json!({"entry_policy": "block_mean:0"}), "entry_policy"),
        ("mnemon", json!({"chunk_tokens": 1_000_000}), "chunk_tokens"),
    ];
    for (key, value, expected) in cases {
        edit(&path, |config| config[key] = value.clone());
        let found = message(folder.path());
        assert!(found.contains(expected), "{key} {value}: {found}");
        fs::write(&path, &before).unwrap();
    }
    edit(&path, |config| config["architectures"] = json!(["GPT2LMHeadModel"]));
    let found = message(folder.path());
    assert!(found.contains("GPT2LMHeadModel") && found.contains("Qwen3ForCausalLM"), "{found}");
    fs::write(&path, before).unwrap();
    fs::write(folder.path().join("tokenizer.json"), crate::common::TINY_TOKENIZER.replace("\"b\":2", "\"b\":64"))
        .unwrap();
    assert!(message(folder.path()).contains("vocab_size is 64"));
}

#[test]
fn both_layouts_of_configurations_are_read() {
    let old = json!({
        "model_type": "qwen2", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 6,
        "num_attention_heads": 2, "rope_theta": 5e5, "max_position_embeddings": 4096,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
        "use_sliding_window": true, "sliding_window": 100, "max_window_layers": 4, "eos_token_id": [7, 8]
    });
    let config = ModelConfig::parse(&old.to_string()).unwrap();
    let PositionEncoding::Rotary(rope) = config.positions else { panic!("rotary is the default") };
    assert!((rope.theta - 5e5).abs() < 1e-9 && config.kv_heads == 2 && config.head_dim == 4);
    assert!(matches!(rope.scaling, RopeScaling::Yarn { original: 1024, .. }));
    assert_eq!(config.sliding_windows, [None, None, None, None, Some(100), Some(100)]);
    assert_eq!(config.eos_tokens, [7, 8]);
    assert!(config.qkv_bias && !config.output_bias && !config.tie_word_embeddings);
    // The defaults of a model that was not trained with memory.
    assert_eq!((config.memory.layers.as_slice(), config.memory.window, config.memory.sinks), (&[3, 4][..], 512, 4));
    let mut types = old;
    types["layer_types"] = json!([
        "sliding_attention",
        "full_attention",
        "full_attention",
        "full_attention",
        "full_attention",
        "sliding_attention"
    ]);
    let config = ModelConfig::parse(&types.to_string()).unwrap();
    assert_eq!(config.sliding_windows[..2], [Some(100), None]);
}

#[test]
fn the_fingerprint_tells_models_and_geometries_apart() {
    let folder = folder("qwen3");
    let with = |options: LoadOptions| {
        Model::load(&ModelSource::Directory(folder.path().into()), &options).unwrap().fingerprint()
    };
    let plain = with(cpu());
    assert_eq!(plain, with(cpu()));
    assert_eq!(plain, with(LoadOptions { window: Some(20), sinks: Some(1), ..cpu() }));
    assert_ne!(plain, with(LoadOptions { kv_dtype: Some(KvDtype::F32), ..cpu() }));
    // What the settings say of memories for which nothing else is asked.
    assert_eq!(plain, with(LoadOptions { kv_dtype: Some(KvDtype::Int8), ..cpu() }));
    assert_ne!(plain, with(LoadOptions { chunk_tokens: Some(32), ..cpu() }));
    assert_ne!(plain, with(LoadOptions { memory_layers: Some(vec![0]), ..cpu() }));
    assert_ne!(plain, with(LoadOptions { entry_policy: Some(EntryPolicy::PerToken), ..cpu() }));
    edit(&folder.path().join("config.json"), |config| config["rope_parameters"]["rope_theta"] = json!(10_001.0));
    assert_ne!(plain, with(cpu()));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    edit(&folder.path().join("config.json"), |config| config["rope_parameters"]["rope_theta"] = json!(10_000.0));
    assert_eq!(plain, with(cpu()));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(plain, with(cpu()));
}

#[test]
fn the_default_model_is_built_in() {
    let model = Model::load(&ModelSource::Embedded, &cpu()).unwrap();
    assert_eq!(model.name(), "mnemon-default");
    // Memories that it made stay its own.
    let fingerprint = "d693090d62ef1aa21e6a6ffae3ec6f64b96474d263d7ade0aa269d917606032d";
    assert_eq!(model.fingerprint().to_hex(), fingerprint);
    assert!(model.parameters() > 1_000_000 && model.geometry().layers.len() == model.config().memory.layers.len());
    let (mut state, mut attention) = (SequenceState::new(&model), FullAttention::new(&model));
    let logits = model.forward(&[5, 6], &mut state, &mut attention, Logits::Last).unwrap().unwrap();
    assert_eq!(logits.dims(), [1, model.config().vocab_size]);
    assert!(model.forward(&[5], &mut state, &mut attention, Logits::None).unwrap().is_none());
    assert_eq!(state.position, 3);
}

#[test]
fn sources_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(ModelSource::parse(path).unwrap(), ModelSource::Directory(path.into()));
    let hub = |id: &str, file: Option<&str>, revision: Option<&str>| {
        let [file, revision] = [file, revision].map(|part| part.map(Into::into));
        ModelSource::Hub(HubName { id: id.into(), file, revision })
    };
    assert_eq!(ModelSource::parse("Qwen/Qwen3-0.6B").unwrap(), hub("Qwen/Qwen3-0.6B", None, None));
    assert_eq!(ModelSource::parse("a/b@v1.0").unwrap(), hub("a/b", None, Some("v1.0")));
    assert_eq!(ModelSource::parse("a/b:x-Q8_0.gguf").unwrap(), hub("a/b", Some("x-Q8_0.gguf"), None));
    // `src` is a folder here.
    for bad in ["", "name", "a/b/c", "../x", "/no/such/folder", "a/b@", "a/ b", "src/modl"] {
        assert!(matches!(ModelSource::parse(bad), Err(Error::UnknownSource { .. })), "{bad}");
    }
    for (text, choice) in [("auto", DeviceChoice::Auto), ("cpu", DeviceChoice::Cpu), ("cuda:3", DeviceChoice::Cuda(3))]
    {
        assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
        assert_eq!(choice.to_string(), text);
    }
    assert!("gpu".parse::<DeviceChoice>().is_err());
    DeviceChoice::Auto.open().unwrap();
    if cfg!(not(feature = "cuda")) {
        assert!(DeviceChoice::Cuda(0).open().unwrap_err().to_string().contains("cuda:0"));
    }
}

/// Run by the next test in a process of its own, because the cache is found through the environment.
#[test]
#[ignore = "run by hub_models_come_from_the_cache_without_a_network"]
fn child_of_the_hub_test() {
    let source = ModelSource::parse("someone/tiny").unwrap();
    println!("{}", Model::load(&source, &cpu()).map_or_else(|error| error.to_string(), |model| model.name().into()));
}

#[test]
fn hub_models_come_from_the_cache_without_a_network() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("hub/models--someone--tiny");
    let snapshot = model.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "0123abcd").unwrap();
    let from = folder("llama");
    let run = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["loading::child_of_the_hub_test", "--exact", "--ignored", "--nocapture"])
            .env("HF_HOME", home.path())
            .env("HF_HUB_OFFLINE", "1")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let incomplete = run();
        assert!(incomplete.contains("not in the cache"), "{incomplete}");
        fs::copy(from.path().join(name), snapshot.join(name)).unwrap();
    }
    assert!(run().contains("someone/tiny"));
}
