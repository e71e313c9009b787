//! Small models that differ in their position scheme alone, at contexts longer than they were trained with: with full
//! attention, and with a window and memory.
//!
//! The same tokens are scored each time: the last half of a training length. Before them stand as many tokens of the
//! same book as make up the context. With full attention the model reads all of them at once. With memory it reads one
//! training length, and what stands before that was read into memory in documents of a training length, so that
//! no position is ever larger than in training.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mnemon_runtime::{LoadOptions, Model, ModelSource};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Host, HostArguments, ScoreSum, Shape, forgetting, recalling};
use crate::plot::{Line, Plot};
use crate::report::{Output, texts};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of the models: sinusoidal, rotary and alibi (training/README.md tells how they are made).
    #[arg(long, value_name = "DIR", default_value = "models/extrapolation")]
    models: PathBuf,
    /// Folder of novels (.txt) that the models were not trained on.
    #[arg(long, value_name = "DIR")]
    novels: PathBuf,
    /// Contexts, in lengths that the models were trained with.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_parser = clap::value_parser!(u32).range(1..=64))]
    lengths: Vec<u32>,
    /// Passages, spread over the novels.
    #[arg(long, default_value_t = 64)]
    passages: usize,
    #[command(flatten)]
    output: Output,
}

/// A row of the table: the folder of its model, and whether its base is raised with the context (static NTK scaling).
struct Scheme {
    label: &'static str,
    folder: &'static str,
    ntk: bool,
}

const SCHEMES: [Scheme; 4] = [
    Scheme { label: "sinusoidal", folder: "sinusoidal", ntk: false },
    Scheme { label: "rotary", folder: "rotary", ntk: false },
    Scheme { label: "rotary, NTK", folder: "rotary", ntk: true },
    Scheme { label: "ALiBi", folder: "alibi", ntk: false },
];
const MEMORY: &str = "bench";

/// A book, and where in it tokens begin that a tokenizer would begin a word with: text between two such places has
/// the same tokens on its own.
struct Book {
    text: String,
    /// Index and first byte of the tokens that begin with a space.
    words: Vec<(usize, usize)>,
    tokens: usize,
}

/// What is scored, and the longest context before it, newest last.
struct Passage<'a> {
    book: &'a Book,
    /// Index of the token after the last one.
    end: usize,
}

impl Book {
    fn new(model: &Model, text: String) -> Result<Self> {
        let encoding = model
            .tokenizer()
            .encode(text.as_str(), false)
            .map_err(|error| anyhow::anyhow!("a novel cannot be tokenized: {error}"))?;
        let starts = encoding.get_offsets().iter().map(|&(start, _)| start).enumerate();
        let words = starts.filter(|&(_, start)| text.as_bytes().get(start) == Some(&b' ')).collect();
        Ok(Self { words, tokens: encoding.len(), text })
    }

    /// First byte of the first word at or after a token.
    fn byte(&self, token: usize) -> usize {
        let at = self.words.partition_point(|&(index, _)| index < token);
        self.words.get(at).map_or(self.text.len(), |&(_, byte)| byte)
    }

    /// Text of about the tokens `from..to`, never more.
    fn slice(&self, from: usize, to: usize) -> &str {
        let before = self.words.partition_point(|&(index, _)| index <= to).checked_sub(1);
        let end = before.and_then(|at| self.words.get(at)).map_or(0, |&(_, byte)| byte);
        self.text.get(self.byte(from)..end).unwrap_or_default()
    }
}

impl Passage<'_> {
    /// The scored half length, and the context that makes it up to `tokens`.
    fn scored(&self, length: usize, tokens: usize) -> (&str, &str) {
        let middle = self.end - length / 2;
        // Both sides of the border have to be cut at the same word.
        let border = self.book.byte(middle);
        let whole = self.book.slice(self.end - tokens, self.end);
        let first = self.book.byte(self.end - tokens);
        whole.split_at_checked(border - first).unwrap_or((whole, ""))
    }

    /// What stands before the last training length, in documents of one each, oldest first.
    fn documents(&self, length: usize, tokens: usize) -> impl Iterator<Item = &str> {
        let start = self.end - tokens;
        (0..tokens / length - 1).map(move |n| self.book.slice(start + n * length, start + (n + 1) * length))
    }
}

/// A scheme at one context.
struct Point {
    context: u32,
    full: f64,
    memory: Option<f64>,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let first = open(&arguments.models.join(SCHEMES[0].folder))?;
    let length = first.config().max_position_embeddings;
    let books: Vec<Book> =
        texts(&arguments.novels)?.into_iter().map(|(_, text)| Book::new(&first, text)).collect::<Result<_>>()?;
    let longest = *arguments.lengths.iter().max().context("--lengths is empty")? as usize * length;
    let passages = spread(&books, arguments.passages, longest)?;
    println!("trained with {length} tokens; perplexity of {} x {} tokens", passages.len(), length / 2);
    println!("{:<14} {:>8} {:>16} {:>18}", "positions", "context", "full attention", "window and memory");
    let (mut rows, mut described) = (Vec::new(), None);
    for scheme in &SCHEMES {
        let mut points = Vec::new();
        for &times in &arguments.lengths {
            let (full, model) = full_attention(arguments, scheme, times, length, &passages).await?;
            // Scaling changes nothing within the training length, which is all that a window sees.
            let memory =
                if scheme.ntk { None } else { Some(remembering(arguments, scheme, times, length, &passages).await?) };
            let context = times * length as u32;
            let shown = memory.map_or_else(|| "as rotary".to_owned(), |perplexity| format!("{perplexity:.2}"));
            println!("{:<14} {context:>8} {full:>16.2} {shown:>18}", scheme.label);
            points.push(Point { context, full, memory });
            described.get_or_insert(model);
        }
        rows.push((scheme, points));
    }
    let results = json!({
        "trained_length": length,
        "tokens_scored": passages.len() * (length / 2),
        "schemes": rows.iter().map(|(scheme, points)| scheme_json(scheme, points)).collect::<Vec<_>>(),
    });
    let model = described.context("--lengths is empty")?;
    arguments.output.write("extrapolation", &model, &results, &plot(&rows))
}

