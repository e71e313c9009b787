//! Requests sent by many clients at once, each over a connection of its own, as bytes that were made before: so that two servers are
//! measured by the same client, and the client does as little as can be.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Messages as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// A call of one server, and the requests to send in turn.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) endpoint: String,
    pub(crate) path: PathAndQuery,
    pub(crate) requests: std::sync::Arc<Vec<Bytes>>,
}

/// What came of it.
pub(crate) struct Load {
    pub(crate) calls_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Load {
    pub(crate) fn to_json(&self) -> Value {
        json!({"calls_per_second": self.calls_per_second, "p50_ms": self.p50_ms, "p99_ms": self.p99_ms})
    }
}

/// Sends requests by `clients` clients, each waiting for its answer before it asks again, for `time`.
pub(crate) async fn load(target: &Target, clients: usize, time: Duration) -> Result<Load> {
    let mut tasks = Vec::new();
    for client in 0..clients {
        let channel = Channel::from_shared(target.endpoint.clone())?.connect().await?;
        let target = target.clone();
        tasks.push(tokio::spawn(async move { ask(&target, channel, client, time).await }));
    }
    let start = Instant::now();
    let mut times = Vec::new();
    for task in tasks {
        times.append(&mut task.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Ok(Load { calls_per_second: times.len() as f64 / seconds, p50_ms: at(0.5), p99_ms: at(0.99) })
}

async fn ask(target: &Target, channel: Channel, client: usize, time: Duration) -> Result<Vec<Duration>> {
    let mut grpc = Grpc::new(channel);
    let start = Instant::now();
    let mut times = Vec::new();
    // Clients begin at different requests.
    for request in target.requests.iter().cycle().skip(client * 37) {
        let asked = Instant::now();
        grpc.ready().await?;
        let answer: Bytes = grpc.unary(Request::new(request.clone()), target.path.clone(), Raw).await?.into_inner();
        anyhow::ensure!(!answer.is_empty(), "{} answered nothing", target.endpoint);
        times.push(asked.elapsed());
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(times)
}
