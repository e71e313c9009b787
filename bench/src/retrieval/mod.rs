//! Passages that searches find: through the service, and by BM25 and sentence embeddings over the same chunks.

mod found;

use std::time::{Duration, Instant};

use anyhow::Result;
use mnemon_client::v1;
use mnemon_encoder::Embedder;

pub(crate) use self::found::{Found, KS, table};
use crate::answering::{Library, Span, fuse};
use crate::host::Host;

/// Passages of a search.
const PASSAGES: usize = KS[KS.len() - 1];

/// A way to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
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
    pub(crate) fn name(self) -> &'static str {
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

    /// Whether the bench itself compares embeddings.
    pub(crate) fn embeds_here(self) -> bool {
        matches!(self, Self::Minilm | Self::Fused)
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

/// The rows that can be measured; the others are named.
pub(crate) fn possible(rows: &[Row], has_embedder: bool) -> Vec<Row> {
    let (possible, others): (Vec<Row>, Vec<Row>) = rows.iter().partition(|row| has_embedder || !row.needs_embedder());
    for row in others {
        println!("{} is left out: name a model with --embedder", row.name());
    }
    possible
}

/// What is asked of a memory.
pub(crate) struct Question<'a> {
    pub(crate) text: &'a str,
    pub(crate) evidence: &'a [Span],
    /// Questions of one group are resampled together.
    pub(crate) group: usize,
    pub(crate) category: &'a str,
}

/// A memory that the service searches, and its chunks.
pub(crate) struct Searched<'a> {
    pub(crate) memory: &'a str,
    pub(crate) library: &'a Library,
    /// If a row compares embeddings here.
    pub(crate) embedder: Option<&'a Embedder>,
}

impl Searched<'_> {
    /// Searches in every way.
    ///
    /// # Errors
    /// If a request or the embedder fails.
    pub(crate) async fn ask(
        &self,
        host: &Host,
        rows: &[Row],
        question: &Question<'_>,
        found: &mut Found,
    ) -> Result<()> {
        let mut bytes_of_search = 0;
        for &row in rows {
            let begun = Instant::now();
            let spans = if let Some(by) = row.by() {
                self.through_service(host, question.text, by).await?
            } else {
                let mut ranked = self.rank(row, question.text)?;
                ranked.truncate(if row == Row::Bm25SameBytes { usize::MAX } else { PASSAGES });
                self.library.spans(&ranked)
            };
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            let shares = if row == Row::Bm25SameBytes {
                found::shares_within(question.evidence, &spans, bytes_of_search)
            } else {
                found::shares(question.evidence, &spans)
            };
            let bytes = found::mean(spans.iter().take(PASSAGES).map(|span| (span.bytes.end - span.bytes.start) as f64));
            if row == Row::Search {
                bytes_of_search = bytes as u64;
            }
            found.add(row.name(), question.group, question.category, shares, ms, bytes);
        }
        Ok(())
    }

    async fn through_service(&self, host: &Host, question: &str, by: v1::SearchBy) -> Result<Vec<Span>> {
        let request = v1::SearchRequest {
            memories: vec![self.memory.into()],
            query: question.to_owned(),
            k: Some(PASSAGES as u32),
            by: by.into(),
            ..Default::default()
        };
        let hits = host.client.search_with(request).await?;
        Ok(hits.iter().filter_map(|hit| hit.chunk.as_ref()).map(Span::of).collect())
    }

    fn rank(&self, row: Row, question: &str) -> Result<Vec<usize>> {
        let words = self.library.by_words(question);
        let meaning =
            self.embedder.map_or_else(|| Ok(Vec::new()), |embedder| self.library.by_meaning(embedder, question));
        Ok(match row {
            Row::Minilm => meaning?,
            Row::Fused => fuse(&[&words, &meaning?]),
            _ => words,
        })
    }
}

/// Until the service has embedded all chunks of a memory.
///
/// # Errors
/// If a request fails.
pub(crate) async fn wait_for_embeddings(host: &Host, memory: &str) -> Result<()> {
    loop {
        let memory = host.client.get_memory(memory).await?;
        if memory.embedded_chunks.is_none_or(|embedded| embedded >= memory.chunks) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
