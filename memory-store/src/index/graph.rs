//! A frozen graph: what a sealed segment keeps of one slot and head.

use super::flat::scan;
use super::{EntryRef, Scored, SearchParams, VectorIndex, data_bytes};
use crate::{ChunkId, Error, KvData, Result};

/// Most entries of a graph: links take two bytes.
pub const MAX_GRAPH_ENTRIES: usize = 1 << 16;

/// Links of one level above 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpperLevel {
    /// Entries on this level, ascending.
    pub(crate) nodes: Vec<u16>,
    /// `[nodes, m]`; a row ends at its width or where it names its own node.
    pub(crate) links: Vec<u16>,
}

/// Links, vectors and entries side by side; nothing in it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphIndex {
    pub(crate) dim: usize,
    pub(crate) m: usize,
    pub(crate) m0: usize,
    /// Where each search begins: an entry of the highest level.
    pub(crate) entry_point: u32,
    /// `[entries, m0]`; a row ends at its width or where it names its own entry.
    pub(crate) links: Vec<u16>,
    /// Levels 1, 2, ...
    pub(crate) upper: Vec<UpperLevel>,
    /// `[entries, dim]`.
    pub(crate) vectors: KvData,
    pub(crate) entries: Vec<EntryRef>,
    /// Chunks that entries point into.
    pub(crate) chunks: Vec<ChunkId>,
}

impl UpperLevel {
    /// Links of `node`, which may be absent from this level.
    pub(crate) fn links_of(&self, node: u32, m: usize) -> &[u16] {
        match self.nodes.binary_search(&(node as u16)) {
            Ok(row) => row_of(&self.links, row, m, node),
            Err(_) => &[],
        }
    }
}

fn row_of(links: &[u16], row: usize, width: usize, node: u32) -> &[u16] {
    let row = &links[row * width..(row + 1) * width];
    let len = row.iter().position(|link| u32::from(*link) == node).unwrap_or(width);
    &row[..len]
}

impl GraphIndex {
    /// Links of `node` on level 0.
    pub(crate) fn links_of(&self, node: u32) -> &[u16] {
        row_of(&self.links, node as usize, self.m0, node)
    }

    /// Chunk that an entry points into.
    pub fn chunk_of(&self, entry: u32) -> ChunkId {
        self.chunks[self.entries[entry as usize].chunk as usize]
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let upper: usize = self.upper.iter().map(|level| 2 * (level.nodes.len() + level.links.len())).sum();
        upper + 2 * self.links.len() + data_bytes(&self.vectors) + 8 * (self.entries.len() + self.chunks.len())
    }

    /// Scans every vector instead of walking the links.
    pub fn search_exact(&self, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
        scan(self.dim, &self.vectors, queries, params)
    }

    /// Entries that cannot be reached on level 0 from the entry point.
    pub fn unreachable(&self) -> usize {
        let mut seen = vec![false; self.entries.len()];
        let mut queue = vec![self.entry_point];
        let mut count = 0;
        while let Some(node) = queue.pop() {
            if !std::mem::replace(&mut seen[node as usize], true) {
                count += 1;
                queue.extend(self.links_of(node).iter().map(|link| u32::from(*link)));
            }
        }
        self.entries.len() - count
    }

    /// Refuses lengths and links that do not fit together: after this, searching cannot leave the arrays.
    pub(crate) fn check(&self, what: &str) -> Result<()> {
        let n = self.entries.len();
        let link_in = |links: &[u16]| links.iter().all(|link| usize::from(*link) < n);
        let upper_fits = self.upper.iter().all(|level| {
            level.links.len() == level.nodes.len() * self.m && link_in(&level.nodes) && link_in(&level.links)
        });
        let whole = n > 0
            && n <= MAX_GRAPH_ENTRIES
            && (self.entry_point as usize) < n
            && self.links.len() == n * self.m0
            && self.vectors.len() == n * self.dim
            && link_in(&self.links)
            && upper_fits
            && self.entries.iter().all(|entry| (entry.chunk as usize) < self.chunks.len());
        if whole {
            return Ok(());
        }
        Err(Error::Damaged { what: what.to_owned(), why: "its parts do not fit together".into() })
    }
}

impl VectorIndex for GraphIndex {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, entry: u32) -> EntryRef {
        self.entries[entry as usize]
    }

    fn search(&self, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
        super::search::search(self, queries, params)
    }
}