fn open(folder: &Path) -> Result<Model> {
    let source = ModelSource::Directory(folder.to_owned());
    Model::load(&source, &LoadOptions::default()).with_context(|| {
        format!(
            "a model of the comparison cannot be loaded from {}; training/README.md tells how it is made",
            folder.display()
        )
    })
}

/// As many ends of passages as wanted, evenly in the second half of each book.
fn spread(books: &[Book], count: usize, longest: usize) -> Result<Vec<Passage<'_>>> {
    let each = count.div_ceil(books.len());
    let mut passages = Vec::new();
    for book in books {
        let (first, last) = (book.tokens / 2, book.tokens.saturating_sub(1));
        anyhow::ensure!(first > longest, "a novel has {} tokens; {} are needed", book.tokens, 2 * longest);
        let place = |n: usize| first + (last - first) * n / each;
        passages.extend((0..each).map(|n| Passage { book, end: place(n) }));
    }
    passages.truncate(count);
    Ok(passages)
}

/// Perplexity with a window over the whole context.
async fn full_attention(
    arguments: &Arguments,
    scheme: &Scheme,
    times: u32,
    length: usize,
    passages: &[Passage<'_>],
) -> Result<(f64, mnemon_client::v1::Model)> {
    let folder = arguments.models.join(scheme.folder);
    let scaled = if scheme.ntk { Some(with_ntk(&folder, times)?) } else { None };
    let folder = scaled.as_ref().map_or(folder.as_path(), TempDir::path);
    let tokens = times as usize * length;
    let shape = Shape { window: Some(tokens as u32), ..Shape::default() };
    let host = Host::start_with(&HostArguments::for_model(folder), &shape).await?;
    host.client.create_memory(MEMORY, "of mnemon bench").await?;
    let mut sum = ScoreSum::default();
    for passage in passages {
        let (context, text) = passage.scored(length, tokens);
        sum.add(&host.client.score_after(context, text, forgetting(MEMORY)).await?);
    }
    let model = host.client.model().await?;
    host.stop().await?;
    Ok((sum.perplexity(), model))
}

/// Perplexity with one training length in the window, and the rest in memory.
async fn remembering(
    arguments: &Arguments,
    scheme: &Scheme,
    times: u32,
    length: usize,
    passages: &[Passage<'_>],
) -> Result<f64> {
    let folder = arguments.models.join(scheme.folder);
    let host = Host::start_with(&HostArguments::for_model(&folder), &Shape::default()).await?;
    let mut sum = ScoreSum::default();
    for passage in passages {
        host.client.create_memory(MEMORY, "of mnemon bench").await?;
        for (n, text) in passage.documents(length, times as usize * length).enumerate() {
            host.read(MEMORY, &format!("{n:03}"), text).await?;
        }
        let (context, text) = passage.scored(length, length);
        sum.add(&host.client.score_after(context, text, recalling(MEMORY)).await?);
        host.client.delete_memory(MEMORY).await?;
    }
    host.stop().await?;
    Ok(sum.perplexity())
}

/// A copy of a rotary model whose base is raised for a context `times` as long.
fn with_ntk(folder: &Path, times: u32) -> Result<TempDir> {
    let copy = tempfile::tempdir().context("no temporary folder can be made")?;
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["rope_scaling"] = json!({"rope_type": "ntk", "factor": f64::from(times)});
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    Ok(copy)
}

fn scheme_json(scheme: &Scheme, points: &[Point]) -> Value {
    let point =
        |p: &Point| json!({"context_tokens": p.context, "full_attention": p.full, "window_and_memory": p.memory});
    json!({"positions": scheme.label, "perplexity": points.iter().map(point).collect::<Vec<_>>()})
}

fn plot(rows: &[(&Scheme, Vec<Point>)]) -> String {
    let line = |label: String, points: &[Point], pick: &dyn Fn(&Point) -> Option<f64>| Line {
        label,
        points: points.iter().filter_map(|p| Some((u64::from(p.context), pick(p)?))).collect(),
        faint: false,
    };
    let full = rows.iter().map(|(scheme, points)| line(scheme.label.to_owned(), points, &|p| Some(p.full)));
    let memory = rows
        .iter()
        .filter(|(scheme, _)| !scheme.ntk)
        .map(|(scheme, points)| line(format!("{}, memory", scheme.label), points, &|p| p.memory));
    Plot {
        title: "Contexts longer than in training",
        x: "tokens of context",
        y: "perplexity of the last tokens",
        lines: full.chain(memory).collect(),
        y_range: None,
    }
    .svg()
}
