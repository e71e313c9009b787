//! The graph index beside hnswlib, faiss and usearch: the same vectors, the same recall, one thread a search.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use mnemon_memory::{ChunkId, KvData, KvDtype};
use mnemon_memory_store::index::vectors::{
    BuildParams, EntryRef, FlatIndex, GraphIndex, Scored, SearchParams, VectorIndex as _, build_graph,
};
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use mnemon_memory_store::{Sealing, Store, StoreOptions};
use mnemon_runtime::{LoadOptions, Model, ModelSource};
use serde_json::{Value, json};

use crate::report::Output;
use crate::vectors::Vectors;
use crate::{report, vectors};

/// Neighbours compared.
pub(crate) const K: usize = 32;
/// Recall at which times are compared.
pub(crate) const GOAL: f64 = 0.99;
const PEERS: &str = include_str!("../peers/index.py");

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: TextArguments,
    /// Entries.
    #[arg(long, value_delimiter = ',', default_value = "250k", value_parser = report::parse_tokens)]
    entries: Vec<u64>,
    /// Queries.
    #[arg(long, default_value_t = 1000)]
    queries: usize,
    /// Links that an entry makes, for all.
    #[arg(long, default_value_t = StoreOptions::default().m)]
    m: usize,
    /// Breadth of the search for neighbours while building, for all.
    #[arg(long, default_value_t = StoreOptions::default().ef_construction)]
    ef_construction: usize,
    /// Threads that build.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Python with the peers (`pip install hnswlib faiss-cpu usearch numpy`).
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Peers to measure: hnswlib, faiss, faiss-sq8, usearch-f16, usearch-f32; `none` for none.
    #[arg(long, value_delimiter = ',', default_value = "hnswlib,faiss,faiss-sq8,usearch-f16")]
    peers: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Measures each set of vectors at each number of entries.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let most = arguments.entries.iter().copied().max().unwrap_or(0) as usize;
    let mut sets = Vec::new();
    if let Some(text) = arguments.source.vectors()? {
        sets.push(("text", text));
    }
    sets.push(("clustered", vectors::clustered(most, arguments.queries, 64, 1)));
    let mut results = Vec::new();
    for (name, vectors) in &sets {
        for &entries in &arguments.entries {
            let n = (entries as usize).min(vectors.keys.len() / vectors.dim);
            let rows = compare(arguments, vectors, n)?;
            println!("\n{name}, {n} entries of {} values, {} queries", vectors.dim, arguments.queries);
            print(&rows);
            results.push(json!({"vectors": name, "entries": n, "dim": vectors.dim, "indexes": rows}));
        }
    }
    arguments.output.write_json("index", &json!({"k": K, "sets": results}))
}

/// A text to take vectors from.
#[derive(Debug, clap::Args)]
pub(crate) struct TextArguments {
    /// UTF-8 text whose keys and queries are measured, read by the default model. Without it, only generated vectors are.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Folder that keeps the text's keys, so that they are computed once. Default: a temporary one.
    #[arg(long)]
    data: Option<PathBuf>,
}

impl TextArguments {
    /// Keys and queries of the text, if there is one.
    pub(crate) fn vectors(&self) -> Result<Option<Vectors>> {
        let Some(text) = &self.text else { return Ok(None) };
        let model = Arc::new(Model::load(&ModelSource::Embedded, &LoadOptions::default())?);
        let (past, held_out) = vectors::split(text, 8192)?;
        let temporary = tempfile::tempdir()?;
        let folder = self.data.as_deref().unwrap_or(temporary.path());
        let storage = SledStorage::open(folder, SledOptions::default())?;
        let options = StoreOptions { sealing: Sealing::Manual, ..StoreOptions::default() };
        let store = Store::open(Arc::new(storage), options, Arc::new(|| 1_700_000_000_000))?;
        let memory = match store.memory("bench", "text") {
            Ok(filled) => filled,
            Err(_) => vectors::ingest(&store, &model, &past)?.0,
        };
        Ok(Some(vectors::real(&model, &memory, &held_out)?))
    }
}

/// One line for each index.
fn compare(arguments: &Arguments, vectors: &Vectors, n: usize) -> Result<Vec<Value>> {
    let problem = Problem::new(vectors, n, arguments.queries)?;
    let mut flat = FlatIndex::new(problem.dim, KvDtype::F32);
    flat.extend(&KvData::F32(problem.keys.to_vec()), 0..problem.keys.len(), (0..n).map(entry));
    let mut rows = vec![own(arguments, flat, &problem.queries, &problem.truth)?];
    let names: Vec<&str> = arguments.peers.iter().map(String::as_str).filter(|name| *name != "none").collect();
    if !names.is_empty() {
        let folder = tempfile::tempdir()?;
        problem.write(folder.path())?;
        std::fs::write(folder.path().join("index.py"), PEERS)?;
        rows.extend(peers(arguments, folder.path(), &names)?);
    }
    Ok(rows)
}

/// Where an entry stands.
fn entry(at: usize) -> EntryRef {
    EntryRef { chunk: at as u32 / 64, start: (at % 64) as u16, len: 1 }
}

/// Keys, queries, and what is to be found.
pub(crate) struct Problem<'a> {
    pub(crate) dim: usize,
    /// `[n, dim]`.
    pub(crate) keys: &'a [f32],
    /// `[n_queries, dim]`.
    pub(crate) queries: Vec<f32>,
    /// The best [`K`] of each query, by exact search.
    pub(crate) truth: Vec<Vec<Scored>>,
}

