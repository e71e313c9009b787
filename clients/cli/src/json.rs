//! The JSON forms of what the server answers: field names of the contract, numbers as numbers, times in RFC 3339.

use std::collections::BTreeMap;

use mnemon_client::v1;
use serde_json::{Value, json};

pub(crate) fn memory(memory: &v1::Memory) -> Value {
    json!({
        "name": memory.name,
        "description": memory.description,
        "model": memory.model,
        "fingerprint": memory.fingerprint,
        "geometry": memory.geometry.as_ref().map(geometry),
        "created_at": memory.created_at.as_ref().map(ToString::to_string),
        "documents": memory.documents,
        "chunks": memory.chunks,
        "tokens": memory.tokens,
        "text_bytes": memory.text_bytes,
        "stored_bytes": memory.stored_bytes,
        "index_bytes": memory.index_bytes,
        "word_bytes": memory.word_bytes,
        "embedding_bytes": memory.embedding_bytes,
        "embedded_chunks": memory.embedded_chunks,
        "entries": memory.entries,
        "unsealed_entries": memory.unsealed_entries,
        "sequence": memory.sequence,
        "ttl": memory.ttl.as_ref().map(ToString::to_string),
        "document_ttl": memory.document_ttl.as_ref().map(ToString::to_string),
        "max_tokens": memory.max_tokens,
        "max_bytes": memory.max_bytes,
        "expires_at": memory.expires_at.as_ref().map(ToString::to_string),
        "damaged": Some(&memory.damaged).filter(|why| !why.is_empty()),
    })
}

fn geometry(geometry: &v1::Geometry) -> Value {
    let key_head = |key: &v1::KeyHead| json!({"layer": key.layer, "head": key.head});
    json!({
        "key_heads": geometry.key_heads.iter().map(key_head).collect::<Vec<_>>(),
        "layers": geometry.layers,
        "kv_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "dtype": geometry.dtype,
        "chunk_tokens": geometry.chunk_tokens,
        "entry_policy": geometry.entry_policy,
    })
}

pub(crate) fn document(document: &v1::Document) -> Value {
    json!({
        "document_id": document.document_id,
        "metadata": document.metadata.iter().collect::<BTreeMap<_, _>>(),
        "bytes": document.bytes,
        "tokens": document.tokens,
        "chunks": document.chunks,
        "sequence": document.sequence,
        "complete": document.complete,
        "lost_chunks": document.lost_chunks,
        "created_at": document.created_at.as_ref().map(ToString::to_string),
        "updated_at": document.updated_at.as_ref().map(ToString::to_string),
        "ttl": document.ttl.as_ref().map(ToString::to_string),
        "expires_at": document.expires_at.as_ref().map(ToString::to_string),
    })
}

pub(crate) fn model(model: &v1::Model) -> Value {
    json!({
        "name": model.name,
        "architecture": model.architecture,
        "fingerprint": model.fingerprint,
        "geometry": model.geometry.as_ref().map(geometry),
        "parameters": model.parameters,
        "window_tokens": model.window_tokens,
        "prompt_tokens_max": model.prompt_tokens_max,
        "device": model.device,
        "server_version": model.server_version,
    })
}

fn chunk(chunk: &v1::Chunk) -> Value {
    let span = chunk.span.unwrap_or_default();
    json!({
        "chunk_id": chunk.chunk_id,
        "memory": chunk.memory,
        "document_id": chunk.document_id,
        "span": {
            "byte_start": span.byte_start,
            "byte_end": span.byte_end,
            "token_start": span.token_start,
            "token_end": span.token_end,
        },
        "text": chunk.text,
        "metadata": chunk.metadata.iter().collect::<BTreeMap<_, _>>(),
        "turns": chunk.turns.iter().map(turn).collect::<Value>(),
    })
}

fn turn(turn: &v1::Turn) -> Value {
    json!({"start": turn.start, "metadata": turn.metadata.iter().collect::<BTreeMap<_, _>>()})
}

pub(crate) fn citations(citations: &[v1::Citation]) -> Value {
    citations.iter().map(|c| json!({"chunk": c.chunk.as_ref().map(chunk), "weight": c.weight})).collect()
}

pub(crate) fn chunks(chunks: &[v1::Chunk]) -> Value {
    chunks.iter().map(chunk).collect()
}

/// How memory reached a pretrained model.
pub(crate) fn mode(mode: v1::RecallMode) -> Option<&'static str> {
    match mode {
        v1::RecallMode::Unspecified => None,
        v1::RecallMode::Attend => Some("attend"),
        v1::RecallMode::Reread => Some("reread"),
    }
}

pub(crate) fn hits(hits: &[v1::SearchHit]) -> Value {
    let hit = |hit: &v1::SearchHit| {
        let highlights: Vec<_> = hit.highlights.iter().map(|at| [at.start, at.end]).collect();
        json!({
            "chunk": hit.chunk.as_ref().map(chunk),
            "chunk_ids": hit.chunk_ids,
            "score": hit.score,
            "words": hit.words,
            "keys": hit.keys,
            "meaning": hit.meaning,
            "highlights": highlights,
            "sentence": hit.sentence.map(|at| [at.start, at.end]),
        })
    };
    hits.iter().map(hit).collect()
}

pub(crate) fn usage(usage: &v1::Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "generated_tokens": usage.generated_tokens,
        "recalled_chunks": usage.recalled_chunks,
        "prefill_ms": usage.prefill_ms,
        "decode_ms_per_token": usage.decode_ms_per_token,
    })
}

pub(crate) fn score(score: &v1::ScoreResponse) -> Value {
    json!({
        "tokens": score.tokens,
        "log_probability": score.log_probability,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "recalled_chunks": score.recalled_chunks,
    })
}

/// Name of a finish reason in JSON.
pub(crate) fn finish(reason: v1::FinishReason) -> &'static str {
    match reason {
        v1::FinishReason::EndOfText => "end_of_text",
        v1::FinishReason::MaxTokens => "max_tokens",
        v1::FinishReason::StopString => "stop_string",
        v1::FinishReason::Unspecified => "unspecified",
    }
}
