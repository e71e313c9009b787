//! Searches through the running service, by one client and by many, beside Milvus: the same vectors, the same recall, the same client.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use mnemon_client::v1::append_request::Message;
use mnemon_client::{Client, ConnectOptions, v1};
use prost::Message as _;
use serde_json::{Value, json};

use crate::index::{GOAL, K, Problem, TextArguments};
use crate::load::{Load, Target, load};
use crate::report::Output;
use crate::{report, vectors};

const PEER: &str = include_str!("../peers/service.py");
const MEMORY: &str = "bench";
const CHUNK: usize = 64;
/// Chunks of one append.
const APPEND: usize = 64;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    source: TextArguments,
    /// Entries.
    #[arg(long, default_value = "250k", value_parser = report::parse_tokens)]
    entries: u64,
    /// Queries.
    #[arg(long, default_value_t = 1000)]
    queries: usize,
    /// Clients at one time.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    clients: Vec<usize>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Measurements of each server and number of clients, in turn; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Python with the peer (`pip install milvus pymilvus`); `none` for none.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// A process that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // A peer's standard input closes: it ends by itself, and so does what it started.
        if self.0.stdin.take().is_some() {
            for _ in 0..100 {
                if matches!(self.0.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, filled, and the requests for it.
struct Contender {
    name: &'static str,
    target: Target,
    about: Value,
    _process: Running,
}

/// Fills the servers, then measures them in turn.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let vectors = match arguments.source.vectors()? {
        Some(text) => text,
        None => vectors::clustered(arguments.entries as usize, arguments.queries, 64, 1),
    };
    let entries = (arguments.entries as usize).min(vectors.keys.len() / vectors.dim);
    let problem = Problem::new(&vectors, entries, arguments.queries)?;
    let folder = tempfile::tempdir()?;
    let mut contenders = vec![own(&problem, &folder.path().join("own")).await?];
    if arguments.python != Path::new("none") {
        contenders.push(milvus(arguments, &problem, folder.path())?);
    }
    println!(
        "{entries} entries of {} values, the best {K} of one query a call, recall of at least {GOAL}",
        problem.dim
    );
    for contender in &contenders {
        println!("  {:<8} {}", contender.name, contender.about);
    }
    println!("  clients   server     calls/s    p50 ms    p99 ms");
    let mut rows = Vec::new();
    for &clients in &arguments.clients {
        let mut measured: Vec<Vec<Load>> = contenders.iter().map(|_| Vec::new()).collect();
        for round in 0..=arguments.rounds {
            for (contender, measured) in contenders.iter().zip(&mut measured) {
                // The first round warms up.
                let seconds = if round == 0 { arguments.seconds.min(2.0) } else { arguments.seconds };
                let load = load(&contender.target, clients, Duration::from_secs_f64(seconds)).await?;
                if round > 0 {
                    measured.push(load);
                }
            }
        }
        let medians: Vec<Load> = measured.iter().map(|loads| median(loads)).collect();
        for (contender, load) in contenders.iter().zip(&medians) {
            let Load { calls_per_second, p50_ms, p99_ms } = load;
            println!("  {clients:>7}   {:<8} {calls_per_second:>9.0} {p50_ms:>9.2} {p99_ms:>9.2}", contender.name);
        }
        let by_name: HashMap<&str, Value> =
            contenders.iter().zip(&medians).map(|(c, load)| (c.name, load.to_json())).collect();
        let mut row = json!({"clients": clients, "servers": by_name});
        if let [own, peer] = &medians[..] {
            let (more, less) = (own.calls_per_second / peer.calls_per_second, own.p99_ms / peer.p99_ms);
            println!("            ratio      {more:>8.2}x {less:>19.2}x");
            row["throughput_ratio"] = json!(more);
            row["p99_ratio"] = json!(less);
        }
        rows.push(row);
    }
    let about: HashMap<&str, &Value> = contenders.iter().map(|contender| (contender.name, &contender.about)).collect();
    let results = json!({"k": K, "entries": entries, "dim": problem.dim, "servers": about, "loads": rows});
    arguments.output.write_json("service", &results)
}

/// Each figure's median.
fn median(loads: &[Load]) -> Load {
    let of = |figure: fn(&Load) -> f64| {
        let mut figures: Vec<f64> = loads.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Load {
        calls_per_second: of(|load| load.calls_per_second),
        p50_ms: of(|load| load.p50_ms),
        p99_ms: of(|load| load.p99_ms),
    }
}

/// `mnemon serve --store-only` with all keys in it.
async fn own(problem: &Problem<'_>, data: &Path) -> Result<Contender> {
    let mut process = Command::new(std::env::current_exe()?)
        .args(["serve", "--store-only", "--json", "--listen", "127.0.0.1:0", "--log", "warn", "--data"])
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("the server cannot be started")?;
    let output = process.stdout.take().context("the server has no output")?;
    let process = Running(process);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let told: Value = serde_json::from_str(&line).with_context(|| format!("the server said {line:?}"))?;
    let endpoint = told["listening"].as_str().context("the server did not say where it listens")?.to_owned();
    let client = Client::connect(ConnectOptions { endpoint: endpoint.clone(), ..ConnectOptions::default() }).await?;

    let start = Instant::now();
    let (fill_seconds, ids) = fill(&client, problem).await?;
    let unsealed = loop {
        // What is left unsealed is less than a segment.
        let unsealed = client.get_memory(MEMORY).await?.unsealed_entries;
        if unsealed < 65_536 {
            break unsealed;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let build_seconds = start.elapsed().as_secs_f64();
    let mut ef = 64_u32;
    let (recall, requests) = loop {
        let requests = requests(problem, ef);
        let recall = recall(&client, problem, &requests, &ids).await?;
        if recall >= GOAL || ef >= 4096 {
            break (recall, requests);
        }
        ef = ((f64::from(ef) * std::f64::consts::SQRT_2 / 8.0).round() * 8.0) as u32;
    };
    let bytes = requests.iter().map(|request| Bytes::from(request.encode_to_vec())).collect();
    let path = http::uri::PathAndQuery::from_static("/mnemon.v1.ChunkStore/SearchEntries");
    let about = json!({
        "ef": ef, "recall": recall, "fill_seconds": fill_seconds, "build_seconds": build_seconds, "unsealed_entries": unsealed,
    });
    let target = Target { endpoint, path, requests: Arc::new(bytes) };
    Ok(Contender { name: "mnemon", target, about, _process: process })
}

/// Appends all keys; returns the seconds that it took, and the ordinal of each chunk by its identifier.
async fn fill(client: &Client, problem: &Problem<'_>) -> Result<(f64, HashMap<u64, usize>)> {
    let geometry = v1::Geometry {
        layers: vec![0],
        kv_heads: 1,
        head_dim: problem.dim as u32,
        dtype: "f32".into(),
        chunk_tokens: CHUNK as u32,
        entry_policy: "per_token".into(),
        key_heads: Vec::new(),
    };
    let fingerprint = "0".repeat(64);
    let spec = v1::MemorySpec { fingerprint: fingerprint.clone(), geometry: Some(geometry), model: "bench".into() };
    let create = v1::CreateMemoryRequest { name: MEMORY.into(), spec: Some(spec), ..Default::default() };
    client.memory_service().create_memory(create).await?;
    let start = Instant::now();
    let mut state = v1::DocumentState::default();
    let rows: Vec<&[f32]> = problem.keys.chunks(CHUNK * problem.dim).collect();
    for (at, rows) in rows.chunks(APPEND).enumerate() {
        let mut messages = vec![Message::Start(v1::AppendStart {
            memory: MEMORY.into(),
            document_id: "keys".into(),
            fingerprint: fingerprint.clone(),
            after_sequence: state.sequence,
            keep_chunks: state.chunks,
            ..Default::default()
        })];
        messages.extend(rows.iter().enumerate().map(|(index, row)| chunk(at * APPEND + index, row, problem.dim)));
        messages.push(Message::Commit(v1::AppendCommit::default()));
        let messages: Vec<_> =
            messages.into_iter().map(|message| v1::AppendRequest { message: Some(message) }).collect();
        let answer = client.chunk_store().append(tokio_stream::iter(messages)).await?.into_inner();
        state = answer.state.context("an append was answered without a state")?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut ids = HashMap::new();
    while ids.len() < rows.len() {
        let request = v1::ReadDocumentRequest {
            memory: MEMORY.into(),
            document_id: "keys".into(),
            from_ordinal: ids.len() as u64,
            limit: 1000,
        };
        let page = client.chunk_store().read_document(request).await?.into_inner().chunks;
        if page.is_empty() {
            bail!("the document has {} chunks, not {}", ids.len(), rows.len());
        }
        for text in page {
            let ordinal = ids.len();
            ids.insert(text.chunk.unwrap_or_default().chunk_id, ordinal);
        }
    }
    Ok((seconds, ids))
}

fn chunk(ordinal: usize, row: &[f32], dim: usize) -> Message {
    let (tokens, at) = ((row.len() / dim) as u64, (ordinal * CHUNK) as u64);
    let keys: Bytes = row.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
    Message::Chunk(v1::KvChunk {
        span: Some(v1::SourceSpan { byte_start: at, byte_end: at + tokens, token_start: at, token_end: at + tokens }),
        tokens: vec![0; tokens as usize],
        text: "x".repeat(tokens as usize),
        keys: vec![keys.clone()],
        values: vec![keys],
        ..Default::default()
    })
}

fn requests(problem: &Problem<'_>, ef: u32) -> Vec<v1::SearchEntriesRequest> {
    let queries = problem.queries.chunks_exact(problem.dim);
    let request = |query: &[f32]| v1::SearchEntriesRequest {
        memories: vec![MEMORY.into()],
        search: Some(v1::EntryQuery {
            n_heads: 1,
            queries: query.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into(),
            top_k: K as u32,
            ef_search: Some(ef),
            ..Default::default()
        }),
    };
    queries.map(request).collect()
}

async fn recall(
    client: &Client,
    problem: &Problem<'_>,
    requests: &[v1::SearchEntriesRequest],
    ids: &HashMap<u64, usize>,
) -> Result<f64> {
    let (mut found, mut wanted) = (0, 0);
    for (request, truth) in requests.iter().zip(&problem.truth) {
        let hits = client.chunk_store().search_entries(request.clone()).await?.into_inner();
        let entry = |(chunk, start): (&u64, &u32)| Some((ids.get(chunk)? * CHUNK) as u32 + start);
        let got: HashSet<u32> = hits.chunk_ids.iter().zip(&hits.starts).filter_map(entry).collect();
        found += truth.iter().filter(|scored| got.contains(&scored.entry)).count();
        wanted += truth.len();
    }
    Ok(found as f64 / wanted.max(1) as f64)
}

/// Milvus standalone with all keys in it.
fn milvus(arguments: &Arguments, problem: &Problem<'_>, folder: &Path) -> Result<Contender> {
    problem.write(folder)?;
    std::fs::write(folder.join("service.py"), PEER)?;
    let options = mnemon_memory_store::StoreOptions::default();
    let mut process = Command::new(&arguments.python)
        .arg(folder.join("service.py"))
        .arg(folder)
        .args([options.m, options.ef_construction, K].map(|number| number.to_string()))
        .arg(GOAL.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be run; name a Python with --python", arguments.python.display()))?;
    let output = process.stdout.take().context("the peer has no output")?;
    let process = Running(process);
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let about: Value = serde_json::from_str(&line)
        .with_context(|| format!("the peer said {line:?}; it needs `pip install milvus pymilvus`"))?;
    let endpoint = format!("http://127.0.0.1:{}", about["port"]);
    let file = std::fs::read(folder.join("requests.bin"))?;
    let (mut rest, mut requests) = (&file[..], Vec::new());
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (request, after) =
            after.split_at_checked(u32::from_le_bytes(*len) as usize).context("the peer's requests are cut")?;
        requests.push(Bytes::copy_from_slice(request));
        rest = after;
    }
    let path = http::uri::PathAndQuery::from_static("/milvus.proto.milvus.MilvusService/Search");
    let target = Target { endpoint, path, requests: Arc::new(requests) };
    Ok(Contender { name: "milvus", target, about, _process: process })
}
