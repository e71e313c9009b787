//! Model files with some bytes changed are loaded or refused; nothing panics.
//!
//! `MNEMON_MUTATIONS=20000 cargo test --release -p mnemon-runtime --test it mutations` tries more.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use mnemon_runtime::{LoadOptions, Model, ModelConfig, ModelSource};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::cpu;
use crate::loading::{eight_bits, taken_apart, tensors};

fn rounds() -> u64 {
    std::env::var("MNEMON_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300)
}

/// Numbers at the borders of types, words in other places, bytes flipped, pieces cut out or doubled.
pub(crate) fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    let words: [&[u8]; 12] = [
        b"0",
        b"1",
        b"-1",
        b"18446744073709551615",
        b"9223372036854775808",
        b"4294967295",
        b"1e308",
        b"null",
        b"[]",
        b"{}",
        b"\"F16\"",
        b"[0,0]",
    ];
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..bytes.len().max(1));
        let end = (at + rng.random_range(0..12)).min(bytes.len());
        match rng.random_range(0..6) {
            0 | 1 => {
                // A number, where there is one.
                let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|more| at + more) else {
                    continue;
                };
                let len = bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(0);
                bytes.splice(start..start + len, words[rng.random_range(0..words.len())].iter().copied());
            }
            2 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.extend_from_within(at..end),
            _ => drop(bytes.splice(at..at, words[rng.random_range(0..words.len())].iter().copied())),
        }
    }
}

/// The header of a safetensors file changed, its length put right; or any of its bytes.
fn mutate_tensors(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    if rng.random_bool(0.2) {
        return mutate(rng, bytes);
    }
    let end = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let mut header = bytes[8..end].to_vec();
    mutate(rng, &mut header);
    let data = bytes.split_off(end);
    *bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
}

/// Loads the folder with `file` changed in many ways; returns how many of them were refused.
fn refused(folder: &Path, file: &str, options: &LoadOptions, change: fn(&mut ChaCha8Rng, &mut Vec<u8>)) -> u64 {
    let path = folder.join(file);
    let whole = fs::read(&path).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut refused = 0;
    for round in 0..rounds() {
        let mut bytes = whole.clone();
        change(&mut rng, &mut bytes);
        fs::write(&path, &bytes).unwrap();
        let source = ModelSource::Directory(folder.into());
        let loaded = catch_unwind(AssertUnwindSafe(|| Model::load(&source, options).is_ok()));
        assert!(loaded.is_ok(), "round {round}: {file} ends in a panic: {}", bytes.escape_ascii());
        refused += u64::from(!loaded.unwrap());
    }
    fs::write(&path, whole).unwrap();
    Model::load(&ModelSource::Directory(folder.into()), options).unwrap();
    refused
}

#[test]
fn changed_model_files_never_panic() {
    let (folder, adapter) = taken_apart(|_| ());
    // Matrices of bytes with their scales.
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&eight_bits(&tensors(&file)), &file).unwrap();
    let adapted = LoadOptions { memory_adapter: Some(adapter), ..cpu() };
    for (file, change) in [
        ("config.json", mutate as fn(&mut ChaCha8Rng, &mut Vec<u8>)),
        ("model.safetensors", mutate_tensors),
        ("adapter.st", mutate_tensors),
    ] {
        let refused = refused(folder.path(), file, &adapted, change);
        println!("{file}: {} changes, {refused} refused", rounds());
        assert!(refused > 0 && refused < rounds(), "{file}: {refused}");
    }
}

#[test]
fn changed_configurations_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    for name in ["llama_scaled", "mistral_yarn", "qwen2_sliding", "llama_dynamic", "memory_gate", "memory_alibi"] {
        let whole = fs::read(crate::common::fixture(name).join("config.json")).unwrap();
        for _ in 0..10 * rounds() {
            let mut bytes = whole.clone();
            mutate(&mut rng, &mut bytes);
            if let Ok(text) = String::from_utf8(bytes) {
                let parsed = catch_unwind(|| drop(ModelConfig::parse(&text)));
                assert!(parsed.is_ok(), "{name} ends in a panic: {text}");
            }
        }
    }
}
