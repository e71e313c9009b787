//! The numbers at the end of the demo: with memory and without, side by side.

use std::io;
use std::time::Duration;

use mnemon_client::v1;
use serde_json::{Value, json};

use super::session::{Answer, Reading};
use crate::render::{Ink, Ui, bar, bytes, count, duration, pairs};

/// A number with memory, and without.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pair {
    pub(super) with_memory: f64,
    pub(super) without_memory: f64,
}

/// Milliseconds of generated tokens.
#[derive(Debug, Clone, Copy, Default)]
struct Decode {
    ms: f64,
    tokens: u64,
}

impl Decode {
    fn add(&mut self, usage: &v1::Usage) {
        self.ms += usage.decode_ms_per_token * f64::from(usage.generated_tokens);
        self.tokens += u64::from(usage.generated_tokens);
    }

    fn mean(&self) -> f64 {
        self.ms / (self.tokens.max(1) as f64)
    }
}

/// What the demo measures.
#[derive(Debug, Clone, Default)]
pub(super) struct Measures {
    pub(super) reading: Reading,
    /// What was counted, such as "exact answers", how often it could have been, and how often it was.
    pub(super) success: Option<(&'static str, usize, Pair)>,
    /// Perplexity of a text that was not read, and what text that is.
    pub(super) perplexity: Option<(String, Pair)>,
    decode_with: Decode,
    decode_without: Decode,
}

impl Measures {
    /// Counts the time of an answer with memory and of one without.
    pub(super) fn add(&mut self, with_memory: &Answer, without_memory: &Answer) {
        self.decode_with.add(&with_memory.usage);
        self.decode_without.add(&without_memory.usage);
    }

    fn decode(&self) -> Pair {
        Pair { with_memory: self.decode_with.mean(), without_memory: self.decode_without.mean() }
    }

    pub(super) fn as_json(&self) -> Value {
        let pair = |p: Pair| json!({"with_memory": p.with_memory, "without_memory": p.without_memory});
        let mut value = json!({"ingest": self.reading.as_json(), "decode_ms_per_token": pair(self.decode())});
        if let Some((what, of, counted)) = &self.success {
            value[what.replace(' ', "_")] = pair(*counted);
            value[what.replace(' ', "_")]["of"] = json!(of);
        }
        if let Some((_, perplexity)) = &self.perplexity {
            value["perplexity"] = pair(*perplexity);
        }
        value
    }
}

/// Bytes stored for a token of text.
pub(super) fn per_token(stored: u64, tokens: u64) -> f64 {
    stored as f64 / tokens.max(1) as f64
}

/// Shows everything measured.
pub(super) fn show(ui: &Ui, measures: &Measures, memory: &v1::Memory, took: Duration) -> io::Result<()> {
    ui.line("")?;
    let heading = format!("{:<18}{:<29}{}", "", "with memory", "without memory");
    ui.line(ui.paint(Ink::Bold, &heading))?;
    if let Some((what, of, counted)) = &measures.success {
        compare(ui, what, *counted, *of as f64, |n| format!("{n:.0} of {of}"))?;
    }
    if let Some((_, perplexity)) = &measures.perplexity {
        let most = perplexity.with_memory.max(perplexity.without_memory);
        compare(ui, "perplexity", *perplexity, most, |n| format!("{n:.2}"))?;
    }
    let decode = measures.decode();
    let most = decode.with_memory.max(decode.without_memory);
    compare(ui, "time per token", decode, most, |n| format!("{n:.1} ms"))?;
    if let Some((text, _)) = &measures.perplexity {
        ui.paragraph(Some(Ink::Dim), &format!("perplexity (lower is better) {text}"))?;
    }
    ui.line("")?;
    let reading = &measures.reading;
    let rows = [
        (
            "read",
            format!(
                "{} tokens in {}, {} tokens/s",
                count(reading.tokens),
                duration(reading.elapsed),
                count(reading.tokens_per_second() as u64)
            ),
        ),
        (
            "on disk",
            format!(
                "{}, {:.0} bytes a token (whose text has {:.1})",
                bytes(memory.stored_bytes),
                per_token(memory.stored_bytes, memory.tokens),
                per_token(memory.text_bytes, memory.tokens),
            ),
        ),
        ("index", index(memory)),
        ("all in all", duration(took)),
    ];
    ui.line(pairs(ui, &rows))
}

fn index(memory: &v1::Memory) -> String {
    let entries = count(memory.entries);
    match memory.index_bytes {
        0 => format!("{entries} entries, searched by scanning; no graph yet"),
        graph => format!("{entries} entries, {}", bytes(graph)),
    }
}

/// One line: a name, and for each side a number with a bar.
fn compare(ui: &Ui, name: &str, pair: Pair, full: f64, show: impl Fn(f64) -> String) -> io::Result<()> {
    const BAR_COLUMNS: usize = 16;
    let side = |value: f64, ink| {
        let bar = bar(value / full.max(f64::MIN_POSITIVE), BAR_COLUMNS);
        format!("{:<9} {}", show(value), ui.paint(ink, &bar))
    };
    let (with, without) = (side(pair.with_memory, Ink::Key), side(pair.without_memory, Ink::Dim));
    let line = format!("{}{with}   {without}", ui.paint(Ink::Dim, &format!("{name:<18}")));
    ui.line(line.trim_end())
}
