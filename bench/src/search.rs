//! Search through the service over one long text: whether passages of it find themselves, and how long each way of searching takes.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use mnemon_client::v1;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};

use crate::grammar::draw;
use crate::host::{Host, HostArguments};
use crate::recall::median;
use crate::report::Output;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// UTF-8 text to read.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Passages asked for.
    #[arg(long, default_value_t = 200)]
    passages: usize,
    /// Characters of each.
    #[arg(long, default_value_t = 240)]
    characters: usize,
    /// Seed of their places.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    output: Output,
}

const MEMORY: &str = "search";
const DOCUMENT: &str = "text";
const WAYS: [(&str, v1::SearchBy); 3] =
    [("words", v1::SearchBy::Words), ("keys", v1::SearchBy::Keys), ("both", v1::SearchBy::Both)];

/// One way to search.
#[derive(Debug, Default)]
struct Way {
    /// Passages whose first hit overlaps with them by half at least.
    first: usize,
    ms: Vec<f64>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read_to_string(&arguments.text)
        .with_context(|| format!("{} cannot be read", arguments.text.display()))?;
    let passages = passages(&text, arguments);
    ensure!(!passages.is_empty(), "{} is shorter than a passage", arguments.text.display());
    let host = Host::start(&arguments.host).await?;
    let model = host.client.model().await?;
    host.client.create_memory(MEMORY, "of mnemon bench").await?;
    let tokens = host.read(MEMORY, DOCUMENT, &text).await?;
    wait_for_graphs(&host).await?;
    let mut ways: Vec<Way> = WAYS.iter().map(|_| Way::default()).collect();
    // The first searches read indexes.
    for pass in 0..2 {
        for &(at, passage) in &passages[..if pass == 0 { passages.len().min(4) } else { passages.len() }] {
            for (way, (_, by)) in ways.iter_mut().zip(WAYS) {
                let begun = Instant::now();
                let hits = search(&host, passage, by).await?;
                if pass == 1 {
                    way.ms.push(begun.elapsed().as_secs_f64() * 1e3);
                    way.first += usize::from(hits.first().is_some_and(|hit| is_at(hit, at, passage.len())));
                }
            }
        }
    }
    let memory = host.client.get_memory(MEMORY).await?;
    let word_bytes = memory.word_bytes as f64 / tokens.max(1) as f64;
    println!("{tokens} tokens, {} passages; index of words: {word_bytes:.2} bytes a token", passages.len());
    for (way, (name, _)) in ways.iter().zip(WAYS) {
        println!("{name:<6} first {:>4} of {}, p50 {:>7.2} ms", way.first, passages.len(), median(&way.ms));
    }
    let rows: Vec<Value> = ways
        .iter()
        .zip(WAYS)
        .map(|(way, (name, _))| json!({"way": name, "first": way.first, "p50_ms": median(&way.ms)}))
        .collect();
    let results = json!({
        "tokens": tokens,
        "passages": passages.len(),
        "characters": arguments.characters,
        "word_bytes_per_token": word_bytes,
        "ways": rows,
    });
    arguments.output.write_json("search", &json!({"model": model.name, "results": results}))?;
    host.client.delete_memory(MEMORY).await?;
    host.stop().await
}

async fn search(host: &Host, query: &str, by: v1::SearchBy) -> Result<Vec<v1::SearchHit>> {
    let request = v1::SearchRequest {
        memories: vec![MEMORY.into()],
        query: query.to_owned(),
        by: by.into(),
        ..Default::default()
    };
    Ok(host.client.search_with(request).await?)
}

/// Until all but a tail is in graphs, so that times are those of a memory at rest.
async fn wait_for_graphs(host: &Host) -> Result<()> {
    let mut before = u64::MAX;
    loop {
        let memory = host.client.get_memory(MEMORY).await?;
        if memory.unsealed_entries == before || memory.unsealed_entries == 0 {
            return Ok(());
        }
        before = memory.unsealed_entries;
        tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    }
}

/// Whether a passage found holds at least half of `len` bytes from `at` on.
fn is_at(hit: &v1::SearchHit, at: usize, len: usize) -> bool {
    let span = hit.chunk.as_ref().and_then(|chunk| chunk.span).unwrap_or_default();
    let shared = (at + len).min(span.byte_end as usize).saturating_sub(at.max(span.byte_start as usize));
    2 * shared >= len
}

/// Places and texts of random passages that begin and end between words.
fn passages<'t>(text: &'t str, arguments: &Arguments) -> Vec<(usize, &'t str)> {
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let mut passages = Vec::new();
    let room = text.len().saturating_sub(8 * arguments.characters);
    while room > 0 && passages.len() < arguments.passages {
        let from = draw(&mut rng, room);
        let Some(start) = text.bytes().enumerate().skip(from).find(|(_, byte)| *byte == b' ').map(|(at, _)| at + 1)
        else {
            break;
        };
        let end = text[start..].char_indices().nth(arguments.characters).map_or(text.len(), |(at, _)| start + at);
        let end = text[start..end].rfind(' ').map_or(end, |at| start + at);
        passages.push((start, &text[start..end]));
    }
    passages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hit_has_half_of_the_passage() {
        let hit = |byte_start, byte_end| v1::SearchHit {
            chunk: Some(v1::Chunk {
                span: Some(v1::SourceSpan { byte_start, byte_end, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert!(is_at(&hit(0, 60), 10, 100) && is_at(&hit(60, 200), 10, 100));
        assert!(!is_at(&hit(0, 59), 10, 100) && !is_at(&hit(200, 300), 10, 100));
    }
}
