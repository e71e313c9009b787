//! Feeds the target `chunk_blob` of `mnemon_memory_store::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mnemon_memory_store::fuzzing::run("chunk_blob", input));