impl<'a> Problem<'a> {
    /// The first `n` keys, and queries from all over.
    pub(crate) fn new(vectors: &'a Vectors, n: usize, queries: usize) -> Result<Self> {
        let dim = vectors.dim;
        let keys = &vectors.keys[..n * dim];
        let all = vectors.queries.len() / dim;
        if n < K || all == 0 {
            bail!("{n} entries and {all} queries are too few to compare");
        }
        let every = (all / queries).max(1);
        let queries: Vec<f32> =
            vectors.queries.chunks_exact(dim).step_by(every).take(queries).flatten().copied().collect();
        let mut flat = FlatIndex::new(dim, KvDtype::F32);
        flat.extend(&KvData::F32(keys.to_vec()), 0..keys.len(), (0..n).map(entry));
        let truth = flat.search(&queries, &SearchParams { top_k: K, ef: K, live: None });
        Ok(Self { dim, keys, queries, truth })
    }

    /// For a peer to read.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes);
        write("keys.f32", self.keys.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        write("queries.f32", self.queries.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        write("truth.u32", self.truth.iter().flatten().flat_map(|scored| scored.entry.to_le_bytes()).collect())?;
        write("dim", self.dim.to_string().into_bytes())?;
        Ok(())
    }
}

/// Builds and searches the graph of this project.
fn own(arguments: &Arguments, flat: FlatIndex, queries: &[f32], truth: &[Vec<Scored>]) -> Result<Value> {
    let (n, dim) = (flat.len(), flat.dim());
    let chunks: Vec<ChunkId> = (0..n.div_ceil(64) as u64).map(ChunkId).collect();
    let build = BuildParams { m: arguments.m, ef_construction: arguments.ef_construction };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build()?;
    let start = Instant::now();
    let built = pool.install(|| build_graph(flat, &chunks, None, build, &AtomicBool::new(false)))?;
    let graph = built.context("building was stopped")?;
    let seconds = start.elapsed().as_secs_f64();
    let mut rows = Vec::new();
    let mut ef = 64_usize;
    while ef <= 4096 {
        let params = SearchParams { top_k: K, ef, live: None };
        let row = measure(&graph, queries, truth, |query| graph.search(query, &params));
        let recall = row["recall"].as_f64().unwrap_or(0.0);
        rows.push(with_ef(row, ef));
        if recall >= GOAL {
            break;
        }
        ef = ((ef as f64 * std::f64::consts::SQRT_2 / 8.0).round() * 8.0) as usize;
    }
    let params = SearchParams { top_k: K, ef: K, live: None };
    let few = &queries[..queries.len().min(100 * dim)];
    let scan = measure(&graph, few, truth, |query| graph.search_exact(0..u32::MAX, query, &params));
    Ok(json!({
        "name": "mnemon", "build_seconds": seconds, "bytes_per_entry": graph.bytes() as f64 / n as f64,
        "rows": rows, "scan": scan,
    }))
}

fn with_ef(mut row: Value, ef: usize) -> Value {
    row["ef"] = ef.into();
    row
}

fn measure(
    graph: &GraphIndex,
    queries: &[f32],
    truth: &[Vec<Scored>],
    search: impl Fn(&[f32]) -> Vec<Vec<Scored>>,
) -> Value {
    let (mut times, mut found, mut wanted) = (Vec::new(), 0, 0);
    for (query, truth) in queries.chunks_exact(graph.dim()).zip(truth) {
        let start = Instant::now();
        let lists = search(query);
        times.push(start.elapsed().as_secs_f64() * 1e6);
        let got: HashSet<u32> = lists.iter().flatten().map(|scored| scored.entry).collect();
        found += truth.iter().filter(|scored| got.contains(&scored.entry)).count();
        wanted += truth.len();
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    json!({"recall": found as f64 / wanted as f64, "p50_us": at(0.5), "p99_us": at(0.99)})
}

fn peers(arguments: &Arguments, folder: &Path, names: &[&str]) -> Result<Vec<Value>> {
    let mut child = Command::new(&arguments.python)
        .arg(folder.join("index.py"))
        .arg(folder)
        .args([arguments.m, arguments.ef_construction, arguments.threads].map(|number| number.to_string()))
        .args(names)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be run; name a Python with --python", arguments.python.display()))?;
    let mut rows = Vec::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            rows.push(serde_json::from_str(&line).with_context(|| format!("a peer answered {line:?}"))?);
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} ended with {status}; it needs numpy", arguments.python.display());
    }
    Ok(rows)
}

fn print(rows: &[Value]) {
    println!("  index         build s   bytes/entry      ef   recall@32    p50 us    p99 us");
    for row in rows {
        let name = row["name"].as_str().unwrap_or_default();
        if let Some(why) = row["missing"].as_str() {
            println!("  {name:<12}  not measured: {why}");
            continue;
        }
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let last = row["rows"].as_array().and_then(|rows| rows.last()).unwrap_or(&Value::Null);
        println!(
            "  {name:<12}  {:>7.1}   {:>11.0}   {:>5}   {:>9.4}   {:>7.0}   {:>7.0}",
            number(&row["build_seconds"]),
            number(&row["bytes_per_entry"]),
            last["ef"],
            number(&last["recall"]),
            number(&last["p50_us"]),
            number(&last["p99_us"]),
        );
        if row["scan"].is_object() {
            let scan = &row["scan"];
            println!(
                "  {:<12}  {:>7}   {:>11}   {:>5}   {:>9.4}   {:>7.0}   {:>7.0}",
                "  scan",
                "",
                "",
                "",
                number(&scan["recall"]),
                number(&scan["p50_us"]),
                number(&scan["p99_us"]),
            );
        }
    }
}
