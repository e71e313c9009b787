//! Evidence found in long conversations of people with an assistant (BEAM, github mohammadtavakoli78/BEAM): search through the
//! service beside plain BM25 and sentence embeddings over the same chunks.
//!
//! Each conversation is one document, `User: ...` and `Assistant: ...` in turn. A question names the messages that hold its evidence;
//! what counts is the share of them that overlap with one of the first k passages. Questions without evidence are left out. Service
//! rows are passages of one or two chunks; `bm25=` is BM25 over chunks with as many bytes as the row `search`.
//!
//! | file | idea |
//! |---|---|
//! | `beam.rs` | the conversations and their questions |
//! | `found.rs` | shares of evidence, with intervals over conversations |

mod beam;
mod found;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use mnemon_client::v1;
use mnemon_encoder::Embedder;
use serde_json::json;

use self::beam::{Conversation, Probe};
use self::found::{Found, KS, mean, table};
use crate::answering::{Library, Source, Span, fuse};
use crate::host::{Host, HostArguments};
use crate::plot::{Line, Plot};
use crate::report::Output;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Conversations: one JSON object a line, with `messages` and `probes`.
    #[arg(long, value_name = "FILE.jsonl")]
    chats: PathBuf,
    /// Conversations to measure.
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    count: usize,
    /// Conversations to pass over.
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Ways to search.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "search,words,keys,meaning,bm25,bm25=,minilm,bm25+minilm"
    )]
    rows: Vec<Row>,
    /// Folder of a BERT model for sentence embeddings, such as all-MiniLM-L6-v2; without it the rows that need it are left out.
    #[arg(long, value_name = "DIR")]
    embedder: Option<PathBuf>,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Row {
    /// The service's search.
    Search,
    /// The service's search by words.
    Words,
    /// The service's search by keys.
    Keys,
    /// The service's search by sentence embeddings.
    Meaning,
    /// BM25 over chunks.
    Bm25,
    /// BM25 over chunks, with as many bytes as the row `search`.
    #[value(name = "bm25=")]
    Bm25SameBytes,
    /// Sentence embeddings of chunks.
    Minilm,
    /// Both by their ranks.
    #[value(name = "bm25+minilm")]
    Fused,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Words => "words",
            Self::Keys => "keys",
            Self::Meaning => "meaning",
            Self::Bm25 => "bm25",
            Self::Bm25SameBytes => "bm25=",
            Self::Minilm => "minilm",
            Self::Fused => "bm25+minilm",
        }
    }

    fn needs_embedder(self) -> bool {
        matches!(self, Self::Meaning | Self::Minilm | Self::Fused)
    }

    fn by(self) -> Option<v1::SearchBy> {
        match self {
            Self::Search => Some(v1::SearchBy::Both),
            Self::Words => Some(v1::SearchBy::Words),
            Self::Keys => Some(v1::SearchBy::Keys),
            Self::Meaning => Some(v1::SearchBy::Meaning),
            _ => None,
        }
    }
}

const MEMORY: &str = "chat";
const DOCUMENT: &str = "conversation";
/// Passages of an answer.
const PASSAGES: usize = KS[KS.len() - 1];

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let chats = beam::read(&arguments.chats)?;
    let chosen: Vec<(usize, Conversation)> =
        chats.into_iter().enumerate().skip(arguments.first).take(arguments.count).collect();
    ensure!(!chosen.is_empty(), "{} has no conversation {}", arguments.chats.display(), arguments.first);
    let embedder = arguments.embedder.as_deref().map(Embedder::read).transpose()?;
    let rows: Vec<Row> =
        arguments.rows.iter().copied().filter(|row| embedder.is_some() || !row.needs_embedder()).collect();
    let host = Host::start_with_embedder(&arguments.host, arguments.embedder.as_deref()).await?;
    let model = host.client.model().await?;
    let (mut found, mut plan) = (Found::default(), Vec::new());
    for (number, chat) in &chosen {
        let tokens = one_chat(&host, &rows, embedder.as_ref(), *number, chat, &mut found).await?;
        plan.push(json!({"conversation": number, "tokens": tokens, "probes": chat.probes.len()}));
        println!("conversation {number}: {tokens} tokens");
        let names: Vec<&str> = rows.iter().map(|row| row.name()).collect();
        let results = json!({"plan": plan, "rows": found.to_json(&names)});
        arguments.output.write("chat", &model, &results, &plot(&found, &names))?;
    }
    println!("{}", table(&found, &rows.iter().map(|row| row.name()).collect::<Vec<_>>()));
    for row in arguments.rows.iter().filter(|row| !rows.contains(row)) {
        println!("{} was left out: name a model with --embedder", row.name());
    }
    host.stop().await
}

