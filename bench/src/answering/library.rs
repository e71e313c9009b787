//! The chunks of a memory, as prompts use them: ranked, with their neighbours, joined to passages.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Result, ensure};
use mnemon_client::{Client, v1};
use mnemon_encoder::Embedder;

use super::bm25::Bm25;
use super::embedder::{fuse, nearest};

/// Bytes of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) document_id: String,
    pub(crate) bytes: Range<u64>,
}

impl Span {
    /// Of a chunk.
    pub(crate) fn of(chunk: &v1::Chunk) -> Self {
        let span = chunk.span.unwrap_or_default();
        Self { document_id: chunk.document_id.clone(), bytes: span.byte_start..span.byte_end }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.document_id == other.document_id
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }

    /// Whether all bytes lie in these spans together.
    pub(crate) fn is_covered_by(&self, spans: &[Self]) -> bool {
        let mut parts: Vec<&Range<u64>> =
            spans.iter().filter(|span| self.overlaps(span)).map(|span| &span.bytes).collect();
        parts.sort_by_key(|part| part.start);
        let mut to = self.bytes.start;
        for part in parts {
            if part.start <= to {
                to = to.max(part.end);
            }
        }
        to >= self.bytes.end
    }
}

/// A document with the date that its metadata tell.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) id: String,
    pub(crate) date: Option<&'static str>,
}

/// All chunks of a memory, by document and place.
#[derive(Default)]
pub(crate) struct Library {
    chunks: Vec<v1::Chunk>,
    dates: HashMap<String, &'static str>,
    bm25: Bm25,
    /// In the order of the chunks; empty without an embedder.
    vectors: Vec<Vec<f32>>,
}

impl Library {
    /// Reads the chunks of documents from a memory, and embeds those that `before` has not.
    ///
    /// # Errors
    /// If they cannot be read or embedded.
    pub(crate) async fn read(
        client: &Client,
        memory: &str,
        sources: &[Source],
        embedder: Option<&Embedder>,
        before: Self,
    ) -> Result<Self> {
        let mut chunks = Vec::new();
        for source in sources {
            let read = client.read_document(memory, &source.id).await?;
            chunks.extend(read.into_iter().filter_map(|text| text.chunk));
        }
        let mut library = Self::of(chunks, sources);
        if let Some(embedder) = embedder {
            library.embed(embedder, before)?;
        }
        Ok(library)
    }

    fn of(chunks: Vec<v1::Chunk>, sources: &[Source]) -> Self {
        let dates = sources.iter().filter_map(|source| Some((source.id.clone(), source.date?))).collect();
        let bm25 = Bm25::new(chunks.iter().map(|chunk| chunk.text.as_str()));
        Self { chunks, dates, bm25, vectors: Vec::new() }
    }

    fn embed(&mut self, embedder: &Embedder, before: Self) -> Result<()> {
        let mut known: HashMap<String, Vec<f32>> =
            before.chunks.into_iter().map(|chunk| chunk.text).zip(before.vectors).collect();
        let new: Vec<&str> =
            self.chunks.iter().map(|c| c.text.as_str()).filter(|text| !known.contains_key(*text)).collect();
        let made = embedder.embed(&new)?;
        known.extend(new.into_iter().map(str::to_owned).zip(made));
        self.vectors = self.chunks.iter().map(|chunk| known.get(&chunk.text).cloned().unwrap_or_default()).collect();
        Ok(())
    }

    /// Checks that a document's chunks are this text.
    ///
    /// # Errors
    /// If they are not.
    pub(crate) fn check(&self, document_id: &str, text: &str) -> Result<()> {
        let of_document = self.chunks.iter().filter(|chunk| chunk.document_id == document_id);
        let stored: String = of_document.map(|chunk| chunk.text.as_str()).collect();
        ensure!(stored == text, "document {document_id} in memory holds another text; give another folder with --data");
        Ok(())
    }

    /// Best first.
    pub(crate) fn by_words(&self, question: &str) -> Vec<usize> {
        self.bm25.rank(question)
    }

    /// Best first; empty without an embedder.
    pub(crate) fn by_meaning(&self, embedder: &Embedder, question: &str) -> Result<Vec<usize>> {
        let query = embedder.embed(&[question])?.pop().unwrap_or_default();
        Ok(nearest(&query, &self.vectors))
    }

