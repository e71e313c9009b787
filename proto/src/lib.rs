//! The wire contract of Mnemon, version 1: messages and gRPC clients and servers generated from
//! `proto/mnemon/v1/*.proto`, where every message and field is documented with its units and limits.
//!
//! For the server and for clients; no other crate sees protobuf types. Nothing here has logic.

/// Messages and services of `mnemon.v1`.
#[allow(missing_docs, clippy::pedantic, clippy::unwrap_used)]
pub mod v1 {
    tonic::include_proto!("mnemon.v1");
}

/// Encoded `FileDescriptorSet` of the contract, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/mnemon_descriptor.bin"));
