//! The contract's limits, as field violations. A [`Checks`] collects what is wrong with a request, so that a caller
//! learns of all of it at once.

use std::collections::HashMap;

use mnemon_memory_store::{MAX_DOCUMENT_ID_BYTES, MAX_METADATA_ENTRIES, TURN_BYTES_MAX, TURN_ENTRIES_MAX};
use mnemon_proto::v1;
use mnemon_runtime::{NEIGHBOURS_MAX, PASSAGES_MAX};
use tonic::Status;
use tonic_types::FieldViolation;

use crate::filter::is_date;
use crate::limits::ttl_ms;
use crate::status::{invalid, violation};

/// Memories of one request.
const MEMORIES_MAX: usize = 16;
/// Bytes of one message's text in an ingest stream.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Tokens that a generation may have.
const GENERATED_TOKENS_MAX: u32 = 8192;
/// Chunks recalled by a memory layer.
const TOP_K_CHUNKS_MAX: u32 = 256;
/// Breadth of a walk through the index.
const EF_SEARCH_MAX: u32 = 4096;
/// Passages of an answer to a search.
const SEARCH_K_MAX: u32 = 1000;
/// Items of a page.
const PAGE_MAX: u32 = 1000;
/// Items of a page when the caller leaves it open.
const PAGE_DEFAULT: u32 = 100;
/// Messages of a conversation.
const MESSAGES_MAX: usize = 4096;
/// Tools, documents, and calls of one message.
const TOOLS_MAX: usize = 128;
/// Violations that are told.
const VIOLATIONS_MAX: usize = 32;
/// Stop strings, and bytes of each.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
/// Bytes of a memory's description.
const DESCRIPTION_BYTES_MAX: usize = 4096;
/// Bytes of a document's identifier.
const DOCUMENT_ID_BYTES_MAX: usize = 512;
/// Pairs of metadata, and bytes of all, of a key, and of a value.
const METADATA_PAIRS_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 16 << 10;
const METADATA_KEY_BYTES_MAX: usize = 128;
const METADATA_VALUE_BYTES_MAX: usize = 4096;

/// What is wrong with a request.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<FieldViolation>);

impl Checks {
    /// Notes a violation unless `fine`.
    fn require(&mut self, fine: bool, field: &str, description: impl FnOnce() -> String) {
        if !fine && self.0.len() < VIOLATIONS_MAX {
            self.0.push(violation(field, description()));
        }
    }

    /// `INVALID_ARGUMENT` if there is a violation.
    pub(crate) fn done(self) -> Result<(), Status> {
        if self.0.is_empty() { Ok(()) } else { Err(invalid(self.0)) }
    }

    fn memory(&mut self, field: &str, name: &str) {
        self.require(is_name(name), field, || {
            format!("'{}'; 1 to 128 letters, digits, '.', '_' or '-' are accepted", shown(name))
        });
    }

