//! Passages that searches find: through the service, and by BM25 and sentence embeddings over the same chunks.

mod found;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use mnemon_client::v1;
use mnemon_encoder::Embedder;

pub(crate) use self::found::{Found, KS, table};
use crate::answering::{Library, Source, Span};
use crate::host::{Host, HostArguments, Shape};

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
    fn embeds_here(self) -> bool {
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

/// What is asked of a memory.
pub(crate) struct Question<'a> {
    pub(crate) text: &'a str,
    pub(crate) evidence: &'a [Span],
    /// Questions of one group are resampled together.
    pub(crate) group: usize,
    pub(crate) category: &'a str,
}

/// The service that is searched, and what the bench itself compares embeddings with.
#[derive(Debug, clap::Args)]
pub(crate) struct SearcherArguments {
    /// Folder of a BERT model for sentence embeddings, such as all-MiniLM-L6-v2; without it the rows that need it are left out.
    #[arg(long, value_name = "DIR")]
    embedder: Option<PathBuf>,
    #[command(flatten)]
    host: HostArguments,
}

/// A running service and the ways to search it.
pub(crate) struct Searcher {
    pub(crate) host: Host,
    rows: Vec<Row>,
    embedder: Option<Embedder>,
}

/// A memory of the service, and its chunks.
pub(crate) struct Searched<'a> {
    searcher: &'a Searcher,
    memory: &'a str,
    library: Library,
}

impl Searcher {
    /// Starts the service. Rows that cannot be measured are named and left out.
    ///
    /// # Errors
    /// If the service cannot be started, or the embedder cannot be read.
    pub(crate) async fn start(arguments: &SearcherArguments, rows: &[Row]) -> Result<Self> {
        let embedder = arguments.embedder.as_deref().map(Embedder::read).transpose()?;
        let (rows, others): (Vec<Row>, Vec<Row>) =
            rows.iter().partition(|row| embedder.is_some() || !row.needs_embedder());
        for row in others {
            println!("{} is left out: name a model with --embedder", row.name());
        }
        let host = Host::start_with_embedder(&arguments.host, &Shape::default(), arguments.embedder.as_deref()).await?;
        Ok(Self { host, rows, embedder })
    }

    pub(crate) fn row_names(&self) -> Vec<&'static str> {
        self.rows.iter().map(|row| row.name()).collect()
    }

    /// The documents of a memory, once the service has embedded them.
    ///
    /// # Errors
    /// If a request or the embedder fails.
    pub(crate) async fn read<'a>(&'a self, memory: &'a str, sources: &[Source]) -> Result<Searched<'a>> {
        self.host.wait_for_embeddings(memory).await?;
        let embedder = self.embedder.as_ref().filter(|_| self.rows.iter().any(|row| row.embeds_here()));
        let library = Library::read(&self.host.client, memory, sources, embedder, Library::default()).await?;
        Ok(Searched { searcher: self, memory, library })
    }
}

impl Searched<'_> {
    /// Searches in every way.
    ///
    /// # Errors
    /// If a request or the embedder fails.
    pub(crate) async fn ask(&self, question: &Question<'_>, found: &mut Found) -> Result<()> {
        let mut bytes_of_search = 0;
        for &row in &self.searcher.rows {
            let begun = Instant::now();
            let spans = if let Some(by) = row.by() {
                self.through_service(question.text, by).await?
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

    async fn through_service(&self, question: &str, by: v1::SearchBy) -> Result<Vec<Span>> {
        let request = v1::SearchRequest {
            memories: vec![self.memory.into()],
            query: question.to_owned(),
            k: Some(PASSAGES as u32),
            by: by.into(),
            ..Default::default()
        };
        let hits = self.searcher.host.client.search_with(request).await?;
        Ok(hits.iter().filter_map(|hit| hit.chunk.as_ref()).map(Span::of).collect())
    }

    fn rank(&self, row: Row, question: &str) -> Result<Vec<usize>> {
        let embedder = || self.searcher.embedder.as_ref().context("no --embedder");
        match row {
            Row::Minilm => self.library.by_meaning(embedder()?, question),
            Row::Fused => self.library.by_both(embedder()?, question),
            _ => Ok(self.library.by_words(question)),
        }
    }
}
