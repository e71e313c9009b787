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
//! | `answers.rs` | short answers to some of them |

pub(crate) mod answers;
mod beam;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use self::beam::Conversation;
use crate::answering::{Source, Span};
use crate::plot::{Line, Plot};
use crate::report::Output;
use crate::retrieval::{Found, KS, Question, Row, Searcher, SearcherArguments, table};

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
    #[command(flatten)]
    searcher: SearcherArguments,
    #[command(flatten)]
    output: Output,
}

const MEMORY: &str = "chat";
const DOCUMENT: &str = "conversation";

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let chats = beam::read(&arguments.chats)?;
    let chosen: Vec<(usize, Conversation)> =
        chats.into_iter().enumerate().skip(arguments.first).take(arguments.count).collect();
    ensure!(!chosen.is_empty(), "{} has no conversation {}", arguments.chats.display(), arguments.first);
    let searcher = Searcher::start(&arguments.searcher, &arguments.rows).await?;
    let model = searcher.host.client.model().await?;
    let names = searcher.row_names();
    let (mut found, mut plan) = (Found::default(), Vec::new());
    for (number, chat) in &chosen {
        let tokens = one_chat(&searcher, *number, chat, &mut found).await?;
        plan.push(json!({"conversation": number, "tokens": tokens, "probes": chat.probes.len()}));
        println!("conversation {number}: {tokens} tokens");
        let results = json!({"plan": plan, "rows": found.to_json(&names)});
        arguments.output.write("chat", &model, &results, &plot(&found, &names))?;
    }
    println!("{}", table(&found, &names, [5, 10]));
    searcher.host.stop().await
}

/// Reads a conversation, and asks its questions in every way. Returns its tokens.
async fn one_chat(searcher: &Searcher, number: usize, chat: &Conversation, found: &mut Found) -> Result<u64> {
    let host = &searcher.host;
    host.client.create_memory(MEMORY, "of mnemon bench").await?;
    let tokens = host.read(MEMORY, DOCUMENT, &chat.text).await?;
    let searched = searcher.read(MEMORY, &[Source { id: DOCUMENT.into(), date: None }]).await?;
    for probe in chat.probes.iter().filter(|probe| !probe.evidence.is_empty()) {
        let evidence: Vec<Span> = probe
            .evidence
            .iter()
            .filter_map(|message| chat.messages.get(message))
            .map(|bytes| Span { document_id: DOCUMENT.into(), bytes: bytes.clone() })
            .collect();
        let question =
            Question { text: &probe.question, evidence: &evidence, group: number, category: &probe.category };
        searched.ask(&question, found).await?;
    }
    host.client.delete_memory(MEMORY).await?;
    Ok(tokens)
}

fn plot(found: &Found, rows: &[&str]) -> String {
    let line = |row: &&str| Line {
        label: (*row).to_owned(),
        points: KS.iter().map(|&k| (k as u64, found.percent(row, k))).collect(),
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
