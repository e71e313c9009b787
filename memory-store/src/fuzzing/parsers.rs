//! One parser each, and the use that is made of what it read.

use std::sync::Arc;

use mnemon_memory::{EntryPolicy, KvDtype, KvGeometry};

use super::{reseal, store};
use crate::archive::verify;
use crate::engine::extent::Extent;
use crate::engine::inspection::{inspect, restored_chunk};
use crate::engine::tail::TailEntries;
use crate::format::chunk_blob::{ChunkHeader, chunks_blob_name};
use crate::format::geometry::StoredGeometry as _;
use crate::format::kv_codec::{decode_side, encode_side};
use crate::format::records::{
    DocumentRecord, ExtentRecord, NameRecord, SegmentRecord, decode_reserved, decode_sequence, decode_version, names_of,
};
use crate::index::vectors::{GraphIndex, SearchParams, VectorIndex as _, decode_graph_of_anyone};
use crate::index::words::WordIndex;
use crate::storage::{InMemoryStorage, Storage, parse_copy};

/// What is larger is only slower.
const CODES_MAX: usize = 1 << 16;
const GRAPH_ENTRIES_MAX: usize = 1 << 12;

/// Byte 0: the kind of record, as in its key. The rest: its value, or its key for the kind `k`.
pub(super) fn records(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let mut sealed = rest.to_vec();
    sealed.extend_from_slice(&[0; 4]);
    reseal::ending(&mut sealed);
    for value in [rest, &sealed] {
        // Extents and segments have one form only.
        match kind {
            b'v' => drop(decode_version(value)),
            b'r' => drop(decode_reserved(value)),
            b'm' => drop(decode_sequence(value, "sequence")),
            b'n' => drop(NameRecord::decode(value, "name").map(|record| record.encode())),
            b'd' => drop(DocumentRecord::decode(value, "document").map(|record| record.encode())),
            b'e' => drop(ExtentRecord::decode(value, "extent").map(|record| assert_eq!(record.encode(), value))),
            b'x' => drop(SegmentRecord::decode(value, "segment").map(|record| assert_eq!(record.encode(), value))),
            _ => drop(names_of(value)),
        }
    }
}

/// A chunk blob: inspected, read chunk by chunk, and restored.
pub(super) fn chunk_blob(input: &[u8]) {
    let _ = ChunkHeader::decode(input, "blob");
    let mut bytes = input.to_vec();
    let Ok((header, record)) = reseal::chunk_blob(&mut bytes) else { return };
    let geometry = &header.spec.geometry;
    for bytes in [input, &bytes] {
        let found = inspect(bytes, &record, header.first_chunk, geometry);
        assert_eq!(found.sound.len() + 1, record.places.len());
        for (pair, sound) in record.places.windows(2).zip(&found.sound) {
            let start = record.body_start as usize;
            let chunk = bytes.get(start + pair[0].offset as usize..start + pair[1].offset as usize);
            if let (Some(chunk), true) = (chunk, sound) {
                let restored = restored_chunk(chunk, (pair[1].tokens - pair[0].tokens) as usize, geometry);
                assert!(restored.is_ok(), "a sound chunk can be stored again");
            }
        }
    }
    let storage: Arc<dyn Storage> = Arc::new(InMemoryStorage::new());
    if storage.write_blob(&chunks_blob_name(record.blob), &[&bytes]).is_err() {
        return;
    }
    let extent = Extent::from_record(&storage, header.first_chunk, header.document_id.as_str().into(), record);
    for index in 0..extent.chunks() as usize {
        let _ = extent.read_info(geometry, &header.memory, index, &Arc::default());
        for slot in 0..geometry.layers.len().min(4) {
            let _ = extent.read_kv(geometry, slot, index);
        }
    }
    let _ = extent.read_tokens(geometry);
    if let Ok(words) = extent.read_words(geometry) {
        assert_eq!(words.chunks(), extent.chunks() as usize);
        // Made from text or read from the blob, it has one form.
        let encoded = words.encode();
        let again = WordIndex::decode(&encoded, "words");
        assert_eq!(again.ok().flatten().map(|words| words.encode()), Some(encoded));
    }
    let key_heads = geometry.key_heads.len();
    for key_head in (0..key_heads.min(4)).chain(key_heads.saturating_sub(4)..key_heads) {
        let source = geometry.source_of(key_head);
        assert!(geometry.key_heads_at(source).contains(&key_head));
        let _ = TailEntries::load(geometry, source, &extent);
    }
}

