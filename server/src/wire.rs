//! Chunks, numbers and shapes to messages and back, between a store and a server that runs the model.

use std::sync::Arc;

use half::{bf16, f16};
use mnemon_memory::{
    ChunkId, ChunkInfo, ChunkKv, Fingerprint, Hit, KeyHead, KvChunk, KvData, KvGeometry, ResumePoint, SourceSpan,
    TermHit, TermHits, Turn, WordHits, WriterState,
};
use mnemon_memory_store::MemorySpec;
use mnemon_proto::v1;
use prost::bytes::Bytes;
use tonic::Status;

use crate::convert;
use crate::status::{invalid, violation};

/// `INVALID_ARGUMENT` for one field.
pub(crate) fn refuse<T>(field: &str, why: impl Into<String>) -> Result<T, Status> {
    Err(invalid(vec![violation(field, why)]))
}

/// A message that must be there.
pub(crate) fn given<T>(field: &str, message: Option<T>) -> Result<T, Status> {
    message.map_or_else(|| refuse(field, "it is missing"), Ok)
}

pub(crate) fn f32_bytes(values: &[f32]) -> Bytes {
    let mut bytes = vec![0; values.len() * 4];
    for (to, value) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *to = value.to_le_bytes();
    }
    bytes.into()
}

/// Whole binary32 numbers.
pub(crate) fn f32_values(field: &str, bytes: &[u8]) -> Result<Vec<f32>, Status> {
    match bytes.as_chunks::<4>() {
        (values, []) => Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect()),
        _ => refuse(field, format!("{} bytes are no whole binary32 numbers", bytes.len())),
    }
}

fn half_bytes<T: Copy>(values: &[T], to_le_bytes: impl Fn(T) -> [u8; 2]) -> Bytes {
    let mut bytes = vec![0; values.len() * 2];
    for (to, value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *to = to_le_bytes(*value);
    }
    bytes.into()
}

pub(crate) fn data_bytes(data: &KvData) -> (v1::NumberType, Bytes) {
    match data {
        KvData::F32(values) => (v1::NumberType::F32, f32_bytes(values)),
        KvData::F16(values) => (v1::NumberType::F16, half_bytes(values, f16::to_le_bytes)),
        KvData::Bf16(values) => (v1::NumberType::Bf16, half_bytes(values, bf16::to_le_bytes)),
    }
}

pub(crate) fn data(field: &str, kind: v1::NumberType, bytes: &[u8]) -> Result<KvData, Status> {
    let halves = || match bytes.as_chunks::<2>() {
        (values, []) => Ok(values),
        _ => refuse(field, format!("{} bytes are no whole numbers of 16 bits", bytes.len())),
    };
    Ok(match kind {
        v1::NumberType::Unspecified | v1::NumberType::F32 => KvData::F32(f32_values(field, bytes)?),
        v1::NumberType::F16 => KvData::F16(halves()?.iter().map(|value| f16::from_le_bytes(*value)).collect()),
        v1::NumberType::Bf16 => KvData::Bf16(halves()?.iter().map(|value| bf16::from_le_bytes(*value)).collect()),
    })
}

/// A chunk on its way to a store. Binary32, so that what is stored is the same, to the last bit, wherever the store is.
pub(crate) fn chunk_to_store(chunk: KvChunk) -> v1::KvChunk {
    let bytes = |layers: Vec<Vec<f32>>| layers.iter().map(|layer| f32_bytes(layer)).collect();
    v1::KvChunk {
        span: Some(convert::span(chunk.span)),
        tokens: chunk.tokens,
        text: chunk.text,
        r#type: v1::NumberType::F32.into(),
        keys: bytes(chunk.keys),
        values: bytes(chunk.values),
        importance: bytes(chunk.importance),
        lone_keys: bytes(chunk.lone_keys),
        turns: chunk.turns.into_iter().map(convert::turn).collect(),
    }
}

/// A chunk as it came to a store; its shape is for the writer to check.
pub(crate) fn stored_chunk(chunk: v1::KvChunk) -> Result<KvChunk, Status> {
    let kind = chunk.r#type();
    let layers = |field: &str, layers: &[Bytes]| {
        layers.iter().map(|layer| Ok(data(field, kind, layer)?.to_f32())).collect::<Result<Vec<_>, Status>>()
    };
    let importance = chunk.importance.iter().map(|layer| f32_values("importance", layer)).collect::<Result<_, _>>()?;
    Ok(KvChunk {
        keys: layers("keys", &chunk.keys)?,
        values: layers("values", &chunk.values)?,
        importance,
        lone_keys: layers("lone_keys", &chunk.lone_keys)?,
        span: span(given("span", chunk.span)?),
        tokens: chunk.tokens,
        text: chunk.text,
        turns: chunk.turns.into_iter().map(turn).collect(),
    })
}

fn turn(turn: v1::Turn) -> Turn {
    Turn { start: turn.start, metadata: turn.metadata.into_iter().collect() }
}