    fn document_id(&mut self, id: &str) {
        let fine = (1..=DOCUMENT_ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
        self.require(fine, "document_id", || {
            format!("'{}'; 1 to {DOCUMENT_ID_BYTES_MAX} bytes without control characters are accepted", shown(id))
        });
    }

    fn memories(&mut self, field: &str, names: &[String], none_is_fine: bool) {
        let fine = (1..=MEMORIES_MAX).contains(&names.len()) || (names.is_empty() && none_is_fine);
        self.require(fine, field, || {
            let advice = if field.contains('.') { "; set recall_off to answer without memory" } else { "" };
            format!("{} names; 1 to {MEMORIES_MAX} are accepted{advice}", names.len())
        });
        names.iter().take(MEMORIES_MAX).for_each(|name| self.memory(field, name));
    }

    fn memory_options(&mut self, options: &v1::MemoryOptions) {
        self.memories("memory.memories", &options.memories, options.recall_off);
        if let Some(k) = options.top_k_chunks {
            self.require((1..=TOP_K_CHUNKS_MAX).contains(&k), "memory.top_k_chunks", || {
                format!("{k}; 1 to {TOP_K_CHUNKS_MAX} is accepted, and nothing takes the model's default")
            });
        }
        let most = PASSAGES_MAX as u32;
        if let Some(passages) = options.passages {
            self.require((1..=most).contains(&passages), "memory.passages", || {
                format!("{passages}; 1 to {most} is accepted; omit to use the profile's number")
            });
        }
        if let Some(neighbours) = options.neighbours {
            self.require(neighbours <= NEIGHBOURS_MAX as u32, "memory.neighbours", || {
                format!("{neighbours}; 0 to {NEIGHBOURS_MAX} is accepted; omit to use the profile's number")
            });
        }
        self.recall_mode("memory.mode", options.mode);
        self.require(v1::Select::try_from(options.select).is_ok(), "memory.select", || {
            format!("{}; 0 (the server chooses), 1 (heads), 2 (search) and 3 (both) are accepted", options.select)
        });
        self.filter("memory.filter", options.filter.as_ref());
        if let Some(ef) = options.ef_search {
            self.require((1..=EF_SEARCH_MAX).contains(&ef), "memory.ef_search", || {
                format!("{ef}; 1 to {EF_SEARCH_MAX} is accepted, and nothing leaves the choice to the server")
            });
            self.require(!options.exact, "memory.ef_search", || {
                "exact search has no breadth; set one of the two".into()
            });
        }
    }

    fn filter(&mut self, field: &str, filter: Option<&v1::DocumentFilter>) {
        let Some(filter) = filter else { return };
        let (prefix, labels) = (filter.document_prefix.len(), filter.metadata.len());
        self.require(prefix <= MAX_DOCUMENT_ID_BYTES, &format!("{field}.document_prefix"), || {
            format!("{prefix} bytes; at most {MAX_DOCUMENT_ID_BYTES} are accepted")
        });
        self.require(labels <= MAX_METADATA_ENTRIES, &format!("{field}.metadata"), || {
            format!("{labels} pairs; at most {MAX_METADATA_ENTRIES} are accepted")
        });
        for (end, date) in [("from", &filter.from), ("until", &filter.until)] {
            self.require(date.is_empty() || is_date(date), &format!("{field}.{end}"), || {
                format!("'{}'; a date such as 2024, 2024-05, 2024-05-01 or 2024-05-01T12:30 is accepted", shown(date))
            });
        }
    }

    fn recall_mode(&mut self, field: &str, mode: i32) {
        self.require(v1::RecallMode::try_from(mode).is_ok(), field, || {
            format!("{mode}; 0 (the server chooses), 1 (attend) and 2 (reread) are accepted")
        });
    }

    fn ttl(&mut self, field: &str, ttl: Option<&prost_types::Duration>) {
        let fine = ttl.is_none_or(|ttl| ttl_ms(ttl).is_some());
        self.require(fine, field, || "whole milliseconds up to 100 years are accepted, and 0 for none".into());
    }

    fn metadata(&mut self, metadata: &HashMap<String, String>) {
        let bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.require(metadata.len() <= METADATA_PAIRS_MAX, "metadata", || {
            format!("{} pairs; at most {METADATA_PAIRS_MAX} are accepted", metadata.len())
        });
        self.require(bytes <= METADATA_BYTES_MAX, "metadata", || {
            format!("{bytes} bytes; at most {METADATA_BYTES_MAX} are accepted")
        });
        let too_long = metadata.iter().find(|(key, value)| {
            !(1..=METADATA_KEY_BYTES_MAX).contains(&key.len()) || value.len() > METADATA_VALUE_BYTES_MAX
        });
        self.require(too_long.is_none(), "metadata", || {
            format!(
                "key '{}': keys of 1 to {METADATA_KEY_BYTES_MAX} bytes and values of at most \
                 {METADATA_VALUE_BYTES_MAX} bytes are accepted",
                too_long.map_or_else(String::new, |(key, _)| shown(key))
            )
        });
    }

    fn turn(&mut self, field: &str, turn: &HashMap<String, String>) {
        let bytes: usize = turn.iter().map(|(key, value)| key.len() + value.len()).sum();
        let fits = turn.len() <= TURN_ENTRIES_MAX && bytes <= TURN_BYTES_MAX;
        self.require(fits && !turn.contains_key(""), field, || {
            format!(
                "{} pairs of {bytes} bytes; at most {TURN_ENTRIES_MAX} of {TURN_BYTES_MAX} bytes together are accepted, with keys that \
                 are not empty",
                turn.len()
            )
        });
    }

    fn sampling(&mut self, sampling: &v1::SamplingOptions) {
        let temperature = sampling.temperature.unwrap_or(0.0);
        self.require((0.0..=100.0).contains(&temperature), "sampling.temperature", || {
            format!("{temperature}; 0 to 100 is accepted")
        });
        self.require(sampling.top_k != Some(0), "sampling.top_k", || "0; at least 1 is accepted".into());
        let top_p = sampling.top_p.unwrap_or(1.0);
        self.require(top_p > 0.0 && top_p <= 1.0, "sampling.top_p", || {
            format!("{top_p}; above 0, at most 1 is accepted")
        });
        let penalty = sampling.repetition_penalty.unwrap_or(1.0);
        self.require(penalty > 0.0 && penalty.is_finite(), "sampling.repetition_penalty", || {
            format!("{penalty}; above 0 is accepted")
        });
    }
}

/// Whether `name` can be that of a memory or a tenant.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Checks the name of a memory in `field`.
pub(crate) fn memory(field: &str, name: &str) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory(field, name);
    checks.done()
}