    /// By both ranks together, best first.
    pub(crate) fn by_both(&self, embedder: &Embedder, question: &str) -> Result<Vec<usize>> {
        Ok(fuse(&[&self.by_words(question), &self.by_meaning(embedder, question)?]))
    }

    /// The chunks that hold some of the evidence.
    pub(crate) fn holding(&self, evidence: &[Span]) -> Vec<usize> {
        let holds = |chunk: &v1::Chunk| evidence.iter().any(|span| span.overlaps(&Span::of(chunk)));
        (0..self.chunks.len()).filter(|&at| holds(&self.chunks[at])).collect()
    }

    /// Every chunk.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.chunks.len()).collect()
    }

    /// These chunks and so many on each side of them in the same document, in order.
    pub(crate) fn with_neighbours(&self, chosen: &[usize], neighbours: usize) -> Vec<usize> {
        let near = |&at: &usize| {
            let last = (at + neighbours).min(self.chunks.len() - 1);
            (at.saturating_sub(neighbours)..=last).filter(move |&other| self.is_same_document(at, other))
        };
        let mut wide: Vec<usize> = chosen.iter().flat_map(near).collect();
        wide.sort_unstable();
        wide.dedup();
        wide
    }

    pub(crate) fn spans(&self, chosen: &[usize]) -> Vec<Span> {
        chosen.iter().map(|&at| Span::of(&self.chunks[at])).collect()
    }

    /// Chunks in their order as passages: those that follow each other are one, with the date of its document before it; blank
    /// lines stand between passages.
    pub(crate) fn passages(&self, chosen: &[usize]) -> String {
        let follows = |a: &usize, b: &usize| a + 1 == *b && self.is_same_document(*a, *b);
        let runs = chosen.chunk_by(follows).map(|run| {
            let text: String = run.iter().map(|&at| self.chunks[at].text.as_str()).collect();
            match run.first().and_then(|&at| self.dates.get(&self.chunks[at].document_id)) {
                Some(date) => format!("[{date}] {}", text.trim()),
                None => text.trim().to_owned(),
            }
        });
        runs.collect::<Vec<_>>().join("\n\n")
    }

    fn is_same_document(&self, a: usize, b: usize) -> bool {
        self.chunks[a].document_id == self.chunks[b].document_id
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn library() -> Library {
        let mut chunks = Vec::new();
        for document in ["a", "b"] {
            for at in 0..4u64 {
                let span = Some(v1::SourceSpan { byte_start: 10 * at, byte_end: 10 * (at + 1), ..Default::default() });
                let text = format!("{document}{at} words ");
                chunks.push(v1::Chunk { document_id: document.into(), text, span, ..Default::default() });
            }
        }
        let source = |id: &str, date| Source { id: id.into(), date };
        Library::of(chunks, &[source("a", None), source("b", Some("1871-03-12"))])
    }

    fn span(document: &str, bytes: Range<u64>) -> Span {
        Span { document_id: document.into(), bytes }
    }

    #[test]
    fn neighbours_stay_within_their_document() {
        let library = library();
        assert_eq!(library.with_neighbours(&[4, 0], 1), [0, 1, 4, 5]);
        assert_eq!(library.with_neighbours(&[7, 5], 2), [4, 5, 6, 7]);
        assert_eq!(library.with_neighbours(&[3], 0), [3]);
    }

    #[test]
    fn chunks_that_follow_each_other_are_one_passage() {
        assert_eq!(library().passages(&[0, 1, 3, 4]), "a0 words a1 words\n\na3 words\n\n[1871-03-12] b0 words");
    }

    #[test]
    fn evidence_is_found_and_covered() {
        let library = library();
        let needle = span("b", 15..25);
        assert_eq!(library.holding(std::slice::from_ref(&needle)), [5, 6]);
        assert!(needle.is_covered_by(&library.spans(&[6, 5])));
        assert!(!needle.is_covered_by(&library.spans(&[5])) && !needle.is_covered_by(&library.spans(&[1, 2])));
        assert!(!span("b", 5..25).is_covered_by(&[span("b", 0..10), span("b", 20..30)]));
    }

    #[test]
    fn a_memory_with_another_text_is_refused() {
        assert!(library().check("a", "a0 words a1 words a2 words a3 words ").is_ok());
        assert!(library().check("a", "a0 words").is_err());
    }
}
