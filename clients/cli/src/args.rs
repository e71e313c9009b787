//! The command line as typed. Nothing is resolved or checked against the world here.
// The comments are help text: backticks would be shown.
#![allow(clippy::doc_markdown)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use mnemon_runtime::HubName;

use crate::exit::EXIT_CODES;
use crate::limits::{parse_bytes, parse_tokens, parse_ttl};
use crate::render::Color;

/// Long-term memory for open language models.
///
/// Documents go in; the model reads each once and keeps the keys and values of its attention in a durable memory.
/// While it generates, it looks up the few passages that matter and attends to them. Every answer says which
/// passages it drew on.
#[derive(Debug, Parser)]
#[command(name = "mnemon", version, max_term_width = 110, after_long_help = after_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

fn after_help() -> String {
    format!(
        "\
Start here:
  mnemon demo                                      watch it work; nothing to prepare
  mnemon serve --data ./memories                   a server with the built-in model
  mnemon ingest books war_and_peace.txt --create   in a second terminal
  mnemon generate books \"Prince Andrew lay on the Pratzen Heights\"

{EXIT_CODES}

`mnemon COMMAND --help` explains a command, with examples."
    )
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Server to talk to.
    #[arg(long, global = true, value_name = "URL", env = "MNEMON_SERVER", default_value = mnemon_client::DEFAULT_ENDPOINT)]
    pub(crate) server: String,

    /// Token that the server asks for; better given in the environment than on the command line.
    #[arg(long, global = true, value_name = "TOKEN", env = "MNEMON_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    /// PEM file with the certificates to trust, for an https:// server with a certificate of your own.
    #[arg(long, global = true, value_name = "FILE", env = "MNEMON_CA")]
    pub(crate) ca: Option<PathBuf>,

    /// Write one JSON value to standard output; errors are JSON on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Write results only: no progress, no notes.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// When to use colours: always, never, or auto, which means on terminals, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Color::Auto, hide_possible_values = true)]
    pub(crate) color: Color,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    #[command(subcommand)]
    Memory(Memory),
    Ingest(Ingest),
    Check(Check),
    Compact(Compact),
    Export(Export),
    Import(Import),
    Reencode(Reencode),
    #[command(subcommand)]
    Documents(Documents),
    Search(Search),
    Generate(Generate),
    Score(Score),
    #[command(subcommand)]
    Model(Model),
    Demo(Demo),
    /// Measure Mnemon: what the README quotes, one subcommand each.
    #[command(subcommand)]
    Bench(mnemon_bench::Command),
}

/// Run the server.
///
/// Settings come from these flags, then MNEMON_* in the environment, then the TOML file of --config, then defaults.
/// Prints the address it listens on once it accepts requests. Ctrl-C or SIGTERM stops it after what it accepted is
/// durable; a second Ctrl-C stops it at once.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon serve                                            the built-in model, loopback only
  mnemon serve --data ./memories --model ./qwen3-0.6b     a model in the Hugging Face layout
  mnemon serve --model ./SmolLM2-135M-Instruct.gguf       a model in one GGUF file
  mnemon serve --model HuggingFaceTB/SmolLM2-135M         a model of the hub, downloaded once
  mnemon serve --listen 127.0.0.1:0 --json                any free port; prints it as JSON
  mnemon serve --config mnemon.toml --device cuda:0
  mnemon serve --store-only --listen 127.0.0.1:7200       memories for servers with a model, without one
  mnemon serve --store http://127.0.0.1:7200              a model whose memories that one keeps")]
pub(crate) struct Serve {
    /// Address to listen on; port 0 takes any free one. [default: 127.0.0.1:7117]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,

    /// Folder of the memories; made if it is missing. [default: mnemon-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Folder of a model in the Hugging Face layout, a GGUF file, or the name of a model of the hub. [default: the built-in model]
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<String>,

    /// auto, cpu or cuda:N. [default: auto]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// TOML file with settings; MNEMON_CONFIG names it as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Tokens of the local window. [default: the model's]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) window: Option<u32>,

    /// File that gives memory to a pretrained model (python -m mnemon_training.adapt makes one).
    #[arg(long, value_name = "FILE")]
    pub(crate) memory_adapter: Option<PathBuf>,

    /// File that says how a pretrained model uses memory (mnemon model profile makes one). [default: the one in the data
    /// folder, made at the first start]
    #[arg(long, value_name = "FILE", conflicts_with = "memory_adapter")]
    pub(crate) profile: Option<PathBuf>,