/// Checks the names of a memory and of a document in it.
pub(crate) fn document(memory: &str, document_id: &str) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory("memory", memory);
    checks.document_id(document_id);
    checks.done()
}

pub(crate) fn create_memory(request: &v1::CreateMemoryRequest) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory("name", &request.name);
    checks.require(request.description.len() <= DESCRIPTION_BYTES_MAX, "description", || {
        format!("{} bytes; at most {DESCRIPTION_BYTES_MAX} are accepted", request.description.len())
    });
    checks.recall_mode("mode", request.mode);
    checks.require(request.spec.is_none() || request.mode == 0, "mode", || "a memory with a spec has no mode".into());
    checks.ttl("ttl", request.ttl.as_ref());
    checks.ttl("document_ttl", request.document_ttl.as_ref());
    checks.done()
}

pub(crate) fn update_memory(request: &v1::UpdateMemoryRequest) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory("name", &request.name);
    checks.ttl("ttl", request.ttl.as_ref());
    checks.ttl("document_ttl", request.document_ttl.as_ref());
    checks.done()
}

pub(crate) fn import_start(start: &v1::ImportStart) -> Result<(), Status> {
    let mut checks = Checks::default();
    if !start.name.is_empty() {
        checks.memory("start.name", &start.name);
    }
    checks.done()
}

/// The name of the memory to make.
pub(crate) fn reencode(request: &v1::ReencodeMemoryRequest) -> Result<String, Status> {
    let mut checks = Checks::default();
    checks.memory("name", &request.name);
    let into = match request.into.as_str() {
        "" if request.replace => format!("{}.reencode", request.name),
        into => into.to_owned(),
    };
    checks.require(!into.is_empty(), "into", || "give a name for the new memory, or set replace".into());
    if !into.is_empty() {
        checks.memory("into", &into);
    }
    checks.require(into != request.name, "into", || "it is the memory itself; set replace instead".into());
    checks.done()?;
    Ok(into)
}

/// Items of the page asked for.
pub(crate) fn page_size(page_size: u32) -> Result<usize, Status> {
    let mut checks = Checks::default();
    checks.require(page_size <= PAGE_MAX, "page_size", || format!("{page_size}; at most {PAGE_MAX} is accepted"));
    checks.done()?;
    Ok(if page_size == 0 { PAGE_DEFAULT } else { page_size } as usize)
}

pub(crate) fn ingest_start(start: &v1::IngestStart) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory("start.memory", &start.memory);
    checks.document_id(&start.document_id);
    checks.metadata(&start.metadata);
    checks.turn("start.turn", &start.turn);
    checks.require(v1::IngestMode::try_from(start.mode).is_ok(), "start.mode", || {
        format!("{} is not a known mode", start.mode)
    });
    checks.ttl("start.ttl", start.ttl.as_ref());
    checks.done()
}

pub(crate) fn append_start(start: &v1::AppendStart) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memory("start.memory", &start.memory);
    checks.document_id(&start.document_id);
    checks.metadata(&start.metadata);
    checks.ttl("start.ttl", start.ttl.as_ref());
    checks.done()
}

