//! A frozen graph: what a sealed segment keeps of one slot and head. It is searched in the bytes of its blob.

use std::ops::Range;

use mnemon_kernels::CodeDot;
use mnemon_memory::ChunkId;

use super::aligned::AlignedBytes;
use super::beam::{Codes, Links};
use super::quantizer::ScalarQuantizer;
use super::{EntryRef, Scored, SearchParams, VectorIndex};

/// Most entries of a graph: links take three bytes.
pub const MAX_GRAPH_ENTRIES: usize = 1 << 24;

/// Bytes of a link.
pub(super) const LINK_BYTES: usize = 3;

/// Where the parts lie in the blob. See `docs/format.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// `(u64 id, u32 first entry, u32 0)` each.
    pub(super) chunks: Range<usize>,
    /// `(u16 start, u16 len)` of each entry; empty when entries are the tokens of their chunks in turn.
    pub(super) blocks: Range<usize>,
    /// Of each level above 0, from level 1 up: its nodes, ascending, u32, and their links, u32 `[nodes, m]`.
    pub(super) upper: Vec<(Range<usize>, Range<usize>)>,
    /// Of each entry and the end: links before it, u32.
    pub(super) starts: Range<usize>,
    /// Links of level 0.
    pub(super) links: Range<usize>,
    /// Upper halves of codes, `[entries, dim]`.
    pub(super) coarse: Range<usize>,
    /// Lower halves.
    pub(super) fine: Range<usize>,
}

/// Links, codes and entries; nothing in it changes.
#[derive(Debug, Clone)]
pub struct GraphIndex {
    pub(super) bytes: AlignedBytes,
    pub(super) parts: Parts,
    pub(super) entries: usize,
    pub(super) quantizer: ScalarQuantizer,
    /// Links of a node on upper levels.
    pub(super) m: usize,
    /// Where each search begins: an entry of the highest level.
    pub(super) entry_point: u32,
}

/// Numbers of four bytes.
pub(super) fn u32s(bytes: &[u8]) -> impl ExactSizeIterator<Item = u32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn link_of([low, middle, high]: [u8; LINK_BYTES]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

impl GraphIndex {
    fn part(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes.as_slice()[range.clone()]
    }

    /// Values of a vector.
    pub fn dim(&self) -> usize {
        self.quantizer.dim()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.as_slice().len() + 8 * self.dim() + size_of::<Self>()
    }

    /// The blob.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    pub(super) fn codes(&self) -> Codes<'_> {
        Codes { dot: CodeDot::detect(), rows: self.part(&self.parts.coarse) }
    }

    /// Upper and lower halves of the codes of an entry.
    pub(super) fn row(&self, entry: u32) -> (&[u8], &[u8]) {
        let dim = self.dim();
        let row = entry as usize * dim..(entry as usize + 1) * dim;
        (&self.part(&self.parts.coarse)[row.clone()], &self.part(&self.parts.fine)[row])
    }

    /// Chunks that entries point into, with the first entry of each, ascending.
    pub(crate) fn chunks(&self) -> impl ExactSizeIterator<Item = (ChunkId, u32)> + '_ {
        self.part(&self.parts.chunks).as_chunks::<16>().0.iter().map(|record| {
            let (id, rest) = record.split_at(8);
            let id = id.first_chunk::<8>().map_or(0, |id| u64::from_le_bytes(*id));
            (ChunkId(id), u32_at(rest, 0))
        })
    }

    /// Chunk that an entry points into.
    pub fn chunk_of(&self, entry: u32) -> ChunkId {
        self.chunks().nth(self.chunk_index(entry)).map_or(ChunkId(0), |(id, _)| id)
    }

    fn chunk_index(&self, entry: u32) -> usize {
        let records = self.part(&self.parts.chunks).as_chunks::<16>().0;
        records.partition_point(|record| u32_at(&record[8..], 0) <= entry).saturating_sub(1)
    }

    fn first_entry(&self, chunk: usize) -> u32 {
        let records = self.part(&self.parts.chunks).as_chunks::<16>().0;
        records.get(chunk).map_or(0, |record| u32_at(&record[8..], 0))
    }

    /// Levels above 0, from level 1 up.
    pub(super) fn upper_levels(&self) -> usize {
        self.parts.upper.len()
    }

    /// Appends the links of `node` on upper level `level` (0 is the lowest of them), if it is there.
    pub(super) fn append_upper_links(&self, level: usize, node: u32, to: &mut Vec<u32>) {
        let (nodes, links) = &self.parts.upper[level];
        let nodes = self.part(nodes).as_chunks::<4>().0;
        if let Ok(row) = nodes.binary_search_by_key(&node, |bytes| u32::from_le_bytes(*bytes)) {
            let row = &self.part(links)[row * self.m * 4..(row + 1) * self.m * 4];
            to.extend(u32s(row).take_while(|link| *link != node));
        }
    }

    /// Links of level 0 in all.
    pub fn links(&self) -> usize {
        self.parts.links.len() / LINK_BYTES
    }

    /// Scans the entries `range` instead of walking the links: finds the best of them, up to the rounding of codes of 16
    /// bits.
    pub fn search_exact(&self, range: Range<u32>, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
        super::search::scan(self, range, queries, params)
    }

    /// Entries that cannot be reached on level 0 from the entry point.
    pub fn unreachable(&self) -> usize {
        let mut seen = vec![false; self.entries];
        let mut queue = vec![self.entry_point];
        let mut count = 0;
        while let Some(node) = queue.pop() {
            if !std::mem::replace(&mut seen[node as usize], true) {
                count += 1;
                self.append_links(node, &mut queue);
            }
        }
        self.entries - count
    }
}

impl Links for GraphIndex {
    #[inline]
    fn append_links(&self, node: u32, to: &mut Vec<u32>) {
        let starts = self.part(&self.parts.starts).as_chunks::<4>().0;
        let [start, end] =
            [0, 1].map(|next| starts.get(node as usize + next).map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize));
        let links = self.part(&self.parts.links).as_chunks::<LINK_BYTES>().0;
        to.extend(links.get(start..end).unwrap_or_default().iter().map(|link| link_of(*link)));
    }
}

impl VectorIndex for GraphIndex {
    fn len(&self) -> usize {
        self.entries
    }

    fn entry(&self, entry: u32) -> EntryRef {
        let chunk = self.chunk_index(entry);
        let blocks = self.part(&self.parts.blocks).as_chunks::<4>().0;
        let (start, len) = match blocks.get(entry as usize) {
            Some(&[s0, s1, l0, l1]) => (u16::from_le_bytes([s0, s1]), u16::from_le_bytes([l0, l1])),
            None => ((entry - self.first_entry(chunk)) as u16, 1),
        };
        EntryRef { chunk: chunk as u32, start, len }
    }

    fn search(&self, queries: &[f32], params: &SearchParams<'_>) -> Vec<Vec<Scored>> {
        super::search::search(self, queries, params)
    }
}
