//! The measurements that the README quotes, one subcommand of `mnemon bench` each. Not for use by other programs, except
//! that the demo reads the same generated histories.
//!
//! # Layout
//!
//! From the lowest floor up; a module imports only from those above it in this table.
//!
//! | module | idea |
//! |---|---|
//! | `report` | JSON and plots, with the command and the machine |
//! | `plot` | lines over a logarithmic axis, as SVG |
//! | `host` | a server in this process; requests with their times |
//! | `load` | requests sent by many clients at once, timed |
//! | `grammar` | lines of the generated histories |
//! | `history` | the generated histories, and where in them facts stand |
//! | `vectors` | keys and queries: a model's, or generated |
//! | `recall` | facts planted in long histories, asked for |
//! | `answering` | ways to answer, beside each other |
//! | `retrieval` | ways to search, beside each other |
//! | `perplexity` | how much better a novel is predicted, the more of it is remembered |
//! | `needle` | facts of many kinds planted in novels, asked with memory and with passages in the prompt |
//! | `babilong` | facts of bAbI's stories scattered in novels, likewise |
//! | `chat` | evidence found in long conversations, by the service's search and by others |
//! | `unworded` | facts found that are asked for in other words |
//! | `search` | whether passages of a text find themselves, and how fast |
//! | `pareto` | what the settings of a memory cost and bring |
//! | `extrapolation` | position schemes at contexts longer than in training, with and without memory |
//! | `index` | the graph index beside those of other projects (`peers/index.py`) |
//! | `index_recall` | the graph index against exact search, while a model reads |
//! | `service` | searches through the running service, beside Milvus (`peers/service.py`) |
//! | `store` | the store alone: appends, bytes, opening |

pub mod history;

mod answering;
mod babilong;
mod chat;
mod extrapolation;
mod grammar;
mod host;
mod index;
mod index_recall;
mod load;
mod needle;
mod pareto;
mod perplexity;
mod plot;
mod recall;
mod report;
mod retrieval;
mod search;
mod service;
mod store;
mod unworded;
mod vectors;

use anyhow::Result;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Perplexity of held-out novels against the tokens of them that memory holds.
    Perplexity(perplexity::Arguments),
    /// Facts planted in long histories: exact answers, citations, updates, denials.
    Recall(recall::Arguments),
    /// Facts of many kinds planted in novels: a model with memory beside the same model with passages in its prompt.
    Needle(needle::Arguments),
    /// Facts of bAbI's stories scattered in novels, likewise.
    Babilong(babilong::Arguments),
    /// Evidence found in long conversations (BEAM): the service's search beside BM25 and sentence embeddings.
    Chat(chat::Arguments),
    /// Short answers from long conversations (BEAM): a model with memory beside the same model with passages in its prompt.
    ChatAnswers(chat::answers::Arguments),
    /// Facts planted in novels, searched for in words of which their sentences have none.
    Unworded(unworded::Arguments),
    /// Search through the service: whether passages of a long text find themselves, and how long it takes.
    Search(search::Arguments),
    /// Chunks recalled, chunk size, entry policy and stored type against perplexity, facts, time and bytes.
    Pareto(pareto::Arguments),
    /// Position schemes at 1 to 8 times the length in training: full attention against a window and memory.
    Extrapolation(extrapolation::Arguments),
    /// The graph index beside hnswlib, faiss and usearch: build, memory, recall and time of a search.
    Index(index::Arguments),
    /// Searches through the running service, by one and by many clients, beside Milvus.
    Service(service::Arguments),
    /// The store alone: durable appends beside plain writes, bytes on disk, opening, memory.
    Store(store::Arguments),
    /// Recall of the graph index against exact search, on the keys and queries of a real text.
    IndexRecall(index_recall::Arguments),
}

/// Measures, prints a table, and writes the results.
///
/// # Errors
/// If a file cannot be read or written, or a request fails.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Perplexity(arguments) => perplexity::run(&arguments).await,
        Command::Recall(arguments) => recall::run(&arguments).await,
        Command::Needle(arguments) => needle::run(&arguments).await,
        Command::Babilong(arguments) => babilong::run(&arguments).await,
        Command::Chat(arguments) => chat::run(&arguments).await,
        Command::ChatAnswers(arguments) => chat::answers::run(&arguments).await,
        Command::Unworded(arguments) => unworded::run(&arguments).await,
        Command::Search(arguments) => search::run(&arguments).await,
        Command::Pareto(arguments) => pareto::run(&arguments).await,
        Command::Extrapolation(arguments) => extrapolation::run(&arguments).await,
        Command::Index(arguments) => index::run(&arguments),
        Command::Service(arguments) => service::run(&arguments).await,
        Command::Store(arguments) => store::run(&arguments),
        Command::IndexRecall(arguments) => index_recall::run(&arguments),
    }
}