/// Reads a conversation, and asks its questions in every way. Returns its tokens.
async fn one_chat(
    host: &Host,
    rows: &[Row],
    embedder: Option<&Embedder>,
    number: usize,
    chat: &Conversation,
    found: &mut Found,
) -> Result<u64> {
    host.client.create_memory(MEMORY, "of mnemon bench").await?;
    let tokens = host.read(MEMORY, DOCUMENT, &chat.text).await?;
    let sources = [Source { id: DOCUMENT.into(), date: None }];
    if embedder.is_some() {
        wait_for_embeddings(host).await?;
    }
    let embeds = embedder.filter(|_| rows.iter().any(|row| matches!(row, Row::Minilm | Row::Fused)));
    let library = Library::read(&host.client, MEMORY, &sources, embeds, Library::default()).await?;
    for probe in chat.probes.iter().filter(|probe| !probe.evidence.is_empty()) {
        let mut bytes_of_search = 0;
        for &row in rows {
            let begun = Instant::now();
            let spans = if let Some(by) = row.by() {
                through_service(host, probe, by).await?
            } else {
                let mut ranked = rank(&library, embeds, row, &probe.question)?;
                ranked.truncate(if row == Row::Bm25SameBytes { usize::MAX } else { PASSAGES });
                library.spans(&ranked)
            };
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            let evidence: Vec<Span> = probe
                .evidence
                .iter()
                .filter_map(|message| chat.messages.get(message))
                .map(|bytes| Span { document_id: DOCUMENT.into(), bytes: bytes.clone() })
                .collect();
            let shares = if row == Row::Bm25SameBytes {
                found::shares_within(&evidence, &spans, bytes_of_search)
            } else {
                found::shares(&evidence, &spans)
            };
            let bytes = mean(spans.iter().take(PASSAGES).map(|span| (span.bytes.end - span.bytes.start) as f64));
            if row == Row::Search {
                bytes_of_search = bytes as u64;
            }
            found.add(row.name(), number, &probe.category, shares, ms, bytes);
        }
    }
    host.client.delete_memory(MEMORY).await?;
    Ok(tokens)
}

async fn wait_for_embeddings(host: &Host) -> Result<()> {
    loop {
        let memory = host.client.get_memory(MEMORY).await?;
        if memory.embedded_chunks.is_none_or(|embedded| embedded >= memory.chunks) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

async fn through_service(host: &Host, probe: &Probe, by: v1::SearchBy) -> Result<Vec<Span>> {
    let request = v1::SearchRequest {
        memories: vec![MEMORY.into()],
        query: probe.question.clone(),
        k: Some(PASSAGES as u32),
        by: by.into(),
        ..Default::default()
    };
    let hits = host.client.search_with(request).await?;
    Ok(hits.iter().filter_map(|hit| hit.chunk.as_ref()).map(Span::of).collect())
}

fn rank(library: &Library, embedder: Option<&Embedder>, row: Row, question: &str) -> Result<Vec<usize>> {
    let words = library.by_words(question);
    let meaning = embedder.map_or_else(|| Ok(Vec::new()), |embedder| library.by_meaning(embedder, question));
    Ok(match row {
        Row::Minilm => meaning?,
        Row::Fused => fuse(&[&words, &meaning?]),
        _ => words,
    })
}

fn plot(found: &Found, rows: &[&str]) -> String {
    let line = |row: &&str| Line {
        label: (*row).to_owned(),
        points: KS.iter().enumerate().map(|(at, &k)| (k as u64, found.percent(row, at))).collect(),
        faint: false,
    };
    Plot {
        title: "Evidence found in conversations (BEAM 100K)",
        x: "passages",
        y: "% of the evidence",
        lines: rows.iter().map(line).collect(),
        y_range: None,
    }
    .svg()
}