/// Checks the names of memories that are used as one.
pub(crate) fn memories(names: &[String]) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.memories("memories", names, false);
    checks.done()
}

/// Checks a number.
pub(crate) fn within(field: &str, value: u32, least: u32, most: u32) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.require((least..=most).contains(&value), field, || format!("{value}; {least} to {most} is accepted"));
    checks.done()
}

/// Checks a piece of text, or of an archive, in `field`.
pub(crate) fn piece(field: &str, text: &[u8]) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.require(text.len() <= PIECE_BYTES_MAX, field, || {
        format!("{} bytes in one message; at most {PIECE_BYTES_MAX} are accepted: send smaller pieces", text.len())
    });
    checks.done()
}

/// Which documents a view has.
pub(crate) fn filter(filter: Option<&v1::DocumentFilter>) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.filter("filter", filter);
    checks.done()
}

/// Passages wanted.
pub(crate) fn search(request: &v1::SearchRequest) -> Result<usize, Status> {
    let mut checks = Checks::default();
    checks.memories("memories", &request.memories, false);
    checks.require(!request.query.is_empty(), "query", || "it is empty; give at least one token of text".into());
    let k = request.k.unwrap_or(10);
    checks.require((1..=SEARCH_K_MAX).contains(&k), "k", || format!("{k}; 1 to {SEARCH_K_MAX} is accepted"));
    let most = request.per_document.unwrap_or(1);
    checks.require((1..=SEARCH_K_MAX).contains(&most), "per_document", || {
        format!("{most}; 1 to {SEARCH_K_MAX} is accepted, and nothing lets all passages be of one document")
    });
    checks.require(v1::SearchBy::try_from(request.by).is_ok(), "by", || {
        format!("{}; 0 and 1 (all), 2 (words), 3 (keys) and 4 (meaning) are accepted", request.by)
    });
    checks.filter("filter", request.filter.as_ref());
    checks.done()?;
    Ok(k as usize)
}

pub(crate) fn generate(request: &v1::GenerateRequest) -> Result<(), Status> {
    let mut checks = Checks::default();
    match (request.prompt.is_empty(), request.messages.is_empty()) {
        (true, true) => checks.require(false, "prompt", || "it is empty; give at least one token of text".into()),
        (false, false) => checks.require(false, "messages", || "give either these or a prompt, not both".into()),
        _ => {}
    }
    let count = request.messages.len();
    checks.require(count <= MESSAGES_MAX, "messages", || format!("{count}; at most {MESSAGES_MAX} are accepted"));
    for message in request.messages.iter().take(MESSAGES_MAX) {
        let fine = mnemon_runtime::ROLES.contains(&message.role.as_str());
        checks.require(fine, "messages.role", || {
            format!("'{}'; one of {} is accepted", shown(&message.role), mnemon_runtime::ROLES.join(", "))
        });
        let calls = message.tool_calls.len();
        checks.require(calls <= TOOLS_MAX, "messages.tool_calls", || {
            format!("{calls} in one message; at most {TOOLS_MAX} are accepted")
        });
    }
    for (field, count) in [("tools", request.tools.len()), ("documents", request.documents.len())] {
        checks.require(count <= TOOLS_MAX, field, || format!("{count}; at most {TOOLS_MAX} are accepted"));
        let fine = count == 0 || !request.messages.is_empty();
        checks.require(fine, field, || "they belong to a conversation; give messages instead of a prompt".into());
    }
    let fine = request.template_variables.is_empty() || !request.messages.is_empty();
    checks.require(fine, "template_variables", || "a prompt has no template; give messages instead".into());
    let fine = !request.control_tokens || request.messages.is_empty();
    checks.require(fine, "control_tokens", || "the text of messages has none; give a prompt instead".into());
    checks.memory_options(request.memory.as_ref().unwrap_or(&v1::MemoryOptions::default()));
    let max_tokens = request.max_tokens.unwrap_or(1);
    checks.require((1..=GENERATED_TOKENS_MAX).contains(&max_tokens), "max_tokens", || {
        format!("{max_tokens}; 1 to {GENERATED_TOKENS_MAX} is accepted")
    });
    checks.sampling(&request.sampling.unwrap_or_default());
    checks.require(request.stop.len() <= STOPS_MAX, "stop", || {
        format!("{} strings; at most {STOPS_MAX} are accepted", request.stop.len())
    });
    let fine = request.stop.iter().all(|stop| (1..=STOP_BYTES_MAX).contains(&stop.len()));
    checks.require(fine, "stop", || format!("strings of 1 to {STOP_BYTES_MAX} bytes are accepted"));
    checks.done()
}

