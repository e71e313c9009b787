//! Ranks of chunks by sentence embeddings, and of several ranks together.

/// Indices of vectors by their product with a query, best first; equal ones in their order.
pub(crate) fn nearest(query: &[f32], vectors: &[Vec<f32>]) -> Vec<usize> {
    let product = |vector: &[f32]| vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut scored: Vec<(usize, f32)> = vectors.iter().map(|vector| product(vector)).enumerate().collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    scored.into_iter().map(|(at, _)| at).collect()
}

/// Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): `score = sum over lists of 1 / (60 + rank)`.
pub(crate) fn fuse(lists: &[&[usize]]) -> Vec<usize> {
    const K: f64 = 60.0;
    let mut scores: std::collections::BTreeMap<usize, f64> = std::collections::BTreeMap::new();
    for list in lists {
        for (rank, &item) in list.iter().enumerate() {
            *scores.entry(item).or_default() += 1.0 / (K + 1.0 + rank as f64);
        }
    }
    let mut fused: Vec<(usize, f64)> = scores.into_iter().collect();
    fused.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    fused.into_iter().map(|(item, _)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_comes_first() {
        let vectors = vec![vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, 1.0]];
        assert_eq!(nearest(&[0.0, 1.0], &vectors), [2, 1, 0]);
    }

    #[test]
    fn what_both_lists_have_comes_first() {
        assert_eq!(fuse(&[&[1, 2, 3], &[3, 4]]), [3, 1, 2, 4]);
        assert!(fuse(&[&[], &[]]).is_empty());
    }
}