    /// Model for sentence embeddings, so that searches go by meaning as well: a folder or a name of the hub, of a BERT model such as
    /// all-MiniLM-L6-v2. What memories hold already is embedded in the background.
    #[arg(long, value_name = "DIR|ORG/NAME")]
    pub(crate) embedder: Option<String>,

    /// Positions that a request to a pretrained model may use: prompt, passages and answer. [default: 8192, at most what
    /// the model was trained with]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context_tokens: Option<u32>,

    /// Tokens of a chunk, the unit of storing and citing. Memories of other chunks, policies or types are refused.
    /// [default: the model's]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) chunk_tokens: Option<u32>,

    /// Which keys are searched: per_token, block_mean:N or representative:N. [default: the model's]
    #[arg(long, value_name = "POLICY")]
    pub(crate) entry_policy: Option<String>,

    /// Type of stored keys and values: f32, f16, bf16, int8 or int4. [default: int8]
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv_dtype: Option<String>,

    /// Tokens between durable commits while a document is read: what a crash may cost. [default: 4096]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) commit_tokens: Option<u32>,

    /// Keep memories for servers with a model, without one of its own.
    #[arg(long, conflicts_with_all = ["store", "model", "device", "window", "memory_adapter", "profile", "embedder"])]
    pub(crate) store_only: bool,

    /// Server that keeps the memories (one with --store-only), instead of a folder here. Its token comes from the TOML
    /// file or MNEMON_STORE_TOKEN.
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    pub(crate) store: Option<String>,

    /// PEM file with the certificates to trust of that server.
    #[arg(long, value_name = "FILE", requires = "store")]
    pub(crate) store_ca: Option<PathBuf>,

    /// PEM file with the server's certificate chain. Tokens of callers come from the TOML file or MNEMON_TOKENS.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// PEM file with its private key.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Listen where others can reach the server although TLS or tokens are missing.
    #[arg(long)]
    pub(crate) allow_insecure_remote: bool,

    /// How long generations may go on after a shutdown was asked for. [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) shutdown_grace: Option<u64>,

    /// Look of the log on standard error: text or json. [default: text; json with --json]
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], hide_possible_values = true)]
    pub(crate) log_format: Option<String>,

    /// What to log: error, warn, info, debug, trace, or a list such as info,mnemon_server=debug. [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,

    /// A bound on what callers may ask for, such as engine_queue=16; may be repeated.
    ///
    /// message_bytes, store_message_bytes, document_bytes, prompt_tokens, score_tokens, memories, tenant_memories,
    /// tenant_tokens, tenant_bytes, documents_per_memory, connections, streams_per_connection, calls, ingests,
    /// ingest_idle_s, transfers, engine_queue, store_calls, expiry_sweep_s, disk_free_bytes
    #[arg(long = "limit", value_name = "NAME=N")]
    pub(crate) limits: Vec<String>,

    /// A bound on memory for caches: index_bytes, chunk_bytes, catalog_bytes or reader_bytes; may be repeated.
    #[arg(long = "cache", value_name = "NAME=BYTES")]
    pub(crate) caches: Vec<String>,
}

