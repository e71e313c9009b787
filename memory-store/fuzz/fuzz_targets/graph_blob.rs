//! Feeds the target `graph_blob` of `mnemon_memory_store::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mnemon_memory_store::fuzzing::run("graph_blob", input));
