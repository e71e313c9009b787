//! The best keys of one query so far.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A key and its score, ordered so that the worst is the greatest: lower scores first, then later keys.
#[derive(Debug, Clone, Copy)]
struct Found {
    score: f32,
    key: u32,
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> Ordering {
        let scores = other.score.partial_cmp(&self.score).unwrap_or(Ordering::Equal);
        scores.then(self.key.cmp(&other.key))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Found {}

/// At most `k` keys with the highest scores, of equal scores those offered first. Never holds a NaN, so that the order is
/// total.
#[derive(Debug)]
pub(super) struct Best {
    k: usize,
    found: BinaryHeap<Found>,
    /// What a score must exceed: the worst kept one, once there are `k`.
    floor: Option<f32>,
}

impl Best {
    /// Empty. `k` is positive; memory grows with what is offered, up to `k`.
    pub(super) fn new(k: usize) -> Self {
        Self { k, found: BinaryHeap::new(), floor: None }
    }

    /// Whether [`Best::offer`] would keep this score.
    #[inline]
    pub(super) fn wants(&self, score: f32) -> bool {
        match self.floor {
            Some(floor) => score > floor,
            None => !score.is_nan(),
        }
    }

    /// Whether it would keep any of these: true too often only until there are `k`.
    #[inline]
    pub(super) fn wants_any(&self, scores: &[f32]) -> bool {
        // Counting has no early exit, so the compiler makes vector instructions of it.
        self.floor.is_none_or(|floor| scores.iter().filter(|&&score| score > floor).count() > 0)
    }

    /// Keeps a score that is [wanted](Best::wants). Keys come in ascending order: a later one with an equal score never
    /// displaces an earlier one.
    pub(super) fn offer(&mut self, score: f32, key: u32) {
        let new = Found { score, key };
        if self.found.len() < self.k {
            self.found.push(new);
        } else if let Some(mut worst) = self.found.peek_mut() {
            *worst = new;
        }
        if self.found.len() == self.k {
            self.floor = self.found.peek().map(|worst| worst.score);
        }
    }

    /// Appends what was kept, in no particular order.
    pub(super) fn append_to(self, out: &mut Vec<(f32, u32)>) {
        out.extend(self.found.into_iter().map(|found| (found.score, found.key)));
    }
}

/// Descending score, then ascending key; only the first `k`.
pub(super) fn rank(found: &mut Vec<(f32, u32)>, k: usize) {
    found.sort_unstable_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1)));
    found.truncate(k);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(k: usize, scores: &[f32]) -> Vec<(f32, u32)> {
        let mut best = Best::new(k);
        for (key, &score) in (0..).zip(scores) {
            if best.wants(score) {
                best.offer(score, key);
            }
        }
        let mut out = Vec::new();
        best.append_to(&mut out);
        rank(&mut out, k);
        out
    }

    #[test]
    fn keeps_the_first_of_equals() {
        assert_eq!(best_of(2, &[1.0, 1.0, 1.0, 0.0]), [(1.0, 0), (1.0, 1)]);
        assert_eq!(best_of(2, &[0.0, 1.0, 1.0, 1.0]), [(1.0, 1), (1.0, 2)]);
        assert_eq!(best_of(3, &[0.0, -0.0, 2.0, 0.0]), [(2.0, 2), (0.0, 0), (-0.0, 1)]);
    }

    #[test]
    fn never_keeps_nan() {
        let found = best_of(3, &[f32::NAN, f32::NEG_INFINITY, f32::NAN, f32::INFINITY]);
        assert_eq!(found, [(f32::INFINITY, 3), (f32::NEG_INFINITY, 1)]);
    }
}
