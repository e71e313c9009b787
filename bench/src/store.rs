//! The store alone, without a model: durable appends beside plain writes, bytes on disk, opening, memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mnemon_memory::{
    EntryPolicy, Fingerprint, KvChunk, KvDtype, KvGeometry, Recall as _, ResumePoint, SearchRequest, SourceSpan,
};
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use mnemon_memory_store::{Memory, MemorySpec, Sealing, Store, StoreOptions, Writer};
use serde_json::{Value, json};

use crate::report::Output;
use crate::{report, vectors};

const DIM: usize = 64;
const CHUNK_TOKENS: usize = 64;
/// Chunks whose keys are in memory at once: those of a million tokens.
const PIECE_CHUNKS: usize = 1 << 14;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Tokens in the memory that is opened and searched.
    #[arg(long, default_value = "1m", value_parser = report::parse_tokens)]
    tokens: u64,
    /// Commits of each measurement of appends.
    #[arg(long, default_value_t = 300)]
    commits: usize,
    /// Folder for the data: name the disk that is to be measured. Default: a temporary one.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Opens this folder, searches once, prints the times.
    #[arg(long, hide = true)]
    probe: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(folder) = &arguments.probe {
        return probe(folder);
    }
    let temporary = tempfile::tempdir()?;
    let folder = arguments.data.as_deref().unwrap_or(temporary.path());
    ensure!(!folder.join("catalog").exists(), "{} holds data already; name an empty folder", folder.display());
    let appends = appends(arguments, &folder.join("appends"))?;
    let whole = whole(arguments, &folder.join("whole"))?;
    arguments.output.write_json("store", &json!({"appends": appends, "whole": whole}))
}

/// The geometry of the default model.
fn spec(dtype: KvDtype) -> MemorySpec {
    let geometry = KvGeometry {
        layers: vec![2],
        key_heads: KvGeometry::all_key_heads(&[2], 1),
        kv_heads: 1,
        head_dim: DIM as u32,
        dtype,
        chunk_tokens: CHUNK_TOKENS as u32,
        entry_policy: EntryPolicy::PerToken,
    };
    MemorySpec { fingerprint: Fingerprint([7; 32]), geometry, model_name: "bench".into(), description: String::new() }
}

fn open(folder: &Path) -> Result<Store> {
    let storage = SledStorage::open(folder, SledOptions::default())?;
    Ok(Store::open(
        Arc::new(storage),
        StoreOptions { sealing: Sealing::Manual, ..StoreOptions::default() },
        Arc::new(|| 1_700_000_000_000),
    )?)
}

/// A chunk that follows what `writer` holds, its keys from `keys`.
fn chunk(at: (u64, u64), keys: &[f32]) -> KvChunk {
    let text = "four score and seven ".repeat(12);
    KvChunk {
        turns: Vec::new(),
        span: SourceSpan {
            byte_start: at.1,
            byte_end: at.1 + text.len() as u64,
            token_start: at.0,
            token_end: at.0 + CHUNK_TOKENS as u64,
        },
        tokens: (0..CHUNK_TOKENS as u32).collect(),
        text,
        keys: vec![keys.to_vec()],
        values: vec![keys.iter().rev().copied().collect()],
        importance: Vec::new(),
        lone_keys: Vec::new(),
    }
}

/// A memory number of this process, from the system; MB.
fn memory_mb(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().nth(1)?.parse::<f64>().ok());
    kb.map_or(f64::NAN, |kb| kb * 1024.0 / 1e6)
}

/// Appends `chunks` of `keys` in turn, so many a commit; returns the time that the store took.
fn fill(writer: &mut Writer, keys: &[f32], chunks: usize, a_commit: usize) -> Result<Duration> {
    let state = writer.state();
    let (mut at, mut spent) = ((state.tokens, state.bytes), Duration::ZERO);
    let mut blocks = keys.chunks_exact(CHUNK_TOKENS * DIM).cycle().take(chunks);
    loop {
        // Made outside of the time: that is the model's work.
        let mut made = Vec::with_capacity(a_commit);
        for keys in blocks.by_ref().take(a_commit) {
            let chunk = chunk(at, keys);
            at = (chunk.span.token_end, chunk.span.byte_end);
            made.push(chunk);
        }
        if made.is_empty() {
            return Ok(spent);
        }
        let start = Instant::now();
        for chunk in made {
            writer.append(chunk)?;
        }
        writer.commit(ResumePoint { safe_byte: at.1, safe_token: at.0, complete: false })?;
        spent += start.elapsed();
    }
}

