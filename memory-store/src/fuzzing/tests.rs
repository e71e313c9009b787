//! Every target on its seeds and on what becomes of them when bytes are changed: without a fuzzer, on every run.
//!
//! `MNEMON_MUTATIONS=1000000 cargo test --release -p mnemon-memory-store --lib fuzzing` tries more.
//! `MNEMON_SEEDS=1 cargo test -p mnemon-memory-store --lib fuzzing -- --ignored` writes the seeds in `fuzz/seeds` again.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use mnemon_memory::{ChunkId, KvData, KvDtype};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{TARGETS, Target, reseal, store};
use crate::engine::inspection::inspect;
use crate::format::codec::Encoder;
use crate::format::records::{
    DocumentRecord, ExtentRecord, NameRecord, SegmentRecord, decode_reserved, decode_sequence,
};
use crate::index::vectors::{BuildParams, EntryRef, FlatIndex, build_graph, decode_graph_of_anyone};
use crate::storage::{InMemoryStorage, Storage, parse_copy};

fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

/// The committed seeds of a target, by name.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A graph whose entries name their blocks and that has several levels.
fn graph_of_blocks() -> Vec<u8> {
    let (dim, n) = (4, 130);
    let mut flat = FlatIndex::new(dim, KvDtype::F32);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let keys = KvData::F32((0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect());
    flat.extend(
        &keys,
        0..n * dim,
        (0..n).map(|at| EntryRef { chunk: at as u32 / 10, start: at as u16 % 10 * 4, len: 4 }),
    );
    let chunks: Vec<ChunkId> = (1..=13).map(ChunkId).collect();
    let params = BuildParams { m: 4, ef_construction: 16 };
    let graph = build_graph(flat, &chunks, None, params, &AtomicBool::new(false)).unwrap().unwrap();
    graph.as_bytes().to_vec()
}

fn a_copy() -> Vec<u8> {
    let mut out = Encoder::default();
    out.bytes.extend_from_slice(b"MNMNCOPY");
    out.u32(1).u32(1).text("db").u64(10);
    out.bytes.extend_from_slice(&[3; 32]);
    out.u64(2);
    for part in [&b"m0000"[..], b"value", b"v", b""] {
        out.u32(part.len() as u32);
        out.bytes.extend_from_slice(part);
    }
    out.bytes
}

/// What the seeds are made from: name and bytes.
fn make(target: &str) -> Vec<(String, Vec<u8>)> {
    let (records, blobs) = store::template();
    let body = |bytes: &[u8]| bytes[..bytes.len().saturating_sub(4)].to_vec();
    let blobs_of = |kind: &'static str| blobs.iter().filter(move |(name, _)| name.starts_with(kind));
    match target {
        "records" => {
            let values = records.iter().filter(|(key, _)| key[0] != b'g');
            let values = values.map(|(key, value)| ([&key[..1], &body(value)].concat(), key));
            let mut all: Vec<_> = values.map(|(seed, key)| (seed, char::from(key[0]))).collect();
            all.dedup_by_key(|(_, kind)| *kind);
            let key = records.iter().find(|(key, _)| key[0] == b'n').map(|(key, _)| [b"k", &key[..]].concat());
            all.push((key.unwrap(), 'k'));
            let mut all: Vec<_> = all.into_iter().map(|(seed, kind)| (kind.to_string(), seed)).collect();
            let heads = records.iter().find(|(key, _)| key.ends_with(b"heads")).unwrap();
            all.push(("n-heads".into(), [b"n", &body(&heads.1)[..]].concat()));
            all
        }
        "chunk_blob" => blobs_of("chunks").take(2).chain(blobs_of("chunks").next_back()).cloned().collect(),
        "graph_blob" => {
            let of_tokens = blobs_of("graph").map(|(name, bytes)| (name.clone(), body(bytes))).next();
            [of_tokens.unwrap(), ("blocks".into(), graph_of_blocks())].into()
        }
        "catalog_copy" => vec![("copy".into(), a_copy())],
        "archive" => [("memory", "a"), ("heads", "heads")]
            .map(|(seed, memory)| (seed.to_owned(), store::archive(memory).unwrap()))
            .into(),
        "codes" => (0..5_u8)
            .map(|dtype| {
                let bytes = (0..96_u8).map(|at| at.wrapping_mul(37));
                (dtype.to_string(), [dtype, 2, 3, 4].into_iter().chain(bytes).collect())
            })
            .collect(),
        "store" => {
            let changes = [[1, 4, 8, 0, 255, 255, 255, 255, 0, 0, 0, 0], [9, 5, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0]];
            vec![("nothing".into(), Vec::new()), ("two".into(), changes.concat())]
        }
        other => panic!("no seeds for {other}"),
    }
}

#[test]
#[ignore = "writes the seeds, when a format changes"]
fn writes_the_seeds() {
    if std::env::var_os("MNEMON_SEEDS").is_none() {
        return;
    }
    for target in TARGETS {
        let _ = fs::remove_dir_all(folder(target.name));
        fs::create_dir_all(folder(target.name)).unwrap();
        for (name, bytes) in make(target.name) {
            fs::write(folder(target.name).join(name), bytes).unwrap();
        }
    }
}

#[test]
fn every_seed_is_accepted_by_its_parser() {
    for seed in seeds("records") {
        let sealed = {
            let mut sealed = [&seed[1..], &[0; 4]].concat();
            reseal::ending(&mut sealed);
            sealed
        };
        match seed[0] {
            b'r' => drop(decode_reserved(&sealed).unwrap()),
            b'm' => drop(decode_sequence(&sealed, "m").unwrap()),
            b'n' => drop(NameRecord::decode(&sealed, "n").unwrap()),
            b'd' => drop(DocumentRecord::decode(&sealed, "d").unwrap()),
            b'e' => drop(ExtentRecord::decode(&sealed, "e").unwrap()),
            b'x' => drop(SegmentRecord::decode(&sealed, "x").unwrap()),
            kind => assert!(kind == b'v' || kind == b'k'),
        }
    }
    for mut seed in seeds("chunk_blob") {
        let (header, record) = reseal::chunk_blob(&mut seed).unwrap();
        assert!(inspect(&seed, &record, header.first_chunk, &header.spec.geometry).faults.is_empty());
    }
    for seed in seeds("graph_blob") {
        let mut sealed = [&seed[..], &[0; 4]].concat();
        reseal::ending(&mut sealed);
        assert_eq!(decode_graph_of_anyone(&sealed).unwrap().unreachable(), 0);
    }
    for seed in seeds("catalog_copy") {
        let mut sealed = [&seed[..], &[0; 32]].concat();
        reseal::copy(&mut sealed);
        assert_eq!(parse_copy(&sealed, "copy").unwrap().1.len(), 2);
    }
    for seed in seeds("archive") {
        let mut sealed = seed.clone();
        reseal::archive(&mut sealed);
        assert_eq!(crate::archive::verify(&seed).unwrap().documents, 2);
        assert!(sealed == seed, "what is right stays as it is");
    }
    let storage = InMemoryStorage::new();
    let (records, blobs) = store::template();
    let mut batch = crate::storage::Batch::default();
    for (key, value) in records {
        batch.put(key.clone(), value.clone());
    }
    storage.apply(&batch).unwrap();
    for (name, bytes) in blobs {
        storage.write_blob(name, &[bytes]).unwrap();
    }
    let report = crate::check(&(Arc::new(storage) as Arc<dyn Storage>), false).unwrap();
    assert!(report.is_sound() && report.documents == 4, "{report:#?}");
}

/// Changes some bytes: flips, numbers at the borders of their types, pieces cut out, doubled or moved.
fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=bytes.len());
        let rest = bytes.len() - at;
        match rng.random_range(0..9) {
            0 if rest > 0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if rest > 0 => bytes[at] = rng.random(),
            2 | 3 => {
                let numbers =
                    [0, 1, 0x7f, 0xff, 0xffff, 0xff_ffff, u64::from(u32::MAX), u64::MAX, u64::MAX - 1, 1 << 63];
                let number = numbers[rng.random_range(0..numbers.len())].to_le_bytes();
                let width = [1, 2, 4, 8][rng.random_range(0..4)].min(rest);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => bytes.truncate(at),
            5 => {
                let end = at + rng.random_range(0..=rest.min(64));
                bytes.drain(at..end);
            }
            6 => {
                let more: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
                bytes.splice(at..at, more);
            }
            7 if rest > 0 => {
                let end = at + rng.random_range(0..=rest.min(64));
                bytes.extend_from_within(at..end);
            }
            _ if rest >= 4 => {
                let number = u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
                let number = number.wrapping_add(rng.random_range(0..5)).wrapping_sub(2);
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            }
            _ => {}
        }
    }
}

