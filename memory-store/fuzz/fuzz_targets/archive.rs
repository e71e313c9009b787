//! Feeds the target `archive` of `mnemon_memory_store::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| mnemon_memory_store::fuzzing::run("archive", input));
