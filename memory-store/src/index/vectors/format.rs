//! A frozen graph as one blob, which is searched as it is. The bytes are specified in `docs/format.md`.

use std::ops::Range;

use mnemon_memory::{ChunkId, KvGeometry};

use super::EntryRef;
use super::aligned::AlignedBytes;
use super::graph::{GraphIndex, LINK_BYTES, MAX_GRAPH_ENTRIES, Parts, u32s};
use super::quantizer::ScalarQuantizer;
use super::repair::Rows;
use super::upper_levels::UpperLevels;
use crate::error::{Error, Result};
use crate::format::codec::{Decoder, Encoder};
use crate::storage::Storage;

const GRAPH_MAGIC: &[u8; 8] = b"MNMNGRPH";
/// Version of graph blobs. Those of version 1 were referred to by records of another kind.
const GRAPH_VERSION: u32 = 2;
/// Bytes of the header: a whole number of cache lines, as every part.
const HEADER: usize = 128;
const ALIGNMENT: usize = 64;
const MAX_LEVELS: usize = 16;

/// Name of the blob of a graph.
pub(crate) fn graph_blob_name(number: u64) -> String {
    format!("graph-{number:016x}")
}

/// What a graph blob says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct GraphOwner {
    pub(crate) memory: u64,
    pub(crate) segment: u64,
    pub(crate) slot: u32,
    pub(crate) head: u32,
}

impl GraphOwner {
    /// Of the graph of the key head at `index`. Where all key/value heads of the stored layers have entries, slot and head
    /// tell which; where key heads were chosen, the slot is the index and the head 0.
    pub(crate) fn new(memory: u64, segment: u64, geometry: &KvGeometry, index: usize) -> Self {
        let heads = if geometry.has_all_key_heads() { geometry.kv_heads.max(1) as usize } else { 1 };
        Self { memory, segment, slot: (index / heads) as u32, head: (index % heads) as u32 }
    }
}

/// Numbers that tell where everything is.
#[derive(Debug, Clone, Default)]
struct Header {
    owner: GraphOwner,
    entries: u32,
    dim: u32,
    chunks: u32,
    /// Links of a node on upper levels.
    m: u32,
    entry_point: u32,
    /// Whether each entry names its block.
    blocks: bool,
    /// Links of level 0.
    links: u32,
    /// Nodes of each upper level.
    upper: Vec<u32>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes.extend_from_slice(GRAPH_MAGIC);
        out.u32(GRAPH_VERSION);
        let owner = self.owner;
        out.u64(owner.memory).u64(owner.segment).u32(owner.slot).u32(owner.head);
        out.u32(self.entries).u32(self.dim).u32(self.chunks).u32(self.m).u32(self.entry_point);
        out.u32(u32::from(self.blocks)).u32(self.links).u8(self.upper.len() as u8);
        for nodes in &self.upper {
            // Three bytes suffice for a number of entries.
            out.bytes.extend_from_slice(&nodes.to_le_bytes()[..LINK_BYTES]);
        }
        out.bytes.resize(HEADER, 0);
        out.bytes
    }

    fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let mut input = Decoder::new(bytes, what);
        if input.take(8)? != GRAPH_MAGIC || input.u32()? != GRAPH_VERSION {
            return Err(input.damaged("it is not a graph of this format"));
        }
        let owner = GraphOwner { memory: input.u64()?, segment: input.u64()?, slot: input.u32()?, head: input.u32()? };
        let mut header = Self {
            owner,
            entries: input.u32()?,
            dim: input.u32()?,
            chunks: input.u32()?,
            m: input.u32()?,
            entry_point: input.u32()?,
            blocks: input.u32()? != 0,
            links: input.u32()?,
            upper: Vec::new(),
        };
        let levels = usize::from(input.u8()?);
        for _ in 0..levels.min(MAX_LEVELS + 1) {
            let nodes = input.take(LINK_BYTES)?;
            header.upper.push(u32::from_le_bytes([nodes[0], nodes[1], nodes[2], 0]));
        }
        let n = header.entries as usize;
        let whole = (1..=MAX_GRAPH_ENTRIES).contains(&n)
            && (1..=4096).contains(&header.dim)
            && header.m <= 1024
            && header.chunks <= header.entries
            && header.entry_point < header.entries
            && levels <= MAX_LEVELS
            && header.upper.iter().all(|nodes| *nodes <= header.entries);
        if whole { Ok(header) } else { Err(input.damaged("a size is out of range")) }
    }

    /// Where the parts are, and where the last one ends.
    fn parts(&self) -> (Parts, Range<usize>, usize) {
        let mut end = HEADER;
        let mut next = |bytes: usize| {
            let start = end;
            end = (start + bytes).next_multiple_of(ALIGNMENT);
            start..start + bytes
        };
        let (n, dim) = (self.entries as usize, self.dim as usize);
        let quantizer = next(8 * dim);
        let parts = Parts {
            chunks: next(16 * self.chunks as usize),
            blocks: next(if self.blocks { 4 * n } else { 0 }),
            upper: self
                .upper
                .iter()
                .map(|nodes| (next(4 * *nodes as usize), next(4 * *nodes as usize * self.m as usize)))
                .collect(),
            starts: next(4 * (n + 1)),
            links: next(LINK_BYTES * self.links as usize),
            coarse: next(n * dim),
            fine: next(n * dim),
        };
        (parts, quantizer, end)
    }
}

