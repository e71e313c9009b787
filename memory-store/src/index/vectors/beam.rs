//! Best-first search over the links of one level (algorithm 2 of the paper), by products of codes. Building a graph and
//! searching it walk in the same way.

use mnemon_kernels::CodeDot;

/// Where links come from: a graph being built or a frozen one.
pub(super) trait Links {
    /// Appends the neighbours of `node`.
    fn append_links(&self, node: u32, to: &mut Vec<u32>);
}

/// Upper halves of the codes of all entries.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub(super) dot: CodeDot,
    /// `[entries, dim]`.
    pub(super) rows: &'a [u8],
}

impl Codes<'_> {
    /// Product of a query and one row.
    #[inline]
    pub(super) fn product(self, query: &[i16], row: u32) -> i32 {
        let start = row as usize * query.len();
        let mut out = [0];
        self.dot.tile(query, query.len(), &self.rows[start..start + query.len()], &mut out);
        out[0]
    }
}

/// An entry that the search has come upon, in eight bytes: they are moved about a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) product: i32,
    /// The entry, which has at most 24 bits, and flags above it.
    tagged: u32,
}

impl Candidate {
    const EXPANDED: u32 = 1 << 31;
    /// May not be returned.
    const DEAD: u32 = 1 << 30;

    fn new(product: i32, entry: u32, live: bool) -> Self {
        Self { product, tagged: if live { entry } else { entry | Self::DEAD } }
    }

    pub(super) fn entry(self) -> u32 {
        self.tagged & (Self::DEAD - 1)
    }

    pub(super) fn live(self) -> bool {
        self.tagged & Self::DEAD == 0
    }
}

/// What a search needs besides graph and query. Reused from search to search: a bit for each entry, and some vectors as
/// long as the search is broad.
#[derive(Default)]
pub(super) struct Scratch {
    visited: Vec<u64>,
    /// Entries whose bits are set.
    seen: Vec<u32>,
    /// Best first. After a search, `ef` of them are live, or as many as there are.
    pub(super) candidates: Vec<Candidate>,
    rows: Vec<u32>,
    products: Vec<i32>,
}

impl Scratch {
    fn begin(&mut self, entries: usize) {
        for entry in self.seen.drain(..) {
            if let Some(word) = self.visited.get_mut(entry as usize / 64) {
                *word = 0;
            }
        }
        self.visited.resize(entries.div_ceil(64), 0);
        self.candidates.clear();
    }

    /// Keeps those of `rows` that are visited for the first time.
    fn visit(&mut self) {
        let mut kept = 0;
        for at in 0..self.rows.len() {
            let entry = self.rows[at];
            let word = &mut self.visited[entry as usize / 64];
            let first = *word >> (entry % 64) & 1 == 0;
            *word |= 1 << (entry % 64);
            // Without a branch: which ones are new cannot be foreseen.
            self.rows[kept] = entry;
            kept += usize::from(first);
        }
        self.rows.truncate(kept);
        self.seen.extend_from_slice(&self.rows);
    }
}

/// Finds the best for `query` from `start` on; the result is `scratch.candidates`. Entries that are not `live` are walked
/// through, and do not count against `ef`.
pub(super) fn search(
    query: &[i16],
    start: &[u32],
    ef: usize,
    codes: Codes<'_>,
    links: &impl Links,
    live: Option<&(dyn Fn(u32) -> bool + Sync)>,
    scratch: &mut Scratch,
) {
    let is_live = |entry: u32| live.is_none_or(|live| live(entry));
    scratch.begin(codes.rows.len() / query.len());
    let mut lives = 0;
    let mut next = 0;
    scratch.rows.clear();
    scratch.rows.extend_from_slice(start);
    loop {
        scratch.visit();
        scratch.products.clear();
        codes.dot.rows(query, codes.rows, &scratch.rows, &mut scratch.products);
        for (&entry, &product) in scratch.rows.iter().zip(&scratch.products) {
            if lives >= ef && scratch.candidates.last().is_some_and(|worst| product <= worst.product) {
                continue;
            }
            let new = Candidate::new(product, entry, is_live(entry));
            let at = scratch.candidates.partition_point(|old| old.product >= product);
            scratch.candidates.insert(at, new);
            next = next.min(at);
            lives += usize::from(new.live());
            // What is worse than the last of `ef` live ones is of no use.
            while lives > ef || (lives == ef && scratch.candidates.last().is_some_and(|worst| !worst.live())) {
                lives -= usize::from(scratch.candidates.pop().is_some_and(Candidate::live));
            }
        }
        // On to the best that was not expanded yet.
        while scratch.candidates.get(next).is_some_and(|candidate| candidate.tagged & Candidate::EXPANDED != 0) {
            next += 1;
        }
        let Some(candidate) = scratch.candidates.get_mut(next) else { return };
        candidate.tagged |= Candidate::EXPANDED;
        scratch.rows.clear();
        links.append_links(candidate.entry(), &mut scratch.rows);
    }
}
