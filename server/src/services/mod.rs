//! The gRPC services: the contract's two, health and reflection.
//!
//! | file | calls |
//! |---|---|
//! | `memory.rs` | CreateMemory, GetMemory, ListMemories, DeleteMemory, ListDocuments, GetDocument, DeleteDocument |
//! | `ingest.rs`, `search.rs`, `generate.rs`, `score.rs` | the call of that name |
//! | `recall.rs` | GetModel, and the way to the four above |

use std::sync::Arc;

use mnemon_runtime::Model;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::parts::Parts;
use crate::{Error, Result};

/// All services, and what tells whether they serve.
pub(crate) async fn routes(parts: &Arc<Parts>) -> Result<(HealthReporter, Routes)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mnemon_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|_| Error::Internal { part: "the reflection service" })?;
    let _ = parts;
    let mut routes = Routes::builder();
    routes.add_service(health_service).add_service(reflection);
    Ok((health, routes.routes()))
}

/// From now on health says NOT_SERVING, for the server as a whole and for each service.
pub(crate) async fn stop_health(health: &HealthReporter) {
    health.set_service_status("", ServingStatus::NotServing).await;
}

/// Where the model runs, such as `cpu` or `cuda:0`.
pub(crate) fn device_name(model: &Model) -> String {
    match model.device().location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
