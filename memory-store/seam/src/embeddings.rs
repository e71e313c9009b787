//! Sentence embeddings of chunks, as an embedder hands them over.

/// Values of a vector at most.
pub const EMBEDDING_DIM_MAX: usize = 4096;

/// Vectors of consecutive chunks, each of length 1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// Values of a vector, 1 to [`EMBEDDING_DIM_MAX`].
    pub dim: usize,
    /// Of each chunk as a whole, `[chunks, dim]`.
    pub chunks: Vec<f32>,
    /// Of sentences, `[sentences, dim]`.
    pub sentences: Vec<f32>,
    /// For each sentence the chunk that most of it stands in, ascending.
    pub chunk_of_sentence: Vec<u32>,
}
