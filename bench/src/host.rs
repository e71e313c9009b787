//! A server in this process on a free loopback port, over a folder that goes away with it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mnemon_client::{Client, ConnectOptions, IngestOptions, v1};
use mnemon_server::{Embedded, Settings};
use tempfile::TempDir;

use crate::report::line_start;

/// The model to measure, and where its memories are kept meanwhile.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HostArguments {
    /// A folder in the Hugging Face layout, a .gguf file, or an id on the hub. Without it: the built-in model.
    #[arg(long, value_name = "DIR|FILE|HUB_ID")]
    model: Option<String>,
    /// Folder for the memories; they are removed at the end. Without it: the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Profile of a pretrained model, as `mnemon model profile` makes it. Without it the model is measured first.
    #[arg(long, value_name = "FILE", requires = "model")]
    profile: Option<PathBuf>,
}

impl HostArguments {
    /// Whether a model is named: one that was not trained with memory, as far as benches are concerned.
    pub(crate) fn names_model(&self) -> bool {
        self.model.is_some()
    }

    /// A temporary folder for memories, removed when dropped.
    fn folder(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("mnemon-bench-");
        match &self.scratch {
            Some(scratch) => builder.tempdir_in(scratch),
            None => builder.tempdir(),
        }
        .context("no folder for the memories can be made; name one with --scratch")
    }

    /// For the model in a folder.
    pub(crate) fn for_model(folder: &Path) -> Self {
        Self { model: Some(folder.display().to_string()), scratch: None, profile: None }
    }
}

/// What a server does, where it differs from the model's own settings.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) window: Option<u32>,
    /// Positions of a request to a pretrained model.
    pub(crate) context_tokens: Option<u32>,
    pub(crate) chunk_tokens: Option<u32>,
    pub(crate) entry_policy: Option<&'static str>,
    pub(crate) kv_dtype: Option<&'static str>,
}

/// The server and a client of it.
pub(crate) struct Host {
    pub(crate) client: Client,
    server: Embedded,
    /// What goes away at the end; `None`: the memories stay.
    folder: Option<TempDir>,
}

/// What the model said, and when.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) finish: v1::GenerateFinish,
    /// From the request to the first token, as the client saw it.
    pub(crate) first_token: Duration,
    /// From the request to the end.
    pub(crate) total: Duration,
}

impl Host {
    pub(crate) async fn start(arguments: &HostArguments) -> Result<Self> {
        Self::start_with(arguments, &Shape::default()).await
    }

    /// A server whose memories have a shape of their own.
    pub(crate) async fn start_with(arguments: &HostArguments, shape: &Shape) -> Result<Self> {
        Self::start_with_embedder(arguments, shape, None).await
    }

    /// A server whose searches go by meaning as well, if there is an embedder.
    pub(crate) async fn start_with_embedder(
        arguments: &HostArguments,
        shape: &Shape,
        embedder: Option<&Path>,
    ) -> Result<Self> {
        let folder = arguments.folder()?;
        let (client, server) = serve(arguments, shape, embedder, folder.path()).await?;
        Ok(Self { client, server, folder: Some(folder) })
    }

    /// A server on a folder that stays.
    pub(crate) async fn start_at(
        arguments: &HostArguments,
        shape: &Shape,
        embedder: Option<&Path>,
        data: &Path,
    ) -> Result<Self> {
        let (client, server) = serve(arguments, shape, embedder, data).await?;
        Ok(Self { client, server, folder: None })
    }

    /// Waits until the server has embedded all chunks of a memory; at once if it has no embedder.
    pub(crate) async fn wait_for_embeddings(&self, memory: &str) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(200);
        loop {
            let memory = self.client.get_memory(memory).await?;
            if memory.embedded_chunks.is_none_or(|embedded| embedded >= memory.chunks) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.server.stop().await?;
        match self.folder {
            Some(folder) => folder.close().context("the memories of the measurement cannot be removed"),
            None => Ok(()),
        }
    }