/// A graph blob without its checksum, searched in every way.
pub(super) fn graph_blob(input: &[u8]) {
    let mut sealed = input.to_vec();
    sealed.extend_from_slice(&[0; 4]);
    reseal::ending(&mut sealed);
    let _ = decode_graph_of_anyone(input);
    if let Ok(graph) = decode_graph_of_anyone(&sealed) {
        search(&graph);
    }
}

fn search(graph: &GraphIndex) {
    let (n, dim) = (graph.len(), graph.dim());
    if n > GRAPH_ENTRIES_MAX {
        return;
    }
    let query = |scale: f32| (0..dim).map(move |at| scale * ((at * 7 % 11) as f32 - 5.0));
    let queries: Vec<f32> = query(1.0).chain(query(-1e30)).chain(query(0.0)).collect();
    let odd = |entry: u32| entry % 2 == 1;
    let none = |_: u32| false;
    let filters: [Option<&(dyn Fn(u32) -> bool + Sync)>; 3] = [None, Some(&odd), Some(&none)];
    for (top_k, ef) in [(1, 1), (5, 64), (1000, 1)] {
        for live in filters {
            let params = SearchParams { top_k, ef, live };
            let walked = graph.search(&queries, &params);
            let scanned = graph.search_exact(0..u32::MAX, &queries, &params);
            let _ = graph.search_exact(1..n as u32 / 2, &queries, &params);
            for found in walked.iter().chain(&scanned).flatten() {
                let entry = graph.entry(found.entry);
                assert!((found.entry as usize) < n && (entry.chunk as usize) < graph.chunks().len());
                assert!(live.is_none_or(|live| live(found.entry)));
                graph.chunk_of(found.entry);
            }
            assert!(walked.iter().chain(&scanned).all(|found| found.len() <= top_k.min(n)));
        }
    }
    for entry in 0..n as u32 {
        graph.entry(entry);
    }
    assert!(graph.unreachable() < n && graph.bytes() > 0 && graph.links() < usize::MAX);
}

/// The copy of the catalog, without its checksum.
pub(super) fn catalog_copy(input: &[u8]) {
    let mut sealed = input.to_vec();
    sealed.extend_from_slice(&[0; 32]);
    reseal::copy(&mut sealed);
    let _ = parse_copy(input, "copy");
    let _ = parse_copy(&sealed, "copy");
}

/// An archive: verified, and imported if it is sound.
pub(super) fn archive(input: &[u8]) {
    let mut sealed = input.to_vec();
    reseal::archive(&mut sealed);
    for bytes in [input, &sealed] {
        if verify(bytes).is_ok() {
            store::import(bytes);
        }
    }
}

/// Bytes 0 to 3: type of numbers, heads, tokens, values of a vector. The rest: keys or values in that form.
pub(super) fn codes(input: &[u8]) {
    let Some((&[dtype, heads, tokens, dim], rest)) = input.split_first_chunk::<4>() else { return };
    let dtypes = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16, KvDtype::Int8, KvDtype::Int4];
    let geometry = KvGeometry {
        layers: vec![0],
        key_heads: KvGeometry::all_key_heads(&[0], u32::from(heads)),
        kv_heads: u32::from(heads),
        head_dim: u32::from(dim),
        dtype: dtypes[dtype as usize % dtypes.len()],
        chunk_tokens: u32::from(tokens),
        entry_policy: EntryPolicy::PerToken,
    };
    if geometry.validate().is_err() || geometry.chunk_bytes(tokens.into()) > CODES_MAX {
        return;
    }
    let shape = geometry.shape(tokens.into());
    for (side, bytes) in geometry.side_bytes(tokens.into()).into_iter().enumerate() {
        let mut side_bytes = rest.to_vec();
        side_bytes.resize(bytes, 0);
        let read = decode_side(&side_bytes, shape, geometry.dtype, side).to_f32();
        assert_eq!(read.len(), shape.len());
        // What the store itself could have written is read as it was.
        if read.iter().all(|value| value.is_finite()) {
            let mut again = Vec::new();
            encode_side(&mut again, &read, shape, geometry.dtype, side);
            assert_eq!(again.len(), bytes);
        }
    }
}
