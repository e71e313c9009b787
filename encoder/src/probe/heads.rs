//! Which query heads find a fact's chunk when its question is asked.

use std::collections::HashMap;

use mnemon_memory::{ChunkId, SearchRequest};
use mnemon_runtime::{PassageAttention, QueryHead, SearchHead, SequenceState};

use super::{ProbeStage, Probed, ask};
use crate::error::Result;

/// Entries that a query looks for.
const ENTRIES: usize = 32;
/// Key heads that memories have entries for, at most: each costs bytes and time.
const KEY_HEADS_MAX: usize = 4;
/// Query heads that search, at most.
const QUERY_HEADS_MAX: usize = 5;
/// A head is taken that is at least so good as the best, by mean reciprocal rank.
const SHARE_OF_BEST: f32 = 0.75;
/// Below this, heads find less than words do, and words alone are used.
const WORTH: f32 = 0.3;
/// What words count beside heads that are worth it: enough to part equals.
const LEXICAL_WEIGHT: f32 = 0.25;

/// What was found.
pub(super) struct Found {
    pub(super) search: Vec<SearchHead>,
    pub(super) attention_weight: f32,
    pub(super) lexical_weight: f32,
}

/// Ranks all query heads of the model.
pub(super) fn find(probed: &Probed, tell: &mut dyn FnMut(ProbeStage)) -> Result<Found> {
    let config = probed.model.config();
    let all: Vec<QueryHead> = (0..config.layers as u32)
        .flat_map(|layer| (0..config.heads as u32).map(move |head| QueryHead { layer, head }))
        .collect();
    let (dim, total) = (probed.head_dim(), probed.facts.len());
    // Queries of each question, `[tokens, heads, head_dim]`.
    let mut asked: Vec<Vec<f32>> = Vec::with_capacity(total);
    for (index, fact) in probed.facts.iter().enumerate() {
        tell(ProbeStage::Asking(index, 2 * total));
        asked.push(queries(probed, &all, &fact.question)?);
    }
    let means = means(&asked, all.len() * dim);
    let mut reciprocal = vec![0.0_f32; all.len()];
    for (index, (queries, right)) in asked.iter_mut().zip(&probed.right).enumerate() {
        tell(ProbeStage::Asking(total + index, 2 * total));
        for token in queries.chunks_exact_mut(means.len()) {
            token.iter_mut().zip(&means).for_each(|(value, mean)| *value -= mean);
        }
        for (sum, rank) in reciprocal.iter_mut().zip(ranks(probed, &all, queries, right)?) {
            *sum += rank / total as f32;
        }
    }
    tell(ProbeStage::Asking(2 * total, 2 * total));
    Ok(choose(&all, &reciprocal, &means, dim, probed.group()))
}

/// Queries of all heads for the tokens that ask.
fn queries(probed: &Probed, heads: &[QueryHead], question: &str) -> Result<Vec<f32>> {
    let model = &probed.model;
    let prompt = ask(model, question, true)?;
    let mut attention =
        PassageAttention::new(model, prompt.before.len(), prompt.len().max(1), &[], heads, prompt.len());
    let mut state = SequenceState::new(model);
    let layers = model.config().layers;
    if !prompt.before.is_empty() {
        model.look(&prompt.before, &mut state, &mut attention, layers)?;
        attention.take_queries();
    }
    let end = prompt.question.end;
    model.look(&prompt.after[..end], &mut state, &mut attention, layers)?;
    let row = heads.len() * probed.head_dim();
    Ok(attention.take_queries().split_off(prompt.question.start * row))
}

fn means(asked: &[Vec<f32>], row: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; row];
    let mut tokens = 0_usize;
    for token in asked.iter().flat_map(|queries| queries.chunks_exact(row)) {
        tokens += 1;
        sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums.into_iter().map(|sum| (sum / tokens.max(1) as f64) as f32).collect()
}

