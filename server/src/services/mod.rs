//! The gRPC services: the contract's three, health and reflection.
//!
//! | file | calls |
//! |---|---|
//! | `memory.rs` | CreateMemory, UpdateMemory, GetMemory, ListMemories, DeleteMemory, ListDocuments, GetDocument, DeleteDocument |
//! | `forward.rs` | the same, of a store on another machine |
//! | `store/` | ChunkStore |
//! | `no_model.rs` | those of a server without a model: all are refused |
//! | `recall.rs` | GetModel, and the way to the calls below |
//! | `encode.rs` | a document on the engine: what `ingest.rs` and `reencode.rs` run |
//! | `export.rs`, `import.rs`, `reencode.rs` | whole memories: the call of that name |
//! | `ingest.rs`, `search.rs`, `generate.rs`, `score.rs` | the call of that name |

mod asked;
mod encode;
mod export;
mod forward;
mod generate;
mod import;
mod ingest;
mod long_prompt;
mod memory;
mod no_model;
mod recall;
mod reencode;
mod score;
mod search;
mod select;
mod store;

use std::sync::Arc;

use mnemon_proto::v1::chunk_store_server::ChunkStoreServer;
use mnemon_proto::v1::memory_service_server::MemoryServiceServer;
use mnemon_proto::v1::recall_service_server::RecallServiceServer;
use mnemon_proto::v1::{chunk_store_server, memory_service_server, recall_service_server};
use mnemon_runtime::Model;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::forward::ForwardedCalls;
use self::memory::MemoryCalls;
use self::no_model::NoModelCalls;
use self::recall::RecallCalls;
use self::store::StoreCalls;
use crate::auth;
use crate::error::{Error, Result};
use crate::memories::Backend;
use crate::remote::RemoteStore;
use crate::state::{AppState, ModelState};

/// What health can be asked about: the server as a whole, and each of the services that it may have.
const SERVICES: [&str; 4] =
    ["", memory_service_server::SERVICE_NAME, recall_service_server::SERVICE_NAME, chunk_store_server::SERVICE_NAME];

/// All services, and what tells whether they serve. A server without a model says so to calls of `RecallService`; one whose memories
/// are kept elsewhere has no `ChunkStore`. Health and reflection answer everybody: they show nothing that is not public.
pub(crate) async fn routes(app: &Arc<AppState>, state: Option<&Arc<ModelState>>) -> Result<(HealthReporter, Routes)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let serves = |service: &str| match service {
        recall_service_server::SERVICE_NAME => state.is_some(),
        chunk_store_server::SERVICE_NAME => matches!(app.memories, Backend::Local(_)),
        _ => true,
    };
    for service in SERVICES.into_iter().filter(|service| serves(service)) {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mnemon_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|_| Error::Internal { part: "the reflection service" })?;
    let message_bytes = app.settings.limits.message_bytes as usize;
    let model = state.map(|state| Arc::clone(&state.model));
    let auth = || auth::interceptor(Arc::clone(&app.credentials), app.shutdown.closing.clone());
    let mut routes = Routes::builder();
    routes.add_service(health_service).add_service(reflection);
    match (&app.memories, model) {
        (Backend::Local(store), _) => {
            let memories = MemoryCalls::new(store.clone(), state.map(Arc::clone), Arc::clone(app));
            let memories = MemoryServiceServer::new(memories).max_decoding_message_size(message_bytes);
            let chunks = ChunkStoreServer::new(StoreCalls::new(store.clone(), Arc::clone(app)))
                .max_decoding_message_size(app.settings.limits.store_message_bytes as usize);
            routes.add_service(InterceptedService::new(memories, auth()));
            routes.add_service(InterceptedService::new(chunks, auth()));
        }
        (Backend::Remote(store), Some(model)) => {
            let memories = ForwardedCalls::new(RemoteStore::clone(store), model, Arc::clone(app));
            let memories = MemoryServiceServer::new(memories).max_decoding_message_size(message_bytes);
            routes.add_service(InterceptedService::new(memories, auth()));
        }
        (Backend::Remote(_), None) => return Err(Error::Internal { part: "a server with neither model nor memories" }),
    }
    if let Some(state) = state {
        let recalls =
            RecallServiceServer::new(RecallCalls::new(Arc::clone(state))).max_decoding_message_size(message_bytes);
        routes.add_service(InterceptedService::new(recalls, auth()));
    } else {
        let recalls = RecallServiceServer::new(NoModelCalls);
        routes.add_service(InterceptedService::new(recalls, auth()));
    }
    Ok((health, routes.routes()))
}

/// From now on health says `NOT_SERVING`.
pub(crate) async fn stop_health(health: &HealthReporter) {
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
}

/// Refuses a text of more than `limit` tokens before anything is computed for it. Call it on the engine: tokenizing
/// is work.
fn check_tokens(model: &Model, text: &str, limit: u64) -> mnemon_runtime::Result<()> {
    // Every token stands for at least one byte.
    if (text.len() as u64) <= limit {
        return Ok(());
    }
    let tokens = model.encode(text)?.len();
    if tokens as u64 > limit {
        return Err(mnemon_runtime::Error::PromptTooLong { tokens, limit: limit as usize });
    }
    Ok(())
}