/// Create, update, list, show and delete memories.
///
/// A memory is a named collection of documents, bound to the model that read them.
#[derive(Debug, Subcommand)]
pub(crate) enum Memory {
    /// Create an empty memory for the model being served.
    #[command(after_long_help = "\
Examples:
  mnemon memory create books
  mnemon memory create notes --description \"what the team decided\"
  mnemon memory create chats --document-ttl 30d --max-tokens 2M
  mnemon memory create scratch --ttl 12h --max-bytes 500MB")]
    Create {
        /// Name: 1 to 128 letters, digits, '.', '_' or '-'.
        memory: String,
        /// What it is for.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
        /// What a memory of a pretrained model keeps: attend (keys and values of all that is read; allows both ways of using
        /// passages) or reread (only what finds passages, and their text: a tenth of the bytes). What the model's profile uses if not given.
        #[arg(long, value_name = "MODE", value_parser = ["attend", "reread"], hide_possible_values = true)]
        mode: Option<String>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change how long a memory and its documents live, and how much it may hold.
    ///
    /// What is not given stays as it is; "none" takes a limit away. An update counts as a change of the memory, so that
    /// its --ttl restarts.
    #[command(after_long_help = "\
Examples:
  mnemon memory update chats --document-ttl 7d
  mnemon memory update chats --max-tokens none --max-bytes 2GB
  mnemon memory update scratch --ttl none")]
    Update {
        /// Name of the memory.
        memory: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// List memories by name.
    #[command(
        visible_alias = "ls",
        after_long_help = "\
Examples:
  mnemon memory list
  mnemon memory list --json | jq -r '.memories[].name'"
    )]
    List,
    /// Show what a memory holds, what it takes on disk, and which model made it.
    #[command(after_long_help = "\
Examples:
  mnemon memory show books
  mnemon memory show books --json | jq .stored_bytes")]
    Show {
        /// Name of the memory.
        memory: String,
    },
    /// Delete a memory with all its documents.
    #[command(
        visible_alias = "rm",
        after_long_help = "\
Asks first if a person is at the keyboard.

Examples:
  mnemon memory delete books
  mnemon memory delete books --yes"
    )]
    Delete {
        /// Name of the memory.
        memory: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// How long a memory and its documents live, and how much it may hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// The memory goes, with everything in it, so long after its last change: 90s, 15m, 12h, 30d, 1d12h; or none.
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub(crate) ttl: Option<Duration>,
    /// Documents go so long after their last commit, unless they were given a --ttl of their own; also those that are
    /// there already.
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub(crate) document_ttl: Option<Duration>,
    /// Tokens that the memory may hold, such as 500000, 500k or 2M; or none.
    #[arg(long, value_name = "N", value_parser = parse_tokens)]
    pub(crate) max_tokens: Option<u64>,
    /// Bytes that its files may take, such as 800000, 500MB or 2GiB; or none.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub(crate) max_bytes: Option<u64>,
}

impl Limits {
    /// Whether none is given.
    pub(crate) fn is_empty(&self) -> bool {
        self.ttl.is_none() && self.document_ttl.is_none() && self.max_tokens.is_none() && self.max_bytes.is_none()
    }
}

/// Read documents into a memory.
///
/// Each file becomes a document, named after the file. A file of any length is streamed; '-' reads standard input.
/// What was acknowledged survives a crash of the server; --resume continues an interrupted ingest where the last
/// durable chunk ends.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon ingest books war_and_peace.txt --create     create the memory, too
  mnemon ingest books *.txt                          a document for each file
  mnemon ingest books war_and_peace.txt --resume     after an interruption
  mnemon ingest talk today.txt --doc diary --append  let a document grow
  mnemon ingest chat today.txt --ttl 30d             forget it 30 days after it last grew
  journalctl -b | mnemon ingest logs - --doc boot    from standard input")]
pub(crate) struct Ingest {
    /// Name of the memory.
    pub(crate) memory: String,
    /// UTF-8 text files; '-' is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Name of the document; the file's name otherwise, "stdin" for standard input.
    #[arg(long, value_name = "ID")]
    pub(crate) doc: Option<String>,
    /// The text follows what the document holds already.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) append: bool,
    /// The text is the whole document again; what is durable already is skipped.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Create the memory if it does not exist.
    #[arg(long)]
    pub(crate) create: bool,
    /// Keep this with the document; may be repeated.
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// The text is a turn of a conversation, and this tells of it alone, such as speaker=Anna or date=2026-11-28; may be repeated. Shown to the
    /// model and with whatever is found there. A line feed is added if the text ends without one.
    #[arg(long = "turn", value_name = "KEY=VALUE")]
    pub(crate) turn: Vec<String>,
    /// Documents go so long after their last commit: 90s, 15m, 12h, 30d, 1d12h. None takes away what an earlier ingest
    /// gave them. [default: as the memory says]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    pub(crate) ttl: Option<Duration>,
}

/// Give back what was deleted, down to the last byte.
///
/// Afterwards no file of the server has a byte of what was deleted before. Many small files become few.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon compact
  mnemon compact books --json | jq .bytes_after")]
pub(crate) struct Compact {
    /// Name of the memory; all of them otherwise.
    pub(crate) memory: Option<String>,
}

/// Write a memory to one file: to keep, to move, to hand on.
///
/// The file holds the memory as it is when the command begins; the server goes on meanwhile. It appears when it is
/// whole. It holds all text in the clear: keep it as you keep the documents.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon export books                        to books.mnemon
  mnemon export books -o /backup/books.mnemon --force
  mnemon export books -o - | ssh other mnemon import -")]