/// What a graph is made of, before it is frozen.
pub(super) struct Content {
    pub(super) quantizer: ScalarQuantizer,
    pub(super) coarse: Vec<u8>,
    pub(super) fine: Vec<u8>,
    pub(super) entries: Vec<EntryRef>,
    pub(super) chunks: Vec<ChunkId>,
    /// First entry of each chunk.
    pub(super) firsts: Vec<u32>,
    pub(super) rows: Rows,
    pub(super) upper_levels: UpperLevels,
    pub(super) upper_width: usize,
}

/// Whether the entries of each chunk are its tokens, one after the other.
fn are_tokens(content: &Content) -> bool {
    content
        .entries
        .iter()
        .enumerate()
        .all(|(at, entry)| entry.len == 1 && entry.start as usize + content.firsts[entry.chunk as usize] as usize == at)
}

/// Writes `values` one after the other to the start of `to`.
fn fill<const N: usize>(to: &mut [u8], values: impl Iterator<Item = [u8; N]>) {
    for (place, value) in to.as_chunks_mut::<N>().0.iter_mut().zip(values) {
        *place = value;
    }
}

pub(super) fn freeze(content: &Content) -> Result<GraphIndex> {
    let Content { quantizer, rows, upper_levels, .. } = content;
    let n = content.entries.len();
    let header = Header {
        owner: GraphOwner::default(),
        entries: n as u32,
        dim: quantizer.dim() as u32,
        chunks: content.chunks.len() as u32,
        m: content.upper_width as u32,
        entry_point: upper_levels.entry_point,
        blocks: !are_tokens(content),
        links: rows.len.iter().sum(),
        upper: upper_levels.levels.iter().map(|level| level.len() as u32).collect(),
    };
    let (parts, of_grid, end) = header.parts();
    let mut bytes = AlignedBytes::zeroed(end);
    let out = bytes.as_mut_slice();
    out[..HEADER].copy_from_slice(&header.encode());
    fill(&mut out[of_grid], quantizer.offset.iter().chain(&quantizer.step).map(|value| value.to_le_bytes()));
    let chunks = content.chunks.iter().zip(&content.firsts).map(|(chunk, first)| {
        let mut record = [0; 16];
        record[..8].copy_from_slice(&chunk.0.to_le_bytes());
        record[8..12].copy_from_slice(&first.to_le_bytes());
        record
    });
    fill(&mut out[parts.chunks.clone()], chunks);
    let blocks = content.entries.iter().map(|entry| {
        let ([s0, s1], [l0, l1]) = (entry.start.to_le_bytes(), entry.len.to_le_bytes());
        [s0, s1, l0, l1]
    });
    fill(&mut out[parts.blocks.clone()], blocks);
    for (level, (nodes, links)) in upper_levels.levels.iter().zip(&parts.upper) {
        fill(&mut out[nodes.clone()], level.iter().map(|(node, _)| node.to_le_bytes()));
        // A row that is not full ends with its own node.
        let rows = level.iter().flat_map(|(node, links)| {
            links.iter().chain(std::iter::repeat(node)).take(content.upper_width).map(|link| link.to_le_bytes())
        });
        fill(&mut out[links.clone()], rows);
    }
    let mut before = 0_u32;
    let starts = std::iter::once(0).chain(rows.len.iter().map(|len| {
        before += len;
        before
    }));
    fill(&mut out[parts.starts.clone()], starts.map(u32::to_le_bytes));
    let links = (0..n).flat_map(|node| {
        rows.row(node).iter().map(|link| {
            let [low, middle, high, _] = link.to_le_bytes();
            [low, middle, high]
        })
    });
    fill(&mut out[parts.links.clone()], links);
    out[parts.coarse.clone()].copy_from_slice(&content.coarse);
    out[parts.fine.clone()].copy_from_slice(&content.fine);
    parse(bytes, "a graph just built").map(|(graph, _)| graph)
}

