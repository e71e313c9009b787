//! What the store holds of a document that is continued.

use std::collections::BTreeMap;
use std::sync::Arc;

use mnemon_memory::{OpenMemory, Turn, WriterState};
use mnemon_runtime::Model;

use super::reader::Reader;
use crate::error::{Error, Result};
use crate::options::EncodeOptions;
use crate::tokenizer::{SafePoint, Token};

/// Chunks read from the store at once.
const PAGE_CHUNKS: usize = 64;

/// Where and with what reading goes on in the middle of a document.
pub(super) struct Continuation {
    /// Tokens from `first_token` on, up to where the tokenizer starts again. Their spans are exact where chunks end.
    pub(super) tokens: Vec<Token>,
    /// Where the model starts again: early enough for everything from `keep_tokens` on to be as if it had never stopped.
    pub(super) first_token: u64,
    /// First byte after them.
    pub(super) keep_bytes: u64,
    /// Where the tokenizer starts again.
    pub(super) safe: SafePoint,
    /// Tokens that the tokenizer finds again and that are in `tokens` already.
    pub(super) skip_tokens: u64,
    /// The character before the safe point.
    pub(super) before: Option<char>,
    /// Stored text from the safe point on.
    pub(super) text: String,
    /// Stored text from `keep_bytes` up to the safe point or, where that comes earlier, nothing.
    pub(super) kept_text: String,
    /// Turns of the stored text, with the bytes of the document at which they start.
    pub(super) turns: Vec<(u64, BTreeMap<String, String>)>,
    /// The document's first segment, if the model needs it.
    pub(super) first_segment: Vec<u32>,
}

/// Where a continuation starts.
#[derive(Clone, Copy)]
pub(super) struct ContinueFrom {
    /// See [`Continuation::keep_tokens`].
    pub(super) keep_tokens: u64,
    /// Whether the text may go on otherwise than it did.
    pub(super) roll_back: bool,
    /// Of a reader that has read `keep_tokens` tokens, the first one that it did not hand over.
    pub(super) first_of_reader: Option<u64>,
}

impl Continuation {
    /// Tokens whose chunks stay in the store. With `roll_back`, tokens after the safe point may change with the text that follows: their
    /// segments are read again. Without, everything stored stays.
    pub(super) fn keep_tokens(state: &WriterState, options: &EncodeOptions, roll_back: bool) -> u64 {
        let segment = options.segment_tokens as u64;
        if roll_back { state.resume.safe_token / segment * segment } else { state.tokens }
    }

    /// Reads back what is needed to keep [`keep_tokens`](Self::keep_tokens), or for a reader that has read these: then from its first token
    /// that is in no chunk on.
    pub(super) fn load(
        memory: &dyn OpenMemory,
        document_id: &str,
        state: &WriterState,
        model: &Arc<Model>,
        options: &EncodeOptions,
        from: ContinueFrom,
    ) -> Result<Self> {
        let ContinueFrom { keep_tokens, roll_back, first_of_reader } = from;
        let segment = options.segment_tokens as u64;
        let chunk = u64::from(memory.geometry().chunk_tokens);
        let safe = SafePoint { byte: state.resume.safe_byte, token: state.resume.safe_token };
        let restart = keep_tokens / segment * segment;
        let back = Reader::receptive_tokens(model) as u64;
        let first_token = match first_of_reader {
            Some(first) => first,
            None if options.recall_while_reading.is_some() => 0,
            None => restart.saturating_sub(back) / segment * segment,
        };
        let tokens_end = if roll_back { safe.token } else { state.tokens };

        let first_ordinal = first_token.min(safe.token.saturating_sub(1)) / chunk;
        let (mut tokens, mut text, mut turns) = (Vec::new(), String::new(), Vec::new());
        let (mut text_start, mut keep_bytes) = (None, state.bytes);
        for_each_chunk(memory, document_id, first_ordinal, u64::MAX, |info| {
            text_start.get_or_insert(info.span.byte_start);
            text.push_str(&info.text);
            // What stands before the first turn of a chunk is of none.
            if !turns.is_empty() && info.turns.first().is_none_or(|turn| turn.start > 0) {
                turns.push((info.span.byte_start, BTreeMap::new()));
            }
            let start = |turn: &Turn| info.span.byte_start + u64::from(turn.start);
            turns.extend(info.turns.iter().map(|turn| (start(turn), turn.metadata.clone())));
            if info.span.token_start == keep_tokens {
                keep_bytes = info.span.byte_start;
            }
            for (index, &id) in (info.span.token_start..).zip(&info.tokens) {
                let last = index + 1 == info.span.token_end;
                let byte_end = if last { info.span.byte_end } else { info.span.byte_start };
                if (first_token..tokens_end).contains(&index) {
                    tokens.push(Token { id, byte_start: info.span.byte_start, byte_end });
                }
            }
        })?;
        let text_start = text_start.unwrap_or(state.bytes);
        let part = |from: u64, to: u64| {
            let range = from.checked_sub(text_start).zip(to.checked_sub(text_start));
            range.and_then(|(from, to)| text.get(from as usize..to as usize)).ok_or_else(|| damaged(document_id))
        };
        if tokens.len() as u64 != tokens_end - first_token {
            return Err(damaged(document_id));
        }

        let mut first_segment = Vec::new();
        if first_of_reader.is_none() && first_token > 0 && model.config().memory.sinks > 0 {
            for_each_chunk(memory, document_id, 0, segment / chunk, |info| {
                first_segment.extend_from_slice(&info.tokens);
            })?;
        }
        Ok(Self {
            first_token,
            keep_bytes,
            safe,
            skip_tokens: tokens_end - safe.token,
            before: part(text_start, safe.byte)?.chars().next_back(),
            kept_text: part(keep_bytes, safe.byte.max(keep_bytes))?.to_owned(),
            text: part(safe.byte, state.bytes)?.to_owned(),
            tokens,
            turns,
            first_segment,
        })
    }
}

