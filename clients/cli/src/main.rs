//! The `mnemon` command line.
fn main() {}
