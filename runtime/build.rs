//! Finds out whether the default model is there to be built in.

use std::path::Path;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(mnemon_default_model)");
    let folder = Path::new("../models/default");
    let files =
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"];
    for name in files {
        println!("cargo::rerun-if-changed={}", folder.join(name).display());
    }
    if files.iter().all(|name| folder.join(name).exists()) {
        println!("cargo::rustc-cfg=mnemon_default_model");
    }
}