    /// Bytes of a token of this model, measured on the beginning of a text.
    pub(crate) async fn bytes_per_token(&self, text: &str) -> Result<f64> {
        const MEMORY: &str = "sample";
        let sample = &text[..line_start(text, 100_000)];
        self.client.create_memory(MEMORY, "of mnemon bench").await?;
        let tokens = self.read(MEMORY, "sample", sample).await?;
        self.client.delete_memory(MEMORY).await?;
        Ok(sample.len() as f64 / tokens.max(1) as f64)
    }

    /// Reads a text into a document; returns its tokens.
    pub(crate) async fn read(&self, memory: &str, document_id: &str, text: &str) -> Result<u64> {
        let end = self.client.ingest(memory, document_id, IngestOptions::default(), text.as_bytes(), |_| ()).await?;
        Ok(end.durable_tokens)
    }

    /// The most probable continuation, up to a line break.
    pub(crate) async fn ask(&self, prompt: &str, memory: v1::MemoryOptions, max_tokens: u32) -> Result<Answer> {
        let request = v1::GenerateRequest {
            prompt: prompt.to_owned(),
            memory: Some(memory),
            max_tokens: Some(max_tokens),
            stop: vec!["\n".to_owned()],
            ..v1::GenerateRequest::default()
        };
        Ok(self.generate(request).await?)
    }

    /// The answer to a request.
    pub(crate) async fn generate(&self, request: v1::GenerateRequest) -> mnemon_client::Result<Answer> {
        let begun = Instant::now();
        let mut stream = self.client.generate(request).await?;
        let (mut text, mut finish, mut first_token) = (String::new(), v1::GenerateFinish::default(), None);
        while let Some(piece) = stream.message().await? {
            if first_token.is_none() && !piece.token_ids.is_empty() {
                first_token = Some(begun.elapsed());
            }
            text.push_str(&piece.text);
            if let Some(end) = piece.finish {
                finish = end;
            }
        }
        let total = begun.elapsed();
        Ok(Answer { text, finish, first_token: first_token.unwrap_or(total), total })
    }
}

/// Starts a server on a free port, and connects to it.
async fn serve(
    arguments: &HostArguments,
    shape: &Shape,
    embedder: Option<&Path>,
    data: &Path,
) -> Result<(Client, Embedded)> {
    let defaults = Settings::default();
    let mut limits = defaults.limits;
    // What fits the window may be asked.
    let longest = shape.window.unwrap_or(0).max(shape.context_tokens.unwrap_or(0));
    limits.prompt_tokens = limits.prompt_tokens.max(longest.into());
    let settings = Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        data: data.to_owned(),
        model: arguments.model.clone().unwrap_or(defaults.model),
        window: shape.window,
        profile: arguments.profile.clone(),
        embedder: embedder.map(|folder| folder.display().to_string()),
        context_tokens: shape.context_tokens.unwrap_or(defaults.context_tokens),
        chunk_tokens: shape.chunk_tokens,
        entry_policy: shape.entry_policy.map(str::to_owned),
        kv_dtype: shape.kv_dtype.map(str::to_owned),
        shutdown_grace: Duration::from_secs(1),
        limits,
        ..Settings::default()
    };
    let server = Embedded::start(settings).await?;
    let options = ConnectOptions { endpoint: server.endpoint(), ..ConnectOptions::default() };
    Ok((Client::connect(options).await?, server))
}

/// Scores of several texts, added up.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ScoreSum {
    pub(crate) tokens: u64,
    pub(crate) log_probability: f64,
}

impl ScoreSum {
    pub(crate) fn add(&mut self, score: &v1::ScoreResponse) {
        self.tokens += score.tokens;
        self.log_probability += score.log_probability;
    }

    pub(crate) fn perplexity(self) -> f64 {
        (-self.log_probability / self.tokens.max(1) as f64).exp()
    }
}

/// Options of a request that recalls from one memory.
pub(crate) fn recalling(memory: &str) -> v1::MemoryOptions {
    v1::MemoryOptions { memories: vec![memory.to_owned()], ..v1::MemoryOptions::default() }
}

/// Options of a request that recalls nothing.
pub(crate) fn forgetting(memory: &str) -> v1::MemoryOptions {
    v1::MemoryOptions { recall_off: true, ..recalling(memory) }
}