pub(crate) struct Export {
    /// Name of the memory.
    pub(crate) memory: String,
    /// File to write; '-' is standard output. [default: NAME.mnemon]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Overwrite the file if it exists.
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Make a memory of a file that `mnemon export` wrote.
///
/// All of the file is verified; until then, and if anything is wrong with it, the server's memories stay as they are. A
/// memory of another model than the one being served can be kept and exported; to use it, re-encode it.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon import books.mnemon
  mnemon import books.mnemon --as old-books
  mnemon import books.mnemon --replace
  ssh other mnemon export books -o - | mnemon import -")]
pub(crate) struct Import {
    /// File to read; '-' is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Name of the memory; the one in the file otherwise.
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// If there is a memory of that name, take its place, at once, when all is verified.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Let the model being served read the documents of a memory again.
///
/// For memories that another model made: their text is kept, and so is the metadata of documents. Takes as long as
/// ingesting them. If it is interrupted, the same command goes on where it ended.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon reencode books --into books-v2      the old memory stays
  mnemon reencode books --replace            the new one takes its place, at once, when it is complete")]
pub(crate) struct Reencode {
    /// Name of the memory.
    pub(crate) memory: String,
    /// Name of the new memory. [default with --replace: NAME.reencode, until it is complete]
    #[arg(long, value_name = "NAME", required_unless_present = "replace")]
    pub(crate) into: Option<String>,
    /// Put the new memory in the place of the old one when it is complete, and delete the old one.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Verify every byte of a data folder that no server has open.
///
/// Exits with 0 if all is well, or was repaired, and with 7 if there is damage. A repair rebuilds what can be rebuilt,
/// tells what is lost (down to the bytes of a document), and moves what it could not use into DIR/damaged.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon check --data ./memories
  mnemon check --data ./memories --repair
  mnemon check --data ./memories --json | jq '.findings[].lost'")]
pub(crate) struct Check {
    /// Folder of the memories.
    #[arg(long, value_name = "DIR", default_value = "mnemon-data")]
    pub(crate) data: PathBuf,
    /// Rebuild what can be rebuilt.
    #[arg(long)]
    pub(crate) repair: bool,
}

/// List, show and delete the documents of a memory.
#[derive(Debug, Subcommand)]
pub(crate) enum Documents {
    /// List documents by name.
    #[command(
        visible_alias = "ls",
        after_long_help = "\
Examples:
  mnemon documents list books
  mnemon documents list books --json | jq -r '.documents[] | select(.complete | not) | .document_id'"
    )]
    List {
        /// Name of the memory.
        memory: String,
    },
    /// Show a document.
    #[command(after_long_help = "\
Examples:
  mnemon documents show books war_and_peace.txt")]
    Show {
        /// Name of the memory.
        memory: String,
        /// Name of the document.
        document: String,
    },
    /// Delete a document: it is never returned again.
    #[command(
        visible_alias = "rm",
        after_long_help = "\
Examples:
  mnemon documents delete books war_and_peace.txt"
    )]
    Delete {
        /// Name of the memory.
        memory: String,
        /// Name of the document.
        document: String,
    },
}

/// Find the passages that a text asks for.
///
/// By the words that passages share with it, rare ones most, whatever their form ("connection" finds "connected"); with a model
/// that was trained with memory, by the likeness of its keys as well; and by meaning, if the server has an embedder.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon search books \"the lofty sky, not clear yet still immeasurably lofty\"
  mnemon search books,notes \"who has the key?\" -k 3 --per-document 1
  mnemon search chats \"when do we meet?\" --meta speaker=Anna --from 2026-11
  mnemon search books - --json < question.txt | jq -r '.hits[0].chunk.text'")]
