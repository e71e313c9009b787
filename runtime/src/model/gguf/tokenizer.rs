//! Metadata of a GGUF file to the text of a `tokenizer.json`.
//!
//! The text is written in one order, without maps of JSON values, because it is part of the model's fingerprint.

use std::collections::{HashMap, HashSet};

use serde::{Serialize, Serializer};
use serde_json::json;

use super::metadata::Gguf;
use super::reader::Value;
use crate::error::{Error, Result};

/// Kinds of tokens in `tokenizer.ggml.token_type`.
pub(super) const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// Longest token of a vocabulary with scores, whose every cut is tried.
const PIECE_BYTES_MAX: usize = 1024;

/// Words, numbers, punctuation and spaces apart, as GPT-2 has them.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// With digits one by one; Qwen 2 and 3.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// With digits in threes; Llama 3.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGITS: &str = r"\p{N}";
/// What llama.cpp applies where the converter did not know the model's patterns.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// What `tokenizer.ggml.pre` stands for.
struct Pre {
    /// Patterns that cut texts into words, one after the other.
    patterns: &'static [&'static str],
    /// Whether texts are brought to Unicode's form NFC first.
    nfc: bool,
    /// Whether words that are tokens are taken whole, whatever the merges.
    ignore_merges: bool,
    /// Whether texts begin with the bos token where the file does not say.
    bos: bool,
}

fn pre(name: &str) -> Option<Pre> {
    let plain = |patterns| Pre { patterns, nfc: false, ignore_merges: false, bos: false };
    match name {
        "gpt-2" | "gpt2" => Some(plain(&[GPT2])),
        "default" => Some(plain(&DEFAULT)),
        "smollm" => Some(plain(&[DIGITS, GPT2])),
        "qwen2" => Some(Pre { nfc: true, ..plain(&[QWEN2]) }),
        "llama-bpe" | "llama3" | "llama-v3" => Some(Pre { ignore_merges: true, bos: true, ..plain(&[LLAMA3]) }),
        _ => None,
    }
}

/// The vocabulary in the order of ids.
struct Vocabulary<'a>(Vec<(&'a str, u32)>);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[derive(Serialize)]
#[allow(clippy::struct_excessive_bools)] // the keys of the format
struct Added<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl Gguf {
    /// The text of a `tokenizer.json` that cuts texts as the file's tokenizer does.
    pub(in crate::model) fn tokenizer(&self) -> Result<String> {
        match self.needed_text("tokenizer.ggml.model")? {
            "gpt2" => self.byte_level(),
            "llama" => self.sentence_piece(),
            other => self.refuse_tokenizer("tokenizer.ggml.model", other),
        }
    }

    fn refuse_tokenizer<T>(&self, key: &str, name: &str) -> Result<T> {
        let why = format!(
            "'{name}' is a tokenizer that is not read from GGUF files; take the Hugging Face folder of the model"
        );
        self.invalid(key, why)
    }

    pub(super) fn kind(&self, id: usize) -> Result<i64> {
        let key = "tokenizer.ggml.token_type";
        match self.metadata.get(key) {
            None => Ok(NORMAL),
            Some(Value::Ints(kinds)) => Ok(kinds.get(id).copied().unwrap_or(NORMAL)),
            Some(_) => self.invalid(key, "it is no list of numbers"),
        }
    }

    /// Whether a token is one of those that texts cannot spell.
    pub(super) fn is_control(&self, id: usize) -> Result<bool> {
        Ok(self.kind(id)? == CONTROL)
    }

