//! The user's own text: passages of it are searched for and continued.

use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::Result;
use mnemon_bench::history::rank_of;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::session::{MEMORY, Session};
use super::summary::{Measures, Pair};
use crate::exit::Failure;
use crate::input::unreadable;
use crate::json;
use crate::render::{Ink, Ui, bar, bytes, count, excerpt, harmless, percent};

/// Where passages are taken, as shares of the text: all are searched for, the inner ones continued.
const DEPTHS: [f64; 5] = [0.03, 0.27, 0.5, 0.73, 0.97];

/// Bytes of a passage that are searched for, or given to continue.
const PASSAGE_BYTES: usize = 160;

/// Bytes after it that a continuation is compared with, and tokens generated for that.
const REST_BYTES: usize = 100;
const REST_TOKENS: u32 = 32;

/// Bytes of a text that make a token, about: English prose in the built-in model.
const BYTES_PER_TOKEN: f64 = 3.2;

/// Shorter texts show nothing.
const TEXT_BYTES_MIN: u64 = 8_000;

/// Hits looked at.
const HITS: u32 = 5;

pub(super) async fn run(
    path: &Path,
    tokens: Option<u64>,
    session: &Session<'_>,
    mut measures: Measures,
) -> Result<(Value, Measures)> {
    let ui = session.ui;
    let mut text = Text::open(path, tokens, session.score_bytes())?;
    let held_back = bytes(text.held_back.len() as u64);
    say(ui, || format!("It reads {} of {}; the {held_back} after that are held back.", bytes(text.read), text.name))?;
    let file = tokio::fs::File::open(path).await.map_err(|e| unreadable(path, &e))?;
    measures.reading = session.read(&text.name, text.read, file.take(text.read)).await?;
    let tokens = measures.reading.tokens;
    let windows = count(tokens / u64::from(session.model.window_tokens.max(1)));
    say(ui, || format!("It has read {} tokens, {windows} times what it sees at once.", count(tokens)))?;

    say(ui, || format!("\n{}", ui.paint(Ink::Bold, "Passages of the text, searched for")))?;
    let mut searches = Vec::new();
    for depth in DEPTHS {
        searches.push(search(session, &text.passage(depth)?).await?);
    }
    say(ui, || format!("\n{}", ui.paint(Ink::Bold, "Passages of the text, continued")))?;
    let (mut continuations, mut agreed, mut words) = (Vec::new(), Pair::default(), 0);
    for depth in &DEPTHS[1..DEPTHS.len() - 1] {
        let (value, of, agreement) = continuation(session, &text.passage(*depth)?, &mut measures).await?;
        continuations.push(value);
        words += of;
        agreed.with_memory += agreement.with_memory;
        agreed.without_memory += agreement.without_memory;
    }
    measures.success = Some(("words as in text", words, agreed));

    let perplexity = Pair {
        with_memory: session.score(&text.held_back, true).await?.perplexity,
        without_memory: session.score(&text.held_back, false).await?.perplexity,
    };
    measures.perplexity = Some((format!("of the {held_back} that were held back"), perplexity));
    let history = json!({"kind": "file", "bytes": text.read, "held_back_bytes": text.held_back.len()});
    Ok((json!({"history": history, "searches": searches, "continuations": continuations}), measures))
}

fn say(ui: &Ui, line: impl FnOnce() -> String) -> io::Result<()> {
    if ui.json() { Ok(()) } else { ui.line(line()) }
}

/// Searches for a passage, word for word; shows and returns where it came out.
async fn search(session: &Session<'_>, passage: &Passage) -> Result<Value> {
    const EXCERPT_INDENT: usize = 5;
    let ui = session.ui;
    let hits = session.client.search(&[MEMORY], &passage.text, HITS, false).await?;
    let byte_end = passage.byte_start + passage.text.len() as u64;
    let rank = rank_of(hits.iter().map(|hit| hit.chunk.as_ref()), passage.byte_start, byte_end);
    let score = hits.first().map_or(0.0, |hit| hit.score);
    let (mark, remark) = match rank {
        Some(1) => (ui.paint(Ink::Good, "✓"), format!("found first, score {score:.3}")),
        Some(rank) => (ui.paint(Ink::Warn, "~"), format!("found in place {rank} of {HITS}")),
        None => (ui.paint(Ink::Bad, "✗"), format!("not among the first {HITS}")),
    };
    say(ui, || format!("   {mark} {}  {}", ui.paint(Ink::Dim, &at(passage.byte_start)), remark))?;
    for line in excerpt(&passage.text, ui.width() - EXCERPT_INDENT, 1) {
        say(ui, || format!("{:EXCERPT_INDENT$}{}", "", ui.paint(Ink::Dim, &line)))?;
    }
    Ok(json!({"byte_start": passage.byte_start, "query": passage.text, "rank": rank, "hits": json::hits(&hits)}))
}