pub(crate) fn kv_to_send(kv: &ChunkKv) -> v1::ChunkKv {
    let (kind, keys) = data_bytes(&kv.keys);
    v1::ChunkKv {
        chunk_id: kv.id.0,
        document: kv.document,
        token_start: kv.token_start,
        tokens: kv.len as u32,
        r#type: kind.into(),
        keys,
        values: data_bytes(&kv.values).1,
    }
}

pub(crate) fn received_kv(kv: &v1::ChunkKv) -> Result<ChunkKv, Status> {
    Ok(ChunkKv {
        id: ChunkId(kv.chunk_id),
        document: kv.document,
        token_start: kv.token_start,
        len: kv.tokens as usize,
        keys: data("keys", kv.r#type(), &kv.keys)?,
        values: data("values", kv.r#type(), &kv.values)?,
    })
}

pub(crate) fn text_to_send(info: ChunkInfo) -> v1::ChunkText {
    v1::ChunkText { tokens: info.tokens.clone(), document: info.document, chunk: Some(convert::chunk(info)) }
}

pub(crate) fn received_text(text: v1::ChunkText) -> Result<ChunkInfo, Status> {
    let chunk = given("chunk", text.chunk)?;
    Ok(ChunkInfo {
        id: ChunkId(chunk.chunk_id),
        memory: chunk.memory,
        document: text.document,
        document_id: chunk.document_id,
        metadata: Arc::new(chunk.metadata.into_iter().collect()),
        span: span(given("span", chunk.span)?),
        tokens: text.tokens,
        text: chunk.text,
        turns: chunk.turns.into_iter().map(turn).collect(),
    })
}

pub(crate) fn hits_to_send(lists: &[Vec<Hit>]) -> v1::EntryHits {
    let all = || lists.iter().flatten();
    v1::EntryHits {
        counts: lists.iter().map(|hits| hits.len() as u32).collect(),
        scores: all().map(|hit| hit.score).collect(),
        chunk_ids: all().map(|hit| hit.chunk.0).collect(),
        starts: all().map(|hit| u32::from(hit.start)).collect(),
        lens: all().map(|hit| u32::from(hit.len)).collect(),
    }
}

pub(crate) fn received_hits(hits: &v1::EntryHits) -> Result<Vec<Vec<Hit>>, Status> {
    let total: usize = hits.counts.iter().map(|count| *count as usize).sum();
    let lens = [hits.scores.len(), hits.chunk_ids.len(), hits.starts.len(), hits.lens.len()];
    if lens != [total; 4] {
        return refuse("hits", "the lists are not of one length");
    }
    let hit = |at: usize| Hit {
        score: hits.scores[at],
        chunk: ChunkId(hits.chunk_ids[at]),
        start: hits.starts[at] as u16,
        len: hits.lens[at] as u16,
    };
    let mut from = 0;
    let list = |count: &u32| {
        let range = from..from + *count as usize;
        from = range.end;
        range.map(hit).collect()
    };
    Ok(hits.counts.iter().map(list).collect())
}

pub(crate) fn term_hits_to_send(found: TermHits) -> v1::TermHits {
    v1::TermHits {
        chunk_ids: found.hits.iter().map(|hit| hit.chunk.0).collect(),
        scores: found.hits.iter().map(|hit| hit.score).collect(),
        chunks_with: found.chunks_with,
    }
}

/// Chunks and their scores, two lists of one length.
fn received_scored(field: &str, chunk_ids: &[u64], scores: &[f32]) -> Result<Vec<TermHit>, Status> {
    if chunk_ids.len() != scores.len() {
        return refuse(field, "the lists are not of the length that they should have");
    }
    let hit = |(chunk, score): (&u64, &f32)| TermHit { chunk: ChunkId(*chunk), score: *score };
    Ok(chunk_ids.iter().zip(scores).map(hit).collect())
}

/// What was found for so many terms.
pub(crate) fn received_term_hits(found: v1::TermHits, terms: usize) -> Result<TermHits, Status> {
    let hits = received_scored("term_hits", &found.chunk_ids, &found.scores)?;
    // A store of an earlier version does not tell.
    if !found.chunks_with.is_empty() && found.chunks_with.len() != terms {
        return refuse("term_hits", "the lists are not of the length that they should have");
    }
    Ok(TermHits { hits, chunks_with: found.chunks_with })
}

pub(crate) fn word_hits_to_send(found: &WordHits) -> v1::WordHits {
    v1::WordHits {
        chunk_ids: found.hits.iter().map(|hit| hit.chunk.0).collect(),
        scores: found.hits.iter().map(|hit| hit.score).collect(),
        whole: found.whole,
        matched: found.matched,
    }
}

pub(crate) fn received_word_hits(found: &v1::WordHits) -> Result<WordHits, Status> {
    let hits = received_scored("word_hits", &found.chunk_ids, &found.scores)?;
    Ok(WordHits { hits, whole: found.whole, matched: found.matched })
}

pub(crate) fn list_to_send<'a>(chunks: impl IntoIterator<Item = &'a ChunkId>) -> v1::ChunkList {
    v1::ChunkList { chunk_ids: chunks.into_iter().map(|chunk| chunk.0).collect() }
}

pub(crate) fn received_list(list: &v1::ChunkList) -> Vec<ChunkId> {
    list.chunk_ids.iter().copied().map(ChunkId).collect()
}

pub(crate) fn spec_to_send(spec: &MemorySpec) -> v1::MemorySpec {
    v1::MemorySpec {
        fingerprint: spec.fingerprint.to_hex(),
        geometry: Some(convert::geometry(&spec.geometry)),
        model: spec.model_name.clone(),
    }
}

pub(crate) fn spec(spec: v1::MemorySpec, description: String) -> Result<MemorySpec, Status> {
    Ok(MemorySpec {
        fingerprint: fingerprint("spec.fingerprint", &spec.fingerprint)?,
        geometry: geometry("spec.geometry", given("spec.geometry", spec.geometry)?)?,
        model_name: spec.model,
        description,
    })
}

pub(crate) fn fingerprint(field: &str, hex: &str) -> Result<Fingerprint, Status> {
    hex.parse().or_else(|_| refuse(field, "64 hexadecimal digits are accepted"))
}

fn geometry(field: &str, geometry: v1::Geometry) -> Result<KvGeometry, Status> {
    let refused = |error: mnemon_memory::Invalid| invalid(vec![violation(field, error.to_string())]);
    let chosen = geometry.key_heads.iter().map(|key| KeyHead { layer: key.layer, head: key.head }).collect();
    let geometry = KvGeometry {
        key_heads: if geometry.key_heads.is_empty() {
            KvGeometry::all_key_heads(&geometry.layers, geometry.kv_heads)
        } else {
            chosen
        },
        layers: geometry.layers,
        kv_heads: geometry.kv_heads,
        head_dim: geometry.head_dim,
        dtype: geometry.dtype.parse().map_err(refused)?,
        chunk_tokens: geometry.chunk_tokens,
        entry_policy: geometry.entry_policy.parse().map_err(refused)?,
    };
    geometry.validate().map_err(refused)?;
    Ok(geometry)
}

pub(crate) fn state_to_send(state: &WriterState) -> v1::DocumentState {
    v1::DocumentState {
        sequence: state.sequence,
        chunks: state.chunks,
        tokens: state.tokens,
        bytes: state.bytes,
        resume: Some(resume_to_send(state.resume)),
        last_chunk_id: state.last_chunk.map_or(0, |chunk| chunk.0),
    }
}

pub(crate) fn received_state(state: &v1::DocumentState) -> WriterState {
    WriterState {
        sequence: state.sequence,
        chunks: state.chunks,
        tokens: state.tokens,
        bytes: state.bytes,
        resume: resume(state.resume.unwrap_or_default()),
        last_chunk: (state.chunks > 0).then_some(ChunkId(state.last_chunk_id)),
    }
}

pub(crate) fn resume_to_send(resume: ResumePoint) -> v1::ResumePoint {
    v1::ResumePoint { safe_byte: resume.safe_byte, safe_token: resume.safe_token, complete: resume.complete }
}

pub(crate) fn resume(resume: v1::ResumePoint) -> ResumePoint {
    ResumePoint { safe_byte: resume.safe_byte, safe_token: resume.safe_token, complete: resume.complete }
}

fn span(span: v1::SourceSpan) -> SourceSpan {
    SourceSpan {
        byte_start: span.byte_start,
        byte_end: span.byte_end,
        token_start: span.token_start,
        token_end: span.token_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let kv = ChunkKv {
            id: ChunkId(7),
            document: 3,
            token_start: 64,
            len: 1,
            keys: KvData::F16(vec![f16::from_f32(0.5), f16::from_f32(-2.0)]),
            values: KvData::F16(vec![f16::from_f32(1.0), f16::MAX]),
        };
        assert_eq!(received_kv(&kv_to_send(&kv)).unwrap(), kv);
        let hit = |score, chunk| Hit { score, chunk: ChunkId(chunk), start: 2, len: 1 };
        let lists = vec![vec![hit(2.0, 9), hit(1.5, 8)], vec![], vec![hit(-1.0, 7)]];
        assert_eq!(received_hits(&hits_to_send(&lists)).unwrap(), lists);
        let values = [1.0, f32::MIN_POSITIVE, -0.0];
        assert_eq!(f32_values("x", &f32_bytes(&values)).unwrap(), values);
        assert!(f32_values("x", &[0; 5]).is_err());
        let mut uneven = hits_to_send(&lists);
        uneven.counts[0] = 3;
        assert!(received_hits(&uneven).is_err());
    }
}
