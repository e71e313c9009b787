//! The hash that tells whose keys and values a memory holds.

use std::collections::BTreeMap;

use mnemon_memory::{Fingerprint, KvGeometry};

use crate::config::{ModelConfig, PositionEncoding};

/// BLAKE3 over the weights (name and hash of each tensor as it is stored), the tokenizer's file, whatever of the
/// configuration changes keys and values. Followed by the memory geometry it is a memory's fingerprint. The local window is left out: it is a matter of
/// degree, and memories read with different windows can be recalled side by side.
pub(super) fn base(digests: &BTreeMap<String, blake3::Hash>, tokenizer: &str, config: &ModelConfig) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| add(&mut hasher, bytes);
    part(b"mnemon model fingerprint 1");
    for (name, digest) in digests {
        part(name.as_bytes());
        part(digest.as_bytes());
    }
    part(tokenizer.as_bytes());
    // Rust prints floats so that they read back to the same value: the text is exact.
    let ModelConfig { architecture, heads, head_dim, rms_norm_eps, positions, sliding_windows, memory, .. } = config;
    let positions = match positions {
        PositionEncoding::Rotary(rope) => format!("{rope:?}"),
        other => format!("{other:?}"),
    };
    part(format!("{architecture:?} {heads} {head_dim} {rms_norm_eps:?} {positions} {sliding_windows:?}").as_bytes());
    part(format!("{:?} {}", memory.fusion, memory.key_shift).as_bytes());
    hasher
}

/// The fingerprint of memories of this geometry.
pub(super) fn with_geometry(base: &blake3::Hasher, geometry: &KvGeometry) -> Fingerprint {
    let mut hasher = base.clone();
    add(&mut hasher, format!("{geometry:?}").as_bytes());
    Fingerprint(*hasher.finalize().as_bytes())
}

fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}