/// Writes a graph as a blob; returns its length.
pub(crate) fn write_graph(storage: &dyn Storage, blob: u64, graph: &GraphIndex, owner: GraphOwner) -> Result<u64> {
    let (old, rest) = graph.as_bytes().split_at(HEADER);
    let header = Header { owner, ..Header::decode(old, "a graph just built")? }.encode();
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&header);
    checksum.update(rest);
    let checksum = checksum.finalize().to_le_bytes();
    storage.write_blob(&graph_blob_name(blob), &[&header, rest, &checksum])?;
    Ok((graph.as_bytes().len() + checksum.len()) as u64)
}

/// Reads and verifies the blob `name` of `bytes` bytes; `what` names it in errors.
pub(crate) fn read_graph(
    storage: &dyn Storage,
    name: &str,
    bytes: u64,
    what: &str,
    expected: GraphOwner,
) -> Result<GraphIndex> {
    // Nothing is allocated for bytes that are not there.
    if let Some(last) = bytes.checked_sub(1) {
        storage.read_blob(name, last, 1)?;
    }
    let mut blob = AlignedBytes::zeroed(bytes as usize);
    storage.read_blob_into(name, 0, blob.as_mut_slice())?;
    decode_graph(blob, what, expected)
}

/// Verifies and parses; `what` names the blob in errors.
pub(crate) fn decode_graph(mut blob: AlignedBytes, what: &str, expected: GraphOwner) -> Result<GraphIndex> {
    Decoder::checked(blob.as_slice(), what)?;
    blob.truncate(blob.as_slice().len() - 4);
    let (graph, owner) = parse(blob, what)?;
    if owner != expected {
        return Err(Error::Damaged {
            what: what.to_owned(),
            why: format!("it holds {owner:?} instead of {expected:?}"),
        });
    }
    Ok(graph)
}

/// As [`decode_graph`], of any owner.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_graph_of_anyone(bytes: &[u8]) -> Result<GraphIndex> {
    let header = Header::decode(bytes.get(..HEADER).unwrap_or_default(), "graph")?;
    decode_graph(bytes.into(), "graph", header.owner)
}

fn ascends(mut values: impl Iterator<Item = u32>) -> bool {
    let mut last = None;
    values.all(|value| last.replace(value).is_none_or(|last| last < value))
}

/// Refuses sizes and links that do not fit together: after this, searching cannot leave the arrays.
fn parse(bytes: AlignedBytes, what: &str) -> Result<(GraphIndex, GraphOwner)> {
    let header = Header::decode(bytes.as_slice().get(..HEADER).unwrap_or_default(), what)?;
    let (parts, of_grid, end) = header.parts();
    let damaged = || Error::Damaged { what: what.to_owned(), why: "its parts do not fit together".into() };
    let all = bytes.as_slice();
    if all.len() != end {
        return Err(damaged());
    }
    let n = header.entries;
    let numbers = all[of_grid].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>();
    let (offset, step) = numbers.split_at(header.dim as usize);
    let quantizer = ScalarQuantizer { offset: offset.to_vec(), step: step.to_vec() };
    let starts = &all[parts.starts.clone()];
    let mut last = 0;
    let rows_fit = u32s(starts).all(|start| start >= std::mem::replace(&mut last, start)) && last == header.links;
    let links = all[parts.links.clone()].as_chunks::<LINK_BYTES>().0;
    let links_fit = links.iter().all(|&[low, middle, high]| u32::from_le_bytes([low, middle, high, 0]) < n);
    let upper_fits = parts.upper.iter().all(|(nodes, links)| {
        ascends(u32s(&all[nodes.clone()]))
            && u32s(&all[nodes.clone()]).all(|node| node < n)
            && u32s(&all[links.clone()]).all(|link| link < n)
    });
    let firsts = || all[parts.chunks.clone()].as_chunks::<16>().0.iter().flat_map(|record| u32s(&record[8..12]));
    let chunks_fit = ascends(firsts()) && firsts().next() == Some(0) && firsts().all(|first| first < n);
    let fits = rows_fit && links_fit && upper_fits && chunks_fit && numbers.iter().all(|number| number.is_finite());
    if !fits {
        return Err(damaged());
    }
    let (m, entry_point) = (header.m as usize, header.entry_point);
    let graph = GraphIndex { bytes, parts, entries: n as usize, quantizer, m, entry_point };
    Ok((graph, header.owner))
}
