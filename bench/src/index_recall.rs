//! Recall@32 of the graph index against exact search. A text is ingested except for its end; the model then reads the
//! end with that memory, and each search that its memory layers make is answered both ways and compared.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Hit, KvGeometry, Recall, SearchRequest, TermHits, TermRequest, WordHits, WordRequest,
};
use mnemon_memory_store::storage::{SledOptions, SledStorage};
use mnemon_memory_store::{Snapshot, Store, StoreOptions};
use mnemon_runtime::{LoadOptions, MemoryFrom, Model, ModelSource, RecallOptions, ScoreStep, Scoring};

use crate::vectors;

/// Neighbours compared.
const K: usize = 32;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// UTF-8 text.
    #[arg(long)]
    text: PathBuf,
    /// Bytes at the end of the text that are read as queries, and not ingested.
    #[arg(long, default_value_t = 8192)]
    held_out_bytes: usize,
    /// Folder for the store. Empty, or filled by an earlier measurement of the same text, which is then not read again.
    #[arg(long)]
    data: PathBuf,
    /// Breadths of the graph search to compare.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256")]
    ef: Vec<usize>,
}

/// What was seen at one breadth.
#[derive(Default)]
struct Seen {
    lists: u64,
    found: u64,
    wanted: u64,
    graph: Duration,
    exact: Duration,
    /// Searches for one token, as when text is generated: their number, and the time of both ways.
    steps: u32,
    graph_step: Duration,
    exact_step: Duration,
}

/// Compares the graph with the scan, and answers as one of the two does.
struct Compared {
    inner: Snapshot,
    ef: usize,
    answer_exactly: bool,
    seen: Mutex<Seen>,
}

impl Recall for Compared {
    fn geometry(&self) -> &KvGeometry {
        self.inner.geometry()
    }

    fn search(&self, request: &SearchRequest<'_>) -> mnemon_memory::Result<Vec<Vec<Hit>>> {
        let request = SearchRequest { top_k: K, ef: Some(self.ef), exact: false, ..*request };
        let start = Instant::now();
        let graph = self.inner.search(&request)?;
        let between = Instant::now();
        let exact = self.inner.search(&SearchRequest { exact: true, ..request })?;
        let end = Instant::now();
        let row = request.key_heads.len() * self.geometry().head_dim as usize;
        let step = SearchRequest { queries: &request.queries[..row], ..request };
        self.inner.search(&step)?;
        let graph_step = end.elapsed();
        let between_steps = Instant::now();
        self.inner.search(&SearchRequest { exact: true, ..step })?;
        let exact_step = between_steps.elapsed();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.graph += between - start;
        seen.exact += end - between;
        seen.steps += 1;
        seen.graph_step += graph_step;
        seen.exact_step += exact_step;
        for (graph, exact) in graph.iter().zip(&exact) {
            let found: HashSet<(ChunkId, u16)> = graph.iter().map(|hit| (hit.chunk, hit.start)).collect();
            seen.lists += 1;
            seen.wanted += exact.len() as u64;
            seen.found += exact.iter().filter(|hit| found.contains(&(hit.chunk, hit.start))).count() as u64;
        }
        Ok(if self.answer_exactly { exact } else { graph })
    }

    fn fetch(&self, slot: usize, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<Arc<ChunkKv>>> {
        self.inner.fetch(slot, chunks)
    }

    fn neighbours(&self, chunks: &[ChunkId], before: usize, after: usize) -> mnemon_memory::Result<Vec<Vec<ChunkId>>> {
        self.inner.neighbours(chunks, before, after)
    }

    fn search_terms(&self, request: &TermRequest<'_>) -> mnemon_memory::Result<TermHits> {
        self.inner.search_terms(request)
    }

    fn search_words(&self, request: &WordRequest<'_>) -> mnemon_memory::Result<WordHits> {
        self.inner.search_words(request)
    }

    fn describe(&self, chunks: &[ChunkId]) -> mnemon_memory::Result<Vec<ChunkInfo>> {
        self.inner.describe(chunks)
    }

    fn chunks(&self, limit: usize) -> mnemon_memory::Result<Vec<ChunkId>> {
        self.inner.chunks(limit)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

/// Ingests, seals, reads the held-out end once for each breadth, prints one JSON object.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (past, held_out) = vectors::split(&arguments.text, arguments.held_out_bytes)?;
    let model = Arc::new(Model::load(&ModelSource::Embedded, &LoadOptions::default())?);
    let storage = SledStorage::open(&arguments.data, SledOptions::default())?;
    let options = StoreOptions { seal_threads: 2, index_cache_bytes: 2 << 30, ..StoreOptions::default() };
    let store = Store::open(Arc::new(storage), options, Arc::new(|| 1_700_000_000_000))?;
    let (memory, ingest) = match store.memory("bench", "text") {
        Ok(filled) => (filled, None),
        Err(_) => vectors::ingest(&store, &model, &past).map(|(memory, time)| (memory, Some(time)))?,
    };
    let start = Instant::now();
    store.seal_all()?;
    let sealing = start.elapsed();
    eprintln!("sealed in {:.1} s", sealing.as_secs_f64());
    let unsealed = memory.unsealed_entries();
    let entries = memory.info().entries;
    eprintln!("{entries} entries, {unsealed} of them unsealed");

    let mut rows = Vec::new();
    let exactly = arguments.ef.first().map(|&ef| (ef, true));
    let mut exact_perplexity = None;
    for (ef, answer_exactly) in exactly.into_iter().chain(arguments.ef.iter().map(|&ef| (ef, false))) {
        let inner = memory.snapshot()?;
        let compared = Arc::new(Compared { inner, ef, answer_exactly, seen: Mutex::new(Seen::default()) });
        let recall: Arc<dyn Recall> = Arc::clone(&compared) as _;
        let mut scoring = Scoring::new(
            Arc::clone(&model),
            "",
            &held_out,
            MemoryFrom::Layers((recall, RecallOptions::for_model(&model))),
        )?;
        let perplexity = loop {
            if let ScoreStep::Finished { tokens, log_probability, .. } = scoring.step()? {
                break (-log_probability / tokens as f64).exp();
            }
        };
        if answer_exactly {
            exact_perplexity = Some(perplexity);
            continue;
        }
        let seen = compared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let per_list = |time: Duration| time.as_secs_f64() * 1e6 / seen.lists.max(1) as f64;
        rows.push(serde_json::json!({
            "ef": ef,
            "recall_at_32": seen.found as f64 / seen.wanted.max(1) as f64,
            "queries": seen.lists,
            "graph_us_per_query": per_list(seen.graph),
            "exact_us_per_query": per_list(seen.exact),
            "graph_us_per_step": seen.graph_step.as_secs_f64() * 1e6 / f64::from(seen.steps.max(1)),
            "exact_us_per_step": seen.exact_step.as_secs_f64() * 1e6 / f64::from(seen.steps.max(1)),
            "perplexity": perplexity,
        }));
    }
    let result = serde_json::json!({
        "measurement": "index-recall",
        "text": arguments.text.file_name().map(|name| name.to_string_lossy()),
        "entries": entries,
        "unsealed_entries": unsealed,
        "ingest_seconds": ingest.map(|time| time.as_secs_f64()),
        "sealing_seconds": ingest.map(|_| sealing.as_secs_f64()),
        "exact_perplexity": exact_perplexity,
        "rows": rows,
    });
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}