    /// The tokens in use, and those of them that are taken from texts whole.
    fn vocabulary(&self) -> Result<(Vocabulary<'_>, Vec<Added<'_>>)> {
        let mut seen = HashSet::new();
        let (mut vocabulary, mut added) = (Vec::new(), Vec::new());
        for (id, content) in self.tokens()?.iter().enumerate() {
            let kind = self.kind(id)?;
            if kind == UNUSED {
                continue;
            }
            if !seen.insert(content.as_str()) {
                return self.invalid("tokenizer.ggml.tokens", format!("token {id}, '{content}', is there twice"));
            }
            vocabulary.push((content.as_str(), id as u32));
            if matches!(kind, CONTROL | USER_DEFINED) {
                let special = kind == CONTROL;
                let id = id as u32;
                let (single_word, lstrip, rstrip, normalized) = (false, false, false, false);
                added.push(Added { id, content, single_word, lstrip, rstrip, normalized, special });
            }
        }
        Ok((Vocabulary(vocabulary), added))
    }

    /// BPE over bytes.
    fn byte_level(&self) -> Result<String> {
        let key = "tokenizer.ggml.pre";
        let Some(name) = self.text(key)? else {
            return self.invalid(
                key,
                "missing: the file does not say how texts are cut into words; take the Hugging Face folder of the model, or convert it again",
            );
        };
        let Some(Pre { patterns, nfc, ignore_merges, bos }) = pre(name) else {
            return self.refuse_tokenizer(key, name);
        };
        if name == "default" {
            tracing::warn!(path = %self.path.display(), "the file's tokenizer.ggml.pre is 'default': texts may be cut otherwise than in training");
        }
        let (vocabulary, added) = self.vocabulary()?;
        let merges = self.texts("tokenizer.ggml.merges")?.unwrap_or_default();
        let pairs: Option<Vec<(&str, &str)>> = merges.iter().map(|merge| merge.split_once(' ')).collect();
        let Some(pairs) = pairs else {
            return self.invalid("tokenizer.ggml.merges", "one of them is no pair of tokens");
        };
        let split = |pattern: &&str| {
            format!(
                r#"{{"type":"Split","pattern":{{"Regex":{}}},"behavior":"Isolated","invert":false}}"#,
                json!(pattern)
            )
        };
        let splits = patterns.iter().map(split).collect::<Vec<_>>().join(",");
        let byte_level = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}"#;
        let normalizer = if nfc { r#"{"type":"NFC"}"# } else { "null" };
        let model = self.model("null", false, ignore_merges, &vocabulary, &pairs)?;
        let pre_tokenizer = format!(r#"{{"type":"Sequence","pretokenizers":[{splits},{byte_level}]}}"#);
        self.document(&added, normalizer, &pre_tokenizer, byte_level, bos, &model)
    }

    /// BPE over characters, which merges first what has the highest score; what has no token is spelt in bytes.
    fn sentence_piece(&self) -> Result<String> {
        let (vocabulary, added) = self.vocabulary()?;
        let scores = match self.metadata.get("tokenizer.ggml.scores") {
            Some(Value::Floats(scores)) if scores.len() == self.tokens()?.len() => scores,
            _ => return self.invalid("tokenizer.ggml.scores", "one number for each token is needed"),
        };
        let merges = self.merges_by_score(&vocabulary, scores)?;
        let tokens = 0..self.tokens()?.len();
        let has_bytes = tokens.map(|id| self.kind(id)).any(|kind| matches!(kind, Ok(BYTE)));
        let unknown =
            self.special("tokenizer.ggml.unknown_token_id")?.map_or("null".into(), |(_, text)| json!(text).to_string());
        let model = self.model(&unknown, has_bytes, false, &vocabulary, &merges)?;
        let replaced = r#"{"type":"Replace","pattern":{"String":" "},"content":"▁"}"#;
        let spaced =
            r#"{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}"#;
        // A space before each text, and before what follows a control token.
        let (normalizer, decoder) = if self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
            (
                format!(r#"{{"type":"Sequence","normalizers":[{{"type":"Prepend","prepend":"▁"}},{replaced}]}}"#),
                format!(
                    r#"{{"type":"Sequence","decoders":[{spaced},{{"type":"Strip","content":" ","start":1,"stop":0}}]}}"#
                ),
            )
        } else {
            (replaced.into(), format!(r#"{{"type":"Sequence","decoders":[{spaced}]}}"#))
        };
        self.document(&added, &normalizer, "null", &decoder, true, &model)
    }

    /// Every way to make a token of two others, the highest score first.
    fn merges_by_score<'a>(&self, vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Result<Vec<(&'a str, &'a str)>> {
        let mut normal = HashMap::new();
        for &(text, id) in &vocabulary.0 {
            if self.kind(id as usize)? == NORMAL {
                normal.insert(text, id);
            }
        }
        let mut merges = Vec::new();
        for &(text, id) in vocabulary.0.iter().filter(|(text, _)| normal.contains_key(text)) {
            if text.len() > PIECE_BYTES_MAX {
                return self.invalid("tokenizer.ggml.tokens", format!("token {id} has {} bytes", text.len()));
            }
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                if let (Some(&l), Some(&r)) = (normal.get(left), normal.get(right)) {
                    merges.push((scores[id as usize], id, l, r, (left, right)));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
        Ok(merges.into_iter().map(|(.., pair)| pair).collect())
    }

    /// The model of a `tokenizer.json`; `unknown` is written already.
    fn model(
        &self,
        unknown: &str,
        byte_fallback: bool,
        ignore_merges: bool,
        vocabulary: &Vocabulary<'_>,
        merges: &[(&str, &str)],
    ) -> Result<String> {
        Ok(format!(
            concat!(
                r#"{{"type":"BPE","dropout":null,"unk_token":{},"continuing_subword_prefix":null,"#,
                r#""end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":{},"ignore_merges":{},"vocab":{},"merges":{}}}"#
            ),
            unknown,
            byte_fallback,
            ignore_merges,
            self.written(vocabulary)?,
            self.written(&merges)?,
        ))
    }

    /// The whole `tokenizer.json` of parts that are written already.
    fn document(
        &self,
        added: &[Added<'_>],
        normalizer: &str,
        pre_tokenizer: &str,
        decoder: &str,
        bos_by_default: bool,
        model: &str,
    ) -> Result<String> {
        Ok(format!(
            concat!(
                r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":{},"normalizer":{},"#,
                r#""pre_tokenizer":{},"post_processor":{},"decoder":{},"model":{}}}"#
            ),
            self.written(&added)?,
            normalizer,
            pre_tokenizer,
            self.post_processor(bos_by_default)?,
            decoder,
            model,
        ))
    }

    /// Puts bos before and eos after texts, where the file demands it.
    fn post_processor(&self, bos_by_default: bool) -> Result<String> {
        let token = |wanted: bool, key: &str| if wanted { self.special(key) } else { Ok(None) };
        let add_bos = self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default);
        let add_eos = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let bos = token(add_bos, "tokenizer.ggml.bos_token_id")?;
        let eos = token(add_eos, "tokenizer.ggml.eos_token_id")?;
        if bos.is_none() && eos.is_none() {
            return Ok("null".into());
        }
        let piece = |(_, text): (u32, &str)| format!(r#"{{"SpecialToken":{{"id":{},"type_id":0}}}}"#, json!(text));
        let sequence = |id: &str| format!(r#"{{"Sequence":{{"id":"{id}","type_id":0}}}}"#);
        let around = |inner: Vec<String>| {
            let all = bos.map(piece).into_iter().chain(inner).chain(eos.map(piece));
            all.collect::<Vec<_>>().join(",")
        };
        let special = |(id, text): (u32, &str)| {
            let text = json!(text);
            format!(r#"{text}:{{"id":{text},"ids":[{id}],"tokens":[{text}]}}"#)
        };
        let mut specials: Vec<String> = bos.into_iter().chain(eos).map(special).collect();
        specials.dedup();
        Ok(format!(
            r#"{{"type":"TemplateProcessing","single":[{}],"pair":[{}],"special_tokens":{{{}}}}}"#,
            around(vec![sequence("A")]),
            around(vec![sequence("A"), sequence("B")]),
            specials.join(","),
        ))
    }

    fn written(&self, value: &impl Serialize) -> Result<String> {
        serde_json::to_string(value).map_err(|error| Error::Damaged { path: self.path.clone(), why: error.to_string() })
    }
}