pub(crate) struct Search {
    /// Names of memories, separated by commas.
    #[arg(value_name = "MEMORY[,MEMORY]")]
    pub(crate) memories: Names,
    /// What to look for; '-' reads it from standard input.
    pub(crate) query: String,
    /// Passages wanted, 1 to 1000.
    #[arg(short, value_name = "N", default_value_t = 10)]
    pub(crate) k: u32,
    /// Scan every entry instead of walking the index: never misses.
    #[arg(long)]
    pub(crate) exact: bool,
    /// What to go by: words, keys, meaning (sentence embeddings), or all that there is.
    #[arg(long, value_name = "WHAT", default_value = "all", value_parser = ["all", "words", "keys", "meaning"], hide_possible_values = true)]
    pub(crate) by: String,
    /// Passages of one document at most, 1 to 1000; all may be of one otherwise.
    #[arg(long, value_name = "N")]
    pub(crate) per_document: Option<u32>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Which documents are seen.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only documents whose name begins with this.
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(crate) documents: String,
    /// Only documents with this metadata; may be given several times.
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Only documents of this time and later (metadata "date", or the last change): 2026, 2026-11, 2026-11-26 or 2026-11-26T12:30.
    #[arg(long, value_name = "DATE", default_value = "", hide_default_value = true)]
    pub(crate) from: String,
    /// Only documents of this time and earlier.
    #[arg(long, value_name = "DATE", default_value = "", hide_default_value = true)]
    pub(crate) until: String,
}

/// Continue a prompt, recalling from memories.
///
/// The text is streamed as it comes; below it stand the passages it drew on, each with its share of the attention
/// that the memory layers paid. With --quiet: the text alone.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon generate books \"Prince Andrew lay on the Pratzen Heights\" --max-tokens 64
  mnemon generate books \"Prince Andrew lay on the Pratzen Heights\" --no-memory     the same without memory
  mnemon generate talk - --stop \"User:\" < conversation.txt
  mnemon generate books \"Once\" --temperature 0.8 --seed 7 --json | jq .citations")]
pub(crate) struct Generate {
    /// Names of memories, separated by commas.
    #[arg(value_name = "MEMORY[,MEMORY]")]
    pub(crate) memories: Names,
    /// Text to continue; '-' reads it from standard input.
    pub(crate) prompt: String,
    /// Give the prompt to the model as a message of a conversation, if it has a chat template.
    #[arg(long)]
    pub(crate) chat: bool,
    /// Let control tokens that the prompt spells count, as in a rendered chat template; they are text otherwise.
    #[arg(long, conflicts_with = "chat")]
    pub(crate) control_tokens: bool,
    /// Tokens to generate at most.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_tokens: u32,
    /// 0 takes the most probable token; higher is bolder.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f32,
    /// The same seed gives the same text.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Choose among the K most probable tokens only.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Choose among the most probable tokens that make up this share, above 0, at most 1.
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Make tokens seen before less probable, by this factor.
    #[arg(long, value_name = "F")]
    pub(crate) repetition_penalty: Option<f32>,
    /// End before this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    pub(crate) recall: RecallArgs,
}

/// How much a model is surprised by a text, with memory or without.
///
/// Prints perplexity (lower is better; 1 is a text known by heart) and bits per byte.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon score books chapter.txt
  mnemon score books chapter.txt --no-memory
  mnemon score books page2.txt --context page1.txt
  head -c 2000 chapter.txt | mnemon score books - --json | jq .perplexity")]
pub(crate) struct Score {
    /// Names of memories, separated by commas.
    #[arg(value_name = "MEMORY[,MEMORY]")]
    pub(crate) memories: Names,
    /// UTF-8 text file; '-' is standard input.
    pub(crate) file: PathBuf,
    /// UTF-8 text file that stands before it: read, not scored.
    #[arg(long, value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) recall: RecallArgs,
}

/// A model, without a server.
#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Measure how a pretrained model uses memory, on text of our own: which heads retrieve, what memories keep, how many
    /// passages. Minutes on a CPU; nothing is trained. The first start of a server does the same.
    #[command(after_long_help = "\
Examples:
  mnemon model profile SmolLM2-135M-Instruct.gguf
  mnemon model profile ./qwen3-0.6b --output qwen3.json   then: mnemon serve --model ./qwen3-0.6b --profile qwen3.json")]
    Profile {
        /// Folder of a model in the Hugging Face layout, a GGUF file, or the name of a model of the hub.
        #[arg(value_name = "DIR|FILE.gguf|ORG/NAME")]
        model: String,
        /// File to write. [default: MODEL.profile.json in this folder]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The same seed gives the same profile.
        #[arg(long, value_name = "S", default_value_t = 1)]
        seed: u64,
        /// auto, cpu or cuda:N.
        #[arg(long, value_name = "DEVICE", default_value = "auto")]
        device: String,
    },
    /// Download a model from the Hugging Face hub into its usual cache (HF_HOME), at one commit, and verify each file. What was
    /// cut goes on where it ended.
    #[command(after_long_help = "\
