//! The store's words to the contract's.

use mnemon_encoder::Progress;
use mnemon_memory::{ChunkInfo, KeyHead, KvGeometry, SourceSpan, Turn};
use mnemon_memory_store::{DocumentInfo, MemoryInfo};
use mnemon_proto::v1;
use mnemon_runtime::RecallMode;
use prost_types::Timestamp;

use crate::limits::duration;

/// The mode asked for; none leaves it to the profile.
pub(crate) fn recall_mode(mode: v1::RecallMode) -> Option<RecallMode> {
    match mode {
        v1::RecallMode::Unspecified => None,
        v1::RecallMode::Attend => Some(RecallMode::Attend),
        v1::RecallMode::Reread => Some(RecallMode::Reread),
    }
}

/// The mode used, as the contract names it.
pub(crate) fn used_mode(mode: RecallMode) -> v1::RecallMode {
    match mode {
        RecallMode::Attend => v1::RecallMode::Attend,
        RecallMode::Reread => v1::RecallMode::Reread,
    }
}

pub(crate) fn memory(info: MemoryInfo) -> v1::Memory {
    let key_heads = info.geometry.key_heads.len() as u64;
    v1::Memory {
        name: info.name,
        description: info.description,
        model: info.model_name,
        fingerprint: info.fingerprint.to_hex(),
        geometry: Some(geometry(&info.geometry)),
        created_at: Some(timestamp(info.created_unix_ms)),
        documents: info.documents,
        chunks: info.chunks,
        tokens: info.tokens,
        text_bytes: info.text_bytes,
        stored_bytes: info.stored_bytes + info.index_bytes + info.embedding_bytes,
        index_bytes: info.index_bytes,
        word_bytes: info.word_bytes,
        embedding_bytes: info.embedding_bytes,
        embedded_chunks: None,
        entries: info.entries * key_heads,
        sequence: info.sequence,
        unsealed_entries: info.unsealed_entries * key_heads,
        damaged: info.damaged.unwrap_or_default(),
        ttl: info.limits.ttl_ms.map(duration),
        document_ttl: info.limits.document_ttl_ms.map(duration),
        max_tokens: info.limits.max_tokens,
        max_bytes: info.limits.max_bytes,
        expires_at: info.expires_unix_ms.map(timestamp),
    }
}

pub(crate) fn document(info: DocumentInfo) -> v1::Document {
    v1::Document {
        document_id: info.id,
        metadata: info.metadata.into_iter().collect(),
        bytes: info.bytes,
        tokens: info.tokens,
        chunks: info.chunks,
        sequence: info.sequence,
        complete: info.complete,
        created_at: Some(timestamp(info.created_unix_ms)),
        updated_at: Some(timestamp(info.updated_unix_ms)),
        lost_chunks: info.lost_chunks,
        ttl: info.ttl_ms.map(duration),
        expires_at: info.expires_unix_ms.map(timestamp),
    }
}

pub(crate) fn geometry(geometry: &KvGeometry) -> v1::Geometry {
    v1::Geometry {
        layers: geometry.layers.clone(),
        kv_heads: geometry.kv_heads,
        head_dim: geometry.head_dim,
        dtype: geometry.dtype.to_string(),
        chunk_tokens: geometry.chunk_tokens,
        entry_policy: geometry.entry_policy.to_string(),
        key_heads: if geometry.has_all_key_heads() {
            Vec::new()
        } else {
            let key_head = |key: &KeyHead| v1::KeyHead { layer: key.layer, head: key.head };
            geometry.key_heads.iter().map(key_head).collect()
        },
    }
}

pub(crate) fn chunk(info: ChunkInfo) -> v1::Chunk {
    v1::Chunk {
        chunk_id: info.id.0,
        memory: info.memory,
        document_id: info.document_id,
        span: Some(span(info.span)),
        text: info.text,
        metadata: info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        turns: info.turns.into_iter().map(turn).collect(),
    }
}

pub(crate) fn turn(turn: Turn) -> v1::Turn {
    v1::Turn { start: turn.start, metadata: turn.metadata.into_iter().collect() }
}

pub(crate) fn progress(progress: &Progress) -> v1::IngestProgress {
    v1::IngestProgress {
        bytes_received: progress.bytes_received,
        tokens_encoded: progress.tokens_encoded,
        durable_bytes: progress.durable_bytes,
        durable_tokens: progress.durable_tokens,
        durable_chunks: progress.durable_chunks,
        sequence: progress.sequence,
        complete: progress.complete,
    }
}

pub(crate) fn span(span: SourceSpan) -> v1::SourceSpan {
    v1::SourceSpan {
        byte_start: span.byte_start,
        byte_end: span.byte_end,
        token_start: span.token_start,
        token_end: span.token_end,
    }
}

fn timestamp(unix_ms: u64) -> Timestamp {
    Timestamp { seconds: (unix_ms / 1000) as i64, nanos: (unix_ms % 1000) as i32 * 1_000_000 }
}