pub(crate) fn score(request: &v1::ScoreRequest) -> Result<(), Status> {
    let mut checks = Checks::default();
    checks.require(!request.text.is_empty(), "text", || "it is empty; give at least two tokens of text".into());
    let default = v1::MemoryOptions::default();
    let memory = request.memory.as_ref().unwrap_or(&default);
    checks.memory_options(memory);
    checks.require(!matches!(memory.select(), v1::Select::Search | v1::Select::Both), "memory.select", || {
        "the passages of a score follow the text, which heads find; leave it out".into()
    });
    checks.done()
}

/// What a message shows of a text from outside.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn fields(result: Result<(), Status>) -> Vec<String> {
        let Err(status) = result else { return Vec::new() };
        let bad = status.get_details_bad_request().unwrap();
        bad.field_violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn names() {
        for good in ["a", "War-and_Peace.v2", &"x".repeat(128)] {
            assert!(is_name(good));
        }
        for bad in ["", "a b", "a/b", "ä", "a\0b", &"x".repeat(129)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert_eq!(fields(document("", "a\nb")), ["memory", "document_id"]);
        assert!(document("m", "books/Война и мир.txt").is_ok());
    }

    #[test]
    fn every_violation_is_told() {
        let request = v1::GenerateRequest {
            memory: Some(v1::MemoryOptions {
                top_k_chunks: Some(0),
                ef_search: Some(4097),
                exact: true,
                ..Default::default()
            }),
            max_tokens: Some(0),
            sampling: Some(v1::SamplingOptions {
                temperature: Some(f32::NAN),
                top_k: Some(0),
                top_p: Some(0.0),
                repetition_penalty: Some(-1.0),
                seed: None,
            }),
            stop: vec![String::new()],
            ..Default::default()
        };
        let expected = [
            "prompt",
            "memory.memories",
            "memory.top_k_chunks",
            "memory.ef_search",
            "memory.ef_search",
            "max_tokens",
            "sampling.temperature",
            "sampling.top_k",
            "sampling.top_p",
            "sampling.repetition_penalty",
            "stop",
        ];
        assert_eq!(fields(generate(&request)), expected);
    }

    #[test]
    fn what_belongs_to_a_conversation_is_told_from_what_belongs_to_a_prompt() {
        let memory = Some(v1::MemoryOptions { recall_off: true, ..Default::default() });
        let prompt = v1::GenerateRequest {
            prompt: "text".into(),
            memory,
            tools: vec!["{}".into()],
            documents: vec![v1::ChatDocument::default()],
            template_variables: "{}".into(),
            control_tokens: true,
            ..Default::default()
        };
        assert_eq!(fields(generate(&prompt)), ["tools", "documents", "template_variables"]);
        let message = v1::ChatMessage {
            role: "<|im_end|>".into(),
            tool_calls: vec![v1::ToolCall::default(); TOOLS_MAX + 1],
            ..Default::default()
        };
        let chat = v1::GenerateRequest { prompt: String::new(), messages: vec![message], ..prompt };
        assert_eq!(fields(generate(&chat)), ["messages.role", "messages.tool_calls", "control_tokens"]);
    }

    #[test]
    fn metadata_is_bounded() {
        let start = |metadata: HashMap<String, String>| v1::IngestStart {
            memory: "m".into(),
            document_id: "d".into(),
            turn: HashMap::new(),
            metadata,
            mode: 0,
            ttl: None,
        };
        let pairs = |count: usize, bytes: usize| (0..count).map(|i| (format!("{i:03}"), "x".repeat(bytes))).collect();
        assert!(ingest_start(&start(pairs(64, 253))).is_ok());
        assert_eq!(fields(ingest_start(&start(pairs(65, 1)))), ["metadata"]);
        assert_eq!(fields(ingest_start(&start(pairs(64, 254)))), ["metadata"]);
        assert_eq!(fields(ingest_start(&start(pairs(1, 4097)))), ["metadata"]);
    }
}
