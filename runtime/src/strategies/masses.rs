//! Attention that chunks receive, summed until it is asked for.

use std::collections::HashMap;

use mnemon_memory::ChunkId;

/// Sums of attention masses since they were taken.
#[derive(Default)]
pub(super) struct Masses {
    sums: HashMap<ChunkId, f64>,
    /// Heads times queries that contributed to them.
    visits: usize,
}

impl Masses {
    /// Heads times queries that are about to contribute.
    pub(super) fn visit(&mut self, visits: usize) {
        self.visits += visits;
    }

    pub(super) fn add(&mut self, chunk: ChunkId, mass: f32) {
        *self.sums.entry(chunk).or_default() += f64::from(mass);
    }

    /// Masses since the last call, averaged over visits, largest first.
    pub(super) fn take(&mut self) -> Vec<(ChunkId, f32)> {
        let visits = std::mem::take(&mut self.visits).max(1) as f64;
        let mut masses: Vec<(ChunkId, f32)> =
            self.sums.drain().map(|(chunk, mass)| (chunk, (mass / visits) as f32)).collect();
        masses.sort_by(|(a, a_mass), (b, b_mass)| b_mass.total_cmp(a_mass).then(a.cmp(b)));
        masses
    }
}