/// Bytes of the files below a folder, by the folder directly below it.
fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = if entry.file_type()?.is_dir() { sizes_below(&entry.path())? } else { entry.metadata()?.len() };
        sizes.insert(name, bytes);
    }
    Ok(sizes)
}

fn sizes_below(folder: &Path) -> Result<u64> {
    Ok(sizes(folder)?.values().sum())
}

/// Appends, acknowledged after sync, beside a file that gets the same bytes and as many syncs.
fn appends(arguments: &Arguments, folder: &Path) -> Result<Value> {
    let keys = vectors::clustered(64 * CHUNK_TOKENS, 1, DIM, 2).keys;
    let store = open(&folder.join("store"))?;
    println!(
        "appends of chunks of {CHUNK_TOKENS} tokens in int8, acknowledged after sync, beside plain writes of as many bytes"
    );
    println!("  chunks a commit   chunks/s   plain, 3 syncs   ratio   plain, 1 sync   ratio");
    let mut rows = Vec::new();
    for a_commit in [1, 16, 128] {
        let name = format!("m{a_commit}");
        let memory = store.create_memory("bench", &name, spec(KvDtype::Int8))?;
        let mut writer = memory.writer("text", BTreeMap::new())?;
        let chunks = a_commit * arguments.commits;
        fill(&mut writer, &keys, a_commit, a_commit)?;
        // In turn, so that whatever else the disk does meets all alike.
        let (mut own, mut plain) = (Duration::ZERO, [Duration::ZERO; 2]);
        let before = memory.info().stored_bytes;
        for part in [chunks / 2, chunks - chunks / 2] {
            let stored = memory.info().stored_bytes;
            own += fill(&mut writer, &keys, part, a_commit)?;
            let bytes = memory.info().stored_bytes - stored;
            for (time, syncs) in plain.iter_mut().zip([3, 1]) {
                *time += write_plainly(&folder.join("plain"), bytes, part.div_ceil(a_commit), syncs)?;
            }
        }
        let rate = |time: Duration| chunks as f64 / time.as_secs_f64();
        let ratio = |time: Duration| time.as_secs_f64() / own.as_secs_f64();
        println!(
            "  {a_commit:>15}   {:>8.0}   {:>14.0}   {:>5.2}   {:>13.0}   {:>5.2}",
            rate(own),
            rate(plain[0]),
            ratio(plain[0]),
            rate(plain[1]),
            ratio(plain[1]),
        );
        rows.push(json!({
            "chunks_a_commit": a_commit, "chunks_a_second": rate(own),
            "plain_3_syncs": rate(plain[0]), "ratio_3_syncs": ratio(plain[0]),
            "plain_1_sync": rate(plain[1]), "ratio_1_sync": ratio(plain[1]),
            "bytes": memory.info().stored_bytes - before,
        }));
    }
    Ok(rows.into())
}

/// Appends `bytes` to one file in `times` pieces, with `syncs` of each to files of their own, as a commit has them: the
/// blob, its folder, the catalog.
fn write_plainly(folder: &Path, bytes: u64, times: usize, syncs: usize) -> Result<Duration> {
    std::fs::create_dir_all(folder)?;
    let mut file = File::create(folder.join("data"))?;
    let mut others: Vec<File> =
        (1..syncs).map(|at| File::create(folder.join(at.to_string()))).collect::<std::io::Result<_>>()?;
    let piece = vec![7; (bytes as usize).div_ceil(times)];
    let start = Instant::now();
    for _ in 0..times {
        file.write_all(&piece)?;
        file.sync_data()?;
        for other in &mut others {
            other.write_all(&[7; 128])?;
            other.sync_data()?;
        }
    }
    Ok(start.elapsed())
}