fn for_each_chunk(
    memory: &dyn OpenMemory,
    document_id: &str,
    first_ordinal: u64,
    count: u64,
    mut visit: impl FnMut(&mnemon_memory::ChunkInfo),
) -> Result<()> {
    let mut ordinal = first_ordinal;
    let end = first_ordinal.saturating_add(count);
    while ordinal < end {
        let page = memory.document_chunks(document_id, ordinal, PAGE_CHUNKS.min((end - ordinal) as usize))?;
        if page.is_empty() {
            break;
        }
        page.iter().for_each(&mut visit);
        ordinal += page.len() as u64;
    }
    Ok(())
}

fn damaged(document_id: &str) -> Error {
    let what = format!("document '{document_id}'");
    Error::Memory(mnemon_memory::Error::Damaged { what, why: "its chunks do not agree with its record".into() })
}

/// Compares a text that is sent again with what is stored of it.
pub(super) struct Comparison {
    /// Bytes to compare.
    end: u64,
    /// Bytes compared.
    compared: u64,
    /// Stored text not compared yet, at most one page of chunks.
    page: Vec<u8>,
    page_at: usize,
    next_ordinal: u64,
}

impl Comparison {
    pub(super) fn new(state: &WriterState) -> Self {
        Self { end: state.bytes, compared: 0, page: Vec::new(), page_at: 0, next_ordinal: 0 }
    }

    /// Whether everything stored was compared.
    pub(super) fn is_done(&self) -> bool {
        self.compared == self.end
    }

    /// Bytes compared.
    pub(super) fn compared_bytes(&self) -> u64 {
        self.compared
    }

    /// Compares the next bytes; returns those that go beyond what is stored.
    pub(super) fn compare<'a>(
        &mut self,
        memory: &dyn OpenMemory,
        document_id: &str,
        mut bytes: &'a [u8],
    ) -> Result<&'a [u8]> {
        while !bytes.is_empty() && !self.is_done() {
            if self.page_at == self.page.len() {
                let page = memory.document_chunks(document_id, self.next_ordinal, PAGE_CHUNKS)?;
                self.next_ordinal += page.len() as u64;
                self.page = page.into_iter().flat_map(|info| info.text.into_bytes()).collect();
                self.page_at = 0;
                if self.page.is_empty() {
                    return Err(damaged(document_id));
                }
            }
            let stored = &self.page[self.page_at..];
            let count = stored.len().min(bytes.len());
            if let Some(at) = (0..count).find(|&at| stored[at] != bytes[at]) {
                return Err(Error::ResumeMismatch { byte: self.compared + at as u64 });
            }
            self.page_at += count;
            self.compared += count as u64;
            bytes = &bytes[count..];
        }
        Ok(bytes)
    }
}
