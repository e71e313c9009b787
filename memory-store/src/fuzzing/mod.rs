//! Everything in this crate that parses bytes, one function for each kind of input: for the fuzzers in `fuzz/`, and for
//! a test that feeds them damaged inputs on every run.
//!
//! Whatever the input, nothing may panic, read out of bounds, run for ever or take memory that the input does not
//! justify. Checksums would hide the parsers from a fuzzer, so inputs are given their checksums here ([`reseal`]), and are
//! tried as they are too.

mod parsers;
mod reseal;
mod store;
#[cfg(test)]
mod tests;

/// One kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of its fuzzer and of its folder in `fuzz/corpus`.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
}

/// A new parser is a line here, a folder in `fuzz/corpus`, and a line in `fuzz/Cargo.toml`.
pub const TARGETS: &[Target] = &[
    Target { name: "records", run: parsers::records },
    Target { name: "chunk_blob", run: parsers::chunk_blob },
    Target { name: "graph_blob", run: parsers::graph_blob },
    Target { name: "catalog_copy", run: parsers::catalog_copy },
    Target { name: "codes", run: parsers::codes },
    Target { name: "archive", run: parsers::archive },
    Target { name: "store", run: store::store },
];

/// Feeds `input` to the target `name`; does nothing when there is none.
pub fn run(name: &str, input: &[u8]) {
    if let Some(target) = TARGETS.iter().find(|target| target.name == name) {
        (target.run)(input);
    }
}
