//! A frozen graph as one blob. The bytes are specified in `docs/format.md`.

use half::{bf16, f16};

use super::graph::{GraphIndex, MAX_GRAPH_ENTRIES, UpperLevel};
use super::{EntryRef, empty_data};
use crate::codec::{Decoder, Encoder, dtype_code, dtype_of};
use crate::records::FORMAT_VERSION;
use crate::{ChunkId, Error, KvData, KvDtype, Result};

const GRAPH_MAGIC: &[u8; 8] = b"MNMNGRPH";

/// Name of the blob of a graph.
pub(crate) fn graph_blob_name(number: u64) -> String {
    format!("graph-{number:016x}")
}

/// What a graph blob says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphOwner {
    pub(crate) memory: u64,
    pub(crate) segment: u64,
    pub(crate) slot: u32,
    pub(crate) head: u32,
}

fn push_u16s(out: &mut Vec<u8>, values: &[u16]) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

pub(crate) fn encode_graph(graph: &GraphIndex, owner: GraphOwner) -> Vec<u8> {
    let mut out = Encoder { bytes: Vec::with_capacity(graph.bytes() + 1024) };
    out.bytes.extend_from_slice(GRAPH_MAGIC);
    let (dtype, upper) = (data_dtype(&graph.vectors), &graph.upper);
    out.u32(FORMAT_VERSION).u64(owner.memory).u64(owner.segment).u32(owner.slot).u32(owner.head);
    out.u32(graph.entries.len() as u32).u32(graph.dim as u32).u8(dtype_code(dtype)).u8(2);
    out.u32(graph.m as u32).u32(graph.m0 as u32).u32(graph.entry_point);
    out.u32(graph.chunks.len() as u32).u32(upper.len() as u32);
    for level in upper {
        out.u32(level.nodes.len() as u32);
    }
    for chunk in &graph.chunks {
        out.u64(chunk.0);
    }
    for entry in &graph.entries {
        out.u32(entry.chunk).u16(entry.start).u16(entry.len);
    }
    push_u16s(&mut out.bytes, &graph.links);
    for level in upper {
        push_u16s(&mut out.bytes, &level.nodes);
        push_u16s(&mut out.bytes, &level.links);
    }
    match &graph.vectors {
        KvData::F32(data) => out.bytes.extend(data.iter().flat_map(|value| value.to_le_bytes())),
        KvData::F16(data) => out.bytes.extend(data.iter().flat_map(|value| value.to_le_bytes())),
        KvData::Bf16(data) => out.bytes.extend(data.iter().flat_map(|value| value.to_le_bytes())),
    }
    out.checked()
}

fn data_dtype(data: &KvData) -> KvDtype {
    match data {
        KvData::F32(_) => KvDtype::F32,
        KvData::F16(_) => KvDtype::F16,
        KvData::Bf16(_) => KvDtype::Bf16,
    }
}

/// Verifies and parses; `what` names the blob in errors.
pub(crate) fn decode_graph(bytes: &[u8], what: &str, expected: GraphOwner) -> Result<GraphIndex> {
    let mut input = Decoder::checked(bytes, what)?;
    if input.take(8)? != GRAPH_MAGIC || input.u32()? != FORMAT_VERSION {
        return Err(input.damaged("it is not a graph of this format"));
    }
    let owner = GraphOwner { memory: input.u64()?, segment: input.u64()?, slot: input.u32()?, head: input.u32()? };
    if owner != expected {
        return Err(input.damaged(&format!("it holds {owner:?} instead of {expected:?}")));
    }
    let (n, dim) = (input.u32()? as usize, input.u32()? as usize);
    let (dtype, link_bytes) = (input.u8()?, input.u8()?);
    let dtype = dtype_of(dtype)
        .filter(|dtype| dtype.read_as() == *dtype)
        .ok_or_else(|| input.damaged("unknown type of numbers"))?;
    let (m, m0, entry_point) = (input.u32()? as usize, input.u32()? as usize, input.u32()?);
    let (n_chunks, n_upper) = (input.u32()? as usize, input.count(4)?);
    if n > MAX_GRAPH_ENTRIES || link_bytes != 2 || dim > 4096 || m > 4096 || m0 > 8192 || n_chunks > n {
        return Err(input.damaged("a size is out of range"));
    }
    let upper_counts = (0..n_upper).map(|_| Ok(input.u32()? as usize)).collect::<Result<Vec<_>>>()?;
    let chunks = input.take(n_chunks * 8)?.as_chunks::<8>().0;
    let entries = input.take(n * 8)?.as_chunks::<8>().0;
    let links = take_u16s(&mut input, n * m0)?;
    let mut upper = Vec::new();
    for count in upper_counts {
        if count > n {
            return Err(input.damaged("a size is out of range"));
        }
        upper.push(UpperLevel { nodes: take_u16s(&mut input, count)?, links: take_u16s(&mut input, count * m)? });
    }
    let vectors = decode_vectors(input.take(n * dim * dtype.bits() / 8)?, dtype);
    input.end()?;
    let graph = GraphIndex {
        dim,
        m,
        m0,
        entry_point,
        links,
        upper,
        vectors,
        entries: entries.iter().map(|bytes| entry_of(*bytes)).collect(),
        chunks: chunks.iter().map(|bytes| ChunkId(u64::from_le_bytes(*bytes))).collect(),
    };
    graph.check(what)?;
    Ok(graph)
}

fn entry_of(bytes: [u8; 8]) -> EntryRef {
    let [c0, c1, c2, c3, s0, s1, l0, l1] = bytes;
    EntryRef {
        chunk: u32::from_le_bytes([c0, c1, c2, c3]),
        start: u16::from_le_bytes([s0, s1]),
        len: u16::from_le_bytes([l0, l1]),
    }
}

fn take_u16s(input: &mut Decoder<'_>, count: usize) -> Result<Vec<u16>, Error> {
    let bytes = input.take(count * 2)?.as_chunks::<2>().0;
    Ok(bytes.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect())
}

fn decode_vectors(bytes: &[u8], dtype: KvDtype) -> KvData {
    let mut data = empty_data(dtype);
    let halves = bytes.as_chunks::<2>().0.iter();
    match &mut data {
        KvData::F32(data) => data.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
        KvData::F16(data) => data.extend(halves.map(|bytes| f16::from_le_bytes(*bytes))),
        KvData::Bf16(data) => data.extend(halves.map(|bytes| bf16::from_le_bytes(*bytes))),
    }
    data
}
