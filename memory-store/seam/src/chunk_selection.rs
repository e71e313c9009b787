//! Which chunks a block of queries recalls.

use std::collections::HashMap;

use crate::chunk::ChunkId;
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::request::{Hit, SearchRequest};

/// How chunks are chosen by the hits of a search.
#[derive(Debug, Clone, Copy)]
pub struct ChunkSelection<'a> {
    /// Consecutive queries that share their chunks, at least 1.
    pub block_queries: usize,
    /// What turns the scores of each query head into logits, `[n_heads]`.
    pub scale: &'a [f32],
    /// Chunks wanted for each block, at least 1.
    pub top_k_chunks: usize,
}

impl ChunkSelection<'_> {
    /// Refuses a choice that does not fit the request.
    pub(crate) fn check(&self, request: &SearchRequest<'_>) -> Result<()> {
        let invalid = |why: String| Err(Error::Invalid(Invalid { what: "choice of chunks", why }));
        if self.scale.len() != request.key_heads.len() {
            return invalid(format!("{} scales for {} query heads", self.scale.len(), request.key_heads.len()));
        }
        if self.block_queries == 0 || self.top_k_chunks == 0 {
            return invalid("blocks of no queries, or no chunks wanted; at least 1 of each".into());
        }
        Ok(())
    }

    /// The chunks of each block of queries; `lists` as [`Recall::search`](crate::Recall::search) returns them.
    pub(crate) fn blocks(&self, lists: &[Vec<Hit>]) -> Vec<Vec<ChunkId>> {
        let rows = self.block_queries.saturating_mul(self.scale.len()).max(1);
        lists.chunks(rows).map(|lists| choose(lists, self.scale, self.top_k_chunks)).collect()
    }
}

/// The `wanted` chunks that get the largest share of attention, as far as the hits tell.
///
/// `lists` holds the hits of each query and head, `[n_queries * n_heads]`; `scale` turns their scores into logits,
/// `[n_heads]`. A softmax over the hits of a query and head estimates how it would divide its attention; the shares
/// are summed over queries and heads. An entry that stands for a block counts once for each of its tokens. Chunks of
/// equal share come in the order of their identifiers, so that the choice depends on nothing else.
fn choose(lists: &[Vec<Hit>], scale: &[f32], wanted: usize) -> Vec<ChunkId> {
    let mut shares: HashMap<ChunkId, f32> = HashMap::new();
    let mut logits: Vec<f32> = Vec::new();
    for (hits, scale) in lists.iter().zip(scale.iter().cycle()) {
        logits.clear();
        logits.extend(hits.iter().map(|hit| scale * hit.score + f32::from(hit.len.max(1)).ln()));
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        for (hit, logit) in hits.iter().zip(&logits) {
            *shares.entry(hit.chunk).or_default() += (logit - largest).exp() / total;
        }
    }
    let mut ranked: Vec<(ChunkId, f32)> = shares.into_iter().collect();
    ranked.sort_by(|(a, a_share), (b, b_share)| b_share.total_cmp(a_share).then(a.cmp(b)));
    ranked.truncate(wanted);
    ranked.into_iter().map(|(chunk, _)| chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(chunk: u64, score: f32, len: u16) -> Hit {
        Hit { score, chunk: ChunkId(chunk), start: 0, len }
    }

    #[test]
    fn shares_are_summed_over_heads_and_entries() {
        // Head 0 is sure of chunk 1; head 1 is torn between 2 and 3; chunk 2 has two entries there.
        let lists = [vec![hit(1, 9.0, 1), hit(4, 0.0, 1)], vec![hit(3, 1.0, 1), hit(2, 1.0, 1), hit(2, 0.9, 1)]];
        assert_eq!(choose(&lists, &[1.0, 1.0], 2), [ChunkId(1), ChunkId(2)]);
    }

    #[test]
    fn an_entry_counts_for_the_tokens_it_stands_for() {
        assert_eq!(choose(&[vec![hit(1, 1.0, 1), hit(2, 0.9, 8)]], &[1.0], 1), [ChunkId(2)]);
    }

    #[test]
    fn ties_go_by_identifier_and_nothing_gives_nothing() {
        assert_eq!(choose(&[vec![hit(2, 1.0, 1), hit(1, 1.0, 1)]], &[1.0], 1), [ChunkId(1)]);
        assert!(choose(&[vec![]], &[1.0], 3).is_empty());
    }
}
