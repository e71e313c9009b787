//! Sentence embeddings of a memory: vectors that a model of their own makes of a text, for searches by meaning.
//!
//! They are derived: a blob of embeddings belongs to one chunk blob, is named after it and the embedder, and needs no record. It is
//! written beside readers and writers, any time after the chunks, and deleted with them; a compaction joins those of the blobs that it joins.
//! Where it is missing (an embedder that was turned on later, an import, a blob of which chunks were deleted) the chunks are embedded again; searches say
//! how many chunks they looked at.

use std::sync::Arc;

use mnemon_memory::{EMBEDDING_DIM_MAX, Embeddings, Fingerprint, Invalid};

use crate::engine::extent::Extent;
use crate::error::{Error, Result};
use crate::handles::memory::Memory;
use crate::index::embeddings::EmbeddingIndex;

/// Chunks that an embedder has not embedded yet.
pub struct Unembedded {
    extent: Arc<Extent>,
    /// Their texts, in order.
    pub texts: Vec<String>,
}

impl Memory {
    /// The next chunks without vectors of `embedder`; `None` when there are none.
    pub fn unembedded(&self, embedder: &Fingerprint) -> Result<Option<Unembedded>> {
        self.memory_entry.check_alive()?;
        let state = self.memory_entry.state();
        let Some(next) = state.extents.iter().find(|extent| !extent.extent.has_embeddings(embedder)) else {
            return Ok(None);
        };
        let extent = Arc::clone(&next.extent);
        let texts = (0..extent.chunks() as usize).map(|index| Ok(extent.read_meta(self.geometry(), index)?.text));
        Ok(Some(Unembedded { texts: texts.collect::<Result<_>>()?, extent }))
    }

    /// Keeps the vectors of chunks, durably. Chunks that were deleted meanwhile leave nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for vectors of other chunks, of more values than allowed, or that are not finite.
    pub fn embed(&self, of: &Unembedded, embedder: &Fingerprint, embeddings: &Embeddings) -> Result<()> {
        self.memory_entry.check_alive()?;
        let invalid = |why: &str| Err(Error::Invalid(Invalid { what: "embeddings", why: why.to_owned() }));
        let Embeddings { dim, chunks, sentences, chunk_of_sentence } = embeddings;
        if !(1..=EMBEDDING_DIM_MAX).contains(dim) {
            return invalid("vectors have 1 to 4096 values");
        }
        let count = of.texts.len();
        if chunks.len() != count * dim || sentences.len() != chunk_of_sentence.len() * dim {
            return invalid("there must be one vector for each chunk and for each sentence");
        }
        if !chunk_of_sentence.is_sorted() || chunk_of_sentence.last().is_some_and(|last| *last as usize >= count) {
            return invalid("sentences stand in the chunks, in their order");
        }
        if !chunks.iter().chain(sentences).all(|value| value.is_finite()) {
            return invalid("a vector is not finite");
        }
        let index = EmbeddingIndex::new(embeddings);
        of.extent.write_embeddings(&self.shared.engine.storage, embedder, &index)?;
        self.memory_entry.recount();
        Ok(())
    }

    /// Chunks with vectors of `embedder`.
    pub fn embedded_chunks(&self, embedder: &Fingerprint) -> u64 {
        let state = self.memory_entry.state();
        let embedded = state.extents.iter().filter(|extent| extent.extent.has_embeddings(embedder));
        embedded.map(|extent| u64::from(extent.live)).sum()
    }
}