/// A large memory: bytes a token, then opening it in processes of their own.
fn whole(arguments: &Arguments, folder: &Path) -> Result<Value> {
    let chunks = (arguments.tokens as usize).div_ceil(CHUNK_TOKENS);
    let tokens = (chunks * CHUNK_TOKENS) as f64;
    let store = open(folder)?;
    let memory = store.create_memory("bench", "text", spec(KvDtype::Int8))?;
    let mut writer = memory.writer("text", BTreeMap::new())?;
    let mut appending = Duration::ZERO;
    // In pieces: the vectors of ten million tokens would take more memory than what is measured.
    for first in (0..chunks).step_by(PIECE_CHUNKS) {
        let piece = PIECE_CHUNKS.min(chunks - first);
        let keys = vectors::clustered(piece * CHUNK_TOKENS, 1, DIM, 3 + (first / PIECE_CHUNKS) as u64).keys;
        appending += fill(&mut writer, &keys, piece, 128)?;
    }
    drop(writer);
    let appended_mb = memory_mb("VmHWM");
    let start = Instant::now();
    store.seal_all()?;
    let sealing = start.elapsed();
    let sealed_mb = memory_mb("VmHWM");
    let info = memory.info();
    drop((memory, store));
    let catalog = sizes(folder)?.get("catalog").copied().unwrap_or(0);
    let raw = 2.0 * 2.0 * DIM as f64;
    let (kv, index) = (info.stored_bytes as f64 / tokens, info.index_bytes as f64 / tokens);
    let text = info.text_bytes as f64 / tokens + 4.0;
    println!("\na memory of {tokens} tokens, {} of them not in a graph", info.unsealed_entries);
    println!(
        "  appended in {:.1} s ({appended_mb:.0} MB at most), sealed in {:.1} s ({sealed_mb:.0} MB at most)",
        appending.as_secs_f64(),
        sealing.as_secs_f64()
    );
    println!(
        "  bytes a token: {raw} as raw binary16; {kv:.1} in chunks, {text:.1} of them text and token ids ({:.2} without them);",
        (kv - text) / raw
    );
    println!("                 {index:.1} in graphs, {:.1} in the catalog", catalog as f64 / tokens);
    let mut probes = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let output = Command::new(std::env::current_exe()?).args(["bench", "store", "--probe"]).arg(folder).output()?;
        let wall = start.elapsed().as_secs_f64() * 1e3;
        ensure!(output.status.success(), "opening failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut row: Value = serde_json::from_slice(&output.stdout).context("the probe's answer")?;
        row["process_ms"] = wall.into();
        probes.push(row);
    }
    let median = |name: &str| {
        let mut values: Vec<f64> = probes.iter().filter_map(|row| row[name].as_f64()).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "  a new process: open {:.0} ms, first search after {:.0} ms, {:.0} ms in all; a second search {:.2} ms; {:.0} MB resident, {:.0} at most",
        median("open_ms"),
        median("first_search_ms"),
        median("process_ms"),
        median("second_search_ms"),
        median("resident_mb"),
        median("peak_mb"),
    );
    Ok(json!({
        "tokens": tokens, "unsealed_entries": info.unsealed_entries, "raw_bytes": raw, "chunk_bytes": kv,
        "text_bytes": text, "graph_bytes": index, "catalog_bytes": catalog as f64 / tokens,
        "append_seconds": appending.as_secs_f64(), "seal_seconds": sealing.as_secs_f64(),
        "append_peak_mb": appended_mb, "seal_peak_mb": sealed_mb, "probes": probes,
    }))
}

fn search(memory: &Memory) -> Result<f64> {
    let queries = vectors::clustered(64, 4, DIM, 3).queries;
    let start = Instant::now();
    let request = SearchRequest { key_heads: &[0; 4], queries: &queries, top_k: 32, ef: Some(256), exact: false };
    let found = memory.snapshot()?.search(&request)?;
    ensure!(found.iter().all(|hits| hits.len() == 32), "a search found too little");
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

fn probe(folder: &Path) -> Result<()> {
    let start = Instant::now();
    let store = open(folder)?;
    let memory = store.memory("bench", "text")?;
    let open_ms = start.elapsed().as_secs_f64() * 1e3;
    search(&memory)?;
    let first_search_ms = start.elapsed().as_secs_f64() * 1e3;
    let second_search_ms = search(&memory)?;
    let row = json!({
        "open_ms": open_ms, "first_search_ms": first_search_ms, "second_search_ms": second_search_ms,
        "resident_mb": memory_mb("VmRSS"), "peak_mb": memory_mb("VmHWM"),
    });
    println!("{row}");
    Ok(())
}
