//! Compiles the `.proto` files with protox: no protoc to install.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["common", "memory", "recall", "store", "transfer"].map(|name| format!("mnemon/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("mnemon_descriptor.bin"), descriptors.encode_to_vec())?;
    // Keys and values: not copied once more.
    tonic_prost_build::configure()
        .bytes(".mnemon.v1.ChunkKv")
        .bytes(".mnemon.v1.KvChunk")
        .bytes(".mnemon.v1.EntryQuery")
        .compile_fds(descriptors)?;
    Ok(())
}
