//! Ways to answer, each a row of the tables.

use mnemon_client::v1;

/// A way to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Row {
    /// Memory: stored keys and values stand before the model.
    Attend,
    /// Memory: the model reads the passages again.
    Reread,
    /// Memory: the server chooses.
    Auto,
    /// Memory: passages chosen by heads and words.
    Heads,
    /// Memory: passages chosen by a search, with embeddings.
    Search,
    /// Memory: passages chosen by heads and words, or by a search where these find nothing.
    Both,
    /// The best chunks by BM25 in the prompt.
    Bm25,
    /// The best chunks by BM25 with their neighbours in the prompt.
    #[value(name = "bm25+neighbours")]
    Bm25Neighbours,
    /// The best chunks by sentence embeddings, with their neighbours, in the prompt.
    Minilm,
    /// As before, by both ranks together.
    Fused,
    /// The chunks that hold the evidence, with their neighbours, in the prompt.
    Oracle,
    /// The whole haystack in the prompt.
    Full,
    /// The question alone.
    Nothing,
}

impl Row {
    pub(crate) const ALL: [Self; 13] = [
        Self::Attend,
        Self::Reread,
        Self::Auto,
        Self::Heads,
        Self::Search,
        Self::Both,
        Self::Bm25,
        Self::Bm25Neighbours,
        Self::Minilm,
        Self::Fused,
        Self::Oracle,
        Self::Full,
        Self::Nothing,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Attend => "attend",
            Self::Reread => "reread",
            Self::Auto => "auto",
            Self::Heads => "heads",
            Self::Search => "search",
            Self::Both => "both",
            Self::Bm25 => "bm25",
            Self::Bm25Neighbours => "bm25+neighbours",
            Self::Minilm => "minilm",
            Self::Fused => "fused",
            Self::Oracle => "oracle",
            Self::Full => "full",
            Self::Nothing => "nothing",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|row| row.name() == name)
    }

    /// How memory is used; `None`: it is not.
    pub(crate) fn mode(self) -> Option<v1::RecallMode> {
        match self {
            Self::Attend => Some(v1::RecallMode::Attend),
            Self::Reread => Some(v1::RecallMode::Reread),
            Self::Auto | Self::Heads | Self::Search | Self::Both => Some(v1::RecallMode::Unspecified),
            _ => None,
        }
    }

    /// By what passages are chosen.
    pub(crate) fn select(self) -> v1::Select {
        match self {
            Self::Search => v1::Select::Search,
            Self::Both => v1::Select::Both,
            _ => v1::Select::Heads,
        }
    }

    /// Whether passages stand in the prompt.
    pub(crate) fn is_prompt(self) -> bool {
        self.mode().is_none() && self != Self::Nothing
    }

    pub(crate) fn needs_embedder(self) -> bool {
        self.embeds_here() || self.searches()
    }

    /// Whether chunks are embedded by the bench.
    pub(crate) fn embeds_here(self) -> bool {
        matches!(self, Self::Minilm | Self::Fused)
    }

    /// Whether the service searches what it has embedded.
    pub(crate) fn searches(self) -> bool {
        matches!(self, Self::Search | Self::Both)
    }
}
