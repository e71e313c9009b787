//! Behaviour of the runtime, in one program: golden logits, identity, memory, loading, generation.

mod common;
mod cuda;
mod engine;
mod generate;
mod gguf;
mod gguf_file;
mod golden;
mod identity;
mod loading;
mod memory;
mod mutations;
mod passages;
mod positions;
mod profile;