/// For each head the reciprocal rank of the best right chunk, by mean attention over the tokens.
fn ranks(probed: &Probed, heads: &[QueryHead], queries: &[f32], right: &[ChunkId]) -> Result<Vec<f32>> {
    let geometry = probed.recall.geometry();
    let indices = heads.iter().filter_map(|head| geometry.key_head_index(head.key_head(probed.group())));
    let key_heads: Vec<usize> = indices.collect();
    let request = SearchRequest { key_heads: &key_heads, queries, top_k: ENTRIES, ef: None, exact: true };
    let scale = (probed.head_dim() as f32).sqrt().recip();
    let mut shares: Vec<HashMap<ChunkId, f32>> = vec![HashMap::new(); heads.len()];
    for (index, hits) in probed.recall.search(&request)?.iter().enumerate() {
        let largest = hits.first().map_or(0.0, |hit| hit.score);
        let total: f32 = hits.iter().map(|hit| (scale * (hit.score - largest)).exp()).sum();
        for hit in hits {
            let share = (scale * (hit.score - largest)).exp() / total;
            *shares[index % heads.len()].entry(hit.chunk).or_default() += share;
        }
    }
    let reciprocal = |shares: &HashMap<ChunkId, f32>| {
        let best = right.iter().filter_map(|chunk| shares.get(chunk)).copied().fold(0.0, f32::max);
        let better = shares.values().filter(|share| **share > best).count();
        if best > 0.0 { 1.0 / (1 + better) as f32 } else { 0.0 }
    };
    Ok(shares.iter().map(reciprocal).collect())
}

/// The best heads, as many as few key heads serve.
fn choose(all: &[QueryHead], reciprocal: &[f32], means: &[f32], dim: usize, group: usize) -> Found {
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|a, b| reciprocal[*b].total_cmp(&reciprocal[*a]).then(a.cmp(b)));
    let best = order.first().map_or(0.0, |index| reciprocal[*index]);
    let mut search: Vec<SearchHead> = Vec::new();
    let mut key_heads = Vec::new();
    for index in order {
        if search.len() == QUERY_HEADS_MAX || (!search.is_empty() && reciprocal[index] < SHARE_OF_BEST * best) {
            break;
        }
        let key_head = all[index].key_head(group);
        if !key_heads.contains(&key_head) {
            if key_heads.len() == KEY_HEADS_MAX {
                continue;
            }
            key_heads.push(key_head);
        }
        search.push(SearchHead {
            query: all[index],
            weight: reciprocal[index].powi(2).max(f32::MIN_POSITIVE),
            mean: means[index * dim..(index + 1) * dim].to_vec(),
            reciprocal_rank: reciprocal[index],
        });
    }
    let (attention_weight, lexical_weight) = if best >= WORTH { (1.0, LEXICAL_WEIGHT) } else { (0.0, 1.0) };
    Found { search, attention_weight, lexical_weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(reciprocal: &[f32]) -> Found {
        let all: Vec<QueryHead> = (0..reciprocal.len() as u32).map(|head| QueryHead { layer: head, head: 0 }).collect();
        choose(&all, reciprocal, &vec![0.5; 2 * all.len()], 2, 1)
    }

    #[test]
    fn the_best_heads_are_taken_within_few_key_heads() {
        let found = heads(&[0.1, 0.9, 0.85, 0.2, 0.8, 0.95, 0.88, 0.87]);
        let layers: Vec<u32> = found.search.iter().map(|head| head.query.layer).collect();
        assert_eq!(layers, [5, 1, 6, 7]);
        assert!(found.attention_weight > 0.0 && found.lexical_weight > 0.0);
    }

    #[test]
    fn where_no_head_is_good_words_find_passages() {
        let found = heads(&[0.1, 0.2, 0.0]);
        assert!(found.attention_weight.abs() < 1e-6 && (found.lexical_weight - 1.0).abs() < 1e-6);
        assert!(!found.search.is_empty());
    }
}