/// A change of a store: mostly by numbers that are plausible.
fn change(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let large = [255, 65_535, u64::from(u32::MAX), (1 << 56) - 1, u64::MAX];
    let value = if rng.random_bool(0.8) { rng.random_range(0..24) } else { large[rng.random_range(0..5)] };
    let offset = rng.random_range(0..200_u16) | if rng.random_bool(0.1) { 0x8000 } else { 0 };
    let width: u8 = if rng.random_bool(0.9) { rng.random_range(1..6) } else { rng.random() };
    [&[rng.random(), width][..], &offset.to_le_bytes(), &value.to_le_bytes()].concat()
}

fn survives(target: &Target, input: &[u8]) {
    let run = target.run;
    let survived = catch_unwind(|| run(input)).is_ok();
    assert!(survived, "{} does not survive {input:?}", target.name);
}

#[test]
fn nothing_panics_whatever_the_bytes() {
    let rounds = std::env::var("MNEMON_MUTATIONS").ok().and_then(|rounds| rounds.parse().ok());
    for target in TARGETS {
        let seeds = seeds(target.name);
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for seed in &seeds {
            survives(target, seed);
        }
        // A store takes a hundred times as long as a record.
        let rounds: u64 = rounds.unwrap_or(if target.name == "store" { 300 } else { 5000 });
        for _ in 0..rounds {
            let mut input = seeds[rng.random_range(0..seeds.len())].clone();
            if target.name == "store" {
                (0..rng.random_range(1..4)).for_each(|_| input.extend(change(&mut rng)));
            }
            if target.name != "store" || rng.random_bool(0.1) {
                mutate(&mut rng, &mut input);
            }
            survives(target, &input);
        }
        println!("{}: {} seeds, {rounds} mutations", target.name, seeds.len());
    }
}