Examples:
  mnemon model pull HuggingFaceTB/SmolLM2-135M-Instruct           safetensors
  mnemon model pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M        one GGUF file of many
  mnemon model pull HuggingFaceTB/SmolLM2-135M-Instruct@v1.0      a branch, tag or commit")]
    Pull {
        /// Name of the model; FILE: a GGUF file, or a part of its name that no other has.
        #[arg(value_name = "ORG/NAME[:FILE][@REVISION]")]
        model: HubName,
    },
    /// List the models that were downloaded, by the names that `--model` takes.
    List,
    /// Show what a model is, without loading it.
    Show {
        /// Folder of a model in the Hugging Face layout, a GGUF file, or the name of one that was downloaded.
        #[arg(value_name = "DIR|FILE.gguf|ORG/NAME[:FILE]")]
        model: String,
    },
    /// Delete a downloaded model, with all its files and revisions.
    Remove {
        /// Name of the model.
        #[arg(value_name = "ORG/NAME")]
        model: HubName,
    },
}

/// Names with commas between them: one argument, so that flags may stand behind it.
#[derive(Debug, Clone)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl From<String> for Names {
    fn from(text: String) -> Self {
        Self(text.split(',').map(str::to_owned).collect())
    }
}

/// How memory is used.
#[derive(Debug, Clone, Args)]
pub(crate) struct RecallArgs {
    /// Passages that a memory layer recalls at a time, 1 to 256; the model's own number otherwise.
    #[arg(long, value_name = "K")]
    pub(crate) top_k_chunks: Option<u32>,
    /// How a pretrained model uses passages: attend (by their stored keys and values) or reread (their tokens again). Its
    /// profile decides otherwise.
    #[arg(long, value_name = "MODE", value_parser = ["attend", "reread"], hide_possible_values = true)]
    pub(crate) mode: Option<String>,
    /// By what passages for a pretrained model are chosen: heads (its attention, and the words of the question), search (as `mnemon search`
    /// finds them) or both (a search where heads find nothing). [default: both with an embedder, else heads]
    #[arg(long, value_name = "BY", value_parser = ["heads", "search", "both"], hide_possible_values = true)]
    pub(crate) select: Option<String>,
    /// Passages that a pretrained model is shown, 1 to 64; its profile's number otherwise.
    #[arg(long, value_name = "N")]
    pub(crate) passages: Option<u32>,
    /// Use the text alone.
    #[arg(long)]
    pub(crate) no_memory: bool,
    /// Scan every entry instead of walking the index: never misses.
    #[arg(long)]
    pub(crate) exact: bool,
    /// Walk the index with this breadth, 1 to 4096: larger misses less and takes longer. The server chooses otherwise.
    #[arg(long, value_name = "N", conflicts_with = "exact")]
    pub(crate) ef_search: Option<u32>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

/// Watch it work: read a long history, then ask about it.
///
/// Starts a server of its own on a free port of this machine, with the built-in model and a temporary folder, both
/// gone afterwards. Lets the model read a generated history of an agent with facts planted in it, asks about facts
/// at every depth, with and without memory, and measures.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  mnemon demo                            100,000 tokens
  mnemon demo --tokens 1000000           ten times as long
  mnemon demo --model SmolLM2-135M-Instruct.gguf
  mnemon demo --file war_and_peace.txt   your own text: find passages, continue them
  mnemon demo --json > demo.json")]
pub(crate) struct Demo {
    /// Length of the history, about; with --file: read this much of it, all of it otherwise. [default: 100000; 8000 with a
    /// pretrained model]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=200_000_000))]
    pub(crate) tokens: Option<u64>,
    /// UTF-8 text file to read instead of a generated history.
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Seed of the generated history.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Model to use: a folder in the Hugging Face layout, a GGUF file, or the name of a model of the hub. Without it: the built-in model.
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    pub(crate) model: Option<String>,
    /// Profile of a pretrained model (mnemon model profile makes one). Without it the model is measured first.
    #[arg(long, value_name = "FILE", requires = "model")]
    pub(crate) profile: Option<PathBuf>,
    /// auto, cpu or cuda:N.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn definitions_are_sound() {
        super::Cli::command().debug_assert();
    }
}