/// Lets the model continue a passage, with memory and without; shows and returns what came out: the JSON form, the
/// words of the text that follow, and how many of them each continuation has before it goes its own way.
async fn continuation(
    session: &Session<'_>,
    passage: &Passage,
    measures: &mut Measures,
) -> Result<(Value, usize, Pair)> {
    const BAR_COLUMNS: usize = 10;
    let ui = session.ui;
    let with = session.ask(&passage.text, true, REST_TOKENS, &[]).await?;
    let without = session.ask(&passage.text, false, REST_TOKENS, &[]).await?;
    measures.add(&with, &without);
    let rest: Vec<&str> = passage.rest.split_whitespace().collect();
    let agree = |text: &str| text.split_whitespace().zip(&rest).take_while(|(a, b)| a == *b).count();
    let agreement = Pair { with_memory: agree(&with.text) as f64, without_memory: agree(&without.text) as f64 };
    let bytes = (passage.byte_start, passage.byte_start + (passage.text.len() + passage.rest.len()) as u64);
    let rank = with.rank_of(bytes.0, bytes.1);

    let row = |name: &str, ink: Option<Ink>, text: &str| {
        let text = excerpt(&harmless(text), ui.width() - 17, 2).join(&format!("\n{:17}", ""));
        let text = ink.map_or_else(|| text.clone(), |ink| ui.paint(ink, &text));
        format!("   {}  {text}", ui.paint(Ink::Dim, &format!("{name:<12}")))
    };
    say(ui, || format!("   {}", ui.paint(Ink::Dim, &at(passage.byte_start))))?;
    say(ui, || row("prompt", Some(Ink::Dim), &passage.text))?;
    say(ui, || row("the text", None, &passage.rest))?;
    say(ui, || row("with memory", None, &with.text))?;
    say(ui, || row("without", None, &without.text))?;
    let drawn_on = with.citations.get(rank.map_or(0, |rank| rank - 1));
    let drew_on = match drawn_on.and_then(|c| c.chunk.as_ref().map(|chunk| (c.weight, chunk))) {
        None => "nothing".to_owned(),
        Some((weight, chunk)) => {
            let ink = if rank.is_some() { Ink::Good } else { Ink::Warn };
            let remark = rank.map_or("another passage".to_owned(), |rank| {
                format!("this passage, in place {rank} of {}", with.citations.len())
            });
            let bar = ui.paint(Ink::Key, &bar(f64::from(weight), BAR_COLUMNS));
            format!(
                "{bar} {}  {}  {}",
                percent(f64::from(weight)),
                ui.paint(ink, &remark),
                ui.paint(Ink::Dim, &at(chunk.span.unwrap_or_default().byte_start))
            )
        }
    };
    say(ui, || format!("   {}  {drew_on}\n", ui.paint(Ink::Dim, &format!("{:<12}", "drew on"))))?;
    let value = json!({
        "byte_start": passage.byte_start,
        "prompt": passage.text,
        "text_goes_on": passage.rest,
        "with_memory": with.as_json(),
        "without_memory": without.as_json(),
        "rank_of_passage": rank,
        "words_as_in_text": {"of": rest.len(), "with_memory": agreement.with_memory, "without_memory": agreement.without_memory},
    });
    Ok((value, rest.len(), agreement))
}

fn at(byte: u64) -> String {
    format!("at byte {}", count(byte))
}

/// A place in the text.
struct Passage {
    byte_start: u64,
    text: String,
    /// What follows `text`.
    rest: String,
}

/// The user's file: the part to read, and some text after it.
struct Text {
    file: File,
    name: String,
    /// Bytes from the start that the model reads.
    read: u64,
    held_back: String,
}

impl Text {
    /// The file is known to be UTF-8.
    fn open(path: &Path, tokens: Option<u64>, held_back_bytes: u64) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let length = file.metadata().map_err(|e| unreadable(path, &e))?.len();
        let wanted = tokens.map_or(length, |tokens| (tokens as f64 * BYTES_PER_TOKEN) as u64);
        let most = length - held_back_bytes.min(length / 4);
        let read = wanted.min(most);
        if read < TEXT_BYTES_MIN.min(length) || length < TEXT_BYTES_MIN {
            let least = bytes(TEXT_BYTES_MIN);
            return Err(Failure::usage(format!("{} of text are too little for a demo; it takes {least}", bytes(read)))
                .hint("mnemon demo, without --file, generates a history")
                .into());
        }
        let (before, text) =
            whole_characters(&mut file, read, held_back_bytes as usize).map_err(|e| unreadable(path, &e))?;
        let name = path.file_name().map_or_else(|| "text".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { file, name, read: before, held_back: text })
    }

    /// The passage at a share of the text that was read; it begins and ends with whole words.
    fn passage(&mut self, depth: f64) -> Result<Passage> {
        const WORD_BYTES: usize = 40;
        let wanted = PASSAGE_BYTES + REST_BYTES + 2 * WORD_BYTES;
        let from = ((self.read as f64 * depth) as u64).min(self.read.saturating_sub(wanted as u64));
        let (start, window) = whole_characters(&mut self.file, from, wanted)?;
        // Skip the word that the window may begin in the middle of.
        let skip = window.find(char::is_whitespace).unwrap_or(0);
        let skip = skip + window[skip..].find(|c: char| !c.is_whitespace()).unwrap_or(0);
        let window = &window[skip..];
        let cut = word_end(window, PASSAGE_BYTES);
        let end = word_end(window, cut + REST_BYTES);
        Ok(Passage {
            byte_start: start + skip as u64,
            text: window[..cut].to_owned(),
            rest: window[cut..end].to_owned(),
        })
    }
}

/// Reads `bytes` of a UTF-8 file from about `at` on, without the characters that are cut at either side; returns
/// where they begin, too.
fn whole_characters(file: &mut File, at: u64, bytes: usize) -> io::Result<(u64, String)> {
    file.seek(SeekFrom::Start(at))?;
    let mut read = Vec::with_capacity(bytes);
    file.take(bytes as u64).read_to_end(&mut read)?;
    let is_continuation = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    let begin = read.iter().take_while(is_continuation).count();
    let text = &read[begin..];
    let whole = std::str::from_utf8(text).map_or_else(|e| e.valid_up_to(), str::len);
    Ok((at + begin as u64, String::from_utf8_lossy(&text[..whole]).into_owned()))
}

/// The end of the last whole word within the first `most` bytes; `most` itself, about, if that is one word.
fn word_end(text: &str, most: usize) -> usize {
    let most = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if most == text.len() {
        return most;
    }
    text[..most].rfind(char::is_whitespace).filter(|at| *at > 0).unwrap_or(most)
}
